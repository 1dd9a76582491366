//! New recordings made of those that are there, which stay as they are.

use super::{
    Store, StoreError,
    keeper::{Start, StartName},
};
use crate::recording::{
    Cut, EventFilter, Merge, RecordingInfo, RecordingSource, RecordingState,
    redact::{Redaction, RedactionReport, Redactor},
    shifts,
};

/// A recording that was made of others.
#[derive(Debug)]
pub struct Edited {
    pub info: RecordingInfo,
    /// What had to be changed or left out on the way, for people.
    pub notes: Vec<String>,
}

impl Store {
    /// Cuts out what `filter` means. Called `name`, or after the recording.
    ///
    /// # Errors
    /// [`StoreError::StillRecording`] while it goes on, [`StoreError::AlreadyExists`] when `name` is taken,
    /// [`StoreError::NothingMeant`] when only what it takes to read a recording would be left, and
    /// [`StoreError::Damaged`]. Nothing is kept then.
    pub fn trim(&self, id: &str, filter: EventFilter, name: Option<String>) -> Result<Edited, StoreError> {
        let source = self.ended(id)?;
        let said = filter.to_string();
        let cut = Cut::new(filter.clone(), || self.events(&source.id, 1))?;
        let info = cut.info(&source);
        let mut excerpt = cut.of(self.events(&source.id, 1)?);
        let edit = format!("trimmed from {}: {said}", told(&source));
        let start = Start { topics: info.topics, ..start(&source, name, "trimmed", edit) };
        let start = Start { started_at: Some(info.started_at), ..start };
        let mut holds_something = false;
        let events = excerpt.by_ref().inspect(|event| {
            holds_something |= event.as_ref().is_ok_and(|event| filter.is_about(&event.kind));
        });
        let kept = self.write(start, events)?;
        if !holds_something {
            kept.abandon()?;
            return Err(StoreError::NothingMeant { name: source.name, filter: said });
        }
        let info = kept.finish_as(source.state)?;
        Ok(Edited { info, notes: excerpt.notes() })
    }

    /// Takes out what `redaction` says, and passwords.
    ///
    /// # Errors
    /// As [`trim`](Self::trim).
    pub fn redact(
        &self,
        id: &str,
        redaction: Redaction,
        name: Option<String>,
    ) -> Result<(RecordingInfo, RedactionReport), StoreError> {
        let source = self.ended(id)?;
        // Names and earlier edits may hold what is taken out here.
        let edits = source.edits.iter().map(|edit| discreet(edit).to_owned());
        let edits = edits.chain([format!("redacted from {}: {redaction}", told_by_id(&source))]).collect();
        let mut redactor = Redactor::new(redaction);
        let topics = source.topics.iter().map(|filter| redactor.filter(filter)).collect();
        let name = name.map_or(StartName::Made("redacted"), StartName::Exactly);
        let start = Start { topics, name, edits, ..start(&source, None, "redacted", String::new()) };
        let events = self.events(&source.id, 1)?;
        let info =
            self.keep(start, source.state, events.map(|event| event.map(|event| redactor.redact(event))))?;
        Ok((info, redactor.report().clone()))
    }

    /// Makes one recording of several, by the wall clock.
    ///
    /// # Errors
    /// As [`trim`](Self::trim).
    pub fn merge(&self, ids: &[String], name: Option<String>) -> Result<RecordingInfo, StoreError> {
        let mut sources = Vec::with_capacity(ids.len());
        for id in ids {
            sources.push(self.ended(id)?);
        }
        let walls: Vec<_> = sources.iter().map(|info| info.started_at).collect();
        let (started_at, shifts) = shifts(&walls);
        let mut inputs = Vec::with_capacity(sources.len());
        for (info, shift) in sources.iter().zip(shifts) {
            inputs.push((shift, self.events(&info.id, 1)?));
        }
        let same = |of: &dyn Fn(&RecordingInfo) -> bool| sources.iter().all(of);
        let Some(first) = sources.first() else {
            return Err(StoreError::NotFound { what: String::new(), known: Vec::new(), more: 0 });
        };
        let names: Vec<_> = sources.iter().map(told).collect();
        let source = if same(&|info| info.source == first.source) {
            first.source.clone()
        } else {
            RecordingSource::import()
        };
        let state = if same(&|info| info.state == RecordingState::Complete) {
            RecordingState::Complete
        } else {
            RecordingState::Interrupted
        };
        let start = Start {
            name: name.map_or(StartName::Made("merged"), StartName::Exactly),
            id: None,
            source,
            topics: if same(&|info| info.topics == first.topics) { first.topics.clone() } else { Vec::new() },
            started_at: Some(started_at),
            tool_version: None,
            seed: first.seed.filter(|_| same(&|info| info.seed == first.seed)),
            edits: vec![format!("merged from {}", names.join(" and "))],
        };
        self.keep(start, state, Merge::new(inputs))
    }

    fn ended(&self, id: &str) -> Result<RecordingInfo, StoreError> {
        let info = self.find(id)?;
        match info.state {
            RecordingState::Recording => Err(StoreError::StillRecording { name: info.name }),
            _ => Ok(info),
        }
    }
}

fn start(source: &RecordingInfo, name: Option<String>, word: &str, edit: String) -> Start {
    let mut edits = source.edits.clone();
    edits.push(edit);
    Start {
        name: match name {
            Some(name) => StartName::Exactly(name),
            None => StartName::Preferably(format!("{}-{word}", source.name)),
        },
        id: None,
        source: source.source.clone(),
        topics: source.topics.clone(),
        started_at: Some(source.started_at),
        tool_version: None,
        seed: source.seed,
        edits,
    }
}

/// A recording as what was made of it says it.
fn told(info: &RecordingInfo) -> String {
    format!("{} ({})", info.name, told_by_id(info))
}

/// The same without its name.
fn told_by_id(info: &RecordingInfo) -> String {
    let RecordingInfo { id, sha256, .. } = info;
    match sha256 {
        Some(sha256) => format!("{id}, sha256 {}", sha256.get(..12).unwrap_or(sha256)),
        None => id.clone(),
    }
}

/// What was done, without of what and how. Files may say anything.
fn discreet(edit: &str) -> &'static str {
    let known = ["trimmed", "merged", "redacted"];
    let is_first = |word: &&str| edit.split(' ').next() == Some(*word);
    known.into_iter().find(is_first).unwrap_or("edited")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;
    use crate::{
        packet::{PacketType, ProtocolVersion, TopicFilter},
        recording::{
            EventKind, FaultInjected, NamePattern, RecordingSpec,
            redact::RedactionKey,
            sample::{connack, connect, fault, from_client, open, publish},
        },
        store::StoreOptions,
    };

    const V5: ProtocolVersion = ProtocolVersion::V5;

    struct Bench {
        store: Store,
        _folder: TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            Self { store: Store::open(StoreOptions::new(folder.path())).unwrap(), _folder: folder }
        }

        /// One client that publishes on `a/0`, `a/1` and so on, one a second.
        fn record(&self, name: &str, count: u64) -> RecordingInfo {
            let spec = RecordingSpec {
                name: Some(name.to_owned()),
                ..RecordingSpec::new(RecordingSource::broker())
            };
            let writer = self.store.begin(spec).unwrap();
            for kind in [open(), connect("dev-1", V5), connack(false, V5)] {
                writer.append(Duration::ZERO, 1, kind).unwrap();
            }
            for n in 0..count {
                let topic = format!("a/{n}");
                let message = from_client(publish(Some(&topic), topic.as_bytes(), Vec::new()));
                writer.append(Duration::from_secs(n), 1, message).unwrap();
            }
            writer.finish().unwrap()
        }

        fn kinds(&self, info: &RecordingInfo) -> Vec<&'static str> {
            let events = self.store.events(&info.id, 1).unwrap();
            events.map(|event| event.unwrap().kind.name()).collect()
        }
    }

    #[test]
    fn a_trimmed_recording_is_a_new_one_that_says_what_it_was_cut_out_of() {
        let bench = Bench::new();
        let source = bench.record("orders", 10);
        let filter = EventFilter {
            start: Some(Duration::from_secs(7)),
            topics: vec![TopicFilter::parse("a/#").unwrap()],
            ..EventFilter::default()
        };
        let Edited { info, notes } = bench.store.trim("orders", filter.clone(), None).unwrap();
        assert_eq!(notes, Vec::<String>::new());
        assert_eq!((info.name.as_str(), info.state, info.packets), ("orders-trimmed", source.state, 3));
        assert_eq!(info.duration, Duration::from_secs(2));
        assert_eq!(info.started_at.duration_since(source.started_at).as_secs(), 7);
        assert_eq!(bench.kinds(&info), ["OPEN", "PACKET", "PACKET", "PACKET"]);
        let sha256 = source.sha256.as_deref().unwrap();
        let edit =
            format!("trimmed from orders ({}, sha256 {}): topics a/#, start 7s", source.id, &sha256[..12]);
        assert_eq!(info.edits, [edit]);
        assert!(bench.store.check(&info.id).unwrap().is_intact());
        // The second is numbered, and one that was asked for is not.
        let of_topics = EventFilter { start: None, ..filter.clone() };
        let second = bench.store.trim("orders-trimmed", of_topics, Some("x".to_owned())).unwrap();
        assert_eq!(second.info.edits.len(), 2);
        assert_eq!(bench.store.trim("orders", filter.clone(), None).unwrap().info.name, "orders-trimmed-2");
        let taken = bench.store.trim("orders", filter, Some("x".to_owned()));
        assert!(matches!(taken, Err(StoreError::AlreadyExists { .. })));
    }

    #[test]
    fn a_cut_that_holds_nothing_is_not_kept() {
        let bench = Bench::new();
        bench.record("orders", 3);
        let topics = vec![TopicFilter::parse("b").unwrap()];
        let types = vec![PacketType::Subscribe];
        for filter in [
            EventFilter { topics, ..EventFilter::default() },
            EventFilter { types, ..EventFilter::default() },
            EventFilter { start: Some(Duration::from_secs(3)), ..EventFilter::default() },
            EventFilter { clients: vec![NamePattern::new("no")], ..EventFilter::default() },
        ] {
            let trimmed = bench.store.trim("orders", filter, Some("x".to_owned()));
            assert!(matches!(trimmed, Err(StoreError::NothingMeant { .. })), "{trimmed:?}");
        }
        assert_eq!(bench.store.list().unwrap().len(), 1);
        let types = vec![PacketType::Connect];
        bench.store.trim("orders", EventFilter { types, ..EventFilter::default() }, None).unwrap();
    }

    #[test]
    fn a_fault_without_a_topic_is_no_reason_to_keep_a_cut_by_topic() {
        let bench = Bench::new();
        for (name, packet_type, topic) in
            [("ping", PacketType::Pingreq, ""), ("message", PacketType::Publish, "b")]
        {
            let spec = RecordingSpec::new(RecordingSource::broker());
            let writer = bench.store.begin(RecordingSpec { name: Some(name.to_owned()), ..spec }).unwrap();
            let fault = FaultInjected { packet_type, topic: topic.to_owned(), ..fault("drop", "{}") };
            for kind in [open(), connect("dev-1", V5), connack(false, V5), EventKind::Fault(Box::new(fault))]
            {
                writer.append(Duration::ZERO, 1, kind).unwrap();
            }
            writer.finish().unwrap();
        }
        let topics = vec![TopicFilter::parse("b").unwrap()];
        let filter = EventFilter { topics, ..EventFilter::default() };
        let trimmed = bench.store.trim("ping", filter.clone(), None);
        assert!(matches!(trimmed, Err(StoreError::NothingMeant { .. })), "{trimmed:?}");
        bench.store.trim("message", filter, None).unwrap();
        bench.store.trim("ping", EventFilter::default(), None).unwrap();
    }

    #[test]
    fn what_is_still_recorded_is_not_edited() {
        let bench = Bench::new();
        let spec = RecordingSpec::new(RecordingSource::broker());
        let writer = bench.store.begin(RecordingSpec { name: Some("live".to_owned()), ..spec }).unwrap();
        writer.append(Duration::ZERO, 1, open()).unwrap();
        let redaction = Redaction { rules: Vec::new(), key: RedactionKey::new("k") };
        let refused = bench.store.redact("live", redaction, None);
        assert!(matches!(refused, Err(StoreError::StillRecording { .. })));
        assert_eq!(bench.store.list().unwrap().len(), 1);
    }

    #[test]
    fn a_redacted_recording_has_a_report_and_the_source_stays() {
        let bench = Bench::new();
        let source = bench.record("orders", 3);
        let rules = ["client_id=hash", "topic:+/+=hash"].map(|rule| rule.parse().unwrap()).to_vec();
        let redaction = Redaction { rules, key: RedactionKey::new("k") };
        let (info, report) = bench.store.redact("orders", redaction, Some("gone".to_owned())).unwrap();
        let values: Vec<_> = report.rules.iter().map(|rule| rule.values).collect();
        assert_eq!((values, report.events), (vec![1, 6], 4));
        assert_eq!((info.name.as_str(), info.events, info.duration), ("gone", 6, source.duration));
        assert!(info.edits[0].ends_with(": client_id=hash, topic:+/+=hash"), "{:?}", info.edits);
        assert_eq!(bench.store.find("orders").unwrap(), source);
    }

    #[test]
    fn what_is_told_of_a_redacted_recording_holds_nothing_of_what_was_taken_out() {
        let bench = Bench::new();
        bench.record("bob-at-home", 3);
        let clients = vec![NamePattern::new("bob*"), NamePattern::new("dev-*")];
        let filter = EventFilter { clients, ..EventFilter::default() };
        let trimmed = bench.store.trim("bob-at-home", filter, None).unwrap().info;
        assert!(trimmed.edits[0].contains("bob*"), "{:?}", trimmed.edits);
        let rules = ["text:b.b=mask", "text:bob=mask", "json:$[?@.name=='bob'].pin=hash", "topic:bob/+=hash"];
        let rules = rules.map(|rule| rule.parse().unwrap()).to_vec();
        let redaction = Redaction { rules, key: RedactionKey::new("k") };
        let (info, _) = bench.store.redact(&trimmed.id, redaction, None).unwrap();
        assert!(info.name.starts_with("redacted-"), "{}", info.name);
        assert_eq!(info.edits[0], "trimmed");
        let rules = "text:…=mask, text:…=mask, json:…=hash, topic:***/+=hash";
        assert!(info.edits[1].ends_with(&format!(": {rules}")), "{:?}", info.edits);
        assert!(
            info.edits[1].starts_with(&format!("redacted from {}, sha256 ", trimmed.id)),
            "{:?}",
            info.edits
        );
    }

    #[test]
    fn merged_recordings_are_one_by_the_wall_clock() {
        let bench = Bench::new();
        let (first, second) = (bench.record("one", 3), bench.record("two", 2));
        let ids = ["one".to_owned(), second.id.clone()];
        let merged = bench.store.merge(&ids, Some("both".to_owned())).unwrap();
        assert_eq!(merged.events, first.events + second.events);
        assert_eq!((merged.connections, merged.started_at), (2, first.started_at));
        assert_eq!(merged.source, first.source);
        assert!(merged.edits[0].starts_with("merged from one ("), "{:?}", merged.edits);
        let ats: Vec<_> = bench.store.events("both", 1).unwrap().map(|event| event.unwrap().at).collect();
        assert!(ats.is_sorted());
        assert!(bench.store.merge(&[], None).is_err());
        assert!(bench.store.merge(&["one".to_owned(), "no".to_owned()], None).is_err());
        assert_eq!(bench.store.list().unwrap().len(), 3);
    }

    #[test]
    fn an_edit_of_a_damaged_recording_leaves_nothing_behind() {
        let bench = Bench::new();
        let writer = bench.store.begin(RecordingSpec::new(RecordingSource::broker())).unwrap();
        for n in 0..2000 {
            writer.append(Duration::from_millis(n), 0, EventKind::Mark(format!("mark {n}"))).unwrap();
        }
        let info = writer.finish().unwrap();
        let blocks = bench.store.inner.database().unwrap().blocks;
        let key = crate::store::block_key(info.id.parse().unwrap(), 2);
        blocks.remove(key).unwrap();
        let filter = EventFilter { start: Some(Duration::from_millis(1)), ..EventFilter::default() };
        let trimmed = bench.store.trim(&info.id, filter, None);
        assert!(matches!(trimmed, Err(StoreError::Damaged { .. })), "{trimmed:?}");
        assert_eq!(bench.store.list().unwrap().len(), 1);
    }
}

//! Who a recording is played by, and when: under which names, how many times over, with which times.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json_path::JsonPath;

use super::{ControlError, fields::Fields, pb, time};
use crate::{
    draws::Draws,
    net::replay::{EventSource, EventsError, Mode, drawn_run},
    recording::{
        ClientNames, Copies, Multiplied, NameTemplate, Renamed, Rewrite, Rewriter, TimeShift, TopicNames,
        crossing, meeting,
        player::{Selection, Speed},
    },
};

/// Copies of a recording that may be played at once.
const COPIES_MAX: u32 = 10_000;
/// Over how long copies begin, where that is not said.
const SPREAD: Duration = Duration::from_secs(1);
/// Seeds that are drawn stay below: JSON readers keep them whole.
const SEED_END: u64 = 1 << 53;

/// Other names, and copies.
pub(super) struct Casting {
    rewrite: Rewrite,
    clients: Option<NameTemplate>,
    count: u32,
    phases: Vec<Duration>,
    /// The replay's.
    pub run: String,
}

impl Casting {
    /// Checks what is asked for; says the seed in `spec`, if anything is drawn. `recorded_at` is when the recording was made.
    pub fn checked(
        fields: &mut Fields,
        spec: &mut pb::ReplaySpec,
        speed: Speed,
        recorded_at: Option<Timestamp>,
    ) -> Self {
        let count = spec.multiply.max(1);
        if count > COPIES_MAX {
            fields.refuse("spec.multiply", format_args!("must be at most {COPIES_MAX}, not {count}"));
        }
        let template = match (spec.map_client.as_str(), count) {
            ("", 1) => None,
            ("", _) => Some("{{client_id}}-{{i}}"),
            (text, _) => Some(text),
        };
        let clients = template.and_then(|text| fields.keep("spec.map_client", NameTemplate::parse(text)));
        if count > 1 && clients.as_ref().is_some_and(|template| !template.has_copy()) {
            fields.refuse("spec.map_client", "must have {{i}} in it, so that copies differ");
        }
        let rewrite = fields.keep("spec.map_topics", Rewrite::new(&spec.map_topics, clients.clone()));
        let mut rewrite = rewrite.unwrap_or_default();
        if let Some(times) = checked_times(fields, &spec.shift_times, speed, recorded_at) {
            rewrite = rewrite.shifting(times);
        }
        let spread = fields.duration("spec.spread", spec.spread.as_ref()).unwrap_or(SPREAD);
        let phases = if count > 1 && count <= COPIES_MAX {
            let seed = *spec.seed.get_or_insert_with(drawn);
            spec.spread = Some(time::duration(spread));
            // The first one begins with the recording.
            let later = (1..u64::from(count)).map(|copy| {
                let share = Draws::new(seed).of("phase").nth(copy).fraction();
                spread.mul_f64(share)
            });
            std::iter::once(Duration::ZERO).chain(later).collect()
        } else {
            vec![Duration::ZERO]
        };
        Self { rewrite, clients, count: count.min(COPIES_MAX), phases, run: drawn_run() }
    }

    /// Learns from the events what other names need to know, and has `selection` be of recorded ones. Blocks.
    ///
    /// # Errors
    /// When they cannot be read; where clients would be called the same, or what is selected as what is not; and, if what
    /// clients get `is_compared`, where they would get messages of other copies, which the recording does not have.
    pub fn prepare(
        &mut self,
        events: &EventSource,
        selection: &mut Selection,
        mode: Mode,
        is_compared: bool,
    ) -> Result<(), ControlError> {
        self.rewrite = std::mem::take(&mut self.rewrite).naming(selection.clients.clone());
        let rewrite = self.rewrite_in(mode);
        if !rewrite.has_names() {
            return Ok(());
        }
        let unreadable = |error: EventsError| ControlError::RecordingDamaged(error.to_string());
        let names = ClientNames::read(events().map_err(unreadable)?).map_err(unreadable)?;
        let is_part = !selection.is_of_all_clients_and_topics();
        match meeting(&names, &rewrite, &self.run, self.count) {
            Ok(None) => {}
            Ok(Some(meeting)) => return Err(ControlError::bad_field("spec.map_client", meeting)),
            Err(too_many) => return Err(ControlError::bad_field("spec.map_client", too_many)),
        }
        if self.count > 1 {
            self.rewrite = std::mem::take(&mut self.rewrite).following(names.clone());
        }
        if is_part {
            let topics = TopicNames::read(events().map_err(unreadable)?).map_err(unreadable)?;
            let copies = (&*self.run, self.count);
            let renamed = Renamed::new(&names, &topics, &self.rewrite_in(mode), copies, selection);
            let renamed = renamed.map_err(|bad| ControlError::bad_field("spec.selection", bad))?;
            selection.renamed = Some(Arc::new(renamed));
        }
        if self.count == 1 || !is_compared {
            return Ok(());
        }
        // Its names are recorded ones, as those of what it is asked for.
        let selection = &Selection { renamed: None, ..selection.clone() };
        let events = events().map_err(unreadable)?;
        match crossing(events, &self.rewrite, &self.run, selection).map_err(unreadable)? {
            None => Ok(()),
            Some(crossing) => Err(ControlError::bad_field(
                "spec.multiply",
                format_args!(
                    "cannot be compared: a subscription to {:?} gets the messages on {:?} of all copies: how many depends on when \
                     it is made. Leave verify out, or select other topics or clients",
                    crossing.filter, crossing.topic
                ),
            )),
        }
    }

    /// What live clients are called in `mode`, where that is not known beforehand.
    pub fn names(&self, mode: Mode) -> Option<NameTemplate> {
        self.clients.clone().filter(|_| mode == Mode::Server && self.count == 1)
    }

    /// What is called otherwise in `mode`.
    fn rewrite_in(&self, mode: Mode) -> Rewrite {
        let rewrite = self.rewrite.clone();
        if self.names(mode).is_some() { rewrite.without_clients() } else { rewrite }
    }

    /// The events of all copies, as they are played in `mode`.
    pub fn apply_to(&self, events: EventSource, mode: Mode) -> EventSource {
        let (rewrite, run) = (self.rewrite_in(mode), self.run.clone());
        if self.count > 1 {
            let (count, phases) = (self.count, self.phases.clone());
            return Arc::new(move || {
                let copies =
                    Copies { count, phases: phases.clone(), rewrite: rewrite.clone(), run: run.clone() };
                Ok(Box::new(Multiplied::new(events()?, copies)))
            });
        }
        if rewrite.is_nothing() {
            return events;
        }
        Arc::new(move || {
            let mut rewriter = Rewriter::new(rewrite.clone(), &run, 1, Duration::ZERO);
            let renamed = events()?.map(move |event| event.map(|event| rewriter.apply(event)));
            Ok(Box::new(renamed) as Box<dyn Iterator<Item = Result<_, EventsError>> + Send>)
        })
    }
}

/// Times that move to now.
fn checked_times(
    fields: &mut Fields,
    paths: &[String],
    speed: Speed,
    recorded_at: Option<Timestamp>,
) -> Option<TimeShift> {
    if paths.is_empty() {
        return None;
    }
    let parsed = paths
        .iter()
        .enumerate()
        .filter_map(|(index, path)| fields.keep(format!("spec.shift_times[{index}]"), JsonPath::parse(path)));
    let paths: Vec<JsonPath> = parsed.collect();
    let Some(recorded_at) = recorded_at else {
        fields.refuse("spec.shift_times", "needs to know when the recording was made, which it does not say");
        return None;
    };
    Some(TimeShift { paths, recorded_at, played_at: Timestamp::now(), speed })
}

fn drawn() -> u64 {
    ulid::Ulid::new().random() as u64 % SEED_END
}

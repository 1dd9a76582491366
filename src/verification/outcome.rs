//! What was found so far.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use super::{
    Change, Difference, DifferenceKind, Level, Owner, SessionVerdict, Subject, Told, TooDifferent, Verdict,
    bucket::{Bucket, Item},
    finding::Finding,
    scope::Demand,
    verdict::Timeline,
};

/// Differences that are told; others are counted.
const TOLD_MAX: usize = 1000;

/// Counts and differences of two streams.
#[derive(Default)]
pub struct Outcome {
    expected: u64,
    observed: u64,
    matched: u64,
    repeated: u64,
    consequences: u64,
    counts: BTreeMap<&'static str, u64>,
    differences: Vec<Difference>,
    owners: BTreeMap<Owner, SessionVerdict>,
    /// Messages without a like that may have changed their topic.
    missing: Vec<Stray>,
    unexpected: Vec<Stray>,
}

/// How many messages of a bucket there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub expected: u64,
    /// Expected and not required.
    pub allowed: u64,
    pub observed: u64,
}

struct Stray {
    bucket: Arc<Bucket>,
    digest: u64,
    told: Told,
    remark: String,
}

impl Stray {
    fn of(item: &Item) -> Self {
        Self { bucket: item.bucket.clone(), digest: item.digest, told: Told::of(item), remark: remark(item) }
    }

    /// What stays the same when the topic changes.
    fn key(&self) -> (Owner, bool, u64) {
        (self.bucket.owner.clone(), self.bucket.is_from_client, self.digest)
    }

    fn topic(&self) -> Option<String> {
        match &self.bucket.subject {
            Subject::Messages(topic) => Some(topic.to_string()),
            _ => None,
        }
    }
}

impl Outcome {
    /// What is allowed is only counted once it was observed.
    pub fn seen(&mut self, is_expected: bool, item: &Item) {
        let owner = self.owner(&item.bucket.owner);
        if !is_expected {
            owner.observed += 1;
            self.observed += 1;
        } else if item.is_required() {
            owner.expected += 1;
            self.expected += 1;
        }
    }

    pub fn found(&mut self, finding: Finding) {
        match finding {
            Finding::Missing(item) if !item.is_required() => {}
            Finding::Same { bucket, demand, .. } => {
                self.expects(&bucket.owner, u64::from(demand == Demand::Allowed));
                self.matches(&bucket.owner, 1);
            }
            Finding::Repeated(_) => self.repeated += 1,
            Finding::Missing(item) if may_have_moved(&item, &self.missing) => {
                self.missing.push(Stray::of(&item));
            }
            Finding::Unexpected(item) if may_have_moved(&item, &self.unexpected) => {
                self.unexpected.push(Stray::of(&item));
            }
            Finding::Missing(item) => self.differs(DifferenceKind::Missing, Some(&item), None, Vec::new()),
            Finding::Unexpected(item) => {
                self.differs(DifferenceKind::Unexpected, None, Some(&item), Vec::new());
            }
            Finding::Duplicate(item) => {
                self.differs(DifferenceKind::Duplicate, None, Some(&item), Vec::new());
            }
            Finding::Changed(expected, observed, changes) => {
                self.differs(DifferenceKind::Changed, Some(&expected), Some(&observed), changes);
            }
            Finding::Moved(expected, observed) => {
                self.differs(DifferenceKind::Moved, Some(&expected), Some(&observed), Vec::new());
            }
        }
    }

    /// Of level count: whether there are as many. `first` is the place of the first one, on the expected side or not.
    pub fn count(&mut self, bucket: &Bucket, mut tally: Tally, first: Option<(Told, bool)>) {
        let allowed = tally.observed.saturating_sub(tally.expected).min(tally.allowed);
        self.expects(&bucket.owner, allowed);
        tally.expected += allowed;
        self.matches(&bucket.owner, tally.expected.min(tally.observed));
        if tally.expected == tally.observed {
            return;
        }
        let number = |number: u64| Some(number.to_string());
        let changes = vec![Change::new("messages", number(tally.expected), number(tally.observed))];
        let (expected, observed) = match first {
            Some((told, true)) => (Some(told), None),
            Some((told, false)) => (None, Some(told)),
            None => (None, None),
        };
        if self.adds(DifferenceKind::Count, &bucket.owner) {
            self.tell(DifferenceKind::Count, bucket, (expected, observed), changes, String::new());
        }
    }

    /// What was found, when nothing more is to be.
    pub fn verdict(mut self, level: Level, timeline: Timeline, incomplete: Option<TooDifferent>) -> Verdict {
        self.other_topics();
        self.fold_consequences();
        self.differences.sort_by_key(|difference| {
            let told = difference.expected.as_ref().or(difference.observed.as_ref());
            told.map_or((u64::MAX, 0), |told| (told.place.at.as_nanos() as u64, told.place.seq))
        });
        Verdict {
            level,
            expected: self.expected,
            observed: self.observed,
            matched: self.matched,
            counts: self.counts,
            repeated: self.repeated,
            consequences: self.consequences,
            differences: self.differences,
            sessions: self.owners.into_values().collect(),
            timeline,
            incomplete,
        }
    }

    /// Messages that were sent again.
    pub fn repeated(&mut self, messages: u64) {
        self.repeated += messages;
    }

    fn owner(&mut self, owner: &Owner) -> &mut SessionVerdict {
        if !self.owners.contains_key(owner) {
            self.owners.insert(owner.clone(), SessionVerdict::new(owner.clone()));
        }
        self.owners.get_mut(owner).expect("was inserted if it was not there")
    }

    fn expects(&mut self, owner: &Owner, count: u64) {
        self.owner(owner).expected += count;
        self.expected += count;
    }

    fn matches(&mut self, owner: &Owner, count: u64) {
        self.owner(owner).matched += count;
        self.matched += count;
    }

    fn differs(
        &mut self,
        kind: DifferenceKind,
        expected: Option<&Item>,
        observed: Option<&Item>,
        changes: Vec<Change>,
    ) {
        let Some(item) = expected.or(observed) else { return };
        if self.adds(kind, &item.bucket.owner) {
            let told = (expected.map(Told::of), observed.map(Told::of));
            self.tell(kind, &item.bucket, told, changes, remark(item));
        }
    }

    /// Counts a difference; answers whether there is room to tell it.
    fn adds(&mut self, kind: DifferenceKind, owner: &Owner) -> bool {
        *self.counts.entry(kind.name()).or_default() += 1;
        self.owner(owner).differences += 1;
        self.differences.len() < TOLD_MAX
    }

    fn tell(
        &mut self,
        kind: DifferenceKind,
        bucket: &Bucket,
        (expected, observed): (Option<Told>, Option<Told>),
        changes: Vec<Change>,
        remark: String,
    ) {
        self.differences.push(Difference {
            kind,
            owner: bucket.owner.clone(),
            direction: bucket.direction(),
            subject: bucket.subject.clone(),
            expected,
            observed,
            changes,
            remark,
        });
    }

    /// A message that is missing on one topic and came to the same receiver on another has changed its topic; on the same
    /// one it came far from its place.
    fn other_topics(&mut self) {
        let mut unexpected: HashMap<(Owner, bool, u64), VecDeque<Stray>> = HashMap::new();
        for stray in std::mem::take(&mut self.unexpected) {
            unexpected.entry(stray.key()).or_default().push_back(stray);
        }
        for stray in std::mem::take(&mut self.missing) {
            match unexpected.get_mut(&stray.key()).and_then(VecDeque::pop_front) {
                Some(other) if other.bucket == stray.bucket => {
                    self.strays(DifferenceKind::Moved, Some(stray), Some(other), Vec::new());
                }
                Some(other) => {
                    let changes = vec![Change::new("topic", stray.topic(), other.topic())];
                    self.strays(DifferenceKind::Changed, Some(stray), Some(other), changes);
                }
                None => self.strays(DifferenceKind::Missing, Some(stray), None, Vec::new()),
            }
        }
        for stray in unexpected.into_values().flatten() {
            self.strays(DifferenceKind::Unexpected, None, Some(stray), Vec::new());
        }
    }

    fn strays(
        &mut self,
        kind: DifferenceKind,
        expected: Option<Stray>,
        observed: Option<Stray>,
        changes: Vec<Change>,
    ) {
        let Some(stray) = expected.as_ref().or(observed.as_ref()) else { return };
        let (bucket, remark) = (stray.bucket.clone(), stray.remark.clone());
        if self.adds(kind, &bucket.owner) {
            let told = (expected.map(|stray| stray.told), observed.map(|stray| stray.told));
            self.tell(kind, &bucket, told, changes, remark);
        }
    }

    /// A message that is missing, too many, or of another QoS has an exchange that is, too; that is no difference of its
    /// own.
    fn fold_consequences(&mut self) {
        let causes = self.causes();
        let Self { differences, counts, owners, consequences, .. } = self;
        differences.retain(|difference| {
            let Subject::Exchanges(_, topic) = &difference.subject else { return true };
            // Of subscribers that share, each has exchanges of its own.
            let is_caused = causes.iter().any(|(owner, of)| {
                of == topic && (*owner == difference.owner || matches!(owner, Owner::Group { .. }))
            });
            if is_caused {
                *consequences += 1;
                if let Some(count) = counts.get_mut(difference.kind.name()) {
                    *count -= 1;
                }
                if let Some(owner) = owners.get_mut(&difference.owner) {
                    owner.differences -= 1;
                }
            }
            !is_caused
        });
        counts.retain(|_, count| *count > 0);
    }

    /// Receivers and topics whose exchanges cannot be as expected.
    fn causes(&self) -> HashSet<(Owner, Arc<str>)> {
        let mut causes = HashSet::new();
        for difference in &self.differences {
            let Subject::Messages(topic) = &difference.subject else { continue };
            let changes = || difference.changes.iter();
            let alters_exchange = match difference.kind {
                DifferenceKind::Missing | DifferenceKind::Unexpected | DifferenceKind::Duplicate => true,
                DifferenceKind::Changed => changes().any(|change| matches!(&*change.path, "qos" | "topic")),
                DifferenceKind::Moved | DifferenceKind::Count => false,
            };
            if alters_exchange {
                let other = changes().filter(|change| change.path == "topic");
                let other = other.filter_map(|change| change.observed.as_deref()).map(Arc::from);
                causes.extend(other.chain([topic.clone()]).map(|topic| (difference.owner.clone(), topic)));
            }
        }
        causes
    }
}

/// Whether a message without a like is kept, to be looked for on another topic.
fn may_have_moved(item: &Item, kept: &[Stray]) -> bool {
    matches!(item.bucket.subject, Subject::Messages(_)) && kept.len() < TOLD_MAX
}

fn remark(item: &Item) -> String {
    match (item.nth, &item.will_of) {
        (Some(nth), _) => format!("of message {nth}"),
        (None, Some(client)) => format!("the Will of {client}"),
        (None, None) => String::new(),
    }
}

//! All rules of a server, and what they decide.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
};

use jiff::Timestamp;

use super::{
    ChaosSpec, Judge, Rule, RuleSpec,
    journal::{FaultFigure, FaultFilter, Journal, Journaled},
    locked,
    memory::{Clients, RuleKey, Stay},
    profile,
    rule::{free_id, is_key, settings_rules},
    script::Script,
};
use crate::{
    draws::Draws,
    field::BadField,
    recording::{FaultInjected, without_run},
};

/// The chaos of a server; clones share it.
#[derive(Clone)]
pub struct Chaos {
    shared: Arc<Shared>,
    /// Whose connections it judges: those that come through this proxy, or to the server itself.
    proxy: Option<Arc<str>>,
}

struct Shared {
    limits: ChaosLimits,
    first_seed: u64,
    hooks: ChaosHooks,
    is_on: AtomicBool,
    /// How often it went off.
    ends: AtomicU64,
    /// Of the plan in `state`; told when that is there.
    generation: AtomicU64,
    state: Mutex<State>,
    clients: Arc<Mutex<Clients>>,
    journal: Mutex<Journal>,
    held_packets: AtomicI64,
    held_bytes: AtomicI64,
}

/// What is decided by.
struct State {
    is_enabled: bool,
    /// What the settings said of it last: only when they say something else it is followed again.
    setting: Option<bool>,
    seed: u64,
    /// In the order in which they are asked; those from the settings go first.
    entries: Vec<Entry>,
    script: Option<Arc<Script>>,
    /// The key of the last rule.
    last_key: RuleKey,
    last_place: u64,
    plan: Arc<Plan>,
}

#[derive(Clone)]
struct Entry {
    rule: Arc<Rule>,
    key: RuleKey,
    /// Those from the settings first, entries stand in the order of their places.
    place: u64,
    from_settings: bool,
}

/// The state as judges need it; each change makes another.
pub struct Plan {
    pub generation: u64,
    /// Grows whenever all counts begin anew.
    pub epoch: u64,
    pub is_on: bool,
    /// What rules draw from.
    pub draws: Draws,
    /// Those that are enabled, in their order.
    pub rules: Vec<(RuleKey, Arc<Rule>)>,
    /// Keys of all rules, sorted.
    keys: Vec<RuleKey>,
    pub script: Option<Arc<Script>>,
}

/// What chaos may do at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChaosLimits {
    pub rules: usize,
    /// Clients without a connection whose counts are remembered.
    pub clients: usize,
    /// Faults in the journal.
    pub faults: usize,
}

impl Default for ChaosLimits {
    fn default() -> Self {
        Self { rules: 1_000, clients: 10_000, faults: 10_000 }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChaosOptions {
    pub seed: u64,
    pub limits: ChaosLimits,
}

/// See [`ChaosHooks::on_fault`].
pub type OnFault = Box<dyn Fn(&Arc<Journaled>) + Send + Sync>;

/// Who is told. Both are called with no lock held, on the thread of whoever caused it.
pub struct ChaosHooks {
    /// Rules, the script, the seed or the switch changed.
    pub on_change: Box<dyn Fn() + Send + Sync>,
    /// A fault was noted.
    pub on_fault: OnFault,
}

/// Why chaos stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChaosError {
    /// Of settings, paths begin below `mqtt.chaos`: `rules[1].actions[0].drop`.
    #[error("{}", BadField::listed(.0))]
    Bad(Vec<BadField>),
    #[error("a rule {0:?} exists already")]
    Exists(String),
    #[error("no rule {0:?}")]
    NotFound(String),
    #[error("there may be {0} rules at most")]
    TooMany(usize),
    /// Of a script; `event` counts its faults from 1.
    #[error("fault {event} (rule {rule:?}, {action}): {what}")]
    BadEvent { event: usize, rule: String, action: String, what: String },
    #[error("a script has {0} faults at most")]
    LongScript(usize),
}

/// A rule, and what became of it.
#[derive(Clone, Debug)]
pub struct RuleView {
    pub rule: Arc<Rule>,
    /// Whether it comes from the settings file.
    pub from_settings: bool,
    /// Faults that were noted, of all its actions.
    pub faults: u64,
    /// Where it stands among those that come from the settings, or among those that do not.
    place: u64,
}

/// What lines hold back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub packets: u64,
    pub bytes: u64,
}

impl Chaos {
    /// Enabled, without a rule.
    pub fn new(options: ChaosOptions, hooks: ChaosHooks) -> Self {
        let ChaosOptions { seed, limits } = options;
        let plan = Plan {
            generation: 0,
            epoch: 0,
            is_on: false,
            draws: draws(seed),
            rules: Vec::new(),
            keys: Vec::new(),
            script: None,
        };
        let state = State {
            is_enabled: true,
            setting: None,
            seed,
            entries: Vec::new(),
            script: None,
            last_key: 0,
            last_place: 0,
            plan: Arc::new(plan),
        };
        let shared = Shared {
            limits,
            first_seed: seed,
            hooks,
            is_on: AtomicBool::new(false),
            ends: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            state: Mutex::new(state),
            clients: Arc::new(Mutex::new(Clients::new(limits.clients))),
            journal: Mutex::new(Journal::new(limits.faults)),
            held_packets: AtomicI64::new(0),
            held_bytes: AtomicI64::new(0),
        };
        Self { shared: Arc::new(shared), proxy: None }
    }

    /// The same for connections that come through the proxy with that id.
    pub fn of_proxy(&self, id: &Arc<str>) -> Self {
        Self { shared: Arc::clone(&self.shared), proxy: Some(Arc::clone(id)) }
    }

    pub(super) fn proxy(&self) -> Option<&str> {
        self.proxy.as_deref()
    }

    /// Whether a packet can meet a rule, or the script, at all. One relaxed load.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.shared.is_on.load(Ordering::Relaxed)
    }

    /// How often it went off: what was held back by then is to be let go, though it may be on again.
    pub(super) fn ends(&self) -> u64 {
        self.shared.ends.load(Ordering::Acquire)
    }

    /// Grows with every change that decisions may depend on.
    #[inline]
    pub fn generation(&self) -> u64 {
        // What is loaded afterwards is at least as new.
        self.shared.generation.load(Ordering::Acquire)
    }

    pub fn limits(&self) -> &ChaosLimits {
        &self.shared.limits
    }

    pub fn is_enabled(&self) -> bool {
        locked(&self.shared.state).is_enabled
    }

    /// Rules and counts go on where they were.
    pub fn enable(&self) {
        self.switch(true);
    }

    pub fn disable(&self) {
        self.switch(false);
    }

    fn switch(&self, on: bool) {
        self.change(|state| {
            state.is_enabled = on;
            Ok(Counts::GoOn)
        })
        .expect("nothing is refused");
    }

    /// Removes all rules and the script, and forgets all counts. The journal and its figures stay. Closes nothing, and is
    /// enabled afterwards if it was before.
    pub fn reset(&self) {
        self.change(|state| {
            state.entries.clear();
            state.script = None;
            Ok(Counts::BeginAnew)
        })
        .expect("nothing is refused");
    }

    /// [`reset`](Self::reset), with the journal emptied, and switched on or off as the settings said last.
    pub fn restart(&self) {
        self.change(|state| {
            state.entries.clear();
            state.script = None;
            state.is_enabled = state.setting.unwrap_or(true);
            Ok(Counts::BeginAnew)
        })
        .expect("nothing is refused");
        locked(&self.shared.journal).clear();
    }

    /// What it began with.
    pub fn first_seed(&self) -> u64 {
        self.shared.first_seed
    }

    pub fn seed(&self) -> u64 {
        locked(&self.shared.state).seed
    }

    /// All counts begin anew.
    pub fn set_seed(&self, seed: u64) {
        self.change(|state| {
            state.seed = seed;
            Ok(Counts::BeginAnew)
        })
        .expect("nothing is refused");
    }

    /// In the order in which they are asked.
    pub fn rules(&self) -> Vec<RuleView> {
        let entries = locked(&self.shared.state).entries.clone();
        let journal = locked(&self.shared.journal);
        entries.into_iter().map(|entry| entry.view(&journal)).collect()
    }

    /// # Errors
    /// [`ChaosError::NotFound`].
    pub fn rule(&self, id: &str) -> Result<RuleView, ChaosError> {
        let entry = {
            let state = locked(&self.shared.state);
            state.entries[state.position(id)?].clone()
        };
        Ok(entry.view(&locked(&self.shared.journal)))
    }

    /// Adds a rule behind all others.
    ///
    /// # Errors
    /// [`ChaosError::Bad`], [`ChaosError::Exists`] or [`ChaosError::TooMany`]; then nothing has changed.
    pub fn create(&self, mut spec: RuleSpec) -> Result<RuleView, ChaosError> {
        let mut id = String::new();
        self.change(|state| {
            if spec.id.is_empty() {
                let is_taken = |id: &str| state.position(id).is_ok();
                spec.id = free_id("added", 1, is_taken);
            }
            id.clone_from(&spec.id);
            if state.position(&id).is_ok() {
                return Err(ChaosError::Exists(id.clone()));
            }
            let rule = Rule::new(spec).map_err(ChaosError::Bad)?;
            state.add(rule, self.shared.limits.rules)?;
            Ok(Counts::GoOn)
        })?;
        self.rule(&id)
    }

    /// Puts another rule in the place of the one with that id, which the spec repeats or leaves empty. Its counts begin anew.
    ///
    /// # Errors
    /// [`ChaosError::Bad`] or [`ChaosError::NotFound`]; then nothing has changed.
    pub fn update(&self, id: &str, mut spec: RuleSpec) -> Result<RuleView, ChaosError> {
        self.change(|state| {
            let position = state.position(id)?;
            if spec.id.is_empty() {
                spec.id = id.to_owned();
            }
            if spec.id != id {
                let what = format!("stays {id:?}: a rule keeps its id");
                return Err(ChaosError::Bad(vec![BadField { path: "id".to_owned(), what }]));
            }
            let rule = Rule::new(spec).map_err(ChaosError::Bad)?;
            state.replace(position, rule);
            Ok(Counts::GoOn)
        })?;
        self.rule(id)
    }

    /// # Errors
    /// [`ChaosError::NotFound`].
    pub fn delete(&self, id: &str) -> Result<(), ChaosError> {
        self.change(|state| {
            let position = state.position(id)?;
            state.entries.remove(position);
            Ok(Counts::GoOn)
        })
    }

    /// Makes a rule what it was when it was seen, in the place it had then, whether or not there is one of that id. Its counts
    /// begin anew.
    ///
    /// # Errors
    /// [`ChaosError::TooMany`]; then nothing has changed.
    pub fn restore(&self, seen: &RuleView) -> Result<(), ChaosError> {
        self.change(|state| {
            match state.position(seen.rule.id()) {
                Ok(position) => _ = state.entries.remove(position),
                Err(_) if state.entries.len() < self.shared.limits.rules => {}
                Err(_) => return Err(ChaosError::TooMany(self.shared.limits.rules)),
            }
            state.last_key += 1;
            let (key, place, from_settings) = (state.last_key, seen.place, seen.from_settings);
            let entry = Entry { rule: Arc::clone(&seen.rule), key, place, from_settings };
            let position = state.entries.partition_point(|other| other.order() <= entry.order());
            state.entries.insert(position, entry);
            Ok(Counts::GoOn)
        })
    }

    /// Takes over what the settings say: their rules replace those that came from settings before, and the rest stays
    /// behind them. A rule that is as it was goes on counting.
    ///
    /// # Errors
    /// [`ChaosError::Bad`] or [`ChaosError::TooMany`]; then nothing has changed.
    pub fn set(&self, spec: &ChaosSpec) -> Result<(), ChaosError> {
        let rules = settings_rules(spec).map_err(ChaosError::Bad)?;
        self.change(|state| {
            state.check(spec, &rules, self.shared.limits.rules)?;
            let (before, others): (Vec<_>, Vec<_>) =
                state.entries.iter().cloned().partition(|entry| entry.from_settings);
            if state.setting != Some(spec.enabled) {
                state.is_enabled = spec.enabled;
                state.setting = Some(spec.enabled);
            }
            state.entries = rules
                .into_iter()
                .map(|rule| {
                    let same = before.iter().find(|entry| entry.rule.spec() == rule.spec());
                    let entry = state.entry(rule, true);
                    same.map_or(entry.clone(), |same| Entry { place: entry.place, ..same.clone() })
                })
                .collect();
            state.entries.extend(others);
            Ok(Counts::GoOn)
        })
    }

    /// Whether [`set`](Self::set) would take that over now.
    ///
    /// # Errors
    /// Those of [`set`](Self::set).
    pub fn check(&self, spec: &ChaosSpec) -> Result<(), ChaosError> {
        let rules = settings_rules(spec).map_err(ChaosError::Bad)?;
        locked(&self.shared.state).check(spec, &rules, self.shared.limits.rules)
    }

    /// Adds the rules of a profile; those that are there already are made what the profile says.
    ///
    /// # Errors
    /// [`ChaosError::Bad`] for a name that is not known, or [`ChaosError::TooMany`]; then nothing has changed.
    pub fn apply_profile(&self, name: &str) -> Result<Vec<RuleView>, ChaosError> {
        let bad = |what| ChaosError::Bad(vec![BadField { path: "profile".to_owned(), what }]);
        let specs = profile(name).map_err(bad)?.rules;
        let ids: Vec<String> = specs.iter().map(|spec| spec.id.clone()).collect();
        self.change(|state| {
            let is_new = |id: &&String| state.position(id).is_err();
            if state.entries.len() + ids.iter().filter(is_new).count() > self.shared.limits.rules {
                return Err(ChaosError::TooMany(self.shared.limits.rules));
            }
            for spec in specs {
                match state.position(&spec.id) {
                    Ok(position) if *state.entries[position].rule.spec() == spec => {}
                    Ok(position) => state.replace(position, Rule::new(spec).map_err(ChaosError::Bad)?),
                    Err(_) => {
                        let rule = Rule::new(spec).map_err(ChaosError::Bad)?;
                        state.add(rule, self.shared.limits.rules)?;
                    }
                }
            }
            Ok(Counts::GoOn)
        })?;
        Ok(ids.iter().filter_map(|id| self.rule(id).ok()).collect())
    }

    /// From now on what was recorded decides, and counts begin anew. Replaces another script.
    ///
    /// # Errors
    /// [`ChaosError::BadEvent`] or [`ChaosError::LongScript`]; then nothing has changed.
    pub fn load_script(&self, faults: impl IntoIterator<Item = FaultInjected>) -> Result<(), ChaosError> {
        let script = Script::new(faults)?;
        self.change(|state| {
            state.script = Some(Arc::new(script));
            Ok(Counts::BeginAnew)
        })
    }

    /// Faults of the script; `None` without one.
    pub fn script_len(&self) -> Option<usize> {
        locked(&self.shared.state).script.as_ref().map(|script| script.len())
    }

    /// Makes a change, and lets it be known.
    fn change(
        &self,
        change: impl FnOnce(&mut State) -> Result<Counts, ChaosError>,
    ) -> Result<(), ChaosError> {
        let counts = {
            let mut state = locked(&self.shared.state);
            let before = state.last_key;
            let counts = change(&mut state)?;
            let new = state.entries.iter().filter(|entry| entry.key > before);
            locked(&self.shared.journal).begin(new.map(|entry| &**entry.rule.id()));
            let plan = Arc::new(state.plan(counts));
            if self.shared.is_on.swap(plan.is_on, Ordering::Relaxed) && !plan.is_on {
                self.shared.ends.fetch_add(1, Ordering::Release);
            }
            let generation = plan.generation;
            state.plan = plan;
            self.shared.generation.store(generation, Ordering::Release);
            counts
        };
        if counts == Counts::BeginAnew {
            // Nobody will ask for what they have.
            locked(&self.shared.clients).forget_idle();
        }
        (self.shared.hooks.on_change)();
        Ok(())
    }

    pub(super) fn plan(&self) -> Arc<Plan> {
        Arc::clone(&locked(&self.shared.state).plan)
    }

    /// For a connection of `client_identifier`, as its CONNECT says it.
    pub fn judge(&self, client_identifier: &str) -> Judge {
        let stay = Stay::new(&self.shared.clients, &without_run(client_identifier));
        Judge::new(self.clone(), client_identifier, stay)
    }

    /// Something was decided and is being done, on the connection that the server numbers so.
    pub fn note(&self, fault: &FaultInjected, connection: u64, at: Timestamp) {
        let journaled = locked(&self.shared.journal).note(fault, connection, at);
        (self.shared.hooks.on_fault)(&journaled);
    }

    /// Those of the journal with a higher number than `after`, oldest first, at most `limit` of them.
    pub fn faults(&self, after: u64, limit: usize, filter: &FaultFilter) -> Vec<Arc<Journaled>> {
        locked(&self.shared.journal).faults(after, limit, filter)
    }

    /// The number of the last fault that was noted; 0 before the first.
    pub fn last_fault(&self) -> u64 {
        locked(&self.shared.journal).last()
    }

    /// By rule and action.
    pub fn figures(&self) -> Vec<FaultFigure> {
        locked(&self.shared.journal).figures()
    }

    /// So much more, or less, is held back by lines.
    pub fn count_held(&self, packets: i64, bytes: i64) {
        self.shared.held_packets.fetch_add(packets, Ordering::Relaxed);
        self.shared.held_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn held(&self) -> Held {
        let load = |held: &AtomicI64| u64::try_from(held.load(Ordering::Relaxed)).unwrap_or_default();
        Held { packets: load(&self.shared.held_packets), bytes: load(&self.shared.held_bytes) }
    }
}

/// What a change means for them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counts {
    GoOn,
    BeginAnew,
}

impl State {
    fn position(&self, id: &str) -> Result<usize, ChaosError> {
        let found = self.entries.iter().position(|entry| **entry.rule.id() == *id);
        found.ok_or_else(|| ChaosError::NotFound(id.to_owned()))
    }

    /// Whether `rules`, which are those of `spec`, have room beside those that were made over the API.
    fn check(&self, spec: &ChaosSpec, rules: &[Rule], limit: usize) -> Result<(), ChaosError> {
        let others: Vec<&Entry> = self.entries.iter().filter(|entry| !entry.from_settings).collect();
        let short = rules.len() - spec.rules.len();
        let mut bad = Vec::new();
        for (position, rule) in rules.iter().enumerate() {
            if others.iter().any(|other| other.rule.id() == rule.id()) {
                let path = match position.checked_sub(short) {
                    Some(position) => format!("rules[{position}].id"),
                    None if spec.profile.is_some() && !is_key(rule.id()) => "profile".to_owned(),
                    None => rule.id().to_string(),
                };
                let what = format!("a rule {:?} was made over the API", rule.id());
                bad.push(BadField { path, what });
            }
        }
        if !bad.is_empty() {
            return Err(ChaosError::Bad(bad));
        }
        if rules.len() + others.len() > limit {
            return Err(ChaosError::TooMany(limit));
        }
        Ok(())
    }

    fn entry(&mut self, rule: Rule, from_settings: bool) -> Entry {
        self.last_key += 1;
        self.last_place += 1;
        Entry { rule: Arc::new(rule), key: self.last_key, place: self.last_place, from_settings }
    }

    fn add(&mut self, rule: Rule, limit: usize) -> Result<(), ChaosError> {
        if self.entries.len() >= limit {
            return Err(ChaosError::TooMany(limit));
        }
        let entry = self.entry(rule, false);
        self.entries.push(entry);
        Ok(())
    }

    fn replace(&mut self, position: usize, rule: Rule) {
        let Entry { place, from_settings, .. } = self.entries[position];
        self.entries[position] = Entry { place, ..self.entry(rule, from_settings) };
    }

    fn plan(&self, counts: Counts) -> Plan {
        let enabled = self.entries.iter().filter(|entry| entry.rule.spec().enabled);
        let rules: Vec<_> = enabled.map(|entry| (entry.key, Arc::clone(&entry.rule))).collect();
        let mut keys: Vec<RuleKey> = self.entries.iter().map(|entry| entry.key).collect();
        keys.sort_unstable();
        Plan {
            generation: self.plan.generation + 1,
            epoch: self.plan.epoch + u64::from(counts == Counts::BeginAnew),
            is_on: self.is_enabled && (!rules.is_empty() || self.script.is_some()),
            draws: draws(self.seed),
            rules,
            keys,
            script: self.script.clone(),
        }
    }
}

impl Entry {
    fn order(&self) -> (bool, u64) {
        (!self.from_settings, self.place)
    }

    fn view(self, journal: &Journal) -> RuleView {
        let faults = journal.of_rule(self.rule.id());
        RuleView { rule: self.rule, from_settings: self.from_settings, faults, place: self.place }
    }
}

impl Plan {
    pub fn has(&self, key: RuleKey) -> bool {
        self.keys.binary_search(&key).is_ok()
    }
}

/// Nothing else that has the seed draws the same.
fn draws(seed: u64) -> Draws {
    Draws::new(seed).of("chaos")
}

impl Default for ChaosHooks {
    /// Nobody is told.
    fn default() -> Self {
        Self { on_change: Box::new(|| {}), on_fault: Box::new(|_| {}) }
    }
}

//! The rpcs of `Chaos`: rules that break things, and the faults they led to.

use std::{
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::stream;
use jiff::SignedDuration;
use tokio::sync::broadcast::error::RecvError;

use super::{
    Control, ControlError, ControlStream, ReplaySource, blocking,
    fields::Fields,
    mask::{self, masked},
    page::{NO_TOKEN, PageRequest},
    pb,
    recorded_event::{direction, type_of},
    time,
};
use crate::{
    fault::{
        ActionSpec, BandwidthSpec, BlackholeSpec, Capabilities, Chaos, ChaosError, CorruptPart, CorruptSpec,
        CountSpec, DisconnectMode, DisconnectSpec, DurationSpec, FaultFilter, Journaled, LatencyDraw,
        LatencySpec, MatchSpec, PROFILES, ReasonSpec, RefuseConnectSpec, ReorderSpec, RuleSpec, RuleView,
        SliceSpec, SlowSubscriberActionSpec, TruncateSpec, WhenSpec, profile,
    },
    field::BadField,
    metrics::Family,
    packet::PacketType,
    recording::{Direction, EventKind, NamePattern},
};

use pb::chaos_action::Action;

/// For connections to let go what they held back, after which more was held back again.
const LET_GO_WAIT: Duration = Duration::from_millis(500);

impl Control {
    pub async fn get_chaos(&self, _: pb::GetChaosRequest) -> Result<pb::ChaosStatus, ControlError> {
        let chaos = self.chaos()?;
        let (held, script) = (chaos.held(), chaos.script_len());
        Ok(pb::ChaosStatus {
            enabled: chaos.is_enabled(),
            active: chaos.is_on(),
            seed: chaos.seed(),
            rules: u32::try_from(chaos.rules().len()).unwrap_or(u32::MAX),
            script: script.map(|_| self.script_name().clone()).unwrap_or_default(),
            script_faults: script.unwrap_or_default() as u64,
            faults: chaos.last_fault(),
            held_packets: held.packets,
            held_bytes: held.bytes,
        })
    }

    pub async fn enable_chaos(&self, _: pb::EnableChaosRequest) -> Result<pb::ChaosStatus, ControlError> {
        self.chaos()?.enable();
        self.get_chaos(pb::GetChaosRequest {}).await
    }

    pub async fn disable_chaos(&self, _: pb::DisableChaosRequest) -> Result<pb::ChaosStatus, ControlError> {
        self.chaos()?.disable();
        self.let_go().await?;
        self.get_chaos(pb::GetChaosRequest {}).await
    }

    pub async fn reset_chaos(&self, _: pb::ResetChaosRequest) -> Result<pb::ChaosStatus, ControlError> {
        {
            let mut changes = self.scenario_changes();
            self.chaos()?.reset();
            changes.rules.clear();
        }
        self.let_go().await?;
        self.get_chaos(pb::GetChaosRequest {}).await
    }

    /// ResetChaos, and chaos as the server began with it but for its rules.
    pub(super) async fn restart_chaos(&self) -> Result<(), ControlError> {
        let chaos = self.chaos()?;
        {
            let mut changes = self.scenario_changes();
            chaos.restart();
            changes.rules.clear();
            if chaos.seed() != chaos.first_seed() {
                self.put_seed(chaos.first_seed())?;
            }
            changes.seed.clear();
        }
        self.let_go().await
    }

    /// Waits for connections to have let go what they held back; not for long, as there may be chaos again.
    pub(super) async fn let_go(&self) -> Result<(), ControlError> {
        let chaos = self.chaos()?;
        let patience_ends = tokio::time::Instant::now() + LET_GO_WAIT;
        while chaos.held().packets > 0 && tokio::time::Instant::now() < patience_ends {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    pub async fn apply_profile(
        &self,
        request: pb::ApplyProfileRequest,
    ) -> Result<pb::ListRulesResponse, ControlError> {
        Fields::require(&[("name", &request.name)])?;
        let mut changes = self.scenario_changes();
        let rules = self.chaos()?.apply_profile(&request.name).map_err(|error| match error {
            ChaosError::Bad(fields) => {
                let of_name = |field: BadField| BadField { path: "name".to_owned(), ..field };
                ControlError::BadFields(fields.into_iter().map(of_name).collect())
            }
            other => refused(other),
        })?;
        // Those that are as the profile says already, too.
        changes.rules.retain(|id, _| !rules.iter().any(|view| **view.rule.id() == **id));
        drop(changes);
        Ok(pb::ListRulesResponse {
            total_size: rules.len() as u64,
            rules: rules.into_iter().map(shown).collect(),
            next_page_token: String::new(),
        })
    }

    pub async fn list_profiles(
        &self,
        request: pb::ListProfilesRequest,
    ) -> Result<pb::ListProfilesResponse, ControlError> {
        let page = PageRequest::new("profiles", request.page_size, &request.page_token)?;
        self.chaos()?;
        let profiles = PROFILES.into_iter().flat_map(profile).map(|profile| pb::ChaosProfile {
            name: profile.name.to_owned(),
            description: profile.about.to_owned(),
            rules: profile.rules.into_iter().map(rule_message).collect(),
        });
        let page = page.cut_in_order(profiles.collect(), |profile| profile);
        Ok(pb::ListProfilesResponse {
            profiles: page.items,
            next_page_token: page.next,
            total_size: page.total,
        })
    }

    pub async fn create_rule(&self, request: pb::CreateRuleRequest) -> Result<pb::ChaosRule, ControlError> {
        self.add_rule(checked(request.rule)?).map(shown)
    }

    /// CreateRule for callers in this process.
    ///
    /// # Errors
    /// As CreateRule: what is wrong with which field, an id that is taken, or too many of them.
    pub fn add_rule(&self, spec: RuleSpec) -> Result<RuleView, ControlError> {
        self.chaos()?.create(spec).map_err(refused)
    }

    pub async fn get_rule(&self, request: pb::GetRuleRequest) -> Result<pb::ChaosRule, ControlError> {
        Fields::require(&[("id", &request.id)])?;
        self.chaos()?.rule(&request.id).map(shown).map_err(refused)
    }

    pub async fn list_rules(
        &self,
        request: pb::ListRulesRequest,
    ) -> Result<pb::ListRulesResponse, ControlError> {
        let page = PageRequest::new("rules", request.page_size, &request.page_token)?;
        // In the order they are asked, which a token cannot know of ids: so it counts.
        let mut rules: Vec<(usize, RuleView)> = self.chaos()?.rules().into_iter().enumerate().collect();
        rules.retain(|(_, rule)| request.enabled.is_none_or(|wanted| rule.rule.spec().enabled == wanted));
        let page = page.cut(rules, |(position, _)| format!("{position:010}"), |(_, rule)| shown(rule));
        Ok(pb::ListRulesResponse { rules: page.items, next_page_token: page.next, total_size: page.total })
    }

    pub async fn update_rule(&self, request: pb::UpdateRuleRequest) -> Result<pb::ChaosRule, ControlError> {
        Fields::require(&[("id", &request.id)])?;
        let chaos = self.chaos()?;
        let given = request.rule.ok_or_else(|| ControlError::bad_field("rule", "is required"))?;
        let _turn = self.updating();
        let _changes = self.scenario_changes();
        let mask = mask::said(request.update_mask.as_ref());
        let rule = match mask {
            Some(_) => {
                masked("ChaosRule", chaos.rule(&request.id).map(shown).map_err(refused)?, given, mask)?
            }
            None => given,
        };
        chaos.update(&request.id, checked(Some(rule))?).map(shown).map_err(refused)
    }

    pub async fn delete_rule(&self, request: pb::DeleteRuleRequest) -> Result<(), ControlError> {
        Fields::require(&[("id", &request.id)])?;
        let mut changes = self.scenario_changes();
        self.chaos()?.delete(&request.id).map_err(refused)?;
        changes.rules.remove(&request.id);
        Ok(())
    }

    pub async fn get_seed(&self, _: pb::GetSeedRequest) -> Result<pb::ChaosSeed, ControlError> {
        Ok(pb::ChaosSeed { seed: self.chaos()?.seed() })
    }

    /// GetSeed for callers in this process.
    pub fn seed(&self) -> u64 {
        self.parts().chaos.seed()
    }

    pub async fn set_seed(&self, request: pb::SetSeedRequest) -> Result<pb::ChaosSeed, ControlError> {
        let Some(seed) = request.seed else { return Err(ControlError::bad_field("seed", "is required")) };
        let mut changes = self.scenario_changes();
        self.put_seed(seed)?;
        changes.seed.clear();
        Ok(pb::ChaosSeed { seed })
    }

    /// Everything in the server draws from another seed.
    pub(super) fn put_seed(&self, seed: u64) -> Result<(), ControlError> {
        if let Some(webhooks) = &self.parts().webhooks {
            webhooks.set_seed(seed);
        }
        self.mocks()?.set_seed(seed);
        self.chaos()?.set_seed(seed);
        Ok(())
    }

    pub async fn list_faults(
        &self,
        request: pb::ListFaultsRequest,
    ) -> Result<pb::ListFaultsResponse, ControlError> {
        let mut fields = Fields::new();
        let filter = fault_filter(&mut fields, request.filter);
        // From the newest backwards, or from one on.
        let list = if request.from == 0 { "newest faults" } else { "faults" };
        let page = PageRequest::new(list, request.page_size, &request.page_token)?;
        let read = |token: &str| token.parse::<u64>().map_err(|_| NO_TOKEN);
        let last = page.after().and_then(|token| fields.keep("page_token", read(token)));
        fields.finish()?;
        let chaos = self.chaos()?;
        let size = page.size();
        // One more, which tells whether there is another page.
        let found: Vec<_> = match request.from {
            0 => {
                let before = last.unwrap_or(u64::MAX);
                let newest = chaos.faults(0, usize::MAX, &filter).into_iter().rev();
                newest.skip_while(|fault| fault.number >= before).take(size + 1).collect()
            }
            from => chaos.faults(last.unwrap_or(from - 1), size + 1, &filter),
        };
        let (mut faults, mut last) = (page.begin(), None);
        for fault in found {
            if !faults.take(shown_fault(&fault)) {
                let next_page_token = last.map(|last: u64| page.token(&last.to_string())).unwrap_or_default();
                return Ok(pb::ListFaultsResponse { faults: faults.into_items(), next_page_token });
            }
            last = Some(fault.number);
        }
        Ok(pb::ListFaultsResponse { faults: faults.into_items(), next_page_token: String::new() })
    }

    pub async fn watch_faults(
        &self,
        request: pb::WatchFaultsRequest,
    ) -> Result<ControlStream<pb::WatchFaultsResponse>, ControlError> {
        let mut fields = Fields::new();
        let filter = fault_filter(&mut fields, request.filter);
        fields.finish()?;
        self.chaos()?;
        let watcher = self.parts().events.watch_faults();
        let faults = stream::unfold((watcher, filter), |(mut watcher, filter)| async move {
            loop {
                let element = match watcher.recv().await {
                    Ok(fault) if filter.passes(&fault.fault) => {
                        pb::watch_faults_response::Element::Fault(shown_fault(&fault))
                    }
                    Ok(_) => continue,
                    Err(RecvError::Lagged(missed)) => {
                        pb::watch_faults_response::Element::Gap(pb::Gap { missed })
                    }
                    Err(RecvError::Closed) => return None,
                };
                return Some((Ok(pb::WatchFaultsResponse { element: Some(element) }), (watcher, filter)));
            }
        });
        Ok(self.until_stopped(faults))
    }

    /// Has the faults of a recording injected again from now on, in place of what rules decide; how many there are.
    ///
    /// # Errors
    /// [`ControlError::NoScript`] for a recording without faults or with too many, and those of reading it.
    pub async fn load_script(&self, source: ReplaySource) -> Result<u64, ControlError> {
        let chaos = self.chaos()?;
        if source.gaps > 0 {
            tracing::warn!(recording = source.name, gaps = source.gaps, "faults may be missing: it has gaps");
        }
        let name = source.name;
        let faults = blocking(move || {
            let damaged = |error: &dyn std::fmt::Display| ControlError::RecordingDamaged(error.to_string());
            let mut faults = Vec::new();
            for event in (source.events)().map_err(|error| damaged(&error))? {
                if let EventKind::Fault(mut fault) = event.map_err(|error| damaged(&error))?.kind {
                    // What becomes of packets is worked out again.
                    (fault.received, fault.sent) = (None, None);
                    faults.push(*fault);
                }
            }
            Ok(faults)
        })
        .await?;
        let count = faults.len() as u64;
        if faults.is_empty() {
            return Err(ControlError::NoScript(format!("{name} has no faults to inject again")));
        }
        chaos.load_script(faults).map_err(|error| match error {
            ChaosError::LongScript(_) => ControlError::NoScript(format!("{name}: {error}")),
            ChaosError::BadEvent { .. } => ControlError::RecordingDamaged(format!("{name}: {error}")),
            other => refused(other),
        })?;
        *self.script_name() = name;
        chaos.enable();
        Ok(count)
    }

    /// The same for a recording of the store, by its id or name.
    ///
    /// # Errors
    /// As [`load_script`](Self::load_script), and when there is none.
    pub async fn load_stored_script(&self, recording: &str) -> Result<u64, ControlError> {
        self.chaos()?;
        let info = self.find_recording(recording).await?;
        let source = self.with_store(move |store| Ok(ReplaySource::stored(info, store.clone()))).await?;
        self.load_script(source).await
    }

    pub(super) fn chaos(&self) -> Result<&Chaos, ControlError> {
        self.server()?;
        Ok(&self.parts().chaos)
    }

    /// Of the script that was loaded last.
    fn script_name(&self) -> MutexGuard<'_, String> {
        // A text is whole between any two calls.
        self.inner.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(error: ChaosError) -> ControlError {
    match error {
        ChaosError::Bad(fields) => {
            let in_request = |field: BadField| BadField { path: path(&field.path), ..field };
            ControlError::BadFields(fields.into_iter().map(in_request).collect())
        }
        ChaosError::Exists(id) => ControlError::RuleExists { id },
        ChaosError::NotFound(id) => ControlError::RuleNotFound { id },
        ChaosError::TooMany(limit) => ControlError::TooManyRules { limit },
        error @ (ChaosError::BadEvent { .. } | ChaosError::LongScript(_)) => {
            ControlError::NoScript(error.to_string())
        }
    }
}

/// Where in a request the field of a [`RuleSpec`] is.
fn path(of_spec: &str) -> String {
    if of_spec.is_empty() { "rule".to_owned() } else { format!("rule.{of_spec}") }
}

// ---- rules

/// Only the form is checked here; what it means is the rule's to check.
fn checked(rule: Option<pb::ChaosRule>) -> Result<RuleSpec, ControlError> {
    let Some(rule) = rule else { return Err(ControlError::bad_field("rule", "is required")) };
    let mut fields = Fields::new();
    let matches = rule.r#match.unwrap_or_default();
    let when = rule.when.unwrap_or_default();
    let qos = matches.qos.iter().enumerate().filter_map(|(index, qos)| {
        let small = u8::try_from(*qos).map_err(|_| format!("QoS {qos} is none of 0, 1 and 2"));
        fields.keep(format!("rule.match.qos[{index}]"), small)
    });
    let matches = MatchSpec {
        qos: qos.collect(),
        direction: matches.direction,
        client: matches.client,
        proxy: matches.proxy,
        topic: matches.topic,
        types: matches.types,
    };
    let mut actions = Vec::with_capacity(rule.actions.len());
    for (index, given) in rule.actions.into_iter().enumerate() {
        let path = format!("rule.actions[{index}]");
        match given.action {
            Some(given) => actions.extend(action(&mut fields, &path, given)),
            None => fields.refuse(path, "names no action"),
        }
    }
    fields.finish()?;
    Ok(RuleSpec {
        id: rule.id,
        enabled: rule.enabled.unwrap_or(true),
        matches,
        when: WhenSpec {
            probability: when.probability,
            first_n: when.first_n,
            every_nth: when.every_nth,
            after_n: when.after_n,
            max_count: when.max_count,
        },
        actions,
    })
}

/// `None` where a field was complained about.
fn action(fields: &mut Fields, path: &str, action: Action) -> Option<ActionSpec> {
    let count =
        |from: pb::ChaosDuplicate| from.count.map_or_else(CountSpec::default, |count| CountSpec { count });
    Some(match action {
        Action::Latency(from) => ActionSpec::Latency(latency(from)),
        Action::Drop(()) => ActionSpec::Drop,
        Action::Duplicate(from) => ActionSpec::Duplicate(count(from)),
        Action::Reorder(from) => {
            let usual = ReorderSpec::default();
            ActionSpec::Reorder(ReorderSpec {
                window: from.window.unwrap_or(usual.window),
                max_ms: from.max_ms.unwrap_or(usual.max_ms),
                violate: from.violate.unwrap_or(usual.violate),
            })
        }
        Action::Corrupt(from) => ActionSpec::Corrupt(CorruptSpec {
            bytes: from.bytes.unwrap_or(CorruptSpec::default().bytes),
            part: match &*from.part {
                "" | "body" => CorruptPart::Body,
                "payload" => CorruptPart::Payload,
                "packet" => CorruptPart::Packet,
                other => {
                    let what = format_args!("is body, payload or packet, not {other:?}");
                    fields.refuse(format!("{path}.corrupt.part"), what);
                    return None;
                }
            },
        }),
        Action::Truncate(from) => {
            let usual = TruncateSpec::default();
            ActionSpec::Truncate(TruncateSpec {
                bytes: from.bytes.unwrap_or(usual.bytes),
                reframe: from.reframe.unwrap_or(usual.reframe),
            })
        }
        Action::WithholdAck(()) => ActionSpec::WithholdAck,
        Action::DelayAck(from) => ActionSpec::DelayAck(latency(from)),
        Action::DuplicateAck(from) => ActionSpec::DuplicateAck(count(from)),
        // A number in a text counts as one.
        Action::ReasonCode(text) => ActionSpec::ReasonCode(ReasonSpec::Name(text)),
        Action::Disconnect(from) => ActionSpec::Disconnect(DisconnectSpec {
            mode: match &*from.mode {
                "" | "rst" => DisconnectMode::Rst,
                "fin" => DisconnectMode::Fin,
                "mqtt5" => DisconnectMode::Mqtt5,
                other => {
                    let what = format_args!("is rst, fin or mqtt5, not {other:?}");
                    fields.refuse(format!("{path}.disconnect.mode"), what);
                    return None;
                }
            },
            at_byte: from.at_byte,
            will: from.will.unwrap_or(true),
            reason: from.reason.map(ReasonSpec::Name),
        }),
        Action::RefuseConnect(from) => {
            ActionSpec::RefuseConnect(RefuseConnectSpec { reason: from.reason.map(ReasonSpec::Name) })
        }
        Action::Blackhole(from) => ActionSpec::Blackhole(BlackholeSpec {
            duration: milliseconds(fields, &format!("{path}.blackhole.duration"), from.duration),
        }),
        Action::Bandwidth(from) => ActionSpec::Bandwidth(BandwidthSpec { bytes_per_s: from.bytes_per_s }),
        Action::Slice(from) => ActionSpec::Slice(SliceSpec {
            size: from.size,
            delay: milliseconds(fields, &format!("{path}.slice.delay"), from.delay),
        }),
        Action::LoseSession(()) => ActionSpec::LoseSession,
        Action::Takeover(()) => ActionSpec::Takeover,
        Action::Capabilities(from) => {
            ActionSpec::Capabilities(capabilities(fields, &format!("{path}.capabilities"), &from))
        }
        Action::SlowSubscriber(from) => {
            ActionSpec::SlowSubscriber(SlowSubscriberActionSpec { delay_ms: from.delay_ms })
        }
    })
}

fn latency(from: pb::ChaosDelay) -> LatencySpec {
    let pb::ChaosDelay { ms, min_ms, max_ms, mean_ms, sd_ms, median_ms, sigma } = from;
    LatencySpec::Drawn(LatencyDraw { ms, min_ms, max_ms, mean_ms, sd_ms, median_ms, sigma })
}

fn milliseconds(
    fields: &mut Fields,
    path: &str,
    from: Option<prost_types::Duration>,
) -> Option<DurationSpec> {
    let duration = fields.duration(path, from.as_ref())?;
    Some(DurationSpec::Milliseconds(duration.as_nanos() as f64 / 1e6))
}

fn capabilities(fields: &mut Fields, path: &str, from: &pb::ChaosCapabilities) -> Capabilities {
    Capabilities {
        session_present: from.session_present,
        session_expiry_interval: from.session_expiry_interval,
        receive_maximum: from
            .receive_maximum
            .and_then(|number| narrow(fields, &format!("{path}.receive_maximum"), number)),
        maximum_qos: from
            .maximum_qos
            .and_then(|number| narrow(fields, &format!("{path}.maximum_qos"), number)),
        retain_available: from.retain_available,
        maximum_packet_size: from.maximum_packet_size,
        topic_alias_maximum: from
            .topic_alias_maximum
            .and_then(|number| narrow(fields, &format!("{path}.topic_alias_maximum"), number)),
        wildcard_subscription_available: from.wildcard_subscription_available,
        subscription_identifiers_available: from.subscription_identifiers_available,
        shared_subscription_available: from.shared_subscription_available,
        server_keep_alive: from
            .server_keep_alive
            .and_then(|number| narrow(fields, &format!("{path}.server_keep_alive"), number)),
    }
}

/// A number that a smaller type holds.
fn narrow<T: TryFrom<u32>>(fields: &mut Fields, path: &str, number: u32) -> Option<T> {
    fields.keep(path, T::try_from(number).map_err(|_| format!("{number} is too large")))
}

/// A rule as the API takes it.
pub fn rule_message(spec: RuleSpec) -> pb::ChaosRule {
    let RuleSpec { id, enabled, matches, when, actions } = spec;
    pb::ChaosRule {
        id,
        enabled: Some(enabled),
        r#match: (matches != MatchSpec::default()).then(|| pb::ChaosMatch {
            direction: matches.direction,
            client: matches.client,
            proxy: matches.proxy,
            topic: matches.topic,
            types: matches.types,
            qos: matches.qos.into_iter().map(u32::from).collect(),
        }),
        when: (when != WhenSpec::default()).then_some(pb::ChaosWhen {
            probability: when.probability,
            first_n: when.first_n,
            every_nth: when.every_nth,
            after_n: when.after_n,
            max_count: when.max_count,
        }),
        actions: actions
            .into_iter()
            .map(|action| pb::ChaosAction { action: Some(shown_action(action)) })
            .collect(),
        faults: 0,
        from_settings: false,
    }
}

/// A rule as the API shows it, which it also takes.
fn shown(view: RuleView) -> pb::ChaosRule {
    pb::ChaosRule {
        faults: view.faults,
        from_settings: view.from_settings,
        ..rule_message(view.rule.spec().clone())
    }
}

fn shown_action(action: ActionSpec) -> Action {
    let count = |CountSpec { count }| pb::ChaosDuplicate { count: Some(count) };
    match action {
        ActionSpec::Latency(latency) => Action::Latency(shown_latency(latency)),
        ActionSpec::Drop => Action::Drop(()),
        ActionSpec::Duplicate(copies) => Action::Duplicate(count(copies)),
        ActionSpec::Reorder(ReorderSpec { window, max_ms, violate }) => Action::Reorder(pb::ChaosReorder {
            window: Some(window),
            max_ms: Some(max_ms),
            violate: Some(violate),
        }),
        ActionSpec::Corrupt(CorruptSpec { bytes, part }) => {
            let part = match part {
                CorruptPart::Body => "body",
                CorruptPart::Payload => "payload",
                CorruptPart::Packet => "packet",
            };
            Action::Corrupt(pb::ChaosCorrupt { bytes: Some(bytes), part: part.to_owned() })
        }
        ActionSpec::Truncate(TruncateSpec { bytes, reframe }) => {
            Action::Truncate(pb::ChaosTruncate { bytes: Some(bytes), reframe: Some(reframe) })
        }
        ActionSpec::WithholdAck => Action::WithholdAck(()),
        ActionSpec::DelayAck(latency) => Action::DelayAck(shown_latency(latency)),
        ActionSpec::DuplicateAck(copies) => Action::DuplicateAck(count(copies)),
        ActionSpec::ReasonCode(reason) => Action::ReasonCode(shown_reason(reason)),
        ActionSpec::Disconnect(DisconnectSpec { mode, at_byte, will, reason }) => {
            let mode = match mode {
                DisconnectMode::Rst => "rst",
                DisconnectMode::Fin => "fin",
                DisconnectMode::Mqtt5 => "mqtt5",
            };
            Action::Disconnect(pb::ChaosDisconnect {
                mode: mode.to_owned(),
                at_byte,
                will: Some(will),
                reason: reason.map(shown_reason),
            })
        }
        ActionSpec::RefuseConnect(RefuseConnectSpec { reason }) => {
            Action::RefuseConnect(pb::ChaosRefuseConnect { reason: reason.map(shown_reason) })
        }
        ActionSpec::Blackhole(BlackholeSpec { duration }) => {
            Action::Blackhole(pb::ChaosBlackhole { duration: duration.and_then(shown_duration) })
        }
        ActionSpec::Bandwidth(BandwidthSpec { bytes_per_s }) => {
            Action::Bandwidth(pb::ChaosBandwidth { bytes_per_s })
        }
        ActionSpec::Slice(SliceSpec { size, delay }) => {
            Action::Slice(pb::ChaosSlice { size, delay: delay.and_then(shown_duration) })
        }
        ActionSpec::LoseSession => Action::LoseSession(()),
        ActionSpec::Takeover => Action::Takeover(()),
        ActionSpec::Capabilities(capabilities) => Action::Capabilities(pb::ChaosCapabilities {
            session_present: capabilities.session_present,
            session_expiry_interval: capabilities.session_expiry_interval,
            receive_maximum: capabilities.receive_maximum.map(u32::from),
            maximum_qos: capabilities.maximum_qos.map(u32::from),
            retain_available: capabilities.retain_available,
            maximum_packet_size: capabilities.maximum_packet_size,
            topic_alias_maximum: capabilities.topic_alias_maximum.map(u32::from),
            wildcard_subscription_available: capabilities.wildcard_subscription_available,
            subscription_identifiers_available: capabilities.subscription_identifiers_available,
            shared_subscription_available: capabilities.shared_subscription_available,
            server_keep_alive: capabilities.server_keep_alive.map(u32::from),
        }),
        ActionSpec::SlowSubscriber(SlowSubscriberActionSpec { delay_ms }) => {
            Action::SlowSubscriber(pb::ChaosSlowSubscriber { delay_ms })
        }
    }
}

fn shown_latency(latency: LatencySpec) -> pb::ChaosDelay {
    match latency {
        LatencySpec::Fixed(ms) => pb::ChaosDelay { ms: Some(ms), ..Default::default() },
        LatencySpec::Drawn(LatencyDraw { ms, min_ms, max_ms, mean_ms, sd_ms, median_ms, sigma }) => {
            pb::ChaosDelay { ms, min_ms, max_ms, mean_ms, sd_ms, median_ms, sigma }
        }
    }
}

fn shown_reason(reason: ReasonSpec) -> String {
    match reason {
        ReasonSpec::Code(code) => code.to_string(),
        ReasonSpec::Name(name) => name,
    }
}

/// `None` for a text that is no duration, which no rule has.
fn shown_duration(duration: DurationSpec) -> Option<prost_types::Duration> {
    let duration = match duration {
        DurationSpec::Milliseconds(ms) => Duration::try_from_secs_f64(ms / 1e3).ok()?,
        DurationSpec::Text(text) => text.parse::<SignedDuration>().ok()?.try_into().ok()?,
    };
    Some(time::duration(duration))
}

// ---- faults

fn fault_filter(fields: &mut Fields, filter: Option<pb::FaultFilter>) -> FaultFilter {
    let filter = filter.unwrap_or_default();
    let said = |text: String| (!text.is_empty()).then_some(text);
    if !filter.action.is_empty() && !ActionSpec::NAMES.contains(&filter.action.as_str()) {
        let known = ActionSpec::NAMES.join(", ");
        fields.refuse("filter.action", format_args!("no action {:?}; there are {known}", filter.action));
    }
    FaultFilter {
        client: said(filter.client).map(NamePattern::new),
        rule: said(filter.rule),
        action: said(filter.action),
        direction: fields.choice("filter.direction", filter.direction).map(|direction| match direction {
            pb::Direction::ServerToClient => Direction::ServerToClient,
            _ => Direction::ClientToServer,
        }),
        packet_type: fields
            .choice("filter.type", filter.r#type)
            .and_then(|wanted| PacketType::ALL.into_iter().find(|known| type_of(*known) == wanted)),
    }
}

fn shown_fault(noted: &Journaled) -> pb::Fault {
    let fault = &noted.fault;
    pb::Fault {
        number: noted.number,
        at: Some(time::timestamp_of_jiff(noted.at)),
        rule: fault.rule.clone(),
        action: fault.action.clone(),
        detail: fault.detail.clone().into(),
        client_id: fault.client_identifier.clone(),
        direction: direction(fault.direction).into(),
        r#type: type_of(fault.packet_type).into(),
        nth: fault.nth,
        topic: fault.topic.clone(),
        connection: noted.connection,
    }
}

/// What chaos did, and holds back, for `/__mockforge/metrics`.
pub fn fault_families(chaos: &Chaos) -> Vec<Family> {
    let figures = chaos.figures().into_iter().map(|figure| {
        (vec![("rule", figure.rule.clone()), ("action", figure.action.to_string())], figure.count)
    });
    let held = chaos.held();
    vec![
        Family::counter("mqtt_faults_total", "Faults injected by each rule, by action.").bounded(figures),
        Family::gauge("mqtt_chaos_held_packets", "Packets that chaos holds back.").value(held.packets),
        Family::gauge("mqtt_chaos_held_bytes", "Bytes of packets that chaos holds back.").value(held.bytes),
    ]
}

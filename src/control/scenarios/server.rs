//! Steps that change the server, or ask it: chaos, mocks, state, recordings, replays, and HTTP.

use std::{
    collections::BTreeMap,
    sync::{MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use futures_util::StreamExt;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::{
    changes::{Author, Changes, Thing, note},
    runner::{Begun, Outcome, Runner},
};
use crate::{
    amount::counted,
    control::{ControlError, pb, time},
    fault::{ChaosError, RuleSpec, RuleView},
    journal::beginning,
    mock::{Condition, MockError, MockSpec, Occasion, StateScope, Subject},
    scenario::{HttpStep, RecordSpec, ReplayMode, ReplaySpec, VerifyLevel},
};

/// How often the state store is looked at, where a value is waited for.
const STATE_PAUSE: Duration = Duration::from_millis(10);

impl Runner {
    fn unended(&self) -> MutexGuard<'_, Begun> {
        // Lists are whole between any two calls.
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn author(&self) -> Author<'_> {
        Author { run: &self.run.id, keeps: self.scenario.keeps }
    }

    /// Chaos and mocks draw from the run's seed as long as it goes on.
    fn take_seed(&self, changes: &mut Changes) -> Result<(), ControlError> {
        let before = self.control.chaos()?.seed();
        if !self.has_taken_seed.swap(true, Ordering::Relaxed) {
            self.control.put_seed(self.run.seed)?;
            note(&mut changes.seed, self.author(), (), Some(before), Some(self.run.seed));
        }
        Ok(())
    }

    pub fn set_rule(&self, spec: &RuleSpec) -> Result<String, ControlError> {
        let mut changes = self.control.scenario_changes();
        self.take_seed(&mut changes)?;
        let chaos = self.control.chaos()?;
        let before = chaos.rule(&spec.id).ok();
        let set = match before.is_some() {
            true => chaos.update(&spec.id, spec.clone()),
            false => chaos.create(spec.clone()),
        };
        let after = set.map_err(of_chaos)?;
        note(&mut changes.rules, self.author(), spec.id.clone(), before, Some(after));
        match chaos.is_enabled() {
            true => Ok(String::new()),
            false => Err(ControlError::NothingMeant("chaos is switched off in this server".to_owned())),
        }
    }

    pub fn remove_rule(&self, id: &str) -> Result<String, ControlError> {
        let mut changes = self.control.scenario_changes();
        let chaos = self.control.chaos()?;
        let before = chaos.rule(id).ok();
        chaos.delete(id).map_err(of_chaos)?;
        note(&mut changes.rules, self.author(), id.to_owned(), before, None);
        Ok(String::new())
    }

    pub async fn reset_chaos(&self) -> Result<String, ControlError> {
        {
            let mut changes = self.control.scenario_changes();
            let chaos = self.control.chaos()?;
            let before = chaos.rules();
            chaos.reset();
            for view in before {
                note(&mut changes.rules, self.author(), view.rule.id().to_string(), Some(view), None);
            }
        }
        self.control.let_go().await?;
        Ok(String::new())
    }

    pub fn apply_profile(&self, name: &str) -> Result<String, ControlError> {
        let mut changes = self.control.scenario_changes();
        self.take_seed(&mut changes)?;
        let chaos = self.control.chaos()?;
        let before = chaos.rules();
        let rules = chaos.apply_profile(name).map_err(of_chaos)?;
        let count = rules.len() as u64;
        for after in rules {
            let id = after.rule.id().to_string();
            let before = before.iter().find(|before| *before.rule.id() == *after.rule.id()).cloned();
            if RuleView::is_left(before.as_ref(), Some(&after)) {
                continue;
            }
            note(&mut changes.rules, self.author(), id, before, Some(after));
        }
        Ok(counted(count, "rule"))
    }

    pub fn set_mock(&self, spec: &MockSpec) -> Result<String, ControlError> {
        let mut changes = self.control.scenario_changes();
        self.take_seed(&mut changes)?;
        let mocks = self.control.mocks()?;
        let before = mocks.get(&spec.id).ok();
        let set = match before.is_some() {
            true => mocks.update(&spec.id, spec.clone()),
            false => mocks.create(spec.clone()),
        };
        let after = set.map_err(of_mock)?;
        note(&mut changes.mocks, self.author(), spec.id.clone(), before, Some(after));
        Ok(String::new())
    }

    pub fn remove_mock(&self, id: &str) -> Result<String, ControlError> {
        let mut changes = self.control.scenario_changes();
        let mocks = self.control.mocks()?;
        let before = mocks.get(id).ok();
        mocks.delete(id).map_err(of_mock)?;
        note(&mut changes.mocks, self.author(), id.to_owned(), before, None);
        Ok(String::new())
    }

    pub fn reset_mocks(&self) -> Result<String, ControlError> {
        let mut changes = self.control.scenario_changes();
        let mocks = self.control.mocks()?;
        let by_id = || mocks.list().into_iter().map(|view| (view.mock.spec.id.clone(), view));
        let before: Vec<_> = by_id().collect();
        mocks.reset();
        // Those of the settings, some of which may have been removed since.
        let mut after: BTreeMap<_, _> = by_id().collect();
        for (id, view) in before {
            let after = after.remove(&id);
            note(&mut changes.mocks, self.author(), id, Some(view), after);
        }
        for (id, view) in after {
            note(&mut changes.mocks, self.author(), id, None, Some(view));
        }
        Ok(String::new())
    }

    pub fn set_state(&self, scope: &StateScope, key: &str, value: &Value) -> Result<String, ControlError> {
        let mut changes = self.control.scenario_changes();
        let mut state = self.control.mocks()?.state();
        let before = state.get(scope, key).cloned();
        let set = state.set(scope, key, value.clone());
        set.map_err(|error| ControlError::NothingMeant(error.to_string()))?;
        note(&mut changes.state, self.author(), (scope.clone(), key.to_owned()), before, Some(value.clone()));
        Ok(String::new())
    }

    pub fn reset_state(&self) -> Result<String, ControlError> {
        let mut changes = self.control.scenario_changes();
        let mut state = self.control.mocks()?.state();
        for (scope, key, value) in state.list() {
            let key = (scope, key.to_owned());
            note(&mut changes.state, self.author(), key, Some(value.clone()), None);
        }
        state.reset();
        Ok(String::new())
    }

    pub async fn expect_state(&self, scope: &StateScope, test: &Condition, within: Duration) -> Outcome {
        let client_identifier = match scope {
            StateScope::Global => String::new(),
            StateScope::Client(identifier) => identifier.clone(),
        };
        let occasion = Occasion { client_identifier, ..Occasion::default() };
        let deadline = Instant::now() + within;
        loop {
            let checked = match self.control.mocks() {
                Ok(mocks) => test.check_state(&Subject::new(&occasion), &mocks.state()),
                Err(error) => return error.into(),
            };
            match checked {
                Ok(()) => return Outcome::passed(""),
                Err(difference) if Instant::now() >= deadline => return Outcome::failed(difference),
                Err(_) => sleep(STATE_PAUSE).await,
            }
        }
    }

    pub async fn record(&self, name: Option<String>, spec: &RecordSpec) -> Result<String, ControlError> {
        let name = name.unwrap_or_else(|| format!("{}-{}", self.scenario.name, self.run.id));
        let request = pb::StartRecordingRequest {
            name,
            topics: spec.topics.clone(),
            keep_credentials: spec.keep_credentials,
            ..Default::default()
        };
        let recording = self.control.start_recording(request).await?;
        self.unended().recordings.push((recording.id, recording.name.clone()));
        Ok(recording.name)
    }

    /// Without a name, all that the run has begun.
    pub async fn stop_recording(&self, name: Option<&str>) -> Result<String, ControlError> {
        let recordings = self.unended().recordings.clone();
        let meant: Vec<_> =
            recordings.into_iter().filter(|(_, known)| name.is_none_or(|name| known == name)).collect();
        if meant.is_empty() {
            let what = match name {
                None => "no recording was begun before".to_owned(),
                Some(name) => format!("no recording {name:?} was begun before"),
            };
            return Err(ControlError::NothingMeant(what));
        }
        let mut stopped = Vec::new();
        for (id, name) in meant {
            let recording = self.control.stop_recording(pb::StopRecordingRequest { id: id.clone() }).await?;
            self.unended().recordings.retain(|(known, _)| *known != id);
            stopped.push(format!("{name} has {}", counted(recording.events, "event")));
        }
        Ok(stopped.join(", "))
    }

    pub async fn mark(&self, label: &str) -> Result<String, ControlError> {
        let recordings = self.unended().recordings.clone();
        for (id, _) in &recordings {
            let request = pb::MarkRecordingRequest { id: id.clone(), label: label.to_owned() };
            self.control.mark_recording(request).await?;
        }
        Ok(label.to_owned())
    }

    pub async fn replay(&self, recording: String, spec: &ReplaySpec) -> Outcome {
        let own = || match &self.scenario.target {
            Some(target) => target.clone(),
            None => self.run.target.spelled(),
        };
        let duration = |span: Duration| time::duration(span);
        let asked = pb::ReplaySpec {
            recording,
            target: spec.target.clone().unwrap_or_else(own),
            mode: match spec.mode {
                ReplayMode::Publish => pb::ReplayMode::Publish,
                ReplayMode::Client => pb::ReplayMode::Client,
            }
            .into(),
            speed: spec.speed.map(|speed| speed.0),
            max_gap: spec.max_gap.map(|span| duration(span.0)),
            loops: spec.loops,
            map_topics: spec.map_topics.clone(),
            map_client: spec.map_client.clone().unwrap_or_default(),
            verify: spec.verify.map(|level| pb::VerificationSpec {
                level: match level {
                    VerifyLevel::Count => pb::VerificationLevel::Count,
                    VerifyLevel::Payload => pb::VerificationLevel::Payload,
                    VerifyLevel::Packets => pb::VerificationLevel::Packets,
                }
                .into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let created = self.control.create_replay(pb::CreateReplayRequest { spec: Some(asked) }).await;
        let id = match created {
            Ok(replay) => replay.id,
            Err(error) => return error.into(),
        };
        self.unended().replays.push(id.clone());
        let ended = async {
            let mut states = self.control.watch_replay(pb::WatchReplayRequest { id: id.clone() }).await?;
            let mut last = None;
            while let Some(state) = states.next().await {
                last = Some(state?);
            }
            Ok::<_, ControlError>(last)
        };
        let ended = match spec.within {
            None => ended.await,
            Some(within) => match timeout(within.0, ended).await {
                Ok(ended) => ended,
                Err(_) => return Outcome::failed(format!("it goes on after {} s", within.0.as_secs_f64())),
            },
        };
        self.unended().replays.retain(|known| *known != id);
        match ended {
            Err(error) => error.into(),
            Ok(None) => Outcome::failed("the replay failed inside"),
            Ok(Some(replay)) => {
                let sent = replay.report.as_ref().map_or(0, |report| report.sent);
                let verdict = replay.verdict().as_str_name();
                let verdict = verdict.strip_prefix("REPLAY_VERDICT_").unwrap_or(verdict).to_lowercase();
                let error =
                    if replay.error.is_empty() { String::new() } else { format!(": {}", replay.error) };
                let text = format!("{} sent, {verdict}{error}", counted(sent, "message"));
                Outcome { has_passed: replay.exit_code == Some(0), text, nearest: None }
            }
        }
    }

    pub async fn request(&self, step: &HttpStep) -> Outcome {
        let mut request = http::Request::new(step.body.clone());
        *request.method_mut() = step.method.clone();
        *request.uri_mut() = step.uri.clone();
        *request.headers_mut() = step.headers.clone();
        let answer = match self.http.send(request, None, step.within).await {
            Ok(answer) => answer,
            Err(error) => return Outcome::failed(error),
        };
        let status = answer.status.as_u16();
        let is_expected = match step.status {
            Some(expected) => status == expected,
            None => answer.status.is_success(),
        };
        if !is_expected {
            let expected = step.status.map_or_else(|| "200 to 299".to_owned(), |status| status.to_string());
            let body = String::from_utf8_lossy(&answer.beginning);
            let body = beginning(&body, 200);
            return Outcome::failed(format!("expected status {expected}, got {status}: {body}"));
        }
        let occasion = Occasion { payload: answer.beginning.clone(), ..Occasion::default() };
        match step.answer.check_message(&Subject::new(&occasion)) {
            Ok(()) => Outcome::passed(format!("status {status}")),
            Err(difference) => Outcome::failed(difference.replacen("the payload", "the body", 1)),
        }
    }

    /// Ends what goes on.
    pub async fn end_begun(&self) {
        let begun = std::mem::take(&mut *self.unended());
        for id in begun.replays {
            let _ = self.control.cancel_replay(pb::CancelReplayRequest { id }).await;
        }
        for (id, _) in begun.recordings {
            // One that somebody else has stopped is what was wanted.
            let _ = self.control.stop_recording(pb::StopRecordingRequest { id }).await;
        }
    }
}

pub fn done(result: Result<String, ControlError>) -> Outcome {
    result.map_or_else(Outcome::from, Outcome::passed)
}

fn of_chaos(error: ChaosError) -> ControlError {
    ControlError::NothingMeant(error.to_string())
}

fn of_mock(error: MockError) -> ControlError {
    ControlError::NothingMeant(error.to_string())
}

//! Steps that change the server, or ask it: chaos, mocks, state, recordings, replays, and HTTP.

use std::{
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::{
    runner::{Outcome, Runner},
    undo::Undo,
};
use crate::{
    amount::counted,
    control::{ControlError, pb, state::json_bytes, time},
    fault::{ChaosError, RuleSpec},
    journal::beginning,
    mock::{Condition, MockError, MockSpec, Occasion, StateScope, Subject},
    scenario::{HttpStep, RecordSpec, ReplayMode, ReplaySpec, VerifyLevel},
};

/// How often the state store is looked at, where a value is waited for.
const STATE_PAUSE: Duration = Duration::from_millis(10);

impl Runner {
    fn undo_list(&self) -> MutexGuard<'_, Undo> {
        // A list is whole between any two calls.
        self.undo.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Chaos and mocks draw from the run's seed as long as it goes on.
    fn take_seed(&self) -> Result<(), ControlError> {
        let before = self.control.chaos()?.seed();
        let mut undo = self.undo_list();
        if undo.seed.is_none() {
            undo.seed = Some(before);
            drop(undo);
            self.control.put_seed(self.run.seed)?;
        }
        Ok(())
    }

    pub fn set_rule(&self, spec: &RuleSpec) -> Result<String, ControlError> {
        self.take_seed()?;
        let chaos = self.control.chaos()?;
        let before = chaos.rule(&spec.id).ok().map(|view| view.rule.spec().clone());
        let set = match before.is_some() {
            true => chaos.update(&spec.id, spec.clone()),
            false => chaos.create(spec.clone()),
        };
        set.map_err(of_chaos)?;
        self.undo_list().note_rule(&spec.id, before);
        match chaos.is_enabled() {
            true => Ok(String::new()),
            false => Err(ControlError::NothingMeant("chaos is switched off in this server".to_owned())),
        }
    }

    pub fn remove_rule(&self, id: &str) -> Result<String, ControlError> {
        let chaos = self.control.chaos()?;
        let before = chaos.rule(id).ok().map(|view| view.rule.spec().clone());
        chaos.delete(id).map_err(of_chaos)?;
        self.undo_list().note_rule(id, before);
        Ok(String::new())
    }

    pub async fn reset_chaos(&self) -> Result<String, ControlError> {
        // All that is there goes, and comes back in the end.
        let rules = self.control.chaos()?.rules();
        {
            let mut undo = self.undo_list();
            for view in rules {
                let spec = view.rule.spec();
                undo.note_rule(&spec.id, Some(spec.clone()));
            }
        }
        self.control.reset_chaos(pb::ResetChaosRequest {}).await?;
        Ok(String::new())
    }

    pub fn apply_profile(&self, name: &str) -> Result<String, ControlError> {
        self.take_seed()?;
        let chaos = self.control.chaos()?;
        let before = chaos.rules();
        let rules = chaos.apply_profile(name).map_err(of_chaos)?;
        let mut undo = self.undo_list();
        for view in &rules {
            let id = view.rule.id();
            let before = before.iter().find(|before| before.rule.id() == id);
            undo.note_rule(id, before.map(|before| before.rule.spec().clone()));
        }
        Ok(counted(rules.len() as u64, "rule"))
    }

    pub fn set_mock(&self, spec: &MockSpec) -> Result<String, ControlError> {
        self.take_seed()?;
        let mocks = self.control.mocks()?;
        let before = mocks.get(&spec.id).ok().map(|mock| mock.mock.spec.clone());
        let set = match before.is_some() {
            true => mocks.update(&spec.id, spec.clone()),
            false => mocks.create(spec.clone()),
        };
        set.map_err(of_mock)?;
        self.undo_list().note_mock(&spec.id, before);
        Ok(String::new())
    }

    pub fn remove_mock(&self, id: &str) -> Result<String, ControlError> {
        let mocks = self.control.mocks()?;
        let before = mocks.get(id).ok().map(|mock| mock.mock.spec.clone());
        mocks.delete(id).map_err(of_mock)?;
        self.undo_list().note_mock(id, before);
        Ok(String::new())
    }

    pub fn reset_mocks(&self) -> Result<String, ControlError> {
        let mocks = self.control.mocks()?;
        let before = mocks.list();
        mocks.reset();
        let mut undo = self.undo_list();
        for view in &before {
            undo.note_mock(&view.mock.spec.id, Some(view.mock.spec.clone()));
        }
        // Of the settings, and removed since.
        for view in mocks.list() {
            undo.note_mock(&view.mock.spec.id, None);
        }
        Ok(String::new())
    }

    pub async fn set_state(
        &self,
        scope: &StateScope,
        key: &str,
        value: &Value,
    ) -> Result<String, ControlError> {
        let before = self.control.mocks()?.state().get(scope, key).cloned();
        let request =
            pb::SetStateRequest { scope: scope.to_string(), key: key.to_owned(), value: json_bytes(value) };
        self.control.set_state(request).await?;
        self.undo_list().note_state(scope, key, before);
        Ok(String::new())
    }

    pub fn reset_state(&self) -> Result<String, ControlError> {
        let mocks = self.control.mocks()?;
        let mut state = mocks.state();
        {
            let mut undo = self.undo_list();
            for (scope, key, value) in state.list() {
                undo.note_state(&scope, key, Some(value.clone()));
            }
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

    pub async fn record(&self, spec: &RecordSpec) -> Result<String, ControlError> {
        let name = spec.name.clone().unwrap_or_else(|| format!("{}-{}", self.scenario.name, self.run.id));
        let request = pb::StartRecordingRequest {
            name,
            topics: spec.topics.clone(),
            keep_credentials: spec.keep_credentials,
            ..Default::default()
        };
        let recording = self.control.start_recording(request).await?;
        self.undo_list().recordings.push((recording.id, recording.name.clone()));
        Ok(recording.name)
    }

    pub async fn stop_recording(&self, name: &str) -> Result<String, ControlError> {
        let recordings = self.undo_list().recordings.clone();
        let meant: Vec<_> =
            recordings.into_iter().filter(|(_, known)| name.is_empty() || known == name).collect();
        if meant.is_empty() {
            let what = match name {
                "" => "no recording was begun before".to_owned(),
                name => format!("no recording {name:?} was begun before"),
            };
            return Err(ControlError::NothingMeant(what));
        }
        let mut stopped = Vec::new();
        for (id, name) in meant {
            let recording = self.control.stop_recording(pb::StopRecordingRequest { id: id.clone() }).await?;
            self.undo_list().recordings.retain(|(known, _)| *known != id);
            stopped.push(format!("{name} has {}", counted(recording.events, "event")));
        }
        Ok(stopped.join(", "))
    }

    pub async fn mark(&self, label: &str) -> Result<String, ControlError> {
        let recordings = self.undo_list().recordings.clone();
        for (id, _) in &recordings {
            let request = pb::MarkRecordingRequest { id: id.clone(), label: label.to_owned() };
            self.control.mark_recording(request).await?;
        }
        Ok(label.to_owned())
    }

    pub async fn replay(&self, spec: &ReplaySpec) -> Outcome {
        let own = || match &self.scenario.target {
            Some(target) => target.clone(),
            None => self.run.target.spelled(),
        };
        let duration = |span: Duration| time::duration(span);
        let asked = pb::ReplaySpec {
            recording: spec.recording.clone(),
            target: spec.target.clone().unwrap_or_else(own),
            mode: match spec.mode {
                ReplayMode::Publish => pb::ReplayMode::Publish,
                ReplayMode::Client => pb::ReplayMode::Client,
            }
            .into(),
            speed: spec.speed,
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
        self.undo_list().replays.push(id.clone());
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
        self.undo_list().replays.retain(|known| *known != id);
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

    pub async fn undo(&self) {
        let undo = std::mem::take(&mut *self.undo_list());
        for id in undo.replays {
            let _ = self.control.cancel_replay(pb::CancelReplayRequest { id }).await;
        }
        for (id, _) in undo.recordings {
            // One that somebody else has stopped is what was wanted.
            let _ = self.control.stop_recording(pb::StopRecordingRequest { id }).await;
        }
        if self.scenario.keeps {
            return;
        }
        // What somebody else removed meanwhile is gone, which was wanted, too.
        if let Ok(chaos) = self.control.chaos() {
            for (id, before) in undo.rules {
                let _ = match before {
                    None => chaos.delete(&id),
                    Some(spec) if chaos.rule(&id).is_ok_and(|view| *view.rule.spec() == spec) => Ok(()),
                    Some(spec) if chaos.rule(&id).is_ok() => chaos.update(&id, spec).map(drop),
                    Some(spec) => chaos.create(spec).map(drop),
                };
            }
        }
        if let Ok(mocks) = self.control.mocks() {
            for (id, before) in undo.mocks {
                let _ = match before {
                    None => mocks.delete(&id),
                    Some(spec) if mocks.get(&id).is_ok() => mocks.update(&id, spec).map(drop),
                    Some(spec) => mocks.create(spec).map(drop),
                };
            }
            for (scope, key, before) in undo.state {
                let mut state = mocks.state();
                match before {
                    None => _ = state.delete(&scope, &key),
                    Some(value) => _ = state.set(&scope, &key, value),
                }
            }
        }
        if let Some(seed) = undo.seed {
            let _ = self.control.put_seed(seed);
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

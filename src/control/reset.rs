//! The rpc `Reset` of `Admin`: a clean start in one call.

use super::{Control, ControlError, pb};
use crate::broker::ResetCounts;

impl Control {
    pub async fn reset(&self, request: pb::ResetRequest) -> Result<pb::ResetResponse, ControlError> {
        let server = self.server()?;
        let pb::ResetRequest { mocks, chaos, journal, state, broker } = request;
        let is_all = [mocks, chaos, journal, state, broker].iter().all(Option::is_none);
        let is_meant = |part: Option<bool>| part.unwrap_or(is_all);
        let is_proxy = server.source().upstream.is_some();
        let mut answer = pb::ResetResponse::default();
        // What makes messages comes before what keeps them.
        if is_meant(chaos) {
            answer.chaos_rules = self.chaos()?.rules().len() as u64;
            self.restart_chaos().await?;
        }
        if is_meant(mocks) {
            answer.mocks = self.mocks()?.list().len() as u64;
            self.start_mocks_anew()?;
        }
        if is_meant(state) {
            let mut changes = self.scenario_changes();
            let mut state = self.mocks()?.state();
            answer.state_values = state.len() as u64;
            state.reset();
            changes.state.clear();
        }
        if broker.unwrap_or(is_all && !is_proxy) {
            let ResetCounts { retained, sessions, queued } = server.reset().await?;
            (answer.retained_messages, answer.sessions, answer.queued_messages) =
                (retained, sessions, queued);
        }
        if let Some(kept) = &self.parts().journal {
            if is_meant(journal) {
                answer.journal_messages = kept.reset();
            }
            answer.cursor = kept.cursor();
        }
        Ok(answer)
    }
}

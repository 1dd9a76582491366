//! The rpc `Reset` of `Admin`: a clean start in one call.

use super::{Control, ControlError, pb};
use crate::broker::ResetCounts;

impl Control {
    pub async fn reset(&self, request: pb::ResetRequest) -> Result<pb::ResetResponse, ControlError> {
        let server = self.server()?;
        let pb::ResetRequest { mocks, chaos, journal, state, broker } = request;
        let is_all = !(mocks || chaos || journal || state || broker);
        let is_proxy = server.source().upstream.is_some();
        let mut answer = pb::ResetResponse::default();
        // What makes messages comes before what keeps them.
        if chaos || is_all {
            answer.chaos_rules = self.chaos()?.rules().len() as u64;
            self.reset_chaos(pb::ResetChaosRequest {}).await?;
        }
        if mocks || is_all {
            answer.mocks = self.mocks()?.list().len() as u64;
            self.mocks()?.reset();
        }
        if state || is_all {
            let mut state = self.mocks()?.state();
            answer.state_values = state.len() as u64;
            state.reset();
        }
        if broker || is_all && !is_proxy {
            let ResetCounts { retained, sessions, queued } = server.reset().await?;
            (answer.retained_messages, answer.sessions, answer.queued_messages) =
                (retained, sessions, queued);
        }
        if let Some(kept) = &self.parts().journal {
            if journal || is_all {
                answer.journal_messages = kept.reset();
            }
            answer.cursor = kept.cursor();
        }
        Ok(answer)
    }
}

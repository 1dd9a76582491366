//! Networks, brokers and clients that misbehave.

use crate::{
    config::read_rules,
    control::{ControlError, pb},
    fault::{RuleSpec, RuleView},
    server::running::Link,
};

/// Chaos of a running server.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use mockforge::Server;
///
/// let server = Server::builder().seed(42).start().await?;
/// let chaos = server.chaos();
/// chaos.add_yaml("{match: {client: 'dev-*', types: [PUBACK]}, when: {every_nth: 3}, actions: [withhold_ack]}")?;
/// // … devices whose third acknowledgement never comes …
/// chaos.reset().await?; // a clean pipe; connections stay
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ChaosRules {
    link: Link,
}

impl ChaosRules {
    pub(in crate::server) fn new(link: Link) -> Self {
        Self { link }
    }

    /// In force for the next packet, of connections that are open, too.
    ///
    /// # Errors
    /// Which field is wrong and how; an id that is taken.
    pub fn add(&self, rule: RuleSpec) -> Result<RuleView, ControlError> {
        self.link.control().add_rule(rule)
    }

    /// One rule or a list, written as in `mockforge.yaml`.
    ///
    /// # Errors
    /// Line, column and key of what cannot be read or is not good, and nothing is added then; an id that is taken.
    pub fn add_yaml(&self, yaml: &str) -> Result<Vec<RuleView>, ControlError> {
        let rules = read_rules("rule", yaml).map_err(|error| ControlError::bad_field("yaml", error))?;
        rules.into_iter().map(|rule| self.add(rule)).collect()
    }

    /// The rules of `3g`, `edge`, `satellite`, `lossy-wifi` or `flaky-broker`.
    ///
    /// # Errors
    /// A name that is none of these.
    pub async fn apply_profile(&self, name: &str) -> Result<(), ControlError> {
        let request = pb::ApplyProfileRequest { name: name.to_owned() };
        self.link.ask(|control| async move { control.apply_profile(request).await }).await?;
        Ok(())
    }

    /// # Errors
    /// If there is no rule of that id.
    pub async fn remove(&self, id: &str) -> Result<(), ControlError> {
        let request = pb::DeleteRuleRequest { id: id.to_owned() };
        self.link.ask(|control| async move { control.delete_rule(request).await }).await
    }

    /// Follows rules again after [`disable`](Self::disable).
    ///
    /// # Errors
    /// When the server is stopping.
    pub async fn enable(&self) -> Result<(), ControlError> {
        self.link.ask(|control| async move { control.enable_chaos(pb::EnableChaosRequest {}).await }).await?;
        Ok(())
    }

    /// Keeps the rules and follows none; what is held back goes out.
    ///
    /// # Errors
    /// When the server is stopping.
    pub async fn disable(&self) -> Result<(), ControlError> {
        self.link
            .ask(|control| async move { control.disable_chaos(pb::DisableChaosRequest {}).await })
            .await?;
        Ok(())
    }

    /// No rules, and what is held back goes out; connections stay.
    ///
    /// # Errors
    /// When the server is stopping.
    pub async fn reset(&self) -> Result<(), ControlError> {
        self.link.ask(|control| async move { control.reset_chaos(pb::ResetChaosRequest {}).await }).await?;
        Ok(())
    }

    /// What was done to which packet, the newest first, up to 1,000 and 3 MiB.
    ///
    /// # Errors
    /// When the server is stopping.
    pub async fn faults(&self) -> Result<Vec<pb::Fault>, ControlError> {
        let request = pb::ListFaultsRequest { page_size: 1000, ..Default::default() };
        let page = self.link.ask(|control| async move { control.list_faults(request).await }).await?;
        Ok(page.faults)
    }

    /// What chaos draws from: the same seed breaks the same things again.
    pub fn seed(&self) -> u64 {
        self.link.control().seed()
    }
}

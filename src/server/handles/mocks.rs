//! What answers by itself.

use crate::{
    config::read_mocks,
    control::{ControlError, pb},
    mock::{MockSpec, MockView},
    server::running::Link,
};

/// Mocks of a running server.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use mockforge::Server;
///
/// let server = Server::builder().start().await?;
/// let mocks = server.mocks();
/// mocks.add_yaml("{topic: 'devices/{{id}}/get', response: {topic: 'devices/{{id}}/state', payload: {on: true}}}")?;
/// // … a device asks on devices/d1/get, and is answered on devices/d1/state …
/// assert_eq!(mocks.list()[0].figures.fired, 0);
/// mocks.clear().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Mocks {
    link: Link,
}

impl Mocks {
    pub(in crate::server) fn new(link: Link) -> Self {
        Self { link }
    }

    /// In force for the next message.
    ///
    /// # Errors
    /// Which field is wrong and how; an id that is taken.
    pub fn add(&self, mock: MockSpec) -> Result<MockView, ControlError> {
        self.link.control().add_mock(mock)
    }

    /// One mock or a list, written as in `mockforge.yaml`.
    ///
    /// # Errors
    /// Line, column and key of what cannot be read or is not good, and nothing is added then; an id that is taken.
    pub fn add_yaml(&self, yaml: &str) -> Result<Vec<MockView>, ControlError> {
        let mocks = read_mocks("mock", yaml).map_err(|error| ControlError::bad_field("yaml", error))?;
        mocks.into_iter().map(|mock| self.add(mock)).collect()
    }

    /// In the order in which they were made, with how often each fired.
    pub fn list(&self) -> Vec<MockView> {
        self.link.control().mock_views()
    }

    /// # Errors
    /// If there is none of that id.
    pub async fn remove(&self, id: &str) -> Result<(), ControlError> {
        let request = pb::DeleteMockRequest { id: id.to_owned() };
        self.link.ask(|control| async move { control.delete_mock(request).await }).await
    }

    /// Mocks of the settings stay, with their counts at zero; all others go, those that the builder was given included.
    ///
    /// # Errors
    /// When the server is stopping.
    pub async fn clear(&self) -> Result<(), ControlError> {
        self.link.ask(|control| async move { control.reset_mocks(pb::ResetMocksRequest {}).await }).await?;
        Ok(())
    }

    /// The last messages that no mock was for, and what was nearest.
    ///
    /// # Errors
    /// When the server is stopping.
    pub async fn unmatched(&self) -> Result<Vec<pb::UnmatchedMessage>, ControlError> {
        let request = pb::ListUnmatchedRequest::default();
        let answer = self.link.ask(|control| async move { control.list_unmatched(request).await }).await?;
        Ok(answer.messages)
    }
}

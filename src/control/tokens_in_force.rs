//! Who may call the control plane at the moment; settings that are read again may change it.

use std::sync::Arc;

use tokio::sync::watch;

use crate::auth::ApiTokens;

/// Clones share what is in force.
#[derive(Clone)]
pub struct TokensInForce(Arc<watch::Sender<Arc<ApiTokens>>>);

impl TokensInForce {
    pub fn get(&self) -> Arc<ApiTokens> {
        Arc::clone(&self.0.borrow())
    }

    /// Puts others into force, and tells who waits, if they are others.
    pub fn set(&self, tokens: ApiTokens) {
        self.0.send_if_modified(|current| {
            let is_new = **current != tokens;
            if is_new {
                *current = Arc::new(tokens);
            }
            is_new
        });
    }

    /// Completes when others are in force than when it was called.
    pub fn changed(&self) -> impl Future<Output = ()> + use<> {
        let mut tokens = self.0.subscribe();
        async move {
            if tokens.changed().await.is_err() {
                std::future::pending().await
            }
        }
    }
}

impl From<ApiTokens> for TokensInForce {
    fn from(tokens: ApiTokens) -> Self {
        Self(Arc::new(watch::Sender::new(Arc::new(tokens))))
    }
}

impl Default for TokensInForce {
    fn default() -> Self {
        ApiTokens::default().into()
    }
}

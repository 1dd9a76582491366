//! Webhooks: an HTTP request for each routed message that matches.
//!
//! What is decided about a request stands here: which messages it is for, what it says, what its answer means and when it is
//! tried again. `net/webhooks` sends it.

mod answer;
mod authorities;
mod delivery;
mod hook;
mod mask;
mod message;
mod request;
mod spec;

pub use answer::{Verdict, judge, retry_wait};
pub use authorities::Authorities;
pub use delivery::{
    BODY_KEPT, DeliveryLog, DeliveryState, LOGGED_MAX, RESPONSE_KEPT, WebhookDelivery, WebhookEvent,
};
pub use hook::{Webhook, check_webhooks};
pub use mask::{MASK, is_secret_name, masked_url};
pub use message::RoutedMessage;
pub use request::{BadRequest, Draft, Rendering, signature};
pub use spec::{Secret, WEBHOOKS_MAX, WebhookSpec, free_id, name_webhooks};

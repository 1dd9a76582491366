//! How far a new subscription has been sent its retained messages.

use std::sync::Arc;

use crate::packet::QoS;

use super::SubscriptionKey;

/// Retained messages still to be sent for one subscription.
///
/// They are looked up as there is room for them instead of being queued, so a subscription to a
/// million retained messages costs no more than its filter, whatever the client's speed.
#[derive(Clone, Debug)]
pub struct RetainedScan {
    pub subscription: SubscriptionKey,
    /// The filter, with U+0000 in place of each `/`: then levels sort as a whole.
    pub pattern: Box<[u8]>,
    /// Topics before this one, in the same form, have been looked at.
    pub from: Vec<u8>,
    /// Up to which count of stored messages it goes, for those that are sent at QoS 0 and for the
    /// others: later ones are sent to the client as they are published, or wait for it in their
    /// order. What a client missed of QoS 0, away or slow, is looked up, too.
    pub until: [u64; 2],
    pub lookup: Lookup,
    /// The record of the message in the queue that it stands behind; 0 for none.
    pub after: u64,
    /// Whether it goes through what the broker itself has retained, instead of what clients have.
    pub is_of_figures: bool,
}

/// How what is found is sent.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    /// The granted QoS.
    pub qos: QoS,
    pub subscription_identifier: Option<u32>,
    /// The client whose own messages are left out; `None` leaves out none.
    pub not_from: Option<Arc<str>>,
}

impl RetainedScan {
    /// There is one for each subscription, and one for the broker's own messages.
    pub fn key(&self) -> (SubscriptionKey, bool) {
        (self.subscription, self.is_of_figures)
    }
}

//! How far a new subscription has been sent its retained messages.

use std::sync::Arc;

use crate::packet::QoS;

use super::SubscriptionKey;

/// Retained messages still to be sent for one subscription.
///
/// They are looked up as there is room for them instead of being queued, so a subscription to a
/// million retained messages costs a few bytes, whatever the client's speed.
#[derive(Clone, Debug)]
pub struct RetainedScan {
    pub subscription: SubscriptionKey,
    /// The filter, with U+0000 in place of each `/`: then levels sort as a whole.
    pub pattern: Box<[u8]>,
    /// Topics before this one, in the same form, have been looked at.
    pub from: Vec<u8>,
    /// Messages of QoS 1 and 2 that were stored later are no part of it: they wait for the client
    /// themselves, in their order. The count of those stored before.
    pub until: u64,
    /// The granted QoS.
    pub qos: QoS,
    pub subscription_identifier: Option<u32>,
    /// The client whose own messages are left out; `None` leaves out none.
    pub not_from: Option<Arc<str>>,
    /// Whether it goes through what the broker itself has retained, instead of what clients have.
    pub is_of_figures: bool,
}

impl RetainedScan {
    /// Takes over the options that the subscription of `scan` has been replaced with.
    pub fn subscribe_as(&mut self, scan: &RetainedScan) {
        self.qos = scan.qos;
        self.subscription_identifier = scan.subscription_identifier;
        self.not_from.clone_from(&scan.not_from);
    }
}

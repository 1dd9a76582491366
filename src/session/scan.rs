//! How far a new subscription has been sent its retained messages.

use crate::packet::QoS;

/// Retained messages still to be sent for one subscription.
///
/// They are looked up as there is room for them instead of being queued, so a subscription to a
/// million retained messages costs a few bytes, whatever the client's speed.
#[derive(Clone, Debug)]
pub struct RetainedScan {
    /// The filter, with U+0000 in place of each `/`: then levels sort as a whole.
    pub pattern: Box<[u8]>,
    /// Topics before this one, in the same form, have been looked at.
    pub from: Vec<u8>,
    /// The granted QoS.
    pub qos: QoS,
    pub subscription_identifier: Option<u32>,
    /// Whether it goes through what the broker itself has retained, instead of what clients have.
    pub is_of_figures: bool,
}

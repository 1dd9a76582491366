//! Callers that were turned away, by reason: in the log and as figures.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tonic::Status;
use tonic_types::StatusExt;
use tracing::{debug, warn};

use crate::metrics::Family;

/// As `mockforge_api_refused_total` has them.
const REASONS: [&str; 9] = [
    "token_missing",
    "token_wrong",
    "role_too_low",
    "foreign_host",
    "foreign_origin",
    "too_many_calls",
    "too_many_connections",
    "made_room",
    "tls_handshake",
];

pub const TOO_MANY_CONNECTIONS: &str = "too_many_connections";
/// Closed for another.
pub const MADE_ROOM: &str = "made_room";
pub const TLS_FAILED: &str = "tls_handshake";

/// Figures of both ports; clones share them.
#[derive(Clone, Default)]
pub struct Refusals(Arc<[AtomicU64; REASONS.len()]>);

impl Refusals {
    /// A line for each at debug, and a warning at the 1st, 2nd, 4th, 8th …: a flood does not fill the log as well.
    pub fn note(&self, reason: &'static str, peer: Option<SocketAddr>, error: &str) {
        let Some(position) = REASONS.iter().position(|known| *known == reason) else { return };
        let count = self.0[position].fetch_add(1, Ordering::Relaxed) + 1;
        let peer = peer.map(tracing::field::display);
        if count.is_power_of_two() {
            warn!(reason, peer, count, error, "callers of the control plane are refused");
        } else {
            debug!(reason, peer, error, "a caller of the control plane is refused");
        }
    }

    /// What a request was answered, if that is a refusal.
    pub fn note_status(&self, status: &Status, peer: Option<SocketAddr>) {
        let details = status.get_error_details();
        let said = details.error_info().map_or("", |info| info.reason.as_str());
        if let Some(reason) = REASONS.into_iter().find(|known| known.eq_ignore_ascii_case(said)) {
            self.note(reason, peer, status.message());
        }
    }

    pub fn families(&self) -> Vec<Family> {
        let counts = REASONS.into_iter().zip(self.0.iter());
        vec![
            Family::counter(
                "mockforge_api_refused_total",
                "Callers of the control plane that were turned away.",
            )
            .each("reason", counts.map(|(reason, count)| (reason, count.load(Ordering::Relaxed)))),
        ]
    }
}

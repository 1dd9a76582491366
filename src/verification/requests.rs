//! Requests whose answers are not required, because they are not.

use std::collections::HashMap;

use super::{allowance::Allowance, scope::Demand};
use crate::packet::PacketIdentifier;

/// Of a request, in its table.
const REQUEST_BYTES: usize = 64;

/// CONNECT, SUBSCRIBE and UNSUBSCRIBE packets that are allowed or ignored, by connection; CONNECT has no identifier.
#[derive(Default)]
pub struct Requests(HashMap<u32, HashMap<Option<PacketIdentifier>, Demand>>);

impl Requests {
    pub fn ask(
        &mut self,
        connection: u32,
        identifier: Option<PacketIdentifier>,
        demand: Demand,
        allowance: &mut Allowance,
    ) {
        if demand == Demand::Required {
            self.answer(connection, identifier, allowance);
        } else if self.0.entry(connection).or_default().insert(identifier, demand).is_none() {
            allowance.take(REQUEST_BYTES);
        }
    }

    /// What is asked of the answer, if nobody ignores it for itself.
    pub fn answer(
        &mut self,
        connection: u32,
        identifier: Option<PacketIdentifier>,
        allowance: &mut Allowance,
    ) -> Demand {
        let asked = self.0.get_mut(&connection).and_then(|requests| requests.remove(&identifier));
        if asked.is_some() {
            allowance.give_back(REQUEST_BYTES);
        }
        asked.unwrap_or(Demand::Required)
    }

    pub fn close(&mut self, connection: u32, allowance: &mut Allowance) {
        let asked = self.0.remove(&connection).map_or(0, |requests| requests.len());
        allowance.give_back(asked * REQUEST_BYTES);
    }
}

//! The client identifiers of a recording.

use std::collections::HashSet;

use super::{Connections, Direction, Event, EventKind};
use crate::packet::ControlPacket;

/// Bytes of all of them.
const SIZE_MAX: usize = 64 << 20;

/// All client identifiers that are sent, or known from the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientNames {
    names: HashSet<String>,
    size: usize,
}

/// They cannot be held.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the recording has over {} MiB of client identifiers, too many to tell what becomes of them", SIZE_MAX >> 20)]
pub struct TooManyNames;

impl ClientNames {
    /// Those of all `events`.
    ///
    /// # Errors
    /// Those of the events, and [`TooManyNames`].
    pub fn read<E: From<TooManyNames>>(events: impl Iterator<Item = Result<Event, E>>) -> Result<Self, E> {
        let (mut names, mut connections) = (Self::default(), Connections::new());
        for event in events {
            let event = event?;
            let seen = connections.follow(&event);
            match &event.kind {
                EventKind::Open(info) => names.add(info.client_identifier.as_deref())?,
                EventKind::State(in_force) => names.add(in_force.client_identifier.as_deref())?,
                EventKind::Packet { direction: Direction::ClientToServer, .. } => {
                    if let Some(Ok(ControlPacket::Connect(connect))) = seen.map(|seen| seen.packet) {
                        names.add(Some(connect.client_identifier.as_str()))?;
                    }
                }
                EventKind::Close(_) => connections.forget(event.connection),
                _ => {}
            }
        }
        Ok(names)
    }

    /// `name` alone.
    pub(in crate::recording) fn one(name: &str) -> Self {
        Self { names: HashSet::from([name.to_owned()]), size: name.len() }
    }

    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// In an order that is always the same.
    pub(in crate::recording) fn sorted(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.names.iter().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// # Errors
    /// If there is no room for it.
    pub(in crate::recording) fn add(&mut self, name: Option<&str>) -> Result<(), TooManyNames> {
        let Some(name) = name.filter(|name| !name.is_empty() && !self.names.contains(*name)) else {
            return Ok(());
        };
        self.size += name.len() + size_of::<String>();
        if self.size > SIZE_MAX {
            return Err(TooManyNames);
        }
        self.names.insert(name.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::sample::script;

    #[test]
    fn names_are_those_of_clients_wherever_they_come_first() {
        let events = script(
            "1 open
            1 c2s CONNECT app v=5
            1 c2s SUBSCRIBE 1 up/dev
            2 open
            2 c2s CONNECT dev v=5
            2 c2s PUBLISH up/dev x
            3 open
            3 c2s CONNECT \"\" v=5",
        );
        let names = ClientNames::read(events.into_iter().map(Ok::<_, TooManyNames>)).unwrap();
        let known = ["app", "dev", "up", ""].map(|name| names.has(name));
        assert_eq!(known, [true, true, false, false]);
    }
}

//! What the parts of a broker have to agree on, whatever clients do.

use crate::session::State;

use super::Broker;

impl Broker {
    /// # Panics
    /// When they do not agree, or hold more than the limits allow.
    pub fn assert_consistent(&self) {
        let stats = self.stats();
        assert_eq!(self.by_client.len(), self.sessions.len());
        assert_eq!(self.by_id.len(), self.connections.len());
        assert_eq!(stats.subscriptions_active as usize, self.subscriptions().len());
        let held: usize = self.sessions.iter().map(|(_, session)| session.subscriptions.len()).sum();
        assert_eq!(self.subscriptions.len(), held);
        for (index, session) in &self.sessions {
            assert_eq!(self.by_client.get(&session.client_identifier), Some(&(index as u32)));
            for (&key, &position) in &*session.subscriptions {
                let subscriber = self.subscriptions.get(key, position).expect("the tree has it");
                assert_eq!(subscriber.session, index as u32);
            }
            assert!(session.queue.len() <= self.limits.queue_messages);
            assert!(session.inflight.len() <= usize::from(self.limits.inflight_max));
            match session.connection {
                Some(connection) => {
                    let connection = &self.connections[connection as usize];
                    assert_eq!(connection.state, State::Connected(index as u32));
                    assert!(connection.send_used <= connection.send_maximum);
                    assert!(usize::from(connection.send_used) <= session.inflight.len());
                    assert!(session.ends_at.is_none() && session.will_at.is_none());
                }
                None => assert!(session.expiry > 0 && session.resend.is_empty()),
            }
        }
        let connected = self.sessions.iter().filter(|(_, session)| session.connection.is_some()).count();
        assert_eq!(self.connected, connected);
        for (index, connection) in &self.connections {
            if let State::Connected(session) = connection.state {
                assert_eq!(self.sessions[session as usize].connection, Some(index as u32));
            }
        }
        assert!(self.sessions.len() <= self.limits.sessions);
        assert!(self.retained.len() <= self.limits.retained_messages);
        assert!(self.retained.bytes() <= self.limits.retained_bytes);
    }
}

//! What the parts of a broker have to agree on, whatever clients do.

use crate::{
    packet::PacketIdentifier,
    session::{Delivery, Stage, State},
};

use super::{
    Broker,
    journal::record_of,
    records::{DeliveryRecord, DeliveryStage, Restored, RestoredSession, RetainedRecord},
    subscribe::subscription_record,
};

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
    /// What is to be kept of this broker, as it is now.
    pub fn to_be_kept(&self) -> Restored {
        let mut kept = Restored::default();
        for (_, session) in self.sessions.iter().filter(|(_, session)| session.number != 0) {
            let keys = session.subscriptions.keys();
            let mut subscriptions: Vec<_> =
                keys.filter_map(|&key| subscription_record(session, &self.subscriptions, key)).collect();
            subscriptions.sort_by(|one, other| one.filter.cmp(&other.filter));
            let delivery =
                |record, stage| (record, DeliveryRecord { session: session.number, stage, share: None });
            let queued = session
                .queue
                .messages()
                .map(|message| delivery(message.record, DeliveryStage::Queued(message.clone())));
            let sent = session.inflight.exchanges().map(|(serial, stage)| match stage {
                Stage::Published(message) => {
                    let published = DeliveryStage::Published { serial, delivery: message.clone() };
                    delivery(message.record, published)
                }
                &Stage::Released { order, record } => {
                    delivery(record, DeliveryStage::Released { serial, order })
                }
            });
            let mut deliveries: Vec<_> = sent.chain(queued).collect();
            deliveries.sort_by_key(|(record, _)| *record);
            for (_, delivery) in &mut deliveries {
                let share = delivery.stage.delivery().and_then(|Delivery { share, .. }| *share);
                delivery.share = share.and_then(|share| self.subscriptions.filter_of_share(share));
            }
            let mut received: Vec<_> =
                session.received.identifiers().filter_map(PacketIdentifier::new).collect();
            received.sort_by_key(|identifier| identifier.get());
            let (number, record) = (session.number, record_of(session));
            kept.sessions.push(RestoredSession { number, record, subscriptions, deliveries, received });
        }
        kept.sessions.sort_by_key(|session| session.number);
        kept.retained = (self.retained.entries())
            .map(|(serial, message, publisher)| {
                (serial, RetainedRecord { message: message.clone(), publisher: publisher.cloned() })
            })
            .collect();
        kept.retained.sort_by_key(|(serial, _)| *serial);
        kept
    }
}

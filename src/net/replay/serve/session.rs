//! What a live client and we have begun and not finished.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    time::Instant,
};

use crate::packet::{Ack, ControlPacket, PacketIdentifier, Publish, QoS, ReasonCode};

/// Acknowledgements of QoS 1 that are remembered: if the connection breaks, the client may not have heard them.
const REMEMBERED: usize = 1024;

/// Exchanges of one client in both directions, over all of its connections.
#[derive(Default)]
pub struct Session {
    /// Towards the client, in the order in which they began.
    sending: BTreeMap<u64, Sending>,
    serials: HashMap<PacketIdentifier, u64>,
    next_serial: u64,
    last_identifier: u16,
    /// Of those, how many were sent over the present connection.
    sent: usize,
    /// What was sent over the connection before, and not yet over this one.
    again: VecDeque<u64>,
    /// Messages that wait for the client to acknowledge others, or to come back.
    waiting: VecDeque<Waiting>,
    /// How many of both came from the target.
    passed: usize,
    /// QoS 2 messages of the client that it has not released.
    receiving: HashMap<PacketIdentifier, Receiving>,
    acknowledged: VecDeque<(PacketIdentifier, u64, ReasonCode)>,
}

/// A message of QoS 1 or 2 on its way to the client.
struct Sending {
    identifier: PacketIdentifier,
    /// `None` once the client has it, and PUBREL is unanswered.
    publish: Option<Box<Publish>>,
    is_sent: bool,
    /// Whether it came from the target.
    is_passed: bool,
    qos: QoS,
}

/// A message that cannot be sent yet.
pub struct Waiting {
    pub publish: Box<Publish>,
    /// When it was due, if it has a time.
    pub deadline: Option<Instant>,
    pub is_passed: bool,
}

/// A message of QoS 2 that the client has not released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receiving {
    /// Of its PUBCOMP.
    pub completion: ReasonCode,
    /// Whether it went to the target.
    pub is_passed: bool,
    /// Whether its PUBREC was sent.
    pub is_answered: bool,
    /// Whether nobody judges it.
    pub is_untold: bool,
}

/// What an acknowledgement of the client was about.
#[derive(Debug, PartialEq)]
pub enum Acknowledged {
    /// The exchange is over.
    Completed { is_passed: bool },
    /// PUBREL is due.
    Released { is_passed: bool },
    /// Of nothing that waits for it.
    Unknown,
}

impl Session {
    /// The client has come back: all that is unfinished has to be sent again [MQTT-4.4.0-1].
    pub fn resume(&mut self) {
        self.sent = 0;
        for sending in self.sending.values_mut() {
            sending.is_sent = false;
        }
        self.again = self.sending.keys().copied().collect();
        // What the target sent and answered is not for another connection.
        self.receiving.retain(|_, receiving| !receiving.is_passed);
    }

    pub fn put_off(&mut self, waiting: Waiting) {
        self.passed += usize::from(waiting.is_passed);
        self.waiting.push_back(waiting);
    }

    /// The next packet that may be sent while the client takes `receive_maximum` messages at a time; with its deadline if
    /// it is a message that is sent for the first time.
    pub fn next(&mut self, receive_maximum: usize) -> Option<(ControlPacket, Option<Waiting>)> {
        while self.sent < receive_maximum
            && let Some(serial) = self.again.pop_front()
        {
            // It may be acknowledged by now.
            let Some(sending) = self.sending.get_mut(&serial) else { continue };
            sending.is_sent = true;
            self.sent += 1;
            let packet_identifier = Some(sending.identifier);
            let packet = match &sending.publish {
                Some(publish) => {
                    ControlPacket::Publish(Publish { dup: true, packet_identifier, ..(**publish).clone() })
                }
                None => ControlPacket::Pubrel(Ack::new(sending.identifier)),
            };
            return Some((packet, None));
        }
        if self.sent >= receive_maximum {
            return None;
        }
        let waiting = self.waiting.pop_front()?;
        let identifier = self.next_identifier();
        let publish = Publish { packet_identifier: Some(identifier), ..(*waiting.publish).clone() };
        let sending = Sending {
            identifier,
            qos: publish.qos,
            publish: Some(waiting.publish.clone()),
            is_sent: true,
            is_passed: waiting.is_passed,
        };
        self.serials.insert(identifier, self.next_serial);
        self.sending.insert(self.next_serial, sending);
        self.next_serial += 1;
        self.sent += 1;
        Some((ControlPacket::Publish(publish), Some(waiting)))
    }

    pub fn puback(&mut self, identifier: PacketIdentifier) -> Acknowledged {
        self.complete_if(identifier, |sending| sending.qos == QoS::AtLeastOnce)
    }

    pub fn pubrec(&mut self, ack: &Ack) -> Acknowledged {
        let serial = self.serials.get(&ack.packet_identifier);
        let Some(sending) = serial.and_then(|serial| self.sending.get_mut(serial)) else {
            return Acknowledged::Unknown;
        };
        if sending.qos != QoS::ExactlyOnce {
            return Acknowledged::Unknown;
        }
        if ack.reason_code.is_error() && sending.publish.is_some() {
            // Refused: the exchange ends here [MQTT-4.3.3-4].
            return self.complete_if(ack.packet_identifier, |_| true);
        }
        sending.publish = None;
        Acknowledged::Released { is_passed: sending.is_passed }
    }

    pub fn pubcomp(&mut self, identifier: PacketIdentifier) -> Acknowledged {
        let is_released = |sending: &Sending| sending.qos == QoS::ExactlyOnce && sending.publish.is_none();
        self.complete_if(identifier, is_released)
    }

    /// The QoS 2 message that has this identifier, if it came before.
    pub fn receiving(&mut self, identifier: PacketIdentifier) -> Option<&mut Receiving> {
        self.receiving.get_mut(&identifier)
    }

    pub fn receive(&mut self, identifier: PacketIdentifier, receiving: Receiving) {
        self.receiving.insert(identifier, receiving);
    }

    pub fn released(&mut self, identifier: PacketIdentifier) -> Option<Receiving> {
        self.receiving.remove(&identifier)
    }

    /// `publish` of QoS 1 was answered.
    pub fn acknowledge(&mut self, publish: &Publish, reason_code: ReasonCode) {
        let Some(identifier) = publish.packet_identifier else { return };
        if self.acknowledged.len() == REMEMBERED {
            self.acknowledged.pop_front();
        }
        self.acknowledged.push_back((identifier, digest(publish), reason_code));
    }

    /// What a message of QoS 1 was answered that is sent again because the client has not heard so.
    pub fn answered_before(&self, publish: &Publish) -> Option<ReasonCode> {
        let identifier = publish.packet_identifier.filter(|_| publish.dup)?;
        let digest = digest(publish);
        let mut latest = self.acknowledged.iter().rev();
        latest.find(|(of, known, _)| *of == identifier && *known == digest).map(|(_, _, reason)| *reason)
    }

    /// Whether nothing that was recorded is on its way to the client, or waits for that.
    pub fn is_idle(&self) -> bool {
        self.sending.len() + self.waiting.len() == self.passed
    }

    /// Messages that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Messages that the client has not acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.sending.len()
    }

    /// Forgets what the target has sent: it is not for another connection.
    pub fn forget_passed(&mut self) {
        self.passed = 0;
        self.waiting.retain(|waiting| !waiting.is_passed);
        let serials = &mut self.serials;
        self.sending.retain(|_, sending| {
            if sending.is_passed {
                serials.remove(&sending.identifier);
            }
            !sending.is_passed
        });
    }

    fn complete_if(
        &mut self,
        identifier: PacketIdentifier,
        in_turn: impl FnOnce(&Sending) -> bool,
    ) -> Acknowledged {
        let Some(&serial) = self.serials.get(&identifier) else { return Acknowledged::Unknown };
        if !self.sending.get(&serial).is_some_and(in_turn) {
            return Acknowledged::Unknown;
        }
        self.serials.remove(&identifier);
        let ended = self.sending.remove(&serial);
        let is_sent = ended.as_ref().is_some_and(|sending| sending.is_sent);
        self.sent -= usize::from(is_sent);
        let is_passed = ended.is_some_and(|sending| sending.is_passed);
        self.passed -= usize::from(is_passed);
        Acknowledged::Completed { is_passed }
    }

    /// One that is not in use: at most 65,535 are, one less than are in use when this is called.
    fn next_identifier(&mut self) -> PacketIdentifier {
        loop {
            self.last_identifier = self.last_identifier.wrapping_add(1);
            if let Some(identifier) = PacketIdentifier::new(self.last_identifier)
                && !self.serials.contains_key(&identifier)
            {
                return identifier;
            }
        }
    }
}

fn digest(publish: &Publish) -> u64 {
    let mut hasher = DefaultHasher::new();
    publish.topic.as_ref().map(|topic| topic.as_str()).hash(&mut hasher);
    publish.payload.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::ProtocolVersion;

    fn message(qos: u8, payload: &str) -> Waiting {
        let text = format!("PUBLISH t qos={qos} id=1 {payload}");
        let Ok(ControlPacket::Publish(publish)) = ControlPacket::parse_text(&text, ProtocolVersion::V5)
        else {
            panic!("it is one")
        };
        Waiting { publish: Box::new(publish), deadline: None, is_passed: false }
    }

    fn sent(session: &mut Session, receive_maximum: usize) -> Vec<String> {
        std::iter::from_fn(|| session.next(receive_maximum)).map(|(packet, _)| packet.to_string()).collect()
    }

    fn identifier(number: u16) -> PacketIdentifier {
        PacketIdentifier::new(number).unwrap()
    }

    #[test]
    fn what_is_unfinished_is_sent_again_in_its_order_within_the_receive_maximum() {
        let mut session = Session::default();
        for (qos, payload) in [(1, "a"), (2, "b"), (1, "c"), (2, "d")] {
            session.put_off(message(qos, payload));
        }
        assert_eq!(
            sent(&mut session, 3),
            ["PUBLISH t qos=1 id=1 \"a\"", "PUBLISH t qos=2 id=2 \"b\"", "PUBLISH t qos=1 id=3 \"c\""]
        );
        let released = Acknowledged::Released { is_passed: false };
        assert_eq!(session.pubrec(&Ack::new(identifier(2))), released);
        assert_eq!(session.puback(identifier(2)), Acknowledged::Unknown);
        session.resume();
        assert_eq!(sent(&mut session, 2), ["PUBLISH t qos=1 id=1 dup=true \"a\"", "PUBREL 2"]);
        assert_eq!(session.pubcomp(identifier(2)), Acknowledged::Completed { is_passed: false });
        assert_eq!(sent(&mut session, 2), ["PUBLISH t qos=1 id=3 dup=true \"c\""]);
        session.puback(identifier(1));
        session.puback(identifier(3));
        assert_eq!(sent(&mut session, 2), ["PUBLISH t qos=2 id=4 \"d\""]);
        assert!(!session.is_idle());
        session.pubrec(&Ack { reason_code: ReasonCode::QUOTA_EXCEEDED, ..Ack::new(identifier(4)) });
        assert!(session.is_idle());
    }

    #[test]
    fn a_message_whose_acknowledgement_was_not_heard_is_known() {
        let mut session = Session::default();
        let first = *message(1, "x").publish;
        session.acknowledge(&first, ReasonCode::NO_MATCHING_SUBSCRIBERS);
        assert_eq!(session.answered_before(&first), None, "it is not said to come again");
        let again = Publish { dup: true, ..first };
        assert_eq!(session.answered_before(&again), Some(ReasonCode::NO_MATCHING_SUBSCRIBERS));
        let other = Publish { dup: true, ..*message(1, "y").publish };
        assert_eq!(session.answered_before(&other), None);
    }

    #[test]
    fn what_the_target_has_sent_keeps_nobody_waiting() {
        let mut session = Session::default();
        session.put_off(message(1, "x"));
        for _ in 0..2 {
            session.put_off(Waiting { is_passed: true, ..message(1, "y") });
        }
        assert_eq!(sent(&mut session, 2).len(), 2);
        session.puback(identifier(1));
        assert!(session.is_idle());
        session.puback(identifier(2));
        session.put_off(message(1, "z"));
        assert!(!session.is_idle());
        session.forget_passed();
        assert_eq!((session.waiting(), session.is_idle()), (1, false));
    }

    #[test]
    fn identifiers_in_use_are_left_out() {
        let mut session = Session::default();
        for _ in 0..3 {
            session.put_off(message(1, "x"));
        }
        session.last_identifier = u16::MAX - 1;
        assert_eq!(sent(&mut session, 2).len(), 2);
        session.last_identifier = u16::MAX - 1;
        assert_eq!(sent(&mut session, 3), ["PUBLISH t qos=1 id=2 \"x\""]);
    }
}

//! What becomes of one packet.

use std::time::Duration;

use bytes::Bytes;

use super::{
    DisconnectMode, Effect, change,
    lanes::{Cut, Item, Journey, Message, Overtaking, Packet, Way},
};
use crate::packet::{Frame, PacketType, ProtocolVersion, QoS, ReasonCode};

/// A packet as far as it is of interest here.
pub(super) struct Read {
    pub kind: PacketType,
    /// Of a PUBLISH, its alias resolved.
    pub topic: Option<String>,
    pub qos: Option<QoS>,
    pub alias: Option<u16>,
    pub sets_alias: bool,
    /// Where the payload of a PUBLISH begins.
    pub payload_at: Option<usize>,
}

impl Read {
    pub fn new(kind: PacketType) -> Self {
        Self { kind, topic: None, qos: None, alias: None, sets_alias: false, payload_at: None }
    }

    pub fn message(&self) -> Option<Message> {
        self.topic.clone().zip(self.qos)
    }
}

/// All that is done to a packet.
pub(super) struct Fate {
    /// What is passed on of it.
    pub bytes: Bytes,
    pub vanishes: bool,
    copies: u32,
    pub journey: Journey,
    /// How many are to overtake it, and how long it waits for them.
    pub aside: Option<(u32, Duration)>,
    pub overtaking: Overtaking,
    loses_session: bool,
    cut: Option<Cut>,
    /// The whole packet, where just the beginning of it is passed on before the cut.
    whole: Option<Bytes>,
    /// In the place of an answer by the server.
    pub refusal: Option<ReasonCode>,
    /// From here on nothing gets through, for so long or for good.
    pub black: Option<Option<Duration>>,
}

impl Fate {
    /// It is passed on as it is, at once.
    pub fn new(bytes: Bytes, read: &Read) -> Self {
        Self {
            bytes,
            vanishes: false,
            copies: 0,
            journey: Journey::default(),
            aside: None,
            overtaking: Overtaking { message: read.message(), violate: false },
            loses_session: false,
            cut: None,
            whole: None,
            refusal: None,
            black: None,
        }
    }

    /// Adds an effect, of which `is_up` says that the packet is from the client; whether that can be done.
    pub fn apply(
        &mut self,
        effect: &Effect,
        kind: PacketType,
        protocol: ProtocolVersion,
        is_up: bool,
    ) -> bool {
        let journey = &mut self.journey;
        match effect {
            Effect::Latency { delay } => journey.delay += *delay,
            Effect::Drop {} | Effect::WithholdAck {} => self.vanishes = true,
            Effect::Duplicate { count } | Effect::DuplicateAck { count } => {
                self.copies = self.copies.saturating_add(*count);
            }
            Effect::Reorder { behind, max_wait, violate } => {
                self.aside = Some((*behind, *max_wait));
                self.overtaking.violate = *violate;
            }
            Effect::Corrupt { changes } => self.bytes = change::corrupted(&self.bytes, changes),
            Effect::Truncate { bytes, reframe } => {
                self.bytes = change::truncated(&self.bytes, *bytes, *reframe);
            }
            // Nothing comes before a CONNACK, so what follows it waits, too.
            Effect::DelayAck { delay } if kind == PacketType::Connack => journey.delay += *delay,
            Effect::DelayAck { delay } => {
                journey.lane = Way::Acks;
                journey.delay += *delay;
            }
            Effect::ReasonCode { code } => {
                let code = ReasonCode(*code);
                let Some(bytes) = change::with_reason(&self.bytes, code, protocol) else { return false };
                self.bytes = bytes;
                if kind == PacketType::Connack && code.is_error() {
                    self.cut = Some(Cut::refused());
                }
            }
            Effect::Disconnect { mode, at_byte, will, reason } => {
                let reason = reason.unwrap_or(ReasonCode::SERVER_SHUTTING_DOWN.0);
                self.cut(*mode, reason, *will);
                let at_byte = at_byte.map(|at_byte| at_byte as usize).filter(|at| *at < self.bytes.len());
                if let Some(at_byte) = at_byte {
                    self.whole = Some(self.bytes.clone());
                    // To a server a part of a packet is nothing, unless it stands before the end that spares the Will.
                    self.bytes.truncate(if is_up && !will { 0 } else { at_byte });
                }
            }
            Effect::RefuseConnect { code } => {
                if kind != PacketType::Connect {
                    return false;
                }
                self.vanishes = true;
                self.refusal = Some(ReasonCode(*code));
            }
            Effect::Blackhole { duration } => {
                self.vanishes = true;
                self.black = Some(*duration);
            }
            Effect::Bandwidth { bytes_per_s } => {
                journey.transmission +=
                    Duration::from_secs_f64(self.bytes.len() as f64 / (*bytes_per_s).max(1) as f64);
            }
            Effect::Slice { size, delay } => journey.slices = Some(((*size).max(1) as usize, *delay)),
            Effect::LoseSession {} => {
                if kind != PacketType::Connect {
                    return false;
                }
                self.loses_session = true;
            }
            Effect::Takeover {} => {
                self.cut(DisconnectMode::Mqtt5, ReasonCode::SESSION_TAKEN_OVER.0, true);
            }
            Effect::Capabilities(said) => match change::with_capabilities(&self.bytes, said, protocol) {
                Some(bytes) => self.bytes = bytes,
                None => return false,
            },
            Effect::SlowSubscriber { every } => journey.lane = Way::Slow { every: *every },
        }
        true
    }

    fn cut(&mut self, mode: DisconnectMode, reason: u8, will: bool) {
        let (part, otherwise) = (Bytes::new(), Some(Packet::nothing()));
        self.cut = Some(Cut { mode, reason, will, part, otherwise });
    }

    pub fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// What is put into a lane for it.
    pub fn take_items(&mut self) -> Vec<Item> {
        let packet = |bytes: Bytes, times| {
            let is_whole = Frame::size(&bytes).is_ok_and(|size| size == Some(bytes.len()));
            Packet::new(bytes, is_whole, times)
        };
        let mut items = Vec::new();
        if self.loses_session {
            items.push(Item::LoseSession { connect: self.bytes.clone() });
        }
        let cut = self.cut.take();
        match (cut, self.whole.take()) {
            (Some(cut), Some(whole)) => {
                let (part, otherwise) = (self.bytes.clone(), Some(packet(whole, 1)));
                items.push(Item::Cut(Cut { part, otherwise, ..cut }));
            }
            (cut, _) => {
                if !self.vanishes {
                    items.push(Item::Packet(packet(self.bytes.clone(), 1)));
                    if self.copies > 0 {
                        items.push(Item::Packet(packet(change::repeated(&self.bytes), self.copies)));
                    }
                }
                items.extend(cut.map(Item::Cut));
            }
        }
        items
    }
}

impl Cut {
    /// Behind a CONNACK that says no, which the client has then or is about to have.
    pub fn refused() -> Self {
        Self { mode: DisconnectMode::Fin, reason: 0, will: true, part: Bytes::new(), otherwise: None }
    }
}

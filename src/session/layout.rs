//! PUBLISH packets towards subscribers, encoded once for all receivers that see the same bytes.

use std::time::Instant;

use crate::packet::QoS;

use super::{MessageRef, Outbox, Payload, Verbatim};

/// What a receiver's PUBLISH may differ in from another receiver's of the same message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout<'a> {
    /// Whether the packet has properties.
    pub v5: bool,
    pub qos: QoS,
    pub retain: bool,
    pub dup: bool,
    pub alias: Option<Alias>,
    pub subscription_identifiers: &'a [u32],
}

/// A Topic Alias of ours in a PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    pub value: u16,
    /// Whether the client knows it already, so that the Topic Name is left out.
    pub known: bool,
}

impl Layout<'_> {
    fn first_byte(&self) -> u8 {
        0x30 | u8::from(self.dup) << 3 | (self.qos as u8) << 1 | u8::from(self.retain)
    }

    /// The packet that brought `message`, if this is how it is laid out.
    #[inline]
    fn find_in<'a>(&self, message: &MessageRef<'a>) -> Option<Verbatim<'a>> {
        message
            .packet
            .filter(|packet| packet.v5 == self.v5 && packet.bytes.first() == Some(&self.first_byte()))
    }
}

/// The largest Remaining Length [section 2.1.4].
const LONGEST: usize = 268_435_455;

/// An encoded PUBLISH: the packet that brought the message, or a range of the buffer it was encoded
/// into and maybe a shared payload.
#[derive(Clone, Copy, Debug, Default)]
pub struct Encoded {
    start: usize,
    end: usize,
    is_verbatim: bool,
    /// Where the Packet Identifier goes, from the start; only for QoS 1 and 2.
    identifier_at: usize,
    /// The size of the packet on the wire.
    pub size: usize,
}

/// Appends the PUBLISH that `layout` describes to `buffer`, with a Packet Identifier yet to be
/// filled in and without a shared payload. `None` if it is longer than MQTT can say.
pub fn encode(
    message: &MessageRef<'_>,
    layout: &Layout<'_>,
    now: Instant,
    buffer: &mut Vec<u8>,
) -> Option<Encoded> {
    let topic = if layout.alias.is_some_and(|alias| alias.known) { &[][..] } else { message.topic };
    let payload = message.payload.as_bytes();
    let own_properties = if layout.v5 { own_properties_len(message, layout) } else { 0 };
    let properties = own_properties + message.properties.len();
    let identifier = if layout.qos == QoS::AtMostOnce { 0 } else { 2 };
    let variable =
        2 + topic.len() + identifier + if layout.v5 { varint_len(properties) + properties } else { 0 };
    let remaining = variable + payload.len();
    if remaining > LONGEST {
        return None;
    }

    let start = buffer.len();
    buffer.push(layout.first_byte());
    put_varint(remaining, buffer);
    let topic_len = u16::try_from(topic.len()).expect("a Topic Name has at most 65,535 bytes");
    buffer.extend_from_slice(&topic_len.to_be_bytes());
    buffer.extend_from_slice(topic);
    let identifier_at = buffer.len() - start;
    buffer.extend_from_slice(&[0; 2][..identifier]);
    if layout.v5 {
        put_varint(properties, buffer);
        put_own_properties(message, layout, now, buffer);
        buffer.extend_from_slice(message.properties);
    }
    let shared = match message.payload {
        Payload::Copied(bytes) => {
            buffer.extend_from_slice(bytes);
            0
        }
        Payload::Shared(bytes) => bytes.len(),
    };
    let end = buffer.len();
    Some(Encoded { start, end, is_verbatim: false, identifier_at, size: end - start + shared })
}

/// The same for a PUBLISH that many receivers see: where it came laid out like that, nothing is
/// encoded.
#[inline]
pub fn lay_out(
    message: &MessageRef<'_>,
    layout: &Layout<'_>,
    now: Instant,
    buffer: &mut Vec<u8>,
) -> Option<Encoded> {
    match layout.find_in(message) {
        Some(Verbatim { bytes, identifier_at, .. }) => {
            let size = bytes.len();
            Some(Encoded { start: 0, end: size, is_verbatim: true, identifier_at, size })
        }
        None => encode(message, layout, now, buffer),
    }
}

impl Encoded {
    /// Appends the packet to `outbox`, with `identifier` filled in (0 for QoS 0).
    #[inline]
    pub fn send(&self, identifier: u16, message: &MessageRef<'_>, buffer: &[u8], outbox: &mut Outbox) {
        let packet = match &message.packet {
            Some(packet) if self.is_verbatim => packet.bytes,
            _ => &buffer[self.start..self.end],
        };
        match identifier {
            0 => outbox.extend(packet),
            _ => outbox.extend_numbered(packet, self.identifier_at, identifier),
        }
        if let Payload::Shared(bytes) = message.payload {
            outbox.push(bytes.clone());
        }
    }
}

fn own_properties_len(message: &MessageRef<'_>, layout: &Layout<'_>) -> usize {
    let expiry = if message.expires_at.is_some() { 5 } else { 0 };
    let alias = if layout.alias.is_some() { 3 } else { 0 };
    let identifiers: usize =
        layout.subscription_identifiers.iter().map(|&value| 1 + varint_len(value as usize)).sum();
    expiry + alias + identifiers
}

fn put_own_properties(message: &MessageRef<'_>, layout: &Layout<'_>, now: Instant, buffer: &mut Vec<u8>) {
    if let Some(expires_at) = message.expires_at {
        // What is left, in started seconds; 0 only for one that had none, or is repeated late.
        let left = expires_at.saturating_duration_since(now).as_millis().div_ceil(1000);
        buffer.push(0x02);
        buffer.extend_from_slice(&u32::try_from(left).unwrap_or(u32::MAX).to_be_bytes());
    }
    if let Some(alias) = layout.alias {
        buffer.push(0x23);
        buffer.extend_from_slice(&alias.value.to_be_bytes());
    }
    for &value in layout.subscription_identifiers {
        buffer.push(0x0B);
        put_varint(value as usize, buffer);
    }
}

fn varint_len(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// Appends a Variable Byte Integer [section 1.5.5].
fn put_varint(mut value: usize, buffer: &mut Vec<u8>) {
    while value > 0x7F {
        buffer.push(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.push(value as u8);
}

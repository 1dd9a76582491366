//! The bytes of MQTT 3.1.1 that the load needs, and no more: what leaves is laid out once and then
//! patched, so that a message costs the generator a few stores.

use std::io::{ErrorKind, Read};

use anyhow::{Context, Result, bail, ensure};

pub const CONNACK: u8 = 2;
pub const PUBLISH: u8 = 3;
pub const PUBACK: u8 = 4;
pub const PUBREC: u8 = 5;
pub const PUBREL: u8 = 6;
pub const PUBCOMP: u8 = 7;
pub const SUBACK: u8 = 9;
pub const PINGRESP: u8 = 13;
pub const PINGREQ: [u8; 2] = [0xC0, 0];

/// Bytes read at a time. A packet has to fit in twice over.
pub const SCRATCH_BYTES: usize = 256 << 10;

/// Digits of the number in every topic.
const DIGITS: usize = 7;

/// One packet, and how many bytes it took.
pub struct Frame<'a> {
    first: u8,
    pub body: &'a [u8],
    len: usize,
}

impl<'a> Frame<'a> {
    /// `None` while the packet is not complete.
    fn cut(bytes: &'a [u8]) -> Result<Option<Self>> {
        let mut remaining = 0;
        for at in 1..=4 {
            let Some(&byte) = bytes.get(at) else { return Ok(None) };
            remaining |= usize::from(byte & 0x7F) << (7 * (at - 1));
            if byte & 0x80 == 0 {
                let len = at + 1 + remaining;
                ensure!(len <= SCRATCH_BYTES / 2, "a packet of {len} bytes, more than was ever sent");
                let body = bytes.get(at + 1..len);
                return Ok(body.map(|body| Self { first: bytes[0], body, len }));
            }
        }
        bail!("a remaining length of more than four bytes")
    }

    pub fn kind(&self) -> u8 {
        self.first >> 4
    }

    /// The Packet Identifier of an acknowledgement.
    pub fn identifier(&self) -> Result<[u8; 2]> {
        Ok(*self.body.first_chunk().context("an acknowledgement without an identifier")?)
    }

    pub fn publish(&self) -> Result<Publish<'a>> {
        let cut_short = "a PUBLISH that ends early";
        let (len, rest) = self.body.split_first_chunk().context(cut_short)?;
        let (_, mut payload) =
            rest.split_at_checked(usize::from(u16::from_be_bytes(*len))).context(cut_short)?;
        let qos = self.first >> 1 & 3;
        let mut identifier = [0; 2];
        if qos > 0 {
            let (bytes, rest) = payload.split_first_chunk().context(cut_short)?;
            (identifier, payload) = (*bytes, rest);
        }
        Ok(Publish { qos, identifier, is_retained: self.first & 1 == 1, payload })
    }
}

pub struct Publish<'a> {
    pub qos: u8,
    pub identifier: [u8; 2],
    pub is_retained: bool,
    pub payload: &'a [u8],
}

/// What every payload begins with.
pub struct Stamp {
    pub publisher: u32,
    pub sequence: u64,
    /// Nanoseconds from the start of the load to when the message was due.
    pub due: u64,
}

impl Stamp {
    pub fn read(payload: &[u8]) -> Result<Self> {
        let bytes = payload.first_chunk::<20>().context("a payload that nobody here sent")?;
        Ok(Self {
            publisher: u32::from_be_bytes(bytes[..4].try_into().expect("four bytes")),
            sequence: u64::from_be_bytes(bytes[4..12].try_into().expect("eight bytes")),
            due: u64::from_be_bytes(bytes[12..].try_into().expect("eight bytes")),
        })
    }
}

/// A PUBLISH to be patched: where in it is what differs from one message to the next.
pub struct Template {
    bytes: Vec<u8>,
    /// The digits of the topic.
    digits: usize,
    identifier: Option<usize>,
    payload: usize,
}

impl Template {
    pub fn new(qos: u8, retain: bool, size: usize) -> Self {
        let mut body = packed(topic(0).as_bytes());
        let identifier = (qos > 0).then_some(body.len());
        body.resize(body.len() + identifier.map_or(0, |_| 2), 0);
        let payload = body.len();
        body.resize(payload + size, b'x');
        let bytes = packet(PUBLISH << 4 | qos << 1 | u8::from(retain), &body);
        let header = bytes.len() - body.len();
        Self {
            digits: header + 2 + "fleet/d".len(),
            identifier: identifier.map(|at| header + at),
            payload: header + payload,
            bytes,
        }
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// As many messages as one batch has.
    pub fn repeat(&self, count: usize) -> Vec<u8> {
        self.bytes.repeat(count)
    }

    /// Sends `message`, a copy of this, to the topic of that number.
    pub fn address(&self, message: &mut [u8], topic: usize) {
        let mut number = topic;
        for digit in message[self.digits..][..DIGITS].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
    }

    /// Makes `message`, a copy of this, the one numbered so.
    pub fn stamp(&self, message: &mut [u8], identifier: u16, stamp: &Stamp) {
        if let Some(at) = self.identifier {
            message[at..at + 2].copy_from_slice(&identifier.to_be_bytes());
        }
        let payload = &mut message[self.payload..];
        payload[..4].copy_from_slice(&stamp.publisher.to_be_bytes());
        payload[4..12].copy_from_slice(&stamp.sequence.to_be_bytes());
        payload[12..20].copy_from_slice(&stamp.due.to_be_bytes());
    }
}

/// What a client's CONNECT asks for.
#[derive(Clone, Copy, PartialEq)]
pub enum Session {
    Clean,
    /// Clean Session 0: the Session outlives the connection.
    Persistent,
}

pub fn topic(number: usize) -> String {
    format!("fleet/d{number:0DIGITS$}/value")
}

/// The filter with a wildcard that matches the one topic.
pub fn wildcard(number: usize) -> String {
    format!("fleet/d{number:0DIGITS$}/+")
}

pub const DISCONNECT: [u8; 2] = [0xE0, 0];

pub fn connect(client: &str, session: Session) -> Vec<u8> {
    let flags = match session {
        Session::Clean => 2,
        Session::Persistent => 0,
    };
    // A keep alive that no run outlasts, since mosquitto may refuse to have none.
    let mut body = [packed(b"MQTT"), vec![4, flags], 3_600_u16.to_be_bytes().to_vec()].concat();
    body.extend(packed(client.as_bytes()));
    packet(0x10, &body)
}

pub fn subscribe(filters: &[String], qos: u8) -> Vec<u8> {
    let mut body = vec![0, 1];
    for filter in filters {
        body.extend(packed(filter.as_bytes()));
        body.push(qos);
    }
    packet(0x82, &body)
}

/// Appends an acknowledgement of any kind.
pub fn acknowledge(out: &mut Vec<u8>, kind: u8, identifier: [u8; 2]) {
    let reserved = if kind == PUBREL { 2 } else { 0 };
    out.extend_from_slice(&[kind << 4 | reserved, 2, identifier[0], identifier[1]]);
}

/// Reads once and calls `each` for every complete packet; the beginning of the next one stays in `rest`.
/// False if there was nothing to read.
pub fn read_frames(
    stream: &mut impl Read,
    rest: &mut Vec<u8>,
    scratch: &mut [u8],
    mut each: impl FnMut(Frame<'_>) -> Result<()>,
) -> Result<bool> {
    let held = rest.len();
    scratch[..held].copy_from_slice(rest);
    let count = match stream.read(&mut scratch[held..]) {
        Ok(0) => bail!("the broker closed a connection"),
        Ok(count) => count,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            return Ok(false);
        }
        Err(error) => return Err(error).context("reading from the broker"),
    };
    let mut bytes = &scratch[..held + count];
    while let Some(frame) = Frame::cut(bytes)? {
        bytes = &bytes[frame.len..];
        each(frame)?;
    }
    rest.clear();
    rest.extend_from_slice(bytes);
    Ok(true)
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut remaining = body.len();
    loop {
        let more = if remaining > 0x7F { 0x80 } else { 0 };
        bytes.push((remaining & 0x7F) as u8 | more);
        remaining >>= 7;
        if remaining == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

/// With its length in two bytes before it.
fn packed(text: &[u8]) -> Vec<u8> {
    let len = u16::try_from(text.len()).expect("our own texts are short");
    [&len.to_be_bytes(), text].concat()
}

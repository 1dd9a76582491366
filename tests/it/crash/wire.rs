//! Packets of MQTT 3.1.1 and 5 as a client writes and reads them.
//!
//! Shares nothing with the product's own codec: what that gets wrong, this must not hide.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

/// How long the server may take over an answer, or over reading what it is sent.
pub const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    V311,
    V5,
}

/// What a CONNECT says of a Will.
pub struct Will {
    pub topic: &'static str,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub delay_secs: u32,
}

pub struct Connect<'a> {
    pub client_id: &'a str,
    pub is_clean: bool,
    /// For MQTT 5; a client of 3.1.1 keeps its session if it is not clean.
    pub session_expiry_secs: u32,
    /// For MQTT 5; 0 says none.
    pub receive_maximum: u16,
    pub will: Option<&'a Will>,
}

pub struct Publish<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    pub qos: u8,
    pub is_retained: bool,
    pub is_dup: bool,
    pub id: u16,
}

/// The four acknowledgements by their packet types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    Puback = 4,
    Pubrec = 5,
    Pubrel = 6,
    Pubcomp = 7,
}

/// What a server sends.
#[derive(Debug, PartialEq, Eq)]
pub enum Packet {
    Connack { is_present: bool, reason: u8, receive_maximum: u16 },
    Publish { topic: String, payload: Vec<u8>, qos: u8, is_retained: bool, is_dup: bool, id: u16 },
    Ack { ack: Ack, id: u16, reason: u8 },
    Suback { id: u16, reasons: Vec<u8> },
    Unsuback { id: u16, reasons: Vec<u8> },
    Pingresp,
    Disconnect { reason: u8 },
}

/// One Network Connection.
pub struct Connection {
    stream: TcpStream,
    protocol: Protocol,
    input: Vec<u8>,
    /// How much of `input` has been taken.
    taken: usize,
    output: Vec<u8>,
}

impl Connection {
    pub fn open(port: u16, protocol: Protocol) -> io::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, protocol, input: Vec::new(), taken: 0, output: Vec::new() })
    }

    pub fn connect(&mut self, connect: &Connect<'_>) {
        let is_v5 = self.protocol == Protocol::V5;
        let mut body = Vec::new();
        put_bytes(&mut body, b"MQTT");
        body.push(if is_v5 { 5 } else { 4 });
        let will_flags = connect.will.map_or(0, |will| 0x04 | (will.qos << 3));
        body.push(u8::from(connect.is_clean) << 1 | will_flags);
        body.extend([0, 0]);
        if is_v5 {
            let mut properties = Vec::new();
            if connect.session_expiry_secs > 0 {
                properties.push(0x11);
                properties.extend(connect.session_expiry_secs.to_be_bytes());
            }
            if connect.receive_maximum > 0 {
                properties.push(0x21);
                properties.extend(connect.receive_maximum.to_be_bytes());
            }
            put_length(&mut body, properties.len());
            body.extend(properties);
        }
        put_bytes(&mut body, connect.client_id.as_bytes());
        if let Some(will) = connect.will {
            if is_v5 {
                let delay = will.delay_secs.to_be_bytes();
                body.extend([5, 0x18]);
                body.extend(delay);
            }
            put_bytes(&mut body, will.topic.as_bytes());
            put_bytes(&mut body, &will.payload);
        }
        self.put(0x10, &body);
    }

    pub fn publish(&mut self, publish: &Publish<'_>) {
        let mut body = Vec::with_capacity(publish.payload.len() + publish.topic.len() + 8);
        put_bytes(&mut body, publish.topic.as_bytes());
        if publish.qos > 0 {
            body.extend(publish.id.to_be_bytes());
        }
        if self.protocol == Protocol::V5 {
            body.push(0);
        }
        body.extend(publish.payload);
        let flags = u8::from(publish.is_dup) << 3 | publish.qos << 1 | u8::from(publish.is_retained);
        self.put(0x30 | flags, &body);
    }

    pub fn ack(&mut self, ack: Ack, id: u16) {
        let flags = if ack == Ack::Pubrel { 2 } else { 0 };
        self.put((ack as u8) << 4 | flags, &id.to_be_bytes());
    }

    /// For MQTT 5, `identifier` is the Subscription Identifier; 0 says none.
    pub fn subscribe(&mut self, id: u16, filter: &str, qos: u8, identifier: u8) {
        let mut body = id.to_be_bytes().to_vec();
        if self.protocol == Protocol::V5 {
            if identifier > 0 {
                body.extend([2, 0x0b, identifier]);
            } else {
                body.push(0);
            }
        }
        put_bytes(&mut body, filter.as_bytes());
        body.push(qos);
        self.put(0x82, &body);
    }

    pub fn unsubscribe(&mut self, id: u16, filter: &str) {
        let mut body = id.to_be_bytes().to_vec();
        if self.protocol == Protocol::V5 {
            body.push(0);
        }
        put_bytes(&mut body, filter.as_bytes());
        self.put(0xa2, &body);
    }

    pub fn pingreq(&mut self) {
        self.put(0xc0, &[]);
    }

    pub fn disconnect(&mut self) {
        self.put(0xe0, &[]);
    }

    /// Sends what was put.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let sent = self.stream.write_all(&self.output);
        self.output.clear();
        sent
    }

    /// The next packet, if it is there within `wait`.
    pub fn read(&mut self, wait: Duration) -> io::Result<Option<Packet>> {
        if let Some(packet) = self.take()? {
            return Ok(Some(packet));
        }
        self.stream.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                self.input.drain(..self.taken);
                self.taken = 0;
                self.input.extend(&chunk[..read]);
                self.take()
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a part of a packet at least is here.
    pub fn has_buffered(&self) -> bool {
        self.taken < self.input.len()
    }

    /// The next packet, which has to come.
    pub fn await_packet(&mut self) -> io::Result<Packet> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(packet) = self.read(Duration::from_millis(100))? {
                return Ok(packet);
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("nothing came for {PATIENCE:?}")))
    }

    fn put(&mut self, first: u8, body: &[u8]) {
        self.output.push(first);
        put_length(&mut self.output, body.len());
        self.output.extend(body);
    }

    fn take(&mut self) -> io::Result<Option<Packet>> {
        let input = &self.input[self.taken..];
        let Some(&first) = input.first() else { return Ok(None) };
        let mut rest = &input[1..];
        let Some(length) = take_length(&mut rest)? else { return Ok(None) };
        if rest.len() < length {
            return Ok(None);
        }
        let packet = decode(self.protocol, first, &rest[..length])?;
        self.taken = self.input.len() - rest.len() + length;
        Ok(Some(packet))
    }
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend(u16::try_from(bytes.len()).expect("a short field").to_be_bytes());
    to.extend(bytes);
}

fn put_length(to: &mut Vec<u8>, mut length: usize) {
    while length > 127 {
        to.push(length as u8 | 0x80);
        length >>= 7;
    }
    to.push(length as u8);
}

/// None if it is not whole yet.
fn take_length(from: &mut &[u8]) -> io::Result<Option<usize>> {
    let mut length = 0;
    for (index, byte) in from.iter().enumerate().take(4) {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *from = &from[index + 1..];
            return Ok(Some(length));
        }
    }
    if from.len() < 4 { Ok(None) } else { Err(malformed("a length of more than four bytes")) }
}

fn malformed(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn decode(protocol: Protocol, first: u8, body: &[u8]) -> io::Result<Packet> {
    let is_v5 = protocol == Protocol::V5;
    let flags = first & 0x0f;
    let kind = first >> 4;
    let mut body = Body(body);
    if kind != 3 && flags != if kind == 6 { 2 } else { 0 } {
        return Err(malformed(format!("packet type {kind} with flags {flags:#x}")));
    }
    let packet = match kind {
        2 => {
            let (acknowledge, reason) = (body.byte()?, body.byte()?);
            let receive_maximum = if is_v5 { body.properties()? } else { u16::MAX };
            Packet::Connack { is_present: acknowledge == 1, reason, receive_maximum }
        }
        3 => {
            let qos = flags >> 1 & 3;
            let topic = String::from_utf8(body.bytes()?.to_vec()).map_err(|_| malformed("a topic"))?;
            let id = if qos > 0 { body.id()? } else { 0 };
            if is_v5 {
                body.properties()?;
            }
            let payload = std::mem::take(&mut body.0).to_vec();
            Packet::Publish { topic, payload, qos, is_retained: flags & 1 == 1, is_dup: flags & 8 == 8, id }
        }
        4..=7 => {
            let ack = [Ack::Puback, Ack::Pubrec, Ack::Pubrel, Ack::Pubcomp][usize::from(kind) - 4];
            let id = body.id()?;
            let reason = if is_v5 && !body.0.is_empty() { body.byte()? } else { 0 };
            if is_v5 && !body.0.is_empty() {
                body.properties()?;
            }
            Packet::Ack { ack, id, reason }
        }
        9 | 11 => {
            let id = body.id()?;
            if is_v5 {
                body.properties()?;
            }
            let reasons = std::mem::take(&mut body.0).to_vec();
            if kind == 9 { Packet::Suback { id, reasons } } else { Packet::Unsuback { id, reasons } }
        }
        13 => Packet::Pingresp,
        14 if is_v5 => {
            let reason = if body.0.is_empty() { 0 } else { body.byte()? };
            if !body.0.is_empty() {
                body.properties()?;
            }
            Packet::Disconnect { reason }
        }
        _ => return Err(malformed(format!("packet type {kind} from a server"))),
    };
    if body.0.is_empty() { Ok(packet) } else { Err(malformed(format!("bytes behind packet type {kind}"))) }
}

struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn part(&mut self, length: usize) -> io::Result<&'a [u8]> {
        let (part, rest) =
            self.0.split_at_checked(length).ok_or_else(|| malformed("a field past the end"))?;
        self.0 = rest;
        Ok(part)
    }

    fn byte(&mut self) -> io::Result<u8> {
        Ok(self.part(1)?[0])
    }

    fn number(&mut self) -> io::Result<u16> {
        let part = self.part(2)?;
        Ok(u16::from_be_bytes([part[0], part[1]]))
    }

    fn id(&mut self) -> io::Result<u16> {
        match self.number()? {
            0 => Err(malformed("Packet Identifier 0")),
            id => Ok(id),
        }
    }

    fn bytes(&mut self) -> io::Result<&'a [u8]> {
        let length = self.number()?;
        self.part(length.into())
    }

    /// Passes over them; the Receive Maximum they say.
    fn properties(&mut self) -> io::Result<u16> {
        let length = take_length(&mut self.0)?.ok_or_else(|| malformed("no length of properties"))?;
        let mut properties = Body(self.part(length)?);
        let mut receive_maximum = u16::MAX;
        while !properties.0.is_empty() {
            match properties.byte()? {
                0x21 => receive_maximum = properties.number()?,
                0x01 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => drop(properties.part(1)?),
                0x13 | 0x22 | 0x23 => drop(properties.part(2)?),
                0x02 | 0x11 | 0x27 => drop(properties.part(4)?),
                0x0b => {
                    take_length(&mut properties.0)?.ok_or_else(|| malformed("a Subscription Identifier"))?;
                }
                0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => drop(properties.bytes()?),
                0x26 => {
                    properties.bytes()?;
                    properties.bytes()?;
                }
                other => return Err(malformed(format!("property {other:#x}"))),
            }
        }
        Ok(receive_maximum)
    }
}

#[test]
fn packets_of_servers_are_read_as_the_standard_writes_them() {
    let publish = decode(Protocol::V311, 0x3b, b"\0\x03a/b\0\x0ahi").unwrap();
    let same = |is_dup, is_retained| Packet::Publish {
        topic: "a/b".to_owned(),
        payload: b"hi".to_vec(),
        qos: 1,
        is_retained,
        is_dup,
        id: 10,
    };
    assert_eq!(publish, same(true, true));
    assert_eq!(decode(Protocol::V5, 0x32, b"\0\x03a/b\0\x0a\x02\x0b\x07hi").unwrap(), same(false, false));
    let connack = decode(Protocol::V5, 0x20, b"\x01\0\x03\x21\0\x14").unwrap();
    assert_eq!(connack, Packet::Connack { is_present: true, reason: 0, receive_maximum: 20 });
    let pubcomp = decode(Protocol::V5, 0x70, b"\0\x05\x92").unwrap();
    assert_eq!(pubcomp, Packet::Ack { ack: Ack::Pubcomp, id: 5, reason: 0x92 });
    assert_eq!(decode(Protocol::V5, 0xe0, b"\x8b\0").unwrap(), Packet::Disconnect { reason: 0x8b });
    for (protocol, first, body) in [
        (Protocol::V311, 0xe0, &b""[..]),
        (Protocol::V311, 0x60, b"\0\x01"),
        (Protocol::V311, 0x40, b"\0\0"),
        (Protocol::V5, 0x32, b"\0\x03a/b\0\x0a\x05hi"),
    ] {
        assert!(decode(protocol, first, body).is_err(), "{first:#x} {body:?}");
    }
}

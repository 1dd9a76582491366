//! Bytes as packets: cut anywhere, decoded, encoded, shown and parsed.

use bytes::{Bytes, BytesMut};
use mockforge::packet::{ControlPacket, DecodeError, FrameReader, PlainAck, ProtocolVersion, PublishRef};

use super::Source;

const LONGEST: usize = 4 * 1024;

/// What a reader keeps for a packet whose length is announced and whose bytes are to come.
const ANNOUNCED: usize = 8 * 1024;

pub fn run(input: &[u8]) {
    let mut source = Source::new(input);
    let step = usize::from(source.byte());
    let stream = source.rest();
    for protocol in [None, Some(ProtocolVersion::V31), Some(ProtocolVersion::V311), Some(ProtocolVersion::V5)]
    {
        let whole = read(stream, stream.len(), protocol);
        if stream.len() <= 48 {
            for first in 1..stream.len() {
                assert_eq!(read(stream, first, protocol), whole, "cut behind {first} bytes");
            }
        }
        assert_eq!(read(stream, step.max(1), protocol), whole, "cut every {step} bytes");
        assert_eq!(read_in_place(stream, protocol), whole, "where they lie");
        for (frame, protocol) in &whole.frames {
            check(frame, *protocol);
        }
    }
}

#[derive(Debug)]
struct Read {
    frames: Vec<(Bytes, ProtocolVersion)>,
    error: Option<DecodeError>,
    rest: Bytes,
}

/// Of a packet that has several mistakes, the one that is found first may be another where less of it has come.
impl PartialEq for Read {
    fn eq(&self, other: &Self) -> bool {
        self.frames == other.frames
            && self.error.is_some() == other.error.is_some()
            && self.rest == other.rest
    }
}

fn reader(protocol: Option<ProtocolVersion>) -> FrameReader {
    let mut reader = FrameReader::new(LONGEST);
    if let Some(protocol) = protocol {
        reader.set_protocol(protocol);
    }
    reader
}

/// Reads what comes in pieces of `step` bytes.
fn read(stream: &[u8], step: usize, protocol: Option<ProtocolVersion>) -> Read {
    let mut reader = reader(protocol);
    let mut frames = Vec::new();
    let mut error = None;
    for piece in stream.chunks(step.max(1)) {
        reader.buffer().extend_from_slice(piece);
        while error.is_none() {
            match reader.next_frame() {
                Ok(Some(frame)) => {
                    let protocol = reader.protocol().expect("a packet was read");
                    assert_eq!(ControlPacket::decode(&frame.bytes, protocol).as_ref(), Ok(&frame.packet));
                    frames.push((frame.bytes, protocol));
                }
                Ok(None) => break,
                Err(problem) => error = Some(problem),
            }
        }
        let capacity = reader.buffer().capacity();
        assert!(capacity <= 2 * stream.len() + ANNOUNCED, "{capacity} bytes for {}", stream.len());
    }
    Read { frames, error, rest: reader.take_rest() }
}

fn read_in_place(mut stream: &[u8], protocol: Option<ProtocolVersion>) -> Read {
    let mut reader = reader(protocol);
    let mut frames = Vec::new();
    let mut error = None;
    let rest = loop {
        let before = stream;
        match reader.next_in_place(&mut stream) {
            Ok(Some(bytes)) => {
                let protocol = reader.protocol().expect("a packet was read");
                let frame = Bytes::copy_from_slice(bytes);
                if let Err(problem) = ControlPacket::decode(&frame, protocol) {
                    error = Some(problem);
                    break before;
                }
                frames.push((frame, protocol));
            }
            Ok(None) => break stream,
            Err(problem) => {
                error = Some(problem);
                break before;
            }
        }
    };
    Read { frames, error, rest: Bytes::copy_from_slice(rest) }
}

/// What holds for the packet that `frame` is.
fn check(frame: &Bytes, protocol: ProtocolVersion) {
    let packet = ControlPacket::decode(frame, protocol).expect("it was read");
    let encoded = encode(&packet, protocol);
    assert!(encoded.len() <= frame.len(), "{packet} grew from {} to {} bytes", frame.len(), encoded.len());
    assert_eq!(packet.encoded_len(protocol), encoded.len(), "{packet}");
    assert_eq!(ControlPacket::decode(&encoded, protocol).as_ref(), Ok(&packet));

    let in_place = PublishRef::decode(frame, protocol);
    if let ControlPacket::Publish(publish) = &packet {
        let in_place = in_place.expect("it is a PUBLISH");
        assert_eq!(&in_place.to_publish(frame), publish);
        let mut out = BytesMut::new();
        in_place.encode(protocol, &mut out).expect("it was decoded");
        assert_eq!(in_place.encoded_len(protocol), out.len());
        assert_eq!(out, encoded);
    } else {
        in_place.expect_err("it is no PUBLISH");
    }
    if let Some(plain) = PlainAck::read(frame) {
        assert_eq!(ControlPacket::from(plain), packet);
    }

    let text = packet.to_string();
    let shown = ControlPacket::parse_text(&text, protocol);
    assert_eq!(shown.as_ref(), Ok(&without_password(packet)), "{text}");
}

fn encode(packet: &ControlPacket, protocol: ProtocolVersion) -> Bytes {
    let mut out = BytesMut::new();
    packet.encode(protocol, &mut out).expect("it was decoded");
    out.freeze()
}

/// As it is shown.
fn without_password(packet: ControlPacket) -> ControlPacket {
    match packet {
        ControlPacket::Connect(mut connect) => {
            connect.password = connect.password.map(|_| Bytes::from_static(b"***"));
            ControlPacket::Connect(connect)
        }
        other => other,
    }
}

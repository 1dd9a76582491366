//! What a packet costs on its way in and out.

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mockforge::packet::{ControlPacket, FrameReader, ProtocolVersion, PublishRef};

/// PUBLISH packets as they come, by what is special about them.
const PUBLISHES: [(&str, &str, ProtocolVersion); 3] = [
    ("QoS 0, 64 bytes", "PUBLISH fleet/d42/temp \"PAYLOAD\"", ProtocolVersion::V311),
    ("QoS 1, 64 bytes", "PUBLISH fleet/d42/temp qos=1 id=7 \"PAYLOAD\"", ProtocolVersion::V311),
    (
        "5.0 with properties",
        "PUBLISH fleet/d42/temp qos=1 id=7 expiry=60 content_type=text/plain user=k:v \"PAYLOAD\"",
        ProtocolVersion::V5,
    ),
];

/// Packets in one read of a busy connection.
const BATCH: usize = 1000;

fn packet(text: &str) -> ControlPacket {
    text.replace("PAYLOAD", &"x".repeat(64)).parse().expect("a packet")
}

fn encoded(packet: &ControlPacket, protocol: ProtocolVersion) -> Bytes {
    let mut bytes = BytesMut::new();
    packet.encode(protocol, &mut bytes).expect("encodes");
    bytes.freeze()
}

fn codec(criterion: &mut Criterion) {
    for (name, text, protocol) in PUBLISHES {
        let packet = packet(text);
        let bytes = encoded(&packet, protocol);
        criterion.bench_function(&format!("decode in place: {name}"), |bencher| {
            bencher.iter(|| PublishRef::decode(&bytes, protocol).expect("a PUBLISH").payload.len());
        });
        let mut group = criterion.benchmark_group(format!("frames of a read: {name}"));
        group.throughput(Throughput::Elements(BATCH as u64));
        let read = bytes.repeat(BATCH);
        group.bench_function("decode", |bencher| {
            bencher.iter(|| {
                let mut reader = FrameReader::new(usize::MAX);
                reader.set_protocol(protocol);
                *reader.buffer() = BytesMut::from(&read[..]);
                std::iter::from_fn(|| reader.next_frame().expect("packets")).count()
            });
        });
        group.finish();
        let mut out = BytesMut::new();
        criterion.bench_function(&format!("encode: {name}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                packet.encode(protocol, &mut out).expect("encodes");
                out.len()
            });
        });
    }
}

criterion_group!(benches, codec);
criterion_main!(benches);

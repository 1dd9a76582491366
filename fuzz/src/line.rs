//! A connection under chaos.

use std::{
    collections::HashMap,
    sync::LazyLock,
    time::{Duration, Instant},
};

use mockforge::{
    fault::{Chaos, ChaosHooks, ChaosOptions, Line, LineOutput, RuleSpec, Splice},
    packet::{
        Begun, Connect, ControlPacket, Frame, PacketType, Property, ProtocolVersion, Publish, TopicName,
    },
    recording::Direction,
};

use super::{Source, packets};

const LONGEST: usize = 1_000;

/// What a line may ask for in one run before it has to be at rest.
const TURNS_MAX: usize = 100_000;

/// Each waits or passes. Behind the first [`IN_ORDER`] of them so does everything, and stays as it is.
const DELAYS: [&str; 5] = [
    "{match: {types: PUBLISH, direction: s2c}, actions: [{latency: 50}]}",
    "{match: {client: nobody}, actions: [drop]}",
    "{match: {types: [PUBACK, PUBREC]}, actions: [{delay_ack: 50}]}",
    "{match: {topic: t/#}, actions: [{slow_subscriber: {delay_ms: 100}}]}",
    "{match: {topic: t}, when: {first_n: 1}, actions: [{reorder: {window: 1, max_ms: 100}}]}",
];

const IN_ORDER: usize = 2;

const OTHERS: [&str; 20] = [
    "{match: {types: PUBLISH}, when: {every_nth: 2}, actions: [drop]}",
    "{match: {types: PUBLISH}, actions: [{duplicate: {count: 2}}]}",
    "{match: {types: PUBLISH}, when: {first_n: 2}, actions: [{corrupt: {part: payload}}]}",
    "{match: {types: PUBLISH}, when: {after_n: 1}, actions: [{disconnect: {mode: fin, at_byte: 3}}]}",
    "{match: {types: PUBLISH}, when: {after_n: 1}, actions: [{disconnect: {mode: mqtt5, will: false}}]}",
    "{match: {types: PUBLISH}, when: {after_n: 2}, actions: [{latency: 3000}, {disconnect: {at_byte: 5}}]}",
    "{when: {probability: 0.3}, actions: [{corrupt: {part: packet, bytes: 2}}]}",
    "{match: {types: PUBLISH}, when: {every_nth: 2}, actions: [{reorder: {window: 2, violate: true}}]}",
    "{match: {types: CONNECT}, actions: [lose_session]}",
    "{match: {types: PUBLISH}, when: {after_n: 1}, actions: [takeover]}",
    "{match: {types: PUBLISH}, when: {after_n: 2}, actions: [{blackhole: {duration: 100}}]}",
    "{match: {types: PUBLISH}, when: {after_n: 2}, actions: [blackhole]}",
    "{actions: [{bandwidth: {bytes_per_s: 1000}}]}",
    "{match: {types: PUBLISH}, actions: [{slice: {size: 4, delay: 10}}]}",
    "{match: {types: PUBLISH}, when: {every_nth: 2}, actions: [{truncate: {bytes: 3, reframe: true}}]}",
    "{match: {types: PUBLISH}, when: {every_nth: 3}, actions: [{truncate: {bytes: 3}}]}",
    "{match: {types: [PUBACK, PUBREC]}, actions: [{reason_code: quota_exceeded}]}",
    "{match: {types: [PUBACK, PUBCOMP]}, actions: [withhold_ack]}",
    "{match: {types: CONNACK}, actions: [{capabilities: {maximum_qos: 0, receive_maximum: 1, session_present: true}}]}",
    "{match: {types: CONNECT}, when: {after_n: 1}, actions: [{refuse_connect: {reason: server_busy}}]}",
];

static RULES: LazyLock<Vec<RuleSpec>> = LazyLock::new(|| {
    let rules = DELAYS.iter().chain(&OTHERS);
    rules.map(|rule| serde_saphyr::from_str(rule).expect(rule)).collect()
});

const SIDES: [Direction; 2] = [Direction::ClientToServer, Direction::ServerToClient];

pub fn run(input: &[u8]) {
    let mut source = Source::new(input);
    let chaos = Chaos::new(ChaosOptions { seed: 7, ..ChaosOptions::default() }, ChaosHooks::default());
    let (mut only_delays, mut is_in_order) = (true, true);
    for _ in 0..=source.byte() % 3 {
        let which = usize::from(source.byte()) % RULES.len();
        only_delays &= which < DELAYS.len();
        is_in_order &= which < IN_ORDER;
        chaos.create(RULES[which].clone()).expect("a good rule");
    }
    let splice = match source.byte() {
        0..=0xBF => Splice::default(),
        flags => Splice {
            identity: (flags & 1 != 0).then(|| ("a".to_owned(), ProtocolVersion::V5)),
            from_client: if flags & 2 != 0 {
                Begun::Left(source.byte().into())
            } else {
                begun(source.bytes())
            },
            from_server: if flags & 4 != 0 { Begun::Unknown } else { begun(source.bytes()) },
        },
    };
    let is_whole = splice == Splice::default();
    let now = Instant::now();
    let mut stage = Stage {
        line: Line::new(chaos.clone(), LONGEST, splice),
        chaos,
        protocol: ProtocolVersion::V311,
        now,
        turns: 0,
        is_open: [true; 2],
        has_ended: [false; 2],
        only_delays,
        is_in_order,
        is_whole,
        is_cut: false,
        sides: Default::default(),
    };
    while !source.is_empty() {
        stage.act(&mut source);
    }
    stage.end();
}

/// Behind `bytes`, if they are less than a packet: a line is not put in behind a whole one that it did not see pass.
fn begun(bytes: &[u8]) -> Begun {
    match Frame::size(bytes) {
        Ok(size) if size.is_none_or(|size| size > bytes.len()) => Begun::behind(bytes),
        _ => Begun::Nothing,
    }
}

struct Stage {
    line: Line,
    chaos: Chaos,
    protocol: ProtocolVersion,
    now: Instant,
    turns: usize,
    is_open: [bool; 2],
    has_ended: [bool; 2],
    only_delays: bool,
    is_in_order: bool,
    /// Whether the line was there from the first byte on.
    is_whole: bool,
    is_cut: bool,
    sides: [Side; 2],
}

/// What came from one side, and what became of it.
#[derive(Default)]
struct Side {
    received: Vec<u8>,
    passed: Vec<u8>,
    reported: Vec<u8>,
    /// Whether it ended while something waited: messages for a slow subscriber are lost then.
    may_lose: bool,
}

impl Stage {
    fn act(&mut self, source: &mut Source<'_>) {
        let op = source.byte();
        let side = usize::from(op & 1);
        match op >> 1 & 0b1111 {
            0..=7 => {
                let bytes = packets::bytes(source, &mut self.protocol);
                let cut = if op & 0x80 != 0 { usize::from(source.byte()).min(bytes.len()) } else { 0 };
                self.receive(side, &bytes[..cut]);
                self.receive(side, &bytes[cut..]);
            }
            8 => self.receive(side, source.bytes()),
            9 | 10 => self.pass(Duration::from_millis(source.byte().into())),
            11 => self.pass(Duration::from_secs(source.byte().into())),
            12 => self.is_open[side] = !self.is_open[side],
            13 => {
                self.sides[side].may_lose |= !self.has_ended[side] && self.line.held(SIDES[side]) > 0;
                self.line.end(self.now, SIDES[side]);
                self.has_ended[side] = true;
                self.listen();
            }
            14 => {
                self.chaos.reset();
                self.listen();
            }
            _ => {
                self.line.is_black(self.now);
                self.listen();
            }
        }
    }

    fn receive(&mut self, side: usize, bytes: &[u8]) {
        // Nothing follows an end, and an end has other words than nothing.
        if self.has_ended[side] || bytes.is_empty() {
            return;
        }
        self.sides[side].received.extend_from_slice(bytes);
        self.line.receive(self.now, SIDES[side], bytes);
        self.listen();
    }

    fn opened(is_open: [bool; 2]) -> impl Fn(Direction) -> bool {
        move |direction| is_open[usize::from(direction == Direction::ServerToClient)]
    }

    /// Stops at each deadline on the way.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(next) =
            self.line.next_timeout(Self::opened(self.is_open)).filter(|next| *next <= until)
        {
            self.turn();
            self.now = self.now.max(next);
            self.listen();
        }
        self.now = until;
        self.listen();
    }

    fn turn(&mut self) {
        self.turns += 1;
        assert!(self.turns < TURNS_MAX, "work that never ends");
    }

    fn listen(&mut self) {
        while let Some(output) = self.line.poll_output(self.now, Self::opened(self.is_open)) {
            self.turn();
            assert!(!self.is_cut, "{output:?} behind the end of the connection");
            match output {
                LineOutput::Report { direction, bytes, .. } => {
                    self.side(direction).reported.extend_from_slice(&bytes)
                }
                LineOutput::Pass { direction, bytes } => {
                    self.side(direction).passed.extend_from_slice(&bytes)
                }
                LineOutput::Cut { .. } => self.is_cut = true,
                LineOutput::Identified { .. }
                | LineOutput::Fault(_)
                | LineOutput::LoseSession { .. }
                | LineOutput::End(_) => {}
            }
        }
        let client = &self.sides[0];
        assert!(client.received.starts_with(&client.reported), "what the client sent is told as it came");
    }

    fn side(&mut self, direction: Direction) -> &mut Side {
        &mut self.sides[usize::from(direction == Direction::ServerToClient)]
    }

    fn end(mut self) {
        self.is_open = [true; 2];
        self.pass(Duration::from_secs(1_000_000));
        for direction in SIDES {
            self.line.end(self.now, direction);
            self.listen();
        }
        self.pass(Duration::from_secs(1_000_000));
        if self.only_delays {
            assert!(!self.is_cut, "cut without a rule for it");
            for (side, direction) in self.sides.iter().zip(SIDES) {
                if self.is_in_order {
                    assert_eq!(side.passed, side.received, "nothing is lost, changed, added or overtaken");
                }
                assert_eq!(self.line.held(direction), 0);
            }
            let client = &self.sides[1];
            assert_eq!(client.passed, client.reported, "what the client is sent is told as it goes out");
            self.check_messages();
        }
        drop(self.line);
        assert_eq!((self.chaos.held().packets, self.chaos.held().bytes), (0, 0));
    }

    /// What overtakes comes whole, and says the same though its alias does not stand for its topic any more.
    fn check_messages(&self) {
        let sent = &self.sides[0].received;
        let size = Frame::size(sent).ok().flatten().unwrap_or(usize::MAX);
        let connect = sent.get(..size).filter(|_| self.is_whole && sent[0] == 0x10 && size <= LONGEST);
        let Some(connect) = connect.and_then(|bytes| Connect::read(&bytes.to_vec().into())) else { return };
        for side in &self.sides {
            let Some(received) = messages(&side.received, connect.protocol, LONGEST) else { continue };
            let passed =
                messages(&side.passed, connect.protocol, usize::MAX).expect("cut into packets as it came");
            let mut left: HashMap<&str, usize> = HashMap::new();
            for message in &received {
                *left.entry(message).or_default() += 1;
            }
            for message in &passed {
                let count = left.get_mut(message.as_str()).filter(|count| **count > 0);
                *count.unwrap_or_else(|| panic!("changed or added: {message}")) -= 1;
            }
            assert!(side.may_lose || passed.len() == received.len(), "lost");
        }
    }
}

/// Each packet of a stream as text, topics in the place of aliases; `None` if not all of it is packets, or there is a
/// message longer than `longest`, whose alias may have passed unseen.
fn messages(mut stream: &[u8], protocol: ProtocolVersion, longest: usize) -> Option<Vec<String>> {
    let mut topics = HashMap::new();
    let mut messages = Vec::new();
    while let Some(&first) = stream.first() {
        let kind = PacketType::parse(first, protocol).ok()?;
        let (packet, rest) = stream.split_at_checked(Frame::size(stream).ok()??)?;
        if packet.len() > longest && kind == PacketType::Publish && protocol.has_properties() {
            return None;
        }
        stream = rest;
        messages.push(match ControlPacket::decode_copied(packet, protocol) {
            Ok(ControlPacket::Publish(publish)) => with_topic(publish, &mut topics).to_string(),
            _ => format!("{packet:x?}"),
        });
    }
    Some(messages)
}

fn with_topic(mut publish: Publish, topics: &mut HashMap<u16, TopicName>) -> ControlPacket {
    let alias = publish.properties.iter().find_map(|property| match property {
        Property::TopicAlias(alias) => Some(*alias),
        _ => None,
    });
    if let Some(alias) = alias {
        match &publish.topic {
            Some(topic) => _ = topics.insert(alias, topic.clone()),
            None => publish.topic = topics.get(&alias).cloned(),
        }
        if publish.topic.is_some() {
            publish.properties.retain(|property| !matches!(property, Property::TopicAlias(_)));
        }
    }
    ControlPacket::Publish(publish)
}

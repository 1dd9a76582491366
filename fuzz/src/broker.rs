//! A broker and a few clients that do anything, in simulated time.

use std::{
    io::IoSlice,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mockforge::{
    auth::{Access, Accounts, Acl, AclRuleSpec, Actions, UserList, UserSpec},
    broker::{Broker, Checked, Limits, Options, Output},
    interceptor::{Interception, Interceptor, Interest, Offered, Party, Verdict},
    packet::{
        ControlPacket, DecodeError, Frame, FrameReader, PlainAck, Properties, ProtocolVersion, PublishRef,
        QoS, ReasonCode, TopicFilter,
    },
    session::{ApplicationMessage, ConnectionId, Origin, Peer, SHARED_PAYLOAD},
};

use super::{Source, packets};

/// Connections at a time.
const LINKS: usize = 4;

/// Turns that the broker may ask for before it has to be at rest.
const TURNS_MAX: usize = 20_000;

/// Longest packet that a client may send.
const PACKET_MAX: usize = 12_000;

/// What one packet may add to an outbox that was not full.
const LAST_PACKET: usize = 2 * PACKET_MAX;

pub fn run(input: &[u8]) {
    let mut source = Source::new(input);
    let mut stage = Stage::new(&mut source);
    while !source.is_empty() {
        stage.act(&mut source);
        stage.settle();
        stage.check();
    }
    stage.leave();
}

struct Stage {
    broker: Broker,
    now: Instant,
    links: [Option<Link>; LINKS],
    last_id: u64,
    /// Of connections whose passwords are to be checked.
    checks: Vec<ConnectionId>,
    /// Whether a peer has a certificate that says who it is.
    has_identity: bool,
}

struct Link {
    id: ConnectionId,
    incoming: FrameReader,
    /// What the client makes of what it is sent; once it has said of which version it is.
    heard: FrameReader,
    sends: ProtocolVersion,
    /// The longest packet that the client takes.
    packet_max: usize,
    reads: bool,
    /// What is held back while the client's password is being checked.
    waiting: Vec<u8>,
    received: usize,
    was_refused: bool,
}

impl Stage {
    fn new(source: &mut Source<'_>) -> Self {
        let now = Instant::now();
        let (flags, more) = (source.byte(), source.byte());
        let mut limits = Limits { max_packet_size: PACKET_MAX, ..Limits::default() };
        if flags & 1 != 0 {
            limits.queue_messages = 3;
            limits.inflight_max = 3;
            limits.outbox_bytes = 60;
            limits.retained_messages = 2;
        }
        if flags & 2 != 0 {
            limits.queue_bytes = 100;
            limits.retained_bytes = 100;
            limits.subscriptions_per_client = 2;
            limits.sessions = 2;
            limits.session_expiry_max = 20;
            limits.keep_alive_max = 10;
        }
        if flags & 4 != 0 {
            limits.receive_maximum = 2;
            limits.topic_alias_maximum = 3;
            limits.maximum_qos = QoS::AtLeastOnce;
        }
        if flags & 8 != 0 {
            limits.retain_available = false;
            limits.wildcard_subscription_available = false;
            limits.subscription_identifier_available = false;
            limits.shared_subscription_available = false;
        }
        if more & 1 != 0 {
            limits.waiting_bytes = 1_000;
        }
        if more & 2 != 0 {
            limits.topic_levels = 2;
            limits.topic_bytes = 20;
            limits.filters_per_packet = 2;
            limits.subscriptions = 3;
            limits.control_packet_bytes = 100;
        }
        let mut options = Options::from(limits);
        if more & 4 != 0 {
            options.access = access(more & 8 != 0);
        }
        if flags & 16 != 0 {
            options.sys_interval = Duration::from_secs(5);
        }
        if flags & 32 != 0 {
            // Not a password: deriving keys from one takes long.
            let key = "A".repeat(43) + "=";
            let user = format!("u:SCRAM-SHA-256$4096:AAAA${key}:{key}");
            options.scram_users = UserList::parse(&user).expect("a user");
        }
        let mut broker = Broker::new(now, options, 1);
        if flags & 64 != 0 {
            let interest = Interest::default();
            interest.set(Party::Mocks, true);
            broker.set_interception(Interception::new(Box::new(Keeper), interest));
        }
        broker.handle_timeout(now);
        let has_identity = more & 16 != 0;
        Self { broker, now, links: Default::default(), last_id: 0, checks: Vec::new(), has_identity }
    }

    fn act(&mut self, source: &mut Source<'_>) {
        let op = source.byte();
        let slot = usize::from(op >> 6);
        match op & 0b1_1111 {
            0..=17 => {
                let Some(link) = &mut self.links[slot] else { return self.open(slot) };
                let bytes = packets::bytes(source, &mut link.sends);
                self.send(slot, &bytes);
            }
            18 | 19 => {
                let bytes = source.bytes();
                self.send(slot, bytes);
            }
            20 => {
                if let Some(link) = self.links[slot].take() {
                    self.broker.handle_close(self.now, link.id);
                }
            }
            21 | 22 => {
                if let Some(link) = &mut self.links[slot] {
                    link.reads = !link.reads;
                }
            }
            23 => {
                let count = usize::from(source.byte());
                self.take(slot, count);
            }
            24..=26 => self.pass(Duration::from_millis(u64::from(source.byte()) * 100)),
            27 => self.pass(Duration::from_secs(u64::from(source.byte()) * 10)),
            28 => {
                let message = ApplicationMessage {
                    topic: packets::topic(source),
                    payload: packets::payload(source),
                    qos: source.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]),
                    retain: source.flag(),
                    properties: Properties::new(),
                    expires_at: source.flag().then(|| self.now + Duration::from_secs(2)),
                    origin: Origin::Synthetic { depth: 0 },
                };
                self.broker.publish(self.now, message);
            }
            29 => {
                let client = source.pick(&packets::CLIENTS);
                self.broker.disconnect(self.now, client, ReasonCode::ADMINISTRATIVE_ACTION, source.flag());
            }
            30 => {
                self.broker.discard_session(self.now, source.pick(&packets::CLIENTS));
            }
            _ => match source.byte() {
                0xFF => self.broker.shut_down(self.now),
                0xFE => {
                    let filters = vec![TopicFilter::parse("a/#").expect("a filter")];
                    let (key, mut before) = self.broker.observe(filters, Box::new(|_, _| true));
                    while !before.is_empty() {
                        self.broker.next_retained(self.now, &mut before);
                    }
                    if source.flag() {
                        self.broker.stop_observing(key);
                    }
                }
                which @ 0xF0.. => self.broker.set_access(self.now, access(which & 1 != 0)),
                which => {
                    let checked = [Checked::Right, Checked::Wrong, Checked::NotDone][usize::from(which) % 3];
                    for id in std::mem::take(&mut self.checks) {
                        self.broker.handle_checked(self.now, id, checked);
                        if let Some(slot) = self.slot_of(id) {
                            self.read(slot);
                        }
                    }
                }
            },
        }
    }

    fn open(&mut self, slot: usize) {
        self.last_id += 1;
        let id = ConnectionId(self.last_id);
        let identity = self.has_identity.then(|| "u".into());
        self.broker.handle_open(self.now, id, Peer { address: None, transport: "tcp", identity });
        let mut incoming = FrameReader::new(PACKET_MAX);
        incoming.limit_control_packets(self.broker.limits().control_packet_bytes);
        self.links[slot] = Some(Link {
            id,
            incoming,
            heard: FrameReader::new(usize::MAX),
            sends: ProtocolVersion::V311,
            packet_max: usize::MAX,
            reads: true,
            waiting: Vec::new(),
            received: 0,
            was_refused: false,
        });
    }

    fn send(&mut self, slot: usize, bytes: &[u8]) {
        let Some(link) = &mut self.links[slot] else { return };
        link.received += bytes.len();
        link.waiting.extend_from_slice(bytes);
        self.broker.count_bytes(bytes.len(), 0);
        self.read(slot);
    }

    /// As the shell does: packets are handed over where they lie, as far as they are whole.
    fn read(&mut self, slot: usize) {
        let Some(link) = &mut self.links[slot] else { return };
        let waiting = std::mem::take(&mut link.waiting);
        let mut input = &waiting[..];
        while !link.was_refused {
            if self.broker.is_checking(link.id) {
                link.waiting = input.to_vec();
                return;
            }
            match link.hand_over(&mut self.broker, self.now, &mut input) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    link.was_refused = true;
                    if let Some(protocol) = link.incoming.protocol() {
                        self.broker.set_protocol(link.id, protocol);
                    }
                    self.broker.handle_malformed(self.now, link.id, &error);
                    return;
                }
            }
        }
        link.incoming.buffer().extend_from_slice(input);
    }

    /// Stops at each deadline on the way.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        for turn in 0.. {
            assert!(turn < TURNS_MAX, "timers that never end");
            let Some(due) = self.broker.next_timeout().filter(|due| *due <= until) else { break };
            self.now = self.now.max(due);
            self.broker.handle_timeout(self.now);
            self.settle();
        }
        self.now = until;
    }

    /// Does what the broker asks for until it asks for nothing.
    fn settle(&mut self) {
        for turn in 0.. {
            assert!(turn < TURNS_MAX, "work that never ends");
            while let Some(output) = self.broker.poll_output() {
                match output {
                    Output::Close(id, _) => {
                        let Some(slot) = self.slot_of(id) else { continue };
                        self.take(slot, usize::MAX);
                        self.broker.handle_close(self.now, id);
                        self.links[slot] = None;
                    }
                    Output::Check { connection, .. } => self.checks.push(connection),
                    Output::Flush(_) | Output::Persist { .. } | Output::Emit(_) => {}
                }
            }
            let mut has_taken = false;
            for slot in 0..LINKS {
                if self.links[slot].as_ref().is_some_and(|link| link.reads) {
                    has_taken |= self.take(slot, usize::MAX);
                }
            }
            let is_due = self.broker.next_timeout().is_some_and(|due| due <= self.now);
            if is_due {
                self.broker.handle_timeout(self.now);
            } else if !has_taken {
                return;
            }
        }
    }

    fn slot_of(&self, id: ConnectionId) -> Option<usize> {
        self.links.iter().position(|link| link.as_ref().is_some_and(|link| link.id == id))
    }

    /// The client reads up to `count` bytes of what waits for it; whether there were any.
    fn take(&mut self, slot: usize, count: usize) -> bool {
        let Some(link) = &mut self.links[slot] else { return false };
        let outbox = self.broker.outbox(link.id).expect("the connection is open");
        let mut left = count.min(outbox.len());
        let taken = left;
        while left > 0 {
            let mut slices = [IoSlice::new(&[]); 8];
            let filled = outbox.chunks(&mut slices);
            let mut written = 0;
            for slice in &slices[..filled] {
                let part = slice.len().min(left - written);
                link.heard.buffer().extend_from_slice(&slice[..part]);
                written += part;
            }
            outbox.advance(written);
            left -= written;
        }
        self.broker.count_bytes(0, taken);
        link.hear();
        let id = link.id;
        if taken > 0 {
            self.broker.handle_flushed(self.now, id);
        }
        taken > 0
    }

    fn check(&mut self) {
        self.broker.assert_consistent();
        let outbox_max = self.broker.limits().outbox_bytes + LAST_PACKET;
        for link in self.links.iter().flatten() {
            let waiting = self.broker.outbox(link.id).expect("the connection is open").len();
            // Answers are no longer than what they answer, but for CONNACK.
            assert!(waiting <= outbox_max + 4 * link.received, "{waiting} bytes wait");
        }
        assert_eq!(
            self.broker.stats().clients_connected,
            self.broker.clients().iter().filter(|client| client.connection.is_some()).count() as u64
        );
    }

    /// When everybody has gone, nothing is left.
    fn leave(mut self) {
        for link in &mut self.links {
            if let Some(link) = link.take() {
                self.broker.handle_close(self.now, link.id);
            }
        }
        self.settle();
        self.pass(Duration::from_secs(1_000));
        self.check();
        for client in self.broker.clients() {
            self.broker.discard_session(self.now, &client.client_identifier);
        }
        self.settle();
        self.check();
        let stats = self.broker.stats();
        assert_eq!((stats.sessions, stats.subscriptions_active, stats.inflight, stats.queued), (0, 0, 0, 0));
    }
}

impl Link {
    /// Hands over the next packet; whether it was whole.
    fn hand_over(
        &mut self,
        broker: &mut Broker,
        now: Instant,
        input: &mut &[u8],
    ) -> Result<bool, DecodeError> {
        if !self.incoming.buffer().is_empty() {
            self.incoming.complete(input);
            let Some(Frame { packet, .. }) = self.incoming.next_frame()? else { return Ok(false) };
            self.note(&packet);
            broker.handle_packet(now, self.id, packet);
            return Ok(true);
        }
        let Some(frame) = self.incoming.next_in_place(input)? else { return Ok(false) };
        let protocol = self.incoming.protocol().expect("a packet was read");
        if frame[0] >> 4 == 3 && frame.len() < SHARED_PAYLOAD {
            broker.handle_publish_in_place(now, self.id, &PublishRef::decode(frame, protocol)?, frame);
        } else if let Some(ack) = PlainAck::read(frame) {
            broker.handle_plain_ack(now, self.id, ack);
        } else {
            let packet = ControlPacket::decode(&Bytes::copy_from_slice(frame), protocol)?;
            self.note(&packet);
            broker.handle_packet(now, self.id, packet);
        }
        Ok(true)
    }

    /// The client's first CONNECT counts.
    fn note(&mut self, packet: &ControlPacket) {
        if let ControlPacket::Connect(connect) = packet
            && self.heard.protocol().is_none()
        {
            self.packet_max =
                connect.properties.maximum_packet_size().map_or(usize::MAX, |size| size as usize);
            self.heard.set_protocol(connect.protocol);
        }
    }

    /// All that a client is sent are packets of its version, none longer than it takes [MQTT-3.1.2-24].
    fn hear(&mut self) {
        if self.heard.protocol().is_none() {
            return;
        }
        loop {
            match self.heard.next_frame() {
                Ok(Some(Frame { bytes, packet })) => {
                    assert!(bytes.len() <= self.packet_max, "{packet} of {} bytes", bytes.len());
                }
                Ok(None) => return,
                Err(error) => panic!("a client was sent {:?}: {error}", self.heard.take_rest()),
            }
        }
    }
}

/// One user, whose password nobody ever checks, and rules for it and others.
fn access(allow_anonymous: bool) -> Access {
    let hash = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
    let user = UserSpec {
        username: "u".to_owned(),
        password_hash: Some(hash.to_owned()),
        groups: vec!["g".to_owned()],
    };
    let rule = |allow: &str, topics: &[&str], users: Option<&str>| AclRuleSpec {
        allow: Some(Actions::One(allow.to_owned())),
        topics: topics.iter().map(|&topic| topic.to_owned()).collect(),
        users: users.map(|user| vec![user.to_owned()]),
        ..AclRuleSpec::default()
    };
    let deny = AclRuleSpec { deny: Some(Actions::One("all".to_owned())), ..rule("all", &["x/#"], None) };
    let rules = [
        AclRuleSpec { allow: None, ..deny },
        rule("publish", &["t/%c", "+/u"], None),
        rule("subscribe", &["t/#", "long/#"], None),
        rule("all", &["#", "%u/+"], Some("u")),
    ];
    Access {
        allow_anonymous,
        accounts: Accounts::new(&[user], None).unwrap_or_else(|_| panic!("a user")),
        acl: Acl::new(&rules).expect("rules"),
    }
}

/// Keeps every message whose payload begins with a `p` and has an odd length.
struct Keeper;

impl Interceptor for Keeper {
    fn ask(&mut self, _: Instant, offered: &Offered<'_>) -> Verdict {
        let payload = offered.payload.as_bytes();
        if payload.first() == Some(&b'p') && payload.len() % 2 == 1 {
            Verdict::Intercept
        } else {
            Verdict::Route
        }
    }
}

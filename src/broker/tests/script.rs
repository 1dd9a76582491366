//! The language of transcripts, and what a stage has to offer for one to be played on it.
//!
//! A line of a script is one of
//! - `name> PACKET` in the packets' text form, or `name> bytes 10 0c …` for any bytes;
//! - `name!`: the transport connection of `name` breaks;
//! - `name stalls` and `name reads`: the client stops and goes on reading;
//! - `api> PUBLISH …`: the control plane publishes; `api> disconnect client 0x98`;
//! - `api> shut down`;
//! - `+90s`, `+1500ms`: time passes;
//! - `limits queue_messages=2 …`, first of all: what is not as generous as can be.
//!
//! What is heard between two lines is told client by client, in the order in which they came.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::{
    auth::{Accounts, Acl, UserList, UserSpec, tests::quick_hash},
    broker::{Limits, Options},
    packet::{ControlPacket, FrameReader, ProtocolVersion, Publish, QoS, ReasonCode},
    session::{ApplicationMessage, Origin},
};

/// Where a script is played: a broker behind some way of reaching it, and time.
pub trait Stage {
    fn now(&self) -> Instant;

    /// Connects another client; connections are numbered from 0.
    fn open(&mut self) -> usize;

    /// The client of `connection` sends `bytes`.
    fn send(&mut self, connection: usize, bytes: &[u8]);

    /// The transport of `connection` is gone.
    fn break_off(&mut self, connection: usize);

    /// The client of `connection` stops reading, or goes on.
    fn set_stalled(&mut self, connection: usize, is_stalled: bool);

    /// The control plane publishes.
    fn publish(&mut self, message: ApplicationMessage);

    /// The control plane disconnects a client, which must be there.
    fn disconnect(&mut self, client_identifier: &str, reason: ReasonCode);

    fn shut_down(&mut self);

    /// Lets time pass, and everything happen that falls due.
    fn pass(&mut self, time: Duration);

    /// What has come since the last time, by connection, once nothing more happens by itself.
    fn hear(&mut self) -> Vec<Heard>;
}

/// What a client has heard.
pub struct Heard {
    pub connection: usize,
    pub bytes: Vec<u8>,
    /// Whether the server has closed the connection, behind `bytes`.
    pub is_closed: bool,
}

/// Everything allowed, nothing to advertise.
pub fn generous() -> Limits {
    Limits {
        connect_timeout: Duration::from_secs(10),
        max_packet_size: usize::MAX,
        control_packet_bytes: usize::MAX,
        client_id_bytes: usize::MAX,
        topic_levels: usize::MAX,
        topic_bytes: usize::MAX,
        filters_per_packet: usize::MAX,
        subscriptions: usize::MAX,
        waiting_bytes: usize::MAX,
        receive_maximum: u16::MAX,
        maximum_qos: QoS::ExactlyOnce,
        retain_available: true,
        wildcard_subscription_available: true,
        subscription_identifier_available: true,
        shared_subscription_available: true,
        topic_alias_maximum: 0,
        keep_alive_max: 0,
        inflight_max: u16::MAX,
        queue_messages: usize::MAX,
        queue_bytes: usize::MAX,
        outbox_bytes: usize::MAX / 2,
        retained_messages: usize::MAX,
        retained_bytes: usize::MAX,
        subscriptions_per_client: usize::MAX,
        sessions: usize::MAX,
        session_expiry_max: u32::MAX,
    }
}

/// The broker's options, as `limits` lines change them.
fn parse_options(line: &str) -> Options {
    let mut options = Options::from(generous());
    for word in line.split_whitespace() {
        let (name, value) = word.split_once('=').expect("name=value");
        if name == "scram_users" {
            options.scram_users = UserList::parse(value).expect("users");
            continue;
        }
        match name {
            // `name:password:group+group`, a comma apart.
            "users" => {
                let users: Vec<UserSpec> = value.split(',').map(parse_user).collect();
                options.access.accounts = Accounts::new(&users, None).expect("users");
                continue;
            }
            // Rules in JSON.
            "acl" => {
                let rules: Vec<_> = serde_json::from_str(value).expect("rules");
                options.access.acl = Acl::new(&rules).expect("good rules");
                continue;
            }
            "allow_anonymous" => {
                options.access.allow_anonymous = value != "0";
                continue;
            }
            _ => {}
        }
        let limits = &mut options.limits;
        let value: usize = value.parse().expect("a number");
        match name {
            "connect_timeout" => limits.connect_timeout = Duration::from_secs(value as u64),
            "control_packet_bytes" => limits.control_packet_bytes = value,
            "client_id_bytes" => limits.client_id_bytes = value,
            "topic_levels" => limits.topic_levels = value,
            "topic_bytes" => limits.topic_bytes = value,
            "filters_per_packet" => limits.filters_per_packet = value,
            "subscriptions" => limits.subscriptions = value,
            "waiting_bytes" => limits.waiting_bytes = value,
            "max_packet_size" => limits.max_packet_size = value,
            "receive_maximum" => limits.receive_maximum = value as u16,
            "maximum_qos" => limits.maximum_qos = QoS::try_from(value as u8).expect("0 to 2"),
            "retain_available" => limits.retain_available = value != 0,
            "wildcard_subscription_available" => limits.wildcard_subscription_available = value != 0,
            "subscription_identifier_available" => limits.subscription_identifier_available = value != 0,
            "shared_subscription_available" => limits.shared_subscription_available = value != 0,
            "sys_interval" => options.sys_interval = Duration::from_secs(value as u64),
            "topic_alias_maximum" => limits.topic_alias_maximum = value as u16,
            "keep_alive_max" => limits.keep_alive_max = value as u16,
            "inflight_max" => limits.inflight_max = value as u16,
            "queue_messages" => limits.queue_messages = value,
            "queue_bytes" => limits.queue_bytes = value,
            "outbox_bytes" => limits.outbox_bytes = value,
            "retained_messages" => limits.retained_messages = value,
            "retained_bytes" => limits.retained_bytes = value,
            "subscriptions_per_client" => limits.subscriptions_per_client = value,
            "sessions" => limits.sessions = value,
            "session_expiry_max" => limits.session_expiry_max = value as u32,
            other => panic!("no limit is called {other}"),
        }
    }
    options
}

fn parse_user(text: &str) -> UserSpec {
    let mut parts = text.split(':');
    let username = parts.next().expect("a name").to_owned();
    let password_hash = parts.next().map(quick_hash);
    let groups = parts.next().map_or(Vec::new(), |groups| groups.split('+').map(str::to_owned).collect());
    UserSpec { username, password_hash, groups }
}

/// Plays scripts on a stage, for clients known by name.
pub struct Player<S> {
    pub stage: S,
    clients: Vec<Client>,
}

struct Client {
    name: String,
    connection: usize,
    is_open: bool,
    /// What it sends, as far as it takes to learn its protocol.
    sent: FrameReader,
    received: FrameReader,
}

impl Client {
    fn new(name: &str, connection: usize) -> Self {
        Self {
            name: name.to_owned(),
            connection,
            is_open: true,
            sent: FrameReader::new(usize::MAX),
            received: FrameReader::new(usize::MAX),
        }
    }

    /// Looks for the CONNECT among what it sends, valid or not.
    fn note_sent(&mut self, bytes: &[u8]) {
        if self.received.protocol().is_none() {
            self.sent.buffer().extend_from_slice(bytes);
            // An error tells the broker more than it tells us.
            let _ = self.sent.next_frame();
            if let Some(protocol) = self.sent.protocol() {
                self.received.set_protocol(protocol);
            }
        }
    }

    /// Takes in what came; tells the whole packets.
    fn note_received(&mut self, bytes: &[u8]) -> Vec<String> {
        self.received.buffer().extend_from_slice(bytes);
        if self.received.protocol().is_none() {
            // An answer to what was no CONNECT; 3.1.1's CONNACK is four bytes long.
            let is_v3 = self.received.buffer().get(1) == Some(&2);
            self.received.set_protocol(if is_v3 { ProtocolVersion::V311 } else { ProtocolVersion::V5 });
        }
        let mut heard = Vec::new();
        while let Some(frame) = self.received.next_frame().expect("the broker sends packets") {
            heard.push(format!("{}< {:.60}", self.name, frame.packet));
        }
        heard
    }
}

impl<S: Stage> Player<S> {
    pub fn new(stage: S) -> Self {
        Self { stage, clients: Vec::new() }
    }

    /// Plays one line; returns what was heard after it.
    pub fn play(&mut self, line: &str) -> Vec<String> {
        if let Some((name, what)) = line.split_once("> ") {
            match what.strip_prefix("bytes ") {
                _ if name == "api" => self.command(what),
                Some(hex) => self.send(name, &parse_hex(hex)),
                None => self.send_packet(name, what),
            }
        } else if let Some(time) = line.strip_prefix('+') {
            self.stage.pass(parse_time(time));
        } else if let Some(name) = line.strip_suffix('!') {
            let client = self.client(name);
            client.is_open = false;
            let connection = client.connection;
            self.stage.break_off(connection);
        } else if let Some(name) = line.strip_suffix(" stalls") {
            let connection = self.client(name).connection;
            self.stage.set_stalled(connection, true);
        } else if let Some(name) = line.strip_suffix(" reads") {
            let connection = self.client(name).connection;
            self.stage.set_stalled(connection, false);
        } else {
            panic!("no line of a script: {line}");
        }
        self.listen()
    }

    /// Whether `line` can be played: a connection that is to break has to be there.
    pub fn knows(&self, line: &str) -> bool {
        let name = line.strip_suffix('!').or(line.strip_suffix(" stalls")).or(line.strip_suffix(" reads"));
        name.is_none_or(|name| self.clients.iter().any(|client| client.name == name && client.is_open))
    }

    fn client(&mut self, name: &str) -> &mut Client {
        let client = self.clients.iter_mut().find(|client| client.name == name);
        client.unwrap_or_else(|| panic!("nobody is called {name}"))
    }

    fn send_packet(&mut self, name: &str, text: &str) {
        let packet: ControlPacket = text.parse().unwrap_or_else(|problem| panic!("{text}: {problem}"));
        let protocol = match &packet {
            ControlPacket::Connect(connect) => connect.protocol,
            _ => self
                .clients
                .iter()
                .find(|client| client.name == name)
                .and_then(|client| client.sent.protocol())
                .unwrap_or(ProtocolVersion::V5),
        };
        let mut bytes = BytesMut::new();
        packet.encode(protocol, &mut bytes).unwrap_or_else(|problem| panic!("{text}: {problem}"));
        self.send(name, &bytes);
    }

    /// Sends bytes over the client's connection; opens one if it has none.
    fn send(&mut self, name: &str, bytes: &[u8]) {
        let index = match self.clients.iter().position(|client| client.name == name) {
            Some(index) if self.clients[index].is_open => index,
            Some(index) => {
                self.clients[index] = Client::new(name, self.stage.open());
                index
            }
            None => {
                self.clients.push(Client::new(name, self.stage.open()));
                self.clients.len() - 1
            }
        };
        let client = &mut self.clients[index];
        client.note_sent(bytes);
        self.stage.send(client.connection, bytes);
    }

    fn command(&mut self, what: &str) {
        if what == "shut down" {
            return self.stage.shut_down();
        }
        if let Some(rest) = what.strip_prefix("disconnect ") {
            let (client, code) = rest.split_once(' ').expect("client and code");
            let code = u8::from_str_radix(code.trim_start_matches("0x"), 16).expect("a code");
            return self.stage.disconnect(client, ReasonCode(code));
        }
        let packet: ControlPacket = what.parse().unwrap_or_else(|problem| panic!("{what}: {problem}"));
        let ControlPacket::Publish(publish) = packet else { panic!("the api only publishes: {what}") };
        let message = message_of(publish, self.stage.now());
        self.stage.publish(message);
    }

    fn listen(&mut self) -> Vec<String> {
        let mut heard: Vec<Vec<String>> = vec![Vec::new(); self.clients.len()];
        for Heard { connection, bytes, is_closed } in self.stage.hear() {
            // A connection whose client has another one by now has nobody to tell.
            let index = self.clients.iter().position(|client| client.connection == connection);
            let Some(index) = index else { continue };
            let client = &mut self.clients[index];
            heard[index].extend(client.note_received(&bytes));
            if is_closed {
                client.is_open = false;
                heard[index].push(format!("{} closed", client.name));
            }
        }
        heard.concat()
    }
}

fn message_of(publish: Publish, now: Instant) -> ApplicationMessage {
    let expiry = publish.properties.message_expiry_interval();
    ApplicationMessage {
        topic: publish.topic.expect("a topic"),
        payload: publish.payload,
        qos: publish.qos,
        retain: publish.retain,
        properties: publish.properties,
        expires_at: expiry.map(|seconds| now + Duration::from_secs(seconds.into())),
        origin: Origin::Synthetic { depth: 0 },
    }
}

fn parse_hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex")).collect()
}

fn parse_time(text: &str) -> Duration {
    match text.strip_suffix("ms") {
        Some(millis) => Duration::from_millis(millis.parse().expect("milliseconds")),
        None => Duration::from_secs(text.strip_suffix('s').expect("s or ms").parse().expect("seconds")),
    }
}

/// What a stage makes of a scenario: each line of its script followed by what was heard, indented;
/// and the player, when all is played.
pub fn perform<S: Stage>(scenario: &str, stage: impl FnOnce(Options) -> S) -> (String, Player<S>) {
    let mut lines =
        scenario.lines().filter(|line| !line.starts_with(' ') && !line.trim().is_empty()).peekable();
    let mut told = String::new();
    let mut options = Options::from(generous());
    if let Some(line) = lines.next_if(|line| line.starts_with("limits ")) {
        options = parse_options(line.trim_start_matches("limits "));
        told += &format!("{line}\n");
    }
    let mut player = Player::new(stage(options));
    for line in lines {
        told += &format!("{line}\n");
        if line.starts_with('#') {
            continue;
        }
        for heard in player.play(line) {
            told += &format!("    {heard}\n");
        }
    }
    (told, player)
}

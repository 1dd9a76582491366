//! The stage of a transcript: a bare [`Broker`], clients by name, and simulated time.
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

use std::{
    io::IoSlice,
    time::{Duration, Instant},
};

use crate::{
    broker::{Broker, BrokerEvent, Limits, Output},
    packet::{ControlPacket, FrameReader, ProtocolVersion, ReasonCode},
    session::{ApplicationMessage, ConnectionId, Origin, Peer},
};

/// Everything allowed, nothing to advertise.
pub fn generous() -> Limits {
    Limits {
        max_packet_size: usize::MAX,
        receive_maximum: u16::MAX,
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

pub struct Stage {
    pub broker: Broker,
    pub now: Instant,
    pub events: Vec<BrokerEvent>,
    clients: Vec<Client>,
    connections: u64,
}

struct Client {
    name: String,
    id: ConnectionId,
    is_open: bool,
    stalls: bool,
    protocol: ProtocolVersion,
    to_broker: FrameReader,
    from_broker: FrameReader,
    heard: Vec<String>,
}

impl Stage {
    pub fn new(limits: Limits) -> Self {
        Self {
            broker: Broker::new(limits, 1),
            now: Instant::now(),
            events: Vec::new(),
            clients: Vec::new(),
            connections: 0,
        }
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
            self.pass(parse_time(time));
        } else if let Some(name) = line.strip_suffix('!') {
            let client = self.client(name);
            client.is_open = false;
            let id = client.id;
            self.broker.handle_close(self.now, id);
        } else if let Some(name) = line.strip_suffix(" stalls") {
            self.client(name).stalls = true;
        } else if let Some(name) = line.strip_suffix(" reads") {
            self.client(name).stalls = false;
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

    /// The broker's limits, as `limits` lines change them.
    pub fn parse_limits(line: &str) -> Limits {
        let mut limits = generous();
        for word in line.split_whitespace() {
            let (name, value) = word.split_once('=').expect("name=value");
            let value: usize = value.parse().expect("a number");
            match name {
                "max_packet_size" => limits.max_packet_size = value,
                "receive_maximum" => limits.receive_maximum = value as u16,
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
        limits
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
                .map_or(ProtocolVersion::V5, |c| c.protocol),
        };
        let mut bytes = bytes::BytesMut::new();
        packet.encode(protocol, &mut bytes).unwrap_or_else(|problem| panic!("{text}: {problem}"));
        self.send(name, &bytes);
    }

    /// Sends bytes over the client's connection; opens one if it has none.
    fn send(&mut self, name: &str, bytes: &[u8]) {
        let index = self.clients.iter().position(|client| client.name == name && client.is_open);
        let index = index.unwrap_or_else(|| self.open(name));
        let client = &mut self.clients[index];
        client.to_broker.buffer().extend_from_slice(bytes);
        loop {
            match client.to_broker.next_frame() {
                Ok(Some(frame)) => {
                    if let ControlPacket::Connect(connect) = &frame.packet
                        && client.from_broker.protocol().is_none()
                    {
                        client.protocol = connect.protocol;
                        client.from_broker.set_protocol(connect.protocol);
                    }
                    self.broker.handle_packet(self.now, client.id, frame.packet);
                }
                Ok(None) => return,
                Err(error) => {
                    if let Some(protocol) = client.to_broker.protocol() {
                        self.broker.set_protocol(client.id, protocol);
                        client.from_broker.set_protocol(protocol);
                    }
                    self.broker.handle_malformed(self.now, client.id, &error);
                    client.to_broker.take_rest();
                    return;
                }
            }
        }
    }

    fn open(&mut self, name: &str) -> usize {
        self.connections += 1;
        let id = ConnectionId(self.connections);
        self.broker.handle_open(self.now, id, Peer { address: None, transport: "tcp" });
        let known = self.clients.iter().position(|client| client.name == name);
        let client = Client {
            name: name.to_owned(),
            id,
            is_open: true,
            stalls: false,
            protocol: ProtocolVersion::V5,
            to_broker: FrameReader::new(self.broker.limits().max_packet_size),
            from_broker: FrameReader::new(usize::MAX),
            heard: Vec::new(),
        };
        match known {
            Some(index) => {
                self.clients[index] = client;
                index
            }
            None => {
                self.clients.push(client);
                self.clients.len() - 1
            }
        }
    }

    fn command(&mut self, what: &str) {
        if what == "shut down" {
            return self.broker.shut_down(self.now);
        }
        if let Some(rest) = what.strip_prefix("disconnect ") {
            let (client, code) = rest.split_once(' ').expect("client and code");
            let code = u8::from_str_radix(code.trim_start_matches("0x"), 16).expect("a code");
            assert!(self.broker.disconnect(self.now, client, ReasonCode(code), true));
            return;
        }
        let packet: ControlPacket = what.parse().unwrap_or_else(|problem| panic!("{what}: {problem}"));
        let ControlPacket::Publish(publish) = packet else { panic!("the api only publishes: {what}") };
        let expiry = publish.properties.message_expiry_interval();
        let message = ApplicationMessage {
            topic: publish.topic.expect("a topic"),
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            properties: publish.properties,
            expires_at: expiry.map(|seconds| self.now + Duration::from_secs(seconds.into())),
            origin: Origin::Synthetic,
        };
        self.broker.publish(self.now, message);
    }

    /// Lets time pass, stopping at each deadline on the way.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(due) = self.broker.next_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.broker.handle_timeout(self.now);
            // Whoever is flushed now may be silent until the next deadline.
            self.carry_out();
        }
        self.now = until;
    }

    fn listen(&mut self) -> Vec<String> {
        loop {
            self.carry_out();
            match self.broker.next_timeout() {
                Some(due) if due <= self.now => self.broker.handle_timeout(self.now),
                _ => break,
            }
        }
        let mut heard = Vec::new();
        for client in &mut self.clients {
            heard.append(&mut client.heard);
        }
        heard
    }

    /// Does what the shell does: writes what may be written, and closes.
    fn carry_out(&mut self) {
        loop {
            while let Some(output) = self.broker.poll_output() {
                match output {
                    Output::Flush(_) => {}
                    Output::Emit(event) => self.events.push(event),
                    Output::Close(id, _) => {
                        self.drain(id);
                        self.broker.handle_close(self.now, id);
                        let client =
                            self.clients.iter_mut().find(|client| client.id == id).expect("a client");
                        client.is_open = false;
                        client.heard.push(format!("{} closed", client.name));
                    }
                }
            }
            let readers = self.clients.iter().filter(|client| client.is_open && !client.stalls);
            let readers: Vec<ConnectionId> = readers.map(|client| client.id).collect();
            let mut drained = false;
            for id in readers {
                if self.drain(id) {
                    drained = true;
                    self.broker.handle_flushed(self.now, id);
                }
            }
            if !drained {
                return;
            }
        }
    }

    /// Reads all that waits for a client; whether there was anything.
    fn drain(&mut self, id: ConnectionId) -> bool {
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else { return false };
        let Some(outbox) = self.broker.outbox(id) else { return false };
        let mut slices = [IoSlice::new(&[]); 8];
        let mut drained = false;
        while !outbox.is_empty() {
            let filled = outbox.chunks(&mut slices);
            let mut count = 0;
            for slice in &slices[..filled] {
                client.from_broker.buffer().extend_from_slice(slice);
                count += slice.len();
            }
            outbox.advance(count);
            slices = [IoSlice::new(&[]); 8];
            drained = true;
        }
        if client.from_broker.protocol().is_none() {
            // An answer to what was no CONNECT; 3.1.1's CONNACK is four bytes long.
            let is_v3 = client.from_broker.buffer().get(1) == Some(&2);
            client.from_broker.set_protocol(if is_v3 { ProtocolVersion::V311 } else { ProtocolVersion::V5 });
        }
        while let Some(frame) = client.from_broker.next_frame().expect("the broker sends packets") {
            client.heard.push(format!("{}< {:.60}", client.name, frame.packet));
        }
        drained
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

/// What a script makes of a scenario: each line followed by what was heard, indented.
pub fn perform(scenario: &str) -> String {
    let mut lines =
        scenario.lines().filter(|line| !line.starts_with(' ') && !line.trim().is_empty()).peekable();
    let mut told = String::new();
    let mut limits = generous();
    if let Some(line) = lines.next_if(|line| line.starts_with("limits ")) {
        limits = Stage::parse_limits(line.trim_start_matches("limits "));
        told += &format!("{line}\n");
    }
    let mut stage = Stage::new(limits);
    for line in lines {
        told += &format!("{line}\n");
        if line.starts_with('#') {
            continue;
        }
        for heard in stage.play(line) {
            told += &format!("    {heard}\n");
        }
    }
    told
}

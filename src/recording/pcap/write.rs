//! Writing a recording as pcapng.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use super::{
    MQTT_PORT, RAW, SYSLOG_PORT,
    frame::{Flags, put_datagram, put_segment, segment_len_max},
};
use crate::{
    amount::counted,
    packet::PacketType,
    recording::{
        CloseCause, ConnectionInfo, Connections, Direction, Event, EventKind, RecordingInfo,
        json::{JsonWriter, write_event},
    },
};

/// Writes recordings; memory grows with the number of open connections.
pub struct PcapWriter<W> {
    out: W,
    started_at: i128,
    /// The connections that are open.
    wires: HashMap<u32, Wire>,
    /// What they use.
    pairs: HashSet<[SocketAddr; 2]>,
    block: Vec<u8>,
    frame: Vec<u8>,
    made_up: u64,
    too_long: u64,
}

/// A connection as TCP.
struct Wire {
    /// Client and server.
    ends: [SocketAddr; 2],
    /// The sequence number each of them sends next.
    next: [u32; 2],
    /// Bytes since the other side had acknowledged any.
    unacknowledged: [usize; 2],
}

/// Where a server is of which nobody knows; TEST-NET-1.
const SOME_SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// After so many bytes without an answer an acknowledgement is put in, so that no window is full.
const UNACKNOWLEDGED_MAX: usize = 256 * 1024;
/// The most an option of a block holds.
const COMMENT_MAX: usize = u16::MAX as usize;

impl<W: Write> PcapWriter<W> {
    pub fn new(out: W) -> Self {
        Self {
            out,
            started_at: 0,
            wires: HashMap::new(),
            pairs: HashSet::new(),
            block: Vec::new(),
            frame: Vec::new(),
            made_up: 0,
            too_long: 0,
        }
    }

    /// Writes the whole file; also returns what it does not hold as it was.
    ///
    /// # Errors
    /// Those of the events, or of the writer as one.
    pub fn write<I, E>(
        mut self,
        info: &RecordingInfo,
        mut events: impl FnMut() -> Result<I, E>,
    ) -> Result<(W, Vec<String>), E>
    where
        I: Iterator<Item = Result<Event, E>>,
        E: From<io::Error>,
    {
        self.started_at = info.started_at.as_nanosecond();
        self.write_head(info)?;
        for event in events()? {
            self.write_one(&event?)?;
        }
        self.out.flush()?;
        let notes = self.notes();
        Ok((self.out, notes))
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.made_up > 0 {
            notes.push(format!("the addresses of {} are made up", counted(self.made_up, "connection")));
        }
        let rest = "too long for a comment, which holds 65,535 bytes: only the name is there";
        match self.too_long {
            0 => {}
            1 => notes.push(format!("1 event is {rest}")),
            count => notes.push(format!("{count} events are {rest}")),
        }
        notes
    }

    /// Section and interface.
    fn write_head(&mut self, info: &RecordingInfo) -> io::Result<()> {
        const USER_APPLICATION: u16 = 4;
        const NAME: u16 = 2;
        const DESCRIPTION: u16 = 3;
        const RESOLUTION: u16 = 9;
        /// Nanoseconds.
        const NANO: &[u8] = &[9];

        let empty =
            JsonWriter::new(Vec::new()).write(info, || Ok(std::iter::empty::<io::Result<Event>>()))?;
        let application = format!("mockforge {}", env!("CARGO_PKG_VERSION"));
        let mut body = Vec::new();
        body.extend_from_slice(&0x1A2B_3C4D_u32.to_le_bytes());
        body.extend_from_slice(&[1, 0, 0, 0]);
        // The section's length, not given.
        body.extend_from_slice(&[0xFF; 8]);
        if empty.len() <= COMMENT_MAX {
            put_option(COMMENT, &empty, &mut body);
        }
        put_option(USER_APPLICATION, application.as_bytes(), &mut body);
        put_end(&mut body);
        self.put_block(0x0A0D_0D0A, &body)?;
        body.clear();
        // Ethernet, and no limit to the length of frames.
        body.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        put_option(NAME, b"mockforge", &mut body);
        let description = "MQTT as it was recorded, in a TCP that is made up";
        put_option(DESCRIPTION, description.as_bytes(), &mut body);
        put_option(RESOLUTION, NANO, &mut body);
        put_end(&mut body);
        self.put_block(1, &body)
    }

    fn write_one(&mut self, event: &Event) -> io::Result<()> {
        let Event { at, connection, .. } = *event;
        match &event.kind {
            EventKind::Open(info) => self.open(event, info),
            EventKind::Packet { direction, bytes } => self.say(at, connection, *direction, bytes, None),
            EventKind::Raw { direction, bytes } => self.say(at, connection, *direction, bytes, Some(RAW)),
            EventKind::Close(cause) => self.close(event, *cause),
            kind => {
                let wire = self.wires.get(&connection);
                let ends = wire.map_or([SocketAddr::new(SOME_SERVER, MQTT_PORT); 2], |wire| wire.ends);
                let ends = ends.map(|end| SocketAddr::new(end.ip(), SYSLOG_PORT));
                self.frame.clear();
                put_datagram([&ends[1], &ends[0]], &syslog(kind), &mut self.frame);
                self.put_frame(at, Some(event))
            }
        }
    }

    fn open(&mut self, event: &Event, info: &ConnectionInfo) -> io::Result<()> {
        let (at, number) = (event.at, event.connection);
        self.close_wire(number);
        let wire = self.wire(number, Some(info));
        let ends = wire.ends;
        self.wires.insert(number, wire);
        if info.already_open {
            return self.segment(at, number, Direction::ClientToServer, Flags::Ack, &[], Some(event));
        }
        // They are what a SYN says before it counts.
        let [client, server] = self.wires[&number].next.map(|next| next.wrapping_sub(1));
        self.frame.clear();
        put_segment([&ends[0], &ends[1]], [client, 0], Flags::Syn, &[], &mut self.frame);
        self.put_frame(at, Some(event))?;
        self.frame.clear();
        let acknowledged = client.wrapping_add(1);
        put_segment([&ends[1], &ends[0]], [server, acknowledged], Flags::SynAck, &[], &mut self.frame);
        self.put_frame(at, None)?;
        self.segment(at, number, Direction::ClientToServer, Flags::Ack, &[], None)
    }

    /// The TCP of a connection that begins.
    fn wire(&mut self, number: u32, info: Option<&ConnectionInfo>) -> Wire {
        let address = |text: Option<&String>| text?.parse::<SocketAddr>().ok();
        let peer = info.and_then(|info| address(info.peer.as_ref()));
        let listener = info.and_then(|info| address(info.listener.as_ref()));
        let ends = peer
            .filter(|peer| !peer.ip().is_unspecified() && peer.port() != 0)
            .map(|peer| ends_of(peer, listener))
            .filter(|ends| !self.pairs.contains(ends));
        let ends = ends.unwrap_or_else(|| {
            self.made_up += 1;
            made_up(number)
        });
        self.pairs.insert(ends);
        // Different ones for each connection, so that a pair of addresses may come again.
        let first = number.wrapping_mul(0x9E37_79B1);
        Wire { ends, next: [first, first ^ 0x5555_5555], unacknowledged: [0; 2] }
    }

    fn close_wire(&mut self, number: u32) {
        if let Some(wire) = self.wires.remove(&number) {
            self.pairs.remove(&wire.ends);
        }
    }

    /// Bytes in as many segments as they need.
    fn say(
        &mut self,
        at: Duration,
        number: u32,
        direction: Direction,
        bytes: &[u8],
        comment: Option<&str>,
    ) -> io::Result<()> {
        if !self.wires.contains_key(&number) {
            let wire = self.wire(number, None);
            self.wires.insert(number, wire);
        }
        let len_max = segment_len_max(&self.wires[&number].ends[0]);
        for piece in bytes.chunks(len_max) {
            self.put_said(number, direction, Flags::Push, piece);
            self.put_frame_with(at, comment.map(str::as_bytes))?;
            let Some(wire) = self.wires.get_mut(&number) else { break };
            let unacknowledged = &mut wire.unacknowledged[direction as usize];
            *unacknowledged += piece.len();
            if *unacknowledged > UNACKNOWLEDGED_MAX {
                *unacknowledged = 0;
                let answering = match direction {
                    Direction::ClientToServer => Direction::ServerToClient,
                    Direction::ServerToClient => Direction::ClientToServer,
                };
                self.segment(at, number, answering, Flags::Ack, &[], None)?;
            }
        }
        Ok(())
    }

    fn close(&mut self, event: &Event, cause: CloseCause) -> io::Result<()> {
        use Direction::{ClientToServer as Client, ServerToClient as Server};

        let (at, number) = (event.at, event.connection);
        if !self.wires.contains_key(&number) {
            return Ok(());
        }
        let (first, flags) = match cause {
            CloseCause::ClientFin => (Client, Flags::Fin),
            CloseCause::ServerFin | CloseCause::Timeout | CloseCause::Proxy => (Server, Flags::Fin),
            CloseCause::ClientRst => (Client, Flags::Rst),
            CloseCause::ServerRst | CloseCause::Fault => (Server, Flags::Rst),
            CloseCause::RecordingEnded => (Client, Flags::Ack),
        };
        self.segment(at, number, first, flags, &[], Some(event))?;
        if flags == Flags::Fin {
            let second = if first == Client { Server } else { Client };
            self.segment(at, number, second, Flags::Fin, &[], None)?;
            self.segment(at, number, first, Flags::Ack, &[], None)?;
        }
        self.close_wire(number);
        Ok(())
    }

    /// Writes a segment, of an open connection, with `event` as its comment.
    fn segment(
        &mut self,
        at: Duration,
        number: u32,
        direction: Direction,
        flags: Flags,
        payload: &[u8],
        event: Option<&Event>,
    ) -> io::Result<()> {
        self.put_said(number, direction, flags, payload);
        self.put_frame(at, event)
    }

    /// Makes the frame of a segment and counts its bytes.
    fn put_said(&mut self, number: u32, direction: Direction, flags: Flags, payload: &[u8]) {
        self.frame.clear();
        let Some(wire) = self.wires.get_mut(&number) else { return };
        let from = direction as usize;
        let (ends, next) = (&wire.ends, wire.next);
        put_segment(
            [&ends[from], &ends[1 - from]],
            [next[from], next[1 - from]],
            flags,
            payload,
            &mut self.frame,
        );
        let counted = payload.len() as u32 + u32::from(flags == Flags::Fin);
        wire.next[from] = next[from].wrapping_add(counted);
        wire.unacknowledged[1 - from] = 0;
    }

    /// Writes the frame that was made, with `event` as its comment.
    fn put_frame(&mut self, at: Duration, event: Option<&Event>) -> io::Result<()> {
        let Some(event) = event else { return self.put_frame_with(at, None) };
        let mut comment = Vec::new();
        write_event(event, None, &Connections::new(), &mut comment);
        if comment.len() > COMMENT_MAX {
            self.too_long += 1;
            comment = format!("{} (too long to be shown)", event.kind.name()).into_bytes();
        }
        self.put_frame_with(at, Some(&comment))
    }

    fn put_frame_with(&mut self, at: Duration, comment: Option<&[u8]>) -> io::Result<()> {
        let at = self.started_at + at.as_nanos() as i128;
        let at = u64::try_from(at.max(0)).unwrap_or(u64::MAX);
        let mut body = std::mem::take(&mut self.block);
        body.clear();
        let len = self.frame.len() as u32;
        for word in [0, (at >> 32) as u32, at as u32, len, len] {
            body.extend_from_slice(&word.to_le_bytes());
        }
        body.extend_from_slice(&self.frame);
        pad(&mut body);
        if let Some(comment) = comment {
            put_option(COMMENT, comment, &mut body);
            put_end(&mut body);
        }
        let put = self.put_block(6, &body);
        self.block = body;
        put
    }

    fn put_block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let len = (body.len() as u32 + 12).to_le_bytes();
        self.out.write_all(&kind.to_le_bytes())?;
        self.out.write_all(&len)?;
        self.out.write_all(body)?;
        self.out.write_all(&len)
    }
}

const COMMENT: u16 = 1;

fn put_option(code: u16, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(&(value.len() as u16).to_le_bytes());
    out.extend_from_slice(value);
    pad(out);
}

fn put_end(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; 4]);
}

/// Everything stands on four bytes.
fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Client and server in one family, where MQTT is expected.
fn ends_of(peer: SocketAddr, listener: Option<SocketAddr>) -> [SocketAddr; 2] {
    let client = peer.ip().to_canonical();
    let server = match listener.map(|listener| listener.ip().to_canonical()) {
        Some(server) if !server.is_unspecified() => server,
        _ if client.is_loopback() => client,
        _ => SOME_SERVER,
    };
    let ips = match (client, server) {
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => [client, server],
        _ => [client, server].map(|ip| match ip {
            IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
            ip => ip,
        }),
    };
    [SocketAddr::new(ips[0], peer.port()), SocketAddr::new(ips[1], MQTT_PORT)]
}

/// Addresses of a connection of which nobody knows any; 198.18.0.0/15 is nobody's.
fn made_up(number: u32) -> [SocketAddr; 2] {
    const PORTS: u32 = 16 * 1024;
    let host = 0xC612_0000 | (number / PORTS) & 0x1_FFFF;
    let client = SocketAddr::new(Ipv4Addr::from(host).into(), (49152 + number % PORTS) as u16);
    [client, SocketAddr::new(SOME_SERVER, MQTT_PORT)]
}

/// What reads it shows of an event that is no traffic.
fn syslog(kind: &EventKind) -> Vec<u8> {
    /// Facility user, severity notice.
    const PRIORITY: &str = "<13>";
    const CHARS_MAX: usize = 300;

    let name = kind.name();
    let text = match kind {
        EventKind::Mark(label) => format!("{PRIORITY}{name} {label}"),
        EventKind::Mock(fired) => {
            format!("{PRIORITY}{name} {} by {:?} on {:?}", fired.mock, fired.client_identifier, fired.topic)
        }
        EventKind::Fault(fault) => format!(
            "{PRIORITY}{name} {} ({}): {} {} of {:?}",
            fault.action,
            fault.rule,
            fault.packet_type.name(),
            fault.direction.name(),
            fault.client_identifier
        ),
        EventKind::State(in_force) => {
            let first = in_force.packet.first().and_then(|first| PacketType::of(*first));
            format!("{PRIORITY}{name} {}", first.map_or("UNKNOWN", PacketType::name))
        }
        EventKind::Anchor(wall) => format!("{PRIORITY}{name} {wall}"),
        EventKind::Gap { events, bytes } => format!("{PRIORITY}{name} {events} events, {bytes} bytes"),
        _ => format!("{PRIORITY}{name}"),
    };
    text.chars().take(CHARS_MAX).collect::<String>().into_bytes()
}

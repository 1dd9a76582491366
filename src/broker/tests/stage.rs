//! The barest stage: a [`Broker`] with nothing around it, and simulated time.

use std::{
    io::IoSlice,
    time::{Duration, Instant},
};

use crate::{
    broker::{Batch, Broker, BrokerEvent, Checked, Options, Output},
    packet::{FrameReader, ReasonCode},
    session::{ApplicationMessage, ConnectionId, Peer},
};

use super::{
    kept::Kept,
    script::{Heard, Player, Stage},
};

pub struct Bare {
    pub broker: Broker,
    pub now: Instant,
    pub events: Vec<BrokerEvent>,
    options: Options,
    /// What is durable.
    pub kept: Kept,
    /// What is being made so.
    under_way: Option<Batch>,
    /// Whether it stays under way until [`commit`](Self::commit).
    pub is_slow: bool,
    connections: Vec<Connection>,
}

struct Connection {
    is_open: bool,
    is_stalled: bool,
    incoming: FrameReader,
    bytes: Vec<u8>,
    /// Closed by the broker, and not told yet.
    was_closed: bool,
}

/// A player before a bare broker.
pub fn bare(options: impl Into<Options>) -> Player<Bare> {
    Player::new(Bare::new(options))
}

impl Bare {
    pub fn new(options: impl Into<Options>) -> Self {
        let now = Instant::now();
        let options = options.into();
        let mut broker = Broker::new(now, options.clone(), 1);
        // What is due from the first moment on.
        broker.handle_timeout(now);
        let (kept, under_way) = (Kept::default(), None);
        Self {
            broker,
            now,
            events: Vec::new(),
            options,
            kept,
            under_way,
            is_slow: false,
            connections: Vec::new(),
        }
    }

    /// What is under way becomes durable, and what changed meanwhile is under way then; whether there
    /// was anything.
    pub fn commit(&mut self) -> bool {
        let committed = self.under_way.take();
        if let Some(batch) = &committed {
            self.kept.apply(batch);
            self.broker.handle_durable(batch.number);
        }
        self.under_way = self.broker.take_batch();
        committed.is_some() || self.under_way.is_some()
    }

    /// What is being made durable.
    pub fn under_way(&self) -> Option<&Batch> {
        self.under_way.as_ref()
    }

    /// The process ends, and another one goes on with what is durable.
    pub fn crash(&mut self) {
        self.broker = Broker::new(self.now, self.options.clone(), 2);
        self.broker.restore(self.now, self.kept.restored());
        self.under_way = None;
        for connection in &mut self.connections {
            connection.was_closed |= connection.is_open;
            connection.is_open = false;
        }
    }

    /// Does what the shell does: writes what may be written, and closes.
    fn carry_out(&mut self) {
        loop {
            while let Some(output) = self.broker.poll_output() {
                match output {
                    Output::Flush(_) | Output::Persist { .. } => {}
                    Output::Emit(event) => self.events.push(event),
                    Output::Check { connection, check, .. } => {
                        let checked = if check.run() { Checked::Right } else { Checked::Wrong };
                        self.broker.handle_checked(self.now, connection, checked);
                    }
                    Output::Close(id, _) => {
                        let index = id.0 as usize - 1;
                        self.drain(index);
                        self.broker.handle_close(self.now, id);
                        self.connections[index].is_open = false;
                        self.connections[index].was_closed = true;
                    }
                }
            }
            let mut drained = false;
            for index in 0..self.connections.len() {
                let connection = &self.connections[index];
                if connection.is_open && !connection.is_stalled && self.drain(index) {
                    drained = true;
                    self.broker.handle_flushed(self.now, id(index));
                }
            }
            if self.under_way.is_none() || !self.is_slow {
                drained |= self.commit();
            }
            if !drained {
                return;
            }
        }
    }

    /// Reads all that waits for a client; whether there was anything.
    fn drain(&mut self, index: usize) -> bool {
        let Some(outbox) = self.broker.outbox(id(index)) else { return false };
        let received = &mut self.connections[index].bytes;
        let mut drained = 0;
        while outbox.writable() > 0 {
            let mut slices = [IoSlice::new(&[]); 8];
            let filled = outbox.chunks(&mut slices);
            let before = received.len();
            for slice in &slices[..filled] {
                received.extend_from_slice(slice);
            }
            outbox.advance(received.len() - before);
            drained += received.len() - before;
        }
        self.broker.count_bytes(0, drained);
        drained > 0
    }
}

fn id(index: usize) -> ConnectionId {
    ConnectionId(index as u64 + 1)
}

impl Stage for Bare {
    fn now(&self) -> Instant {
        self.now
    }

    fn open(&mut self) -> usize {
        let index = self.connections.len();
        let peer = Peer { address: None, transport: "tcp", identity: None };
        self.broker.handle_open(self.now, id(index), peer);
        let mut incoming = FrameReader::new(self.broker.limits().max_packet_size);
        incoming.limit_control_packets(self.broker.limits().control_packet_bytes);
        self.connections.push(Connection {
            is_open: true,
            is_stalled: false,
            incoming,
            bytes: Vec::new(),
            was_closed: false,
        });
        index
    }

    fn send(&mut self, connection: usize, bytes: &[u8]) {
        let (now, id) = (self.now, id(connection));
        self.connections[connection].incoming.buffer().extend_from_slice(bytes);
        self.broker.count_bytes(bytes.len(), 0);
        loop {
            let incoming = &mut self.connections[connection].incoming;
            match incoming.next_frame() {
                Ok(Some(frame)) => {
                    self.broker.handle_packet(now, id, frame.packet);
                    if self.broker.is_checking(id) {
                        self.carry_out();
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    if let Some(protocol) = incoming.protocol() {
                        self.broker.set_protocol(id, protocol);
                    }
                    self.broker.handle_malformed(now, id, &error);
                    incoming.take_rest();
                    return;
                }
            }
        }
    }

    fn break_off(&mut self, connection: usize) {
        self.connections[connection].is_open = false;
        self.broker.handle_close(self.now, id(connection));
    }

    fn set_stalled(&mut self, connection: usize, is_stalled: bool) {
        self.connections[connection].is_stalled = is_stalled;
    }

    fn publish(&mut self, message: ApplicationMessage) {
        self.broker.publish(self.now, message);
    }

    fn disconnect(&mut self, client_identifier: &str, reason: ReasonCode) {
        assert!(self.broker.disconnect(self.now, client_identifier, reason, true));
    }

    fn shut_down(&mut self) {
        self.broker.shut_down(self.now);
    }

    /// Stops at each deadline on the way.
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

    fn hear(&mut self) -> Vec<Heard> {
        loop {
            self.carry_out();
            match self.broker.next_timeout() {
                Some(due) if due <= self.now => self.broker.handle_timeout(self.now),
                _ => break,
            }
        }
        let connections = self.connections.iter_mut().enumerate();
        connections
            .filter(|(_, connection)| connection.was_closed || !connection.bytes.is_empty())
            .map(|(index, connection)| Heard {
                connection: index,
                bytes: std::mem::take(&mut connection.bytes),
                is_closed: std::mem::take(&mut connection.was_closed),
            })
            .collect()
    }
}

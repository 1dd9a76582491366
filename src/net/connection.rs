//! One client of the broker: reading what it sends, writing what it is sent.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io::{self, IoSlice, IoSliceMut},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::timeout,
};
use tracing::{debug, error, trace, warn};

use super::{
    admission::Pass,
    broker_thread::Shell,
    line::{self, LineParts, LineState},
    scratch::CHUNK_BYTES,
    transport::{ReadHalf, WriteHalf},
};
use crate::{
    broker::Broker,
    fault::Splice,
    packet::{
        Begun, ControlPacket, DecodeError, Frame, FrameReader, PacketType, PlainAck, ProtocolVersion,
        PublishRef,
    },
    recording::{CloseCause, Direction},
    session::{ConnectionId, SHARED_PAYLOAD},
    tap::Tap,
};

/// Packets handed to the broker before other connections get their turn.
const TURN_PACKETS: usize = 1_000;

/// Packets that those may cause before others get their turn: one of a fan-out weighs more.
const TURN_SENT: u64 = 20_000;

/// Bytes read before other connections get their turn.
const TURN_BYTES: usize = 256 << 10;

/// A packet that misses at least so many bytes is read into its own buffer, not through a chunk.
const DIRECT_BYTES: usize = 16 << 10;

/// A buffer is at most so many times as long as what has arrived of its packet: a length that was only
/// announced allocates nothing.
const GROWTH: usize = 4;

/// Packets of at least this size are passed on as slices of the chunk they were read into, shorter
/// ones are copied: a subscriber that is slow to take one keeps a whole chunk alive.
const SLICED_BYTES: usize = 32 << 10;

/// How long a client may take to read what was written before its connection was closed.
const CLOSING_WAIT: Duration = Duration::from_secs(5);

/// What the connection's task and everyone who writes to it share.
pub(super) struct Link {
    pub(super) id: ConnectionId,
    socket: RefCell<Socket>,
    /// Whether it is in the list of this round.
    is_dirty: Cell<bool>,
    /// Whether the kernel's buffer is full: then only the connection's task writes.
    is_blocked: Cell<bool>,
    is_identified: Cell<bool>,
    /// Whether what the client sends waits until its password has been checked.
    is_held: Cell<bool>,
    busy: Cell<bool>,
    /// Whether its task waits for the outbox to be written to.
    is_waiting: Cell<bool>,
    /// Set when the connection is to be closed once its outbox is written.
    ending: Cell<Option<CloseCause>>,
    task: RefCell<Option<Waker>>,
    /// Only while somebody observes, or a packet was written in part.
    outgoing: RefCell<Option<Box<Outgoing>>>,
}

/// Where the client is written to.
struct Socket {
    write: WriteHalf,
    /// Of a connection under chaos.
    line: Option<Rc<LineState>>,
}

impl Link {
    pub(super) fn new(id: ConnectionId, write: WriteHalf) -> Self {
        Self {
            id,
            socket: RefCell::new(Socket { write, line: None }),
            is_dirty: Cell::new(false),
            is_blocked: Cell::new(false),
            is_identified: Cell::new(false),
            is_held: Cell::new(false),
            busy: Cell::new(false),
            is_waiting: Cell::new(false),
            ending: Cell::new(None),
            task: RefCell::default(),
            outgoing: RefCell::default(),
        }
    }

    /// Whether it has to be put on the list of this round: not there yet, and not waiting for room.
    pub(super) fn make_dirty(&self) -> bool {
        !self.is_blocked.get() && !self.is_dirty.replace(true)
    }

    /// It was taken off the list.
    pub(super) fn leave_round(&self) {
        self.is_dirty.set(false);
    }

    /// Notes that it was written to; whether it was quiet before.
    pub(super) fn note_busy(&self) -> bool {
        !self.busy.replace(true)
    }

    /// Whether it was written to since this was last asked.
    pub(super) fn was_busy(&self) -> bool {
        self.busy.replace(false)
    }

    /// The kernel takes no more: the connection's task goes on when it does.
    pub(super) fn wait_for_room(&self) {
        self.is_blocked.set(true);
        self.wake();
    }

    /// Some of what waited was written.
    pub(super) fn go_on(&self) {
        if self.is_waiting.replace(false) {
            self.wake();
        }
    }

    /// Has the connection's task write what is left and close.
    pub(super) fn end(&self, cause: CloseCause) {
        if self.ending.get().is_none() {
            self.ending.set(Some(cause));
            self.wake();
        }
    }

    /// Goes on with what the client sent behind its CONNECT.
    pub(super) fn release(&self) {
        if self.is_held.replace(false) {
            self.wake();
        }
    }

    pub(super) fn wake(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    pub(super) fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.socket.borrow().write.try_write(slices) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            result => result,
        }
    }

    fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.borrow().write.poll_writable(context)
    }

    fn line(&self) -> Option<Rc<LineState>> {
        self.socket.borrow().line.clone()
    }

    /// Whether a line lies before the socket, which then reports what passes.
    fn has_line(&self) -> bool {
        self.socket.borrow().line.is_some()
    }

    /// Whether nothing may be written or read before a line is put in.
    pub(super) fn lacks_line(&self, shell: &Shell) -> bool {
        shell.chaos.is_on() && !self.has_line() && self.ending.get().is_none()
    }

    /// Reports the packets whose last byte is among the first `count` of `slices`.
    pub(super) fn has_written(
        &self,
        tap: &Tap,
        now: Instant,
        slices: &[IoSlice<'_>],
        count: usize,
        is_emptied: bool,
    ) {
        let mut kept = self.outgoing.borrow_mut();
        // A line reports by itself; until it was put in, nothing is kept.
        if tap.is_observed() && !self.has_line() {
            let outgoing = kept.get_or_insert_default();
            outgoing.take(slices, count);
            let packets = outgoing.take_packets();
            trace!(connection = %self.id, packets = packets.len(), "sent");
            tap.packets(now, self.id, Direction::ServerToClient, packets.iter());
        } else if !is_emptied && !self.has_line() {
            // An observer may come while the rest of a packet is waiting.
            let outgoing = kept.get_or_insert_default();
            outgoing.take(slices, count);
            outgoing.take_packets();
        }
        if is_emptied {
            // The next byte begins a packet.
            *kept = None;
        }
    }
}

/// Cuts what is written into packets again.
#[derive(Default)]
struct Outgoing {
    /// Begins with a packet.
    bytes: BytesMut,
}

impl Outgoing {
    fn take(&mut self, slices: &[IoSlice<'_>], mut count: usize) {
        self.bytes.reserve(count);
        for slice in slices {
            let part = &slice[..count.min(slice.len())];
            self.bytes.extend_from_slice(part);
            count -= part.len();
        }
    }

    /// The packets that are whole.
    fn take_packets(&mut self) -> Reported {
        let mut ends = SmallVec::<[usize; 16]>::new();
        let mut end = 0;
        while let Ok(Some(size)) = Frame::size(&self.bytes[end..])
            && end + size <= self.bytes.len()
        {
            end += size;
            ends.push(end);
        }
        let whole = self.bytes.split_to(end).freeze();
        let starts = std::iter::once(0).chain(ends.iter().copied());
        starts.zip(&ends).map(|(start, &end)| whole.slice(start..end)).collect()
    }
}

/// Serves one connection to its end.
///
/// A future written out, as small as can be: it is most of what an idle connection costs.
pub(super) struct Serving {
    shell: Rc<Shell>,
    link: Rc<Link>,
    /// `None` while `aside` has it.
    reading: Option<Reading>,
    aside: Option<Aside>,
    /// Here and not in the link, because a task's size is a multiple of 128 bytes, and has room for it.
    _pass: Pass,
}

/// What takes long and happens rarely; why the connection ended, if it did.
type Aside = Pin<Box<dyn Future<Output = (Reading, Option<CloseCause>)>>>;

impl Serving {
    pub(super) fn new(shell: Rc<Shell>, link: Rc<Link>, half: ReadHalf, pass: Pass) -> Self {
        let mut frames = FrameReader::new(shell.broker.borrow().limits().max_packet_size);
        frames.limit_control_packets(shell.broker.borrow().limits().control_packet_bytes);
        Self {
            shell,
            link,
            reading: Some(Reading { half, frames, has_more: false }),
            aside: None,
            _pass: pass,
        }
    }

    /// Tells observers of packets that had begun when the connection ended, either way.
    fn report_begun(&mut self) {
        let Self { shell, link, reading, .. } = self;
        // A line reports what passed it; without a reading, serving panicked.
        let Some(reading) = reading.as_mut().filter(|_| !link.has_line()) else { return };
        let from_client = reading.frames.take_rest();
        let from_server = link.outgoing.take().map(|outgoing| outgoing.bytes.freeze()).unwrap_or_default();
        let both = [(Direction::ClientToServer, from_client), (Direction::ServerToClient, from_server)];
        for (direction, bytes) in both.into_iter().filter(|(_, bytes)| !bytes.is_empty()) {
            shell.tap.raw(shell.now(), link.id, direction, bytes);
        }
    }

    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<CloseCause> {
        loop {
            if let Some(aside) = &mut self.aside {
                let (reading, end) = ready!(aside.as_mut().poll(context));
                self.aside = None;
                self.reading = Some(reading);
                if let Some(cause) = end {
                    return Poll::Ready(cause);
                }
            }
            let Self { shell, link, reading, .. } = self;
            let Some(at_hand) = reading else { unreachable!("only `aside` takes it") };
            let turn = ready!(poll_turn(shell, link, at_hand, context));
            if matches!(turn, Turn::Over(_)) {
                // The client may have closed its half only, and still read.
                shell.flush(link);
            }
            let waits = matches!(turn, Turn::Over(CloseCause::ClientFin)) && shell.holds_back(link.id);
            if let Turn::Over(cause) = turn
                && !waits
            {
                shell.broker.borrow_mut().handle_close(shell.now(), link.id);
                if !link.has_line() {
                    return Poll::Ready(cause);
                }
                shell.settle();
            }
            let (shell, link, reading) = (Rc::clone(shell), Rc::clone(link), reading.take());
            self.aside = reading.map(|mut reading| -> Aside {
                Box::pin(async move {
                    match turn {
                        Turn::Observed(count) => {
                            hand_on_observed(&shell, &link, &mut reading, count).await;
                            (reading, None)
                        }
                        Turn::Over(cause) => {
                            if waits {
                                end_held(&shell, &link).await;
                            }
                            let cause = end_line(&link).await.unwrap_or(cause);
                            (reading, Some(cause))
                        }
                        Turn::Ending(cause) => {
                            close(&shell, &link, &mut reading.half).await;
                            let cause = end_line(&link).await.unwrap_or(cause);
                            (reading, Some(cause))
                        }
                    }
                })
            });
        }
    }
}

impl Future for Serving {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let served = catch_unwind(AssertUnwindSafe(|| self.poll_end(context)));
        if !matches!(served, Ok(Poll::Pending)) {
            self.report_begun();
        }
        let Self { shell, link, .. } = &*self;
        let cause = match served {
            Ok(poll) => ready!(poll),
            Err(_) => {
                error!(connection = %link.id, "serving a connection panicked");
                shell.broker.borrow_mut().handle_close(shell.now(), link.id);
                CloseCause::ServerRst
            }
        };
        debug!(connection = %link.id, ?cause, "closed");
        shell.settle();
        shell.close(link.id, cause);
        Poll::Ready(())
    }
}

/// The incoming half of a connection.
struct Reading {
    half: ReadHalf,
    frames: FrameReader,
    /// Whether `frames` may hold whole packets that were left for the next turn.
    has_more: bool,
}

/// What a connection's turn came to, when it does not simply wait for more.
enum Turn {
    /// So many bytes were read while somebody observes who has to be waited for.
    Observed(usize),
    /// The peer ended the connection.
    Over(CloseCause),
    /// We end it.
    Ending(CloseCause),
}

fn poll_turn(shell: &Rc<Shell>, link: &Link, reading: &mut Reading, context: &mut Context<'_>) -> Poll<Turn> {
    {
        let mut task = link.task.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(context.waker())) {
            *task = Some(context.waker().clone());
        }
    }
    follow_chaos(shell, link, reading);
    while link.is_blocked.get() && link.poll_writable(context).is_ready() {
        link.is_blocked.set(false);
        shell.flush(link);
    }
    let mut turn_bytes = 0;
    loop {
        follow_chaos(shell, link, reading);
        if let Some(cause) = link.ending.get() {
            return Poll::Ready(Turn::Ending(cause));
        }
        if link.is_held.get() {
            return Poll::Pending;
        }
        // Acks for a client that reads none must not gather without limit.
        if link.is_blocked.get() && shell.owes_too_much(link.id) {
            return Poll::Pending;
        }
        if shell.keeps_state && shell.holds_back(link.id) && shell.owes_too_much(link.id) {
            link.is_waiting.set(true);
            return Poll::Pending;
        }
        let read = if reading.has_more {
            Read::default()
        } else {
            match ready!(poll_read(shell, reading, context)) {
                Ok(Read { count: 0, .. }) => return Poll::Ready(Turn::Over(CloseCause::ClientFin)),
                Ok(read) => read,
                Err(error) => {
                    trace!(connection = %link.id, %error, "cannot read");
                    return Poll::Ready(Turn::Over(CloseCause::ClientRst));
                }
            }
        };
        let count = read.count;
        if shell.tap.holds_up() && !link.has_line() {
            reading.frames.buffer().extend_from_slice(&read.chunk[..read.filled]);
            shell.scratch.borrow_mut().give_back(read.chunk);
            return Poll::Ready(Turn::Observed(count));
        }
        hand_on(shell, link, reading, read);
        turn_bytes += count;
        if reading.has_more || turn_bytes >= TURN_BYTES {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
    }
}

/// Puts a line in as soon as there is chaos, before anything else passes.
fn follow_chaos(shell: &Rc<Shell>, link: &Link, reading: &mut Reading) {
    if link.lacks_line(shell) && !reading.has_more {
        put_line(shell, link, reading);
        shell.flush(link);
    }
}

/// Has chaos see what passes between the client and the broker from here on.
fn put_line(shell: &Rc<Shell>, link: &Link, reading: &mut Reading) {
    let from_server = link.outgoing.take().map_or(Begun::Nothing, |outgoing| Begun::behind(&outgoing.bytes));
    let splice = Splice {
        identity: shell.tap.identity(link.id),
        from_client: Begun::behind(reading.frames.buffer()),
        from_server,
    };
    let host = Rc::clone(shell);
    let parts = LineParts {
        watch: shell.chaos.clone(),
        tap: shell.tap.clone(),
        connection: link.id,
        lose_session: Box::new(move |connect| {
            host.lose_session(&connect);
            Box::pin(std::future::ready(()))
        }),
    };
    let mut socket = link.socket.borrow_mut();
    socket.line = Some(line::put_in(parts, splice, &mut reading.half, &mut socket.write));
}

/// Waits for a line to have passed on what it does pass on; how the connection ended if that was by chaos.
async fn end_line(link: &Link) -> Option<CloseCause> {
    let line = link.line()?;
    link.socket.borrow().write.finish();
    line.ended().await;
    line.is_cut().then_some(CloseCause::Fault)
}

/// What one read brought.
#[derive(Default)]
struct Read {
    /// The first `filled` bytes of it are new.
    chunk: Bytes,
    filled: usize,
    /// All that was read, what completed the reader's buffer included.
    count: usize,
}

/// Reads what the socket has: the rest of a long packet into the reader's buffer, what follows into a
/// chunk.
fn poll_read(shell: &Shell, reading: &mut Reading, context: &mut Context<'_>) -> Poll<io::Result<Read>> {
    let buffer = reading.frames.buffer();
    let begun = buffer.len();
    let missing = Frame::size(buffer).ok().flatten().map_or(0, |size| size.saturating_sub(begun));
    let half = &mut reading.half;
    let mut scratch = shell.scratch.borrow_mut();
    // A length that was only announced is no reason for a buffer.
    if missing < DIRECT_BYTES || begun < DIRECT_BYTES {
        let (chunk, filled) = ready!(scratch.read(|chunk| {
            let mut read = ReadBuf::new(chunk);
            ready!(Pin::new(half).poll_read(context, &mut read))?;
            Poll::Ready(Ok(read.filled().len()))
        }))?;
        return Poll::Ready(Ok(Read { chunk, filled, count: filled }));
    }
    let part = missing.min(begun * (GROWTH - 1)).min(CHUNK_BYTES);
    buffer.resize(begun + part, 0);
    let result = scratch.read(|chunk| {
        // Before the packet is whole, nothing follows it.
        let behind = if part == missing { chunk } else { &mut [] };
        half.poll_read_vectored(
            context,
            &mut [IoSliceMut::new(&mut buffer[begun..]), IoSliceMut::new(behind)],
        )
    });
    let count = if let Poll::Ready(Ok((_, count))) = result { count } else { 0 };
    buffer.truncate(begun + count.min(part));
    let (chunk, count) = ready!(result)?;
    Poll::Ready(Ok(Read { chunk, filled: count.saturating_sub(part), count }))
}

/// Hands the packets that are whole to the broker, from where they were read as far as they can be. Observers that never
/// have to be waited for are told of each before.
#[inline(never)]
fn hand_on(shell: &Rc<Shell>, link: &Link, reading: &mut Reading, read: Read) {
    let now = shell.now();
    let mut published = [0; 3];
    let (chunk, filled) = match reading.has_more {
        true => {
            let rest = std::mem::take(reading.frames.buffer()).freeze();
            let len = rest.len();
            (rest, len)
        }
        false => (read.chunk, read.filled),
    };
    let mut input = &chunk[..filled];
    let mut broker = shell.broker.borrow_mut();
    reading.has_more = true;
    let was_identified = link.is_identified.get();
    let tap = (shell.tap.is_observed() && !link.has_line()).then_some(&shell.tap);
    // Nothing of what comes of them is written, or reported, before all of them are.
    let mut reported = Reported::new();
    broker.begin_input(&chunk);
    let sent_max = broker.packets_sent() + TURN_SENT;
    let mut packets = 0;
    while packets < TURN_PACKETS && broker.packets_sent() < sent_max {
        packets += 1;
        let before = input.len();
        let taken = match reading.next(&mut input) {
            Ok(Some(Next::InPlace(bytes))) => {
                let protocol = reading.protocol();
                hand_on_in_place(
                    shell,
                    &mut broker,
                    now,
                    link,
                    protocol,
                    &chunk,
                    bytes,
                    &mut published,
                    tap.map(|_| &mut reported),
                )
            }
            Ok(Some(Next::Owned(Frame { bytes, packet }))) => {
                reported.extend(tap.map(|_| bytes));
                note(shell, link, &packet, &mut published);
                broker.handle_packet(now, link.id, packet);
                Ok(())
            }
            Ok(None) => {
                reading.has_more = false;
                break;
            }
            Err(error) => Err(error),
        };
        if let Err(error) = taken {
            reading.has_more = false;
            if let Some(tap) = tap {
                tap.packets(now, link.id, Direction::ClientToServer, reported.iter());
                reported.clear();
                // All from the packet on that is none.
                let begun = reading.frames.take_rest();
                let rest = if begun.is_empty() { &chunk[filled - before..filled] } else { input };
                tap.raw(now, link.id, Direction::ClientToServer, [&begun, rest].concat().into());
            }
            input = &[];
            refuse_malformed(&mut broker, now, link, reading, &error);
            break;
        }
        if !was_identified && hold(link, &mut broker) {
            break;
        }
    }
    broker.end_input();
    drop(broker);
    if let Some(tap) = tap {
        tap.packets(now, link.id, Direction::ClientToServer, reported.iter());
    }
    // So that the chunk can be used again.
    drop(reported);
    let left = input.len();
    if read.count > 0 {
        reading.keep(input);
        shell.scratch.borrow_mut().give_back(chunk);
    } else {
        reading.put_back(chunk, left);
    }
    shell.metrics.received(now, read.count as u64, published);
    shell.has_read(read.count);
    if !was_identified && link.is_identified.get() {
        // Of many that connect at once, each goes on while the next one is served.
        shell.flush(link);
    }
}

/// Whether what follows a packet, the first one, has to wait.
fn hold(link: &Link, broker: &mut Broker) -> bool {
    let has_to_wait = broker.is_checking(link.id);
    link.is_held.set(has_to_wait);
    has_to_wait
}

/// Packets of one read, for observers.
type Reported = SmallVec<[Bytes; 16]>;

/// Hands on the packet that is `bytes`, a part of `chunk`.
#[inline]
#[expect(clippy::too_many_arguments, reason = "what the loop around it has at hand")]
fn hand_on_in_place(
    shell: &Shell,
    broker: &mut Broker,
    now: Instant,
    link: &Link,
    protocol: ProtocolVersion,
    chunk: &Bytes,
    bytes: &[u8],
    published: &mut [u64; 3],
    reported: Option<&mut Reported>,
) -> Result<(), DecodeError> {
    let report = || {
        if let Some(reported) = reported {
            reported.push(chunk.slice_ref(bytes));
        }
    };
    let is_publish = bytes[0] >> 4 == PacketType::Publish as u8;
    if is_publish && bytes.len() < SHARED_PAYLOAD {
        let publish = PublishRef::decode(bytes, protocol)?;
        report();
        published[publish.qos as usize] += 1;
        broker.handle_publish_in_place(now, link.id, &publish, bytes);
        return Ok(());
    } else if let Some(ack) = PlainAck::read(bytes) {
        report();
        trace!(connection = %link.id, packet = ack.packet.name(), "received");
        broker.handle_plain_ack(now, link.id, ack);
        return Ok(());
    }
    let packet = match bytes.len() {
        SLICED_BYTES.. => ControlPacket::decode(&chunk.slice_ref(bytes), protocol)?,
        // Just as long: somebody may keep it.
        _ => ControlPacket::decode_copied(bytes, protocol)?,
    };
    report();
    note(shell, link, &packet, published);
    broker.handle_packet(now, link.id, packet);
    Ok(())
}

/// A packet, or its bytes where they were read.
enum Next<'a> {
    InPlace(&'a [u8]),
    Owned(Frame),
}

impl Reading {
    /// The next whole packet: of what is buffered and the front of `input`, or of `input` alone.
    #[inline]
    fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Next<'a>>, DecodeError> {
        if self.frames.buffer().is_empty() {
            return Ok(self.frames.next_in_place(input)?.map(Next::InPlace));
        }
        self.frames.complete(input);
        Ok(self.frames.next_frame()?.map(Next::Owned))
    }

    /// Of a client that has sent a packet.
    fn protocol(&self) -> ProtocolVersion {
        self.frames.protocol().unwrap_or(ProtocolVersion::V311)
    }

    /// Keeps the last `left` bytes of what was taken from the buffer; where they are, if there are
    /// packets among them and nobody has a slice of what was before them.
    fn put_back(&mut self, taken: Bytes, left: usize) {
        let handled = taken.len() - left;
        if !self.has_more {
            return self.keep(&taken[handled..]);
        }
        let mut rest = match taken.try_into_mut() {
            Ok(mut rest) => {
                rest.advance(handled);
                rest
            }
            Err(lent) => BytesMut::from(&lent[handled..]),
        };
        std::mem::swap(self.frames.buffer(), &mut rest);
    }

    /// Keeps what is left of the input for the next turn, with room for no more than the rest of its
    /// packet.
    fn keep(&mut self, rest: &[u8]) {
        let buffer = self.frames.buffer();
        if !rest.is_empty() {
            let size = Frame::size(rest).ok().flatten().unwrap_or(0);
            *buffer = BytesMut::with_capacity(size.clamp(rest.len(), rest.len() * GROWTH));
            buffer.extend_from_slice(rest);
        } else if buffer.is_empty() {
            *buffer = BytesMut::new();
        }
    }
}

/// As [`hand_on`], telling the observers first and waiting until they have room.
async fn hand_on_observed(shell: &Rc<Shell>, link: &Link, reading: &mut Reading, count: usize) {
    let now = shell.now();
    let mut packets = Vec::new();
    let mut malformed = None;
    reading.has_more = true;
    // What follows the first packet may have to wait.
    let packets_max = if link.is_identified.get() { TURN_PACKETS } else { 1 };
    while packets.len() < packets_max {
        match reading.frames.next_frame() {
            Ok(Some(Frame { bytes, packet })) => {
                shell.tap.packet(now, link.id, Direction::ClientToServer, bytes);
                packets.push(packet);
            }
            Ok(None) => {
                reading.has_more = false;
                release_buffer(reading.frames.buffer());
                break;
            }
            Err(error) => {
                reading.has_more = false;
                let rest = reading.frames.take_rest();
                shell.tap.raw(now, link.id, Direction::ClientToServer, rest);
                malformed = Some(error);
                break;
            }
        }
    }
    shell.tap.ready().await;
    let mut published = [0; 3];
    {
        let mut broker = shell.broker.borrow_mut();
        for packet in packets {
            note(shell, link, &packet, &mut published);
            broker.handle_packet(now, link.id, packet);
        }
        if packets_max == 1 {
            hold(link, &mut broker);
        }
        if let Some(error) = malformed {
            refuse_malformed(&mut broker, now, link, reading, &error);
        }
    }
    shell.metrics.received(now, count as u64, published);
    shell.has_read(count);
}

/// What the shell itself wants to know of a packet.
fn note(shell: &Shell, link: &Link, packet: &ControlPacket, published: &mut [u64; 3]) {
    match packet {
        ControlPacket::Publish(publish) => published[publish.qos as usize] += 1,
        ControlPacket::Connect(connect) if !link.is_identified.replace(true) => {
            trace!(connection = %link.id, client = %connect.client_identifier, "CONNECT");
            shell.tap.identify(link.id, connect.client_identifier.as_str(), connect.protocol);
        }
        _ => trace!(connection = %link.id, packet = packet.name(), "received"),
    }
}

/// The broker says it to the client; here it is said to the operator, and the connection ends
/// whatever the broker makes of it.
fn refuse_malformed(broker: &mut Broker, now: Instant, link: &Link, reading: &Reading, error: &DecodeError) {
    warn!(connection = %link.id, %error, "malformed packet");
    link.end(CloseCause::ServerFin);
    // A CONNECT that is malformed behind its version is answered in that version.
    if let Some(protocol) = reading.frames.protocol() {
        broker.set_protocol(link.id, protocol);
    }
    broker.handle_malformed(now, link.id, error);
}

/// Lets go of the memory of what was read: a connection that is idle, or has just the beginning of
/// a packet, keeps none of it alive.
fn release_buffer(buffer: &mut BytesMut) {
    if buffer.len() < DIRECT_BYTES {
        *buffer = BytesMut::from(&buffer[..]);
    }
}

/// Writes to a client that has closed its half what it is still promised, and forgets the connection.
async fn end_held(shell: &Rc<Shell>, link: &Link) {
    let is_over = || !shell.holds_back(link.id) || link.ending.get().is_some();
    if timeout(CLOSING_WAIT, until(link, is_over)).await.is_err() {
        debug!(connection = %link.id, "what the client is promised is not durable; closing all the same");
    }
    shell.flush(link);
    shell.broker.borrow_mut().handle_close(shell.now(), link.id);
    shell.settle();
}

/// Waits until `is_over`, which is looked at when some was written or the connection is to end.
async fn until(link: &Link, is_over: impl Fn() -> bool) {
    poll_fn(|_| match is_over() {
        true => Poll::Ready(()),
        false => {
            // Part of the connection's task, which is woken.
            link.is_waiting.set(true);
            Poll::Pending
        }
    })
    .await;
}

/// Writes what is left, closes our half and waits for the client to have seen it.
async fn close(shell: &Rc<Shell>, link: &Link, half: &mut ReadHalf) {
    let written = async {
        loop {
            shell.flush(link);
            if !shell.has_unwritten(link.id) {
                return;
            }
            if shell.holds_back(link.id) {
                until(link, || !shell.holds_back(link.id)).await;
                continue;
            }
            if poll_fn(|context| link.poll_writable(context)).await.is_err() {
                return;
            }
        }
    };
    if timeout(CLOSING_WAIT, written).await.is_err() {
        debug!(connection = %link.id, "the client does not read; closing all the same");
    }
    let now = shell.now();
    shell.broker.borrow_mut().handle_close(now, link.id);
    shell.settle();
    let can_be_told = link.socket.borrow().write.finish();
    if can_be_told {
        half.drain().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(writes: &[&[&[u8]]]) -> Vec<Vec<u8>> {
        let mut outgoing = Outgoing::default();
        let mut packets = Vec::new();
        for write in writes {
            let slices: Vec<_> = write.iter().map(|part| IoSlice::new(part)).collect();
            outgoing.take(&slices, write.iter().map(|part| part.len()).sum());
            packets.extend(outgoing.take_packets().iter().map(|bytes| bytes.to_vec()));
        }
        packets
    }

    #[test]
    fn what_is_written_is_cut_into_packets_wherever_the_writes_end() {
        let stream = [0xd0, 0, 0x40, 2, 0, 9, 0x30, 5, 0, 1, b'a', b'x', b'y', 0xd0, 0];
        let whole = packets(&[&[&stream]]);
        assert_eq!(whole.iter().map(Vec::len).collect::<Vec<_>>(), [2, 4, 7, 2]);
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let parts = (&stream[..first], &stream[first..second], &stream[second..]);
                assert_eq!(packets(&[&[parts.0], &[parts.1, parts.2]]), whole, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn only_the_bytes_that_were_written_count() {
        let mut outgoing = Outgoing::default();
        let slices = [IoSlice::new(&[0xd0, 0, 0xd0]), IoSlice::new(&[0, 0xd0, 0])];
        outgoing.take(&slices, 3);
        assert_eq!(outgoing.take_packets()[..], [&[0xd0, 0][..]]);
        outgoing.take(&[IoSlice::new(&[0])], 1);
        assert_eq!(outgoing.take_packets()[..], [&[0xd0, 0][..]]);
    }
}

//! A [`Line`] at work: between a client's socket and whoever serves the client.
//!
//! It is put in while chaos is on, also into connections that are there already: their socket moves to a task of its own,
//! and whoever served it goes on with the end of a pipe.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use jiff::Timestamp;
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::Notify,
    task::spawn_local,
    time::{Sleep, sleep_until, timeout},
};
use tracing::{debug, trace};

use super::{
    chaos::ChaosWatch,
    pipe,
    transport::{LINGER, ReadHalf, WriteHalf},
};
use crate::{
    fault::{Line, LineOutput, Splice},
    recording::Direction,
    session::ConnectionId,
    tap::Tap,
};

/// Bytes under way between the line and whoever serves the client, in each direction: a socket's buffer.
const PIPE_BYTES: usize = 64 << 10;

/// Each read's size at most.
const READ_BYTES: usize = 16 << 10;

/// Reads of each direction before others get their turn.
const TURN_READS: usize = 2;

/// Outputs before others get their turn.
const TURN_OUTPUTS: usize = 1_000;

/// Bytes that were let go and are not written yet, beyond which no more are.
const OUTLET_BYTES: usize = 256 << 10;

/// How long what is held back may take when the server has ended the connection.
const CLOSING_WAIT: Duration = Duration::from_secs(5);

/// Has a server forget the Session of the client that sent a CONNECT.
pub(super) type LoseSession = Box<dyn Fn(Bytes) -> Pin<Box<dyn Future<Output = ()>>>>;

/// What a line is made with.
pub(super) struct LineParts {
    pub watch: ChaosWatch,
    pub tap: Tap,
    pub connection: ConnectionId,
    pub lose_session: LoseSession,
}

/// What the task of a line and whoever serves the client share.
#[derive(Default)]
pub(super) struct LineState {
    is_cut: Cell<bool>,
    has_ended: Cell<bool>,
    ended: Notify,
}

impl LineState {
    /// Whether chaos ended the connection.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut.get()
    }

    /// Returns when nothing is on its way to the client any more; nothing waits for longer than a bounded time once the
    /// server's half was finished.
    pub(super) async fn ended(&self) {
        while !self.has_ended.get() {
            self.ended.notified().await;
        }
    }
}

/// Puts a line into a connection, the halves of which become those of a pipe.
pub(super) fn put_in(
    parts: LineParts,
    splice: Splice,
    read: &mut ReadHalf,
    write: &mut WriteHalf,
) -> Rc<LineState> {
    let (inside, outside) = pipe::Pipe::pair(PIPE_BYTES);
    let (inside_read, inside_write) = inside.split();
    let client = (
        std::mem::replace(read, ReadHalf::Pipe(inside_read)),
        std::mem::replace(write, WriteHalf::Pipe(inside_write)),
    );
    let state = Rc::<LineState>::default();
    let line = Line::new(parts.watch.chaos.clone(), parts.watch.held_bytes_max, splice);
    let (from_server, to_server) = outside.split();
    let driver = Driver {
        line,
        state: Rc::clone(&state),
        client: Some(client),
        from_server: Some(ReadHalf::Pipe(from_server)),
        to_server: Some(WriteHalf::Pipe(to_server)),
        up: Outlet::default(),
        down: Outlet::default(),
        has_client_ended: false,
        is_cut: None,
        has_reported: false,
        waits: None,
        deadline: None,
        timer: None,
        parts,
    };
    debug!(connection = %driver.parts.connection, "under chaos from here on");
    spawn_local(driver.run());
    state
}

/// What was let go in one direction and is not written yet.
#[derive(Default)]
struct Outlet {
    bytes: BytesMut,
    end: End,
    /// Nobody takes it any more.
    is_closed: bool,
}

/// How far the end of a direction has come.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    /// The side that sends has ended; what it sent is still held back.
    Coming {
        by_reset: bool,
    },
    /// To be told once all is written.
    Due {
        by_reset: bool,
    },
    Told,
}

struct Driver {
    parts: LineParts,
    line: Line,
    state: Rc<LineState>,
    /// The socket, until it is closed.
    client: Option<(ReadHalf, WriteHalf)>,
    from_server: Option<ReadHalf>,
    to_server: Option<WriteHalf>,
    up: Outlet,
    down: Outlet,
    /// Whether nothing more comes from the client.
    has_client_ended: bool,
    /// Whether the connection is to be closed, and if by RST.
    is_cut: Option<bool>,
    /// Whether something was reported that observers may not be done with.
    has_reported: bool,
    /// What has to be before more is let go.
    waits: Option<Pin<Box<dyn Future<Output = ()>>>>,
    /// When what is held back is given up.
    deadline: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Driver {
    async fn run(mut self) {
        let mut watch = self.parts.watch.clone();
        loop {
            tokio::select! {
                biased;
                () = poll_fn(|context| self.poll(context)) => break,
                () = watch.changed() => {}
            }
        }
        self.close().await;
    }

    /// The connection is over in both directions, or cut.
    async fn close(&mut self) {
        if let Some((mut read, write)) = self.client.take() {
            match self.is_cut {
                Some(true) => {
                    // What was let go belongs to the client, as far as its socket takes it at once.
                    let _ = write.try_write(&[IoSlice::new(&self.down.bytes)]);
                    write.reset();
                }
                Some(false) => {
                    let bytes = self.down.bytes.split();
                    let _ = timeout(LINGER, write.write_all(&bytes)).await;
                    if write.finish() {
                        read.drain().await;
                    }
                }
                None => {}
            }
        }
        if let Some(write) = self.to_server.take() {
            // The server gets what was let go before the connection was cut, unless it reads no more.
            let bytes = self.up.bytes.split();
            let _ = timeout(CLOSING_WAIT, write.write_all(&bytes)).await;
            write.finish();
        }
    }

    /// Ready when the connection is over.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        for _ in 0..TURN_READS {
            let goes_on = self.poll_outputs(context);
            self.write(context);
            if self.is_cut.is_some() || self.is_over() {
                return Poll::Ready(());
            }
            let is_fed = [self.poll_client(context), self.poll_server(context)];
            if is_fed == [false, false] && !goes_on {
                return self.poll_timer(context);
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether nobody is left to be told anything.
    fn is_over(&self) -> bool {
        let is_told = |outlet: &Outlet| outlet.is_closed || outlet.end == End::Told;
        is_told(&self.down) && is_told(&self.up)
    }

    /// Does what the line says; whether there is more of it.
    fn poll_outputs(&mut self, context: &mut Context<'_>) -> bool {
        let now = now();
        let mut goes_on = false;
        for turn in 0..TURN_OUTPUTS {
            if let Some(waits) = &mut self.waits {
                if waits.as_mut().poll(context).is_pending() {
                    return false;
                }
                self.waits = None;
            }
            let is_open = is_open(&self.up, &self.down);
            let Some(output) = self.line.poll_output(now, is_open) else { break };
            goes_on = turn + 1 == TURN_OUTPUTS;
            self.has_reported |= matches!(output, LineOutput::Report { .. });
            self.take_output(now, output);
        }
        if std::mem::take(&mut self.has_reported) && self.parts.tap.is_observed() {
            // Nothing is written before whoever must not lose anything is ready for it.
            let tap = self.parts.tap.clone();
            let mut waits: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move { tap.ready().await });
            if waits.as_mut().poll(context).is_pending() {
                self.waits = Some(waits);
            }
        }
        goes_on
    }

    fn take_output(&mut self, now: Instant, output: LineOutput) {
        let LineParts { tap, watch, connection, .. } = &self.parts;
        match output {
            LineOutput::Identified { client_identifier, protocol } => {
                tap.identify(*connection, &client_identifier, protocol);
            }
            LineOutput::Report { direction, bytes, is_packet } => {
                trace!(connection = %connection, direction = direction.name(), len = bytes.len(), "passes a line");
                match is_packet {
                    true => tap.packet(now, *connection, direction, bytes),
                    false => tap.raw(now, *connection, direction, bytes),
                }
            }
            LineOutput::Fault(fault) => {
                debug!(
                    connection = %connection,
                    client = %fault.client_identifier,
                    rule = %fault.rule,
                    action = %fault.action,
                    packet = %fault.packet_type,
                    "fault"
                );
                watch.chaos.note(&fault, connection.0, Timestamp::now());
                tap.fault(now, *connection, || *fault);
            }
            LineOutput::Pass { direction, bytes } => self.outlet(direction).bytes.extend_from_slice(&bytes),
            LineOutput::LoseSession { connect } => self.waits = Some((self.parts.lose_session)(connect)),
            LineOutput::End(direction) => {
                let outlet = self.outlet(direction);
                let by_reset = outlet.end == End::Coming { by_reset: true };
                outlet.end = End::Due { by_reset };
            }
            LineOutput::Cut { by_reset } => {
                self.state.is_cut.set(true);
                self.is_cut = Some(by_reset);
            }
        }
    }

    fn outlet(&mut self, direction: Direction) -> &mut Outlet {
        match direction {
            Direction::ClientToServer => &mut self.up,
            Direction::ServerToClient => &mut self.down,
        }
    }

    /// Writes what was let go, as far as it is taken.
    fn write(&mut self, context: &mut Context<'_>) {
        if self.waits.is_some() {
            return;
        }
        if let Some((_, write)) = &self.client {
            self.down.write(write, context);
        }
        if let Some(write) = &self.to_server {
            self.up.write(write, context);
        }
        if let End::Due { by_reset } = self.down.end
            && self.down.bytes.is_empty()
        {
            self.down.end = End::Told;
            match (by_reset, self.client.take()) {
                (true, Some((_, write))) => {
                    write.reset();
                    self.has_client_ended = true;
                    self.line.end(now(), Direction::ClientToServer);
                }
                (false, Some((read, write))) => {
                    write.finish();
                    self.client = Some((read, write));
                    // It need not hurry to close its half, but it is not waited for longer than without chaos.
                    let patience_ends = now() + LINGER;
                    self.deadline = self.deadline.map(|deadline| deadline.min(patience_ends));
                }
                (_, None) => {}
            }
        }
        if let End::Due { by_reset } = self.up.end
            && self.up.bytes.is_empty()
        {
            self.up.end = End::Told;
            match self.to_server.take() {
                Some(write) if by_reset => write.reset(),
                Some(write) => _ = write.finish(),
                None => {}
            }
        }
    }

    /// Reads from the client, if there is room; whether anything came of it.
    fn poll_client(&mut self, context: &mut Context<'_>) -> bool {
        let direction = Direction::ClientToServer;
        if self.has_client_ended || !self.has_room(direction, &self.up) {
            return false;
        }
        let Some((read, _)) = &mut self.client else { return false };
        let Poll::Ready(came) = poll_read(read, context) else { return false };
        self.has_client_ended = came.as_ref().map_or(true, Bytes::is_empty);
        self.take_input(direction, came);
        true
    }

    /// The same from the server.
    fn poll_server(&mut self, context: &mut Context<'_>) -> bool {
        let direction = Direction::ServerToClient;
        if !self.has_room(direction, &self.down) {
            return false;
        }
        let Some(read) = &mut self.from_server else { return false };
        let Poll::Ready(came) = poll_read(read, context) else { return false };
        if came.as_ref().map_or(true, Bytes::is_empty) {
            self.from_server = None;
            self.deadline = Some(now() + CLOSING_WAIT);
        }
        self.take_input(direction, came);
        true
    }

    /// Whether more is read: not while the receiver is behind.
    fn has_room(&self, direction: Direction, outlet: &Outlet) -> bool {
        outlet.bytes.len() < OUTLET_BYTES && self.line.held(direction) < self.parts.watch.held_bytes_max
    }

    fn take_input(&mut self, direction: Direction, came: io::Result<Bytes>) {
        let now = now();
        match came {
            Ok(bytes) if !bytes.is_empty() => self.line.receive(now, direction, &bytes),
            end => {
                let outlet = self.outlet(direction);
                if outlet.end == End::Open {
                    outlet.end = End::Coming { by_reset: end.is_err() };
                }
                self.line.end(now, direction);
            }
        }
    }

    /// Sleeps until more is due; ready when what is held back is given up.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = now();
            // Who is cut off does not see the server go, either.
            let deadline = self.deadline.filter(|_| self.has_client_ended || !self.line.is_black(now));
            let next = self.line.next_timeout(is_open(&self.up, &self.down));
            let next = [next, deadline].into_iter().flatten().min();
            let Some(next) = next.filter(|_| self.waits.is_none()) else { return Poll::Pending };
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Poll::Ready(());
            }
            if next <= now {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            match &mut self.timer {
                Some(timer) if timer.deadline().into_std() == next => {}
                Some(timer) => timer.as_mut().reset(next.into()),
                timer => *timer = Some(Box::pin(sleep_until(next.into()))),
            }
            let Some(timer) = &mut self.timer else { return Poll::Pending };
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Driver {
    /// However it came to its end.
    fn drop(&mut self) {
        self.state.has_ended.set(true);
        self.state.ended.notify_waiters();
        self.state.ended.notify_one();
    }
}

impl Outlet {
    fn write(&mut self, half: &WriteHalf, context: &mut Context<'_>) {
        while !self.bytes.is_empty() {
            match half.try_write(&[IoSlice::new(&self.bytes)]) {
                Ok(count) => self.bytes.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if half.poll_writable(context).is_pending() {
                        return;
                    }
                }
                Err(_) => {
                    self.bytes.clear();
                    self.is_closed = true;
                }
            }
        }
    }
}

/// Where more may be let go: what was is written, but for what can wait.
fn is_open(up: &Outlet, down: &Outlet) -> impl Fn(Direction) -> bool {
    let [up, down] = [up, down].map(|outlet| outlet.bytes.len() < OUTLET_BYTES);
    move |direction| match direction {
        Direction::ClientToServer => up,
        Direction::ServerToClient => down,
    }
}

/// One read; empty at the end.
fn poll_read(half: &mut ReadHalf, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
    let mut buffer = [0; READ_BYTES];
    let mut read = ReadBuf::new(&mut buffer);
    Pin::new(half).poll_read(context, &mut read).map_ok(|()| Bytes::copy_from_slice(read.filled()))
}

/// The runtime's clock, so that a paused one is followed.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

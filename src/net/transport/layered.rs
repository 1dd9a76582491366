//! A TCP connection with TLS, WebSocket, or both on it, which to everybody else is as good as TCP.
//!
//! What was taken and is still to be written (a record, a frame) waits here, at most [`WAITING`] bytes of it, and a task of
//! its own writes it when the kernel has room: who writes sees a socket that takes nothing meanwhile.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use rustls::crypto::SecureRandom;
use socket2::SockRef;
use tokio::{io::ReadBuf, net::TcpStream, runtime::Handle, sync::Notify};

use super::{channel::Channel, frames::Frames, transport_name};

/// Bytes taken at once for one frame or record after the other.
const WAITING: usize = 64 << 10;

/// Pongs that a peer may leave unread before nothing more is read from it.
const ANSWERS_WAITING: usize = 64 << 10;

/// Bytes of frames without any of MQTT before others get their turn.
pub(super) const TURN_BYTES: usize = 64 << 10;

/// What lies on a TCP connection. Can be taken from one thread to another, with the connection.
pub(in crate::net) struct Layers {
    channel: Channel,
    frames: Option<Box<Frames>>,
    /// Frames that wait for the channel, from `sent` on.
    out: Vec<u8>,
    sent: usize,
    /// Frames that were read together with what came before the first of them.
    early: Vec<u8>,
    end: End,
    /// Why nothing more can be written.
    broken: Option<io::ErrorKind>,
    /// Whether a task writes what waits.
    is_pumped: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// How far the end of what we send has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    /// As soon as all is written.
    Due,
    /// TLS has said so.
    Said,
    Told,
}

impl Layers {
    /// `early` are frames, too.
    pub(super) fn new(channel: Channel, frames: Option<Frames>, early: Vec<u8>) -> Self {
        Self {
            channel,
            frames: frames.map(Box::new),
            out: Vec::new(),
            sent: 0,
            early,
            end: End::Open,
            broken: None,
            is_pumped: false,
            reader: None,
            writer: None,
        }
    }

    /// As recordings and operators are told.
    pub(in crate::net) fn name(&self) -> &'static str {
        transport_name(self.channel.is_tls(), self.frames.is_some())
    }

    fn is_behind(&self) -> bool {
        self.sent < self.out.len() || self.channel.has_unwritten() || matches!(self.end, End::Due | End::Said)
    }

    /// Writes what waits, and then the end if it is due.
    ///
    /// # Errors
    /// `WouldBlock` when something still waits.
    fn flush(&mut self, tcp: &TcpStream) -> io::Result<()> {
        if let Some(kind) = self.broken {
            return Err(kind.into());
        }
        let flushed = self.try_flush(tcp);
        if let Err(error) = &flushed
            && error.kind() != io::ErrorKind::WouldBlock
        {
            self.broken = Some(error.kind());
            (self.out, self.sent) = (Vec::new(), 0);
        }
        flushed
    }

    fn try_flush(&mut self, tcp: &TcpStream) -> io::Result<()> {
        while self.sent < self.out.len() {
            self.sent += self.channel.try_write(tcp, &self.out[self.sent..])?;
        }
        // Idle connections keep no buffer.
        (self.out, self.sent) = (Vec::new(), 0);
        if self.end == End::Due {
            self.channel.finish();
            self.end = End::Said;
        }
        self.channel.flush(tcp)?;
        if self.end == End::Said {
            self.end = End::Told;
            SockRef::from(tcp).shutdown(Shutdown::Write)?;
        }
        Ok(())
    }

    /// Reads bytes of MQTT; 0 at the end, `None` when others are to have their turn first.
    fn try_read(&mut self, tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(frames) = &mut self.frames else { return self.channel.try_read(tcp, buffer) };
        let mut taken = 0;
        loop {
            let failed = frames.take_failed();
            if frames.has_ended() && failed.is_none() {
                return Ok(Some(0));
            }
            let count = match self.early.len().min(buffer.len()) {
                _ if failed.is_some() => 0,
                0 => match self.channel.try_read(tcp, buffer)? {
                    Some(count) => count,
                    None => return Ok(None),
                },
                count => {
                    buffer[..count].copy_from_slice(&self.early[..count]);
                    self.early.drain(..count);
                    count
                }
            };
            if count == 0 && failed.is_none() {
                return Ok(Some(0));
            }
            let unanswered = self.out.len();
            let received = match failed {
                Some(failed) => Err(failed),
                None => frames.receive(&mut buffer[..count], &mut draw_mask, &mut self.out),
            };
            if self.end != End::Open || self.broken.is_some() {
                // Nobody is answered behind our own end.
                self.out.truncate(unanswered);
            }
            taken += count;
            match received {
                Ok(0) if self.out.len() > ANSWERS_WAITING || taken >= TURN_BYTES => return Ok(None),
                Ok(0) => {}
                Ok(count) => return Ok(Some(count)),
                Err(error) => {
                    frames.close_with(error.status(), &mut draw_mask, &mut self.out);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
    }

    /// Takes bytes, which may wait.
    fn put(&mut self, tcp: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut room = WAITING;
        let parts = slices.iter().map(|slice| {
            let part = &slice[..slice.len().min(room)];
            room -= part.len();
            part
        });
        if let Some(frames) = &self.frames {
            return Ok(frames.data(parts, &mut draw_mask, &mut self.out));
        }
        let mut taken = 0;
        for part in parts.filter(|part| !part.is_empty()) {
            match self.channel.try_write(tcp, part) {
                Ok(count) if count == part.len() => taken += count,
                Ok(count) => return Ok(taken + count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && taken > 0 => return Ok(taken),
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

/// The status code of a Close frame that ends a connection as it should end [RFC 6455 section 7.4.1].
const NORMAL_CLOSURE: u16 = 1000;

/// Four bytes that nobody can foretell, so that nothing on the way takes what is sent for something else.
fn draw_mask() -> [u8; 4] {
    let mut key = [0; 4];
    random(&mut key);
    key
}

/// Fills `bytes` with what nobody can foretell.
pub(super) fn random(bytes: &mut [u8]) {
    static RANDOM: LazyLock<&dyn SecureRandom> =
        LazyLock::new(|| rustls::crypto::ring::default_provider().secure_random);
    RANDOM.fill(bytes).expect("the system has randomness");
}

/// A connection with layers; both of its halves share it.
pub(in crate::net) struct Layered {
    tcp: Arc<TcpStream>,
    layers: Mutex<Layers>,
    /// The one that the connection is registered at.
    runtime: Handle,
    /// Told when nobody has the connection any more.
    abandoned: Arc<Notify>,
}

impl Layered {
    pub(super) fn new(tcp: TcpStream, layers: Layers) -> Arc<Self> {
        Arc::new(Self {
            tcp: Arc::new(tcp),
            layers: Mutex::new(layers),
            runtime: Handle::current(),
            abandoned: Arc::default(),
        })
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    pub(super) fn name(&self) -> &'static str {
        self.lock().name()
    }

    fn lock(&self) -> MutexGuard<'_, Layers> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has what waits be written when there is room, unless that is under way.
    fn pump(self: &Arc<Self>, layers: &mut Layers) {
        if !std::mem::replace(&mut layers.is_pumped, true) {
            let pump = pump(Arc::downgrade(self), Arc::clone(&self.tcp), Arc::clone(&self.abandoned));
            self.runtime.spawn(pump);
        }
    }

    pub(super) fn poll_read(
        self: &Arc<Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut layers = self.lock();
            if layers.out.len() > ANSWERS_WAITING && is_blocked(&layers.flush(&self.tcp)) {
                layers.reader = Some(context.waker().clone());
                self.pump(&mut layers);
                return Poll::Pending;
            }
            let result = layers.try_read(&self.tcp, buffer);
            // Answers of TLS and WebSocket themselves.
            if layers.is_behind() && is_blocked(&layers.flush(&self.tcp)) {
                self.pump(&mut layers);
            }
            drop(layers);
            match result {
                Ok(Some(count)) => return Poll::Ready(Ok(count)),
                Ok(None) => {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.tcp.poll_read_ready(context))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// See [`WriteHalf::try_write`](super::WriteHalf::try_write).
    pub(super) fn try_write(self: &Arc<Self>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut layers = self.lock();
        if let Some(kind) = layers.broken {
            return Err(kind.into());
        }
        if layers.end != End::Open {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if layers.is_pumped {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = match layers.put(&self.tcp, slices) {
            Ok(count) => count,
            Err(error) => {
                if error.kind() == io::ErrorKind::WouldBlock {
                    self.pump(&mut layers);
                }
                return Err(error);
            }
        };
        let flushed = layers.flush(&self.tcp);
        if is_blocked(&flushed) {
            self.pump(&mut layers);
            return Ok(count);
        }
        flushed.map(|()| count)
    }

    pub(super) fn poll_writable(self: &Arc<Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut layers = self.lock();
        if layers.is_pumped {
            layers.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        drop(layers);
        self.tcp.poll_write_ready(context)
    }

    /// See [`WriteHalf::finish`](super::WriteHalf::finish).
    pub(super) fn finish(self: &Arc<Self>) -> bool {
        let mut layers = self.lock();
        if layers.broken.is_some() {
            return false;
        }
        if layers.end == End::Open {
            layers.end = End::Due;
            let Layers { frames, out, .. } = &mut *layers;
            if let Some(frames) = frames {
                frames.close_with(NORMAL_CLOSURE, &mut draw_mask, out);
            }
        }
        if layers.is_pumped {
            return true;
        }
        let flushed = layers.flush(&self.tcp);
        if is_blocked(&flushed) {
            self.pump(&mut layers);
            return true;
        }
        flushed.is_ok()
    }

    /// See [`WriteHalf::reset`](super::WriteHalf::reset).
    pub(super) fn reset(&self) {
        let mut layers = self.lock();
        layers.broken = Some(io::ErrorKind::ConnectionReset);
        layers.end = End::Told;
        // Without it the peer sees FIN, which is the next best.
        let _ = SockRef::from(&*self.tcp).set_linger(Some(Duration::ZERO));
    }
}

impl Drop for Layered {
    fn drop(&mut self) {
        self.abandoned.notify_one();
    }
}

fn is_blocked<T>(result: &io::Result<T>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Writes what waits as the kernel takes it. Does not keep the connection open by itself.
async fn pump(layered: Weak<Layered>, tcp: Arc<TcpStream>, abandoned: Arc<Notify>) {
    loop {
        let is_writable = tokio::select! {
            () = abandoned.notified() => return,
            writable = tcp.writable() => writable.is_ok(),
        };
        let Some(layered) = layered.upgrade() else { return };
        let mut layers = layered.lock();
        if is_writable && layers.broken.is_none() && is_blocked(&layers.flush(&tcp)) {
            continue;
        }
        layers.is_pumped = false;
        layers.wake();
        return;
    }
}

/// Reads into the free part of `buffer`.
pub(super) fn poll_read_buf(
    layered: &Arc<Layered>,
    context: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let count = ready!(layered.poll_read(context, buffer.initialize_unfilled()))?;
    buffer.advance(count);
    Poll::Ready(Ok(()))
}

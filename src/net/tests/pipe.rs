//! Connections in memory, which need no kernel and therefore no clock but a paused one.

use std::{
    io::{self, IoSlice},
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use bytes::{Buf, BytesMut};
use tokio::io::ReadBuf;

/// What a socket's buffers hold between two ends, roughly.
const CAPACITY: usize = 4 << 20;

/// One end of a connection.
pub struct Pipe {
    incoming: Incoming,
    outgoing: Outgoing,
}

pub struct Incoming(Arc<Mutex<Way>>);

pub struct Outgoing(Arc<Mutex<Way>>);

/// How the writing end was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Fin,
    Reset,
}

/// Bytes under way in one direction.
#[derive(Default)]
struct Way {
    bytes: BytesMut,
    end: Option<End>,
    /// Whether nobody will ever read.
    is_abandoned: bool,
    /// Whether nothing is taken, as by a peer that does not read.
    is_stalled: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Way {
    fn has_room(&self) -> bool {
        !self.is_stalled && self.bytes.len() < CAPACITY
    }

    fn close(&mut self, end: End) {
        self.end.get_or_insert(end);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}

fn lock(way: &Mutex<Way>) -> MutexGuard<'_, Way> {
    way.lock().expect("nothing panics while it holds the lock")
}

impl Pipe {
    /// Two ends of one connection.
    pub fn pair() -> (Self, Self) {
        let (there, back) = (Arc::<Mutex<Way>>::default(), Arc::<Mutex<Way>>::default());
        let one = Self { incoming: Incoming(back.clone()), outgoing: Outgoing(there.clone()) };
        let other = Self { incoming: Incoming(there), outgoing: Outgoing(back) };
        (one, other)
    }

    pub fn split(self) -> (Incoming, Outgoing) {
        (self.incoming, self.outgoing)
    }

    /// Sends `bytes`, if the other end is still there to take them.
    pub fn send(&self, bytes: &[u8]) {
        let mut way = lock(&self.outgoing.0);
        if !way.is_abandoned {
            way.bytes.extend_from_slice(bytes);
            if let Some(reader) = way.reader.take() {
                reader.wake();
            }
        }
    }

    /// Everything that has arrived, and how the other end closed if it did.
    pub fn take(&self) -> (BytesMut, Option<End>) {
        let mut way = lock(&self.incoming.0);
        let bytes = way.bytes.split();
        way.wake_writer();
        (bytes, way.end)
    }

    /// Stops and lets go on what is written towards this end.
    pub fn valve(&self) -> Valve {
        Valve(Arc::clone(&self.incoming.0))
    }
}

/// See [`Pipe::valve`].
pub struct Valve(Arc<Mutex<Way>>);

impl Valve {
    pub fn set_stalled(&self, is_stalled: bool) {
        let mut way = lock(&self.0);
        way.is_stalled = is_stalled;
        if !is_stalled {
            way.wake_writer();
        }
    }
}

impl Outgoing {
    pub fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut way = lock(&self.0);
        if way.is_abandoned || way.end.is_some() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if !way.has_room() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut count = 0;
        for slice in slices {
            way.bytes.extend_from_slice(slice);
            count += slice.len();
        }
        if let Some(reader) = way.reader.take() {
            reader.wake();
        }
        Ok(count)
    }

    pub fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut way = lock(&self.0);
        if way.is_abandoned || way.has_room() {
            return Poll::Ready(Ok(()));
        }
        way.writer = Some(context.waker().clone());
        Poll::Pending
    }

    pub fn finish(&self) -> bool {
        let mut way = lock(&self.0);
        way.close(End::Fin);
        !way.is_abandoned
    }

    pub fn reset(self) {
        lock(&self.0).close(End::Reset);
    }
}

impl Incoming {
    pub fn poll_read(&self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut way = lock(&self.0);
        if way.end == Some(End::Reset) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if way.bytes.is_empty() {
            if way.end.is_some() {
                return Poll::Ready(Ok(()));
            }
            way.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = way.bytes.len().min(buffer.remaining());
        buffer.put_slice(&way.bytes[..count]);
        way.bytes.advance(count);
        way.wake_writer();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let mut way = lock(&self.0);
        way.is_abandoned = true;
        way.wake_writer();
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        lock(&self.0).close(End::Fin);
    }
}

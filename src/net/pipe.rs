//! Connections in memory, which need no kernel and therefore, in tests, no clock but a paused one.

use std::{
    io::{self, IoSlice},
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use bytes::{Buf, BytesMut};
use tokio::io::ReadBuf;

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
struct Way {
    bytes: BytesMut,
    capacity: usize,
    end: Option<End>,
    /// Whether nobody will ever read.
    is_abandoned: bool,
    /// Whether nothing is taken, as by a peer that does not read.
    #[cfg(test)]
    is_stalled: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Way {
    fn new(capacity: usize) -> Self {
        Self {
            bytes: BytesMut::new(),
            capacity,
            end: None,
            is_abandoned: false,
            #[cfg(test)]
            is_stalled: false,
            reader: None,
            writer: None,
        }
    }

    fn room(&self) -> usize {
        #[cfg(test)]
        if self.is_stalled {
            return 0;
        }
        self.capacity.saturating_sub(self.bytes.len())
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
    /// Two ends of one connection, which holds `capacity` bytes in each direction.
    pub fn pair(capacity: usize) -> (Self, Self) {
        let way = || Arc::new(Mutex::new(Way::new(capacity)));
        let (there, back) = (way(), way());
        let one = Self { incoming: Incoming(back.clone()), outgoing: Outgoing(there.clone()) };
        let other = Self { incoming: Incoming(there), outgoing: Outgoing(back) };
        (one, other)
    }

    pub fn split(self) -> (Incoming, Outgoing) {
        (self.incoming, self.outgoing)
    }

    /// Sends `bytes`, however many, if the other end is still there to take them.
    #[cfg(test)]
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
    #[cfg(test)]
    pub fn take(&self) -> (BytesMut, Option<End>) {
        let mut way = lock(&self.incoming.0);
        let bytes = way.bytes.split();
        way.wake_writer();
        (bytes, way.end)
    }

    /// Stops and lets go on what is written towards this end.
    #[cfg(test)]
    pub fn valve(&self) -> Valve {
        Valve(Arc::clone(&self.incoming.0))
    }
}

/// See [`Pipe::valve`].
#[cfg(test)]
pub struct Valve(Arc<Mutex<Way>>);

#[cfg(test)]
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
        let room = way.room();
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut count = 0;
        for slice in slices {
            let part = &slice[..slice.len().min(room - count)];
            way.bytes.extend_from_slice(part);
            count += part.len();
        }
        if let Some(reader) = way.reader.take() {
            reader.wake();
        }
        Ok(count)
    }

    pub fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut way = lock(&self.0);
        if way.is_abandoned || way.end.is_some() || way.room() > 0 {
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
        if way.bytes.is_empty() {
            match way.end {
                Some(End::Reset) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Some(End::Fin) => return Poll::Ready(Ok(())),
                None => {}
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

//! What carries the bytes of one connection: TCP, perhaps with TLS or WebSocket on it, or memory.

mod channel;
mod frames;
mod handshake;
mod layered;
#[cfg(test)]
mod tests;
mod upgrade;

use std::{
    future::poll_fn,
    io::{self, IoSlice, IoSliceMut},
    net::{Shutdown, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use self::layered::Layered;
use super::pipe;

#[cfg(any(test, fuzzing))]
pub use self::frames::receive_pieces;
pub(super) use self::{
    handshake::{Tls, WebSocket, establish},
    layered::Layers,
    upgrade::WebSocketRequest,
};

pub use self::upgrade::WebSocketOptions;

/// What a connection is called in recordings and for operators.
pub(super) fn transport_name(has_tls: bool, has_web_socket: bool) -> &'static str {
    match (has_tls, has_web_socket) {
        (false, false) => "tcp",
        (true, false) => "tls",
        (false, true) => "ws",
        (true, true) => "wss",
    }
}

/// How long a peer may take to notice that we closed.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// Room for one read of a client of our own.
const READ_BYTES: usize = 8 << 10;

/// The same where a record of TLS is to be whole before there is anything to read.
const LAYERED_READ_BYTES: usize = 32 << 10;

/// A connection to a peer, in both directions.
pub(super) enum Transport {
    Tcp(TcpStream),
    Layered(Arc<Layered>),
    /// In memory.
    #[cfg(test)]
    Pipe(pipe::Pipe),
}

/// What a peer sends.
pub(super) enum ReadHalf {
    Tcp(OwnedReadHalf),
    Layered(Arc<Layered>),
    Pipe(pipe::Incoming),
}

/// What a peer is sent. Dropping both halves closes the connection.
pub(super) enum WriteHalf {
    Tcp(OwnedWriteHalf),
    Layered(LayeredWrite),
    Pipe(pipe::Outgoing),
}

/// Dropping it tells the peer that nothing more follows.
pub(super) struct LayeredWrite(Arc<Layered>);

impl Drop for LayeredWrite {
    fn drop(&mut self) {
        self.0.finish();
    }
}

impl From<TcpStream> for Transport {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl Transport {
    /// A connection that is registered at the runtime in whose context this is called, with what lies on it.
    pub(super) fn layered(tcp: TcpStream, layers: Layers) -> Self {
        Self::Layered(Layered::new(tcp, layers))
    }

    /// As recordings and operators are told.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Layered(layered) => layered.name(),
            #[cfg(test)]
            Self::Pipe(_) => "pipe",
        }
    }

    /// Our own address, where there is one.
    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        self.socket()?.local_addr().ok()
    }

    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Layered(layered) => Some(layered.tcp()),
            #[cfg(test)]
            Self::Pipe(_) => None,
        }
    }

    pub(super) fn split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Self::Layered(layered) => {
                (ReadHalf::Layered(Arc::clone(&layered)), WriteHalf::Layered(LayeredWrite(layered)))
            }
            #[cfg(test)]
            Self::Pipe(pipe) => {
                let (read, write) = pipe.split();
                (ReadHalf::Pipe(read), WriteHalf::Pipe(write))
            }
        }
    }
}

/// For whoever reads and writes from several threads.
impl Transport {
    /// See [`WriteHalf::try_write`].
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Layered(layered) => layered.try_write(&[IoSlice::new(bytes)]),
            #[cfg(test)]
            Self::Pipe(_) => unreachable!("pipes are split"),
        }
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            Self::Layered(layered) => poll_fn(|context| layered.poll_writable(context)).await,
            #[cfg(test)]
            Self::Pipe(_) => unreachable!("pipes are split"),
        }
    }

    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads behind what `buffer` holds; how much it was, 0 at the end. One task at a time.
    pub(super) async fn read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => loop {
                buffer.reserve(READ_BYTES);
                stream.readable().await?;
                match stream.try_read_buf(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return result,
                }
            },
            Self::Layered(layered) => {
                let start = buffer.len();
                buffer.resize(start + LAYERED_READ_BYTES, 0);
                let read = poll_fn(|context| layered.poll_read(context, &mut buffer[start..])).await;
                buffer.truncate(start + read.as_ref().map_or(0, |&count| count));
                read
            }
            #[cfg(test)]
            Self::Pipe(_) => unreachable!("pipes are split"),
        }
    }

    /// See [`WriteHalf::finish`].
    pub(super) fn finish(&self) -> bool {
        match self {
            Self::Tcp(stream) => SockRef::from(stream).shutdown(Shutdown::Write).is_ok(),
            Self::Layered(layered) => layered.finish(),
            #[cfg(test)]
            Self::Pipe(_) => unreachable!("pipes are split"),
        }
    }

    /// Ends both directions at once, whoever still has a share of it.
    pub(super) fn close(&self) {
        self.finish();
        if let Some(socket) = self.socket() {
            let _ = SockRef::from(socket).shutdown(Shutdown::Both);
        }
    }

    /// Dropping it will close it with RST in place of FIN.
    pub(super) fn reset_when_dropped(&self) {
        match self {
            Self::Layered(layered) => layered.reset(),
            _ => {
                if let Some(socket) = self.socket() {
                    // Without it the peer sees FIN, which is the next best.
                    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
                }
            }
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_read(context, buffer),
            Self::Layered(layered) => layered::poll_read_buf(layered, context, buffer),
            Self::Pipe(half) => half.poll_read(context, buffer),
        }
    }
}

impl ReadHalf {
    /// Reads into `slices`, the first one first; how much it was, 0 at the end.
    pub(super) fn poll_read_vectored(
        &mut self,
        context: &mut Context<'_>,
        slices: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(half) => loop {
                ready!(half.as_ref().poll_read_ready(context))?;
                match half.try_read_vectored(slices) {
                    // That made it wait for the next time.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return Poll::Ready(result),
                }
            },
            // Into the first one that has room: how much a read brings is not known before.
            Self::Layered(layered) => match slices.iter_mut().find(|slice| !slice.is_empty()) {
                Some(slice) => layered.poll_read(context, slice),
                None => Poll::Ready(Ok(0)),
            },
            Self::Pipe(half) => {
                let mut count = 0;
                for slice in slices.iter_mut().filter(|slice| !slice.is_empty()) {
                    let mut read = ReadBuf::new(slice);
                    let poll = half.poll_read(context, &mut read);
                    let filled = read.filled().len();
                    match poll {
                        Poll::Ready(result) if count == 0 => result?,
                        _ if count == 0 => return Poll::Pending,
                        _ => {}
                    }
                    count += filled;
                }
                Poll::Ready(Ok(count))
            }
        }
    }

    /// Reads on until the peer has seen that we closed, for a bounded time: closing with bytes unread
    /// would send RST, and the peer might lose what it was sent last.
    pub(super) async fn drain(&mut self) {
        let mut sink = [0; 4096];
        // A peer that does not notice in time has had its chance.
        let _ = timeout(LINGER, async { while matches!(self.read(&mut sink).await, Ok(1..)) {} }).await;
    }
}

impl WriteHalf {
    /// Writes what is taken at once.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is; others when the peer is gone.
    pub(super) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match (self, slices) {
            (Self::Tcp(half), [only]) => half.try_write(only),
            (Self::Tcp(half), many) => half.try_write_vectored(many),
            (Self::Layered(half), slices) => half.0.try_write(slices),
            (Self::Pipe(half), slices) => half.try_write(slices),
        }
    }

    /// Ready when writing is worth a try again, if only to learn that the peer is gone.
    pub(super) fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(half) => half.as_ref().poll_write_ready(context),
            Self::Layered(half) => half.0.poll_writable(context),
            Self::Pipe(half) => half.poll_writable(context),
        }
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        poll_fn(|context| self.poll_writable(context)).await
    }

    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(&[IoSlice::new(bytes)]) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Tells the peer that nothing more follows; whether it could still be told.
    pub(super) fn finish(&self) -> bool {
        match self {
            Self::Tcp(half) => SockRef::from(half.as_ref()).shutdown(Shutdown::Write).is_ok(),
            Self::Layered(half) => half.0.finish(),
            Self::Pipe(half) => half.finish(),
        }
    }

    /// Closes with RST in place of FIN: the peer learns that what it had from us may not be all.
    pub(super) fn reset(self) {
        match self {
            Self::Tcp(half) => {
                // Without it the peer sees FIN, which is the next best.
                let _ = SockRef::from(half.as_ref()).set_linger(Some(Duration::ZERO));
                // Dropping the half would say FIN first.
                half.forget();
            }
            Self::Layered(half) => half.0.reset(),
            Self::Pipe(half) => half.reset(),
        }
    }
}

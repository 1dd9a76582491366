//! What carries the bytes of one connection.

use std::{
    future::poll_fn,
    io::{self, IoSlice, IoSliceMut},
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use super::pipe;

/// How long a peer may take to notice that we closed.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// A connection to a peer, in both directions.
pub(super) enum Transport {
    Tcp(TcpStream),
    /// In memory.
    #[cfg(test)]
    Pipe(pipe::Pipe),
}

/// What a peer sends.
pub(super) enum ReadHalf {
    Tcp(OwnedReadHalf),
    Pipe(pipe::Incoming),
}

/// What a peer is sent. Dropping both halves closes the connection.
pub(super) enum WriteHalf {
    Tcp(OwnedWriteHalf),
    Pipe(pipe::Outgoing),
}

impl From<TcpStream> for Transport {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl Transport {
    /// As recordings and operators are told.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            #[cfg(test)]
            Self::Pipe(_) => "pipe",
        }
    }

    pub(super) fn split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            #[cfg(test)]
            Self::Pipe(pipe) => {
                let (read, write) = pipe.split();
                (ReadHalf::Pipe(read), WriteHalf::Pipe(write))
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
            (Self::Pipe(half), slices) => half.try_write(slices),
        }
    }

    /// Ready when writing is worth a try again, if only to learn that the peer is gone.
    pub(super) fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(half) => half.as_ref().poll_write_ready(context),
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
            Self::Pipe(half) => half.reset(),
        }
    }
}

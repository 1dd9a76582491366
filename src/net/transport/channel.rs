//! The bytes of a TCP connection, in TLS or as they are: non-blocking in both directions.

use std::io::{self, Read, Write};

use rustls::{Connection, Error};
use tokio::net::TcpStream;

use super::super::tls::explain;

/// Ciphertext read at once; a read of TLS goes through the stack.
const READ_BYTES: usize = 16 << 10;

/// The longest record's plaintext: what a read of ciphertext may complete beyond itself.
const RECORD_BYTES: usize = 17 << 10;

/// Plaintext that waits for the kernel as ciphertext, at most.
const WRITE_BYTES: usize = 64 << 10;

/// Reads that bring nothing but words of TLS itself before others get their turn.
const TURN_READS: usize = 8;

/// What lies on a TCP connection.
pub(in crate::net) enum Channel {
    Plain,
    Tls(Box<Tls>),
}

pub(in crate::net) struct Tls {
    connection: Connection,
    /// What went wrong behind bytes that were passed on.
    failed: Option<io::Error>,
}

impl Channel {
    pub(super) fn tls(mut connection: Connection) -> Self {
        connection.set_buffer_limit(Some(WRITE_BYTES));
        Self::Tls(Box::new(Tls { connection, failed: None }))
    }

    /// Reads what is there; 0 at the end, `None` when others are to have their turn first.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is, `InvalidData` for what is no TLS.
    pub(super) fn try_read(&mut self, tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let tls = match self {
            Self::Plain => return tcp.try_read(buffer).map(Some),
            Self::Tls(tls) => tls,
        };
        if let Some(failed) = tls.failed.take() {
            return Err(failed);
        }
        for _ in 0..TURN_READS {
            match tls.connection.reader().read(buffer) {
                // Who leaves without a word in TLS has closed the TCP connection all the same: packets say
                // where they end.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Some(0)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result.map(Some),
            }
            let mut filled = 0;
            let received = match buffer.len().checked_sub(RECORD_BYTES) {
                None | Some(0) => receive(&mut tls.connection, tcp),
                Some(room) => {
                    receive_much(&mut tls.connection, tcp, buffer, room.min(READ_BYTES), &mut filled)
                }
            };
            match received {
                Ok(()) if filled == 0 => {}
                Ok(()) => return Ok(Some(filled)),
                Err(error) => {
                    // What came before the mistake counts.
                    if filled == 0 && error.kind() == io::ErrorKind::InvalidData {
                        filled = tls.connection.reader().read(buffer).unwrap_or(0);
                    }
                    if filled == 0 {
                        return Err(error);
                    }
                    tls.failed = Some(error);
                    return Ok(Some(filled));
                }
            }
        }
        Ok(None)
    }

    /// Takes bytes; those of TLS may wait for [`flush`](Self::flush).
    ///
    /// # Errors
    /// `WouldBlock` when none are taken.
    pub(super) fn try_write(&mut self, tcp: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain => tcp.try_write(bytes),
            Self::Tls(tls) => {
                let count = tls.connection.writer().write(bytes)?;
                match flush(&mut tls.connection, tcp) {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
                    _ if count == 0 && !bytes.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
                    _ => Ok(count),
                }
            }
        }
    }

    /// # Errors
    /// `WouldBlock` when something still waits for the kernel.
    pub(super) fn flush(&mut self, tcp: &TcpStream) -> io::Result<()> {
        match self {
            Self::Plain => Ok(()),
            Self::Tls(tls) => flush(&mut tls.connection, tcp),
        }
    }

    /// Whether there is something to flush.
    pub(super) fn has_unwritten(&self) -> bool {
        match self {
            Self::Plain => false,
            Self::Tls(tls) => tls.connection.wants_write(),
        }
    }

    /// Tells the peer that nothing more follows, which is to be flushed.
    pub(super) fn finish(&mut self) {
        if let Self::Tls(tls) = self {
            tls.connection.send_close_notify();
        }
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

/// Reads some ciphertext.
fn receive(tls: &mut Connection, tcp: &TcpStream) -> io::Result<()> {
    tls.read_tls(&mut Tcp(tcp))?;
    take(tls, tcp)
}

/// Reads up to `count` bytes of ciphertext, and what they say into `buffer`, which has room for it; `filled` of it.
fn receive_much(
    tls: &mut Connection,
    tcp: &TcpStream,
    buffer: &mut [u8],
    count: usize,
    filled: &mut usize,
) -> io::Result<()> {
    let mut ciphertext = [0; READ_BYTES];
    let count = tcp.try_read(&mut ciphertext[..count])?;
    let mut rest = &ciphertext[..count];
    loop {
        // With nothing to read, it learns of the end. Behind the peer's own end, it takes nothing any more.
        let taken = tls.read_tls(&mut rest)?;
        take(tls, tcp)?;
        match tls.reader().read(&mut buffer[*filled..]) {
            Ok(count) => *filled += count,
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::UnexpectedEof) => {}
            Err(error) => return Err(error),
        }
        if rest.is_empty() || taken == 0 {
            return Ok(());
        }
    }
}

/// Has TLS make something of what was read, and answers if it has to.
fn take(tls: &mut Connection, tcp: &TcpStream) -> io::Result<()> {
    let processed = tls.process_new_packets();
    if tls.wants_write() {
        match flush(tls, tcp) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
    }
    processed.map(drop).map_err(|error| invalid(&error))
}

pub(super) fn invalid(error: &Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, explain(error))
}

fn flush(tls: &mut Connection, tcp: &TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        if tls.write_tls(&mut Tcp(tcp))? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

/// A non-blocking socket as `std` sees one.
pub(super) struct Tcp<'a>(pub &'a TcpStream);

impl Read for Tcp<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Tcp<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

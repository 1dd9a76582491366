//! A live client's socket.

use std::{
    collections::VecDeque,
    io,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::TcpStream,
    time::timeout,
};

use super::Stage;
use crate::{
    net::replay::lateness::Cause,
    packet::{ControlPacket, DecodeError, EncodeError, Frame, FrameReader, ProtocolVersion},
};

/// What a live client may send at most.
const PACKET_SIZE_MAX: usize = 16 << 20;
/// Bytes of packets that are not whole yet, of all clients together.
const INCOMING_MAX: usize = 256 << 20;
/// Below this, they are not counted.
const INCOMING_LEAST: usize = 64 << 10;
/// Bytes read before others get their turn.
const TURN_BYTES: usize = 64 << 10;
/// Bytes that wait for a client before nothing more is said to it, and nothing heard.
const OUT_BYTES: usize = 1 << 20;
/// How long a client may take to hear that it is to go, and to go.
const CLOSING_WAIT: Duration = Duration::from_secs(1);

/// What comes from a client, and waits to go to it.
pub struct Wire<'a> {
    stage: &'a Stage,
    stream: TcpStream,
    frames: FrameReader,
    protocol: ProtocolVersion,
    has_ended: bool,
    /// Bytes of `frames` that are counted.
    counted: usize,
    out: BytesMut,
    /// Of the packet that was put last.
    last_len: usize,
    /// Bytes ever put into, and taken out of, `out`.
    offset: u64,
    written: u64,
    /// Messages that wait in `out`, by the offset of their end.
    marks: VecDeque<(u64, Mark)>,
}

struct Mark {
    deadline: Option<Instant>,
    cause: Cause,
}

impl<'a> Wire<'a> {
    pub fn new(stage: &'a Stage, stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        Self {
            stage,
            stream,
            frames: FrameReader::new(PACKET_SIZE_MAX),
            protocol: ProtocolVersion::V311,
            has_ended: false,
            counted: 0,
            out: BytesMut::new(),
            last_len: 0,
            offset: 0,
            written: 0,
            marks: VecDeque::new(),
        }
    }

    pub fn protocol(&self) -> ProtocolVersion {
        self.protocol
    }

    /// The next whole packet that has been read.
    ///
    /// # Errors
    /// [`DecodeError`] for what is none; [`rest`](Self::rest) are its bytes.
    pub fn next(&mut self) -> Result<Option<Frame>, DecodeError> {
        let frame = self.frames.next_frame()?;
        if let Some(Frame { packet: ControlPacket::Connect(connect), .. }) = &frame {
            self.protocol = connect.protocol;
        }
        Ok(frame)
    }

    /// Bytes that are no packet.
    pub fn rest(&mut self) -> Bytes {
        self.frames.take_rest()
    }

    /// Whether the client has closed its half, and nothing more comes.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Whether the client takes what it is told fast enough.
    pub fn has_room(&self) -> bool {
        self.out.len() < OUT_BYTES
    }

    /// Has `packet` wait to be written.
    ///
    /// # Errors
    /// [`EncodeError`], and nothing waits.
    pub fn put(&mut self, packet: &ControlPacket) -> Result<(), EncodeError> {
        let before = self.out.len();
        if let Err(error) = packet.encode(self.protocol, &mut self.out) {
            self.out.truncate(before);
            return Err(error);
        }
        self.last_len = self.out.len() - before;
        self.offset += self.last_len as u64;
        Ok(())
    }

    /// Bytes of the packet that was put last.
    pub fn last_put(&self) -> Bytes {
        Bytes::copy_from_slice(&self.out[self.out.len() - self.last_len..])
    }

    /// What was put last is a message: how late it leaves is measured.
    pub fn mark(&mut self, deadline: Option<Instant>, cause: Cause) {
        self.marks.push_back((self.offset, Mark { deadline, cause }));
    }

    /// Writes what the kernel takes.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.stream.try_write(&self.out) {
                Ok(count) => {
                    let _ = self.out.split_to(count);
                    self.written += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        // One long message must not keep its memory for good.
        if self.out.is_empty() && self.out.capacity() > OUT_BYTES {
            self.out = BytesMut::new();
        }
        self.tell_written();
        Ok(())
    }

    /// Waits until something has come, if it `wants_more`, or some of what waits has left.
    ///
    /// # Errors
    /// When the connection is gone, or more has come than is held.
    pub async fn moved(&mut self, wants_more: bool) -> io::Result<()> {
        let interest = match (wants_more && !self.has_ended, !self.out.is_empty()) {
            (true, true) => Interest::READABLE | Interest::WRITABLE,
            (true, false) => Interest::READABLE,
            (false, true) => Interest::WRITABLE,
            (false, false) => return std::future::pending().await,
        };
        let ready = self.stream.ready(interest).await?;
        if ready.is_readable() && wants_more {
            self.read()?;
        }
        if ready.is_writable() {
            self.flush()?;
        }
        Ok(())
    }

    /// Ends the connection: what waits is written first, and the client may read it before it is gone.
    pub async fn close(mut self, is_reset: bool) {
        let written = timeout(CLOSING_WAIT, async {
            let Self { stream, out, .. } = &mut self;
            stream.write_all(out).await
        });
        if !matches!(written.await, Ok(Ok(()))) {
            return;
        }
        if is_reset {
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
            return;
        }
        // What comes meanwhile is of no interest, but unread it would make a reset of the end.
        let _ = timeout(CLOSING_WAIT, async {
            self.stream.shutdown().await?;
            let mut rest = [0; 4096];
            while self.stream.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        })
        .await;
    }

    /// Reads what has come.
    ///
    /// # Errors
    /// As [`moved`](Self::moved).
    pub fn read(&mut self) -> io::Result<()> {
        let mut left = TURN_BYTES;
        while left > 0 {
            self.frames.buffer().reserve(8 << 10);
            match self.stream.try_read_buf(self.frames.buffer()) {
                Ok(0) => {
                    self.has_ended = true;
                    break;
                }
                Ok(count) => left = left.saturating_sub(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let len = self.frames.buffer().len();
        if len < INCOMING_LEAST && self.counted == 0 {
            return Ok(());
        }
        let all = self.stage.count_incoming(self.counted, len);
        self.counted = len;
        if all > INCOMING_MAX { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(()) }
    }

    fn tell_written(&mut self) {
        if self.marks.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut figures = self.stage.figures();
        while let Some((end, Mark { deadline, cause })) = self.marks.front()
            && *end <= self.written
        {
            figures.left(now, *deadline, *cause);
            self.marks.pop_front();
        }
        for (_, mark) in &mut self.marks {
            mark.cause = Cause::Socket;
        }
    }
}

impl Drop for Wire<'_> {
    fn drop(&mut self) {
        self.stage.count_incoming(self.counted, 0);
    }
}

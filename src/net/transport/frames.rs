//! WebSocket frames (RFC 6455) around a stream of bytes, which MQTT is [section 6 of MQTT].
//!
//! Written here because nothing is to be gathered: what arrives of a frame is passed on at once, in the buffer it was
//! read into, so that neither a long frame nor an idle connection holds memory.

use smallvec::SmallVec;

/// The longest frame header: two bytes, a length of eight, a mask.
const HEAD_MAX: usize = 14;

/// The longest payload of a control frame [section 5.5].
const CONTROL_MAX: usize = 125;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// Which end of the connection we are: clients mask what they send [section 5.1].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) enum Role {
    Server,
    Client,
}

/// Why a WebSocket connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a WebSocket frame that breaks RFC 6455: {0}")]
    Protocol(&'static str),
    /// [MQTT-6.0.0-1]
    #[error("a WebSocket text frame: MQTT is sent in binary ones")]
    Text,
    #[error("a WebSocket frame of {size} bytes exceeds the limit of {limit}")]
    TooLong { size: u64, limit: u64 },
}

impl FrameError {
    /// The status code of the Close frame that says so [section 7.4.1].
    pub(super) fn status(self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::Text => 1003,
            Self::TooLong { .. } => 1009,
        }
    }
}

/// A connection's frames in both directions.
pub(super) struct Frames {
    role: Role,
    frame_max: u64,
    head: [u8; HEAD_MAX],
    head_len: u8,
    opcode: u8,
    is_last: bool,
    /// Between the first and the last frame of a message.
    in_message: bool,
    /// Whether `remaining` bytes of payload are to come; else a header is.
    in_payload: bool,
    remaining: u64,
    mask: [u8; 4],
    /// How much of the payload has come, as far as the mask cares.
    mask_at: u8,
    control: Vec<u8>,
    has_ended: bool,
    has_closed: bool,
    /// What went wrong behind bytes that were passed on.
    failed: Option<FrameError>,
}

impl Frames {
    pub(super) fn new(role: Role, frame_max: u64) -> Self {
        Self {
            role,
            frame_max,
            head: [0; HEAD_MAX],
            head_len: 0,
            opcode: 0,
            is_last: true,
            in_message: false,
            in_payload: false,
            remaining: 0,
            mask: [0; 4],
            mask_at: 0,
            control: Vec::new(),
            has_ended: false,
            has_closed: false,
            failed: None,
        }
    }

    /// Whether the peer has sent a Close frame: nothing behind it counts.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// What [`receive`](Self::receive) came across, if it has not told so yet.
    pub(super) fn take_failed(&mut self) -> Option<FrameError> {
        self.failed.take()
    }

    /// Takes what was read off the wire and leaves the bytes of MQTT at the front of `buffer`; how many those are.
    /// What is to be answered goes to `out`.
    ///
    /// # Errors
    /// What breaks the rules, unless there are bytes before it: then it is told the next time.
    pub(super) fn receive(
        &mut self,
        buffer: &mut [u8],
        masks: &mut dyn FnMut() -> [u8; 4],
        out: &mut Vec<u8>,
    ) -> Result<usize, FrameError> {
        let mut filled = 0;
        match self.take(buffer, &mut filled, masks, out) {
            Err(error) if filled > 0 => {
                self.failed = Some(error);
                Ok(filled)
            }
            result => result.map(|()| filled),
        }
    }

    fn take(
        &mut self,
        buffer: &mut [u8],
        filled: &mut usize,
        masks: &mut dyn FnMut() -> [u8; 4],
        out: &mut Vec<u8>,
    ) -> Result<(), FrameError> {
        let mut read = 0;
        while read < buffer.len() && !self.has_ended {
            if !self.in_payload {
                self.head[usize::from(self.head_len)] = buffer[read];
                self.head_len += 1;
                read += 1;
                if self.head_is_whole()? {
                    self.begin()?;
                }
            }
            if !self.in_payload {
                continue;
            }
            let count = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len() - read);
            let payload = read..read + count;
            self.unmask(&mut buffer[payload.clone()]);
            if self.opcode >= CLOSE {
                self.control.extend_from_slice(&buffer[payload]);
            } else {
                buffer.copy_within(payload, *filled);
                *filled += count;
            }
            read += count;
            self.remaining -= count as u64;
            if self.remaining == 0 {
                self.end(masks, out);
            }
        }
        Ok(())
    }

    /// Whether all of a header is there.
    fn head_is_whole(&self) -> Result<bool, FrameError> {
        if self.head_len < 2 {
            return Ok(false);
        }
        let is_masked = self.head[1] & MASKED != 0;
        if is_masked != (self.role == Role::Server) {
            return Err(FrameError::Protocol(match self.role {
                Role::Server => "a client's frame without a mask",
                Role::Client => "a server's frame with a mask",
            }));
        }
        let length = match self.head[1] & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if is_masked { 4 } else { 0 };
        Ok(usize::from(self.head_len) == 2 + length + mask)
    }

    /// Reads the header that is whole.
    fn begin(&mut self) -> Result<(), FrameError> {
        let head = &self.head[..usize::from(self.head_len)];
        let (flags, short) = (head[0], head[1] & !MASKED);
        let (size, rest) = match short {
            126 => (u64::from(u16::from_be_bytes([head[2], head[3]])), &head[4..]),
            127 => {
                let size: [u8; 8] = head[2..10].try_into().expect("the header is whole");
                (u64::from_be_bytes(size), &head[10..])
            }
            short => (u64::from(short), &head[2..]),
        };
        let least = match short {
            126 => 126,
            127 => 1 << 16,
            _ => 0,
        };
        if flags & 0x70 != 0 {
            return Err(FrameError::Protocol("a reserved bit is set"));
        }
        if size < least || size > i64::MAX as u64 {
            return Err(FrameError::Protocol("a length that is not spelled as short as it can be"));
        }
        let (opcode, is_last) = (flags & 0xF, flags & FIN != 0);
        match opcode {
            CONTINUATION if !self.in_message => {
                return Err(FrameError::Protocol("a continuation of nothing"));
            }
            TEXT => return Err(FrameError::Text),
            BINARY if self.in_message => {
                return Err(FrameError::Protocol("a message within a message"));
            }
            CONTINUATION | BINARY => self.in_message = !is_last,
            CLOSE | PING | PONG if !is_last || size > CONTROL_MAX as u64 => {
                return Err(FrameError::Protocol("a control frame that is long or in parts"));
            }
            CLOSE | PING | PONG => {}
            _ => return Err(FrameError::Protocol("a reserved opcode")),
        }
        if size > self.frame_max {
            return Err(FrameError::TooLong { size, limit: self.frame_max });
        }
        if let Ok(mask) = rest.try_into() {
            self.mask = mask;
        }
        (self.opcode, self.is_last, self.remaining) = (opcode, is_last, size);
        (self.mask_at, self.head_len, self.in_payload) = (0, 0, true);
        self.control.clear();
        Ok(())
    }

    fn unmask(&mut self, bytes: &mut [u8]) {
        if self.role == Role::Server {
            mask(bytes, self.mask, self.mask_at);
            self.mask_at = ((usize::from(self.mask_at) + bytes.len()) % 4) as u8;
        }
    }

    /// The frame is whole.
    fn end(&mut self, masks: &mut dyn FnMut() -> [u8; 4], out: &mut Vec<u8>) {
        self.in_payload = false;
        let control = std::mem::take(&mut self.control);
        match self.opcode {
            PING => self.send(PONG, &control, masks, out),
            CLOSE => {
                self.has_ended = true;
                // The same status back [section 5.5.1].
                let status = &control[..control.len().min(2)];
                self.close(status, masks, out);
            }
            _ => {}
        }
    }

    /// A frame with bytes of MQTT; how many they are. Without any there is none.
    pub(super) fn data<'a>(
        &self,
        parts: impl Iterator<Item = &'a [u8]>,
        masks: &mut dyn FnMut() -> [u8; 4],
        out: &mut Vec<u8>,
    ) -> usize {
        let parts: SmallVec<[&[u8]; 64]> = parts.collect();
        let len = parts.iter().map(|part| part.len()).sum();
        if len == 0 {
            return 0;
        }
        out.reserve(HEAD_MAX + len);
        let key = self.head(BINARY, len, masks, out);
        let start = out.len();
        for part in parts {
            out.extend_from_slice(part);
        }
        if let Some(key) = key {
            mask(&mut out[start..], key, 0);
        }
        len
    }

    /// A Close frame that says `status`, unless one was sent.
    pub(super) fn close_with(&mut self, status: u16, masks: &mut dyn FnMut() -> [u8; 4], out: &mut Vec<u8>) {
        self.close(&status.to_be_bytes(), masks, out);
    }

    fn close(&mut self, payload: &[u8], masks: &mut dyn FnMut() -> [u8; 4], out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.has_closed, true) {
            self.send(CLOSE, payload, masks, out);
        }
    }

    fn send(&self, opcode: u8, payload: &[u8], masks: &mut dyn FnMut() -> [u8; 4], out: &mut Vec<u8>) {
        let key = self.head(opcode, payload.len(), masks, out);
        let start = out.len();
        out.extend_from_slice(payload);
        if let Some(key) = key {
            mask(&mut out[start..], key, 0);
        }
    }

    /// Writes a header; the mask of what follows.
    fn head(
        &self,
        opcode: u8,
        len: usize,
        masks: &mut dyn FnMut() -> [u8; 4],
        out: &mut Vec<u8>,
    ) -> Option<[u8; 4]> {
        let key = (self.role == Role::Client).then(masks);
        let masked = if key.is_some() { MASKED } else { 0 };
        out.push(FIN | opcode);
        match len {
            0..126 => out.push(masked | len as u8),
            126..0x1_0000 => {
                out.push(masked | 126);
                out.extend_from_slice(&(len as u16).to_be_bytes());
            }
            _ => {
                out.push(masked | 127);
                out.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        out.extend(key.into_iter().flatten());
        key
    }
}

/// Masks or unmasks bytes, the first of which is the `at`th of its frame.
fn mask(bytes: &mut [u8], key: [u8; 4], at: u8) {
    let mut turned = key;
    turned.rotate_left(usize::from(at));
    let wide = u64::from_ne_bytes([turned, turned].concat().try_into().expect("twice four bytes"));
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let word = u64::from_ne_bytes((&*chunk).try_into().expect("eight bytes")) ^ wide;
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    for (position, byte) in chunks.into_remainder().iter_mut().enumerate() {
        *byte ^= turned[position % 4];
    }
}

/// What `wire`, read in pieces of `step` bytes, comes to: the bytes of MQTT, what is answered, and why it ended.
#[cfg(any(test, fuzzing))]
pub fn receive_pieces(
    wire: &[u8],
    step: usize,
    is_server: bool,
    frame_max: u64,
) -> (Vec<u8>, Vec<u8>, Option<FrameError>) {
    let mut frames = Frames::new(if is_server { Role::Server } else { Role::Client }, frame_max);
    let (mut data, mut out) = (Vec::new(), Vec::new());
    for piece in wire.chunks(step.max(1)) {
        let mut buffer = piece.to_vec();
        match frames.receive(&mut buffer, &mut || [1, 2, 3, 4], &mut out) {
            Ok(filled) => data.extend_from_slice(&buffer[..filled]),
            Err(error) => return (data, out, Some(error)),
        }
        if let Some(error) = frames.take_failed() {
            return (data, out, Some(error));
        }
    }
    (data, out, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks() -> impl FnMut() -> [u8; 4] {
        let mut next = 1;
        move || {
            next += 7;
            [next, 0xF0, next ^ 0x55, 3]
        }
    }

    /// What a peer in the other role makes of `wire`, read in pieces of `piece` bytes, and what it answers.
    fn receive(role: Role, wire: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<u8>, bool), FrameError> {
        let mut frames = Frames::new(role, 1 << 20);
        let (mut bytes, mut out) = (Vec::new(), Vec::new());
        for part in wire.chunks(piece) {
            let mut buffer = part.to_vec();
            let filled = frames.receive(&mut buffer, &mut masks(), &mut out)?;
            bytes.extend_from_slice(&buffer[..filled]);
            frames.take_failed().map_or(Ok(()), Err)?;
        }
        Ok((bytes, out, frames.has_ended()))
    }

    #[test]
    fn what_one_end_sends_the_other_receives_however_it_is_cut() {
        for (from, to) in [(Role::Client, Role::Server), (Role::Server, Role::Client)] {
            let sender = Frames::new(from, 0);
            let (mut wire, mut sent, mut masks) = (Vec::new(), Vec::new(), masks());
            for len in [0, 1, 5, 125, 126, 127, 300, 65_535, 65_536, 70_001] {
                let message: Vec<u8> = (0..len).map(|byte| (byte * 31 % 251) as u8).collect();
                let (one, other) = message.split_at(message.len() / 3);
                assert_eq!(sender.data([one, other].into_iter(), &mut masks, &mut wire), len);
                sent.extend_from_slice(&message);
            }
            for piece in [1, 2, 3, 7, 13, 1000, 1 << 20] {
                let (received, answers, _) = receive(to, &wire, piece).expect("frames");
                assert!(received == sent, "in pieces of {piece}");
                assert!(answers.is_empty());
            }
        }
    }

    #[test]
    fn a_ping_between_the_parts_of_a_message_is_answered() {
        let wire = [0x02, 0x01, b'a', 0x89, 0x02, b'h', b'i', 0x80, 0x01, b'b'];
        for piece in 1..=wire.len() {
            let (bytes, answers, has_ended) = receive(Role::Client, &wire, piece).expect("frames");
            assert_eq!((bytes.as_slice(), has_ended), (&b"ab"[..], false));
            assert_eq!(answers[..2], [0x8A, 0x82], "a pong of two bytes");
        }
    }

    #[test]
    fn close_is_answered_once_and_nothing_behind_it_counts() {
        let wire = [0x88, 0x02, 0x03, 0xE8, 0x82, 0x01, b'x', 0x88, 0x00];
        let (bytes, answers, has_ended) = receive(Role::Client, &wire, 4).expect("frames");
        assert_eq!((bytes.as_slice(), answers.len(), has_ended), (&b""[..], 8, true));
    }

    #[test]
    fn what_breaks_the_rules_is_named() {
        let error = |role, wire: &[u8]| receive(role, wire, 1).expect_err("refused");
        let of_client = |wire| error(Role::Client, wire);
        assert_eq!(error(Role::Server, &[0x82, 0x01, b'x']).status(), 1002);
        assert_eq!(of_client(&[0x82, 0x81, 0, 0, 0, 0, b'x']).status(), 1002);
        assert_eq!(of_client(&[0x81, 0x01, b'x']), FrameError::Text);
        assert_eq!(of_client(&[0x80, 0x01]), FrameError::Protocol("a continuation of nothing"));
        assert_eq!(of_client(&[0x02, 0x00, 0x82, 0x00]), FrameError::Protocol("a message within a message"));
        assert_eq!(of_client(&[0xC2, 0x00]), FrameError::Protocol("a reserved bit is set"));
        assert_eq!(of_client(&[0x83, 0x00]), FrameError::Protocol("a reserved opcode"));
        let control = FrameError::Protocol("a control frame that is long or in parts");
        assert_eq!(of_client(&[0x09, 0x00]), control);
        assert_eq!(of_client(&[0x89, 126, 0, 126]), control);
        let length = FrameError::Protocol("a length that is not spelled as short as it can be");
        assert_eq!(of_client(&[0x82, 126, 0, 125]), length);
        assert_eq!(of_client(&[0x82, 127, 0, 0, 0, 0, 0, 0, 255, 255]), length);
        assert_eq!(of_client(&[0x82, 127, 0x80, 0, 0, 0, 0, 1, 0, 0]), length);
        let long = FrameError::TooLong { size: (1 << 20) + 1, limit: 1 << 20 };
        assert_eq!(of_client(&[0x82, 127, 0, 0, 0, 0, 0, 0x10, 0, 1]), long);
        assert_eq!(long.status(), 1009);
    }
}

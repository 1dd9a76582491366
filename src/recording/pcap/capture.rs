//! The files that captures are kept in: pcap of either byte order and resolution, and pcapng.

use std::io::{self, BufRead, Read};

use super::segment::LinkType;
use crate::recording::{FileError, FileErrorKind, FilePlace};

/// No tool captures more of a packet.
const FRAME_MAX: usize = 1 << 20;
/// Of a pcapng block that is kept in memory: a packet, and as much again in options.
const BLOCK_MAX: usize = 2 * FRAME_MAX;
const INTERFACES_MAX: usize = 4096;

const SECTION: u32 = 0x0A0D_0D0A;
const INTERFACE: u32 = 1;
/// An obsolete form of `ENHANCED_PACKET`.
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// Reads frames in the order of the file. Memory does not grow with it.
#[derive(Debug)]
pub struct Capture<R> {
    input: R,
    /// Of the next byte.
    offset: u64,
    is_big_endian: bool,
    format: Format,
    block: Vec<u8>,
    comments: Vec<String>,
}

#[derive(Debug)]
enum Format {
    Pcap { link: u16, nanos_per_tick: u64 },
    Pcapng { interfaces: Vec<Interface> },
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: u16,
    snap_len: usize,
    resolution: u8,
    /// Seconds.
    offset: i64,
}

#[derive(Debug)]
pub struct Frame<'a> {
    /// `None` for a link type that is not read here, whose number is the other one.
    pub link: Option<LinkType>,
    pub link_number: u16,
    /// Nanoseconds since 1970; `None` if the file does not say.
    pub at: Option<i128>,
    pub bytes: &'a [u8],
    pub original_len: usize,
    pub comments: &'a [String],
}

impl<R: BufRead> Capture<R> {
    /// Reads what the file begins with.
    pub fn open(input: R) -> Result<Self, FileError> {
        let format = Format::Pcapng { interfaces: Vec::new() };
        let (block, comments) = (Vec::new(), Vec::new());
        let mut capture = Self { input, offset: 0, is_big_endian: false, format, block, comments };
        let magic = match capture.take::<4>("the magic number") {
            Err(error) if error.kind == FileErrorKind::Truncated => {
                return Err(capture.error(FileErrorKind::Unsupported, 0, "this is no pcap or pcapng file"));
            }
            magic => magic?,
        };
        let little = u32::from_le_bytes(magic);
        if little == SECTION {
            capture.section(0)?;
            return Ok(capture);
        }
        let nanos_per_tick = match (little, u32::from_be_bytes(magic)) {
            (0xA1B2_C3D4, _) | (_, 0xA1B2_C3D4) => 1000,
            (0xA1B2_3C4D, _) | (_, 0xA1B2_3C4D) => 1,
            _ => return Err(capture.error(FileErrorKind::Unsupported, 0, "this is no pcap or pcapng file")),
        };
        capture.is_big_endian = magic[0] == 0xA1;
        let header: [u8; 20] = capture.take("the file's header")?;
        let (major, minor) = (capture.u16(&header, 0), capture.u16(&header, 2));
        if major != 2 {
            let reason =
                format!("version {major}.{minor} of pcap is not supported, this program reads version 2");
            return Err(capture.error(FileErrorKind::Unsupported, 4, reason));
        }
        // The upper half says how long checksums of frames are.
        let link = capture.u32(&header, 16) as u16;
        if LinkType::of(link).is_none() {
            let reason =
                format!("link type {link} is not supported: Ethernet, Linux cooked, loopback and raw IP are");
            return Err(capture.error(FileErrorKind::Unsupported, 20, reason));
        }
        capture.format = Format::Pcap { link, nanos_per_tick };
        Ok(capture)
    }

    /// Bytes read so far: up to there the file is whole.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Comments of the section that the file begins with.
    pub fn comments(&self) -> &[String] {
        &self.comments
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// Where the file ends too early or is not as it has to be. That is the last word.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FileError> {
        if self.input.fill_buf().map_err(FileError::io)?.is_empty() {
            return Ok(None);
        }
        match self.format {
            Format::Pcap { link, nanos_per_tick } => self.record(link, nanos_per_tick).map(Some),
            Format::Pcapng { .. } => self.next_block(),
        }
    }

    fn record(&mut self, link: u16, nanos_per_tick: u64) -> Result<Frame<'_>, FileError> {
        let offset = self.offset;
        let header: [u8; 16] = self.take("a packet's header")?;
        let [seconds, ticks, len, original_len] = [0, 4, 8, 12].map(|at| self.u32(&header, at));
        let len = len as usize;
        if len > FRAME_MAX {
            let reason = format!("a captured packet of {len} bytes; the most there can be is {FRAME_MAX}");
            return Err(self.error(FileErrorKind::Invalid, offset + 8, reason));
        }
        self.read(len, "a packet")?;
        Ok(Frame {
            link: LinkType::of(link),
            link_number: link,
            at: Some(i128::from(seconds) * 1_000_000_000 + i128::from(ticks) * i128::from(nanos_per_tick)),
            bytes: &self.block,
            original_len: (original_len as usize).max(len),
            comments: &[],
        })
    }

    fn next_block(&mut self) -> Result<Option<Frame<'_>>, FileError> {
        loop {
            if self.input.fill_buf().map_err(FileError::io)?.is_empty() {
                return Ok(None);
            }
            let offset = self.offset;
            let kind: [u8; 4] = self.take("a block's type")?;
            let kind = self.u32(&kind, 0);
            match kind {
                SECTION => self.section(offset)?,
                INTERFACE => {
                    self.body(offset)?;
                    let interface = self.interface(offset)?;
                    let Format::Pcapng { interfaces } = &mut self.format else { continue };
                    if interfaces.len() == INTERFACES_MAX {
                        let reason = format!("more than {INTERFACES_MAX} interfaces");
                        return Err(self.error(FileErrorKind::Invalid, offset, reason));
                    }
                    interfaces.push(interface);
                }
                PACKET | SIMPLE_PACKET | ENHANCED_PACKET => {
                    self.body(offset)?;
                    return self.packet(kind, offset).map(Some);
                }
                _ => self.pass(offset)?,
            }
        }
    }

    /// The rest of a section header, behind its type.
    fn section(&mut self, offset: u64) -> Result<(), FileError> {
        let [len, magic]: [[u8; 4]; 2] = [self.take("a section's length")?, self.take("a section's magic")?];
        self.is_big_endian = match magic {
            [0x1A, 0x2B, 0x3C, 0x4D] => true,
            [0x4D, 0x3C, 0x2B, 0x1A] => false,
            _ => {
                let reason = "neither byte order makes sense of this section's magic";
                return Err(self.error(FileErrorKind::Invalid, offset + 8, reason));
            }
        };
        let len = self.block_len(self.u32(&len, 0), offset, 28)?;
        self.read(len - 16, "a section's header")?;
        self.closing(len, offset)?;
        let (major, minor) = (self.u16(&self.block, 0), self.u16(&self.block, 2));
        if major != 1 {
            let reason =
                format!("version {major}.{minor} of pcapng is not supported, this program reads version 1");
            return Err(self.error(FileErrorKind::Unsupported, offset + 12, reason));
        }
        self.options(12, offset + 12, |_, _| {})?;
        // Interfaces are numbered anew in each section.
        self.format = Format::Pcapng { interfaces: Vec::new() };
        Ok(())
    }

    fn interface(&mut self, offset: u64) -> Result<Interface, FileError> {
        const RESOLUTION: u16 = 9;
        const OFFSET: u16 = 14;

        if self.block.len() < 8 {
            return Err(self.error(FileErrorKind::Invalid, offset, "an interface of less than 20 bytes"));
        }
        let (link, snap_len) = (self.u16(&self.block, 0), self.u32(&self.block, 4) as usize);
        let mut interface = Interface { link, snap_len, resolution: 6, offset: 0 };
        let is_big_endian = self.is_big_endian;
        self.options(8, offset + 8, |code, value| match (code, value) {
            (RESOLUTION, [resolution, ..]) => interface.resolution = *resolution,
            (OFFSET, value) => {
                if let Ok(value) = value.try_into() {
                    interface.offset =
                        if is_big_endian { i64::from_be_bytes(value) } else { i64::from_le_bytes(value) };
                }
            }
            _ => {}
        })?;
        Ok(interface)
    }

    /// The frame in the block of `kind` that was read.
    fn packet(&mut self, kind: u32, offset: u64) -> Result<Frame<'_>, FileError> {
        let header_len = if kind == SIMPLE_PACKET { 4 } else { 20 };
        if self.block.len() < header_len {
            return Err(self.error(FileErrorKind::Invalid, offset, "a packet without its whole header"));
        }
        let number = match kind {
            SIMPLE_PACKET => 0,
            PACKET => usize::from(self.u16(&self.block, 0)),
            _ => self.u32(&self.block, 0) as usize,
        };
        let Format::Pcapng { interfaces } = &self.format else { unreachable!("blocks are of pcapng") };
        let Some(interface) = interfaces.get(number).copied() else {
            let reason = format!("interface {number} is not described");
            return Err(self.error(FileErrorKind::Invalid, offset, reason));
        };
        let word = |at| self.u32(&self.block, at);
        let (at, len, original_len) = match kind {
            SIMPLE_PACKET => {
                let original_len = word(0) as usize;
                let snap_len = if interface.snap_len == 0 { usize::MAX } else { interface.snap_len };
                (None, original_len.min(snap_len).min(self.block.len() - header_len), original_len)
            }
            _ => {
                let ticks = u64::from(word(4)) << 32 | u64::from(word(8));
                (Some(interface.nanoseconds(ticks)), word(12) as usize, word(16) as usize)
            }
        };
        if len > FRAME_MAX || self.block.len() - header_len < len {
            let reason = format!("a packet of {len} bytes in a block with {}", self.block.len() - header_len);
            return Err(self.error(FileErrorKind::Invalid, offset, reason));
        }
        self.comments.clear();
        if kind != SIMPLE_PACKET {
            let start = header_len + len.next_multiple_of(4);
            self.options(start, offset + 8, |_, _| {})?;
        }
        Ok(Frame {
            link: LinkType::of(interface.link),
            link_number: interface.link,
            at,
            bytes: &self.block[header_len..header_len + len],
            original_len: original_len.max(len),
            comments: &self.comments,
        })
    }

    /// Goes through the options behind `start` in the block, whose body was at `offset` in the file;
    /// comments are kept.
    fn options(
        &mut self,
        start: usize,
        offset: u64,
        mut see: impl FnMut(u16, &[u8]),
    ) -> Result<(), FileError> {
        const END: u16 = 0;
        const COMMENT: u16 = 1;

        self.comments.clear();
        let mut at = start;
        while at + 4 <= self.block.len() {
            let (code, len) = (self.u16(&self.block, at), usize::from(self.u16(&self.block, at + 2)));
            if code == END {
                break;
            }
            let Some(value) = self.block.get(at + 4..at + 4 + len) else {
                let reason = format!("an option of {len} bytes runs past the end of its block");
                return Err(self.error(FileErrorKind::Invalid, offset + at as u64, reason));
            };
            match code {
                COMMENT => self.comments.push(String::from_utf8_lossy(value).into_owned()),
                _ => see(code, value),
            }
            at += 4 + len.next_multiple_of(4);
        }
        Ok(())
    }

    /// Reads the length, the body and the length again of the block at `offset`.
    fn body(&mut self, offset: u64) -> Result<(), FileError> {
        let len: [u8; 4] = self.take("a block's length")?;
        let len = self.block_len(self.u32(&len, 0), offset, 12)?;
        self.read(len - 12, "a block")?;
        self.closing(len, offset)
    }

    /// Passes a block that means nothing here, however long it is.
    fn pass(&mut self, offset: u64) -> Result<(), FileError> {
        let len: [u8; 4] = self.take("a block's length")?;
        let announced = self.u32(&len, 0);
        if announced < 12 || !announced.is_multiple_of(4) {
            let reason = format!("a block of {announced} bytes");
            return Err(self.error(FileErrorKind::Invalid, offset + 4, reason));
        }
        let body = u64::from(announced - 12);
        let passed = io::copy(&mut (&mut self.input).take(body), &mut io::sink()).map_err(FileError::io)?;
        self.offset += passed;
        if passed < body {
            return Err(self.truncated("a block"));
        }
        self.closing(announced as usize, offset)
    }

    fn block_len(&self, announced: u32, offset: u64, least: usize) -> Result<usize, FileError> {
        let len = announced as usize;
        if len < least || !len.is_multiple_of(4) || len > BLOCK_MAX {
            let reason = format!("a block of {len} bytes; {least} to {BLOCK_MAX}, in fours, are possible");
            return Err(self.error(FileErrorKind::Invalid, offset + 4, reason));
        }
        Ok(len)
    }

    fn closing(&mut self, len: usize, offset: u64) -> Result<(), FileError> {
        let at = self.offset;
        let again: [u8; 4] = self.take("a block's last length")?;
        let again = self.u32(&again, 0) as usize;
        if again != len {
            let reason = format!("the block at byte {offset} is of {len} bytes and says {again} at its end");
            return Err(self.error(FileErrorKind::Invalid, at, reason));
        }
        Ok(())
    }

    fn take<const N: usize>(&mut self, what: &str) -> Result<[u8; N], FileError> {
        self.read_into(N, what, |bytes| bytes.try_into().expect("as many as were asked for"))
    }

    /// Reads `len` bytes into the block. It grows with what is there, not with what was announced.
    fn read(&mut self, len: usize, what: &str) -> Result<(), FileError> {
        self.block.clear();
        let read = (&mut self.input).take(len as u64).read_to_end(&mut self.block);
        self.offset += self.block.len() as u64;
        match read.map_err(FileError::io)? {
            read if read < len => Err(self.truncated(what)),
            _ => Ok(()),
        }
    }

    fn read_into<T>(
        &mut self,
        len: usize,
        what: &str,
        make: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, FileError> {
        let mut bytes = [0; 32];
        let mut filled = 0;
        while filled < len {
            match self.input.read(&mut bytes[filled..len]) {
                Ok(0) => return Err(self.truncated(what)),
                Ok(read) => {
                    filled += read;
                    self.offset += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(FileError::io(error)),
            }
        }
        Ok(make(&bytes[..len]))
    }

    fn u16(&self, bytes: &[u8], at: usize) -> u16 {
        let word = [bytes[at], bytes[at + 1]];
        if self.is_big_endian { u16::from_be_bytes(word) } else { u16::from_le_bytes(word) }
    }

    fn u32(&self, bytes: &[u8], at: usize) -> u32 {
        let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        if self.is_big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
    }

    fn truncated(&self, what: &str) -> FileError {
        self.error(FileErrorKind::Truncated, self.offset, format!("the file ends in {what}"))
    }

    fn error(&self, kind: FileErrorKind, offset: u64, reason: impl Into<String>) -> FileError {
        FileError { kind, place: FilePlace::Byte(offset), path: String::new(), reason: reason.into() }
    }
}

impl Interface {
    /// Since 1970.
    fn nanoseconds(&self, ticks: u64) -> i128 {
        const NANOS: u128 = 1_000_000_000;
        let exponent = u32::from(self.resolution & 0x7F);
        let ticks = u128::from(ticks);
        let nanos = match self.resolution & 0x80 {
            // Powers of ten; what does not fit is less than a nanosecond in all of 64 bits.
            0 => 10_u128.checked_pow(exponent).map_or(0, |resolution| ticks * NANOS / resolution),
            _ => (ticks * NANOS).checked_shr(exponent).unwrap_or(0),
        };
        // 2^64 * 10^9 is less than 2^94.
        nanos as i128 + i128::from(self.offset) * NANOS as i128
    }
}

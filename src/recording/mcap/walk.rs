//! Going through an MCAP file from its start, record by record, inside chunks too.
//!
//! The file is read forwards once, everything in it that has a checksum is checked on the way, and
//! nothing is held in memory but one short record. A length that a record only announces allocates
//! nothing.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use lz4_flex::frame::FrameDecoder;

use super::{
    LZ4, MAGIC,
    record::{BadContent, FOOTER_LEN, Fields, MESSAGE_HEADER_LEN, Opcode, PREFIX_LEN},
};
use crate::recording::{FileError, FileErrorKind, FilePlace};

/// Of records that are held in memory: heads, channels, statistics.
const CONTENT_LEN_MAX: u64 = 1 << 20;
/// How much of a schema's record is looked at: its name is in the beginning.
const SCHEMA_LOOKED_AT: u64 = 64 << 10;
/// Of a chunk's times, length and checksum, and of how long the next name is.
const CHUNK_NUMBERS_LEN: u64 = 8 + 8 + 8 + 4 + 4;
/// Of the name that a chunk gives its compression.
const COMPRESSION_LEN_MAX: u64 = 32;
const READ_LEN: usize = 256 << 10;

/// What there is at a place of the file.
#[derive(Debug)]
pub enum Found {
    Metadata {
        name: String,
        members: Vec<(String, String)>,
    },
    Schema {
        id: u16,
        name: String,
    },
    Channel {
        id: u16,
        schema: u16,
        topic: String,
        encoding: String,
    },
    /// Its data is taken by [`Walk::message`], or else skipped.
    Message {
        channel: u16,
    },
    Attachment,
    /// What the file says of its messages.
    Statistics {
        messages: u64,
    },
}

/// Goes through a file.
pub struct Walk<R: Read> {
    source: Source<R>,
    file_len: u64,
    section: Section,
    chunk: Option<Chunk>,
    /// Where the record that is looked at begins, or the chunk it is in.
    record: u64,
    opcode: &'static str,
    /// What is left of the message found last.
    message_len: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Start,
    Data,
    Summary,
    End,
}

/// The chunk that is gone through.
struct Chunk {
    /// Bytes of records to come.
    rest: u64,
    /// Zero if the file does not say.
    crc: u32,
}

/// Where the next record is read from.
enum Source<R: Read> {
    File(Tally<R>),
    Chunk(Box<Tally<Records<R>>>),
    /// Between the two.
    Moved,
}

/// The records of a chunk.
enum Records<R: Read> {
    Plain(io::Take<Tally<R>>),
    Lz4(FrameDecoder<io::Take<Tally<R>>>),
}

/// Counts and sums up what is read from it.
struct Tally<R> {
    inner: R,
    position: u64,
    crc: crc32fast::Hasher,
    /// Whether an error was its own, rather than of what lies above.
    failed: bool,
}

impl<R: Read + Seek> Walk<BufReader<R>> {
    /// Stands at the first record.
    pub fn new(mut input: R) -> Result<Self, FileError> {
        let file_len = input.seek(SeekFrom::End(0)).map_err(FileError::io)?;
        input.rewind().map_err(FileError::io)?;
        let mut walk = Self {
            source: Source::File(Tally::new(BufReader::with_capacity(READ_LEN, input))),
            file_len,
            section: Section::Start,
            chunk: None,
            record: 0,
            opcode: "",
            message_len: 0,
        };
        walk.take_magic()?;
        Ok(walk)
    }
}

impl<R: Read> Walk<R> {
    /// Where the record begins that was found last or is broken, or the chunk that it is in.
    pub fn place(&self) -> u64 {
        self.record
    }

    /// Whether all messages there are were found.
    pub fn is_past_data(&self) -> bool {
        matches!(self.section, Section::Summary | Section::End)
    }

    /// What comes next; `None` at the end of a file that is whole.
    pub fn next(&mut self) -> Result<Option<Found>, FileError> {
        self.skip(self.message_len)?;
        self.message_len = 0;
        loop {
            if self.section == Section::End {
                return Ok(None);
            }
            let found = match self.chunk {
                Some(_) => self.in_chunk()?,
                None => self.in_file()?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// Puts the data of the message found last into `data`.
    ///
    /// # Errors
    /// Before any of it is read when there are more than `len_max` bytes.
    pub fn message(&mut self, len_max: u64, data: &mut Vec<u8>) -> Result<(), FileError> {
        let len = std::mem::take(&mut self.message_len);
        if len > len_max {
            return Err(self.invalid(format!("a message of {len} bytes; there are at most {len_max}")));
        }
        data.clear();
        self.read_into(len, data)
    }

    fn in_file(&mut self) -> Result<Option<Found>, FileError> {
        let crc = self.crc();
        self.record = self.position();
        self.opcode = "";
        let left = self.file_len.saturating_sub(self.record);
        if left < PREFIX_LEN as u64 {
            let reason = "the file ends here, before its end record";
            return Err(self.error(FileErrorKind::Truncated, reason));
        }
        let (byte, len) = self.prefix()?;
        let opcode = Opcode::of(byte);
        self.opcode = opcode.map_or("", Opcode::name);
        if len > left - PREFIX_LEN as u64 {
            let name = opcode.map_or("record", Opcode::name);
            let reason = format!(
                "the file ends in the middle: the {name} that begins here has {len} bytes, the file {}",
                self.file_len
            );
            return Err(self.error(FileErrorKind::Truncated, reason));
        }
        if byte == 0 {
            return Err(self.invalid("no record begins with a zero"));
        }
        let Some(opcode) = opcode else {
            // Of a later version, or private; nobody has to know them.
            return self.skip(len).map(|()| None);
        };
        match (self.section, opcode) {
            (Section::Start, Opcode::Header) => {
                self.skip(len)?;
                self.section = Section::Data;
                Ok(None)
            }
            (Section::Start, _) => Err(self.invalid("a file begins with its header")),
            (Section::Data, Opcode::Chunk) => self.begin_chunk(len).map(|()| None),
            (Section::Data, Opcode::DataEnd) => {
                let content = self.content(len)?;
                let stored = self.parse(Fields(&content).u32("checksum"))?;
                self.check_crc(stored, crc)?;
                self.section = Section::Summary;
                self.reset_crc();
                Ok(None)
            }
            (Section::Data, Opcode::Message) => self.found_message(len).map(Some),
            (Section::Data, Opcode::Attachment) => self.skip(len).map(|()| Some(Found::Attachment)),
            (Section::Data | Section::Summary, Opcode::Schema | Opcode::Channel | Opcode::Metadata) => {
                self.describe(opcode, len).map(Some)
            }
            (Section::Summary, Opcode::Statistics) => {
                let content = self.content(len)?;
                let messages = self.parse(Fields(&content).u64("count"))?;
                Ok(Some(Found::Statistics { messages }))
            }
            (Section::Summary, Opcode::Footer) => self.footer(len).map(|()| None),
            (Section::Data, Opcode::MessageIndex)
            | (
                Section::Summary,
                Opcode::ChunkIndex | Opcode::AttachmentIndex | Opcode::MetadataIndex | Opcode::SummaryOffset,
            ) => self.skip(len).map(|()| None),
            _ => Err(self.invalid("it has no place here")),
        }
    }

    fn in_chunk(&mut self) -> Result<Option<Found>, FileError> {
        let Some(chunk) = &mut self.chunk else { return Ok(None) };
        if chunk.rest == 0 {
            return self.end_chunk().map(|()| None);
        }
        if chunk.rest < PREFIX_LEN as u64 {
            return Err(self.invalid("its last record is cut off"));
        }
        chunk.rest -= PREFIX_LEN as u64;
        let rest = chunk.rest;
        let (byte, len) = self.prefix()?;
        if len > rest {
            return Err(self.invalid(format!("a record in it has {len} bytes, and there are {rest}")));
        }
        if let Some(chunk) = &mut self.chunk {
            chunk.rest = rest - len;
        }
        match Opcode::of(byte) {
            Some(Opcode::Message) => self.found_message(len).map(Some),
            Some(opcode @ (Opcode::Schema | Opcode::Channel)) => self.describe(opcode, len).map(Some),
            Some(other) => Err(self.invalid(format!("no {} has its place in a chunk", other.name()))),
            None if byte == 0 => Err(self.invalid("no record begins with a zero")),
            None => self.skip(len).map(|()| None),
        }
    }

    fn begin_chunk(&mut self, len: u64) -> Result<(), FileError> {
        let mut head = Vec::new();
        self.read_into(len.min(CHUNK_NUMBERS_LEN), &mut head)?;
        let name_len = head.last_chunk().map_or(u64::MAX, |len| u64::from(u32::from_le_bytes(*len)));
        if len < CHUNK_NUMBERS_LEN || name_len > COMPRESSION_LEN_MAX || len - CHUNK_NUMBERS_LEN < name_len + 8
        {
            return Err(self.invalid("it does not say how it is compressed"));
        }
        self.read_into(name_len + 8, &mut head)?;
        let packed_len = len - head.len() as u64;
        let mut fields = Fields(&head);
        let parsed = (|| {
            let (_, _) = (fields.u64("start")?, fields.u64("end")?);
            let (rest, crc) = (fields.u64("length")?, fields.u32("checksum")?);
            Ok((rest, crc, fields.text("compression")?.to_owned(), fields.u64("length")?))
        })();
        let (rest, crc, compression, announced_len) = self.parse(parsed)?;
        if packed_len != announced_len {
            return Err(
                self.invalid(format!("it announces {announced_len} bytes and is not as long as that"))
            );
        }
        if !matches!(compression.as_str(), "" | LZ4) {
            let reason = format!(
                "compression {compression:?} is not supported, this program reads \"lz4\" and \"\"; \
                 tools that write MCAP can write it so"
            );
            return Err(self.error(FileErrorKind::Unsupported, reason));
        }
        let Source::File(file) = std::mem::replace(&mut self.source, Source::Moved) else {
            unreachable!("chunks begin in the file")
        };
        let packed = file.take(announced_len);
        let records = match compression.as_str() {
            LZ4 => Records::Lz4(FrameDecoder::new(packed)),
            _ => Records::Plain(packed),
        };
        self.source = Source::Chunk(Box::new(Tally::new(records)));
        self.chunk = Some(Chunk { rest, crc });
        Ok(())
    }

    fn end_chunk(&mut self) -> Result<(), FileError> {
        let crc = self.crc();
        let mut more = [0];
        // As a decoder sees it: the end of the frame is checked, too.
        if self.read(&mut more)? != 0 {
            return Err(self.invalid("there is more in it than it announces"));
        }
        let chunk = self.chunk.take().expect("only called in one");
        self.check_crc(chunk.crc, crc)?;
        let Source::Chunk(records) = std::mem::replace(&mut self.source, Source::Moved) else {
            unreachable!("a chunk is gone through")
        };
        let mut packed = match records.inner {
            Records::Plain(packed) => packed,
            Records::Lz4(decoder) => decoder.into_inner(),
        };
        let drained = io::copy(&mut packed, &mut io::sink());
        self.source = Source::File(packed.into_inner());
        match drained.map_err(|error| self.failed(&error))? {
            0 => Ok(()),
            rest => Err(self.invalid(format!("{rest} bytes stand behind what is compressed in it"))),
        }
    }

    fn found_message(&mut self, len: u64) -> Result<Found, FileError> {
        let Some(data_len) = len.checked_sub(MESSAGE_HEADER_LEN as u64) else {
            return Err(self.invalid("a message is shorter than its header"));
        };
        let mut header = Vec::new();
        self.read_into(MESSAGE_HEADER_LEN as u64, &mut header)?;
        let channel = self.parse(Fields(&header).u16("channel"))?;
        self.message_len = data_len;
        Ok(Found::Message { channel })
    }

    /// A record that says something about others.
    fn describe(&mut self, opcode: Opcode, len: u64) -> Result<Found, FileError> {
        if opcode == Opcode::Schema {
            let looked_at = len.min(SCHEMA_LOOKED_AT);
            let content = self.content(looked_at)?;
            self.skip(len - looked_at)?;
            let mut fields = Fields(&content);
            let parsed =
                (|| Ok(Found::Schema { id: fields.u16("id")?, name: fields.text("name")?.to_owned() }))();
            return self.parse(parsed);
        }
        let content = self.content(len)?;
        let mut fields = Fields(&content);
        let parsed = (|| {
            if opcode == Opcode::Channel {
                return Ok(Found::Channel {
                    id: fields.u16("id")?,
                    schema: fields.u16("schema")?,
                    topic: fields.text("topic")?.to_owned(),
                    encoding: fields.text("encoding")?.to_owned(),
                });
            }
            let name = fields.text("name")?.to_owned();
            let members = fields.map("members")?.into_iter();
            let members = members.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            Ok(Found::Metadata { name, members })
        })();
        self.parse(parsed)
    }

    fn footer(&mut self, len: u64) -> Result<(), FileError> {
        if len != FOOTER_LEN as u64 {
            return Err(self.invalid(format!("{len} bytes instead of {FOOTER_LEN}")));
        }
        let mut content = Vec::new();
        self.read_into(FOOTER_LEN as u64 - 4, &mut content)?;
        let crc = self.crc();
        self.read_into(4, &mut content)?;
        let stored = u32::from_le_bytes(*content.last_chunk().expect("20 bytes"));
        self.check_crc(stored, crc)?;
        self.take_magic()?;
        self.record = self.position();
        self.section = Section::End;
        if self.record < self.file_len {
            return Err(self.invalid("something stands behind the end"));
        }
        Ok(())
    }

    fn take_magic(&mut self) -> Result<(), FileError> {
        self.record = self.position();
        self.opcode = "";
        let left = self.file_len.saturating_sub(self.record);
        let mut found = Vec::new();
        self.read_into(left.min(MAGIC.len() as u64), &mut found)?;
        if found == MAGIC {
            return Ok(());
        }
        if left < MAGIC.len() as u64 && (self.record > 0 || MAGIC.starts_with(&found)) {
            return Err(self.error(FileErrorKind::Truncated, "the file ends here, in the middle"));
        }
        if self.record == 0 && found.starts_with(&MAGIC[..5]) {
            let version = found.get(5).copied().map_or_else(String::new, |byte| char::from(byte).to_string());
            let reason = format!("MCAP of version {version:?} is not supported, this program reads \"0\"");
            return Err(self.error(FileErrorKind::Unsupported, reason));
        }
        let reason = if self.record == 0 {
            "this is not an MCAP file: it does not begin as one"
        } else {
            "an MCAP file ends as it begins, this one does not"
        };
        Err(self.invalid(reason))
    }

    fn prefix(&mut self) -> Result<(u8, u64), FileError> {
        let mut prefix = [0; PREFIX_LEN];
        self.read_exact(&mut prefix)?;
        let [opcode, len @ ..] = prefix;
        Ok((opcode, u64::from_le_bytes(len)))
    }

    /// The content of a record that has to be short.
    fn content(&mut self, len: u64) -> Result<Vec<u8>, FileError> {
        if len > CONTENT_LEN_MAX {
            return Err(self.invalid(format!("{len} bytes; there are at most {CONTENT_LEN_MAX}")));
        }
        let mut content = Vec::new();
        self.read_into(len, &mut content)?;
        Ok(content)
    }

    /// Appends `len` bytes; memory is taken for those that are there.
    fn read_into(&mut self, len: u64, out: &mut Vec<u8>) -> Result<(), FileError> {
        let read = match &mut self.source {
            Source::File(file) => file.take(len).read_to_end(out),
            Source::Chunk(records) => records.take(len).read_to_end(out),
            Source::Moved => Ok(0),
        };
        self.expect_len(read.map(|read| read as u64), len)
    }

    fn skip(&mut self, len: u64) -> Result<(), FileError> {
        if len == 0 {
            return Ok(());
        }
        let skipped = match &mut self.source {
            Source::File(file) => io::copy(&mut file.take(len), &mut io::sink()),
            Source::Chunk(records) => io::copy(&mut records.take(len), &mut io::sink()),
            Source::Moved => Ok(0),
        };
        self.expect_len(skipped, len)
    }

    fn read_exact(&mut self, out: &mut [u8]) -> Result<(), FileError> {
        let mut filled = 0;
        while filled < out.len() {
            match self.read(&mut out[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        self.expect_len(Ok(filled as u64), out.len() as u64)
    }

    fn read(&mut self, out: &mut [u8]) -> Result<usize, FileError> {
        loop {
            let read = match &mut self.source {
                Source::File(file) => file.read(out),
                Source::Chunk(records) => records.read(out),
                Source::Moved => Ok(0),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read.map_err(|error| self.failed(&error)),
            }
        }
    }

    fn expect_len(&self, read: io::Result<u64>, expected: u64) -> Result<(), FileError> {
        match read.map_err(|error| self.failed(&error))? {
            read if read == expected => Ok(()),
            _ if self.chunk.is_some() => Err(self.invalid("there is less in it than it announces")),
            _ => Err(self.error(FileErrorKind::Truncated, "the file ends in the middle")),
        }
    }

    fn check_crc(&self, stored: u32, computed: u32) -> Result<(), FileError> {
        // Zero for a writer that did not compute it.
        if stored == 0 || stored == computed {
            return Ok(());
        }
        Err(self.invalid(format!("checksum {computed:08x} instead of {stored:08x}")))
    }

    fn parse<T>(&self, parsed: Result<T, BadContent>) -> Result<T, FileError> {
        parsed.map_err(|bad| self.invalid(bad.to_string()))
    }

    /// Of the file, or of what a chunk holds.
    fn crc(&self) -> u32 {
        match &self.source {
            Source::File(file) => file.crc.clone().finalize(),
            Source::Chunk(records) => records.crc.clone().finalize(),
            Source::Moved => 0,
        }
    }

    fn reset_crc(&mut self) {
        if let Source::File(file) = &mut self.source {
            file.crc = crc32fast::Hasher::new();
        }
    }

    fn position(&self) -> u64 {
        match &self.source {
            Source::File(file) => file.position,
            Source::Chunk(_) | Source::Moved => self.record,
        }
    }

    /// What reading ended with: the file's own error, or what the decoder says of it.
    fn failed(&self, error: &io::Error) -> FileError {
        let of_file = match &self.source {
            Source::File(_) | Source::Moved => true,
            Source::Chunk(records) => match &records.inner {
                Records::Plain(_) => true,
                Records::Lz4(decoder) => decoder.get_ref().get_ref().failed,
            },
        };
        if of_file {
            return self.error(FileErrorKind::Io, error.to_string());
        }
        self.invalid(format!("it cannot be decompressed: {}", reason(error)))
    }

    fn invalid(&self, reason: impl Into<String>) -> FileError {
        self.error(FileErrorKind::Invalid, reason)
    }

    /// What is wrong with the record, or with the chunk it is in.
    pub fn error(&self, kind: FileErrorKind, reason: impl Into<String>) -> FileError {
        let (place, path) = (FilePlace::Byte(self.record), self.opcode.to_owned());
        FileError { kind, place, path, reason: reason.into() }
    }
}

/// What the decoder ended with: its own texts are names of Rust.
fn reason(error: &io::Error) -> String {
    use lz4_flex::frame::Error;

    let of_decoder = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
    let Some(of_decoder) = of_decoder else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "what is compressed ends too early".to_owned(),
            _ => error.to_string(),
        };
    };
    match of_decoder {
        Error::WrongMagicNumber => "it is no LZ4 frame".to_owned(),
        Error::UnsupportedVersion(version) => format!("version {version} of LZ4 frames is not known"),
        Error::UnsupportedBlocksize(size) => format!("block size {size} of LZ4 frames is not known"),
        Error::ReservedBitsSet => "reserved bits of the LZ4 frame are set".to_owned(),
        Error::InvalidBlockInfo => "a block of the LZ4 frame does not say its length".to_owned(),
        Error::BlockTooBig => "a block of the LZ4 frame is longer than the frame allows".to_owned(),
        Error::HeaderChecksumError => "the checksum of the LZ4 frame's header does not fit".to_owned(),
        Error::BlockChecksumError => "the checksum of a block of the LZ4 frame does not fit".to_owned(),
        Error::ContentChecksumError => "the checksum of the LZ4 frame does not fit".to_owned(),
        Error::ContentLengthError { expected, actual } => {
            format!("the LZ4 frame announces {expected} bytes and holds {actual}")
        }
        Error::DictionaryNotSupported => "the LZ4 frame needs a dictionary".to_owned(),
        Error::SkippableFrame(_) => "the LZ4 frame is one to skip".to_owned(),
        _ => "a block of the LZ4 frame makes no sense".to_owned(),
    }
}

impl<R> Tally<R> {
    fn new(inner: R) -> Self {
        Self { inner, position: 0, crc: crc32fast::Hasher::new(), failed: false }
    }
}

impl<R: Read> Read for Tally<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(out);
        match &read {
            Ok(read) => {
                self.position += *read as u64;
                self.crc.update(&out[..*read]);
            }
            Err(error) => self.failed |= error.kind() != io::ErrorKind::Interrupted,
        }
        read
    }
}

impl<R: Read> Read for Records<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(packed) => packed.read(out),
            Self::Lz4(decoder) => decoder.read(out),
        }
    }
}

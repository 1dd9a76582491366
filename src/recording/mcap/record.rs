//! The records an MCAP file consists of, as bytes.
//!
//! A record is an opcode, the length of its content as 64 bits, and the content. Numbers are
//! little-endian, texts and maps have their length in bytes as 32 bits before them.

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    Header = 0x01,
    Footer = 0x02,
    Schema = 0x03,
    Channel = 0x04,
    Message = 0x05,
    Chunk = 0x06,
    MessageIndex = 0x07,
    ChunkIndex = 0x08,
    Attachment = 0x09,
    AttachmentIndex = 0x0A,
    Statistics = 0x0B,
    Metadata = 0x0C,
    MetadataIndex = 0x0D,
    SummaryOffset = 0x0E,
    DataEnd = 0x0F,
}

/// Of opcode and length.
pub const PREFIX_LEN: usize = 9;
/// Of what stands before a message's data.
pub const MESSAGE_HEADER_LEN: usize = 22;
pub const FOOTER_LEN: usize = 20;

impl Opcode {
    const ALL: [Self; 15] = [
        Self::Header,
        Self::Footer,
        Self::Schema,
        Self::Channel,
        Self::Message,
        Self::Chunk,
        Self::MessageIndex,
        Self::ChunkIndex,
        Self::Attachment,
        Self::AttachmentIndex,
        Self::Statistics,
        Self::Metadata,
        Self::MetadataIndex,
        Self::SummaryOffset,
        Self::DataEnd,
    ];

    /// `None` for one of a later version or a private one.
    pub fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|opcode| *opcode as u8 == byte)
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Footer => "footer",
            Self::Schema => "schema",
            Self::Channel => "channel",
            Self::Message => "message",
            Self::Chunk => "chunk",
            Self::MessageIndex => "message index",
            Self::ChunkIndex => "chunk index",
            Self::Attachment => "attachment",
            Self::AttachmentIndex => "attachment index",
            Self::Statistics => "statistics",
            Self::Metadata => "metadata",
            Self::MetadataIndex => "metadata index",
            Self::SummaryOffset => "summary offset",
            Self::DataEnd => "data end",
        }
    }
}

/// Writes the content of one record.
pub struct Content<'a>(&'a mut Vec<u8>);

/// Appends a record whose content `write` says.
pub fn put_record(opcode: Opcode, out: &mut Vec<u8>, write: impl FnOnce(&mut Content<'_>)) {
    out.push(opcode as u8);
    put_sized::<8>(out, |out| write(&mut Content(out)));
}

/// Appends what `write` appends, behind its length in `N` bytes.
fn put_sized<const N: usize>(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; N]);
    write(out);
    let len = (out.len() - start - N) as u64;
    out[start..start + N].copy_from_slice(&len.to_le_bytes()[..N]);
}

impl Content<'_> {
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn text(&mut self, text: &str) {
        put_sized::<4>(self.0, |out| out.extend_from_slice(text.as_bytes()));
    }

    pub fn map<'a>(&mut self, entries: impl IntoIterator<Item = (&'a str, &'a str)>) {
        put_sized::<4>(self.0, |out| {
            for (name, value) in entries {
                let mut content = Content(out);
                content.text(name);
                content.text(value);
            }
        });
    }

    /// A list or a map of numbers, which have no count but a length.
    pub fn list<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(T, &mut Content<'_>),
    ) {
        put_sized::<4>(self.0, |out| {
            for item in items {
                write(item, &mut Content(out));
            }
        });
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

/// Why content is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadContent {
    #[error("it ends in its {0}")]
    Short(&'static str),
    #[error("its {0} is not UTF-8")]
    NotText(&'static str),
}

/// Reads the content of one record.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn u16(&mut self, field: &'static str) -> Result<u16, BadContent> {
        self.array(field).map(u16::from_le_bytes)
    }

    pub fn u32(&mut self, field: &'static str) -> Result<u32, BadContent> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, field: &'static str) -> Result<u64, BadContent> {
        self.array(field).map(u64::from_le_bytes)
    }

    pub fn text(&mut self, field: &'static str) -> Result<&'a str, BadContent> {
        let len = self.u32(field)? as usize;
        let bytes = self.take(len, field)?;
        std::str::from_utf8(bytes).map_err(|_| BadContent::NotText(field))
    }

    pub fn map(&mut self, field: &'static str) -> Result<Vec<(&'a str, &'a str)>, BadContent> {
        let len = self.u32(field)? as usize;
        let mut inner = Fields(self.take(len, field)?);
        let mut entries = Vec::new();
        while !inner.0.is_empty() {
            entries.push((inner.text(field)?, inner.text(field)?));
        }
        Ok(entries)
    }

    fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], BadContent> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(BadContent::Short(field))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], BadContent> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(BadContent::Short(field))?;
        self.0 = rest;
        Ok(*taken)
    }
}

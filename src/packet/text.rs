//! Packets as a line of text, for transcripts, logs and the command line.
//!
//! `PUBLISH a/b qos=1 id=7 user=room:"the attic" "21.5\x00"`: the name, what every such packet
//! has, then `key=value` for what differs from its default, properties by short names in their
//! order, and a payload last. Text stands bare or in quotes, where `\xNN` is a byte; whatever holds
//! spaces or one of `" \ , : =` needs the quotes. A password is shown as `***`.
//!
//! Parsing checks what the types check, and no more: a packet that breaks the protocol can be
//! written down, to see what a peer does with it.

use std::fmt;

use bytes::Bytes;

use super::{
    Ack, Auth, Connack, Connect, ControlPacket, Disconnect, PacketIdentifier, PacketType, Properties,
    Property, PropertyIdentifier, PropertyValue, ProtocolVersion, Publish, QoS, ReasonCode, RetainHandling,
    Suback, Subscribe, Subscription, SubscriptionOptions, TopicFilter, TopicName, Unsuback, Unsubscribe,
    Utf8String, Will, property::DataType,
};

/// Why a line of text is no packet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadText {
    #[error("no packet is called {0:?}")]
    Name(String),
    #[error("{packet} needs {field}")]
    Missing { packet: PacketType, field: &'static str },
    #[error("{packet} has no field {word:?}")]
    Unexpected { packet: PacketType, word: String },
    #[error("{field} cannot be {value}: {problem}")]
    Value { field: String, value: String, problem: String },
}

impl std::str::FromStr for ControlPacket {
    type Err = BadText;

    /// A CONNECT that does not say `v=` is of MQTT 5.
    fn from_str(line: &str) -> Result<Self, BadText> {
        Self::parse_text(line, ProtocolVersion::V5)
    }
}

impl ControlPacket {
    /// Parses what `Display` writes; a CONNECT that does not say `v=` is of `protocol`.
    pub fn parse_text(line: &str, protocol: ProtocolVersion) -> Result<Self, BadText> {
        let line = line.trim();
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let packet = PacketType::from_name(name).ok_or_else(|| BadText::Name(name.to_owned()))?;
        let words = &mut Words { packet, rest };
        let parsed = match packet {
            PacketType::Connect => Self::Connect(Box::new(parse_connect(words, protocol)?)),
            PacketType::Connack => Self::Connack(parse_connack(words)?),
            PacketType::Publish => Self::Publish(parse_publish(words)?),
            PacketType::Puback => Self::Puback(parse_ack(words)?),
            PacketType::Pubrec => Self::Pubrec(parse_ack(words)?),
            PacketType::Pubrel => Self::Pubrel(parse_ack(words)?),
            PacketType::Pubcomp => Self::Pubcomp(parse_ack(words)?),
            PacketType::Subscribe => Self::Subscribe(parse_subscribe(words)?),
            PacketType::Suback => {
                let (packet_identifier, reason_codes, properties) = parse_codes(words)?;
                Self::Suback(Suback { packet_identifier, properties, reason_codes })
            }
            PacketType::Unsubscribe => Self::Unsubscribe(parse_unsubscribe(words)?),
            PacketType::Unsuback => {
                let (packet_identifier, reason_codes, properties) = parse_codes(words)?;
                Self::Unsuback(Unsuback { packet_identifier, properties, reason_codes })
            }
            PacketType::Pingreq => Self::Pingreq,
            PacketType::Pingresp => Self::Pingresp,
            PacketType::Disconnect => {
                let (reason_code, properties) = parse_reason(words)?;
                Self::Disconnect(Disconnect { reason_code, properties })
            }
            PacketType::Auth => {
                let (reason_code, properties) = parse_reason(words)?;
                Self::Auth(Auth { reason_code, properties })
            }
        };
        match words.next() {
            None => Ok(parsed),
            Some(word) => Err(words.unexpected(&word)),
        }
    }
}

fn parse_connect(words: &mut Words<'_>, protocol: ProtocolVersion) -> Result<Connect, BadText> {
    let mut connect = Connect {
        protocol,
        clean_start: true,
        keep_alive: 0,
        properties: Properties::new(),
        client_identifier: words.plain("a client identifier")?.text()?,
        will: None,
        username: None,
        password: None,
    };
    while let Some(word) = words.next() {
        match (word.key, &mut connect.will) {
            ("v", _) => connect.protocol = word.number()?,
            ("clean", _) => connect.clean_start = word.number()?,
            ("keep_alive", _) => connect.keep_alive = word.number()?,
            ("username", _) => connect.username = Some(word.text()?),
            ("password", _) => connect.password = Some(word.bytes()?),
            ("will", _) => connect.will = Some(parse_will(&word)?),
            ("will_qos", Some(will)) => will.qos = word.qos()?,
            ("will_retain", Some(will)) => will.retain = word.number()?,
            (key, Some(will)) if key.starts_with("will_") => {
                will.properties.push(words.property(&word, &key["will_".len()..])?);
            }
            (key, _) => connect.properties.push(words.property(&word, key)?),
        }
    }
    Ok(connect)
}

fn parse_will(word: &Word<'_>) -> Result<Will, BadText> {
    let (topic, payload) = word.pair()?;
    Ok(Will {
        qos: QoS::AtMostOnce,
        retain: false,
        properties: Properties::new(),
        topic: TopicName::try_from(word.utf8(topic)?).map_err(|problem| word.bad(problem))?,
        payload,
    })
}

fn parse_connack(words: &mut Words<'_>) -> Result<Connack, BadText> {
    let mut connack =
        Connack { session_present: false, reason_code: ReasonCode::SUCCESS, properties: Properties::new() };
    while let Some(word) = words.next() {
        match word.key {
            "" => connack.reason_code = word.reason_code()?,
            "session_present" => connack.session_present = word.number()?,
            key => connack.properties.push(words.property(&word, key)?),
        }
    }
    Ok(connack)
}

fn parse_publish(words: &mut Words<'_>) -> Result<Publish, BadText> {
    let topic = words.plain("a topic name")?;
    let mut publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: match topic.text()? {
            text if text.is_empty() => None,
            text => Some(TopicName::try_from(text).map_err(|problem| topic.bad(problem))?),
        },
        packet_identifier: None,
        properties: Properties::new(),
        payload: Bytes::new(),
    };
    while let Some(word) = words.next() {
        match word.key {
            "qos" => publish.qos = word.qos()?,
            "id" => publish.packet_identifier = Some(word.packet_identifier()?),
            "retain" => publish.retain = word.number()?,
            "dup" => publish.dup = word.number()?,
            "" => {
                publish.payload = word.bytes()?;
                break;
            }
            key => publish.properties.push(words.property(&word, key)?),
        }
    }
    Ok(publish)
}

fn parse_ack(words: &mut Words<'_>) -> Result<Ack, BadText> {
    let packet_identifier = words.plain("a packet identifier")?.packet_identifier()?;
    let (reason_code, properties) = parse_reason(words)?;
    Ok(Ack { packet_identifier, reason_code, properties })
}

fn parse_reason(words: &mut Words<'_>) -> Result<(ReasonCode, Properties), BadText> {
    let (mut reason_code, mut properties) = (ReasonCode::SUCCESS, Properties::new());
    while let Some(word) = words.next() {
        match word.key {
            "" => reason_code = word.reason_code()?,
            key => properties.push(words.property(&word, key)?),
        }
    }
    Ok((reason_code, properties))
}

fn parse_subscribe(words: &mut Words<'_>) -> Result<Subscribe, BadText> {
    let packet_identifier = words.plain("a packet identifier")?.packet_identifier()?;
    let (mut subscriptions, mut properties) = (Vec::<Subscription>::new(), Properties::new());
    while let Some(word) = words.next_of_list() {
        match (word.key, subscriptions.last_mut().map(|last| &mut last.options)) {
            ("", _) => {
                subscriptions.push(Subscription { filter: word.filter()?, options: Default::default() })
            }
            ("qos", Some(options)) => options.qos = word.qos()?,
            ("nl", Some(options)) => options.no_local = word.number()?,
            ("rap", Some(options)) => options.retain_as_published = word.number()?,
            ("rh", Some(options)) => {
                options.retain_handling =
                    RetainHandling::try_from(word.number::<u8>()?).map_err(|problem| word.bad(problem))?;
            }
            (key, _) => properties.push(words.property(&word, key)?),
        }
    }
    Ok(Subscribe { packet_identifier, properties, subscriptions })
}

fn parse_unsubscribe(words: &mut Words<'_>) -> Result<Unsubscribe, BadText> {
    let packet_identifier = words.plain("a packet identifier")?.packet_identifier()?;
    let (mut filters, mut properties) = (Vec::new(), Properties::new());
    while let Some(word) = words.next_of_list() {
        match word.key {
            "" => filters.push(word.filter()?),
            key => properties.push(words.property(&word, key)?),
        }
    }
    Ok(Unsubscribe { packet_identifier, properties, filters })
}

fn parse_codes(words: &mut Words<'_>) -> Result<(PacketIdentifier, Vec<ReasonCode>, Properties), BadText> {
    let packet_identifier = words.plain("a packet identifier")?.packet_identifier()?;
    let (mut reason_codes, mut properties) = (Vec::new(), Properties::new());
    while let Some(word) = words.next() {
        match word.key {
            "" => reason_codes.push(word.reason_code()?),
            key => properties.push(words.property(&word, key)?),
        }
    }
    Ok((packet_identifier, reason_codes, properties))
}

/// The words behind the packet's name.
struct Words<'a> {
    packet: PacketType,
    rest: &'a str,
}

/// `key=value`, or a value alone, whose key is empty; the value still has its quotes.
struct Word<'a> {
    key: &'a str,
    value: &'a str,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<Word<'a>> {
        self.rest = self.rest.trim_start();
        let (word, rest) = self.rest.split_at(end_of(self.rest, char::is_whitespace));
        self.rest = rest;
        let is_key = |key: &str| !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        match word.split_once('=') {
            _ if word.is_empty() => None,
            Some((key, value)) if is_key(key) => Some(Word { key, value }),
            _ => Some(Word { key: "", value: word }),
        }
    }

    /// As [`next`](Self::next), without the comma that ends an item of a list.
    fn next_of_list(&mut self) -> Option<Word<'a>> {
        let word = self.next()?;
        Some(Word { value: word.value.strip_suffix(',').unwrap_or(word.value), ..word })
    }

    /// The next word, which has no key.
    fn plain(&mut self, field: &'static str) -> Result<Word<'a>, BadText> {
        let missing = BadText::Missing { packet: self.packet, field };
        self.next().filter(|word| word.key.is_empty()).ok_or(missing)
    }

    fn unexpected(&self, word: &Word<'_>) -> BadText {
        let word = if word.key.is_empty() { word.value } else { word.key };
        BadText::Unexpected { packet: self.packet, word: word.to_owned() }
    }

    fn property(&self, word: &Word<'_>, key: &str) -> Result<Property, BadText> {
        let (identifier, data_type) =
            PropertyIdentifier::with_key(key).ok_or_else(|| self.unexpected(word))?;
        let from_wire = |value, bytes: &Bytes| Property::from_wire(identifier, value, bytes);
        Ok(match data_type {
            DataType::Byte => match word.value {
                "false" => from_wire(PropertyValue::Byte(0), &Bytes::new()),
                "true" => from_wire(PropertyValue::Byte(1), &Bytes::new()),
                _ => from_wire(PropertyValue::Byte(word.number()?), &Bytes::new()),
            },
            DataType::TwoByte => from_wire(PropertyValue::TwoByte(word.number()?), &Bytes::new()),
            DataType::FourByte => from_wire(PropertyValue::FourByte(word.number()?), &Bytes::new()),
            DataType::Variable => from_wire(PropertyValue::Variable(word.number()?), &Bytes::new()),
            DataType::Binary => {
                let bytes = word.bytes()?;
                from_wire(PropertyValue::Binary(&bytes), &bytes)
            }
            DataType::Text => {
                let text = word.text()?;
                from_wire(PropertyValue::Text(&text), text.as_bytes())
            }
            DataType::Pair => {
                let (name, value) = word.pair()?;
                Property::UserProperty(word.utf8(name)?, word.utf8(value)?)
            }
        })
    }
}

impl Word<'_> {
    fn bad(&self, problem: impl ToString) -> BadText {
        let field = if self.key.is_empty() { "a field" } else { self.key };
        BadText::Value { field: field.to_owned(), value: self.value.to_owned(), problem: problem.to_string() }
    }

    /// Whatever `FromStr` reads: numbers, `true`, `3.1.1`.
    fn number<T: std::str::FromStr<Err: fmt::Display>>(&self) -> Result<T, BadText> {
        self.value.parse().map_err(|problem| self.bad(problem))
    }

    fn qos(&self) -> Result<QoS, BadText> {
        QoS::try_from(self.number::<u8>()?).map_err(|problem| self.bad(problem))
    }

    fn packet_identifier(&self) -> Result<PacketIdentifier, BadText> {
        PacketIdentifier::new(self.number()?).ok_or_else(|| self.bad("a packet identifier is never 0"))
    }

    fn reason_code(&self) -> Result<ReasonCode, BadText> {
        match self.value.strip_prefix("0x") {
            Some(hex) => u8::from_str_radix(hex, 16).map(ReasonCode).map_err(|problem| self.bad(problem)),
            None => self.number().map(ReasonCode),
        }
    }

    fn filter(&self) -> Result<TopicFilter, BadText> {
        TopicFilter::try_from(self.text()?).map_err(|problem| self.bad(problem))
    }

    fn text(&self) -> Result<Utf8String, BadText> {
        self.utf8(self.bytes()?)
    }

    fn utf8(&self, bytes: Bytes) -> Result<Utf8String, BadText> {
        Utf8String::from_bytes(bytes).map_err(|problem| self.bad(problem))
    }

    fn bytes(&self) -> Result<Bytes, BadText> {
        unquote(self.value).map_err(|problem| self.bad(problem))
    }

    /// The parts before and behind the first colon outside quotes.
    fn pair(&self) -> Result<(Bytes, Bytes), BadText> {
        let (first, rest) = self.value.split_at(end_of(self.value, |c| c == ':'));
        let second = rest.strip_prefix(':').ok_or_else(|| self.bad("no ':' in it"))?;
        let part = |text| unquote(text).map_err(|problem| self.bad(problem));
        Ok((part(first)?, part(second)?))
    }
}

/// Where the first character outside quotes stands that `ends`, or the end of `text`.
fn end_of(text: &str, ends: impl Fn(char) -> bool) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            c if !quoted && ends(c) => return index,
            _ => {}
        }
    }
    text.len()
}

/// The bytes that a bare or quoted word stands for.
fn unquote(text: &str) -> Result<Bytes, &'static str> {
    let Some(quoted) = text.strip_prefix('"') else {
        return Ok(Bytes::copy_from_slice(text.as_bytes()));
    };
    let quoted = quoted.strip_suffix('"').ok_or("the closing quote is missing")?;
    let mut bytes = Vec::with_capacity(quoted.len());
    let mut parts = quoted.split('\\');
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    while let Some(part) = parts.next() {
        let (byte, rest) = match part.as_bytes() {
            // Two backslashes in a row: the part between them is empty.
            [] => (b'\\', parts.next().ok_or("a backslash at the end")?),
            [b'"', ..] => (b'"', &part[1..]),
            [b'n', ..] => (b'\n', &part[1..]),
            [b'r', ..] => (b'\r', &part[1..]),
            [b't', ..] => (b'\t', &part[1..]),
            [b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (u8::from_str_radix(&part[1..3], 16).expect("two hex digits"), &part[3..])
            }
            _ => return Err(r#"a backslash goes before x and two hex digits, n, r, t, " or \"#),
        };
        bytes.push(byte);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Ok(bytes.into())
}

/// A precision cuts the payload of a PUBLISH: `{:.40}` shows no more than 40 bytes of it.
impl fmt::Display for ControlPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Connect(connect) => write_connect(f, connect),
            Self::Connack(connack) => {
                write!(f, " session_present={}", connack.session_present)?;
                write_reason(f, connack.reason_code, &connack.properties)
            }
            Self::Publish(publish) => write_publish(f, publish),
            Self::Puback(ack) | Self::Pubrec(ack) | Self::Pubrel(ack) | Self::Pubcomp(ack) => {
                write!(f, " {}", ack.packet_identifier)?;
                write_reason(f, ack.reason_code, &ack.properties)
            }
            Self::Subscribe(subscribe) => write_subscribe(f, subscribe),
            Self::Suback(suback) => {
                write!(f, " {}", suback.packet_identifier)?;
                suback.reason_codes.iter().try_for_each(|code| write!(f, " {code}"))?;
                write_properties(f, "", &suback.properties)
            }
            Self::Unsubscribe(unsubscribe) => {
                write!(f, " {}", unsubscribe.packet_identifier)?;
                for (index, filter) in unsubscribe.filters.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma} {}", Atom::text(filter.as_str()))?;
                }
                write_properties(f, "", &unsubscribe.properties)
            }
            Self::Unsuback(unsuback) => {
                write!(f, " {}", unsuback.packet_identifier)?;
                unsuback.reason_codes.iter().try_for_each(|code| write!(f, " {code}"))?;
                write_properties(f, "", &unsuback.properties)
            }
            Self::Pingreq | Self::Pingresp => Ok(()),
            Self::Disconnect(disconnect) => write_reason(f, disconnect.reason_code, &disconnect.properties),
            Self::Auth(auth) => write_reason(f, auth.reason_code, &auth.properties),
        }
    }
}

fn write_connect(f: &mut fmt::Formatter<'_>, connect: &Connect) -> fmt::Result {
    let version = match connect.protocol {
        ProtocolVersion::V5 => "5",
        older => older.name(),
    };
    write!(f, " {} v={version}", Atom::text(&connect.client_identifier))?;
    if !connect.clean_start {
        f.write_str(" clean=false")?;
    }
    if connect.keep_alive != 0 {
        write!(f, " keep_alive={}", connect.keep_alive)?;
    }
    write_properties(f, "", &connect.properties)?;
    if let Some(will) = &connect.will {
        write!(f, " will={}:{}", Atom::text(will.topic.as_str()), Atom(&will.payload))?;
        if will.qos != QoS::AtMostOnce {
            write!(f, " will_qos={}", will.qos)?;
        }
        if will.retain {
            f.write_str(" will_retain=true")?;
        }
        write_properties(f, "will_", &will.properties)?;
    }
    if let Some(username) = &connect.username {
        write!(f, " username={}", Atom::text(username))?;
    }
    if connect.password.is_some() {
        // Lines like this one end up in logs.
        f.write_str(" password=***")?;
    }
    Ok(())
}

fn write_publish(f: &mut fmt::Formatter<'_>, publish: &Publish) -> fmt::Result {
    write!(f, " {}", Atom::text(publish.topic.as_ref().map_or("", TopicName::as_str)))?;
    if publish.qos != QoS::AtMostOnce {
        write!(f, " qos={}", publish.qos)?;
    }
    if let Some(packet_identifier) = publish.packet_identifier {
        write!(f, " id={packet_identifier}")?;
    }
    if publish.retain {
        f.write_str(" retain=true")?;
    }
    if publish.dup {
        f.write_str(" dup=true")?;
    }
    write_properties(f, "", &publish.properties)?;
    match f.precision() {
        _ if publish.payload.is_empty() => Ok(()),
        Some(most) if publish.payload.len() > most => {
            write!(f, " {}… ({} bytes)", Quoted(&publish.payload[..most]), publish.payload.len())
        }
        _ => write!(f, " {}", Quoted(&publish.payload)),
    }
}

fn write_subscribe(f: &mut fmt::Formatter<'_>, subscribe: &Subscribe) -> fmt::Result {
    write!(f, " {}", subscribe.packet_identifier)?;
    for (index, Subscription { filter, options }) in subscribe.subscriptions.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(f, "{comma} {}", Atom::text(filter.as_str()))?;
        write_options(f, options)?;
    }
    write_properties(f, "", &subscribe.properties)
}

fn write_options(f: &mut fmt::Formatter<'_>, options: &SubscriptionOptions) -> fmt::Result {
    if options.qos != QoS::AtMostOnce {
        write!(f, " qos={}", options.qos)?;
    }
    if options.no_local {
        f.write_str(" nl=true")?;
    }
    if options.retain_as_published {
        f.write_str(" rap=true")?;
    }
    if options.retain_handling != RetainHandling::Send {
        write!(f, " rh={}", u8::from(options.retain_handling))?;
    }
    Ok(())
}

fn write_reason(f: &mut fmt::Formatter<'_>, code: ReasonCode, properties: &Properties) -> fmt::Result {
    if code != ReasonCode::SUCCESS {
        write!(f, " {code}")?;
    }
    write_properties(f, "", properties)
}

fn write_properties(f: &mut fmt::Formatter<'_>, prefix: &str, properties: &Properties) -> fmt::Result {
    properties.iter().try_for_each(|property| write!(f, " {prefix}{property}"))
}

/// `key=value`.
impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_number = matches!(self, Self::PayloadFormatIndicator(_) | Self::MaximumQoS(_));
        write!(f, "{}=", self.identifier().key())?;
        match self.value() {
            PropertyValue::Byte(value) if is_number => value.fmt(f),
            PropertyValue::Byte(value) => (value != 0).fmt(f),
            PropertyValue::TwoByte(value) => value.fmt(f),
            PropertyValue::FourByte(value) | PropertyValue::Variable(value) => value.fmt(f),
            PropertyValue::Text(value) => Atom::text(value).fmt(f),
            PropertyValue::Binary(value) => Atom(value).fmt(f),
            PropertyValue::Pair(name, value) => write!(f, "{}:{}", Atom::text(name), Atom::text(value)),
        }
    }
}

/// Bytes that stand bare where that is unmistakable, in quotes elsewhere.
struct Atom<'a>(&'a [u8]);

impl<'a> Atom<'a> {
    fn text(text: &'a str) -> Self {
        Self(text.as_bytes())
    }
}

impl fmt::Display for Atom<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |byte: &u8| byte.is_ascii_graphic() && !b"\"\\,:=".contains(byte);
        match std::str::from_utf8(self.0) {
            Ok(text) if !text.is_empty() && self.0.iter().all(is_plain) => f.write_str(text),
            _ => Quoted(self.0).fmt(f),
        }
    }
}

/// Bytes in quotes; what is not readable as UTF-8 is `\xNN`.
struct Quoted<'a>(&'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '"' | '\\' => write!(f, "\\{c}")?,
                    ' ' => f.write_str(" ")?,
                    // U+FEFF is as invisible as the spaces.
                    c if c.is_control() || c.is_whitespace() || c == '\u{FEFF}' => {
                        write_hex(f, c.encode_utf8(&mut [0; 4]).as_bytes())?;
                    }
                    c => write!(f, "{c}")?,
                }
            }
            write_hex(f, chunk.invalid())?;
        }
        f.write_str("\"")
    }
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
}

//! Where a broker is: `mqtt://[user[:password]@]host[:port]`, the same with `mqtts`, and `ws` or `wss` with a path.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
};

use tokio::sync::OnceCell;

use super::tls::ClientTls;

/// What a WebSocket is asked for where no path is given: most brokers take it, and many take any.
const DEFAULT_PATH: &str = "/mqtt";

/// The address of a broker, with what we prove ourselves by and believe it by.
///
/// Displayed without credentials and files, so that it can be logged.
#[derive(Clone, PartialEq, Eq)]
pub struct MqttUrl {
    pub scheme: Scheme,
    pub host: String,
    pub port: u16,
    /// Of a WebSocket, query included; empty for others.
    pub path: String,
    pub username: Option<String>,
    pub password: Option<String>,
    /// Of use only where the scheme has TLS.
    pub trust: Trust,
    /// What was read of its files.
    pub(super) read: Read,
}

/// Shared by all copies of a URL, so that a thousand clients of a replay read its files once.
#[derive(Clone, Default)]
pub struct Read(pub(super) Arc<OnceCell<Arc<ClientTls>>>);

/// What a URL says does not depend on it.
impl PartialEq for Read {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Read {}

/// What lies on TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scheme {
    #[default]
    Mqtt,
    Mqtts,
    Ws,
    Wss,
}

impl Scheme {
    pub fn name(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Mqtts => "mqtts",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    pub fn has_tls(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }

    pub fn is_web_socket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    /// Those that IANA registered.
    fn default_port(self) -> u16 {
        match self {
            Self::Mqtt => 1883,
            Self::Mqtts => 8883,
            Self::Ws => 80,
            Self::Wss => 443,
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "mqtt" | "tcp" => Self::Mqtt,
            "mqtts" | "ssl" | "tls" => Self::Mqtts,
            "ws" => Self::Ws,
            "wss" => Self::Wss,
            _ => return None,
        })
    }
}

/// By what a server is believed, and what we show it. Files are PEM; relative paths start at the working directory.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Authorities in place of the system's.
    pub cafile: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// Believes anybody.
    pub insecure: bool,
}

impl Trust {
    /// As behind `#` in a URL; empty if nothing is said.
    fn fragment(&self) -> String {
        let file = |name: &str, path: &Option<PathBuf>| {
            path.as_ref().map(|path| format!("{name}={}", escape(&path.to_string_lossy())))
        };
        let files = [("cafile", &self.cafile), ("cert", &self.cert), ("key", &self.key)];
        let insecure = self.insecure.then(|| "insecure".to_owned());
        let parts = files.into_iter().filter_map(|(name, path)| file(name, path)).chain(insecure);
        parts.collect::<Vec<_>>().join("&")
    }

    fn parse(fragment: &str) -> Result<Self, String> {
        let mut trust = Self::default();
        for part in fragment.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let value = unescape(value).ok_or_else(|| part.to_owned())?;
            let file = (!value.is_empty()).then(|| PathBuf::from(&value));
            match (name, file) {
                ("cafile", Some(file)) => trust.cafile = Some(file),
                ("cert", Some(file)) => trust.cert = Some(file),
                ("key", Some(file)) => trust.key = Some(file),
                ("insecure", None) => trust.insecure = true,
                ("insecure", Some(_)) if value == "true" => trust.insecure = true,
                ("insecure", Some(_)) if value == "false" => trust.insecure = false,
                _ => return Err(part.to_owned()),
            }
        }
        match trust.cert.is_some() == trust.key.is_some() {
            true => Ok(trust),
            false => Err("a certificate without its key, or the other way round".to_owned()),
        }
    }
}

/// Why text is no [`MqttUrl`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    #[error("{0:?}: an MQTT address starts with mqtt://, mqtts://, ws:// or wss://, not {1}://")]
    Scheme(String, String),
    #[error("{0:?}: no host")]
    NoHost(String),
    #[error("{0:?}: {1:?} is no port from 1 to 65535")]
    Port(String, String),
    #[error("{0:?}: nothing may follow the port, found {1:?}")]
    Path(String, String),
    #[error("{0:?}: cafile=, cert=, key= and insecure may follow '#', found {1:?}")]
    Trust(String, String),
    #[error("{0:?}: a path is printable ASCII, without spaces")]
    NotAscii(String),
    #[error("{0:?}: '%' is followed by two hexadecimal digits, and all of it is UTF-8")]
    Escape(String),
}

impl MqttUrl {
    /// How this host reaches a listener of its own: one on all addresses is on the loopback, too.
    pub fn of_listener(address: SocketAddr) -> Self {
        let host = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        Self {
            scheme: Scheme::Mqtt,
            host: host.to_string(),
            port: address.port(),
            path: String::new(),
            username: None,
            password: None,
            trust: Trust::default(),
            read: Read::default(),
        }
    }

    /// `host:port`, with brackets around an IPv6 address.
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// All that [`FromStr`] reads, credentials included: not for people to see.
    pub fn spelled(&self) -> String {
        let credentials = match (&self.username, &self.password) {
            (Some(name), Some(password)) => format!("{}:{}@", escape(name), escape(password)),
            (Some(name), None) => format!("{}@", escape(name)),
            _ => String::new(),
        };
        let fragment = self.trust.fragment();
        let hash = if fragment.is_empty() { "" } else { "#" };
        format!("{}://{credentials}{}{}{hash}{fragment}", self.scheme.name(), self.authority(), self.path)
    }
}

impl FromStr for MqttUrl {
    type Err = BadUrl;

    /// `mqtt://` and `tcp://` mean the same, as do `mqtts://`, `ssl://` and `tls://`, and a bare `host[:port]` is taken
    /// too. `%` escapes are undone in the user name and the password. An IPv6 address stands in brackets. Behind a `#`
    /// may follow `cafile=`, `cert=` and `key=` with files, and `insecure`, with `&` between.
    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let (address, fragment) = text.split_once('#').unwrap_or((text, ""));
        let start = address.find("://").map_or(0, |scheme| scheme + 3);
        let end = address[start..].find(['/', '?']).map_or(address.len(), |end| start + end);
        let at = address[start..end].rfind('@').map(|at| start + at);
        let shown = || without_secrets(text);
        // A password that was not escaped may be anywhere in what has an `@`.
        let found = |part: &str| if text.contains('@') { "***".to_owned() } else { part.to_owned() };
        let scheme = match &address[..start] {
            "" => Scheme::Mqtt,
            name => {
                let name = name.trim_end_matches("://");
                Scheme::from_name(name).ok_or_else(|| BadUrl::Scheme(shown(), found(name)))?
            }
        };
        let credentials = at.map(|at| &address[start..at]);
        let host = &address[at.map_or(start, |at| at + 1)..end];
        let unescape = |text| unescape(text).ok_or_else(|| BadUrl::Escape(shown()));
        let (username, password) = match credentials.map(|both| both.split_once(':').ok_or(both)) {
            None => (None, None),
            Some(Ok((username, password))) => (Some(unescape(username)?), Some(unescape(password)?)),
            Some(Err(username)) => (Some(unescape(username)?), None),
        };
        let path = match &address[end..] {
            "" | "/" if !scheme.is_web_socket() => String::new(),
            "" => DEFAULT_PATH.to_owned(),
            path if !scheme.is_web_socket() => return Err(BadUrl::Path(shown(), found(&path[1..]))),
            path if !path.bytes().all(|byte| byte.is_ascii_graphic()) => {
                return Err(BadUrl::NotAscii(shown()));
            }
            path if path.starts_with('?') => format!("/{path}"),
            path => path.to_owned(),
        };
        let (host, port) = split_port(host);
        if host.is_empty() {
            return Err(BadUrl::NoHost(shown()));
        }
        let port = match port {
            None => scheme.default_port(),
            Some(port) => match port.parse() {
                Ok(number) if number != 0 => number,
                _ => return Err(BadUrl::Port(shown(), found(port))),
            },
        };
        let trust = Trust::parse(fragment).map_err(|part| BadUrl::Trust(shown(), found(&part)))?;
        Ok(Self {
            scheme,
            host: host.to_owned(),
            port,
            path,
            username,
            password,
            trust,
            read: Read::default(),
        })
    }
}

/// What was typed, without what may be a password or a signature, however it was spelled.
fn without_secrets(text: &str) -> String {
    let start = text.find("://").map_or(0, |scheme| scheme + 3);
    let (credentials, rest) = match text.rfind('@').filter(|&at| at >= start) {
        Some(at) => ("***", &text[at..]),
        None => ("", &text[start..]),
    };
    match rest.find('?') {
        Some(query) => format!("{}{credentials}{}?***", &text[..start], &rest[..query]),
        None => format!("{}{credentials}{rest}", &text[..start]),
    }
}

impl fmt::Display for MqttUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A query may hold a signature.
        let path = self.path.split('?').next().unwrap_or_default();
        write!(f, "{}://{}{path}", self.scheme.name(), self.authority())
    }
}

impl fmt::Debug for MqttUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MqttUrl({self})")
    }
}

/// The host without brackets, and what follows its colon.
fn split_port(address: &str) -> (&str, Option<&str>) {
    if let Some(rest) = address.strip_prefix('[')
        && let Some((host, rest)) = rest.split_once(']')
    {
        return (host, rest.strip_prefix(':'));
    }
    match address.rsplit_once(':') {
        // More than one colon without brackets: an IPv6 address alone.
        Some((host, _)) if host.contains(':') => (address, None),
        Some((host, port)) => (host, Some(port)),
        None => (address, None),
    }
}

/// With `%` escapes for all that has a meaning in a URL.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(byte.into())
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            out.push(first);
            rest = after;
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (high, low) = (digit(*after.first()?)?, digit(*after.get(1)?)?);
        out.push((high * 16 + low) as u8);
        rest = &after[2..];
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, u16, Option<String>, Option<String>) {
        let url: MqttUrl = text.parse().expect(text);
        (url.host, url.port, url.username, url.password)
    }

    fn error(text: &str) -> String {
        text.parse::<MqttUrl>().expect_err(text).to_string()
    }

    #[test]
    fn host_port_and_credentials_are_taken_apart() {
        assert_eq!(parts("mqtt://broker"), ("broker".into(), 1883, None, None));
        assert_eq!(parts("broker:99"), ("broker".into(), 99, None, None));
        assert_eq!(parts("mqtt://u@h:1/"), ("h".into(), 1, Some("u".into()), None));
        assert_eq!(parts("mqtt://u:p%40s:x@h"), ("h".into(), 1883, Some("u".into()), Some("p@s:x".into())));
        assert_eq!(parts("mqtt://[::1]:7"), ("::1".into(), 7, None, None));
        assert_eq!(parts("::1"), ("::1".into(), 1883, None, None));
    }

    #[test]
    fn what_is_wrong_is_named_and_the_password_is_not_shown() {
        assert_eq!(
            error("http://h"),
            "\"http://h\": an MQTT address starts with mqtt://, mqtts://, ws:// or wss://, not http://"
        );
        assert_eq!(error("mqtt://"), "\"mqtt://\": no host");
        assert_eq!(error("mqtt://u:secret@h:0"), "\"mqtt://***@h:0\": \"***\" is no port from 1 to 65535");
        assert_eq!(error("mqtt://h:1/x"), "\"mqtt://h:1/x\": nothing may follow the port, found \"x\"");
    }

    #[test]
    fn tls_and_websocket_have_ports_paths_and_files_of_their_own() {
        let url: MqttUrl =
            "wss://me:it@h/a?sig=1%2F2#cafile=my%20ca.crt&cert=c&key=k".parse().expect("an address");
        assert_eq!((url.scheme, url.port, url.path.as_str()), (Scheme::Wss, 443, "/a?sig=1%2F2"));
        assert_eq!(url.trust.cafile.as_deref(), Some(std::path::Path::new("my ca.crt")));
        assert_eq!(url.to_string(), "wss://h:443/a");
        assert_eq!(url.spelled(), "wss://me:it@h:443/a?sig=1%2F2#cafile=my%20ca.crt&cert=c&key=k");
        assert!(url.spelled().parse::<MqttUrl>() == Ok(url));
        for (text, spelled) in [
            ("mqtts://h", "mqtts://h:8883"),
            ("ssl://h:1", "mqtts://h:1"),
            ("ws://h", "ws://h:80/mqtt"),
            ("ws://[::1]:9/", "ws://[::1]:9/"),
            ("mqtts://h#insecure", "mqtts://h:8883#insecure"),
            ("mqtts://u%40:p%23@h#insecure=true", "mqtts://u%40:p%23@h:8883#insecure"),
        ] {
            assert_eq!(text.parse::<MqttUrl>().expect(text).spelled(), spelled);
        }
        assert_eq!(
            error("mqtts://u:secret@h#cafile="),
            "\"mqtts://***@h#cafile=\": cafile=, cert=, key= and insecure may follow '#', found \"***\""
        );
        for text in [
            "mqtt://u:pa/s3cret@h",
            "mqtt://u:s3cret#w@h",
            "mqtt://u:s3cret?w@h",
            "mqtt:/u:s3cret@h",
            "mqtt//u:s3cret@h",
            "htps://u:s3cret@h",
            "ws://h/p?token=s3cret#foo",
            "wss://h/\u{e9}?sig=s3cret",
        ] {
            assert!(!error(text).contains("s3cret"), "{}", error(text));
        }
    }

    #[test]
    fn a_listener_on_all_addresses_is_reached_on_the_loopback() {
        for (listener, url) in [
            ("0.0.0.0:7", "mqtt://127.0.0.1:7"),
            ("[::]:7", "mqtt://[::1]:7"),
            ("10.1.2.3:7", "mqtt://10.1.2.3:7"),
        ] {
            let address = listener.parse().expect(listener);
            assert_eq!(MqttUrl::of_listener(address).to_string(), url);
        }
    }

    #[test]
    fn the_password_is_not_displayed() {
        let url: MqttUrl = "mqtt://u:secret@[::1]".parse().expect("an address");
        assert_eq!(format!("{url} {url:?}"), "mqtt://[::1]:1883 MqttUrl(mqtt://[::1]:1883)");
    }
}

//! Where a broker is: `mqtt://[user[:password]@]host[:port]`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

/// The port IANA registered for MQTT without TLS.
const DEFAULT_PORT: u16 = 1883;

/// The address of a broker, with credentials for it.
///
/// Displayed without the password, so that it can be logged.
#[derive(Clone, PartialEq, Eq)]
pub struct MqttUrl {
    pub host: String,
    pub port: u16,
    pub username: Option<String>,
    pub password: Option<String>,
}

/// Why text is no [`MqttUrl`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    #[error("{0:?}: TLS is not supported yet, only mqtt://")]
    TlsNotSupported(String),
    #[error("{0:?}: an MQTT address starts with mqtt://, not {1}://")]
    Scheme(String, String),
    #[error("{0:?}: no host")]
    NoHost(String),
    #[error("{0:?}: {1:?} is no port from 1 to 65535")]
    Port(String, String),
    #[error("{0:?}: nothing may follow the port, found {1:?}")]
    Path(String, String),
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
        Self { host: host.to_string(), port: address.port(), username: None, password: None }
    }
}

impl FromStr for MqttUrl {
    type Err = BadUrl;

    /// `mqtt://` and `tcp://` mean the same, and a bare `host[:port]` is taken too. `%` escapes are
    /// undone in the user name and the password. An IPv6 address stands in brackets.
    fn from_str(text: &str) -> Result<Self, BadUrl> {
        // The password never gets into an error.
        let shown = || match (text.find("://"), text.rfind('@')) {
            (Some(scheme), Some(at)) if scheme < at => format!("{}***{}", &text[..scheme + 3], &text[at..]),
            (None, Some(at)) => format!("***{}", &text[at..]),
            _ => text.to_owned(),
        };
        let rest = match text.split_once("://") {
            None => text,
            Some(("mqtt" | "tcp", rest)) => rest,
            Some(("mqtts" | "ssl" | "tls", _)) => return Err(BadUrl::TlsNotSupported(shown())),
            Some((scheme, _)) => return Err(BadUrl::Scheme(shown(), scheme.to_owned())),
        };
        let (credentials, address) = match rest.rsplit_once('@') {
            Some((credentials, address)) => (Some(credentials), address),
            None => (None, rest),
        };
        let unescape = |text| unescape(text).ok_or_else(|| BadUrl::Escape(shown()));
        let (username, password) = match credentials.map(|both| both.split_once(':').ok_or(both)) {
            None => (None, None),
            Some(Ok((username, password))) => (Some(unescape(username)?), Some(unescape(password)?)),
            Some(Err(username)) => (Some(unescape(username)?), None),
        };
        let address = match address.split_once(['/', '?', '#']) {
            None => address,
            Some((address, "")) => address,
            Some((_, path)) => return Err(BadUrl::Path(shown(), path.to_owned())),
        };
        let (host, port) = split_port(address);
        if host.is_empty() {
            return Err(BadUrl::NoHost(shown()));
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => match port.parse() {
                Ok(number) if number != 0 => number,
                _ => return Err(BadUrl::Port(shown(), port.to_owned())),
            },
        };
        Ok(Self { host: host.to_owned(), port, username, password })
    }
}

impl fmt::Display for MqttUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') {
            write!(f, "mqtt://[{host}]:{port}")
        } else {
            write!(f, "mqtt://{host}:{port}")
        }
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
        assert_eq!(error("mqtts://h"), "\"mqtts://h\": TLS is not supported yet, only mqtt://");
        assert_eq!(error("http://h"), "\"http://h\": an MQTT address starts with mqtt://, not http://");
        assert_eq!(error("mqtt://"), "\"mqtt://\": no host");
        assert_eq!(error("mqtt://u:secret@h:0"), "\"mqtt://***@h:0\": \"0\" is no port from 1 to 65535");
        assert_eq!(error("mqtt://h:1/x"), "\"mqtt://h:1/x\": nothing may follow the port, found \"x\"");
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

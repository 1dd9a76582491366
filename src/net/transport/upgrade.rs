//! The HTTP request that a WebSocket connection begins with (RFC 6455 section 4), from either end.

use std::{io, net::IpAddr};

use base64::{Engine, prelude::BASE64_STANDARD};
use httparse::{EMPTY_HEADER, Header, Request, Response, Status};
use sha1::{Digest, Sha1};
use tokio::{net::TcpStream, task::yield_now};

use super::{channel::Channel, layered::random};

/// Request line and header fields, in bytes: what a browser sends has cookies in it.
const HEAD_MAX: usize = 16 << 10;

const FIELDS_MAX: usize = 100;

/// What every key is hashed with [section 1.3].
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The subprotocols of MQTT [MQTT-6.0.0-3]; the second is what clients of version 3.1 ask for.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// What a server takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocketOptions {
    /// The longest frame, in bytes; what a frame brings is passed on before it is whole.
    pub frame_max: u64,
    /// Pages whose scripts may connect, as browsers spell their Origin; `*` is all. Those of this machine, and of
    /// the very IP address that is connected to, always may.
    pub origins: Vec<String>,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::net) struct WebSocketRequest {
    /// As in a URL, with the port.
    pub host: String,
    /// Begins with `/`; the query belongs to it.
    pub path: String,
}

/// Why a request is refused.
struct Refusal {
    status: &'static str,
    reason: String,
}

impl Refusal {
    fn bad(reason: impl Into<String>) -> Self {
        Self { status: "400 Bad Request", reason: reason.into() }
    }
}

/// Answers the request of a client; what it sent behind it.
pub(super) async fn accept(
    tcp: &TcpStream,
    channel: &mut Channel,
    offer: &WebSocketOptions,
) -> io::Result<Vec<u8>> {
    let (head, early) = match read_head(tcp, channel).await? {
        Ok(head) => head,
        Err(refusal) => return Err(refuse(tcp, channel, refusal).await),
    };
    match answer(&head, offer) {
        Ok(answer) => {
            write_all(tcp, channel, answer.as_bytes()).await?;
            Ok(early)
        }
        Err(refusal) => Err(refuse(tcp, channel, refusal).await),
    }
}

/// Says why, and ends.
async fn refuse(tcp: &TcpStream, channel: &mut Channel, refusal: Refusal) -> io::Error {
    let Refusal { status, reason } = refusal;
    let version =
        if status.starts_with("426") { "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" } else { "" };
    let answer = format!(
        "HTTP/1.1 {status}\r\n{version}Connection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\n\r\n{reason}\n",
        reason.len() + 1
    );
    // What went wrong matters more than whether the client could be told.
    let _ = write_all(tcp, channel, answer.as_bytes()).await;
    channel.finish();
    let _ = channel.flush(tcp);
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// The answer that begins the connection.
fn answer(head: &[u8], offer: &WebSocketOptions) -> Result<String, Refusal> {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut request = Request::new(&mut fields);
    match request.parse(head) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) => return Err(Refusal::bad("the request is not whole")),
        Err(httparse::Error::TooManyHeaders) => {
            let status = "431 Request Header Fields Too Large";
            return Err(Refusal { status, reason: format!("more than {FIELDS_MAX} header fields") });
        }
        Err(error) => return Err(Refusal::bad(format!("not an HTTP request: {error}"))),
    }
    let fields = &*request.headers;
    let upgrades = has_token(fields, "upgrade", "websocket") && has_token(fields, "connection", "upgrade");
    let version = field(fields, "sec-websocket-version");
    if !upgrades || version != Some("13") {
        let reason =
            "this is MQTT over WebSocket (RFC 6455), version 13: connect with an MQTT client".to_owned();
        return Err(Refusal { status: "426 Upgrade Required", reason });
    }
    if request.method != Some("GET") || request.version != Some(1) {
        return Err(Refusal::bad("a WebSocket begins with GET and HTTP/1.1"));
    }
    for name in ["origin", "host", "sec-websocket-key"] {
        if fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count() > 1 {
            return Err(Refusal::bad(format!("more than one {name}")));
        }
    }
    let key = field(fields, "sec-websocket-key").unwrap_or("");
    if BASE64_STANDARD.decode(key).map_or(0, |key| key.len()) != 16 {
        return Err(Refusal::bad("Sec-WebSocket-Key is to be 16 bytes in Base64"));
    }
    check_origin(fields, &offer.origins)?;
    let asked = SUBPROTOCOLS.into_iter().find(|name| has_token(fields, "sec-websocket-protocol", name));
    let Some(subprotocol) = asked else {
        return Err(Refusal::bad("ask for the WebSocket subprotocol mqtt"));
    };
    let accept = accept_key(key);
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
    ))
}

/// Browsers say which page's script connects. Only they can be talked into it by a page that somebody happens to look at,
/// so others say nothing and are let in.
fn check_origin(fields: &[Header<'_>], allowed: &[String]) -> Result<(), Refusal> {
    let Some(origin) = field(fields, "origin") else { return Ok(()) };
    let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let is_own = host.is_some_and(|host| {
        let name = host_name(host);
        // Of names, anybody can have one of theirs lead here.
        let is_address = name.parse::<IpAddr>().is_ok();
        is_loopback(name) || is_address && field(fields, "host").is_some_and(|own| host_name(own) == name)
    });
    if is_own || allowed.iter().any(|one| one == "*" || one.eq_ignore_ascii_case(origin)) {
        return Ok(());
    }
    let shown: String = origin.chars().take(200).collect();
    Err(Refusal {
        status: "403 Forbidden",
        reason: format!("pages from {shown:?} may not connect; mqtt.websocket.origins lists those that may"),
    })
}

/// Without the port.
fn host_name(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, _)) => name,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

fn is_loopback(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Sends the request; what the server sent behind its answer.
pub(super) async fn request(
    tcp: &TcpStream,
    channel: &mut Channel,
    request: &WebSocketRequest,
) -> io::Result<Vec<u8>> {
    let mut key = [0; 16];
    random(&mut key);
    let key = BASE64_STANDARD.encode(key);
    let WebSocketRequest { host, path } = request;
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    );
    write_all(tcp, channel, head.as_bytes()).await?;
    let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let (head, early) = match read_head(tcp, channel).await? {
        Ok(head) => head,
        Err(refusal) => return Err(invalid(refusal.reason)),
    };
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut response = Response::new(&mut fields);
    match response.parse(&head) {
        Ok(Status::Complete(_)) => {}
        _ => return Err(invalid("the answer is not HTTP".to_owned())),
    }
    let fields = &*response.headers;
    match response.code {
        Some(101) => {}
        Some(code) => {
            let phrase = response.reason.unwrap_or("");
            return Err(invalid(format!("no WebSocket at {path}: HTTP {code} {phrase}")));
        }
        None => return Err(invalid("the answer has no status".to_owned())),
    }
    if field(fields, "sec-websocket-accept") != Some(accept_key(&key).as_str()) {
        return Err(invalid("the answer does not belong to our request".to_owned()));
    }
    if !SUBPROTOCOLS.iter().any(|name| has_token(fields, "sec-websocket-protocol", name)) {
        return Err(invalid("the server does not speak MQTT over WebSocket".to_owned()));
    }
    Ok(early)
}

fn accept_key(key: &str) -> String {
    BASE64_STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

fn field<'a>(fields: &'a [Header<'_>], name: &str) -> Option<&'a str> {
    let field = fields.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(field.value).ok().map(str::trim)
}

/// Whether a field that is a list has `token` in it.
fn has_token(fields: &[Header<'_>], name: &str, token: &str) -> bool {
    let named = fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
    named
        .filter_map(|field| std::str::from_utf8(field.value).ok())
        .flat_map(|value| value.split(','))
        .any(|one| one.trim().eq_ignore_ascii_case(token))
}

/// A head, up to and with its empty line, and what was read behind it.
async fn read_head(
    tcp: &TcpStream,
    channel: &mut Channel,
) -> io::Result<Result<(Vec<u8>, Vec<u8>), Refusal>> {
    let mut head = Vec::new();
    let mut chunk = [0; 2048];
    loop {
        match channel.try_read(tcp, &mut chunk) {
            Ok(Some(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(None) => yield_now().await,
            Ok(Some(count)) => {
                // The end may be cut in two.
                let from = head.len().saturating_sub(3);
                head.extend_from_slice(&chunk[..count]);
                if let Some(end) = head[from..].windows(4).position(|four| four == b"\r\n\r\n") {
                    let early = head.split_off(from + end + 4);
                    return Ok(Ok((head, early)));
                }
                if head.len() > HEAD_MAX {
                    let status = "431 Request Header Fields Too Large";
                    return Ok(Err(Refusal {
                        status,
                        reason: format!("more than {HEAD_MAX} bytes of header"),
                    }));
                }
                // Who speaks MQTT without WebSocket would wait for ever.
                if !head[0].is_ascii_graphic() {
                    return Ok(Err(Refusal::bad("this is no HTTP; is it MQTT without WebSocket?")));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tcp.readable().await?,
            Err(error) => return Err(error),
        }
    }
}

async fn write_all(tcp: &TcpStream, channel: &mut Channel, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() || channel.has_unwritten() {
        let written = match bytes.is_empty() {
            true => channel.flush(tcp).map(|()| 0),
            false => channel.try_write(tcp, bytes),
        };
        match written {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tcp.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: broker.example:8083\r\nUpgrade: WebSocket\r\n\
        Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat, mqtt\r\n";

    /// The first line of the answer, and the reason if it is a refusal.
    fn try_request(head: &str, origins: &[&str]) -> (String, String) {
        let origins = origins.iter().map(|&origin| origin.to_owned()).collect();
        match answer(format!("{head}\r\n").as_bytes(), &WebSocketOptions { frame_max: 0, origins }) {
            Ok(answer) => (answer, String::new()),
            Err(Refusal { status, reason }) => (status.to_owned(), reason),
        }
    }

    #[test]
    fn the_example_of_the_rfc_is_answered_as_there() {
        let (answer, _) = try_request(REQUEST, &[]);
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(answer.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
        assert!(answer.ends_with("\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"), "{answer}");
    }

    #[test]
    fn what_is_no_such_request_is_told_what_is_expected() {
        for (from, to, status) in [
            ("GET", "POST", "400 Bad Request"),
            ("Upgrade: WebSocket", "Upgrade: h2c", "426 Upgrade Required"),
            ("keep-alive, Upgrade", "keep-alive", "426 Upgrade Required"),
            ("Version: 13", "Version: 8", "426 Upgrade Required"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", "400 Bad Request"),
            ("chat, mqtt", "chat", "400 Bad Request"),
            (
                "Upgrade: WebSocket",
                "Origin: http://localhost\r\nOrigin: http://evil\r\nUpgrade: websocket",
                "400 Bad Request",
            ),
            ("HTTP/1.1", "HTTP/9.1", "400 Bad Request"),
        ] {
            let request = REQUEST.replace(from, to);
            assert_eq!(try_request(&request, &[]).0, status, "{to}");
        }
    }

    #[test]
    fn only_pages_that_may_can_connect() {
        let may = |origin: &str, allowed: &[&str]| {
            // A page of evil.example, whose name leads here, would send that as Host.
            let own =
                if origin.contains("broker.example") { "broker.example:8083" } else { "192.0.2.7:8083" };
            let request = REQUEST.replace("broker.example:8083", own);
            let (answer, _) = try_request(&format!("{request}Origin: {origin}\r\n"), allowed);
            answer.starts_with("HTTP/1.1 101 ")
        };
        for origin in
            ["http://localhost:5173", "https://127.0.0.1", "http://[::1]:80", "http://192.0.2.7:5173"]
        {
            assert!(may(origin, &[]), "{origin}");
        }
        for origin in [
            "https://evil.example",
            "http://broker.example:8083",
            "http://192.0.2.8",
            "null",
            "http://localhost.evil.example",
            "file://localhost",
        ] {
            assert!(!may(origin, &["https://good.example"]), "{origin}");
            assert!(may(origin, &["*"]), "{origin}");
        }
        assert!(may("https://good.example", &["https://good.example"]));
    }
}

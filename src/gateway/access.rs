//! Who may call the control plane: token, Host and Origin.

use std::net::IpAddr;

use http::{HeaderMap, Request, header, uri::Authority};
use tonic::Status;

/// The path that needs no token: whether the process is alive is no secret, and probes carry none.
pub const HEALTH_PATH: &str = "/__mockforge/health";
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/";

/// What a request has to bring to be let in.
#[derive(Clone, Default)]
pub struct Access {
    /// Sent as `Authorization: Bearer …`, when set.
    pub token: Option<String>,
    /// Takes any Host. Otherwise it has to be `localhost` or an IP address: a page that has its own name resolve to us
    /// (DNS rebinding) is kept out. For listeners that others than this machine reach by name.
    pub any_host: bool,
}

impl Access {
    /// # Errors
    /// PERMISSION_DENIED for a foreign Host or Origin, UNAUTHENTICATED without the token.
    pub fn check<B>(&self, request: &Request<B>) -> Result<(), Status> {
        let host = host(request)?;
        if let Some(host) = &host
            && !self.any_host
            && !is_local(host.host())
        {
            return Err(Status::permission_denied(format!(
                "Host {host} is not this machine: use localhost or an IP address"
            )));
        }
        check_origin(request.headers(), host.as_ref())?;
        self.check_token(request)
    }

    fn check_token<B>(&self, request: &Request<B>) -> Result<(), Status> {
        let path = request.uri().path();
        let Some(token) = &self.token else { return Ok(()) };
        if path == HEALTH_PATH || path.starts_with(GRPC_HEALTH) {
            return Ok(());
        }
        let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        match given {
            Some(given) if same(given.as_bytes(), token.as_bytes()) => Ok(()),
            Some(_) => Err(Status::unauthenticated("the token is not the right one")),
            None => Err(Status::unauthenticated("send the token as `Authorization: Bearer …`")),
        }
    }
}

/// Whom the request takes us for: `:authority` or Host.
fn host<B>(request: &Request<B>) -> Result<Option<Authority>, Status> {
    let no_host = || Status::permission_denied("Host is no host");
    let authority = match (request.uri().authority(), request.headers().get(header::HOST)) {
        (Some(authority), _) => authority.clone(),
        (None, Some(host)) => Authority::try_from(host.as_bytes()).map_err(|_| no_host())?,
        (None, None) => return Ok(None),
    };
    // `user@host` has no place here [RFC 9110 section 7.2].
    if authority.as_str().contains('@') { Err(no_host()) } else { Ok(Some(authority)) }
}

/// Browsers say where a page that sends something comes from; only our own pages may.
fn check_origin(headers: &HeaderMap, host: Option<&Authority>) -> Result<(), Status> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let own = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")))
        .zip(host)
        .is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host.as_str()));
    own.then_some(()).ok_or_else(|| Status::permission_denied("requests of other sites' pages are refused"))
}

fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.to_ascii_lowercase().ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok()
}

/// Compares in a time that doesn't tell how much was right.
fn same(one: &[u8], two: &[u8]) -> bool {
    one.len() == two.len() && one.iter().zip(two).fold(0, |bits, (a, b)| bits | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ok` or what the refusal says first.
    #[track_caller]
    fn check(access: &Access, path: &str, headers: &[(&str, &str)], expected: &str) {
        let mut request = Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let got = match access.check(&request.body(()).unwrap()) {
            Ok(()) => "ok".to_owned(),
            Err(status) => format!("{:?}", status.code()),
        };
        assert_eq!(got, expected, "{path} {headers:?}");
    }

    #[test]
    fn a_name_that_is_not_ours_is_refused_as_host() {
        let local = Access::default();
        for host in ["localhost:3000", "127.0.0.1:3000", "[::1]:3000", "192.168.0.4", "a.localhost"] {
            check(&local, "/", &[("host", host)], "ok");
        }
        for host in
            ["evil.example:3000", "localhost.evil.example", "127.0.0.1.evil.example", "evil@localhost", ""]
        {
            check(&local, "/", &[("host", host)], "PermissionDenied");
        }
        check(&Access { any_host: true, ..local }, "/", &[("host", "mockforge:3000")], "ok");
    }

    #[test]
    fn only_our_own_pages_may_call() {
        for any_host in [false, true] {
            let access = Access { any_host, token: None };
            let host = ("host", "localhost:3000");
            check(&access, "/", &[host, ("origin", "http://localhost:3000")], "ok");
            check(&access, "/", &[host, ("origin", "http://localhost:8080")], "PermissionDenied");
            check(&access, "/", &[host, ("origin", "https://evil.example")], "PermissionDenied");
            check(&access, "/", &[host, ("origin", "null")], "PermissionDenied");
        }
    }

    #[test]
    fn all_but_health_needs_the_token() {
        let access = Access { token: Some("secret".to_owned()), any_host: false };
        check(&access, "/__mockforge/info", &[], "Unauthenticated");
        check(&access, "/__mockforge/metrics", &[("authorization", "Bearer secret1")], "Unauthenticated");
        check(&access, "/__mockforge/info", &[("authorization", "Basic secret")], "Unauthenticated");
        check(&access, "/__mockforge/info", &[("authorization", "bearer secret")], "ok");
        check(&access, "/__mockforge/health", &[], "ok");
        check(&access, "/grpc.health.v1.Health/Check", &[], "ok");
        check(&access, "/mockforge.mqtt.v1.Admin/GetServerInfo", &[], "Unauthenticated");
    }
}

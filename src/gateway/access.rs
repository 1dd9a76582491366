//! Who may call the control plane, and for what: token or certificate, Host and Origin.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Weak},
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Version, header, uri::Authority};
use prost_reflect::{DescriptorPool, MethodDescriptor};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{seats::Seat, status::with_reason};
use crate::{
    auth::Role,
    control::{ERROR_DOMAIN, TokensInForce},
};

/// The path that needs no token: whether the process is alive is no secret, and probes carry none.
pub const HEALTH_PATH: &str = "/__mockforge/health";
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/";

/// Served beside the contract; it shows no more than the contract does.
const REFLECTION: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What a request has to bring to be let in.
#[derive(Clone, Default)]
pub struct Access {
    /// Who may do what; when empty, everybody everything.
    pub tokens: TokensInForce,
    /// Names that we may be called by over plain HTTP, beside `localhost` and addresses, as the setting has them. A page that
    /// has its own name resolve to us (DNS rebinding) is kept out by that.
    pub hosts: Vec<String>,
    pub other_hosts: OtherHosts,
}

/// Which names are taken that nobody listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OtherHosts {
    #[default]
    None,
    /// Those without a dot, such as a container's: no page on the internet is called so.
    Undotted,
    /// Any: what is asked of them besides, a page of others does not have.
    Any,
}

/// What is known of the connection that a request came by.
#[derive(Clone, Default)]
pub struct Connected {
    /// The name it was opened by stood in our certificate.
    pub is_tls: bool,
    /// Common name of the caller's certificate, which was checked.
    pub certificate: Option<Arc<str>>,
    pub peer: Option<SocketAddr>,
    pub seat: Weak<Seat>,
}

impl Access {
    /// What the caller may do; `None` where that does not matter, for health.
    ///
    /// # Errors
    /// PERMISSION_DENIED for a foreign Host or Origin, UNAUTHENTICATED without a token.
    pub fn check<B>(&self, request: &Request<B>) -> Result<Option<Role>, Status> {
        let host = host(request)?;
        let is_tls = request.extensions().get::<Connected>().is_some_and(|connected| connected.is_tls);
        if let Some(host) = &host
            && !is_tls
            && !self.takes_host(host.host())
        {
            let text = format!(
                "Host {host} is not this machine: use localhost or an IP address, or list the name in http.allowed_hosts"
            );
            return Err(denied("FOREIGN_HOST", text));
        }
        check_origin(request.headers(), host.as_ref())?;
        let path = request.uri().path();
        if path == HEALTH_PATH || path.starts_with(GRPC_HEALTH) {
            return Ok(None);
        }
        self.role(request).map(Some)
    }

    fn role<B>(&self, request: &Request<B>) -> Result<Role, Status> {
        let tokens = self.tokens.get();
        if tokens.is_empty() {
            return Ok(Role::Admin);
        }
        let mut given = request.headers().get_all(header::AUTHORIZATION).iter();
        match (given.next(), given.next()) {
            (Some(_), Some(_)) => Err(unauthenticated("TOKEN_WRONG", "send one Authorization")),
            (Some(value), None) => match bearer(value) {
                Some(token) => match tokens.of_token(token) {
                    Some(token) => Ok(token.role()),
                    None => Err(unauthenticated("TOKEN_WRONG", "the token is not the right one")),
                },
                None => Err(unauthenticated("TOKEN_MISSING", "send the token as `Authorization: Bearer …`")),
            },
            (None, _) => {
                let certificate =
                    request.extensions().get().and_then(|by: &Connected| by.certificate.clone());
                let known = certificate.and_then(|name| tokens.of_certificate(&name));
                known.map(|token| token.role()).ok_or_else(|| {
                    unauthenticated("TOKEN_MISSING", "send the token as `Authorization: Bearer …`")
                })
            }
        }
    }

    fn takes_host(&self, name: &str) -> bool {
        let is_listed = |listed: &String| match listed.strip_prefix('*') {
            Some("") => true,
            Some(below) => {
                name.len() > below.len()
                    && name.is_char_boundary(name.len() - below.len())
                    && name[name.len() - below.len()..].eq_ignore_ascii_case(below)
            }
            None => name.eq_ignore_ascii_case(listed),
        };
        let is_taken_unlisted = match self.other_hosts {
            OtherHosts::None => false,
            OtherHosts::Undotted => !name.is_empty() && !name.contains(['.', ':']),
            OtherHosts::Any => true,
        };
        is_local(name) || is_taken_unlisted || self.hosts.iter().any(is_listed)
    }
}

/// What each rpc needs, by its path in gRPC.
#[derive(Clone)]
pub struct Permissions(Arc<HashMap<String, Needs>>);

/// What a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// At least.
    pub role: Role,
    /// Whether it may last, because one side sends as much as it likes, or it waits for something.
    pub streams: bool,
}

impl Permissions {
    /// Those of the contract, and of reflection. `Err` is the name of an rpc that says none.
    pub fn new(pool: &DescriptorPool) -> Result<Self, String> {
        let mut needs = HashMap::new();
        for rpc in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            let role = required_role(pool, &rpc).ok_or_else(|| rpc.full_name().to_owned())?;
            let streams = lasts(&rpc);
            let path = format!("/{}/{}", rpc.parent_service().full_name(), rpc.name());
            needs.insert(path, Needs { role, streams });
        }
        needs.extend(REFLECTION.map(|path| (path.to_owned(), Needs { role: Role::Read, streams: true })));
        Ok(Self(Arc::new(needs)))
    }

    /// Whether a gRPC call streams; a path that is not listed is not called, whatever a router would make of it.
    ///
    /// # Errors
    /// PERMISSION_DENIED for a lesser role, UNIMPLEMENTED for an unknown path.
    pub fn check(&self, path: &str, role: Role) -> Result<bool, Status> {
        let needs = self.0.get(path).ok_or_else(rpc_unknown)?;
        check_role(role, needs.role).map(|()| needs.streams)
    }
}

/// Whether an rpc may last: it streams, or the contract says so.
pub fn lasts(rpc: &MethodDescriptor) -> bool {
    let says_so = rpc
        .parent_pool()
        .get_extension_by_name("mockforge.mqtt.v1.lasts")
        .is_some_and(|extension| rpc.options().get_extension(&extension).as_bool() == Some(true));
    rpc.is_client_streaming() || rpc.is_server_streaming() || says_so
}

/// What the contract says that an rpc needs.
pub fn required_role(pool: &DescriptorPool, rpc: &MethodDescriptor) -> Option<Role> {
    let extension = pool.get_extension_by_name("mockforge.mqtt.v1.required_role")?;
    match rpc.options().get_extension(&extension).as_enum_number()? {
        1 => Some(Role::Read),
        2 => Some(Role::Control),
        3 => Some(Role::Admin),
        _ => None,
    }
}

/// # Errors
/// PERMISSION_DENIED, with both roles, for one that is less than needed.
pub fn check_role(role: Role, needed: Role) -> Result<(), Status> {
    if role >= needed {
        return Ok(());
    }
    let (role, needed) = (role.name(), needed.name());
    let text = format!("needs role {needed}, and the caller's is {role}");
    let metadata =
        [("required_role", needed), ("role", role)].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let details = ErrorDetails::with_error_info("ROLE_TOO_LOW", ERROR_DOMAIN, metadata);
    Err(Status::with_error_details(Code::PermissionDenied, text, details))
}

pub fn rpc_unknown() -> Status {
    with_reason(Code::Unimplemented, "RPC_UNKNOWN", "there is no such rpc")
}

fn denied(reason: &str, text: impl Into<String>) -> Status {
    with_reason(Code::PermissionDenied, reason, text)
}

fn unauthenticated(reason: &str, text: &str) -> Status {
    with_reason(Code::Unauthenticated, reason, text)
}

fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Whom the request takes us for: `:authority`, the target's or Host. Two that differ are for somebody between to be
/// confused by, as is what forwarders add, which is not read.
fn host<B>(request: &Request<B>) -> Result<Option<Authority>, Status> {
    let no_host = || denied("FOREIGN_HOST", "Host is no host");
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host =
        hosts.next().map(|host| Authority::try_from(host.as_bytes()).map_err(|_| no_host())).transpose()?;
    let two_hosts = || denied("FOREIGN_HOST", "the request names two hosts");
    if hosts.next().is_some() {
        return Err(two_hosts());
    }
    let authority = match (request.uri().authority(), host) {
        (Some(authority), Some(host)) if !authority.as_str().eq_ignore_ascii_case(host.as_str()) => {
            return Err(two_hosts());
        }
        (Some(authority), _) => authority.clone(),
        (None, Some(host)) => host,
        // [RFC 9112 section 3.2]
        (None, None) if request.version() >= Version::HTTP_11 => {
            return Err(denied("FOREIGN_HOST", "the request names no host"));
        }
        (None, None) => return Ok(None),
    };
    // `user@host` has no place here [RFC 9110 section 7.2].
    if authority.as_str().contains('@') { Err(no_host()) } else { Ok(Some(authority)) }
}

/// Browsers say where a page that sends something comes from, and of what they fetch for one whether it is from
/// elsewhere; only our own pages may.
fn check_origin(headers: &HeaderMap, host: Option<&Authority>) -> Result<(), Status> {
    let foreign = || denied("FOREIGN_ORIGIN", "requests of other sites' pages are refused");
    for origin in headers.get_all(header::ORIGIN) {
        let own = origin
            .to_str()
            .ok()
            .and_then(|origin| origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")))
            .zip(host)
            .is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host.as_str()));
        if !own {
            return Err(foreign());
        }
    }
    // Another port of this host is of the same site.
    let is_own = |site: &HeaderValue| matches!(site.as_bytes(), b"same-origin" | b"none");
    if headers.get_all(SEC_FETCH_SITE).iter().all(is_own) { Ok(()) } else { Err(foreign()) }
}

fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.to_ascii_lowercase().ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{auth::ApiTokens, control::pb};

    fn access(tokens: serde_json::Value) -> Access {
        let specs: Vec<_> = serde_json::from_value(tokens).unwrap();
        Access { tokens: ApiTokens::new(&specs).unwrap().into(), ..Access::default() }
    }

    fn request(path: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") && path.starts_with('/') {
            request = request.header("host", "localhost");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    /// The role, or the reason of the refusal.
    #[track_caller]
    fn check_request(access: &Access, request: &Request<()>, expected: &str) {
        let got = match access.check(request) {
            Ok(None) => "anybody".to_owned(),
            Ok(Some(role)) => role.name().to_owned(),
            Err(status) => status.get_error_details().error_info().unwrap().reason.clone(),
        };
        assert_eq!(got, expected, "{request:?}");
    }

    #[track_caller]
    fn check(access: &Access, path: &str, headers: &[(&str, &str)], expected: &str) {
        check_request(access, &request(path, headers), expected);
    }

    #[test]
    fn a_name_that_is_not_ours_is_refused_as_host() {
        let local = Access::default();
        for host in ["localhost:3000", "127.0.0.1:3000", "[::1]:3000", "192.168.0.4", "a.localhost"] {
            check(&local, "/", &[("host", host)], "admin");
        }
        for host in [
            "evil.example:3000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil@localhost",
            "localhost@evil.example",
            "localhost.",
            "mockforge",
            "",
        ] {
            check(&local, "/", &[("host", host)], "FOREIGN_HOST");
        }
        let any = Access { other_hosts: OtherHosts::Any, ..local.clone() };
        check(&any, "/", &[("host", "mockforge.example:3000")], "admin");
        let undotted = Access { other_hosts: OtherHosts::Undotted, ..local };
        check(&undotted, "/", &[("host", "mockforge:3000")], "admin");
        check(&undotted, "/", &[("host", "mockforge.example:3000")], "FOREIGN_HOST");
    }

    #[test]
    fn names_may_be_listed() {
        let hosts = ["ci.example", "*.test.example"].map(str::to_owned).to_vec();
        let access = Access { hosts, ..Access::default() };
        for (host, expected) in [
            ("CI.example:3000", "admin"),
            ("a.test.example", "admin"),
            ("a.b.test.example", "admin"),
            ("test.example", "FOREIGN_HOST"),
            ("evilci.example", "FOREIGN_HOST"),
            ("ci.example.evil", "FOREIGN_HOST"),
        ] {
            check(&access, "/", &[("host", host)], expected);
        }
    }

    #[test]
    fn a_request_names_one_host() {
        let access = Access::default();
        check(&access, "/", &[("host", "localhost"), ("host", "evil.example")], "FOREIGN_HOST");
        check(&access, "/", &[("host", "localhost"), ("host", "localhost")], "FOREIGN_HOST");
        check(&access, "http://localhost:3000/", &[("host", "evil.example")], "FOREIGN_HOST");
        check(&access, "http://evil.example/", &[("host", "localhost")], "FOREIGN_HOST");
        check(&access, "http://localhost:3000/", &[("host", "localhost:3000")], "admin");
        check(&access, "http://localhost:3000/", &[], "admin");
        let mut bare = request("http://localhost/", &[]);
        *bare.uri_mut() = "/".parse().unwrap();
        check_request(&access, &bare, "FOREIGN_HOST");
        *bare.version_mut() = Version::HTTP_10;
        check_request(&access, &bare, "admin");
    }

    #[test]
    fn what_a_forwarder_says_counts_for_nothing() {
        let forwarded =
            [("host", "evil.example"), ("x-forwarded-host", "localhost"), ("forwarded", "host=localhost")];
        check(&Access::default(), "/", &forwarded, "FOREIGN_HOST");
    }

    #[test]
    fn over_tls_the_certificate_says_the_names() {
        let mut over_tls = request("/", &[("host", "mockforge.example")]);
        over_tls.extensions_mut().insert(Connected { is_tls: true, ..Connected::default() });
        check_request(&Access::default(), &over_tls, "admin");
    }

    #[test]
    fn only_our_own_pages_may_call() {
        for other_hosts in [OtherHosts::None, OtherHosts::Any] {
            let access = Access { other_hosts, ..Access::default() };
            let host = ("host", "localhost:3000");
            check(&access, "/", &[host, ("origin", "http://localhost:3000")], "admin");
            for origin in [
                "http://localhost:8080",
                "https://evil.example",
                "null",
                "http://localhost:3000.evil.example",
                "file://",
            ] {
                check(&access, "/", &[host, ("origin", origin)], "FOREIGN_ORIGIN");
            }
            let two = [host, ("origin", "http://localhost:3000"), ("origin", "https://evil.example")];
            check(&access, "/", &two, "FOREIGN_ORIGIN");
            for (site, expected) in [
                ("none", "admin"),
                ("same-origin", "admin"),
                ("same-site", "FOREIGN_ORIGIN"),
                ("cross-site", "FOREIGN_ORIGIN"),
            ] {
                check(&access, "/", &[host, ("sec-fetch-site", site)], expected);
            }
        }
    }

    #[test]
    fn all_but_health_needs_a_token() {
        let access = access(json!([{"name": "ci", "role": "control", "token": "secret"}]));
        check(&access, "/__mockforge/info", &[], "TOKEN_MISSING");
        check(&access, "/__mockforge/metrics", &[("authorization", "Bearer secret1")], "TOKEN_WRONG");
        check(&access, "/__mockforge/info", &[("authorization", "Basic secret")], "TOKEN_MISSING");
        check(&access, "/__mockforge/info", &[("authorization", "bearer secret")], "control");
        let two = [("authorization", "bearer secret"), ("authorization", "bearer secret")];
        check(&access, "/__mockforge/info", &two, "TOKEN_WRONG");
        for path in [
            "/__mockforge/health/",
            "/__mockforge/health%2f..",
            "//__mockforge/health",
            "/__mockforge/Health",
        ] {
            check(&access, path, &[], "TOKEN_MISSING");
        }
        check(&access, "/__mockforge/health", &[], "anybody");
        check(&access, "/grpc.health.v1.Health/Check", &[], "anybody");
        for path in REFLECTION {
            check(&access, path, &[], "TOKEN_MISSING");
        }
    }

    #[test]
    fn nobody_is_admin_where_no_token_makes_one() {
        let access = access(json!([{"name": "eyes", "role": "read", "token": "r"}]));
        check(&access, "/__mockforge/shutdown", &[], "TOKEN_MISSING");
        check(&access, "/__mockforge/shutdown", &[("authorization", "Bearer r")], "read");
    }

    #[test]
    fn a_certificate_counts_by_its_name_and_a_token_before_it() {
        let access = access(json!([
            {"name": "ops", "role": "admin", "certificate": "ops"},
            {"name": "eyes", "role": "read", "token": "r"},
        ]));
        let by = |name: &str, headers: &[(&str, &str)]| {
            let mut request = request("/", headers);
            let connected =
                Connected { is_tls: true, certificate: Some(name.into()), ..Connected::default() };
            request.extensions_mut().insert(connected);
            request
        };
        check_request(&access, &by("ops", &[]), "admin");
        check_request(&access, &by("dev", &[]), "TOKEN_MISSING");
        check_request(&access, &by("ops", &[("authorization", "Bearer r")]), "read");
        check_request(&access, &by("ops", &[("authorization", "Bearer ops")]), "TOKEN_WRONG");
    }

    #[test]
    fn every_rpc_says_the_role_it_needs_and_calls_need_it() {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        let permissions = Permissions::new(&pool).unwrap();
        let check = |path: &str, role, expected: Code| {
            let got = permissions.check(path, role).map_or_else(|status| status.code(), |_| Code::Ok);
            assert_eq!(got, expected, "{path} {role:?}");
        };
        for (path, needs) in permissions.0.iter() {
            for role in [Role::Read, Role::Control, Role::Admin] {
                check(path, role, if role >= needs.role { Code::Ok } else { Code::PermissionDenied });
            }
        }
        for (path, needed) in [
            ("/mockforge.mqtt.v1.Admin/Shutdown", Role::Admin),
            ("/mockforge.mqtt.v1.Recordings/DeleteRecording", Role::Admin),
            ("/mockforge.mqtt.v1.Webhooks/CreateWebhook", Role::Admin),
            ("/mockforge.mqtt.v1.Broker/Publish", Role::Control),
            ("/mockforge.mqtt.v1.Replays/ControlReplay", Role::Control),
            ("/mockforge.mqtt.v1.Recordings/ExportRecording", Role::Read),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Role::Read),
        ] {
            assert_eq!(permissions.0[path].role, needed, "{path}");
        }
        for path in ["/mockforge.mqtt.v1.Admin/Shutdown/", "/mockforge.mqtt.v1.Admin/%53hutdown", "//x", "/"]
        {
            check(path, Role::Admin, Code::Unimplemented);
        }
    }

    #[test]
    fn what_only_looks_is_for_readers_and_nothing_else_is() {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        for rpc in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            let looks =
                ["Get", "List", "Watch", "Read", "Tail"].iter().any(|verb| rpc.name().starts_with(verb))
                    || [
                        "Subscribe",
                        "ExportRecording",
                        "InferMocks",
                        "CheckRecording",
                        "CompareRecordings",
                        "PlanReplay",
                        "WaitForMessages",
                        "Verify",
                        "Count",
                        "Find",
                        "ValidateScenario",
                    ]
                    .contains(&rpc.name());
            let role = required_role(&pool, &rpc).unwrap();
            assert_eq!(role == Role::Read, looks, "{}", rpc.full_name());
        }
    }

    #[test]
    fn a_lesser_role_is_told_which_one_it_needs() {
        let status = check_role(Role::Read, Role::Admin).unwrap_err();
        assert_eq!(status.message(), "needs role admin, and the caller's is read");
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.metadata["required_role"].as_str()),
            ("ROLE_TOO_LOW", "admin")
        );
    }
}

//! A proxy beside the server's own listener, as people write it.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::field::BadField;

/// One proxy. Whether its upstream is a URL of a broker is for whoever connects there to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "keys with values")]
#[schemars(extend("required" = ["id", "upstream"]))]
pub struct ProxySpec {
    /// Unique among proxies; empty gets a free `proxy-1`, `proxy-2` …
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// `HOST:PORT`, or a port of 127.0.0.1; 0 takes a free one, and empty does.
    #[serde(deserialize_with = "place")]
    #[schemars(with = "Place")]
    pub listen: String,
    /// URL of the broker behind it.
    pub upstream: String,
    /// Whether it listens.
    pub enabled: bool,
}

impl Default for ProxySpec {
    fn default() -> Self {
        Self { id: String::new(), listen: String::new(), upstream: String::new(), enabled: true }
    }
}

/// What `listen` may be.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected HOST:PORT or a port")]
enum Place {
    Port(u16),
    Text(String),
}

/// A port may be a number.
fn place<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Place::deserialize(deserializer)? {
        Place::Port(port) => port.to_string(),
        Place::Text(text) => text,
    })
}

/// Where a proxy listens that does not say otherwise.
const LOOPBACK: &str = "127.0.0.1";

impl ProxySpec {
    /// Host, without the brackets of IPv6, and port.
    ///
    /// # Errors
    /// What is wrong with `listen`, for people.
    pub fn listen_address(&self) -> Result<(String, u16), String> {
        let text = self.listen.trim();
        if text.is_empty() {
            return Ok((LOOPBACK.to_owned(), 0));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or((LOOPBACK, text));
        let port = port.parse().map_err(|_| format!("expected HOST:PORT or a port, got {text:?}"))?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        match bare.unwrap_or(host) {
            "" => Err(format!("{text:?} has no host; 0.0.0.0 is all addresses")),
            host if bare.is_none() && host.contains(':') => {
                Err(format!("an IPv6 address stands in brackets: [{host}]:{port}"))
            }
            host => Ok((host.to_owned(), port)),
        }
    }

    /// # Errors
    /// Each field that is wrong, and how.
    pub fn check(&self) -> Result<(), Vec<BadField>> {
        let mut wrong = Vec::new();
        let mut refuse = |path: &str, what: String| wrong.push(BadField { path: path.to_owned(), what });
        if let Err(what) = check_id(&self.id) {
            refuse("id", what);
        }
        if let Err(what) = self.listen_address() {
            refuse("listen", what);
        }
        if self.upstream.is_empty() {
            refuse("upstream", "is required".to_owned());
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

/// Stands in paths, so it has no `/`; empty is none yet.
fn check_id(id: &str) -> Result<(), String> {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    match () {
        () if id == OWN_PROXY => Err(format!("{OWN_PROXY:?} is the proxy of mqtt.upstream")),
        () if id.chars().count() > 100 => Err("has more than 100 characters".to_owned()),
        () if !id.chars().all(is_plain) => Err("expected letters, digits, -, _ and .".to_owned()),
        () => Ok(()),
    }
}

/// Id of the proxy that `mqtt.upstream` makes of the server itself.
pub const OWN_PROXY: &str = "default";

/// Checks proxies that are to be there together.
///
/// # Errors
/// The position of the first that is wrong, and its fields.
pub fn check_proxies(specs: &[ProxySpec]) -> Result<(), (usize, Vec<BadField>)> {
    for (position, spec) in specs.iter().enumerate() {
        spec.check().map_err(|wrong| (position, wrong))?;
        if !spec.id.is_empty() && specs[..position].iter().any(|other| other.id == spec.id) {
            let what = format!("{:?} is the id of another proxy", spec.id);
            return Err((position, vec![BadField { path: "id".to_owned(), what }]));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(listen: &str) -> Result<(String, u16), String> {
        ProxySpec { listen: listen.to_owned(), ..ProxySpec::default() }.listen_address()
    }

    #[test]
    fn a_port_alone_is_of_loopback_and_a_host_is_as_it_says() {
        let at = |host: &str, port| Ok((host.to_owned(), port));
        assert_eq!(listening(""), at("127.0.0.1", 0));
        assert_eq!(listening("1884"), at("127.0.0.1", 1884));
        assert_eq!(listening("0.0.0.0:1884"), at("0.0.0.0", 1884));
        assert_eq!(listening("[::1]:0"), at("::1", 0));
        for text in ["localhost", "a:b", ":1884", "::1", "127.0.0.1:65536"] {
            assert!(listening(text).is_err(), "{text}");
        }
    }

    #[test]
    fn proxies_that_cannot_be_told_apart_are_refused() {
        let proxy = |id: &str| ProxySpec {
            id: id.to_owned(),
            upstream: "mqtt://a".to_owned(),
            ..ProxySpec::default()
        };
        assert_eq!(check_proxies(&[proxy("a"), proxy("b"), proxy(""), proxy("")]), Ok(()));
        let wrong = |ids: &[&str]| {
            let specs: Vec<_> = ids.iter().map(|id| proxy(id)).collect();
            check_proxies(&specs).map_err(|(position, wrong)| (position, wrong[0].path.clone()))
        };
        assert_eq!(wrong(&["a", "a"]), Err((1, "id".to_owned())));
        assert_eq!(wrong(&["default"]), Err((0, "id".to_owned())));
        assert_eq!(wrong(&["a/b"]), Err((0, "id".to_owned())));
    }
}

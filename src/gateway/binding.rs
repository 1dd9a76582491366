//! The `google.api.http` annotations of the proto files, and which request each of them takes.

use std::fmt;

use http::Method;
use percent_encoding::percent_decode_str;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, MethodDescriptor};

use super::access::{lasts, required_role};
use crate::auth::Role;

/// One way to call an rpc by HTTP.
#[derive(Clone, Debug)]
pub struct Binding {
    pub rpc: MethodDescriptor,
    pub method: Method,
    pub template: Template,
    pub body: BodyField,
    /// What callers need.
    pub role: Role,
    /// Whether a call may last.
    pub lasts: bool,
}

/// What the request's body becomes.
#[derive(Clone, Debug)]
pub enum BodyField {
    /// There is none: everything stands in the path and the query.
    Absent,
    /// The whole message.
    Whole,
    /// One field; the rest stands in the path and the query.
    Field(FieldDescriptor),
}

/// A path with captures, such as `/recordings/{id}:stop`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    segments: Vec<Segment>,
    /// What follows the last segment after a colon.
    verb: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// Takes one segment, not empty, for the field of this name.
    Capture(String),
}

/// Why an annotation cannot be served.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBinding {
    #[error("{rpc} has no google.api.http annotation")]
    Missing { rpc: String },
    #[error("{rpc} does not say which role it needs")]
    Role { rpc: String },
    #[error("{rpc}: {template:?} has a capture other than {{field}}")]
    Capture { rpc: String, template: String },
    #[error("{rpc}: the request has no field {field:?}")]
    Field { rpc: String, field: String },
}

impl Binding {
    /// Every binding of every rpc in the pool, `additional_bindings` included. One that speaks both ways at once has none:
    /// HTTP as browsers and curl speak it answers when it has been asked.
    ///
    /// # Errors
    /// [`BadBinding`] for an rpc without an annotation, or with one that names fields its request lacks.
    pub fn all(pool: &DescriptorPool) -> Result<Vec<Self>, BadBinding> {
        let http = pool.get_extension_by_name("google.api.http");
        let mut bindings = Vec::new();
        for rpc in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            if rpc.is_client_streaming() && rpc.is_server_streaming() {
                continue;
            }
            let options = rpc.options();
            let rule = http
                .as_ref()
                .filter(|http| options.has_extension(http))
                .and_then(|http| options.get_extension(http).as_message().cloned())
                .ok_or_else(|| BadBinding::Missing { rpc: rpc.full_name().to_owned() })?;
            let more = rule.get_field_by_name("additional_bindings");
            let more = more.iter().flat_map(|more| more.as_list().unwrap_or_default());
            let role = required_role(pool, &rpc)
                .ok_or_else(|| BadBinding::Role { rpc: rpc.full_name().to_owned() })?;
            bindings.push(Self::new(&rpc, role, &rule)?);
            for rule in more.filter_map(|rule| rule.as_message()) {
                bindings.push(Self::new(&rpc, role, rule)?);
            }
        }
        Ok(bindings)
    }

    fn new(rpc: &MethodDescriptor, role: Role, rule: &DynamicMessage) -> Result<Self, BadBinding> {
        let text = |name: &str| -> String {
            rule.get_field_by_name(name)
                .and_then(|value| value.as_str().map(ToOwned::to_owned))
                .unwrap_or_default()
        };
        let (method, path) = [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::PATCH]
            .into_iter()
            .map(|method| (text(&method.as_str().to_lowercase()), method))
            .find_map(|(path, method)| (!path.is_empty()).then_some((method, path)))
            .ok_or_else(|| BadBinding::Missing { rpc: rpc.full_name().to_owned() })?;

        let template = Template::parse(&path)
            .ok_or_else(|| BadBinding::Capture { rpc: rpc.full_name().to_owned(), template: path.clone() })?;
        let field = |name: &str| {
            rpc.input()
                .get_field_by_name(name)
                .ok_or_else(|| BadBinding::Field { rpc: rpc.full_name().to_owned(), field: name.to_owned() })
        };
        for name in template.captures() {
            field(name)?;
        }
        let body = match text("body").as_str() {
            "" => BodyField::Absent,
            "*" => BodyField::Whole,
            name => BodyField::Field(field(name)?),
        };
        Ok(Self { rpc: rpc.clone(), method, template, body, role, lasts: lasts(rpc) })
    }

    /// The path of the rpc in gRPC.
    pub fn grpc_path(&self) -> String {
        format!("/{}/{}", self.rpc.parent_service().full_name(), self.rpc.name())
    }
}

/// What became of looking for a binding.
#[derive(Debug)]
pub enum Found<'a> {
    /// The binding and its captures, percent-decoded, by field name.
    Binding(&'a Binding, Vec<(String, String)>),
    /// The path exists, with these methods.
    OtherMethods(Vec<Method>),
    Nothing,
}

/// Looks for the binding that takes `path`, as it stood in the request line.
///
/// Of several templates that match, the one with more literal text counts: `/recordings/{id}:stop` before
/// `/recordings/{id}`.
pub fn find<'a>(bindings: &'a [Binding], method: &Method, path: &str) -> Found<'a> {
    let matching: Vec<_> =
        bindings.iter().filter_map(|binding| Some((binding, binding.template.captured(path)?))).collect();
    let Some(best) = matching.iter().map(|(binding, _)| binding.template.weight()).max() else {
        return Found::Nothing;
    };
    let mut best: Vec<_> =
        matching.into_iter().filter(|(binding, _)| binding.template.weight() == best).collect();
    match best.iter().position(|(binding, _)| binding.method == *method) {
        Some(index) => {
            let (binding, captures) = best.swap_remove(index);
            Found::Binding(binding, captures)
        }
        None => Found::OtherMethods(best.into_iter().map(|(binding, _)| binding.method.clone()).collect()),
    }
}

impl Template {
    /// `None` for captures of anything but one whole segment.
    pub fn parse(text: &str) -> Option<Self> {
        let last = text.rfind('/')?;
        let (path, verb) = match text[last..].rfind(':') {
            Some(colon) => (&text[..last + colon], Some(text[last + colon + 1..].to_owned())),
            None => (text, None),
        };
        let segments = path.strip_prefix('/')?.split('/').map(Segment::parse).collect::<Option<_>>()?;
        Some(Self { segments, verb })
    }

    pub fn captures(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Capture(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }

    fn weight(&self) -> usize {
        let literals = self.segments.iter().filter(|segment| matches!(segment, Segment::Literal(_))).count();
        2 * literals + usize::from(self.verb.is_some())
    }

    fn captured(&self, path: &str) -> Option<Vec<(String, String)>> {
        let path = match &self.verb {
            Some(verb) => path.strip_suffix(verb.as_str())?.strip_suffix(':')?,
            None => path,
        };
        let mut parts = path.strip_prefix('/')?.split('/');
        let mut captures = Vec::new();
        for segment in &self.segments {
            let part = parts.next()?;
            match segment {
                Segment::Literal(literal) if literal == part => {}
                Segment::Capture(name) if !part.is_empty() => {
                    // Bytes that are no UTF-8 name nothing that exists.
                    captures.push((name.clone(), percent_decode_str(part).decode_utf8().ok()?.into_owned()));
                }
                _ => return None,
            }
        }
        parts.next().is_none().then_some(captures)
    }
}

/// As it stands in the annotation.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Literal(literal) => write!(f, "/{literal}")?,
                Segment::Capture(name) => write!(f, "/{{{name}}}")?,
            }
        }
        match &self.verb {
            Some(verb) => write!(f, ":{verb}"),
            None => Ok(()),
        }
    }
}

impl Segment {
    fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix('{') {
            Some(rest) => {
                let name = rest.strip_suffix('}')?;
                (!name.contains(['=', '{', '}'])).then(|| Self::Capture(name.to_owned()))
            }
            None => (!text.contains(['{', '}', '*'])).then(|| Self::Literal(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::pb;

    fn bindings() -> Vec<Binding> {
        let pool = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        Binding::all(&pool).unwrap()
    }

    /// The rpc that takes a request, with its captures.
    fn check(method: Method, path: &str, expected: &str) {
        let bindings = bindings();
        let got = match find(&bindings, &method, path) {
            Found::Binding(binding, captures) => {
                let captures: Vec<_> =
                    captures.iter().map(|(name, value)| format!(" {name}={value}")).collect();
                format!("{}{}", binding.rpc.name(), captures.concat())
            }
            Found::OtherMethods(methods) => format!("only {methods:?}"),
            Found::Nothing => "nothing".to_owned(),
        };
        assert_eq!(got, expected, "{method} {path}");
    }

    #[test]
    fn every_rpc_has_an_annotation_and_every_annotation_finds_its_rpc() {
        let bindings = bindings();
        let rpcs = DescriptorPool::decode(pb::DESCRIPTORS)
            .unwrap()
            .services()
            .flat_map(|service| service.methods().collect::<Vec<_>>())
            .filter(|rpc| !(rpc.is_client_streaming() && rpc.is_server_streaming()))
            .count();
        assert!(bindings.len() >= rpcs && rpcs > 20, "{} bindings, {rpcs} rpcs", bindings.len());
        for binding in &bindings {
            let mut path: String = binding
                .template
                .segments
                .iter()
                .map(|segment| match segment {
                    Segment::Literal(literal) => format!("/{literal}"),
                    Segment::Capture(_) => "/x%2Fy".to_owned(),
                })
                .collect();
            path.extend(binding.template.verb.iter().map(|verb| format!(":{verb}")));
            assert!(path.starts_with("/__mockforge/"), "{path}");
            match find(&bindings, &binding.method, &path) {
                Found::Binding(found, captures) => {
                    assert_eq!(found.rpc.full_name(), binding.rpc.full_name());
                    assert!(captures.iter().all(|(_, value)| value == "x/y"));
                }
                other => panic!("{} {path}: {other:?}", binding.method),
            }
        }
    }

    #[test]
    fn every_list_comes_in_pages() {
        for rpc in
            bindings().into_iter().map(|binding| binding.rpc).filter(|rpc| rpc.name().starts_with("List"))
        {
            for field in ["page_size", "page_token"] {
                assert!(rpc.input().get_field_by_name(field).is_some(), "{} has no {field}", rpc.full_name());
            }
            assert!(rpc.output().get_field_by_name("next_page_token").is_some(), "{}", rpc.full_name());
        }
    }

    #[test]
    fn a_verb_is_no_part_of_the_last_capture() {
        check(Method::POST, "/__mockforge/recordings/01J:stop", "StopRecording id=01J");
        check(Method::GET, "/__mockforge/recordings/01J:export", "ExportRecording id=01J");
        check(Method::GET, "/__mockforge/recordings/01J", "GetRecording id=01J");
        check(Method::GET, "/__mockforge/recordings/01J/events:tail", "TailEvents id=01J");
        check(Method::POST, "/__mockforge/recordings:import", "ImportRecording");
    }

    #[test]
    fn captures_are_decoded_after_the_path_was_cut() {
        check(Method::GET, "/__mockforge/mqtt/clients/a%2Fb%3Ac%20d", "GetClient client_id=a/b:c d");
        check(Method::GET, "/__mockforge/mqtt/clients/dev:1", "GetClient client_id=dev:1");
    }

    #[test]
    fn a_path_with_another_method_names_those_it_has() {
        check(Method::GET, "/__mockforge/mqtt/publish", "only [POST]");
        check(Method::GET, "/__mockforge/recordings/01J:stop", "only [POST]");
    }

    #[test]
    fn unknown_paths_find_nothing() {
        check(Method::GET, "/__mockforge/nothing", "nothing");
        check(Method::GET, "/__mockforge/recordings/", "nothing");
        check(Method::GET, "/__mockforge/recordings/a/b", "nothing");
        check(Method::GET, "/__mockforge/mqtt/clients/%ff", "nothing");
    }

    #[test]
    fn a_template_is_shown_as_it_was_read() {
        for text in ["/a/b", "/a/{b}:stop", "/a/{b}/c:tail", "/a:import"] {
            assert_eq!(Template::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn templates_with_partial_captures_are_refused() {
        assert_eq!(Template::parse("/a/{b=**}"), None);
        assert_eq!(Template::parse("/a/x{b}"), None);
    }
}

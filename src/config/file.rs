//! The settings file: YAML read with the place of every key and value.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_saphyr::{Location, Spanned};

use super::{
    document::{Content, Document, Key},
    error::{ConfigError, Origin},
    layer::{Layer, nearest},
    problems::Problems,
    setting::{Given, SETTINGS, Setting},
};
use crate::likeness::ALIKE;

/// What the file is called where it is searched for.
pub const NAME: &str = "mockforge.yaml";

/// Levels of keys and lists; settings have a dozen, and each takes stack.
const DEPTH_MAX: usize = 32;

/// Folders above the working directory that are searched as well.
const PARENTS: usize = 5;

/// The file nearest to `folder`: in it, or in one of five parents.
pub fn search(folder: &Path) -> Option<PathBuf> {
    folder.ancestors().take(1 + PARENTS).map(|folder| folder.join(NAME)).find(|path| path.is_file())
}

/// Reads `text`; `path` is what errors call it. What is wrong, [`ConfigError::Syntax`] and [`ConfigError::UnknownKey`] with
/// line and column, is added to `problems`, and the rest is read.
pub fn parse(path: &str, text: &str, problems: &mut Problems) -> Layer {
    let mut layer = Layer::default();
    if text.lines().all(|line| line.trim_start().starts_with('#') || line.trim().is_empty()) {
        return layer;
    }
    if let Some(root) = problems.keep(tree(text).map_err(|error| bad_syntax(path, &error))) {
        Reader { path, layer: &mut layer, problems }.section("", &root);
    }
    layer
}

/// What the parser says, without its options and its own names, which are nobody's business.
fn plain(error: &serde_saphyr::Error) -> String {
    match error {
        serde_saphyr::Error::MultipleDocuments { .. } => {
            return "a second document begins here; settings are one document".to_owned();
        }
        serde_saphyr::Error::Budget { .. } => {
            return "too deeply nested or too large for settings".to_owned();
        }
        _ => {}
    }
    let text = error.to_string();
    // The place leads our own message.
    let reason = text.split(" at line ").next().unwrap_or_default();
    reason.split(", set DuplicateKeyPolicy").next().unwrap_or_default().to_owned()
}

struct Reader<'a> {
    path: &'a str,
    layer: &'a mut Layer,
    problems: &'a mut Problems,
}

impl Reader<'_> {
    /// `section` is the path of the keys inside `node`; empty at the top.
    fn section(&mut self, section: &str, node: &Spanned<Node>) {
        let entries = match &node.value {
            Node::Map(entries) => entries,
            Node::Null => return,
            Node::Value(_) | Node::List(_) => {
                let name = if section.is_empty() { "the file" } else { section };
                let reason = format!("{name}: expected keys with values");
                self.problems.add(ConfigError::Syntax { origin: at(self.path, node.referenced), reason });
                return;
            }
        };
        for (key, value) in entries {
            let key = &key.0;
            let path =
                if section.is_empty() { key.value.clone() } else { format!("{section}.{}", key.value) };
            if let Some(setting) = Setting::find(&path) {
                self.value(setting, value);
            } else if is_section(&path) {
                self.section(&path, value);
            } else {
                self.problems.add(self.unknown(section, key));
            }
        }
    }

    fn value(&mut self, setting: &'static Setting, node: &Spanned<Node>) {
        let given = match &node.value {
            // `port:` with nothing behind it says nothing.
            Node::Null => return,
            Node::Value(given) => given.clone(),
            Node::List(_) => Given::List(document(node)),
            Node::Map(_) => Given::Section,
        };
        self.layer.insert(setting.key, given, at(self.path, node.referenced));
    }

    fn unknown(&self, section: &str, key: &Spanned<String>) -> ConfigError {
        let known = keys_within(section);
        let hint = match nearest(&key.value, known.iter().copied()) {
            Some((name, likeness)) if likeness >= ALIKE => format!("did you mean \"{name}\"?"),
            _ => format!("known are {}", known.join(", ")),
        };
        ConfigError::UnknownKey {
            origin: at(self.path, key.referenced),
            key: key.value.clone(),
            section: section.to_owned(),
            hint,
        }
    }
}

/// A YAML value.
#[derive(Debug)]
enum Node {
    Null,
    Value(Given),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Name, Spanned<Node>)>),
}

/// A key; a number or a switch counts as its text.
#[derive(Debug)]
struct Name(Spanned<String>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(Self)
    }
}

fn document(node: &Spanned<Node>) -> Document {
    let content = match &node.value {
        Node::Null => Content::Null,
        Node::Value(Given::Switch(on)) => Content::Switch(*on),
        Node::Value(Given::Integer(number)) => {
            let small = i64::try_from(*number).map(Number::from);
            let number = small.or_else(|_| u64::try_from(*number).map(Number::from));
            number.map_or(Content::Null, Content::Number)
        }
        Node::Value(Given::Fraction(number)) => {
            Number::from_f64(*number).map_or(Content::Null, Content::Number)
        }
        Node::Value(Given::Text(text) | Given::Spelled(text)) => Content::Text(text.clone()),
        Node::Value(Given::List(_) | Given::Section) => Content::Null,
        Node::List(entries) => Content::List(entries.iter().map(document).collect()),
        Node::Map(entries) => {
            let key = |name: &Name| Key {
                name: name.0.value.clone(),
                line: name.0.referenced.line(),
                column: name.0.referenced.column(),
            };
            Content::Map(entries.iter().map(|(name, value)| (key(name), document(value))).collect())
        }
    };
    Document { content, line: node.referenced.line(), column: node.referenced.column() }
}

/// Reads a list that stands alone, as in a variable.
///
/// # Errors
/// What is wrong with it, for people.
pub fn parse_list(text: &str) -> Result<Document, String> {
    match document(&tree(text).map_err(|error| plain(error.without_snippet()))?) {
        list @ Document { content: Content::List(_), .. } => Ok(list),
        _ => Err("expected a list".to_owned()),
    }
}

/// Reads any YAML.
///
/// # Errors
/// [`ConfigError::Syntax`], with line and column.
pub fn parse_document(path: &str, text: &str) -> Result<Document, ConfigError> {
    tree(text).map(|root| document(&root)).map_err(|error| bad_syntax(path, &error))
}

fn tree(text: &str) -> Result<Spanned<Node>, serde_saphyr::Error> {
    let options = serde_saphyr::options! { strict_booleans: true, budget: serde_saphyr::budget! { max_depth: DEPTH_MAX } };
    serde_saphyr::from_str_with_options(text, options)
}

fn bad_syntax(path: &str, error: &serde_saphyr::Error) -> ConfigError {
    let error = error.without_snippet();
    let place = error.location().unwrap_or(Location::UNKNOWN);
    ConfigError::Syntax { origin: at(path, place), reason: plain(error) }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E>(self, on: bool) -> Result<Node, E> {
        Ok(Node::Value(Given::Switch(on)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Node, E> {
        Ok(Node::Value(Given::Integer(number.into())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
        Ok(Node::Value(Given::Integer(number.into())))
    }

    fn visit_i128<E>(self, number: i128) -> Result<Node, E> {
        Ok(Node::Value(Given::Integer(number)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Node, E> {
        Ok(Node::Value(Given::Fraction(number)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Value(Given::Text(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(entry) = entries.next_element()? {
            list.push(entry);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}

fn at(path: &str, place: Location) -> Origin {
    Origin::File { path: path.to_owned(), line: place.line(), column: place.column() }
}

fn is_section(path: &str) -> bool {
    SETTINGS.iter().any(|setting| rest_within(setting.key, path).is_some())
}

/// The names that may stand in `section`, in the table's order.
fn keys_within(section: &str) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for setting in SETTINGS {
        let Some(rest) = rest_within(setting.key, section) else { continue };
        let name = rest.split('.').next().unwrap_or(rest);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn rest_within(key: &'static str, section: &str) -> Option<&'static str> {
    if section.is_empty() {
        return Some(key);
    }
    key.strip_prefix(section)?.strip_prefix('.')
}

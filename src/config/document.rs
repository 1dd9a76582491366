//! A list of a settings file, with the place of everything in it.

use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};

use crate::likeness::plain;

/// YAML that is no map of settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub content: Content,
    /// Both from 1.
    pub line: u64,
    pub column: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    Null,
    Switch(bool),
    Number(Number),
    Text(String),
    List(Vec<Document>),
    Map(Vec<(Key, Document)>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    pub name: String,
    pub line: u64,
    pub column: u64,
}

/// What is wrong, and where.
#[derive(Debug, PartialEq)]
pub struct BadEntry {
    /// From the document: `[1].responses[0].topic`.
    pub path: String,
    pub line: u64,
    pub column: u64,
    pub reason: String,
}

impl Document {
    pub fn entries(&self) -> &[Self] {
        match &self.content {
            Content::List(entries) => entries,
            _ => &[],
        }
    }

    /// What a map has by this key.
    pub fn get(&self, name: &str) -> Option<&Self> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|(key, _)| key.name == name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// Without what the maps of a list have by these keys.
    pub fn without(mut self, names: &[&str]) -> Self {
        if let Content::List(entries) = &mut self.content {
            for entry in entries {
                if let Content::Map(entries) = &mut entry.content {
                    entries.retain(|(key, _)| !names.contains(&key.name.as_str()));
                }
            }
        }
        self
    }

    /// A list of just this; of nothing, an empty one.
    pub fn alone(self) -> Self {
        let (line, column) = (self.line, self.column);
        let entries =
            if matches!(self.content, Content::Null | Content::List(_)) { Vec::new() } else { vec![self] };
        Self { content: Content::List(entries), line, column }
    }

    pub fn to_json(&self) -> Value {
        match &self.content {
            Content::Null => Value::Null,
            Content::Switch(on) => Value::Bool(*on),
            Content::Number(number) => Value::Number(number.clone()),
            Content::Text(text) => Value::String(text.clone()),
            Content::List(entries) => entries.iter().map(Self::to_json).collect(),
            Content::Map(entries) => {
                let entries = entries.iter().map(|(key, value)| (key.name.clone(), value.to_json()));
                Value::Object(entries.collect::<Map<_, _>>())
            }
        }
    }

    /// The same with other texts; `change` is given the keys that lead to each.
    pub fn map_texts(&self, change: &impl Fn(&[&str], &str) -> String) -> Self {
        self.map_texts_below(&mut Vec::new(), change)
    }

    fn map_texts_below<'d>(
        &'d self,
        path: &mut Vec<&'d str>,
        change: &impl Fn(&[&str], &str) -> String,
    ) -> Self {
        let content = match &self.content {
            Content::Text(text) => Content::Text(change(path, text)),
            Content::List(entries) => {
                Content::List(entries.iter().map(|entry| entry.map_texts_below(path, change)).collect())
            }
            Content::Map(entries) => {
                let changed = entries.iter().map(|(key, value)| {
                    path.push(&key.name);
                    let value = value.map_texts_below(path, change);
                    path.pop();
                    (key.clone(), value)
                });
                Content::Map(changed.collect())
            }
            other => other.clone(),
        };
        Self { content, ..*self }
    }

    /// Reads each entry of the list: those that are as they have to be, with their positions, and of each other the first
    /// thing that is wrong.
    pub fn read<T: DeserializeOwned>(&self) -> (Vec<(usize, T)>, Vec<BadEntry>) {
        let read = |(position, entry): (usize, &Self)| {
            if !matches!(entry.content, Content::Map(_)) {
                return Err(self.bad(format!("[{position}]"), "expected keys with values".to_owned()));
            }
            serde_path_to_error::deserialize(entry.to_json()).map_err(|error| {
                let inside = error.path().to_string();
                let inside = if inside == "." { "" } else { inside.trim_start_matches('.') };
                let path = join(&format!("[{position}]"), inside);
                self.bad(path, plain(&error.into_inner().to_string()))
            })
        };
        let (mut things, mut bad) = (Vec::new(), Vec::new());
        for (position, entry) in self.entries().iter().enumerate() {
            match read((position, entry)) {
                Ok(thing) => things.push((position, thing)),
                Err(entry) => bad.push(entry),
            }
        }
        (things, bad)
    }

    /// An error about what is at `path`, or what is nearest above it.
    pub fn bad(&self, path: String, reason: String) -> BadEntry {
        let (line, column) = self.place(&path);
        BadEntry { path, line, column, reason }
    }

    /// Line and column of what is at `path`: of a key's value the key, where that is on a line above.
    fn place(&self, path: &str) -> (u64, u64) {
        match &self.content {
            Content::List(entries) => {
                let index = path.strip_prefix('[').and_then(|rest| rest.split_once(']'));
                if let Some((index, rest)) = index
                    && let Some(entry) = index.parse().ok().and_then(|index: usize| entries.get(index))
                {
                    return entry.place(rest.strip_prefix('.').unwrap_or(rest));
                }
            }
            Content::Map(entries) => {
                // Names may hold dots themselves, so the longest that fits is the one.
                let fits = |name: &str| {
                    path.strip_prefix(name).filter(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
                };
                let found = entries.iter().filter_map(|(key, value)| Some((key, value, fits(&key.name)?)));
                if let Some((key, value, rest)) = found.max_by_key(|(key, ..)| key.name.len()) {
                    let rest = rest.strip_prefix('.').unwrap_or(rest);
                    return match (&value.content, rest) {
                        (Content::Map(_) | Content::List(_), rest) if !rest.is_empty() => value.place(rest),
                        _ if value.line == key.line => (value.line, value.column),
                        _ => (key.line, key.column),
                    };
                }
            }
            _ => {}
        }
        (self.line, self.column)
    }
}

/// `a` and `b` are `a.b`.
fn join(first: &str, second: &str) -> String {
    let dot = if second.is_empty() || second.starts_with('[') { "" } else { "." };
    format!("{first}{dot}{second}")
}

//! A payload as text around values, so that a template made of it keeps the form it was written in.

use serde::de::IgnoredAny;

/// Values of one payload that are told apart. A document with more is taken as one text.
const VALUES_MAX: usize = 256;

/// What a payload looks like.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    Text(Text),
    Binary,
}

/// A text with values in it: those of a JSON document, or the text as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// What stands before, between and behind the values: one more than there are values.
    pub around: Vec<String>,
    pub values: Vec<Value>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// A JSONPath (`$.a.b[0]`); empty for a text that is no JSON.
    pub path: String,
    /// How a template names it (`payload.a.b.[0]`); `None` if it can't.
    pub expression: Option<String>,
    /// As it stands in the payload.
    pub raw: String,
    /// What a template prints for it: a text without its quotes.
    pub text: String,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Number,
    Bool,
    Null,
    /// No JSON.
    Plain,
}

impl Form {
    pub fn of(payload: &[u8]) -> Self {
        let Ok(text) = std::str::from_utf8(payload) else { return Self::Binary };
        if text.contains('\0') {
            return Self::Binary;
        }
        let json = serde_json::from_str::<IgnoredAny>(text).ok().and_then(|_| Scanner::scan(text));
        Self::Text(json.unwrap_or_else(|| Text::plain(text)))
    }

    pub fn values(&self) -> &[Value] {
        match self {
            Self::Text(text) => &text.values,
            Self::Binary => &[],
        }
    }
}

impl Text {
    fn plain(text: &str) -> Self {
        let value = Value {
            path: String::new(),
            expression: Some("payload_raw".to_owned()),
            raw: text.to_owned(),
            text: text.to_owned(),
            kind: Kind::Plain,
        };
        Self { around: vec![String::new(); 2], values: vec![value] }
    }

    pub fn is_json(&self) -> bool {
        self.values.first().is_none_or(|value| value.kind != Kind::Plain)
    }
}

impl Value {
    /// The last name of the path, array indexes left out; empty for a document that is one value.
    pub fn name(&self) -> &str {
        let path = self.path.split('[').next().unwrap_or_default();
        path.rsplit('.').next().unwrap_or_default().trim_start_matches('$')
    }

    /// Whether its name says that it identifies a request.
    pub fn is_identifier(&self) -> bool {
        is_identifier(self.name())
    }
}

/// `id`, `request_id`, `correlationId`, `seq` and the like.
fn is_identifier(name: &str) -> bool {
    const WHOLE: [&str; 14] = [
        "id", "uuid", "guid", "seq", "token", "nonce", "ref", "rid", "mid", "tid", "cid", "msgid", "txid",
        "reqid",
    ];
    const PARTS: [&str; 4] = ["correlation", "request", "transaction", "sequence"];
    let lower = name.to_lowercase();
    WHOLE.contains(&lower.as_str())
        || name.ends_with("Id")
        || name.ends_with("ID")
        || lower.ends_with("_id")
        || lower.ends_with("-id")
        || PARTS.iter().any(|part| lower.starts_with(part) && lower.len() <= part.len() + 4)
}

/// Finds the values of a text that is known to be JSON.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// Where the text behind the last value begins.
    after: usize,
    found: Text,
}

impl<'a> Scanner<'a> {
    /// `None` when there are too many values.
    fn scan(text: &'a str) -> Option<Text> {
        let found = Text { around: Vec::new(), values: Vec::new() };
        let mut scanner = Self { text, at: 0, after: 0, found };
        scanner.value("$", Some("payload"))?;
        scanner.found.around.push(text[scanner.after..].to_owned());
        Some(scanner.found)
    }

    fn value(&mut self, path: &str, expression: Option<&str>) -> Option<()> {
        self.skip_space();
        match self.peek() {
            b'{' => self.object(path, expression),
            b'[' => self.array(path, expression),
            _ => self.scalar(path, expression),
        }
    }

    fn object(&mut self, path: &str, expression: Option<&str>) -> Option<()> {
        self.at += 1;
        loop {
            self.skip_space();
            match self.peek() {
                b'}' => break,
                b',' => self.at += 1,
                b'"' => {
                    let name: String = serde_json::from_str(self.token()).ok()?;
                    self.skip_space();
                    // The colon.
                    self.at += 1;
                    let is_plain = !name.is_empty()
                        && !name.starts_with(|letter: char| letter.is_ascii_digit())
                        && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
                    let inner = if is_plain {
                        format!("{path}.{name}")
                    } else {
                        format!("{path}[{}]", serde_json::Value::from(name.as_str()))
                    };
                    let expression = expression.and_then(|expression| match is_plain {
                        // Which means something else to templates.
                        _ if name == "this" => None,
                        true => Some(format!("{expression}.{name}")),
                        // A name in brackets ends at the first that closes.
                        false if name.is_empty() || name.contains([']', '[', '{', '}']) => None,
                        false => Some(format!("{expression}.[{name}]")),
                    });
                    self.value(&inner, expression.as_deref())?;
                }
                _ => return None,
            }
        }
        self.at += 1;
        Some(())
    }

    fn array(&mut self, path: &str, expression: Option<&str>) -> Option<()> {
        self.at += 1;
        let mut index = 0;
        loop {
            self.skip_space();
            match self.peek() {
                b']' => break,
                b',' => self.at += 1,
                0 => return None,
                _ => {
                    let expression = expression.map(|expression| format!("{expression}.[{index}]"));
                    self.value(&format!("{path}[{index}]"), expression.as_deref())?;
                    index += 1;
                }
            }
        }
        self.at += 1;
        Some(())
    }

    fn scalar(&mut self, path: &str, expression: Option<&str>) -> Option<()> {
        if self.found.values.len() == VALUES_MAX {
            return None;
        }
        let start = self.at;
        let raw = self.token();
        let (kind, text) = match raw.as_bytes().first()? {
            b'"' => (Kind::Text, serde_json::from_str(raw).ok()?),
            b't' | b'f' => (Kind::Bool, raw.to_owned()),
            b'n' => (Kind::Null, raw.to_owned()),
            _ => (Kind::Number, raw.to_owned()),
        };
        self.found.around.push(self.text[self.after..start].to_owned());
        self.after = self.at;
        self.found.values.push(Value {
            path: path.to_owned(),
            expression: expression.map(str::to_owned),
            raw: raw.to_owned(),
            text,
            kind,
        });
        Some(())
    }

    /// The text, number or word that begins here.
    fn token(&mut self) -> &'a str {
        let bytes = self.text.as_bytes();
        let start = self.at;
        if self.peek() == b'"' {
            self.at += 1;
            while !matches!(self.peek(), b'"' | 0) {
                self.at += if self.peek() == b'\\' { 2 } else { 1 };
            }
            self.at = (self.at + 1).min(bytes.len());
        } else {
            while self.peek().is_ascii_alphanumeric() || matches!(self.peek(), b'-' | b'+' | b'.') {
                self.at += 1;
            }
        }
        &self.text[start..self.at]
    }

    /// 0 behind the end.
    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or_default()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_what_is_around_them_make_the_text_again() {
        let text = r#"{ "a": [1, {"b-c": "x\"y"}, []], "n": null,"t":true , "e": {} } "#;
        let Form::Text(found) = Form::of(text.as_bytes()) else { panic!() };
        let shown: Vec<_> = found
            .values
            .iter()
            .map(|value| (value.path.as_str(), value.expression.as_deref().unwrap(), value.text.as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                ("$.a[0]", "payload.a.[0]", "1"),
                ("$.a[1][\"b-c\"]", "payload.a.[1].[b-c]", "x\"y"),
                ("$.n", "payload.n", "null"),
                ("$.t", "payload.t", "true"),
            ]
        );
        let mut again = String::new();
        for (around, value) in found.around.iter().zip(&found.values) {
            again += around;
            again += &value.raw;
        }
        assert_eq!(again + found.around.last().unwrap(), text);
    }

    #[test]
    fn what_is_no_json_is_one_value_or_binary() {
        let Form::Text(text) = Form::of(b"set 4") else { panic!() };
        assert!(!text.is_json() && text.values[0].raw == "set 4");
        assert_eq!(Form::of(&[0xFF, 1]), Form::Binary);
        let Form::Text(empty) = Form::of(b"") else { panic!() };
        assert_eq!(empty.values[0].raw, "");
    }
}

//! What an answer carries: fixed bytes, or a template.

use bytes::Bytes;
use serde_json::Value;

use super::template::{BadTemplate, RenderError, Template};

/// The payload of an answer.
#[derive(Clone, Debug)]
pub enum Payload {
    Fixed(Bytes),
    Text(Template),
    /// JSON in which texts are templates: what they become is escaped, so that it stays JSON.
    Json(Vec<Part>),
}

#[derive(Clone, Debug)]
pub enum Part {
    AsItIs(String),
    /// A JSON string.
    Text(Template),
}

impl Payload {
    /// A text as people write it. If it is a JSON object or list as it stands, each text in it is a template by itself;
    /// else all of it is one.
    ///
    /// # Errors
    /// [`BadTemplate`], lines and columns being those of `text`.
    pub fn parse(text: &str) -> Result<Self, BadTemplate> {
        let whole = Template::parse(text);
        if let Ok(template) = &whole
            && let Some(literal) = template.as_literal()
        {
            return Ok(Self::Fixed(Bytes::copy_from_slice(literal.as_bytes())));
        }
        match parts(text) {
            Some(parts) => Ok(Self::Json(parts)),
            None => whole.map(Self::Text),
        }
    }

    /// Every template in it.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        let (whole, parts) = match self {
            Self::Fixed(_) => (None, &[][..]),
            Self::Text(template) => (Some(template), &[][..]),
            Self::Json(parts) => (None, &parts[..]),
        };
        whole.into_iter().chain(parts.iter().filter_map(|part| match part {
            Part::Text(template) => Some(template),
            Part::AsItIs(_) => None,
        }))
    }

    /// # Errors
    /// The first that `render` has.
    pub fn render(
        &self,
        mut render: impl FnMut(&Template) -> Result<String, RenderError>,
    ) -> Result<Bytes, RenderError> {
        match self {
            Self::Fixed(bytes) => Ok(bytes.clone()),
            Self::Text(template) => Ok(render(template)?.into()),
            Self::Json(parts) => {
                let mut text = String::new();
                for part in parts {
                    match part {
                        Part::AsItIs(part) => text.push_str(part),
                        Part::Text(template) => text.push_str(&Value::String(render(template)?).to_string()),
                    }
                }
                Ok(text.into())
            }
        }
    }
}

/// Takes JSON apart; `None` if `text` is no object or list, or a text in it is no template by itself.
fn parts(text: &str) -> Option<Vec<Part>> {
    let is_container = text.trim_start().starts_with(['{', '[']);
    if !is_container || serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
        return None;
    }
    let mut parts = Vec::new();
    let (mut kept, mut rest) = (0, 0);
    while let Some(start) = text[rest..].find('"').map(|at| rest + at) {
        let end = start + string_len(&text[start..])?;
        let quoted = &text[start..end];
        // A brace may be escaped, too.
        let content: String = serde_json::from_str(quoted).ok()?;
        if content.contains("{{") {
            parts.push(Part::AsItIs(text[kept..start].to_owned()));
            parts.push(Part::Text(Template::parse(&content).ok()?));
            kept = end;
        }
        rest = end;
    }
    parts.push(Part::AsItIs(text[kept..].to_owned()));
    Some(parts)
}

/// Of the JSON string that `text` begins with, both quotes included.
fn string_len(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The payload that `text` becomes when each template is rendered as `rendered`.
    #[track_caller]
    fn check(text: &str, rendered: &str, payload: &str) {
        let parsed = Payload::parse(text).expect("a good template");
        let bytes = parsed.render(|_| Ok(rendered.to_owned())).expect("it renders");
        assert_eq!(bytes.escape_ascii().to_string(), payload.as_bytes().escape_ascii().to_string());
    }

    #[test]
    fn a_text_without_expressions_is_sent_as_it_is() {
        check("{\"value\": 23.5,  \"unit\": \"c\"}\n", "-", "{\"value\": 23.5,  \"unit\": \"c\"}\n");
        check("", "-", "");
    }

    #[test]
    fn what_is_put_into_json_texts_is_escaped() {
        check(
            r#"{"a": "{{payload_raw}}", "b": [1]}"#,
            r#"say "hi" \ "#,
            r#"{"a": "say \"hi\" \\ ", "b": [1]}"#,
        );
        check(r#"["x\"{{a}}", "{{b}}"]"#, "\n", r#"["\n", "\n"]"#);
        check(r#"{"{{key}}": 1}"#, "k", r#"{"k": 1}"#);
    }

    #[test]
    fn any_other_text_is_one_template() {
        check("value={{payload.v}}", "\"7\"", "\"7\"");
        check(r#"{"v":{{random_int 1 9}}}"#, r#"{"v":7}"#, r#"{"v":7}"#);
    }
}

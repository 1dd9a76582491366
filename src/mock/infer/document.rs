//! Inferred mocks as a settings file.

use serde::Serialize;

use super::{Inferred, count};
use crate::mock::MockSpec;

/// Columns that comments are broken at.
const COLUMNS: usize = 118;

#[derive(Serialize)]
struct Document<'a> {
    mqtt: Section<'a>,
}

#[derive(Serialize)]
struct Section<'a> {
    mocks: &'a [MockSpec],
}

pub fn yaml(inferred: &Inferred, recording: &str) -> String {
    let mut text = String::new();
    comment(
        &mut text,
        "",
        &format!(
            "Inferred from the recording {recording}: {} from {}.",
            count(inferred.mocks.len(), "mock", "mocks"),
            count(inferred.pairs as usize, "answered request", "answered requests"),
        ),
    );
    for note in &inferred.notes {
        comment(&mut text, "- ", note);
    }
    // Lines of a payload stay lines, but none is broken.
    let options = serde_saphyr::ser_options! { compact_list_indent: false, folded_wrap_chars: usize::MAX };
    let document = Document { mqtt: Section { mocks: &inferred.mocks } };
    // Texts, numbers and lists always have a form in YAML.
    let body = serde_saphyr::to_string_with_options(&document, options);
    text + &body.map_or_else(|error| format!("# {error}\n"), |body| simply_quoted(&body))
}

/// Puts texts with double quotes in them, as JSON has, between single ones, and says the rest as people would.
fn simply_quoted(yaml: &str) -> String {
    let mut text = String::with_capacity(yaml.len());
    // How far the line is indented that a block of text hangs on, while it lasts.
    let mut block: Option<usize> = None;
    for line in yaml.lines() {
        let indent = line.len() - line.trim_start_matches([' ', '-']).len();
        if block.is_some_and(|block| indent > block || line.trim().is_empty()) {
            text += line;
        } else {
            block = line.ends_with(['|', '-', '+', '>']).then_some(indent);
            text +=
                &simply_said(line).or_else(|| line_simply_quoted(line)).unwrap_or_else(|| line.to_owned());
        }
        text.push('\n');
    }
    text
}

/// `delay_ms: 20` for `20.0`, and `on` without quotes. `None` when there is nothing to change.
fn simply_said(line: &str) -> Option<String> {
    const NUMBERS: [&str; 7] = ["delay_ms", "min", "max", "mean", "sd", "median", "weight"];
    let (name, value) = line.split_once(": ")?;
    let name = name.trim_start_matches([' ', '-']);
    if name == "\"on\"" {
        return Some(line.replacen("\"on\"", "on", 1));
    }
    let whole = value.strip_suffix(".0").filter(|_| NUMBERS.contains(&name))?;
    whole.bytes().all(|byte| byte.is_ascii_digit()).then(|| line[..line.len() - 2].to_owned())
}

/// `None` when there is nothing to change.
fn line_simply_quoted(line: &str) -> Option<String> {
    if !line.ends_with('"') || !line.contains("\\\"") {
        return None;
    }
    // What begins with a quote and is one text up to the end of the line; the escapes of JSON mean the same in YAML.
    let mut starts = line.match_indices('"').map(|(at, _)| at);
    let (at, value) = starts.find_map(|at| {
        let is_value = at == 0 || line[..at].ends_with(": ") || line[..at].ends_with("- ");
        let value = is_value.then(|| serde_json::from_str::<String>(&line[at..]).ok()).flatten()?;
        Some((at, value))
    })?;
    let is_plain = !value
        .chars()
        .any(|letter| letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{FEFF}'));
    is_plain.then(|| format!("{}'{}'", &line[..at], value.replace('\'', "''")))
}

/// Appends `line` behind `#`, broken at spaces.
fn comment(text: &mut String, bullet: &str, line: &str) {
    let mut current = format!("# {bullet}");
    // What comes from a recording must not end the comment.
    let line = line.replace(
        |letter: char| letter.is_control() || letter == '\u{2028}' || letter == '\u{2029}',
        "\u{FFFD}",
    );
    for word in line.split(' ') {
        let is_first = current.trim_start_matches(['#', ' ', '-']).is_empty();
        if !is_first && current.chars().count() + 1 + word.chars().count() > COLUMNS {
            *text += current.trim_end();
            text.push('\n');
            current = format!("# {}", " ".repeat(bullet.len()));
        }
        if !current.ends_with(' ') {
            current.push(' ');
        }
        current += word;
    }
    *text += current.trim_end();
    text.push('\n');
}

//! What one value of an answer is made of, judged by all that were recorded.

use std::collections::BTreeSet;

use super::payload::{Kind, Value};

/// Distinct texts that a template chooses from.
const CHOICES_MAX: usize = 16;
/// Characters of each of them.
const CHOICE_LEN_MAX: usize = 200;
/// A sequence of two numbers is no sequence yet.
const COUNTED_MIN: usize = 3;
/// Seconds by which times in answers may stray from when they were sent, from answer to answer.
const NOW_SPREAD: f64 = 5.0;
/// Seconds that clocks may be apart where a single answer has to tell.
const CLOCKS_APART: f64 = 300.0;
/// Seconds that a time may be ahead or behind on purpose.
const OFFSET_MAX: f64 = 7.0 * 86_400.0;
/// Seconds since 1970 of times that recordings speak of: years 2001 to 2100.
const EPOCH: std::ops::Range<f64> = 978_307_200.0..4_102_444_800.0;

/// Something of the request that a template can print.
#[derive(Clone, Debug)]
pub struct Source {
    pub expression: String,
    /// The last name of it.
    pub name: String,
    pub text: String,
    pub kind: Kind,
}

/// A template for one value, and how well it explains what was recorded.
#[derive(Clone, Debug, PartialEq)]
pub enum Explained {
    Exact(String),
    /// Numbers of the same range.
    Drawn(String),
    /// It varied, and nothing says why.
    Unexplained(String),
}

impl Explained {
    pub fn template(self) -> String {
        match self {
            Self::Exact(template) | Self::Drawn(template) | Self::Unexplained(template) => template,
        }
    }
}

/// One value in each recorded answer, with what the requests said.
pub struct Recorded<'a> {
    pub values: Vec<&'a Value>,
    pub sources: &'a [Vec<Source>],
    /// Seconds since 1970 when each answer was sent.
    pub sent: &'a [f64],
    /// For a counter, unique among mocks.
    pub key: String,
}

impl Recorded<'_> {
    /// A template that prints the values as they stood in their payloads, quotes included.
    pub fn explain(&self) -> Explained {
        let Some(first) = self.values.first() else { return Explained::Exact(String::new()) };
        if self.values.iter().all(|value| value.raw == first.raw) {
            // What identifies a request goes back even if there was but one; a single time is that of the answer.
            let echo = first.is_identifier().then(|| self.echo(true)).flatten();
            let now = || (self.values.len() == 1).then(|| self.time()).flatten();
            return Explained::Exact(echo.or_else(now).unwrap_or_else(|| escaped(&first.raw)));
        }
        let exact =
            self.echo(false).or_else(|| self.inside()).or_else(|| self.time()).or_else(|| self.counted());
        if let Some(template) = exact.or_else(|| self.uuid()) {
            return Explained::Exact(template);
        }
        match self.number() {
            Some(template) => Explained::Drawn(template),
            None => Explained::Unexplained(self.choice()),
        }
    }

    /// The part of the request that it always equals; one of the same name first.
    fn echo(&self, by_name: bool) -> Option<String> {
        if self.values.iter().any(|value| value.kind == Kind::Null) {
            return None;
        }
        let name = self.values[0].name();
        let (same, other): (Vec<_>, Vec<_>) =
            self.sources.first()?.iter().partition(|source| source.name == name);
        let others = if by_name { Vec::new() } else { other };
        let source = same
            .into_iter()
            .chain(others)
            .find(|source| self.always(source, |value, text| value.text == text))?;
        if self.values.iter().all(|value| value.raw == value.text) {
            Some(format!("{{{{{}}}}}", source.expression))
        } else if self.values.iter().all(|value| is_plainly_quoted(value)) {
            Some(format!("\"{{{{{}}}}}\"", source.expression))
        } else {
            let is_text = matches!(source.kind, Kind::Text | Kind::Plain);
            is_text.then(|| format!("{{{{json {}}}}}", source.expression))
        }
    }

    /// Text around a part of the request, always the same: `motor-7` of `7`.
    fn inside(&self) -> Option<String> {
        let is_text = |value: &&Value| {
            value.kind == Kind::Plain || value.kind == Kind::Text && is_plainly_quoted(value)
        };
        if !self.values.iter().all(is_text) {
            return None;
        }
        let first = &self.values[0].text;
        let mut sources: Vec<_> =
            self.sources.first()?.iter().filter(|source| source.text.len() >= 2).collect();
        sources.sort_by_key(|source| std::cmp::Reverse(source.text.len()));
        sources.into_iter().find_map(|source| {
            let (before, behind) = first.split_once(&source.text)?;
            // Such a brace or backslash would change what the expression behind it means.
            if before.ends_with(['{', '\\']) || behind.starts_with('}') {
                return None;
            }
            let fits = |value: &Value, text: &str| {
                value.text.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind)) == Some(text)
            };
            let varies = self.sources.iter().any(|of| {
                of.iter().any(|one| one.expression == source.expression && one.text != source.text)
            });
            let fits = varies && self.always(source, fits);
            let quote = if self.values[0].kind == Kind::Text { "\"" } else { "" };
            fits.then(|| {
                format!("{quote}{}{{{{{}}}}}{}{quote}", escaped(before), source.expression, escaped(behind))
            })
        })
    }

    fn always(&self, source: &Source, holds: impl Fn(&Value, &str) -> bool) -> bool {
        self.values.iter().zip(self.sources).all(|(value, sources)| {
            let own = sources.iter().find(|own| own.expression == source.expression);
            own.is_some_and(|own| holds(value, &own.text))
        })
    }

    fn time(&self) -> Option<String> {
        let kind = self.values[0].kind;
        match kind {
            Kind::Text | Kind::Plain => {
                let parsed = |value: &&Value| value.text.parse::<jiff::Timestamp>().ok();
                let ahead =
                    self.ahead(|value| parsed(&value).map(|time| time.as_nanosecond() as f64 / 1e9))?;
                let helper = now(&self.values[0].text, ahead)?;
                Some(if kind == Kind::Text { format!("\"{helper}\"") } else { helper })
            }
            Kind::Number => {
                let scaled = |scale: f64| {
                    move |value: &Value| value.raw.parse::<f64>().ok().map(|number| number / scale)
                };
                let is_whole =
                    self.values.iter().all(|value| value.raw.bytes().all(|byte| byte.is_ascii_digit()));
                if is_whole && self.ahead(scaled(1000.0)).is_some() {
                    Some("{{timestamp_ms}}".to_owned())
                } else if is_whole && self.ahead(scaled(1.0)).is_some() {
                    Some("{{now \"%s\"}}".to_owned())
                } else {
                    self.ahead(scaled(1.0)).map(|_| "{{div (timestamp_ms) 1000}}".to_owned())
                }
            }
            Kind::Bool | Kind::Null => None,
        }
    }

    /// How many seconds the values are ahead of when they were sent; `None` if they do not go with that.
    fn ahead(&self, seconds: impl Fn(&Value) -> Option<f64>) -> Option<f64> {
        let mut ahead = Vec::with_capacity(self.values.len());
        for (value, sent) in self.values.iter().zip(self.sent) {
            let time = seconds(value).filter(|time| EPOCH.contains(time))?;
            ahead.push(time - sent);
        }
        ahead.sort_by(f64::total_cmp);
        let (least, most) = (*ahead.first()?, *ahead.last()?);
        let fits = if ahead.len() == 1 { most.abs() <= CLOCKS_APART } else { most - least <= NOW_SPREAD };
        fits.then(|| ahead[ahead.len() / 2])
    }

    /// Whole numbers, each one more than the one before.
    fn counted(&self) -> Option<String> {
        if self.values.len() < COUNTED_MIN || self.values[0].kind == Kind::Text {
            return None;
        }
        let numbers: Vec<i64> =
            self.values.iter().map(|value| value.raw.parse().ok()).collect::<Option<_>>()?;
        if !numbers.windows(2).all(|pair| pair[0].checked_add(1) == Some(pair[1])) {
            return None;
        }
        let counter = format!("counter \"{}\"", self.key);
        // A counter begins at 1.
        Some(match numbers[0].checked_sub(1)? {
            0 => format!("{{{{{counter}}}}}"),
            more if more > 0 => format!("{{{{add ({counter}) {more}}}}}"),
            less => format!("{{{{sub ({counter}) {}}}}}", less.unsigned_abs()),
        })
    }

    fn uuid(&self) -> Option<String> {
        let distinct: BTreeSet<&str> = self.values.iter().map(|value| value.text.as_str()).collect();
        let are = distinct.len() == self.values.len() && distinct.iter().all(|text| is_uuid(text));
        let quote = if self.values[0].kind == Kind::Text { "\"" } else { "" };
        are.then(|| format!("{quote}{{{{uuid}}}}{quote}"))
    }

    fn number(&self) -> Option<String> {
        if self.values.iter().any(|value| value.kind != Kind::Number) {
            return None;
        }
        let whole: Option<Vec<i64>> = self.values.iter().map(|value| value.raw.parse().ok()).collect();
        if let Some(whole) = whole {
            let (min, max) = (whole.iter().min()?, whole.iter().max()?);
            return Some(format!("{{{{random_int {min} {max}}}}}"));
        }
        // As written: 0.1 stays 0.1.
        let number = |value: &&Value| value.raw.parse::<f64>().ok().filter(|number| number.is_finite());
        let mut numbers: Vec<(f64, &str)> = Vec::with_capacity(self.values.len());
        for value in &self.values {
            if value.raw.contains(['e', 'E']) {
                return None;
            }
            numbers.push((number(value)?, &value.raw));
        }
        numbers.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let digits =
            numbers.iter().map(|(_, raw)| raw.split_once('.').map_or(0, |(_, digits)| digits.len())).max()?;
        let (min, max) = (numbers.first()?.1, numbers.last()?.1);
        Some(format!("{{{{random_float {min} {max} {digits}}}}}"))
    }

    /// One of those seen, the frequent ones as often as the rare ones.
    fn choice(&self) -> String {
        let first = self.values[0];
        let are_quoted = self.values.iter().all(|value| value.kind == Kind::Text && is_plainly_quoted(value));
        let text = |value: &Value| if are_quoted { value.text.clone() } else { value.raw.clone() };
        let mut choices: Vec<String> = Vec::new();
        for value in &self.values {
            let text = text(value);
            // What a text in a template cannot hold.
            let fits = text.len() <= CHOICE_LEN_MAX && !text.contains(['"', '\\', '\n', '\r', '{', '}']);
            if fits && choices.len() < CHOICES_MAX && !choices.contains(&text) {
                choices.push(text);
            }
        }
        if choices.len() < 2 {
            return escaped(&first.raw);
        }
        let choices: Vec<_> = choices.iter().map(|choice| format!("\"{choice}\"")).collect();
        let quote = if are_quoted { "\"" } else { "" };
        format!("{quote}{{{{random_choice {}}}}}{quote}", choices.join(" "))
    }
}

/// A text as a template that prints it.
pub fn escaped(text: &str) -> String {
    text.replace("{{", "\\{{")
}

/// Whether a template prints `text` if it is escaped: a backslash before braces has a meaning of its own there.
pub fn can_escape(text: &str) -> bool {
    !text.contains("\\{{") && !text.contains("{{{")
}

/// Whether the text between the quotes is what they mean.
fn is_plainly_quoted(value: &Value) -> bool {
    value.raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')) == Some(&value.text)
}

fn is_uuid(text: &str) -> bool {
    let lens: Vec<usize> = text.split('-').map(str::len).collect();
    lens == [8, 4, 4, 4, 12] && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

/// `now` in the format of `sample`, RFC 3339. `None` for another format.
fn now(sample: &str, ahead: f64) -> Option<String> {
    let time = sample.get(19..)?;
    let zone_at = time.find(['Z', 'z', '+', '-'])?;
    let (fraction, zone) = time.split_at(zone_at);
    let separator = sample.get(10..11)?;
    let zone = match zone {
        "Z" | "z" | "+00:00" | "-00:00" => zone,
        // A template's time is UTC, and so is this one then.
        _ => "Z",
    };
    let offset = (ahead / 60.0).round();
    // Clocks that are apart are rarely so by whole minutes.
    let is_meant = offset != 0.0 && ahead.abs() <= OFFSET_MAX && (ahead - offset * 60.0).abs() < 3.0;
    let offset = if is_meant { format!(" offset=\"{offset}m\"") } else { String::new() };
    let fraction = match fraction.len().checked_sub(1) {
        None => String::new(),
        Some(3) if zone == "Z" && separator == "T" => return Some(format!("{{{{now{offset}}}}}")),
        Some(digits) => format!("%.{digits}f"),
    };
    Some(format!("{{{{now \"%Y-%m-%d{separator}%H:%M:%S{fraction}{zone}\"{offset}}}}}"))
}

//! What is wrong with which field of something that people wrote.

use std::fmt;

/// A field that cannot be as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadField {
    /// From the thing as a whole: `responses[1].payload`; empty for the whole.
    pub path: String,
    pub what: String,
}

impl BadField {
    /// All of them in one line.
    pub fn listed(fields: &[Self]) -> String {
        let texts: Vec<String> = fields.iter().map(Self::to_string).collect();
        texts.join("; ")
    }
}

/// Collects what is wrong, so that all of it is told at once.
#[derive(Debug, Default)]
pub struct Checks(Vec<BadField>);

impl Checks {
    pub fn refuse(&mut self, path: impl Into<String>, what: impl fmt::Display) {
        self.0.push(BadField { path: path.into(), what: what.to_string() });
    }

    /// `None`, after noting the error.
    pub fn keep<T, E: fmt::Display>(&mut self, path: impl Into<String>, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.refuse(path, error)).ok()
    }

    /// Both ends are allowed.
    pub fn range<T: PartialOrd + fmt::Display>(&mut self, path: &str, value: T, min: T, max: T) {
        // What is no number at all is not within, either.
        if !(value >= min && value <= max) {
            self.refuse(path, format_args!("is {min} to {max}, not {value}"));
        }
    }

    /// Takes over what is wrong with a part, the path of which is `path`.
    pub fn adopt(&mut self, path: &str, part: Self) {
        self.0.extend(part.0.into_iter().map(|bad| BadField { path: join(path, &bad.path), ..bad }));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// # Errors
    /// Everything that was noted, if anything was.
    pub fn finish(self) -> Result<(), Vec<BadField>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }

    /// What was checked; `made` is `Some` if nothing was noted.
    ///
    /// # Errors
    /// Those of [`finish`](Self::finish).
    pub fn done<T>(self, made: Option<T>) -> Result<T, Vec<BadField>> {
        match made {
            Some(made) if self.0.is_empty() => Ok(made),
            _ => Err(self.0),
        }
    }
}

/// `a` and `b` are `a.b`, `a` and `[1]` are `a[1]`.
fn join(first: &str, second: &str) -> String {
    let dot = if first.is_empty() || second.is_empty() || second.starts_with('[') { "" } else { "." };
    format!("{first}{dot}{second}")
}

impl From<Vec<BadField>> for Checks {
    fn from(bad: Vec<BadField>) -> Self {
        Self(bad)
    }
}

impl fmt::Display for BadField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.path {
            "" => f.write_str(&self.what),
            path => write!(f, "{path}: {}", self.what),
        }
    }
}

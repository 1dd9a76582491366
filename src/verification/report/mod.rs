//! Verdicts as people and programs read them.

use super::Verdict;

mod html;
mod json;
mod junit;
mod text;

pub use html::html;
pub use json::json;
pub use junit::junit;
pub use text::text;

/// What a report is about.
#[derive(Clone, Debug, Default)]
pub struct Heading {
    /// Of the recording, or of both.
    pub title: String,
    /// Names of the two sides: `recorded` and `replayed`.
    pub sides: [String; 2],
    /// Why the whole has failed, though nothing differs; empty if it has not.
    pub failure: String,
    /// Whether it is no failure if nothing was compared.
    pub may_be_empty: bool,
    /// What the whole is called where it is a test case: why it failed, or that it passed though nothing was compared.
    pub case: &'static str,
    /// Lines that are said before the verdict.
    pub notes: Vec<String>,
}

impl Heading {
    pub fn has_passed(&self, verdict: &Verdict) -> bool {
        self.why_failed(verdict).is_none()
            && (verdict.has_passed() || self.may_be_empty && verdict.is_empty())
    }

    /// Why it has not passed, if not for the differences.
    fn why_failed(&self, verdict: &Verdict) -> Option<String> {
        match verdict.incomplete {
            _ if !self.failure.is_empty() => Some(self.failure.clone()),
            Some(incomplete) => Some(format!("not all was compared: {incomplete}")),
            None if verdict.is_empty() && !self.may_be_empty => Some("nothing was verified".to_owned()),
            None => None,
        }
    }
}

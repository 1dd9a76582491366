//! Which names are meant.

/// The name of something, a client identifier above all, with `*` for any characters and `?` for any one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern(String);

impl NamePattern {
    pub fn new(pattern: impl Into<String>) -> Self {
        Self(pattern.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn matches(&self, name: &str) -> bool {
        let (mut pattern, mut text) = (self.0.as_str(), name);
        // Where to go on when what follows the last `*` does not match: one character later.
        let mut retry: Option<(&str, &str)> = None;
        loop {
            match (pattern.chars().next(), text.chars().next()) {
                (Some('*'), _) => {
                    pattern = &pattern[1..];
                    retry = Some((pattern, text));
                }
                (Some(wanted), Some(found)) if wanted == found || wanted == '?' => {
                    pattern = &pattern[wanted.len_utf8()..];
                    text = &text[found.len_utf8()..];
                }
                (None, None) => return true,
                _ => {
                    let Some((after_star, from)) = retry else { return false };
                    let Some(skipped) = from.chars().next() else { return false };
                    (pattern, text) = (after_star, &from[skipped.len_utf8()..]);
                    retry = Some((pattern, text));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_globs() {
        let matches = |pattern: &str, name| NamePattern::new(pattern).matches(name);
        assert!(matches("dev-*", "dev-") && matches("dev-*", "dev-12") && matches("*", ""));
        assert!(matches("*-é?", "x-y-éa") && matches("a*b*c", "aXbXbYc") && matches("a?c", "aéc"));
        assert!(
            !matches("dev-?", "dev-12") && !matches("a*b", "abc") && !matches("", "x") && !matches("a?", "a")
        );
    }
}

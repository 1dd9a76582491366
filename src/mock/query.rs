//! JSONPaths that are asked of what clients send.

use std::fmt;

use serde_json::Value;
use serde_json_path::JsonPath;

use super::condition::bad_path;

/// Values that a path may look at: some tenths of a second on the thread that moves messages.
const WORK_MAX: usize = 1 << 24;

/// What a pattern in a path counts for a value that it is tried on: it may come from the payload, and is made anew.
const PATTERN_WORK: usize = 1 << 10;

/// A JSONPath, and how its work grows with what it is asked of.
#[derive(Clone, Debug)]
pub struct Query {
    text: Box<str>,
    path: JsonPath,
    /// How often it goes into everything below a value.
    descents: u32,
    /// How often a filter begins at the root again, for each value that it looks at.
    returns: u32,
    has_patterns: bool,
}

impl Query {
    /// # Errors
    /// What is wrong with it, as people read it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let path = JsonPath::parse(text).map_err(|error| bad_path(text, &error))?;
        // What stands in a literal is counted, too: nobody minds.
        let count = |part| text.matches(part).count() as u32;
        Ok(Self {
            text: text.into(),
            path,
            descents: count(".."),
            returns: count("$").saturating_sub(1),
            has_patterns: count("match(") + count("search(") > 0,
        })
    }

    /// What it finds in `json`, which has `len` bytes.
    ///
    /// # Errors
    /// That it would look at too much.
    pub fn find<'v>(&self, json: &'v Value, len: usize) -> Result<Vec<&'v Value>, String> {
        if self.work(json, len) > WORK_MAX {
            return Err(format!("{self} would take too long in {len} bytes"));
        }
        Ok(self.path.query(json).all())
    }

    /// How many values it looks at, at most.
    fn work(&self, json: &Value, len: usize) -> usize {
        // A value is found once for each of those that it is below.
        let again = match self.descents {
            0 | 1 => 1,
            more => depth(json).saturating_pow(more - 1),
        };
        let pattern = if self.has_patterns { PATTERN_WORK } else { 1 };
        len.saturating_pow(1 + self.returns).saturating_mul(again).saturating_mul(pattern)
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Levels of lists and objects within each other; the parser allows 128.
fn depth(json: &Value) -> usize {
    match json {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `path` comes to in a payload of `len` bytes that is nested as deep as can be.
    fn in_nested(path: &str, len: usize) -> Result<usize, String> {
        let one = format!("{}{}", "[".repeat(100), "]".repeat(100));
        let json = format!("[{}]", vec![one; len / 201].join(","));
        let query = Query::parse(path).expect(path);
        let value = serde_json::from_str(&json).expect("JSON");
        query.find(&value, json.len()).map(|found| found.len())
    }

    #[test]
    fn one_descent_is_found_in_everything_that_is_read() {
        assert!(in_nested("$..*", 4 << 20).is_ok_and(|found| found > 1_000_000));
    }

    #[test]
    fn descents_below_descents_multiply_and_are_refused_where_they_would_take_too_long() {
        assert!(in_nested("$..*..*", 100_000).is_ok());
        let refused = in_nested("$..*..*", 4 << 20).unwrap_err();
        assert!(refused.starts_with("$..*..* would take too long in "), "{refused}");
        assert!(in_nested("$..*..*..*", 100_000).is_err());
    }

    #[test]
    fn filters_that_look_at_everything_for_everything_are_refused() {
        assert!(in_nested("$[?$..b]", 1_000).is_ok());
        assert!(in_nested("$[?$..b]", 100_000).is_err());
        assert!(in_nested("$[?match(@.a, 'x*')]", 10_000).is_ok());
        assert!(in_nested("$[?match(@.a, 'x*')]", 100_000).is_err());
    }
}

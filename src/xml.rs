//! Text in XML, as CI servers read reports.

use std::fmt::{self, Write};

/// Text in XML, with a mark in place of what XML cannot hold.
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for one in self.0.chars() {
            match one {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\n' | '\r' | '\t' => write!(f, "&#{};", one as u32)?,
                one if one.is_control() || matches!(one, '\u{fffe}' | '\u{ffff}') => {
                    f.write_char('\u{fffd}')?
                }
                one => f.write_char(one)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_cannot_hold_is_marked_and_what_it_means_something_by_is_escaped() {
        assert_eq!(
            Escaped("<a b='\"&\">\n\u{0}").to_string(),
            "&lt;a b=&#39;&quot;&amp;&quot;&gt;&#10;\u{fffd}"
        );
    }
}

//! Text that peers chose, fit for one line of a terminal or a log.

use std::fmt::{self, Write};

/// Writes what ends lines, moves cursors or turns the direction of writing as escapes, the rest as it is.
pub struct Plain<'a>(pub &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match is_plain(letter) {
                true => f.write_char(letter)?,
                false => write!(f, "{}", letter.escape_default())?,
            }
        }
        Ok(())
    }
}

fn is_plain(letter: char) -> bool {
    let is_format = matches!(
        letter,
        '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    );
    !letter.is_control() && !is_format
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_writes_lines_of_his_own() {
        let told = Plain("a\n::error::b\r\u{1b}[31m\u{9b}1m\u{2028}\u{202e}ü→").to_string();
        assert_eq!(told, r"a\n::error::b\r\u{1b}[31m\u{9b}1m\u{2028}\u{202e}ü→");
    }
}

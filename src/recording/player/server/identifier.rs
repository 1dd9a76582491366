//! Client identifiers that are other ones each time.

/// Letters and digits in a row that are taken for drawn, if all are hexadecimal and one is a digit.
const HEXADECIMAL_LEN: usize = 6;
/// The same, if digits and letters change places at least so often.
const MIXED_LEN: usize = 8;
const MIXED_CHANGES: usize = 3;
/// Digits in a row: a time or a counter, where fewer may be a serial number.
const DIGITS_LEN: usize = 9;

/// Whether a client identifier looks as if a library had drawn it: `mqttjs_1f2e3d4c`, a UUID. One that is empty is drawn
/// by the server.
pub fn is_drawn(client_identifier: &str) -> bool {
    client_identifier.is_empty()
        || client_identifier.split(|character: char| !character.is_ascii_alphanumeric()).any(is_drawn_word)
}

fn is_drawn_word(word: &str) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    let has_digit = word.bytes().any(|byte| is_digit(&byte));
    let has_number = word.as_bytes().split(|byte| !is_digit(byte)).any(|digits| digits.len() >= DIGITS_LEN);
    let is_number = word.bytes().all(|byte| is_digit(&byte));
    let is_hexadecimal = word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let pairs = word.as_bytes().windows(2);
    let changes = pairs.filter(|pair| is_digit(&pair[0]) != is_digit(&pair[1])).count();
    has_number
        || is_hexadecimal && has_digit && !is_number && word.len() >= HEXADECIMAL_LEN
        || changes >= MIXED_CHANGES && word.len() >= MIXED_LEN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_that_libraries_draw_are_told_from_names() {
        let drawn = [
            "",
            "mqttjs_1f2e3d4c",
            "mosq-k3Jd92LsP0qWm4xZ7v",
            "auto-5D0B4F3E-0A6C-2F1B-8C77-6B4F1E9A0D42",
            "paho182736455463",
            "explorer-0f1a2b",
        ];
        let names =
            ["press-7", "control-room", "MyDeviceName2", "sensor2024abc", "device-10001", "deadbeef", "a1"];
        assert!(drawn.iter().all(|name| is_drawn(name)));
        assert_eq!(names.iter().filter(|name| is_drawn(name)).count(), 0);
    }
}

//! JSON whose numbers keep their digits.
//!
//! A number that an `f64` or an integer of 64 bits may not hold as it is written stands as a string with a mark before it, so
//! that two of them are equal only if they are written alike.

use std::borrow::Cow;

use serde_json::Value;

/// A code point that is no character, and that nobody writes.
const MARK: char = '\u{fdd0}';
/// Digits, and powers of ten, with which a number is the same in any parser.
const EXACT_DIGITS: usize = 15;
const EXACT_POWER: i64 = 22;

/// `None` if it is no JSON.
pub fn parse(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(&marked(bytes)).ok()
}

/// As it is written, in one line.
pub fn shown(value: &Value) -> String {
    let text = value.to_string();
    let mark = format!("\"{MARK}");
    let mut parts = text.split(&mark);
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (number, rest) = part.split_once('"').unwrap_or((part, ""));
        shown += number;
        shown += rest;
    }
    shown
}

pub fn number(value: &Value) -> Option<f64> {
    match digits(value) {
        Some(digits) => digits.parse().ok(),
        None => value.as_f64(),
    }
}

/// Whether both are null, booleans, numbers, texts, arrays or objects.
pub fn are_of_one_type(one: &Value, other: &Value) -> bool {
    let is_number = |value: &Value| value.is_number() || digits(value).is_some();
    match (is_number(one), is_number(other)) {
        (false, false) => std::mem::discriminant(one) == std::mem::discriminant(other),
        (first, second) => first && second,
    }
}

fn digits(value: &Value) -> Option<&str> {
    value.as_str()?.strip_prefix(MARK)
}

/// The same bytes with numbers as strings where they would lose something.
fn marked(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut marked = Cow::Borrowed(bytes);
    let (mut index, mut copied) = (0, 0);
    while index < bytes.len() {
        match bytes[index] {
            b'"' => index = behind_string(bytes, index),
            b'-' | b'0'..=b'9' => {
                let is_of_number =
                    |byte: &&u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
                let end = index + bytes[index..].iter().take_while(is_of_number).count();
                let number = &bytes[index..end];
                if !is_exact(number) && serde_json::from_slice::<&serde_json::value::RawValue>(number).is_ok()
                {
                    let marked = match &mut marked {
                        Cow::Owned(owned) => owned,
                        borrowed => {
                            *borrowed = Cow::Owned(Vec::with_capacity(bytes.len() + 16));
                            borrowed.to_mut()
                        }
                    };
                    marked.extend_from_slice(&bytes[copied..index]);
                    marked.extend_from_slice(format!("\"{MARK}").as_bytes());
                    marked.extend_from_slice(number);
                    marked.push(b'"');
                    copied = end;
                }
                index = end;
            }
            _ => index += 1,
        }
    }
    if let Cow::Owned(owned) = &mut marked {
        owned.extend_from_slice(&bytes[copied..]);
    }
    marked
}

fn behind_string(bytes: &[u8], start: usize) -> usize {
    let mut index = start + 1;
    while index < bytes.len() {
        match bytes[index] {
            b'\\' => index += 2,
            b'"' => return index + 1,
            _ => index += 1,
        }
    }
    bytes.len()
}

/// Whether all parsers make the same of it, and of no other number.
fn is_exact(number: &[u8]) -> bool {
    let text = std::str::from_utf8(number).unwrap_or_default();
    if text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit()) {
        return text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok();
    }
    let (mantissa, power) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let decimals = mantissa.split_once('.').map_or(0, |(_, decimals)| decimals.len() as i64);
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).skip_while(|digit| *digit == b'0').count();
    let power = power.parse::<i64>().map(|power| power.saturating_sub(decimals));
    digits <= EXACT_DIGITS && power.is_ok_and(|power| power.abs() <= EXACT_POWER)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_that_differ_in_any_digit_differ() {
        let parsed = |text: &str| parse(text.as_bytes()).unwrap();
        for (one, other) in [
            ("[18446744073709551616]", "[18446744073709551617]"),
            ("{\"v\":0.12345678901234567}", "{\"v\":0.12345678901234568}"),
            ("-123456789012345678901", "-123456789012345678902"),
            ("1e400", "1e401"),
            ("123456789.123456789", "123456789.123456788"),
        ] {
            assert_eq!(parsed(one), parsed(one));
            assert_ne!(parsed(one), parsed(other), "{one}");
            assert_eq!(shown(&parsed(one)), one);
        }
        for (one, other) in
            [("1.50", "1.5"), ("0.1e1", "1.0"), ("18446744073709551615", "18446744073709551615")]
        {
            assert_eq!(parsed(one), parsed(other));
        }
        assert_eq!(
            parsed("[1, -2.5, \"12345678901234567890123\", \"\\\"1e400\"]"),
            json!([1, -2.5, "12345678901234567890123", "\"1e400"])
        );
    }

    #[test]
    fn long_numbers_are_numbers() {
        let long = parse(b"123456789012345678901234.5").unwrap();
        assert_eq!(number(&long), Some(123456789012345678901234.5));
        assert!(are_of_one_type(&long, &json!(1)) && !are_of_one_type(&long, &json!("1")));
        assert!(are_of_one_type(&json!([]), &json!([1])) && !are_of_one_type(&json!(null), &json!(0)));
    }

    #[test]
    fn what_is_no_json_is_none() {
        for text in [
            "",
            "{",
            "1.2.3",
            "12345678901234567890.",
            "--12345678901234567890",
            "\"",
            "\"\\",
            "01234567890123456789012",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}

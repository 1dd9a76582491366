//! Helpers that work on text.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::Value;

use super::{Failure, Given, Helper, Kind::*, OUTPUT_LEN_MAX, Slot, shown, text_of, too_long};

pub(super) const HELPERS: &[Helper] = &[
    Helper::new("upper", "text", &[Text], |given| Ok(given.text(0)?.to_uppercase().into())),
    Helper::new("lower", "text", &[Text], |given| Ok(given.text(0)?.to_lowercase().into())),
    Helper::new("trim", "text", &[Text], |given| Ok(given.text(0)?.trim().to_owned().into())),
    Helper::new("length", "text (or list, or object)", &[Any], length),
    Helper::new("len", "text (or list, or object)", &[Any], length),
    Helper::new("concat", "a b …", &[Any], concat).taking(1, usize::MAX),
    Helper::new("substr", "text start [length]", &[Text, Whole, Whole], substr).taking(2, 3),
    Helper::new("replace", "text from to", &[Text, Text, Text], replace),
    Helper::new("split", "text separator", &[Text, Text], split),
    Helper::new("join", "list [separator]", &[Any, Text], join).taking(1, 2),
    Helper::new("base64", "text", &[Any], |given| Ok(BASE64_STANDARD.encode(&*given.text(0)?).into())),
    Helper::new("base64_decode", "text", &[Text], base64_decode),
    Helper::new("hex", "text", &[Any], hex),
    Helper::new("hex_decode", "text", &[Text], hex_decode),
];

/// Parts that `split` makes.
const PARTS_MAX: usize = 65_536;

/// Of a text, its characters.
fn length<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    let len = match &*given.value(0)? {
        Value::Array(items) => items.len(),
        Value::Object(members) => members.len(),
        value => text_of(value).chars().count(),
    };
    Ok(Value::from(len).into())
}

fn concat<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    let mut text = String::new();
    for argument in given.arguments {
        text.push_str(&argument.text()?);
        if text.len() > OUTPUT_LEN_MAX {
            return Err(too_long());
        }
    }
    Ok(text.into())
}

/// By characters; a start below 0 counts from the end.
fn substr<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    let text = given.text(0)?;
    let start = given.whole(1)?;
    let skipped = match usize::try_from(start) {
        Ok(start) => start,
        Err(_) => {
            text.chars().count().saturating_sub(usize::try_from(start.unsigned_abs()).unwrap_or(usize::MAX))
        }
    };
    let len = if given.has(2) { usize::try_from(given.whole(2)?).unwrap_or(0) } else { usize::MAX };
    Ok(text.chars().skip(skipped).take(len).collect::<String>().into())
}

fn replace<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    let (text, from, to) = (given.text(0)?, given.text(1)?, given.text(2)?);
    if from.is_empty() {
        return Err("what is to be replaced is empty".to_owned().into());
    }
    if text.matches(&*from).count().saturating_mul(to.len()).saturating_add(text.len()) > OUTPUT_LEN_MAX {
        return Err(too_long());
    }
    Ok(text.replace(&*from, &to).into())
}

fn split<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    let (text, separator) = (given.text(0)?, given.text(1)?);
    if separator.is_empty() {
        return Err("the separator is empty".to_owned().into());
    }
    let parts: Vec<Value> = text.split(&*separator).take(PARTS_MAX + 1).map(Value::from).collect();
    if parts.len() > PARTS_MAX {
        return Err(format!("more than {PARTS_MAX} parts").into());
    }
    Ok(Value::Array(parts).into())
}

fn join<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    let list = given.value(0)?;
    let Value::Array(items) = &*list else { return Err(format!("{} is no list", shown(&list)).into()) };
    let separator = if given.has(1) { given.text(1)? } else { ",".into() };
    let mut text = String::new();
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push_str(&separator);
        }
        text.push_str(&text_of(item));
        if text.len() > OUTPUT_LEN_MAX {
            return Err(too_long());
        }
    }
    Ok(text.into())
}

fn base64_decode<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    let text = given.text(0)?;
    let bytes = BASE64_STANDARD.decode(text.trim()).map_err(|_| "the text is no base64".to_owned())?;
    to_text(bytes)
}

fn hex<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let text = given.text(0)?;
    let digits = text.bytes().flat_map(|byte| [byte >> 4, byte & 15]);
    Ok(digits.map(|digit| DIGITS[usize::from(digit)] as char).collect::<String>().into())
}

fn hex_decode<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    let text = given.text(0)?;
    let digits: Option<Vec<u8>> =
        text.trim().chars().map(|letter| letter.to_digit(16).map(|digit| digit as u8)).collect();
    match digits {
        Some(digits) if digits.len() % 2 == 0 => {
            to_text(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
        }
        _ => Err("the text is no hexadecimal".to_owned().into()),
    }
}

fn to_text<'v>(bytes: Vec<u8>) -> Result<Slot<'v>, Failure> {
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.into()),
        Err(_) => Err("the bytes are no UTF-8".to_owned().into()),
    }
}

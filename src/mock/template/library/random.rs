//! Helpers that draw, and those that keep what they drew.

use serde_json::Value;

use super::{Failure, Given, Helper, Kind::*, Slot, number::with_digits, shown};
use crate::mock::state::Walk;

pub(super) const HELPERS: &[Helper] = &[
    Helper::new("uuid", "", &[], uuid),
    Helper::new("random_int", "min max", &[Whole, Whole], random_int),
    Helper::new("random_float", "min max [digits]", &[Number, Number, Whole], random_float).taking(2, 3),
    Helper::new("random_choice", "a b … (or a list)", &[Any], random_choice).taking(1, usize::MAX),
    Helper::new("random_string", "length", &[Whole], random_string),
    Helper::new("random_bool", "[probability]", &[Number], random_bool).taking(0, 1).opening_blocks(),
    Helper::new("gauss", "mean deviation [digits]", &[Number, Number, Whole], gauss).taking(2, 3),
    Helper::new(
        "walk",
        "key start step min max [digits]",
        &[Text, Number, Number, Number, Number, Whole],
        walk,
    )
    .taking(5, 6),
    Helper::new("counter", "key [start=1] [step=1]", &[Text], counter)
        .named(&[("start", Whole), ("step", Whole)]),
];

/// Letters that `random_string` may draw.
const RANDOM_STRING_LEN_MAX: usize = 1 << 20;

/// Version 4.
fn uuid<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    let mut bytes = [0; 16];
    for half in bytes.chunks_mut(8) {
        half.copy_from_slice(&given.draws().next_u64().to_le_bytes());
    }
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid().to_string().into())
}

fn random_int<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    let (min, max) = (given.whole(0)?, given.whole(1)?);
    if min > max {
        return Err(wrong_way_round(&min, &max));
    }
    Ok(Value::from(given.draws().between(min, max)).into())
}

fn random_float<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    let (min, max, digits) = (given.real(0)?, given.real(1)?, given.digits(2)?);
    if min > max {
        return Err(wrong_way_round(&min, &max));
    }
    // In two parts: the difference of two doubles may be none. Rounding may reach past the end.
    let fraction = given.draws().fraction();
    let drawn = (min * (1.0 - fraction) + max * fraction).clamp(min, max);
    with_digits(drawn, digits)
}

fn wrong_way_round(min: &dyn std::fmt::Display, max: &dyn std::fmt::Display) -> Failure {
    format!("min {min} is above max {max}").into()
}

fn random_choice<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    let count = given.arguments.len();
    if count > 1 {
        let chosen = given.draws().between(0, count as i64 - 1) as usize;
        return Ok(given.arguments[chosen].clone());
    }
    let arguments = given.arguments;
    let list = arguments[0].value()?;
    let Value::Array(items) = &*list else {
        return Err(
            format!("{} is nothing to choose from: expected a list, or more values", shown(&list)).into()
        );
    };
    if items.is_empty() {
        return Err("the list is empty".to_owned().into());
    }
    let chosen = given.draws().between(0, items.len() as i64 - 1) as usize;
    Ok(items[chosen].clone().into())
}

fn random_string<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let len = given.whole(0)?;
    let Some(len) = usize::try_from(len).ok().filter(|len| *len <= RANDOM_STRING_LEN_MAX) else {
        return Err(format!("expected a length from 0 to {RANDOM_STRING_LEN_MAX}, not {len}").into());
    };
    let mut letter = || LETTERS[given.draws().between(0, LETTERS.len() as i64 - 1) as usize] as char;
    Ok((0..len).map(|_| letter()).collect::<String>().into())
}

fn random_bool<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    let probability = if given.has(0) { given.real(0)? } else { 0.5 };
    if !(0.0..=1.0).contains(&probability) {
        return Err(format!("expected a probability from 0 to 1, not {probability}").into());
    }
    Ok((given.draws().fraction() < probability).into())
}

fn gauss<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    let (mean, deviation, digits) = (given.real(0)?, given.real(1)?, given.digits(2)?);
    if deviation < 0.0 {
        return Err(format!("a deviation of {deviation} is negative").into());
    }
    with_digits(mean + deviation * given.draws().normal(), digits)
}

fn walk<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    let walk = Walk { start: given.real(1)?, step: given.real(2)?, min: given.real(3)?, max: given.real(4)? };
    let digits = given.digits(5)?;
    if walk.min > walk.max {
        return Err(wrong_way_round(&walk.min, &walk.max));
    }
    let fraction = given.draws().fraction();
    let place = given.state().walk(&given.text(0)?, walk, fraction).map_err(|error| error.to_string())?;
    with_digits(place, digits)
}

fn counter<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    let option = |name| match given.named(name) {
        Some(slot) => Ok::<_, Failure>(super::Num::of(&*slot.value()?)?.whole()?),
        None => Ok(1),
    };
    let (start, step) = (option("start")?, option("step")?);
    let count = given.state().count(&given.text(0)?, start, step).map_err(|error| error.to_string())?;
    Ok(Value::from(count).into())
}

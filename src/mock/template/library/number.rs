//! Helpers that calculate.

use serde_json::Value;

use super::{Failure, Given, Helper, Kind::*, Slot, shown};

pub(super) const HELPERS: &[Helper] = &[
    Helper::new("add", "a b …", &[Number, Number], add).taking(2, usize::MAX),
    Helper::new("sub", "a b", &[Number, Number], sub),
    Helper::new("mul", "a b …", &[Number, Number], mul).taking(2, usize::MAX),
    Helper::new("div", "a b", &[Number, Number], div),
    Helper::new("mod", "a b", &[Number, Number], modulo),
    Helper::new("round", "number [digits]", &[Number, Whole], round).taking(1, 2),
    Helper::new("floor", "number", &[Number], |given| to_whole(given, f64::floor)),
    Helper::new("ceil", "number", &[Number], |given| to_whole(given, f64::ceil)),
    Helper::new("abs", "number", &[Number], abs),
    Helper::new("min", "a b … (or a list)", &[Any], |given| extreme(given, |one, best| one < best))
        .taking(1, usize::MAX),
    Helper::new("max", "a b … (or a list)", &[Any], |given| extreme(given, |one, best| one > best))
        .taking(1, usize::MAX),
];

/// A number as templates calculate with it: whole as long as it can be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Num {
    Whole(i64),
    Real(f64),
}

impl Num {
    /// # Errors
    /// That the value is no number, nor a text that is one.
    pub fn of(value: &Value) -> Result<Self, String> {
        let number = match value {
            Value::Number(number) => Some(Self::from(number)),
            Value::String(text) => text.trim().parse::<serde_json::Number>().ok().as_ref().map(Self::from),
            _ => None,
        };
        number.ok_or_else(|| format!("{} is no number", shown(value)))
    }

    pub fn real(self) -> f64 {
        match self {
            Self::Whole(whole) => whole as f64,
            Self::Real(real) => real,
        }
    }

    /// # Errors
    /// That it has a fraction or more than 64 bits.
    pub fn whole(self) -> Result<i64, String> {
        match self {
            Self::Whole(whole) => Ok(whole),
            Self::Real(real) => whole_of(real).ok_or_else(|| format!("{real} is no whole number")),
        }
    }
}

impl From<&serde_json::Number> for Num {
    fn from(number: &serde_json::Number) -> Self {
        match number.as_i64() {
            Some(whole) => Self::Whole(whole),
            None => Self::Real(number.as_f64().unwrap_or(f64::NAN)),
        }
    }
}

/// As a decimal without exponent, unless that would be longer than is fit to read.
pub(super) fn plain(number: &serde_json::Number) -> String {
    let text = number.to_string();
    match number.as_f64() {
        Some(real) if text.contains('e') && (1e-21..1e21).contains(&real.abs()) => format!("{real}"),
        _ => text,
    }
}

/// # Errors
/// That it is infinite or not a number at all.
pub(super) fn real<'v>(real: f64) -> Result<Slot<'v>, Failure> {
    match serde_json::Number::from_f64(real) {
        Some(number) => Ok(Value::Number(number).into()),
        None => Err("the result is no number".to_owned().into()),
    }
}

/// With exactly so many digits, or as many as it has.
///
/// # Errors
/// That it is infinite or not a number at all.
pub(super) fn with_digits<'v>(number: f64, digits: Option<usize>) -> Result<Slot<'v>, Failure> {
    let Some(digits) = digits else { return real(number) };
    let text = format!("{number:.digits$}");
    match text.parse::<f64>() {
        // No "-0.00".
        Ok(rounded) if rounded.is_finite() => {
            Ok(Slot::Fixed(if rounded == 0.0 { text.trim_start_matches('-').to_owned() } else { text }))
        }
        _ => real(f64::NAN),
    }
}

fn whole_of(real: f64) -> Option<i64> {
    // Both ends are doubles; the upper one is one too many.
    let fits = real.fract() == 0.0 && (-(2f64.powi(63))..2f64.powi(63)).contains(&real);
    fits.then_some(real as i64)
}

fn whole<'v>(whole: i64) -> Result<Slot<'v>, Failure> {
    Ok(Value::from(whole).into())
}

fn fold<'v>(
    given: &Given<'_, 'v>,
    exact: fn(i64, i64) -> Option<i64>,
    rough: fn(f64, f64) -> f64,
) -> Result<Slot<'v>, Failure> {
    let mut result = given.num(0)?;
    for index in 1..given.arguments.len() {
        let next = given.num(index)?;
        let whole = match (result, next) {
            (Num::Whole(one), Num::Whole(other)) => exact(one, other),
            _ => None,
        };
        result = whole.map_or_else(|| Num::Real(rough(result.real(), next.real())), Num::Whole);
    }
    match result {
        Num::Whole(result) => whole(result),
        Num::Real(result) => real(result),
    }
}

fn add<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    fold(given, i64::checked_add, |one, other| one + other)
}

fn sub<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    fold(given, i64::checked_sub, |one, other| one - other)
}

fn mul<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    fold(given, i64::checked_mul, |one, other| one * other)
}

/// Whole if it comes out even.
fn div<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    not_by_zero(given)?;
    let exact = |one: i64, other: i64| match one.checked_rem(other) {
        Some(0) => one.checked_div(other),
        _ => None,
    };
    fold(given, exact, |one, other| one / other)
}

/// Of the divisor's sign, so that an index stays one.
fn modulo<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    not_by_zero(given)?;
    let exact = |one: i64, other: i64| {
        let rest = one.checked_rem(other)?;
        Some(if rest != 0 && (rest < 0) != (other < 0) { rest + other } else { rest })
    };
    fold(given, exact, |one, other| one - other * (one / other).floor())
}

fn not_by_zero(given: &Given<'_, '_>) -> Result<(), Failure> {
    if given.real(1)? == 0.0 { Err("division by zero".to_owned().into()) } else { Ok(()) }
}

fn round<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    match given.digits(1)? {
        Some(digits) => with_digits(given.real(0)?, Some(digits)),
        None => to_whole(given, f64::round),
    }
}

fn to_whole<'v>(given: &mut Given<'_, 'v>, round: fn(f64) -> f64) -> Result<Slot<'v>, Failure> {
    match given.num(0)? {
        Num::Whole(number) => whole(number),
        Num::Real(number) => {
            let rounded = round(number);
            whole_of(rounded).map_or_else(|| real(rounded), whole)
        }
    }
}

fn abs<'v>(given: &mut Given<'_, 'v>) -> Result<Slot<'v>, Failure> {
    match given.num(0)? {
        Num::Whole(number) => number.checked_abs().map_or_else(|| real((number as f64).abs()), whole),
        Num::Real(number) => real(number.abs()),
    }
}

fn extreme<'v>(given: &mut Given<'_, 'v>, better: fn(f64, f64) -> bool) -> Result<Slot<'v>, Failure> {
    let first = given.value(0)?;
    let numbers: Vec<Num> = match &*first {
        Value::Array(items) if given.arguments.len() == 1 => {
            items.iter().map(Num::of).collect::<Result<_, _>>()?
        }
        _ => (0..given.arguments.len()).map(|index| given.num(index)).collect::<Result<_, _>>()?,
    };
    let best =
        numbers.into_iter().reduce(|best, one| if better(one.real(), best.real()) { one } else { best });
    match best {
        Some(Num::Whole(best)) => whole(best),
        Some(Num::Real(best)) => real(best),
        None => Err("the list is empty".to_owned().into()),
    }
}

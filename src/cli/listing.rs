//! Lists of the contract: fetched to their last page, and printed as a table or as JSON.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{
    exit::Failure,
    output::{self, Format},
};

/// The largest page the contract grants.
pub const PAGE: u32 = 1000;

/// The items of every page. `page` fetches the one that a token stands for, the first for an empty one, and answers its
/// items and the token of the next one, empty on the last.
pub async fn every<T>(
    mut page: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Failure>,
) -> Result<Vec<T>, Failure> {
    let mut items = Vec::new();
    let mut token = String::new();
    loop {
        let (more, next) = page(token).await?;
        items.extend(more);
        if next.is_empty() {
            return Ok(items);
        }
        token = next;
    }
}

/// Prints `items`: for programs as an object of one member, `name`; for people as a table below `heading`, or `none`.
pub fn print<T, const N: usize>(
    format: Format,
    (name, none): (&str, &str),
    items: &[T],
    shown: impl Fn(&T) -> Box<RawValue>,
    heading: [&str; N],
    row: impl Fn(&T) -> Vec<String>,
) -> Result<(), Failure> {
    match format {
        Format::Json => {
            let items: Vec<_> = items.iter().map(shown).collect();
            output::json_line(&BTreeMap::from([(name, items)]))?;
        }
        Format::Text if items.is_empty() => output::line(none)?,
        Format::Text => {
            let mut rows = vec![heading.map(str::to_owned).to_vec()];
            rows.extend(items.iter().map(row));
            output::line(output::table(&rows))?;
        }
    }
    Ok(())
}

//! Sizes as people type them: `64MiB`, `500kB`, `1048576`.

/// Bytes.
///
/// # Errors
/// What was expected.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit: u64 = match text[end..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err("expected a size such as 64MiB, 500kB or 1048576".to_owned()),
    };
    let count: u64 = text[..end].parse().map_err(|_| "expected a size such as 64MiB".to_owned())?;
    count.checked_mul(unit).ok_or_else(|| "that is more than there can be".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_either_kind() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("64MiB", 64 << 20),
            ("64 MiB", 64 << 20),
            ("2k", 2048),
            ("500kB", 500_000),
            ("1GB", 1_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5MiB", "64 parsecs", "99999999999999999999", "99999999999GiB"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}

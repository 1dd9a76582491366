//! How many there are of something, in words.

/// `1 packet`, `2 packets`, `2 pieces of bytes`. `noun` is one of them, and takes an `s` when there are more.
pub fn counted(number: u64, noun: &str) -> String {
    if number == 1 {
        return format!("1 {noun}");
    }
    match noun.split_once(" of ") {
        Some((noun, of)) => format!("{number} {noun}s of {of}"),
        None => format!("{number} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_takes_its_s_in_the_right_place() {
        for (number, noun, text) in [
            (0, "event", "0 events"),
            (1, "piece of bytes", "1 piece of bytes"),
            (1832, "piece of bytes", "1832 pieces of bytes"),
        ] {
            assert_eq!(counted(number, noun), text);
        }
    }
}

//! Which of the known names somebody may have meant.

/// How alike two names have to be for one to be taken for the other, from 0 to 1.
pub const ALIKE: f64 = 0.5;

/// The most alike of `names`, and how much, from 0 to 1.
pub fn most_alike<'n>(name: &str, names: impl IntoIterator<Item = &'n str>) -> Option<(&'n str, f64)> {
    names
        .into_iter()
        .map(|known| (known, strsim::normalized_damerau_levenshtein(name, known)))
        .max_by(|(_, one), (_, other)| one.total_cmp(other))
}

/// The most alike of `names`, if one is alike at all.
pub fn nearest<'n>(name: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    most_alike(name, names).filter(|(_, likeness)| *likeness >= ALIKE).map(|(known, _)| known)
}

/// What to say of a name that is none of `names`: which was meant, or which there are.
pub fn unknown<'n>(noun: &str, name: &str, names: impl IntoIterator<Item = &'n str> + Clone) -> String {
    match nearest(name, names.clone()) {
        Some(nearest) => format!("unknown {noun} {name:?}; did you mean {nearest:?}?"),
        None => {
            let names: Vec<&str> = names.into_iter().collect();
            format!("unknown {noun} {name:?}; known are {}", names.join(", "))
        }
    }
}

/// What serde says of a name that it does not know, with the nearest of those it lists; anything else as it is.
pub fn plain(reason: &str) -> String {
    let none =
        reason.strip_prefix("unknown field `").and_then(|rest| rest.strip_suffix("`, there are no fields"));
    if let Some(name) = none {
        return format!("unknown key {name:?}; there are none");
    }
    let parts = || {
        let (what, known) =
            reason.split_once(", expected one of ").or_else(|| reason.split_once(", expected "))?;
        let (noun, name) = match what.strip_prefix("unknown field `") {
            Some(name) => ("key", name),
            None => ("value", what.strip_prefix("unknown variant `")?),
        };
        // Some parsers leave out the quotes.
        let names = known.split([',', ' ']).filter(|name| !matches!(*name, "" | "or"));
        let known: Vec<&str> = names.map(|name| name.trim_matches('`')).collect();
        Some((noun, name.strip_suffix('`')?, known))
    };
    let Some((noun, name, known)) = parts() else { return reason.to_owned() };
    unknown(noun, name, known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_told_from_another_word() {
        assert_eq!(nearest("topc", ["topic", "qos"]), Some("topic"));
        assert_eq!(nearest("colour", ["topic", "qos"]), None);
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn what_serde_says_becomes_a_question() {
        assert_eq!(
            plain("unknown field `delay`, expected one of `delay_ms`, `qos`"),
            "unknown key \"delay\"; did you mean \"delay_ms\"?"
        );
        assert_eq!(
            plain("unknown variant `x`, expected `all` or `random`"),
            "unknown value \"x\"; known are all, random"
        );
        assert_eq!(
            plain("unknown field `topics`, expected one of topic, qos"),
            "unknown key \"topics\"; did you mean \"topic\"?"
        );
        assert_eq!(plain("unknown field `x`, there are no fields"), "unknown key \"x\"; there are none");
        assert_eq!(plain("invalid type: map, expected u8"), "invalid type: map, expected u8");
    }
}

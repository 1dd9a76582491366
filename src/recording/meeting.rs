//! Whether clients that are called otherwise would be called the same.

use std::{collections::HashMap, fmt};

use super::{ClientNames, Rewrite};

/// Names that are held beside each other.
const NAMES_MAX: usize = 1 << 20;

/// Two clients of one name, which would end each other's connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meeting {
    one: Client,
    other: Client,
    name: String,
}

/// As recorded, with the copy's number where there are several.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Client {
    name: String,
    copy: Option<u32>,
}

/// There are too many names to tell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "makes over {NAMES_MAX} names, too many to tell whether any is there twice: let {{{{i}}}} end it, behind something else than a \
     digit"
)]
pub struct TooManyToTell;

/// The first two there are of `clients` in `count` copies.
///
/// # Errors
/// [`TooManyToTell`].
pub fn meeting(
    clients: &ClientNames,
    rewrite: &Rewrite,
    run: &str,
    count: u32,
) -> Result<Option<Meeting>, TooManyToTell> {
    if rewrite.tells_clients_apart(run, count) {
        return Ok(None);
    }
    let (named, unnamed): (Vec<_>, Vec<_>) =
        clients.sorted().into_iter().partition(|client| rewrite.names(client));
    if named.len().saturating_mul(count as usize).saturating_add(unnamed.len()) > NAMES_MAX {
        return Err(TooManyToTell);
    }
    let is_only_one = count == 1;
    let client =
        |(name, copy): (&str, u32)| Client { name: name.to_owned(), copy: (!is_only_one).then_some(copy) };
    // Those that keep their names are there once, however many copies there are.
    let mut known: HashMap<String, (&str, u32)> =
        unnamed.into_iter().map(|name| (name.to_owned(), (name, 1))).collect();
    for copy in 1..=count {
        for &recorded in &named {
            let name = rewrite.client(recorded, run, copy).into_owned();
            if let Some(before) = known.insert(name.clone(), (recorded, copy)) {
                return Ok(Some(Meeting { one: client(before), other: client((recorded, copy)), name }));
            }
        }
    }
    Ok(None)
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.name)?;
        self.copy.map_or(Ok(()), |copy| write!(f, " of copy {copy}"))
    }
}

impl fmt::Display for Meeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {} would both be called {:?}", self.one, self.other, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{NamePattern, NameTemplate, TooManyNames, sample::script};

    #[track_caller]
    fn check(template: &str, count: u32, selected: &[&str], wanted: Option<&str>) {
        let events = script(
            "1 open
            1 c2s CONNECT a v=5
            2 open
            2 c2s CONNECT a1 v=5",
        );
        let names = ClientNames::read(events.into_iter().map(Ok::<_, TooManyNames>)).unwrap();
        let rewrite = Rewrite::new(&[], Some(NameTemplate::parse(template).unwrap())).unwrap();
        let rewrite = rewrite.naming(selected.iter().copied().map(NamePattern::new).collect());
        let found = meeting(&names, &rewrite, "r1", count).unwrap().map(|meeting| meeting.to_string());
        assert_eq!(found.as_deref(), wanted, "{template}");
    }

    #[test]
    fn names_that_meet_are_found_with_whose_they_are() {
        check("x", 1, &[], Some("\"a\" and \"a1\" would both be called \"x\""));
        check("x-{{i}}", 2, &[], Some("\"a\" of copy 1 and \"a1\" of copy 1 would both be called \"x-1\""));
        let met = "\"a1\" of copy 1 and \"a\" of copy 11 would both be called \"a11\"";
        check("{{client_id}}{{i}}", 11, &[], Some(met));
        check("{{client_id}}{{i}}", 10, &[], None);
        check("{{client_id}}-{{ i }}", 10_000, &[], None);
        check("{{i}}{{client_id}}", 11, &[], None);
        check("{{run_id}}-{{client_id}}", 1, &[], None);
    }

    #[test]
    fn who_is_not_selected_keeps_its_name_where_the_template_has_none() {
        check("x", 1, &["a"], None);
        check("x-{{i}}", 3, &["a1"], None);
        check("a1", 1, &["a"], Some("\"a1\" and \"a\" would both be called \"a1\""));
    }

    #[test]
    fn too_many_names_are_refused_where_it_is_not_clear_by_their_form() {
        let mut names = ClientNames::default();
        for name in 0..=NAMES_MAX / 10_000 {
            names.add(Some(&format!("dev{name}-"))).unwrap();
        }
        let rewrite = |text: &str| Rewrite::new(&[], Some(NameTemplate::parse(text).unwrap())).unwrap();
        let clear = ["{{client_id}}-{{i}}", "{{client_id}}{{run_id}}{{i}}", "x{{i}}.{{client_id}}"];
        for text in clear {
            assert_eq!(meeting(&names, &rewrite(text), "r", 10_000), Ok(None), "{text}");
        }
        assert_eq!(meeting(&names, &rewrite("{{client_id}}{{i}}"), "r", 10_000), Err(TooManyToTell));
        assert_eq!(
            meeting(&names, &rewrite("{{client_id}}{{run_id}}{{i}}"), "r1", 10_000),
            Err(TooManyToTell)
        );
    }
}

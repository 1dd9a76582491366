//! The client identifiers of a replay's connections: `mf-RUN-LINK`.

use std::borrow::Cow;

/// Characters that name a run: digits and small letters.
pub const RUN_LEN: usize = 8;

/// Short enough for every broker, and like no device's.
pub fn replay_client(run: &str, link: usize) -> String {
    format!("mf-{run}-{link}")
}

/// Whether a client identifier is one of a replay.
pub fn is_replay(client_identifier: &str) -> bool {
    link_of(client_identifier).is_some()
}

/// What the same client is called in every run, which is its identifier unless it is one of a replay.
pub fn without_run(client_identifier: &str) -> Cow<'_, str> {
    match link_of(client_identifier) {
        Some(link) => format!("mf-{link}").into(),
        None => client_identifier.into(),
    }
}

fn link_of(client_identifier: &str) -> Option<&str> {
    let (run, link) = client_identifier.strip_prefix("mf-")?.split_once('-')?;
    let is_run = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
    let is_one = run.len() == RUN_LEN && run.bytes().all(is_run) && link.parse::<usize>().is_ok();
    is_one.then_some(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_is_told_from_a_device_and_by_its_connection_from_another() {
        assert_eq!(without_run(&replay_client("01abcdef", 12)), "mf-12");
        assert!(is_replay("mf-01abcdef-0"));
        for device in ["mf-01abcdef", "mf-01abcde-0", "mf-01ABCDEF-0", "mf-01abcdef-x", "dev", ""] {
            assert!(!is_replay(device), "{device}");
            assert_eq!(without_run(device), device);
        }
    }
}

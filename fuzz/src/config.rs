//! Any text as the settings file.

use mockforge::{Config, config::ConfigError};

pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Err(error) = Config::of_text("fuzz.yaml", text) {
        check(&error);
    }
}

/// Every error names its place.
fn check(error: &ConfigError) {
    if let ConfigError::Several(errors) = error {
        assert!(!errors.is_empty());
        return errors.iter().for_each(check);
    }
    let text = error.to_string();
    let place: Vec<&str> = text.splitn(4, ':').collect();
    let [file, line, column, _] = place[..] else { panic!("no place in {text:?}") };
    let is_number = |text: &str| text.parse::<u64>().is_ok_and(|number| number > 0);
    assert!(file == "fuzz.yaml" && is_number(line) && is_number(column), "{text}");
}

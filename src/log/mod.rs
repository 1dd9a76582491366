//! The log: what goes into it, how a line looks, and how that changes while the process runs.
//!
//! `tracing` knows one subscriber for a whole process, so this is one for all servers in it. A program that embeds us has a
//! log of its own, or none: then nothing here changes it.

mod json;

use std::{
    io,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::LevelFilter,
    fmt,
    layer::SubscriberExt,
    reload::{self, Handle},
    util::SubscriberInitExt,
};

use self::json::{JsonFields, JsonLines};
use crate::likeness;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// A JSON object.
    Json,
}

/// Why what goes into the log stays as it was.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum LogError {
    #[error("{0}")]
    BadFilter(String),
    #[error("the log of this process is not ours")]
    NotOurs,
}

/// The log of this process, once [`start`] has made it.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    handle: Handle<EnvFilter, Registry>,
    filters: Mutex<Filters>,
}

/// As they were written.
struct Filters {
    in_force: String,
    of_settings: String,
}

impl LogFormat {
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// Writes the log to standard error from here on. Where the process has a log already, that stays.
///
/// # Errors
/// [`LogError::BadFilter`].
pub fn start(filter: &str, format: LogFormat, is_colored: bool) -> Result<(), LogError> {
    let (layer, handle) = reload::Layer::new(parse(filter)?);
    let lines = fmt::layer()
        .with_writer(io::stderr)
        // A log on a full disk is no reason to panic where something is logged.
        .log_internal_errors(false);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(is_colored).boxed(),
        LogFormat::Json => lines.with_ansi(false).fmt_fields(JsonFields).event_format(JsonLines).boxed(),
    };
    if tracing_subscriber::registry().with(layer).with(lines).try_init().is_ok() {
        let filters = Filters { in_force: filter.to_owned(), of_settings: filter.to_owned() };
        let _ = LOG.set(Log { handle, filters: Mutex::new(filters) });
    }
    Ok(())
}

/// What goes into the log; `None` where it is not ours.
pub fn filter() -> Option<String> {
    LOG.get().map(|log| log.filters().in_force.clone())
}

/// Changes what goes into the log; an empty `filter` is what the settings say. Returns what is in force.
///
/// # Errors
/// Then nothing changes.
pub fn set_filter(filter: &str) -> Result<String, LogError> {
    let log = LOG.get().ok_or(LogError::NotOurs)?;
    let mut filters = log.filters();
    let filter = if filter.trim().is_empty() { filters.of_settings.clone() } else { filter.to_owned() };
    log.put(&filter)?;
    filters.in_force.clone_from(&filter);
    Ok(filter)
}

/// The settings were read again: what they say is in force, unless it is what they said before. Where the log is not ours
/// nothing happens.
///
/// # Errors
/// [`LogError::BadFilter`]; then nothing changes.
pub fn follow_settings(filter: &str) -> Result<(), LogError> {
    let Some(log) = LOG.get() else { return Ok(()) };
    let mut filters = log.filters();
    if filters.of_settings == filter {
        return Ok(());
    }
    log.put(filter)?;
    *filters = Filters { in_force: filter.to_owned(), of_settings: filter.to_owned() };
    Ok(())
}

/// # Errors
/// Which part of `filter` is wrong.
pub fn check(filter: &str) -> Result<(), String> {
    parse(filter).map(|_| ()).map_err(|error| error.to_string())
}

impl Log {
    fn put(&self, filter: &str) -> Result<(), LogError> {
        let filter = parse(filter)?;
        // Fails only where the subscriber is gone, and that of a process never goes.
        self.handle.reload(filter).map_err(|_| LogError::NotOurs)
    }

    fn filters(&self) -> MutexGuard<'_, Filters> {
        self.filters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a level is called.
pub const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let bad = |part: &str, why: &dyn std::fmt::Display| {
        LogError::BadFilter(format!("{part:?} is no log level and no filter: {why}"))
    };
    if filter.trim().is_empty() {
        return Err(LogError::BadFilter("must not be empty".to_owned()));
    }
    for part in filter.split(',').map(str::trim).filter(|part| !part.contains(['[', ']', '{', '}', '"'])) {
        // Anything else by itself is the name of a module, of which everything would be logged.
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        let is_known = level.parse::<LevelFilter>().is_ok() || part.contains("::") && !part.contains('=');
        let meant = likeness::nearest(&level.to_ascii_lowercase(), LEVELS);
        if !is_known && (part.contains('=') || meant.is_some()) {
            return Err(match meant {
                Some(meant) => bad(part, &format_args!("did you mean {meant:?}?")),
                None => bad(part, &format_args!("known levels are {}", LEVELS.join(", "))),
            });
        }
    }
    let has_fields = filter.contains('[');
    let parts: Vec<&str> =
        filter.split(',').map(|part| if has_fields { part } else { part.trim() }).collect();
    EnvFilter::builder().parse(parts.join(",")).map_err(|error| bad(filter, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_levels_modules_and_both() {
        for good in [
            "info",
            "WARN",
            "off",
            "info,mockforge::net=debug",
            "mockforge::broker",
            "hyper",
            "warn, mockforge=trace",
            "[connection{peer=\"a\"}]=trace",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_is_no_filter_is_named_with_what_may_have_been_meant() {
        for (bad, part) in [
            ("inof", "\"inof\" is no log level and no filter: did you mean \"info\"?"),
            ("info,mockforge=debgu", "\"mockforge=debgu\" is no log level"),
            ("mockforge=7up", "known levels are error, warn"),
            ("", "must not be empty"),
            ("[open", "\"[open\" is no log level"),
        ] {
            let error = check(bad).expect_err(bad);
            assert!(error.contains(part), "{bad}: {error}");
        }
    }
}

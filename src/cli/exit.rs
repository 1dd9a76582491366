//! How a command ends: the exit codes, and the errors that carry one.

use std::process::ExitCode;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::{config::ConfigError, gateway::status_json};

/// Exit codes; scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Passed,
    /// A mismatch, a refused or an unacknowledged message.
    Failed,
    /// Wrong arguments or settings, or an output that can't be written.
    Usage,
    /// No server or target, or it refused.
    Unreachable,
    /// Nothing was recorded or sent.
    Nothing,
    /// A damaged recording, one with gaps, or a store that can't be written.
    Damaged,
    /// The timing budget was missed.
    Late,
    /// Ended by a signal before it was through.
    Interrupted,
    /// As the command exited that was run.
    Command(u8),
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Nothing => 4,
            Self::Damaged => 5,
            Self::Late => 6,
            Self::Interrupted => 130,
            Self::Command(code) => code,
        }
    }

    /// What a failure that no server has put into words is for programs.
    fn status(self) -> Code {
        match self {
            Self::Usage => Code::InvalidArgument,
            Self::Unreachable => Code::Unavailable,
            Self::Nothing => Code::FailedPrecondition,
            Self::Damaged => Code::DataLoss,
            Self::Interrupted => Code::Cancelled,
            Self::Passed | Self::Failed | Self::Late | Self::Command(_) => Code::Unknown,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command failed, and the code to exit with.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub error: anyhow::Error,
}

impl Failure {
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into() }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, anyhow::Error::msg(message.into()))
    }

    /// Wrong input, with what is wrong with which part of it.
    pub fn bad_fields(text: String, fields: impl Iterator<Item = (String, String)>) -> Self {
        let violations = fields.map(|(path, what)| FieldViolation::new(path, what)).collect::<Vec<_>>();
        let details = ErrorDetails::with_bad_request(violations);
        let status = Status::with_error_details(Code::InvalidArgument, text.clone(), details);
        Self::new(Exit::Usage, Refused { text, json: status_json(&status) })
    }

    /// What to say of it on standard error: for people, or for programs (`-o json`) a line with a `google.rpc.Status`.
    pub fn told(&self, json: bool) -> String {
        match self.error.downcast_ref::<Refused>() {
            _ if !json => format!("mockforge: {:#}", self.error),
            Some(refused) => refused.json.clone(),
            None => status_json(&Status::new(self.exit.status(), format!("{:#}", self.error))),
        }
    }

    /// Puts `context` before the error's text.
    #[must_use]
    pub fn context(self, context: impl Into<String>) -> Self {
        Self { exit: self.exit, error: self.error.context(context.into()) }
    }
}

/// An error that says nothing about its kind is a plain failure.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failed, error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let fields = error.problems().into_iter().map(|problem| (problem.path, problem.text));
        Self::bad_fields(error.to_string(), fields)
    }
}

/// What commands do by themselves is write their output: what is read has an error that names it.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Usage, error)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::new(of_status(&status), Refused { text: status_text(&status), json: status_json(&status) })
    }
}

/// What a server, or the control plane in this process, said no with.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Refused {
    text: String,
    /// The same for programs, as REST says it.
    json: String,
}

fn of_status(status: &Status) -> Exit {
    let details = status.get_error_details();
    let reason = details.error_info().map_or("", |info| info.reason.as_str());
    match (reason, status.code()) {
        ("BAD_FILE" | "RECORDING_DAMAGED" | "STORE_UNAVAILABLE" | "STORE_DAMAGED", _) => Exit::Damaged,
        // Nothing is damaged, and nothing to wait for: another store or --server helps.
        ("STORE_LOCKED", _) => Exit::Usage,
        ("NO_SERVER", _) => Exit::Unreachable,
        ("NOTHING_MEANT", _) => Exit::Nothing,
        (_, Code::InvalidArgument | Code::NotFound | Code::AlreadyExists | Code::OutOfRange) => Exit::Usage,
        (_, Code::FailedPrecondition) => Exit::Usage,
        (_, Code::Unavailable | Code::DeadlineExceeded) => Exit::Unreachable,
        (_, Code::Unauthenticated | Code::PermissionDenied) => Exit::Unreachable,
        (_, Code::DataLoss | Code::Internal) => Exit::Damaged,
        (_, Code::Cancelled) => Exit::Interrupted,
        // The connection broke, or what is there speaks something else.
        (_, Code::Unknown) if std::error::Error::source(status).is_some() => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

/// The message, the fields that were wrong, and what to do about it.
fn status_text(status: &Status) -> String {
    let mut text = match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    };
    let details = status.get_error_details();
    for violation in details.bad_request().map_or(&[][..], |request| &request.field_violations) {
        if !text.contains(&violation.description) {
            text += &format!("; {}: {}", violation.field, violation.description);
        }
    }
    match details.error_info().map_or("", |info| info.reason.as_str()) {
        "STORE_UNAVAILABLE" => text += " (store.path is its folder)",
        "STORE_LOCKED" => {
            text += "; if that is a server, talk to it with --server ADDR (`mqtt record` without --upstream and --listen \
                     records what passes it); if not, use a store of your own: \
                     --store FOLDER with serve and mqtt record, MOCKFORGE_STORE_PATH=FOLDER with every command";
        }
        "RECORDING_ACTIVE" => text += "; `mockforge recordings stop` ends it",
        "RECORDING_EXISTS" => {
            text += "; choose another name, or delete that one with `mockforge recordings rm`";
        }
        _ => {}
    }
    if matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied) {
        text += " (the token is taken from --token, MOCKFORGE_CLIENT_TOKEN or client.token, else MOCKFORGE_API_TOKEN or api_token)";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_that_scripts_know() {
        let codes = [
            Exit::Passed,
            Exit::Failed,
            Exit::Usage,
            Exit::Unreachable,
            Exit::Nothing,
            Exit::Damaged,
            Exit::Late,
            Exit::Interrupted,
        ]
        .map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 130]);
    }

    #[test]
    fn a_status_becomes_the_exit_code_of_its_kind() {
        for (code, exit) in [
            (Code::InvalidArgument, Exit::Usage),
            (Code::NotFound, Exit::Usage),
            (Code::AlreadyExists, Exit::Usage),
            (Code::Unavailable, Exit::Unreachable),
            (Code::Unauthenticated, Exit::Unreachable),
            (Code::DataLoss, Exit::Damaged),
            (Code::Unknown, Exit::Failed),
        ] {
            assert_eq!(Failure::from(Status::new(code, "x")).exit, exit, "{code:?}");
        }
    }

    #[test]
    fn a_reason_says_more_than_its_status_code() {
        for (reason, exit) in [
            ("BAD_FILE", Exit::Damaged),
            ("STORE_UNAVAILABLE", Exit::Damaged),
            ("STORE_DAMAGED", Exit::Damaged),
            ("STORE_LOCKED", Exit::Usage),
            ("NO_SERVER", Exit::Unreachable),
            ("NOTHING_MEANT", Exit::Nothing),
        ] {
            let details = ErrorDetails::with_error_info(
                reason,
                "mockforge",
                std::collections::HashMap::<String, String>::new(),
            );
            let status = Status::with_error_details(Code::FailedPrecondition, "x", details);
            assert_eq!(Failure::from(status).exit, exit, "{reason}");
        }
    }

    #[test]
    fn programs_are_told_every_failure_as_a_status() {
        let failure = Failure::new(Exit::Unreachable, anyhow::anyhow!("no server")).context("asked");
        assert_eq!(failure.told(false), "mockforge: asked: no server");
        let status: serde_json::Value = serde_json::from_str(&failure.told(true)).expect("JSON");
        assert_eq!((&status["code"], &status["message"]), (&14.into(), &"asked: no server".into()));
    }

    #[test]
    fn a_wrong_setting_is_a_usage_error() {
        let sources = crate::config::Sources {
            environment: vec![("MOCKFORGE_MQTT_PORT".into(), "x".into())],
            ..Default::default()
        };
        assert_eq!(Failure::from(crate::Config::load(sources).unwrap_err()).exit, Exit::Usage);
    }

    #[test]
    fn wrong_fields_are_named() {
        let details = ErrorDetails::with_bad_request_violation("qos", "expected 0, 1 or 2");
        let status = Status::with_error_details(Code::InvalidArgument, "bad request", details);
        assert_eq!(Failure::from(status).error.to_string(), "bad request; qos: expected 0, 1 or 2");
    }
}

//! Where a setting came from, and why settings were refused.

use std::{fmt, io, path::PathBuf};

/// Who said the value of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody did.
    Default,
    /// Line and column count from 1.
    File { path: String, line: u64, column: u64 },
    /// The name of an environment variable.
    Variable(String),
    /// A command-line flag, with its dashes.
    Flag(&'static str),
}

impl Origin {
    /// As an error begins: like `Display`, with the column.
    fn place(&self) -> String {
        match self {
            Self::File { path, line, column } => format!("{path}:{line}:{column}"),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, .. } => write!(f, "{path}:{line}"),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// Why there is no [`Config`](super::Config).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    // The cause is in the text; as a `source` it would be printed again.
    #[error("{}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{}: {reason}", origin.place())]
    Syntax { origin: Origin, reason: String },
    /// `section` is empty at the top level; `hint` names the nearest known key, or all of them.
    #[error("{}: unknown key \"{key}\"{}; {hint}", origin.place(), inside(section))]
    UnknownKey { origin: Origin, key: String, section: String, hint: String },
    #[error("unknown variable {name}; did you mean {nearest}?")]
    UnknownVariable { name: String, nearest: String },
    #[error("{}: {key}: {reason}", origin.place())]
    Invalid { origin: Origin, key: &'static str, reason: String },
    /// `path` leads into a list: `mqtt.mocks[0].topic`.
    #[error("{}: {path}: {reason}", origin.place())]
    InList { origin: Origin, path: String, reason: String },
    /// A line each.
    #[error("{}", lines(.0))]
    Several(Vec<Self>),
    #[error(
        "{}: {key} {host} lets others reach the control plane; set a token (api_token, MOCKFORGE_API_TOKEN), \
         require certificates (tls.client_auth), or allow it without (--insecure-api)",
        origin.place()
    )]
    Exposed { origin: Origin, key: &'static str, host: String },
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The setting, or what is in it: `mqtt.mocks[0].topic`; empty for what is about no setting.
    pub path: String,
    /// With its place: `mockforge.yaml:2:9: mqtt.port: …`.
    pub text: String,
}

impl ConfigError {
    /// Each thing that is wrong.
    pub fn problems(&self) -> Vec<ConfigProblem> {
        let path = match self {
            Self::Several(several) => return several.iter().flat_map(Self::problems).collect(),
            Self::Invalid { key, .. } | Self::Exposed { key, .. } => (*key).to_owned(),
            Self::InList { path, .. } => path.clone(),
            Self::UnknownKey { key, section, .. } if section.is_empty() => key.clone(),
            Self::UnknownKey { key, section, .. } => format!("{section}.{key}"),
            Self::Unreadable { .. } | Self::Syntax { .. } | Self::UnknownVariable { .. } => String::new(),
        };
        vec![ConfigProblem { path, text: self.to_string() }]
    }

    /// Where in the file; `None` for what is in none.
    pub(super) fn line_and_column(&self) -> Option<(u64, u64)> {
        match self {
            Self::Syntax { origin, .. }
            | Self::UnknownKey { origin, .. }
            | Self::Invalid { origin, .. }
            | Self::InList { origin, .. }
            | Self::Exposed { origin, .. } => match origin {
                Origin::File { line, column, .. } => Some((*line, *column)),
                _ => None,
            },
            Self::Several(several) => several.first()?.line_and_column(),
            Self::Unreadable { .. } | Self::UnknownVariable { .. } => None,
        }
    }
}

fn lines(errors: &[ConfigError]) -> String {
    let texts: Vec<String> = errors.iter().map(ConfigError::to_string).collect();
    texts.join("\n")
}

fn inside(section: &str) -> String {
    if section.is_empty() { String::new() } else { format!(" in {section}") }
}

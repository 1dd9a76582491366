//! `config check | show | apply | schema`.

use std::{fmt::Write, path::PathBuf};

use serde_json::{Value as Json, json};

use super::{
    broker::payload_text,
    exit::{Exit, Failure},
    mocks::read_text,
    output::{self, Format},
    transport::Transport,
};
use crate::{
    config::{Config, SETTINGS, Value, schema},
    control::pb,
};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Say whether the settings of file and environment are good, and all that is not
    Check,
    /// Print every setting and where its value came from; of the running server with --server
    Show,
    /// Put a settings file into force on the running server, in the place of its own until it starts anew
    ///
    /// All of it or nothing. Users, access rules, tokens, mocks, proxies, webhooks, chaos and certificates are followed at once; what
    /// else has changed is named, and left.
    Apply {
        /// The file; `-` reads standard input
        file: PathBuf,
        /// Only say what is wrong with it, or what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Print a JSON Schema of the settings file, for editors and other validators
    Schema,
}

/// `config` is the proof that the settings are good.
pub async fn run(
    command: Command,
    server: Option<&str>,
    config: &Config,
    format: Format,
) -> Result<Exit, Failure> {
    match command {
        Command::Check if server.is_some() => {
            return Err(Failure::usage(
                "config check is about the settings here; `config apply FILE --dry-run` asks a server",
            ));
        }
        Command::Check => check(config, format)?,
        Command::Show if server.is_some() => {
            show_running(&Transport::connect(server, config).await?.0, format).await?;
        }
        Command::Show => show(config, format)?,
        Command::Apply { file, dry_run } => {
            // Before anybody is asked.
            let (name, yaml) = read_text(file)?;
            let (transport, _) = Transport::connect(server, config).await?;
            apply(&transport, pb::ApplyConfigRequest { yaml, name, validate_only: dry_run }, format).await?;
        }
        Command::Schema => return print_schema(),
    }
    Ok(Exit::Passed)
}

/// Needs no settings.
pub fn print_schema() -> Result<Exit, Failure> {
    output::line(format!("{:#}", schema()))?;
    Ok(Exit::Passed)
}

fn check(config: &Config, format: Format) -> std::io::Result<()> {
    match format {
        Format::Text => output::line(match &config.file {
            Some(path) => format!("{}: the settings are good", path.display()),
            None => {
                "the settings are good; there is no mockforge.yaml here or in five parent folders".to_owned()
            }
        }),
        Format::Json => {
            output::json_line(&json!({"valid": true, "file": config.file, "warnings": config.warnings}))
        }
    }
}

const HEADING: [&str; 3] = ["SETTING", "VALUE", "FROM"];

fn show(config: &Config, format: Format) -> std::io::Result<()> {
    match format {
        Format::Text => {
            let mut rows = vec![HEADING.map(str::to_owned).to_vec()];
            for setting in &config.in_force {
                rows.push(vec![setting.key.to_owned(), text(&setting.value), setting.origin.to_string()]);
            }
            output::line(output::table(&rows))
        }
        Format::Json => {
            let settings: Vec<Json> = config
                .in_force
                .iter()
                .zip(SETTINGS)
                .map(|(setting, row)| {
                    json!({
                        "key": setting.key,
                        "value": setting.value.to_json(),
                        "origin": setting.origin.to_string(),
                        "variable": row.variable(),
                        "about": row.about,
                    })
                })
                .collect();
            output::json_line(&json!({ "settings": settings }))
        }
    }
}

async fn show_running(transport: &Transport, format: Format) -> Result<(), Failure> {
    let answer = transport.admin().get_config(pb::GetConfigRequest::default()).await?.into_inner();
    if format == Format::Json {
        return Ok(output::json_line(&output::json("GetConfigResponse", &answer))?);
    }
    let mut rows = vec![HEADING.map(str::to_owned).to_vec()];
    for setting in &answer.settings {
        rows.push(vec![setting.key.clone(), sent_text(&setting.value), setting.origin.clone()]);
    }
    output::line(output::table(&rows))?;
    for setting in &answer.settings {
        if let Some(next) = &setting.next_value {
            let (key, next) = (&setting.key, sent_text(next));
            output::line(format!(
                "{key}: {next} was read since, and takes a start with a settings file that says so"
            ))?;
        }
    }
    Ok(())
}

async fn apply(
    transport: &Transport,
    request: pb::ApplyConfigRequest,
    format: Format,
) -> Result<(), Failure> {
    let (name, is_dry) = (request.name.clone(), request.validate_only);
    let answer = transport.admin().apply_config(request).await?.into_inner();
    if format == Format::Json {
        return Ok(output::json_line(&output::json("ApplyConfigResponse", &answer))?);
    }
    for warning in &answer.warnings {
        output::line(format!("warning: {warning}"))?;
    }
    for change in &answer.changes {
        let when = match change.effect() {
            pb::ConfigEffect::AtNextStart => {
                " (of no effect: it takes a start with a settings file that says so)"
            }
            _ => "",
        };
        let (before, after) = (sent_text(&change.before), sent_text(&change.after));
        let what = match before == after {
            true => "something else".to_owned(),
            false => format!("{before} -> {after}"),
        };
        output::line(format!("{}: {what}{when}", change.key))?;
    }
    let followed = answer.changes.iter().filter(|change| change.effect() != pb::ConfigEffect::AtNextStart);
    let followed = followed.count();
    let changes = output::count(followed as u64, "setting");
    let mut text = match is_dry {
        true => format!("{name} is good; {changes} would change"),
        false if answer.changes.is_empty() => format!("{name} is in force, and says nothing new"),
        false => format!("{name} is in force; {changes} changed"),
    };
    match answer.changes.len() - followed {
        0 => {}
        others => _ = write!(text, ", and {others} cannot while the server runs"),
    }
    output::line(text)?;
    Ok(())
}

/// What a server says a value is.
fn sent_text(value: &[u8]) -> String {
    match serde_json::from_slice::<Vec<Json>>(value) {
        Ok(entries) => entries_text(entries.len()),
        Err(_) if value.is_empty() => "-".to_owned(),
        Err(_) => payload_text(value),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Switch(on) => on.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Fraction(number) => number.to_string(),
        Value::Text(text) if text.is_empty() => "-".to_owned(),
        Value::Text(text) => text.clone(),
        Value::List(list) => entries_text(list.entries().len()),
    }
}

fn entries_text(len: usize) -> String {
    match len {
        0 => "-".to_owned(),
        1 => "1 entry".to_owned(),
        len => format!("{len} entries"),
    }
}

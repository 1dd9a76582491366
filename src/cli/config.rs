//! `config check` and `config show`.

use serde_json::{Value as Json, json};

use super::{
    exit::{Exit, Failure},
    output::{self, Format},
};
use crate::config::{Config, SETTINGS, Value};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Say whether the settings of file and environment are good
    Check,
    /// Print every setting in force and where its value came from
    Show,
}

/// `config` is the proof that the settings are good.
pub fn run(command: &Command, config: &Config, format: Format) -> Result<Exit, Failure> {
    match command {
        Command::Check => check(config, format)?,
        Command::Show => show(config, format)?,
    }
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

fn show(config: &Config, format: Format) -> std::io::Result<()> {
    match format {
        Format::Text => {
            let mut rows = vec![["SETTING", "VALUE", "FROM"].map(str::to_owned).to_vec()];
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
                        "value": json_value(&setting.value),
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

fn text(value: &Value) -> String {
    match value {
        Value::Switch(on) => on.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Fraction(number) => number.to_string(),
        Value::Text(text) if text.is_empty() => "-".to_owned(),
        Value::Text(text) => text.clone(),
        Value::List(list) => match list.entries().len() {
            0 => "-".to_owned(),
            1 => "1 entry".to_owned(),
            len => format!("{len} entries"),
        },
    }
}

fn json_value(value: &Value) -> Json {
    match value {
        Value::Switch(on) => json!(on),
        Value::Integer(number) => json!(number),
        Value::Fraction(number) => json!(number),
        Value::Text(text) if text.is_empty() => Json::Null,
        Value::Text(text) => json!(text),
        Value::List(list) => list.to_json(),
    }
}

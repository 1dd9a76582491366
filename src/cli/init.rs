//! `init`: a settings file to begin with.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{
    exit::{Exit, Failure},
    file::NewFile,
    output::{self, Format},
};
use crate::{
    config::{SETTINGS_FILE, schema},
    net::MqttUrl,
};

/// What stands in the file: lines that begin with `#` and no space behind it are settings that are switched off.
const SETTINGS: &str = include_str!("init.yaml");

/// The line that a proxy has instead.
const NO_UPSTREAM: &str = "  #upstream: mqtt://broker.example:1883\n";

/// Where editors find what may stand in the file.
const SCHEMA_FILE: &str = "mockforge.schema.json";

#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// Folder of the files
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    dir: PathBuf,
    /// Be a proxy before this broker, with what else there is to say about that
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
}

pub fn run(args: &InitArgs, format: Format) -> Result<Exit, Failure> {
    let text = settings(args.proxy.as_deref())?;
    let files =
        [(args.dir.join(SETTINGS_FILE), text), (args.dir.join(SCHEMA_FILE), format!("{:#}\n", schema()))];
    let there = files.iter().find(|(path, _)| !args.force && path.symlink_metadata().is_ok());
    if let Some((path, _)) = there {
        return Err(Failure::usage(format!("{} is there already; --force replaces it", path.display())));
    }
    std::fs::create_dir_all(&args.dir)
        .map_err(|error| Failure::usage(format!("{}: {error}", args.dir.display())))?;
    for (path, text) in &files {
        write(path, text)?;
    }
    let paths: Vec<&Path> = files.iter().map(|(path, _)| &**path).collect();
    match format {
        Format::Json => output::json_line(&json!({ "files": paths }))?,
        Format::Text => {
            for path in paths {
                output::line(format!("wrote {}", path.display()))?;
            }
            output::line(
                "`mockforge serve` starts the server that it describes, `mockforge config show` says all settings",
            )?;
        }
    }
    Ok(Exit::Passed)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let mut file = NewFile::create(path)?;
    file.write_all(text.as_bytes())?;
    Ok(file.finish()?)
}

fn settings(proxy: Option<&str>) -> Result<String, Failure> {
    let Some(url) = proxy else { return Ok(SETTINGS.to_owned()) };
    url.parse::<MqttUrl>().map_err(|error| Failure::usage(format!("--proxy: {error}")))?;
    // JSON is YAML, whatever is in the text.
    Ok(SETTINGS.replace(NO_UPSTREAM, &format!("  upstream: {}\n", json!(url))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    /// Switches on what the file has switched off.
    fn with_everything(text: &str) -> String {
        let lines = text.lines().map(|line| {
            let spaces = line.len() - line.trim_start().len();
            match line.trim_start().strip_prefix('#') {
                Some(setting) if !setting.starts_with([' ', '#']) && !setting.is_empty() => {
                    format!("{}{setting}\n", " ".repeat(spaces))
                }
                _ => format!("{line}\n"),
            }
        });
        lines.collect()
    }

    #[test]
    fn what_it_writes_is_good_as_it_is_and_with_everything_switched_on() {
        let broker = settings(None).unwrap();
        let config = Config::of_text("init.yaml", &broker).unwrap();
        assert!(config.mqtt.enabled && config.mqtt.upstream.is_none() && config.warnings.is_empty());
        assert_eq!(config.mqtt.mocks.len(), 1);
        let everything = with_everything(&broker);
        let config = Config::of_text("init.yaml", &everything).unwrap();
        assert!(!config.mqtt.webhooks.is_empty() && config.mqtt.upstream.is_some(), "{everything}");
        let switched_off =
            |text: &str| text.lines().filter(|line| line.trim_start().starts_with("#")).count();
        assert!(switched_off(&everything) < switched_off(&broker) - 20);
    }

    #[test]
    fn a_proxy_has_its_upstream() {
        let config = Config::of_text("init.yaml", &settings(Some("mqtts://a:b'\"@h:1#insecure")).unwrap());
        assert_eq!(config.unwrap().mqtt.upstream.as_deref(), Some("mqtts://a:b'\"@h:1#insecure"));
        assert!(settings(Some("http://h")).is_err());
    }

    #[test]
    fn what_is_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("new");
        let args = |force| InitArgs { dir: dir.clone(), proxy: None, force };
        run(&args(false), Format::Json).unwrap();
        std::fs::write(dir.join(SETTINGS_FILE), "mine").unwrap();
        assert_eq!(run(&args(false), Format::Json).unwrap_err().exit, Exit::Usage);
        assert_eq!(std::fs::read_to_string(dir.join(SETTINGS_FILE)).unwrap(), "mine");
        run(&args(true), Format::Json).unwrap();
        assert_eq!(std::fs::read_to_string(dir.join(SETTINGS_FILE)).unwrap(), SETTINGS);
    }
}

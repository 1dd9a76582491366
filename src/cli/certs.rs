//! `certs`: certificates for development.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;
use tracing::warn;

use super::{
    exit::{Exit, Failure},
    output::{self, Format},
};
use crate::{
    config::Config,
    net::tls::{DAYS_MAX, DevelopmentCertificates, DevelopmentOptions, DevelopmentPair, TlsError},
};

#[derive(Debug, clap::Args)]
pub struct CertsArgs {
    /// Folder of the files [default: certs beside the settings file, where serve --mqtt-tls looks]
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// A name or an address of the server, beside those of this machine; may be repeated
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    host: Vec<String>,
    /// How long certificates are good, in days
    #[arg(long, value_name = "N", default_value = "365", value_parser = clap::value_parser!(u16).range(1..=i64::from(DAYS_MAX)))]
    days: u16,
    /// What the client is called, and its files [default: client]
    #[arg(long, value_name = "NAME")]
    client: Option<String>,
    /// Make server and client again, and the authority if it can sign no more
    #[arg(long)]
    force: bool,
}

pub fn run(args: CertsArgs, config: &Config, format: Format) -> Result<Exit, Failure> {
    let CertsArgs { dir, host, days, client, force } = args;
    let default = config.folder.join("certs");
    let options =
        DevelopmentOptions { folder: dir.unwrap_or(default.clone()), hosts: host, days, client, force };
    let refused = |error: TlsError| Failure::new(Exit::Usage, error);
    let made = DevelopmentCertificates::make(&options).map_err(refused)?;
    let pairs = [("authority", &made.authority), ("server", &made.server), ("client", &made.client)];
    let shown: Result<Vec<_>, _> = pairs.into_iter().map(|(what, pair)| Shown::of(what, pair)).collect();
    let shown = shown.map_err(refused)?;
    match format {
        Format::Json => output::json_line(&json!({"certificates": shown, "names": made.names}))?,
        Format::Text => {
            for pair in &shown {
                output::line(pair.line())?;
            }
            if made.server.is_new {
                output::line(format!("The server is {}.", made.names.join(", ")))?;
            }
            output::line(next_steps(&made, options.folder == default))?;
        }
    }
    for pair in shown.iter().filter(|pair| !pair.is_valid) {
        warn!(path = %pair.certificate.display(), "is out of date: --force makes another");
    }
    Ok(Exit::Passed)
}

/// One of the three, for people and programs.
#[derive(Serialize)]
struct Shown<'a> {
    what: &'static str,
    certificate: &'a Path,
    key: &'a Path,
    is_new: bool,
    is_valid: bool,
    validity: String,
}

impl<'a> Shown<'a> {
    fn of(what: &'static str, pair: &'a DevelopmentPair) -> Result<Self, TlsError> {
        let validity = pair.validity()?;
        Ok(Self {
            what,
            certificate: &pair.cert_path,
            key: &pair.key_path,
            is_new: pair.is_new,
            is_valid: validity.is_now,
            validity: validity.to_string(),
        })
    }

    fn line(&self) -> String {
        let Self { what, certificate, validity, .. } = self;
        let done = if self.is_new { "made" } else { "kept" };
        format!("{done} {}, the {what}'s, good {validity}", certificate.display())
    }
}

/// Lines to copy.
fn next_steps(made: &DevelopmentCertificates, is_default: bool) -> String {
    let [ca, cert, key, client_cert, client_key] = [
        &made.authority.cert_path,
        &made.server.cert_path,
        &made.server.key_path,
        &made.client.cert_path,
        &made.client.key_path,
    ]
    .map(|path| quoted(path));
    let serve = match is_default {
        true => "mockforge serve --mqtt --mqtt-tls".to_owned(),
        false => format!(
            "MOCKFORGE_MQTT_TLS_CERT_PATH={cert} MOCKFORGE_MQTT_TLS_KEY_PATH={key} \
             MOCKFORGE_MQTT_TLS_CA_PATH={ca} mockforge serve --mqtt --mqtt-tls"
        ),
    };
    let subscribe = format!("mosquitto_sub -h localhost -p 8883 --cafile {ca} -t '#' -v");
    format!(
        "\nThe server, and a client that trusts its authority:\n  {serve}\n  {subscribe}\n\
         The client with its certificate, which mqtt.tls.client_auth asks for:\n  {subscribe} --cert {client_cert} --key {client_key}"
    )
}

/// For a shell.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-+@%".contains(letter);
    if text.chars().all(is_plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

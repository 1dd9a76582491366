//! The broker that a command was told to talk to.

use std::{fmt, path::PathBuf};

use crate::{
    config::Flag,
    net::{BadUrl, MqttUrl},
};

/// A target as typed, credentials included, and as read.
#[derive(Clone)]
pub struct Target {
    pub text: String,
    pub url: MqttUrl,
}

/// # Errors
/// For what is no `mqtt://` URL.
pub fn parse_target(text: &str) -> Result<Target, BadUrl> {
    Ok(Target { text: text.to_owned(), url: text.parse()? })
}

/// By what a broker that is reached with TLS is believed.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TrustArgs {
    /// Authorities that may vouch for an mqtts:// or wss:// broker, a PEM file [default: the system's]
    #[arg(long, value_name = "FILE")]
    cafile: Option<PathBuf>,
    /// The certificate that it is shown, a PEM file
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// The key of --cert
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Believe any broker, whatever its certificate: whoever is in between can read and change everything
    #[arg(long)]
    insecure: bool,
}

impl TrustArgs {
    /// What was typed goes before what the URL says.
    pub fn apply(&self, target: Target) -> Target {
        let mut url = target.url;
        let Self { cafile, cert, key, insecure } = self.clone();
        // A server that is asked to connect has a working directory of its own.
        let [cafile, cert, key] =
            [cafile, cert, key].map(|path| path.map(|path| std::path::absolute(&path).unwrap_or(path)));
        if cafile.is_none() && cert.is_none() && !insecure {
            return Target { url, ..target };
        }
        url.trust.cafile = cafile.or(url.trust.cafile);
        if cert.is_some() {
            (url.trust.cert, url.trust.key) = (cert, key);
        }
        url.trust.insecure |= insecure;
        Target { text: url.spelled(), url }
    }

    /// What the flags say of the settings for an upstream.
    pub fn flags(&self) -> impl Iterator<Item = Flag> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        let said = [
            ("mqtt.upstream_tls.ca_path", "--cafile", path(&self.cafile)),
            ("mqtt.upstream_tls.cert_path", "--cert", path(&self.cert)),
            ("mqtt.upstream_tls.key_path", "--key", path(&self.key)),
            ("mqtt.upstream_tls.insecure", "--insecure", self.insecure.then(|| "true".to_owned())),
        ];
        said.into_iter().filter_map(|(key, name, value)| Some(Flag { key, name, value: value? }))
    }
}

/// Without the password.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_of_a_target_is_not_shown() {
        let target = parse_target("mqtt://me:s3cret@broker").unwrap();
        assert!(!format!("{target:?}").contains("s3cret"));
    }
}

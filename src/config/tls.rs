//! What `mqtt.tls` says.

use std::path::{Path, PathBuf};

use super::{Checked, ConfigError, Origin, Value};

/// MQTT over TLS.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsConfig {
    /// 0 takes a free one.
    pub port: u16,
    pub certificate: TlsCertificate,
    /// The authorities of clients' certificates.
    pub ca_path: Option<PathBuf>,
    /// Whether clients without a certificate are turned away.
    pub client_auth: bool,
    pub min_version: MinVersion,
    pub username_from: UsernameFrom,
    /// Whether certificates are made for names that clients ask for.
    pub mint: bool,
    /// Who signs them; none is the authority of development certificates.
    pub mint_ca: Option<CertifiedFiles>,
    /// Where development certificates are.
    pub development: PathBuf,
}

/// Which certificate a server shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsCertificate {
    Files(CertifiedFiles),
    /// One that is made where there is none.
    Development,
}

/// PEM files of a certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertifiedFiles {
    pub cert_path: PathBuf,
    pub key_path: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinVersion {
    #[default]
    Tls12,
    Tls13,
}

/// What of a client's certificate is its user name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UsernameFrom {
    /// The one in CONNECT is.
    #[default]
    Nothing,
    CommonName,
    /// In the spelling of RFC 2253.
    Subject,
}

impl MinVersion {
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "1.2" => Some(Self::Tls12),
            "1.3" => Some(Self::Tls13),
            _ => None,
        }
    }
}

impl UsernameFrom {
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Self::Nothing),
            "cn" => Some(Self::CommonName),
            "subject" => Some(Self::Subject),
            _ => None,
        }
    }
}

impl Checked {
    pub(super) fn tls(&self, folder: &Path) -> Result<Option<TlsConfig>, ConfigError> {
        if !self.switch("mqtt.tls.enabled") {
            return Ok(None);
        }
        let certificate = match self.certified("mqtt.tls.cert_path", "mqtt.tls.key_path", folder)? {
            Some(files) => TlsCertificate::Files(files),
            None => TlsCertificate::Development,
        };
        let ca_path = self.path("mqtt.tls.ca_path", folder);
        let username_from =
            UsernameFrom::from_name(&self.text("mqtt.tls.username_from")).expect("the table has it checked");
        // Of development certificates the authority is known.
        if ca_path.is_none() && certificate != TlsCertificate::Development {
            let why = "needs mqtt.tls.ca_path, the authorities of clients' certificates";
            for key in ["mqtt.tls.client_auth", "mqtt.tls.username_from"] {
                let (value, origin) = &self.values[key];
                if !matches!(value, Value::Switch(false)) && *value != Value::Text("none".to_owned()) {
                    return Err(invalid(origin, key, why));
                }
            }
        }
        Ok(Some(TlsConfig {
            port: self.integer("mqtt.tls.port"),
            certificate,
            ca_path,
            client_auth: self.switch("mqtt.tls.client_auth"),
            min_version: MinVersion::from_name(&self.text("mqtt.tls.min_version"))
                .expect("the table has it checked"),
            username_from,
            mint: self.switch("mqtt.tls.mint"),
            mint_ca: self.certified("mqtt.tls.mint_ca_path", "mqtt.tls.mint_ca_key_path", folder)?,
            development: folder.join("certs"),
        }))
    }

    /// Both files or neither.
    fn certified(
        &self,
        cert: &'static str,
        key: &'static str,
        folder: &Path,
    ) -> Result<Option<CertifiedFiles>, ConfigError> {
        let alone = |said: &'static str, other: &str| {
            Err(invalid(&self.values[said].1, said, &format!("needs {other}, too")))
        };
        match (self.path(cert, folder), self.path(key, folder)) {
            (Some(cert_path), Some(key_path)) => Ok(Some(CertifiedFiles { cert_path, key_path })),
            (None, None) => Ok(None),
            (Some(_), None) => alone(cert, key),
            (None, Some(_)) => alone(key, cert),
        }
    }
}

fn invalid(origin: &Origin, key: &'static str, reason: &str) -> ConfigError {
    ConfigError::Invalid { origin: origin.clone(), key, reason: reason.to_owned() }
}

//! The server's side of `mqtt.tls`.

use tracing::warn;

use super::{DevelopmentCertificates, MintOptions, ServerTls, ServerTlsOptions, TlsError};
use crate::config::{CertifiedFiles, TlsCertificate, TlsConfig, UsernameFrom};

impl ServerTls {
    /// Reads the files that settings name, or those for development, which are made if they are missing. In the middle
    /// between clients and a broker (`is_proxy`) they serve for the broker's name, too, if their authority's key is there.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub fn of_mqtt(config: &TlsConfig, is_proxy: bool) -> Result<Self, TlsError> {
        let is_development = config.certificate == TlsCertificate::Development;
        let development = match is_development || (config.mint && config.mint_ca.is_none()) {
            true => Some(development_certificates(config)?),
            false => None,
        };
        let authority = development.as_ref().map(|made| &made.authority);
        let (cert_path, key_path) = match (&config.certificate, &development) {
            (TlsCertificate::Files(CertifiedFiles { cert_path, key_path }), _) => (cert_path, key_path),
            (TlsCertificate::Development, Some(made)) => (&made.server.cert_path, &made.server.key_path),
            (TlsCertificate::Development, None) => unreachable!("they were found or made"),
        };
        // Devices have certificates for the broker that they are made for, which are not to be judged unasked.
        let asks = config.client_auth || config.username_from != UsernameFrom::Nothing;
        let of_development =
            authority.map(|pair| &pair.cert_path).filter(|path| is_development && asks && path.exists());
        let options = ServerTlsOptions {
            cert_path: cert_path.clone(),
            key_path: key_path.clone(),
            ca_path: config.ca_path.as_ref().or(of_development).cloned(),
            client_auth: config.client_auth,
            username_from: config.username_from,
            min_version: config.min_version,
            alpn: Vec::new(),
        };
        let signer = match (&config.mint_ca, authority) {
            (Some(CertifiedFiles { cert_path, key_path }), _) => Some((cert_path, key_path)),
            (None, Some(pair)) if config.mint || (pair.cert_path.exists() && pair.key_path.exists()) => {
                Some((&pair.cert_path, &pair.key_path))
            }
            _ => None,
        };
        match signer {
            Some((ca_path, ca_key_path)) if config.mint || (is_development && is_proxy) => {
                let authority = MintOptions { ca_path: ca_path.clone(), ca_key_path: ca_key_path.clone() };
                Self::load_with_mint(&options, &authority)
            }
            _ => Self::load(&options),
        }
    }
}

fn development_certificates(config: &TlsConfig) -> Result<DevelopmentCertificates, TlsError> {
    let made = DevelopmentCertificates::find_or_make(&config.development)?;
    if made.server.is_new {
        let ca = made.authority.cert_path.display();
        let names = made.names.join(", ");
        warn!(%ca, names, "made certificates for development: clients have to trust their authority");
    }
    Ok(made)
}

//! A client's side: whom it trusts, and what it shows.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, client::danger::ServerCertVerifier, pki_types::ServerName, sign::SingleCertAndKey,
};

use super::{
    TlsError,
    authorities::Authorities,
    files::{InForce, PutInForce, TlsFiles},
    pem::read_certified_key,
    provider,
    verifier::{NoVerifier, ServerVerifier},
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTlsOptions {
    /// PEM: the authorities of servers' certificates; none is whom the system trusts.
    pub ca_path: Option<PathBuf>,
    /// PEM: a certificate to show to servers that ask for one, and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Takes any certificate, of whomever it is: to be said loudly.
    pub insecure: bool,
    /// Application protocols, the best first; empty says nothing.
    pub alpn: Vec<Vec<u8>>,
}

/// Whom a client trusts and what it shows, of files that can be read again.
#[derive(Debug)]
pub struct ClientTls {
    options: ClientTlsOptions,
    config: InForce<ClientConfig>,
}

impl ClientTls {
    /// Reads the files, or whom the system trusts, which takes milliseconds.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub fn load(options: &ClientTlsOptions) -> Result<Self, TlsError> {
        let config = InForce::new(make_config(options)?);
        Ok(Self { options: options.clone(), config })
    }

    /// What is in force, for the next handshake.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.get()
    }

    /// What the certificate of the server at `host`, a name or an address, has to say; `None` is no name.
    pub fn server_name(host: &str) -> Option<ServerName<'static>> {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        ServerName::try_from(host).ok().map(|name| name.to_owned())
    }
}

impl TlsFiles for ClientTls {
    fn read_again(&self) -> Result<PutInForce<'_>, TlsError> {
        Ok(self.config.put(make_config(&self.options)?))
    }
}

fn make_config(options: &ClientTlsOptions) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier: Arc<dyn ServerCertVerifier> = match &options.ca_path {
        _ if options.insecure => Arc::new(NoVerifier),
        Some(path) => Arc::new(ServerVerifier::new(Authorities::read(path)?)),
        None => Arc::new(ServerVerifier::new(Authorities::of_system()?)),
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has ciphers for all versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &options.certificate {
        None => builder.with_no_client_auth(),
        Some((cert_path, key_path)) => {
            let certified = read_certified_key(cert_path, key_path)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
    };
    config.alpn_protocols.clone_from(&options.alpn);
    Ok(Arc::new(config))
}

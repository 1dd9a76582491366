//! A server's side: what it shows, and whom it asks for a certificate.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::ring::Ticketer,
    pki_types::UnixTime,
    server::{NoClientAuth, ResolvesServerCert, danger::ClientCertVerifier},
    sign::SingleCertAndKey,
    version::{TLS12, TLS13},
};
use tracing::warn;

use super::{
    MinVersion, TlsError, UsernameFrom,
    authorities::{Authorities, in_date, parse},
    explain,
    files::{InForce, PutInForce, TlsFiles},
    mint::{Mint, MintOptions},
    pem::read_certified_key,
    provider,
    verifier::ClientVerifier,
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerTlsOptions {
    /// PEM: the server's certificate, and behind it those that lead to its authority.
    pub cert_path: PathBuf,
    pub key_path: PathBuf,
    /// PEM: the authorities of clients' certificates; none asks for no certificate. A certificate that is shown
    /// has to be in order.
    pub ca_path: Option<PathBuf>,
    /// Whether clients without a certificate are turned away; only with `ca_path`.
    pub client_auth: bool,
    /// What a client's certificate has to have, as it is its user name.
    pub username_from: UsernameFrom,
    pub min_version: MinVersion,
    /// Application protocols, the best first. An empty list leaves alone what clients say, whereas rustls refuses
    /// clients that say something and nothing of this list: so MQTT, for which AWS and others have names of their
    /// own, has none.
    pub alpn: Vec<Vec<u8>>,
}

/// What a server shows to clients, of files that can be read again.
#[derive(Debug)]
pub struct ServerTls {
    options: ServerTlsOptions,
    mint: Option<MintOptions>,
    config: InForce<ServerConfig>,
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub fn load(options: &ServerTlsOptions) -> Result<Self, TlsError> {
        Self::new(options, None)
    }

    /// Reads the files, of which the certificate is shown to clients that ask for one of its names or for none. For
    /// every other name one is made, and signed by `authority`.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub fn load_with_mint(options: &ServerTlsOptions, authority: &MintOptions) -> Result<Self, TlsError> {
        Self::new(options, Some(authority.clone()))
    }

    fn new(options: &ServerTlsOptions, mint: Option<MintOptions>) -> Result<Self, TlsError> {
        let versions = and_later(options.min_version);
        let config = InForce::new(make_config(options, mint.as_ref(), versions)?);
        Ok(Self { options: options.clone(), mint, config })
    }

    /// What is in force, for the next handshake.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.get()
    }
}

impl TlsFiles for ServerTls {
    fn read_again(&self) -> Result<PutInForce<'_>, TlsError> {
        let versions = and_later(self.options.min_version);
        Ok(self.config.put(make_config(&self.options, self.mint.as_ref(), versions)?))
    }
}

fn and_later(min_version: MinVersion) -> &'static [&'static SupportedProtocolVersion] {
    // Where there is TLS 1.3, clients choose it.
    const ALL: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    match min_version {
        MinVersion::Tls12 => &ALL,
        MinVersion::Tls13 => &ALL[..1],
    }
}

pub(super) fn make_config(
    options: &ServerTlsOptions,
    mint: Option<&MintOptions>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<ServerConfig>, TlsError> {
    let certified = read_certified_key(&options.cert_path, &options.key_path)?;
    let now = UnixTime::now();
    if let Err(error) = parse(&certified.cert[0]).and_then(|certificate| in_date(&certificate, now)) {
        let path = options.cert_path.display();
        warn!(%path, error = explain(&error), "clients refuse the server's certificate");
    }
    let resolver: Arc<dyn ResolvesServerCert> = match mint {
        None => Arc::new(SingleCertAndKey::from(certified)),
        Some(authority) => Arc::new(Mint::new(authority, certified)?),
    };
    let verifier: Arc<dyn ClientCertVerifier> = match &options.ca_path {
        None if options.client_auth || options.username_from != UsernameFrom::Nothing => {
            let reason = "clients need certificates, but no file is there with the authorities of those";
            return Err(TlsError::new(&options.cert_path, reason));
        }
        None => Arc::new(NoClientAuth),
        Some(path) => {
            let authorities = Authorities::read(path)?;
            Arc::new(ClientVerifier::new(authorities, options.client_auth, options.username_from))
        }
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("ring has ciphers for all versions")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.alpn_protocols.clone_from(&options.alpn);
    config.ticketer = Ticketer::new().expect("the system has random numbers");
    Ok(Arc::new(config))
}

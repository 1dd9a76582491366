//! TLS material: files become what rustls is configured with.
//!
//! Certificates are judged as OpenSSL's users expect: `openssl x509 -req` of version 3.0 makes X.509 version 1
//! certificates without names beside the subject, which webpki, and so rustls by itself, refuses. See `authorities.rs`.

mod authorities;
mod authority;
mod client;
mod connect;
mod development;
mod files;
mod mint;
mod mqtt;
mod names;
mod pem;
mod server;
#[cfg(test)]
mod tests;
mod verifier;

use std::{path::Path, sync::Arc};

use rustls::{
    CertificateError,
    crypto::{CryptoProvider, ring},
};

pub use self::{
    client::{ClientTls, ClientTlsOptions},
    connect::connect_tls,
    development::{DAYS_MAX, DevelopmentCertificates, DevelopmentOptions, DevelopmentPair, Validity},
    files::{PutInForce, TlsFiles, check, reload},
    mint::MintOptions,
    names::{CertificateNames, certificate_names, identity},
    server::{ServerTls, ServerTlsOptions},
};
pub use crate::config::{MinVersion, UsernameFrom};

/// What is wrong with a file, for the operator.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct TlsError {
    pub path: String,
    pub reason: String,
}

impl TlsError {
    fn new(path: &Path, reason: impl Into<String>) -> Self {
        Self { path: path.display().to_string(), reason: reason.into() }
    }
}

/// Named wherever it is needed, as a process has one default, and whoever uses this library may have set another.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Why a handshake failed, in words that say what can be done about it.
pub fn explain(error: &rustls::Error) -> String {
    use CertificateError as Certificate;
    use rustls::{AlertDescription as Alert, Error, InvalidMessage, PeerIncompatible as Incompatible};
    match error {
        Error::NoCertificatesPresented => "the client has no certificate".to_owned(),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => "what came is not TLS".to_owned(),
        Error::PeerIncompatible(why) => match why {
            // The second is how clients of TLS 1.1 and before look.
            Incompatible::Tls12NotOffered
            | Incompatible::SignatureAlgorithmsExtensionRequired
            | Incompatible::Tls12NotOfferedOrEnabled
            | Incompatible::SupportedVersionsExtensionRequired
            | Incompatible::ServerDoesNotSupportTls12Or13
            | Incompatible::ServerTlsVersionIsDisabledByOurConfig => {
                "the peer knows no version of TLS that is allowed".to_owned()
            }
            Incompatible::NoCipherSuitesInCommon => "no cipher suite in common".to_owned(),
            _ => error.to_string(),
        },
        Error::InvalidCertificate(why) => match why {
            Certificate::UnknownIssuer => "the certificate is of an authority that is not trusted",
            Certificate::Expired | Certificate::ExpiredContext { .. } => "the certificate has expired",
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
                "the certificate is not valid yet"
            }
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                "the certificate is for another name"
            }
            Certificate::InvalidPurpose | Certificate::InvalidPurposeContext { .. } => {
                "the certificate is for another purpose"
            }
            Certificate::ApplicationVerificationFailure => "the certificate has no user name",
            Certificate::BadSignature => "the certificate's signature is wrong",
            _ => return error.to_string(),
        }
        .to_owned(),
        Error::AlertReceived(alert) => match alert {
            Alert::UnknownCA => "the peer does not trust our certificate's authority".to_owned(),
            Alert::CertificateExpired => "the peer says that our certificate has expired".to_owned(),
            Alert::BadCertificate | Alert::CertificateUnknown => {
                "the peer does not accept our certificate".to_owned()
            }
            Alert::CertificateRequired => "the peer asks for a certificate of ours".to_owned(),
            _ => error.to_string(),
        },
        _ => error.to_string(),
    }
}

//! PEM files: certificates and keys, with errors that say what is in a file instead.

use std::{path::Path, sync::Arc};

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use rustls::{
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::{CertifiedKey, SigningKey},
};
use x509_parser::parse_x509_certificate;

use super::{TlsError, provider};
use crate::config::read_file;

/// Reads the certificates of a file, one at least.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| damaged(path, &error))?;
    if certificates.is_empty() {
        return Err(TlsError::new(path, format!("no certificate in PEM in it{}", instead(&pem))));
    }
    for (position, certificate) in certificates.iter().enumerate() {
        let parsed = parse_x509_certificate(certificate);
        if !parsed.is_ok_and(|(rest, _)| rest.is_empty()) {
            return Err(TlsError::new(path, format!("certificate {} in it is damaged", position + 1)));
        }
    }
    Ok(certificates)
}

/// Reads a key in PKCS#8, PKCS#1 or SEC1.
pub(super) fn read_key(path: &Path) -> Result<Arc<dyn SigningKey>, TlsError> {
    let pem = read(path)?;
    if contains(&pem, b"ENCRYPTED") {
        let reason = format!(
            "encrypted keys are not supported; without password: openssl pkey -in {} -out FILE",
            path.display()
        );
        return Err(TlsError::new(path, reason));
    }
    let key = match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(key) => key,
        Err(pem::Error::NoItemsFound) => {
            return Err(TlsError::new(path, format!("no private key in PEM in it{}", instead(&pem))));
        }
        Err(error) => return Err(damaged(path, &error)),
    };
    provider().key_provider.load_private_key(key).map_err(|_| {
        let kinds = "RSA of 2048 bits and more, ECDSA on P-256 or P-384, and Ed25519";
        TlsError::new(path, format!("the key is damaged, or of another kind than {kinds}"))
    })
}

/// Reads a certificate, with those that lead to its authority behind it, and its key.
///
/// Not rustls' way to do so, which refuses certificates of version 1.
pub(super) fn read_certified_key(cert_path: &Path, key_path: &Path) -> Result<CertifiedKey, TlsError> {
    let certificates = read_certificates(cert_path)?;
    let key = read_key(key_path)?;
    let of_key = key.public_key();
    let of_key = of_key.as_ref().and_then(|spki| public_key_of_spki(spki));
    let of_certificates: Vec<_> = certificates.iter().map(|certificate| public_key(certificate)).collect();
    match of_certificates.iter().position(|public_key| *public_key == of_key) {
        Some(0) => {}
        Some(position) => {
            let reason = format!(
                "the key in {} is that of certificate {} in it, which has to be the first",
                key_path.display(),
                position + 1
            );
            return Err(TlsError::new(cert_path, reason));
        }
        None => {
            let reason = format!("the key is not that of the certificate in {}", cert_path.display());
            return Err(TlsError::new(key_path, reason));
        }
    }
    Ok(CertifiedKey::new(certificates, key))
}

/// A certificate as files have it.
pub(super) fn encode(certificate: &[u8]) -> String {
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    // 64 letters are a line [RFC 7468, section 2].
    for line in certificate.chunks(48) {
        BASE64_STANDARD.encode_string(line, &mut pem);
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}

fn read(path: &Path) -> Result<Bytes, TlsError> {
    let shown = path.display().to_string();
    read_file(Path::new(""), &shown).map_err(|reason| {
        // It begins with the path.
        let reason = reason.strip_prefix(&shown).unwrap_or(&reason);
        let reason = reason.strip_prefix(": ").unwrap_or(reason.trim_start()).to_owned();
        TlsError { path: shown, reason }
    })
}

fn damaged(path: &Path, error: &pem::Error) -> TlsError {
    let how = match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            format!("there is no END {}", String::from_utf8_lossy(end_marker))
        }
        error => error.to_string(),
    };
    TlsError::new(path, format!("damaged: {how}"))
}

/// What somebody may have taken for the right file.
fn instead(pem: &[u8]) -> &'static str {
    // A SEQUENCE, which is what certificates and keys are in DER.
    let is_der = pem.first() == Some(&0x30);
    match () {
        () if is_der => "; it looks like DER: openssl has -inform der to convert it",
        () if contains(pem, b"BEGIN CERTIFICATE REQUEST") => {
            "; it has a request for one: openssl x509 -req makes a certificate of it"
        }
        () if contains(pem, b"BEGIN CERTIFICATE") => "; it has a certificate",
        () if contains(pem, b"PRIVATE KEY") => "; it has a key",
        () if contains(pem, b"BEGIN PUBLIC KEY") => "; it has a public key",
        () if pem.is_empty() => "; it is empty",
        () => "",
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

/// The key's own bits, as algorithms are spelled in more than one way.
fn public_key(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    Some(certificate.public_key().subject_public_key.data.to_vec())
}

fn public_key_of_spki(spki: &[u8]) -> Option<Vec<u8>> {
    use x509_parser::prelude::FromDer;
    let (_, spki) = x509_parser::x509::SubjectPublicKeyInfo::from_der(spki).ok()?;
    Some(spki.subject_public_key.data.to_vec())
}

//! Whom a receiver's certificate has to be of.

use std::fmt;

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

/// Certificates of authorities, at least one.
#[derive(Clone)]
pub struct Authorities(RootCertStore);

/// Bytes of a file; all authorities of the web take a quarter of that.
const FILE_MAX: usize = 1 << 20;

impl Authorities {
    /// Reads PEM, which errors call `name`.
    ///
    /// # Errors
    /// Why it holds none, for people.
    pub fn read(name: &str, pem: &[u8]) -> Result<Self, String> {
        if pem.len() > FILE_MAX {
            return Err(format!("{name} has {} bytes; at most {FILE_MAX} are allowed", pem.len()));
        }
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| format!("{name}: {error}"))?;
            roots.add(certificate).map_err(|error| format!("{name}: {error}"))?;
        }
        if roots.is_empty() {
            return Err(format!("{name} holds no certificate in PEM"));
        }
        Ok(Self(roots))
    }

    pub fn roots(&self) -> &RootCertStore {
        &self.0
    }
}

/// Certificates print over pages.
impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Authorities").field(&self.0.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_no_certificate_says_so() {
        let read = |pem: &[u8]| Authorities::read("ca.pem", pem).expect_err("no certificate");
        assert_eq!(read(b"text"), "ca.pem holds no certificate in PEM");
        assert!(
            read(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").starts_with("ca.pem: ")
        );
        assert!(read(&vec![b' '; FILE_MAX + 1]).contains("at most"));
    }
}

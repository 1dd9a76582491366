//! An authority of our own: it makes certificates for servers and clients.

use std::{
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
};
use rustls::{
    SignatureScheme,
    pki_types::{CertificateDer, DnsName, UnixTime},
};

use super::{
    TlsError,
    authorities::{may_sign, parse},
    explain,
    pem::read_certified_key,
};

/// Clocks differ, so certificates are good a little before they are made.
pub(super) const GOOD_BEFORE: Duration = Duration::from_secs(3600);

/// An authority's own certificate outlives those that it makes, so that it is brought to clients once.
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(3650 * 86_400);

/// Longest Common Name, in letters [RFC 5280, appendix A.1: ub-common-name].
const COMMON_NAME_MAX: usize = 64;

/// A certificate that may sign others, and its key.
pub(super) struct Authority {
    /// That of the authority, and behind it those that lead to one that clients trust.
    pub chain: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, AuthorityKey>,
}

/// A key in any of the formats that rustls reads, as rcgen wants it; rcgen on ring reads PKCS#8 alone.
struct AuthorityKey {
    key: Arc<dyn rustls::sign::SigningKey>,
    scheme: SignatureScheme,
    algorithm: &'static SignatureAlgorithm,
    public_key: Vec<u8>,
}

impl Authority {
    /// Reads it of PEM files.
    ///
    /// # Errors
    /// Which file is wrong, and how; also when the certificate may not sign others, or not today.
    pub fn load(cert_path: &Path, key_path: &Path) -> Result<Self, TlsError> {
        let certified = read_certified_key(cert_path, key_path)?;
        let wrong = |why: String| TlsError::new(cert_path, why);
        let certificate = parse(&certified.cert[0]).map_err(|error| wrong(error.to_string()))?;
        may_sign(&certificate, UnixTime::now()).map_err(|error| match error {
            rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer) => {
                wrong("the certificate is not that of an authority".to_owned())
            }
            error => wrong(explain(&error)),
        })?;
        let public_key = certificate.public_key().subject_public_key.data.to_vec();
        let unusable = || {
            TlsError::new(key_path, "certificates are signed with RSA, ECDSA on P-256 or P-384, or Ed25519")
        };
        let key = AuthorityKey::new(certified.key, public_key).ok_or_else(unusable)?;
        let issuer =
            Issuer::from_ca_cert_der(&certified.cert[0], key).map_err(|error| wrong(error.to_string()))?;
        Ok(Self { chain: certified.cert, issuer })
    }

    /// # Errors
    /// Why the key does not sign.
    pub fn issue(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, rcgen::Error> {
        Ok(params.signed_by(key, &self.issuer)?.der().clone())
    }

    /// Until when its certificate is good.
    pub fn not_after(&self) -> SystemTime {
        let not_after =
            parse(&self.chain[0]).map_or(0, |certificate| certificate.validity().not_after.timestamp());
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(not_after).unwrap_or(0))
    }
}

impl AuthorityKey {
    fn new(key: Arc<dyn rustls::sign::SigningKey>, public_key: Vec<u8>) -> Option<Self> {
        let schemes: [(SignatureScheme, &'static SignatureAlgorithm); 4] = [
            (SignatureScheme::ECDSA_NISTP256_SHA256, &rcgen::PKCS_ECDSA_P256_SHA256),
            (SignatureScheme::ECDSA_NISTP384_SHA384, &rcgen::PKCS_ECDSA_P384_SHA384),
            (SignatureScheme::ED25519, &rcgen::PKCS_ED25519),
            (SignatureScheme::RSA_PKCS1_SHA256, &rcgen::PKCS_RSA_SHA256),
        ];
        let (scheme, algorithm) =
            schemes.into_iter().find(|(scheme, _)| key.choose_scheme(&[*scheme]).is_some())?;
        Some(Self { key, scheme, algorithm, public_key })
    }
}

impl PublicKeyData for AuthorityKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public_key
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

impl SigningKey for AuthorityKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signer = self.key.choose_scheme(&[self.scheme]).ok_or(rcgen::Error::RemoteKeyError)?;
        signer.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// A new authority, self-signed.
pub(super) fn new_authority(
    common_name: &str,
    key: &KeyPair,
    now: SystemTime,
) -> Result<CertificateDer<'static>, rcgen::Error> {
    let mut params = params(common_name, now, now + AUTHORITY_VALIDITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = false;
    Ok(params.self_signed(key)?.der().clone())
}

/// A server's certificate for all these names and addresses.
///
/// # Errors
/// What is no name.
pub(super) fn server_params(
    names: &[String],
    now: SystemTime,
    until: SystemTime,
) -> Result<CertificateParams, String> {
    let fits = |name: &&String| name.chars().count() <= COMMON_NAME_MAX;
    let mut params = params(names.iter().find(fits).map_or("MockForge", String::as_str), now, until);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for name in names {
        params.subject_alt_names.push(alternative_name(name)?);
    }
    Ok(params)
}

pub(super) fn client_params(common_name: &str, now: SystemTime, until: SystemTime) -> CertificateParams {
    let mut params = params(common_name, now, until);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn params(common_name: &str, now: SystemTime, until: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.not_before = (now - GOOD_BEFORE).into();
    params.not_after = until.into();
    // rcgen derives one of the key, which certificates share here; a browser refuses two with the same number. 80 of
    // these bits are random, and the first is not set.
    params.serial_number = Some(SerialNumber::from_slice(&ulid::Ulid::new().0.to_be_bytes()));
    params
}

fn alternative_name(name: &str) -> Result<SanType, String> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let bad = || format!("{name:?} is neither a host's name nor an address");
    // `*` stands for a first label.
    DnsName::try_from(name.strip_prefix("*.").unwrap_or(name)).map_err(|_| bad())?;
    Ok(SanType::DnsName(name.try_into().map_err(|_| bad())?))
}

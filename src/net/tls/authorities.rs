//! Whose certificates are taken, and which.
//!
//! webpki decides about certificates of version 3. Those of version 1 can say no more than who somebody is, so they
//! are taken under narrower rules: an authority that the operator named signed them, itself, and they are in date. And
//! webpki takes it for said that a root is an authority, and in date; here that is asked.

use std::{path::Path, sync::Arc};

use rustls::{
    CertificateError, DistinguishedName, Error, RootCertStore,
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{ParsedCertificate, WebPkiClientVerifier},
};
use tracing::{info, warn};
use x509_parser::{
    asn1_rs::ToDer,
    certificate::{Validity, X509Certificate},
    extensions::ExtendedKeyUsage,
    oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME,
    parse_x509_certificate,
    x509::{AlgorithmIdentifier, X509Version},
};

use super::{TlsError, explain, names::common_names, pem::read_certificates};

/// Whose certificates are taken.
#[derive(Debug)]
pub(super) struct Authorities {
    /// Those that may sign others.
    roots: Arc<RootCertStore>,
    /// When each of `roots` is good, which webpki does not ask of them.
    periods: Vec<Validity>,
    /// Taken for whom they name, whoever signed them: all that the operator named, and of the system's those that are no
    /// authorities.
    own: Vec<CertificateDer<'static>>,
    /// Whether the operator named them; the system's vouch for nothing that webpki does not take.
    is_of_operator: bool,
}

impl Authorities {
    pub fn read(path: &Path) -> Result<Self, TlsError> {
        let mut authorities = Self::none(true);
        let now = UnixTime::now();
        for (position, certificate) in (1..).zip(read_certificates(path)?) {
            let wrong = |error: Error| TlsError::new(path, format!("certificate {position} in it: {error}"));
            let parsed = parse(&certificate).map_err(wrong)?;
            let path = path.display();
            if let Err(error) = in_date(&parsed, now) {
                warn!(%path, position, error = explain(&error), "a certificate is out of date: peers that go by it are refused");
            }
            if is_authority(&parsed).map_err(wrong)? {
                authorities.add(&certificate, &parsed).map_err(wrong)?;
            } else {
                info!(%path, position, "this certificate is no authority: it is taken for itself alone");
            }
            authorities.own.push(certificate);
        }
        Ok(authorities)
    }

    /// Whom the system trusts.
    pub fn of_system() -> Result<Self, TlsError> {
        let loaded = rustls_native_certs::load_native_certs();
        let authorities = Self::of_system_certificates(loaded.certs);
        if authorities.roots.is_empty() {
            let why = loaded.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
            let reason = format!("it trusts no authority{why}; name a file with one");
            return Err(TlsError { path: "the system".to_owned(), reason });
        }
        Ok(authorities)
    }

    /// Without those that are too old to be understood.
    pub fn of_system_certificates(certificates: Vec<CertificateDer<'static>>) -> Self {
        let mut authorities = Self::none(false);
        for certificate in certificates {
            let Ok(parsed) = parse(&certificate) else { continue };
            match is_authority(&parsed) {
                Ok(true) => drop(authorities.add(&certificate, &parsed)),
                Ok(false) => authorities.own.push(certificate),
                Err(_) => {}
            }
        }
        authorities
    }

    fn none(is_of_operator: bool) -> Self {
        let roots = Arc::new(RootCertStore::empty());
        Self { roots, periods: Vec::new(), own: Vec::new(), is_of_operator }
    }

    fn add(&mut self, certificate: &CertificateDer<'_>, parsed: &X509Certificate<'_>) -> Result<(), Error> {
        Arc::make_mut(&mut self.roots).add(certificate.clone())?;
        self.periods.push(parsed.validity().clone());
        Ok(())
    }

    /// Who signs certificates that are taken; empty is not known.
    pub fn subjects(&self) -> Vec<DistinguishedName> {
        if self.own.len() == self.roots.len() { self.roots.subjects() } else { Vec::new() }
    }

    /// Whether a server with this certificate is whom we wanted to reach.
    pub fn check_server(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), Error> {
        let parsed = parse(certificate)?;
        if self.is_own(certificate) {
            in_date(&parsed, now)?;
            is_for(&parsed, |usage| usage.server_auth)?;
        } else if parsed.version() == X509Version::V1 {
            self.check_signed(&parsed, now, algorithms)?;
        } else {
            let certificate = ParsedCertificate::try_from(certificate)?;
            let all = algorithms.all;
            self.check_by_roots(now, |roots| {
                verify_server_cert_signed_by_trust_anchor(&certificate, &roots, intermediates, now, all)
            })?;
        }
        match self.is_of_operator {
            true => check_name(certificate, &parsed, name),
            false => verify_server_name(&ParsedCertificate::try_from(certificate)?, name),
        }
    }

    /// Whether a client with this certificate may come in.
    pub fn check_client(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        provider: &Arc<CryptoProvider>,
    ) -> Result<(), Error> {
        let parsed = parse(certificate)?;
        if self.is_own(certificate) {
            in_date(&parsed, now)?;
            return is_for(&parsed, |usage| usage.client_auth);
        }
        if parsed.version() == X509Version::V1 {
            return self.check_signed(&parsed, now, &provider.signature_verification_algorithms);
        }
        self.check_by_roots(now, |roots| {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider)).build();
            let verifier = verifier.expect("there is an authority, and no revocation list");
            verifier.verify_client_cert(certificate, intermediates, now).map(drop)
        })
    }

    /// A peer's own certificate may be named in place of its authority's.
    fn is_own(&self, certificate: &CertificateDer<'_>) -> bool {
        self.own.iter().any(|own| own == certificate)
    }

    /// `check`s by those that are in date. Where one that is not would have vouched, that is what is wrong.
    fn check_by_roots(
        &self,
        now: UnixTime,
        check: impl Fn(Arc<RootCertStore>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let dates: Vec<_> = self.periods.iter().map(|period| is_within(period, now)).collect();
        let check_by = |roots: Arc<RootCertStore>| match roots.is_empty() {
            true => Err(CertificateError::UnknownIssuer.into()),
            false => check(roots),
        };
        if dates.iter().all(Result::is_ok) {
            return check_by(Arc::clone(&self.roots));
        }
        let check_by_those = |date: Result<(), CertificateError>| {
            let roots = self.roots.roots.iter().zip(&dates).filter(|(_, of_root)| **of_root == date);
            check_by(Arc::new(roots.map(|(root, _)| root.clone()).collect()))
        };
        let outcome = check_by_those(Ok(()));
        if outcome == Err(CertificateError::UnknownIssuer.into()) {
            for error in [CertificateError::Expired, CertificateError::NotValidYet] {
                if check_by_those(Err(error.clone())).is_ok() {
                    return Err(error.into());
                }
            }
        }
        outcome
    }

    /// Whether an authority that the operator named signed this certificate of version 1, itself.
    fn check_signed(
        &self,
        certificate: &X509Certificate<'_>,
        now: UnixTime,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), Error> {
        let issuer = certificate.issuer().as_raw();
        let parsed = self.own.iter().filter_map(|authority| parse(authority).ok());
        let mut outcome = Err(CertificateError::UnknownIssuer.into());
        for authority in parsed.filter(|authority| authority.subject().as_raw() == issuer) {
            outcome =
                may_sign(&authority, now).and_then(|()| check_signature(certificate, &authority, algorithms));
            if outcome.is_ok() {
                break;
            }
        }
        outcome.and_then(|()| in_date(certificate, now))
    }
}

pub(super) fn is_version_1(certificate: &CertificateDer<'_>) -> bool {
    parse(certificate).is_ok_and(|certificate| certificate.version() == X509Version::V1)
}

pub(super) fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    match parse_x509_certificate(certificate) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CertificateError::BadEncoding.into()),
    }
}

pub(super) fn in_date(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    Ok(is_within(certificate.validity(), now)?)
}

fn is_within(period: &Validity, now: UnixTime) -> Result<(), CertificateError> {
    let now = i64::try_from(now.as_secs()).map_err(|_| CertificateError::Expired)?;
    match () {
        () if now < period.not_before.timestamp() => Err(CertificateError::NotValidYet),
        () if now > period.not_after.timestamp() => Err(CertificateError::Expired),
        () => Ok(()),
    }
}

pub(super) fn may_sign(authority: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    in_date(authority, now)?;
    if is_authority(authority)? { Ok(()) } else { Err(CertificateError::UnknownIssuer.into()) }
}

fn is_authority(certificate: &X509Certificate<'_>) -> Result<bool, Error> {
    // One of version 1 cannot say so; OpenSSL takes it for one if it is its own issuer, and so is not just a device's.
    if certificate.version() == X509Version::V1 {
        return Ok(certificate.subject().as_raw() == certificate.issuer().as_raw());
    }
    let bad = |_| Error::from(CertificateError::BadEncoding);
    let is_authority = certificate.basic_constraints().map_err(bad)?.is_some_and(|basic| basic.value.ca);
    let signs = certificate.key_usage().map_err(bad)?.is_none_or(|usage| usage.value.key_cert_sign());
    Ok(is_authority && signs)
}

/// Whether a certificate may be used so; without a list of purposes it may be for any.
fn is_for(certificate: &X509Certificate<'_>, has: fn(&ExtendedKeyUsage<'_>) -> bool) -> Result<(), Error> {
    let usage = certificate.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
    match usage {
        Some(usage) if !usage.value.any && !has(usage.value) => Err(CertificateError::InvalidPurpose.into()),
        _ => Ok(()),
    }
}

fn check_signature(
    certificate: &X509Certificate<'_>,
    authority: &X509Certificate<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<(), Error> {
    // The one outside is not signed.
    if certificate.signature_algorithm != certificate.tbs_certificate.signature {
        return Err(CertificateError::BadEncoding.into());
    }
    let key = authority.public_key();
    let (signature_algorithm, key_algorithm) =
        (content(&certificate.signature_algorithm)?, content(&key.algorithm)?);
    let algorithm = algorithms.all.iter().find(|algorithm| {
        algorithm.signature_alg_id().as_ref() == signature_algorithm
            && algorithm.public_key_alg_id().as_ref() == key_algorithm
    });
    let algorithm = algorithm.ok_or(CertificateError::BadSignature)?;
    let (key, signature) = (&key.subject_public_key.data, &certificate.signature_value.data);
    algorithm
        .verify_signature(key, certificate.tbs_certificate.as_ref(), signature)
        .map_err(|_| CertificateError::BadSignature.into())
}

/// An algorithm as webpki has it: the content of its SEQUENCE.
pub(super) fn content(algorithm: &AlgorithmIdentifier<'_>) -> Result<Vec<u8>, Error> {
    let bad = |_| Error::from(CertificateError::BadEncoding);
    let mut content = algorithm.algorithm.to_der_vec().map_err(bad)?;
    if let Some(parameters) = &algorithm.parameters {
        content.extend(parameters.to_der_vec().map_err(bad)?);
    }
    Ok(content)
}

/// The names that a certificate lists; of one that has no such list, its Common Names.
pub(super) fn check_name(
    certificate: &CertificateDer<'_>,
    parsed: &X509Certificate<'_>,
    name: &ServerName<'_>,
) -> Result<(), Error> {
    if parsed.extensions().iter().any(|extension| extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME) {
        return verify_server_name(&ParsedCertificate::try_from(certificate)?, name);
    }
    let is_named = |common_name: &str| match name {
        ServerName::DnsName(name) => is_host(name.as_ref(), common_name),
        ServerName::IpAddress(address) => common_name.parse() == Ok(std::net::IpAddr::from(*address)),
        _ => false,
    };
    if common_names(parsed.subject()).any(|common_name| is_named(&common_name)) {
        Ok(())
    } else {
        Err(CertificateError::NotValidForName.into())
    }
}

/// `*` stands for the first label, as in RFC 6125, section 6.4.3.
fn is_host(host: &str, pattern: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    match pattern.strip_prefix("*.") {
        None => host.eq_ignore_ascii_case(pattern),
        Some(domain) => host
            .split_once('.')
            .is_some_and(|(_, rest)| domain.contains('.') && rest.eq_ignore_ascii_case(domain)),
    }
}

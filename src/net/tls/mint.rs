//! Certificates made on demand, for the name that a client asks for: what a man in the middle shows.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use rcgen::KeyPair;
use rustls::{
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName},
    server::{ClientHello, ResolvesServerCert},
    sign::{CertifiedKey, SigningKey},
};
use tracing::{debug, error};

use super::{
    TlsError,
    authorities::{check_name, parse},
    authority::{Authority, server_params},
    provider,
};

/// Certificates kept; a client that asks for ever other names pushes others' out, and costs a signature each time, as
/// every handshake does.
const KEPT_MAX: usize = 1024;

const VALIDITY: Duration = Duration::from_secs(90 * 86_400);

/// After which one is made anew: long before it expires.
const KEPT_FOR: Duration = Duration::from_secs(30 * 86_400);

/// The authority that signs what is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MintOptions {
    pub ca_path: PathBuf,
    pub ca_key_path: PathBuf,
}

/// Shows the server's own certificate to who asks for one of its names or for none, and makes one for other names.
pub(super) struct Mint {
    own: Arc<CertifiedKey>,
    authority: Authority,
    /// Of all that is made.
    key: Arc<dyn SigningKey>,
    key_pair: KeyPair,
    kept: Mutex<Kept>,
}

/// The oldest first.
#[derive(Default)]
struct Kept {
    by_name: HashMap<Box<str>, (Arc<CertifiedKey>, SystemTime)>,
    in_order: VecDeque<Box<str>>,
}

impl Mint {
    pub fn new(options: &MintOptions, own: CertifiedKey) -> Result<Self, TlsError> {
        let authority = Authority::load(&options.ca_path, &options.ca_key_path)?;
        let key_pair =
            KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("the system has random numbers");
        let key = PrivatePkcs8KeyDer::from(key_pair.serialize_der());
        let key = provider().key_provider.load_private_key(key.into()).expect("it was just made");
        Ok(Self { own: Arc::new(own), authority, key, key_pair, kept: Mutex::default() })
    }

    /// For a client that asks for `name`, if it asks for one.
    pub fn certificate(&self, name: Option<&str>, now: SystemTime) -> Option<Arc<CertifiedKey>> {
        match name {
            Some(name) if !self.is_own(name) => self.made(&name.to_ascii_lowercase(), now),
            _ => Some(Arc::clone(&self.own)),
        }
    }

    fn is_own(&self, name: &str) -> bool {
        let certificate = &self.own.cert[0];
        let Ok(name) = ServerName::try_from(name) else { return false };
        parse(certificate).is_ok_and(|parsed| check_name(certificate, &parsed, &name).is_ok())
    }

    fn made(&self, name: &str, now: SystemTime) -> Option<Arc<CertifiedKey>> {
        let mut kept = self.kept.lock().expect("nothing panics while it is held");
        if let Some((certified, made)) = kept.by_name.get(name)
            && now < *made + KEPT_FOR
        {
            return Some(Arc::clone(certified));
        }
        let certified = match self.make(name, now) {
            Ok(certified) => Arc::new(certified),
            Err(why) => {
                error!(name, why, "no certificate could be made");
                return None;
            }
        };
        debug!(name, "made a certificate");
        kept.insert(name, Arc::clone(&certified), now);
        Some(certified)
    }

    fn make(&self, name: &str, now: SystemTime) -> Result<CertifiedKey, String> {
        let until = self.authority.not_after().min(now + VALIDITY);
        let params = server_params(&spellings(name), now, until)?;
        let certificate = self.authority.issue(&params, &self.key_pair).map_err(|error| error.to_string())?;
        let mut chain = vec![certificate];
        // Clients have the last one themselves, but may not have those between.
        chain.extend(self.authority.chain.iter().filter(|between| !is_self_issued(between)).cloned());
        Ok(CertifiedKey::new(chain, Arc::clone(&self.key)))
    }
}

impl Kept {
    fn insert(&mut self, name: &str, certified: Arc<CertifiedKey>, now: SystemTime) {
        if self.by_name.insert(name.into(), (certified, now)).is_some() {
            return;
        }
        self.in_order.push_back(name.into());
        if self.in_order.len() > KEPT_MAX
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.by_name.remove(&oldest);
        }
    }
}

impl ResolvesServerCert for Mint {
    fn resolve(&self, client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certificate(client.server_name(), SystemTime::now())
    }
}

/// Without keys.
impl fmt::Debug for Mint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mint").finish_non_exhaustive()
    }
}

/// A client that says its host's name with the final dot looks for it without, as names in certificates have none, or, as
/// OpenSSL does, just so.
fn spellings(name: &str) -> Vec<String> {
    let relative = name.strip_suffix('.').map(str::to_owned);
    relative.into_iter().chain([name.to_owned()]).collect()
}

fn is_self_issued(certificate: &CertificateDer<'_>) -> bool {
    parse(certificate).is_ok_and(|parsed| parsed.subject() == parsed.issuer())
}

//! Certificates for a laptop: an authority, a server and a client, in one folder.

use std::{
    fmt,
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, UnixTime};

use super::{
    TlsError,
    authorities::{in_date, parse},
    authority::{Authority, GOOD_BEFORE, client_params, new_authority, server_params},
    pem::{encode, read_certificates},
};

const DAY: Duration = Duration::from_secs(86_400);

/// Longest validity that Apple's systems accept of a certificate, in days.
pub const DAYS_MAX: u16 = 825;

/// What the files of an authority, of a server and of a client are called, before `.crt` and `.key`.
const AUTHORITY: &str = "ca";
const SERVER: &str = "server";
const CLIENT: &str = "client";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevelopmentOptions {
    pub folder: PathBuf,
    /// Names and addresses of the server beside those of this machine.
    pub hosts: Vec<String>,
    /// How long certificates are good, at most [`DAYS_MAX`].
    pub days: u16,
    /// The client's Common Name, and what its files are called.
    pub client: Option<String>,
    /// Makes server and client again. An authority that can still sign stays, as clients know it.
    pub force: bool,
}

/// Certificate and key of one of the three.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevelopmentPair {
    pub cert_path: PathBuf,
    pub key_path: PathBuf,
    pub is_new: bool,
}

/// Authority, server, client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevelopmentCertificates {
    pub authority: DevelopmentPair,
    pub server: DevelopmentPair,
    pub client: DevelopmentPair,
    /// What the server's certificate is for, if it is new.
    pub names: Vec<String>,
}

impl Default for DevelopmentOptions {
    fn default() -> Self {
        Self { folder: "certs".into(), hosts: Vec::new(), days: 365, client: None, force: false }
    }
}

impl DevelopmentCertificates {
    /// Makes what is missing; what is there stays, unless `force` is set.
    ///
    /// # Errors
    /// Which file is in the way, or can't be written.
    pub fn make(options: &DevelopmentOptions) -> Result<Self, TlsError> {
        let client = options.client.as_deref().unwrap_or(CLIENT);
        check_file_name(&options.folder, client)?;
        let _guard = open_folder(&options.folder)?;
        let mut made = Self::of(&options.folder, client);
        let now = SystemTime::now();
        made.make_authority(options, now)?;
        let (server_missing, client_missing) =
            (made.server.is_missing(options)?, made.client.is_missing(options)?);
        if !server_missing && !options.hosts.is_empty() {
            let reason = "is there; --force makes another, for other hosts";
            return Err(TlsError::new(&made.server.cert_path, reason));
        }
        if !server_missing && !client_missing {
            return Ok(made);
        }
        let authority = Authority::load(&made.authority.cert_path, &made.authority.key_path)?;
        let validity = DAY * options.days.min(DAYS_MAX).into() - GOOD_BEFORE;
        let until = authority.not_after().min(now + validity);
        if server_missing {
            made.names = names(&options.hosts);
            let params = server_params(&made.names, now, until)
                .map_err(|reason| TlsError::new(&made.server.cert_path, reason))?;
            made.server.issue(&authority, &params, options.force)?;
        }
        if client_missing {
            made.client.issue(&authority, &client_params(client, now, until), options.force)?;
        }
        Ok(made)
    }

    /// What a server without settings for it shows: what is in `folder`, or if it has no certificate for a server, what
    /// is made there.
    ///
    /// # Errors
    /// Which file is in the way, can't be written, or is out of date.
    pub fn find_or_make(folder: &Path) -> Result<Self, TlsError> {
        let options = DevelopmentOptions { folder: folder.to_owned(), ..DevelopmentOptions::default() };
        let found = Self::of(folder, CLIENT);
        // Others' authorities may have their key elsewhere.
        let made = if found.server.is_missing(&options)? { Self::make(&options)? } else { found };
        let validity = made.server.validity()?;
        if validity.is_now {
            return Ok(made);
        }
        let folder = folder.display();
        let reason = format!("is good {validity}; make another: mockforge certs --dir {folder} --force");
        Err(TlsError::new(&made.server.cert_path, reason))
    }

    fn of(folder: &Path, client: &str) -> Self {
        let pair = |name: &str| DevelopmentPair {
            cert_path: folder.join(format!("{name}.crt")),
            key_path: folder.join(format!("{name}.key")),
            is_new: false,
        };
        Self { authority: pair(AUTHORITY), server: pair(SERVER), client: pair(client), names: Vec::new() }
    }

    fn make_authority(&mut self, options: &DevelopmentOptions, now: SystemTime) -> Result<(), TlsError> {
        let authority = &mut self.authority;
        let usable = || Authority::load(&authority.cert_path, &authority.key_path);
        let is_missing = match options.force {
            true => usable().is_err(),
            false => authority.is_missing(options)?,
        };
        if !is_missing {
            return Ok(());
        }
        let name = format!("MockForge CA of {}", host_name().as_deref().unwrap_or("this machine"));
        let key = new_key();
        let certificate =
            new_authority(&shortened(&name), &key, now).map_err(|error| authority.failed(&error))?;
        authority.write(&certificate, &key, options.force)
    }
}

/// Of a certificate; prints as `from 2026-11-26 to 2027-11-26`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validity {
    pub is_now: bool,
    /// In seconds since 1970.
    from: i64,
    to: i64,
}

impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {} to {}", day(self.from), day(self.to))
    }
}

impl DevelopmentPair {
    /// # Errors
    /// When the certificate can't be read.
    pub fn validity(&self) -> Result<Validity, TlsError> {
        let certificates = read_certificates(&self.cert_path)?;
        let certificate =
            parse(&certificates[0]).map_err(|error| TlsError::new(&self.cert_path, error.to_string()))?;
        let validity = certificate.validity();
        Ok(Validity {
            is_now: in_date(&certificate, UnixTime::now()).is_ok(),
            from: validity.not_before.timestamp(),
            to: validity.not_after.timestamp(),
        })
    }

    /// Whether it is to be made. Where half of it is there, nothing is: that half may be in use.
    fn is_missing(&self, options: &DevelopmentOptions) -> Result<bool, TlsError> {
        let (there, missing) = match (self.cert_path.exists(), self.key_path.exists()) {
            _ if options.force => return Ok(true),
            (true, true) => return Ok(false),
            (false, false) => return Ok(true),
            (true, false) => (&self.cert_path, &self.key_path),
            (false, true) => (&self.key_path, &self.cert_path),
        };
        let (there, folder) = (there.display(), options.folder.display());
        let reason =
            format!("is not there, but {there} is; both are made by: mockforge certs --dir {folder} --force");
        Err(TlsError::new(missing, reason))
    }

    fn issue(
        &mut self,
        authority: &Authority,
        params: &CertificateParams,
        overwrite: bool,
    ) -> Result<(), TlsError> {
        let key = new_key();
        let certificate = authority.issue(params, &key).map_err(|error| self.failed(&error))?;
        self.write(&certificate, &key, overwrite)
    }

    fn write(
        &mut self,
        certificate: &CertificateDer<'_>,
        key: &KeyPair,
        overwrite: bool,
    ) -> Result<(), TlsError> {
        write(&self.key_path, key.serialize_pem().as_bytes(), 0o600, overwrite)?;
        write(&self.cert_path, encode(certificate).as_bytes(), 0o644, overwrite)?;
        self.is_new = true;
        Ok(())
    }

    fn failed(&self, error: &rcgen::Error) -> TlsError {
        TlsError::new(&self.cert_path, error.to_string())
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("the system has random numbers")
}

/// Whole or not at all, so that nobody reads half of it.
fn write(path: &Path, content: &[u8], mode: u32, overwrite: bool) -> Result<(), TlsError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(content)?;
        file.as_file().set_permissions(Permissions::from_mode(mode))?;
        if overwrite {
            file.persist(path)?
        } else {
            file.persist_noclobber(path)?
        };
        Ok(())
    };
    write().map_err(|error| TlsError::new(path, error.to_string()))
}

/// The folder, locked until it is dropped: two servers that start here at the same time make one authority. Where folders
/// can't be locked, one of them fails instead.
fn open_folder(folder: &Path) -> Result<File, TlsError> {
    let open = || -> io::Result<File> {
        fs::create_dir_all(folder)?;
        File::open(folder)
    };
    let file = open().map_err(|error| TlsError::new(folder, error.to_string()))?;
    let _ = file.lock();
    Ok(file)
}

/// The client's name becomes a file's.
fn check_file_name(folder: &Path, name: &str) -> Result<(), TlsError> {
    let is_taken = [AUTHORITY, SERVER].contains(&name);
    let is_plain = !name.is_empty()
        && !name.starts_with('.')
        && name.chars().count() <= 64
        && name.chars().all(|letter| letter.is_alphanumeric() || "-_.@ ".contains(letter));
    if is_plain && !is_taken {
        return Ok(());
    }
    let reason = format!(
        "{name:?} is not for a client: letters, digits, `-`, `_`, `.`, `@` and blanks, at most 64, and neither ca nor server"
    );
    Err(TlsError::new(folder, reason))
}

/// `hosts`, and what servers on this machine are reached by.
fn names(hosts: &[String]) -> Vec<String> {
    let here = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut names: Vec<String> = Vec::new();
    for name in hosts.iter().cloned().chain(here).chain(host_name()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// `None` when it is none that a certificate can name.
fn host_name() -> Option<String> {
    let name = rustix::system::uname().nodename().to_str().ok()?.to_ascii_lowercase();
    rustls::pki_types::DnsName::try_from(name.as_str()).ok()?;
    Some(name)
}

fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}

fn day(timestamp: i64) -> String {
    jiff::Timestamp::from_second(timestamp)
        .map_or_else(|_| "?".to_owned(), |time| time.strftime("%Y-%m-%d").to_string())
}

//! Handshakes in memory, with certificates of every kind that people make.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use expect_test::{Expect, expect};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SigningKey,
};
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, HandshakeKind, RootCertStore, ServerConfig,
    ServerConnection, SideData,
    client::danger::ServerCertVerifier,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::danger::ClientCertVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use tempfile::TempDir;

use super::{
    ClientTls, ClientTlsOptions, DevelopmentCertificates, DevelopmentOptions, MinVersion, MintOptions,
    ServerTls, ServerTlsOptions, TlsFiles, UsernameFrom,
    authorities::{Authorities, parse},
    certificate_names, explain, identity,
    mint::Mint,
    pem::{encode, read_certificates, read_certified_key, read_key},
    provider, reload,
    server::make_config,
    verifier::{ClientVerifier, NoVerifier, ServerVerifier},
};
use crate::config::{TlsCertificate, TlsConfig};

const DAY: Duration = Duration::from_secs(86_400);

/// A folder with certificates and keys; `ca` is there at once.
struct Folder {
    directory: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

/// What a certificate is made of.
struct Made<'a> {
    name: &'a str,
    params: CertificateParams,
    version_1: bool,
}

impl Folder {
    fn new() -> Self {
        Self::with_ca(authority("Test CA"))
    }

    fn with_ca(params: CertificateParams) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(directory.path().join("ca.crt"), ca.pem()).unwrap();
        Self { directory, ca }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.path(file)).unwrap()
    }

    fn write(&self, file: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(file), text).unwrap();
    }

    /// Writes `name.crt` and `name.key`.
    fn make(&self, made: Made<'_>) {
        let key = KeyPair::generate().unwrap();
        let certificate = made.params.signed_by(&key, &self.ca).unwrap();
        let der = match made.version_1 {
            true => as_version_1(certificate.der(), self.ca.key()),
            false => certificate.der().to_vec(),
        };
        self.write(&format!("{}.crt", made.name), encode(&der));
        self.write(&format!("{}.key", made.name), key.serialize_pem());
    }

    /// With a Common Name alone, as `openssl x509 -req` of version 3.0 makes them.
    fn make_version_1(&self, name: &str, common_name: &str) {
        self.make(Made { name, params: named(common_name), version_1: true });
    }

    fn server_options(&self, name: &str) -> ServerTlsOptions {
        let (cert_path, key_path) = self.pair(name);
        ServerTlsOptions { cert_path, key_path, ..ServerTlsOptions::default() }
    }

    fn server(&self, name: &str) -> Server {
        Server::new(&self.server_options(name))
    }

    /// Asks clients for a certificate of `ca.crt`.
    fn asking_server(&self, name: &str, client_auth: bool) -> Server {
        let ca_path = Some(self.path("ca.crt"));
        let options = ServerTlsOptions { ca_path, client_auth, ..self.server_options(name) };
        Server::new(&options)
    }

    /// Trusts `ca`, a file.
    fn client(&self, ca: &str) -> Arc<ClientConfig> {
        let options = ClientTlsOptions { ca_path: Some(self.path(ca)), ..ClientTlsOptions::default() };
        ClientTls::load(&options).unwrap().config()
    }

    /// Trusts `ca.crt`, and shows a certificate.
    fn client_with(&self, certificate: (PathBuf, PathBuf)) -> Arc<ClientConfig> {
        let options = ClientTlsOptions {
            ca_path: Some(self.path("ca.crt")),
            certificate: Some(certificate),
            ..ClientTlsOptions::default()
        };
        ClientTls::load(&options).unwrap().config()
    }

    fn pair(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.path(&format!("{name}.crt")), self.path(&format!("{name}.key")))
    }
}

fn authority(common_name: &str) -> CertificateParams {
    let mut params = named(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    between(params, -1, 30)
}

/// Good from and until so many days from now.
fn between(mut params: CertificateParams, from: i32, until: i32) -> CertificateParams {
    let day = |number: i32| match number {
        0.. => SystemTime::now() + DAY * number.unsigned_abs(),
        _ => SystemTime::now() - DAY * number.unsigned_abs(),
    };
    params.not_before = day(from).into();
    params.not_after = day(until).into();
    params
}

/// Without version and extensions, signed again.
fn as_version_1(certificate: &[u8], key: &KeyPair) -> Vec<u8> {
    let [outer] = elements(certificate)[..] else { panic!("one SEQUENCE") };
    let [tbs, algorithm, _] = elements(content(outer))[..] else { panic!("three parts") };
    let kept = elements(content(tbs)).into_iter().filter(|element| element[0] != 0xa0 && element[0] != 0xa3);
    let tbs = sequence(&kept.collect::<Vec<_>>().concat());
    let signature = key.sign(&tbs).unwrap();
    let bits = element(0x03, &[&[0][..], &signature].concat());
    sequence(&[&tbs, algorithm, &bits].concat())
}

fn sequence(content: &[u8]) -> Vec<u8> {
    element(0x30, content)
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let head = match content.len() {
        0..0x80 => vec![tag, length[1]],
        0x80..0x100 => vec![tag, 0x81, length[1]],
        _ => vec![tag, 0x82, length[0], length[1]],
    };
    [&head, content].concat()
}

/// Those that `der` is a row of.
fn elements(mut der: &[u8]) -> Vec<&[u8]> {
    let mut elements = Vec::new();
    while !der.is_empty() {
        let (element, rest) = der.split_at(head_len(der) + content_len(der));
        elements.push(element);
        der = rest;
    }
    elements
}

fn content(element: &[u8]) -> &[u8] {
    &element[head_len(element)..]
}

fn head_len(der: &[u8]) -> usize {
    if der[1] < 0x80 { 2 } else { 2 + usize::from(der[1] & 0x7f) }
}

fn content_len(der: &[u8]) -> usize {
    match der[1] {
        short @ 0..0x80 => short.into(),
        _ => der[2..head_len(der)].iter().fold(0, |length, &byte| length << 8 | usize::from(byte)),
    }
}

fn at(host: &str) -> ServerName<'static> {
    ClientTls::server_name(host).unwrap()
}

/// Both ends of a handshake, until it is done.
fn shake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    host: &str,
) -> Result<(ClientConnection, ServerConnection), String> {
    let mut client = ClientConnection::new(Arc::clone(client), at(host)).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    loop {
        let sent = pass(&mut client, &mut server).map_err(|why| format!("server: {why}"))?;
        let answered = pass(&mut server, &mut client).map_err(|why| format!("client: {why}"))?;
        if sent + answered == 0 {
            assert!(!client.is_handshaking() && !server.is_handshaking());
            return Ok((client, server));
        }
    }
}

fn pass<A: SideData, B: SideData>(
    from: &mut ConnectionCommon<A>,
    to: &mut ConnectionCommon<B>,
) -> Result<usize, String> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets().map_err(|error| explain(&error))?;
    }
    Ok(bytes.len())
}

/// Trusts anybody, and shows a certificate.
fn trusting_client(certificate: (PathBuf, PathBuf)) -> Arc<ClientConfig> {
    let options =
        ClientTlsOptions { certificate: Some(certificate), insecure: true, ..ClientTlsOptions::default() };
    ClientTls::load(&options).unwrap().config()
}

/// The same server by TLS 1.2 and by TLS 1.3.
struct Server([Arc<ServerConfig>; 2]);

impl Server {
    fn new(options: &ServerTlsOptions) -> Self {
        Self([&TLS12, &TLS13].map(|version| make_config(options, None, &[version]).unwrap()))
    }
}

/// "accepted" by both versions alike, or why not.
fn outcome(client: &Arc<ClientConfig>, server: &Server, host: &str) -> String {
    let [by_tls12, by_tls13] = [&server.0[0], &server.0[1]].map(|server| match shake(client, server, host) {
        Ok(_) => "accepted".to_owned(),
        Err(why) => why,
    });
    assert_eq!(by_tls12, by_tls13);
    by_tls13
}

#[test]
fn a_server_certificate_of_version_1_is_taken_for_its_common_name() {
    let folder = Folder::new();
    folder.make_version_1("server", "localhost");
    let (client, server) = (folder.client("ca.crt"), folder.server("server"));
    assert_eq!(outcome(&client, &server, "localhost"), "accepted");
    assert_eq!(outcome(&client, &server, "LOCALHOST"), "accepted");
    assert_eq!(outcome(&client, &server, "example.com"), "client: the certificate is for another name");
    assert_eq!(outcome(&client, &server, "127.0.0.1"), "client: the certificate is for another name");

    folder.make_version_1("address", "127.0.0.1");
    assert_eq!(outcome(&client, &folder.server("address"), "127.0.0.1"), "accepted");
    folder.make_version_1("any", "*.example.com");
    let any = folder.server("any");
    assert_eq!(outcome(&client, &any, "a.example.com"), "accepted");
    assert_eq!(outcome(&client, &any, "a.b.example.com"), "client: the certificate is for another name");
    assert_eq!(outcome(&client, &any, "example.com"), "client: the certificate is for another name");
}

#[test]
fn a_server_certificate_of_version_1_has_to_be_in_order() {
    let folder = Folder::new();
    let client = folder.client("ca.crt");
    folder.make(Made { name: "old", params: between(named("localhost"), -9, -1), version_1: true });
    folder.make(Made { name: "new", params: between(named("localhost"), 1, 9), version_1: true });
    let refused = |name| outcome(&client, &folder.server(name), "localhost");
    assert_eq!(refused("old"), "client: the certificate has expired");
    assert_eq!(refused("new"), "client: the certificate is not valid yet");

    let mut stranger = Folder::with_ca(authority("Another CA"));
    stranger.make_version_1("server", "localhost");
    let outcome_of = |stranger: &Folder| outcome(&client, &stranger.server("server"), "localhost");
    assert_eq!(outcome_of(&stranger), "client: the certificate is of an authority that is not trusted");
    // It says that it is ours.
    stranger = Folder::new();
    stranger.make_version_1("server", "localhost");
    assert_eq!(outcome_of(&stranger), "client: the certificate's signature is wrong");
}

#[test]
fn only_an_authority_vouches_for_version_1() {
    let signed_by = |params: CertificateParams| {
        let folder = Folder::with_ca(params);
        folder.make_version_1("server", "localhost");
        outcome(&folder.client("ca.crt"), &folder.server("server"), "localhost")
    };
    let untrusted = "client: the certificate is of an authority that is not trusted";
    assert_eq!(signed_by(authority("CA")), "accepted");
    assert_eq!(signed_by(named("CA")), untrusted);
    let mut params = authority("CA");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    assert_eq!(signed_by(params), untrusted);
    assert_eq!(signed_by(between(authority("CA"), -9, -1)), "client: the certificate has expired");

    // One between the two is not looked for.
    let root = Folder::new();
    let between =
        CertifiedIssuer::signed_by(authority("Between"), KeyPair::generate().unwrap(), &root.ca).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = named("localhost").signed_by(&key, &between).unwrap();
    let leaf = encode(&as_version_1(leaf.der(), between.key()));
    root.write("server.crt", format!("{leaf}{}", between.pem()));
    root.write("server.key", key.serialize_pem());
    assert_eq!(outcome(&root.client("ca.crt"), &root.server("server"), "localhost"), untrusted);
}

#[test]
fn an_authority_may_be_of_version_1() {
    let folder = Folder::new();
    let ca = as_version_1(folder.ca.der(), folder.ca.key());
    folder.write("ca.crt", encode(&ca));
    let client = folder.client("ca.crt");
    folder.make_version_1("server", "localhost");
    assert_eq!(outcome(&client, &folder.server("server"), "localhost"), "accepted");
    folder.make(Made { name: "server", params: named("localhost"), version_1: false });
    assert_eq!(outcome(&client, &folder.server("server"), "localhost"), "accepted");
    let server = folder.asking_server("server", true);
    folder.make_version_1("client", "device-1");
    assert_eq!(outcome(&folder.client_with(folder.pair("client")), &server, "localhost"), "accepted");
}

#[test]
fn names_that_a_certificate_lists_are_all_it_has() {
    let folder = Folder::new();
    let client = folder.client("ca.crt");
    let mut params = named("localhost");
    folder.make(Made { name: "server", params: params.clone(), version_1: false });
    let server = folder.server("server");
    assert_eq!(outcome(&client, &server, "localhost"), "accepted");
    assert_eq!(outcome(&client, &server, "example.com"), "client: the certificate is for another name");

    params.subject_alt_names.push(rcgen::SanType::DnsName("example.com".try_into().unwrap()));
    folder.make(Made { name: "server", params, version_1: false });
    let server = folder.server("server");
    assert_eq!(outcome(&client, &server, "example.com"), "accepted");
    assert_eq!(outcome(&client, &server, "localhost"), "client: the certificate is for another name");
}

#[test]
fn a_servers_own_certificate_may_be_named_in_place_of_its_authority() {
    // As `openssl req -x509` makes it: it is an authority, too.
    let folder = Folder::with_ca(authority("localhost"));
    folder.write("ca.key", folder.ca.key().serialize_pem());
    let (client, server) = (folder.client("ca.crt"), folder.server("ca"));
    assert_eq!(outcome(&client, &server, "localhost"), "accepted");
    assert_eq!(outcome(&client, &server, "example.com"), "client: the certificate is for another name");

    let folder = Folder::with_ca(between(authority("localhost"), -9, -1));
    folder.write("ca.key", folder.ca.key().serialize_pem());
    let refused = outcome(&folder.client("ca.crt"), &folder.server("ca"), "localhost");
    assert_eq!(refused, "client: the certificate has expired");
}

/// A device's own certificate is named for that device; its key is not there to make users.
#[test]
fn a_certificate_that_is_no_authority_stands_for_itself_alone() {
    let mut without_extensions = named("device-1");
    without_extensions.is_ca = IsCa::NoCa;
    let mut no_authority = named("device-1");
    no_authority.is_ca = IsCa::ExplicitNoCa;
    let mut no_signer = authority("device-1");
    no_signer.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    for params in [without_extensions, no_authority, no_signer] {
        let folder = Folder::with_ca(params);
        folder.write("ca.key", folder.ca.key().serialize_pem());
        for version_1 in [false, true] {
            folder.make(Made { name: "made", params: named("localhost"), version_1 });
            let server = folder.asking_server("made", true);
            assert_eq!(outcome(&trusting_client(folder.pair("ca")), &server, "localhost"), "accepted");
            let why = "the certificate is of an authority that is not trusted";
            let refused = outcome(&trusting_client(folder.pair("made")), &server, "localhost");
            assert_eq!(refused, format!("server: {why}"));
            let refused = outcome(&folder.client("ca.crt"), &folder.server("made"), "localhost");
            assert_eq!(refused, format!("client: {why}"));
        }
        let old = Folder::with_ca(between(named("device-1"), -9, -1));
        old.write("ca.key", old.ca.key().serialize_pem());
        let refused = outcome(&trusting_client(old.pair("ca")), &old.asking_server("ca", true), "localhost");
        assert_eq!(refused, "server: the certificate has expired");
    }
}

/// As OpenSSL has it: nothing but being its own issuer makes an authority of version 1.
#[test]
fn a_certificate_of_version_1_that_another_signed_is_no_authority() {
    let folder = Folder::new();
    let device =
        CertifiedIssuer::signed_by(named("device-1"), KeyPair::generate().unwrap(), &folder.ca).unwrap();
    folder.write("device.crt", encode(&as_version_1(device.der(), folder.ca.key())));
    folder.write("device.key", device.key().serialize_pem());
    let options = ServerTlsOptions {
        ca_path: Some(folder.path("device.crt")),
        client_auth: true,
        ..folder.server_options("device")
    };
    let server = Server::new(&options);
    assert_eq!(outcome(&trusting_client(folder.pair("device")), &server, "localhost"), "accepted");
    let key = KeyPair::generate().unwrap();
    let admin = named("admin").signed_by(&key, &device).unwrap();
    folder.write("admin.key", key.serialize_pem());
    for der in [admin.der().to_vec(), as_version_1(admin.der(), device.key())] {
        folder.write("admin.crt", encode(&der));
        let refused = outcome(&trusting_client(folder.pair("admin")), &server, "localhost");
        assert_eq!(refused, "server: the certificate is of an authority that is not trusted");
    }
}

#[test]
fn a_certificate_that_is_named_has_to_be_for_the_purpose() {
    let by = |usages: &[ExtendedKeyUsagePurpose]| {
        let mut params = named("localhost");
        params.extended_key_usages = usages.to_vec();
        let folder = Folder::with_ca(params);
        folder.write("ca.key", folder.ca.key().serialize_pem());
        let by_server = outcome(&trusting_client(folder.pair("ca")), &folder.asking_server("ca", true), "x");
        [by_server, outcome(&folder.client("ca.crt"), &folder.server("ca"), "localhost")]
    };
    let (server, client) = (ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth);
    let wrong = "the certificate is for another purpose";
    assert_eq!(by(&[]), ["accepted", "accepted"]);
    assert_eq!(by(std::slice::from_ref(&server)), [&format!("server: {wrong}"), "accepted"]);
    assert_eq!(by(std::slice::from_ref(&client)), ["accepted", &format!("client: {wrong}")]);
    assert_eq!(by(&[server, client]), ["accepted", "accepted"]);
    assert_eq!(by(&[ExtendedKeyUsagePurpose::Any]), ["accepted", "accepted"]);
}

/// Clients may choose a certificate by who signed it.
#[test]
fn clients_are_told_whose_certificates_are_taken_if_that_is_all() {
    let folder = Folder::new();
    let told = || {
        let authorities = Authorities::read(&folder.path("ca.crt")).unwrap();
        let verifier = ClientVerifier::new(authorities, true, UsernameFrom::Nothing);
        verifier.root_hint_subjects().iter().map(|subject| subject.as_ref().to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(told(), [parse(folder.ca.der()).unwrap().subject().as_raw()]);
    folder.make(Made { name: "device", params: named("device-1"), version_1: false });
    folder.write("ca.crt", [folder.read("ca.crt"), folder.read("device.crt")].concat());
    assert_eq!(told(), Vec::<Vec<u8>>::new());
}

#[test]
fn client_certificates_of_version_1_are_taken() {
    let folder = Folder::new();
    folder.make_version_1("server", "localhost");
    folder.make_version_1("client", "device-1");
    for client_auth in [false, true] {
        let server = folder.asking_server("server", client_auth);
        let client = folder.client_with(folder.pair("client"));
        assert_eq!(outcome(&client, &server, "localhost"), "accepted");
        let (_, server) = shake(&client, &server.0[1], "localhost").unwrap();
        let names = certificate_names(&server.peer_certificates().unwrap()[0]).unwrap();
        assert_eq!(names.common_name.as_deref(), Some("device-1"));
    }
}

#[test]
fn client_certificates_have_to_be_in_order() {
    let folder = Folder::new();
    folder.make_version_1("server", "localhost");
    let (stranger, impostor) = (Folder::with_ca(authority("Another CA")), Folder::new());
    for version_1 in [false, true] {
        let make = |folder: &Folder, name, params| folder.make(Made { name, params, version_1 });
        make(&folder, "good", named("device-1"));
        make(&folder, "old", between(named("device-1"), -9, -1));
        make(&folder, "new", between(named("device-1"), 1, 9));
        make(&stranger, "client", named("device-1"));
        make(&impostor, "client", named("device-1"));
        for client_auth in [false, true] {
            let server = folder.asking_server("server", client_auth);
            let by = |pair| outcome(&folder.client_with(pair), &server, "localhost");
            assert_eq!(by(folder.pair("good")), "accepted");
            assert_eq!(by(folder.pair("old")), "server: the certificate has expired");
            assert_eq!(by(folder.pair("new")), "server: the certificate is not valid yet");
            let untrusted = "server: the certificate is of an authority that is not trusted";
            assert_eq!(by(stranger.pair("client")), untrusted);
            assert_eq!(by(impostor.pair("client")), "server: the certificate's signature is wrong");
        }
    }
}

#[test]
fn a_client_certificate_for_another_purpose_is_refused() {
    let folder = Folder::new();
    folder.make_version_1("server", "localhost");
    let server = folder.asking_server("server", false);
    let by = |usages: &[ExtendedKeyUsagePurpose]| {
        let mut params = named("device-1");
        params.extended_key_usages = usages.to_vec();
        folder.make(Made { name: "client", params, version_1: false });
        outcome(&folder.client_with(folder.pair("client")), &server, "localhost")
    };
    let wrong = "server: the certificate is for another purpose";
    assert_eq!(by(&[ExtendedKeyUsagePurpose::ServerAuth]), wrong);
    assert_eq!(by(&[ExtendedKeyUsagePurpose::CodeSigning]), wrong);
    assert_eq!(by(&[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]), "accepted");
    assert_eq!(by(&[]), "accepted");
}

#[test]
fn a_client_without_a_certificate_is_refused_where_one_is_required() {
    let folder = Folder::new();
    folder.make_version_1("server", "localhost");
    let client = folder.client("ca.crt");
    assert_eq!(outcome(&client, &folder.asking_server("server", false), "localhost"), "accepted");
    let refused = outcome(&client, &folder.asking_server("server", true), "localhost");
    assert_eq!(refused, "server: the client has no certificate");
}

#[test]
fn a_certificate_that_is_to_name_a_user_names_one() {
    let folder = Folder::new();
    folder.make_version_1("server", "localhost");
    let by = |params: CertificateParams, username_from| {
        folder.make(Made { name: "client", params, version_1: true });
        let options = ServerTlsOptions {
            ca_path: Some(folder.path("ca.crt")),
            username_from,
            ..folder.server_options("server")
        };
        let (client, server) = (folder.client_with(folder.pair("client")), Server::new(&options));
        match outcome(&client, &server, "localhost").as_str() {
            "accepted" => {
                let (_, server) = shake(&client, &server.0[1], "localhost").unwrap();
                format!("{:?}", identity(username_from, server.peer_certificates()))
            }
            refused => refused.to_owned(),
        }
    };
    let mut nobody = named("");
    nobody.distinguished_name = rcgen::DistinguishedName::new();
    nobody.distinguished_name.push(DnType::OrganizationName, "Example");
    let refused = "server: the certificate has no user name";
    assert_eq!(by(named("device-1"), UsernameFrom::CommonName), r#"Some("device-1")"#);
    assert_eq!(by(named("device-1"), UsernameFrom::Subject), r#"Some("CN=device-1")"#);
    assert_eq!(by(named("device-1"), UsernameFrom::Nothing), "None");
    assert_eq!(by(nobody.clone(), UsernameFrom::CommonName), refused);
    assert_eq!(by(nobody.clone(), UsernameFrom::Subject), r#"Some("O=Example")"#);
    assert_eq!(by(nobody, UsernameFrom::Nothing), "None");
    assert_eq!(by(named("a\0b"), UsernameFrom::CommonName), refused);
    assert_eq!(by(named("a\0b"), UsernameFrom::Subject), r#"Some("CN=a\\00b")"#);
}

#[test]
fn clients_are_not_let_in_for_want_of_an_authority() {
    let folder = Folder::new();
    folder.make_version_1("server", "localhost");
    let refused = |options: ServerTlsOptions| ServerTls::load(&options).unwrap_err().to_string();
    let why = "server.crt: clients need certificates, but no file is there with the authorities of those";
    let options = folder.server_options("server");
    assert!(refused(ServerTlsOptions { client_auth: true, ..options.clone() }).ends_with(why));
    let username_from = UsernameFrom::CommonName;
    assert!(refused(ServerTlsOptions { username_from, ..options }).ends_with(why));
}

/// Whoever has the certificate, which is no secret, and another key.
#[test]
fn a_certificate_is_worth_nothing_without_its_key() {
    let folder = Folder::new();
    for version_1 in [false, true] {
        folder.make(Made { name: "server", params: named("localhost"), version_1 });
        folder.make(Made { name: "other", params: named("localhost"), version_1 });
        let certificates = read_certificates(&folder.path("server.crt")).unwrap();
        let key = read_key(&folder.path("other.key")).unwrap();
        let thief = Arc::new(SingleCertAndKey::from(CertifiedKey::new(certificates, key)));

        let server = [&TLS12, &TLS13].map(|version| {
            let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[version]);
            Arc::new(builder.unwrap().with_no_client_auth().with_cert_resolver(thief.clone()))
        });
        let refused = outcome(&folder.client("ca.crt"), &Server(server), "localhost");
        assert_eq!(refused, "client: the certificate's signature is wrong");

        let client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(NoVerifier))
            .with_client_cert_resolver(thief);
        let refused = outcome(&Arc::new(client), &folder.asking_server("server", true), "localhost");
        assert_eq!(refused, "server: the certificate's signature is wrong");
    }
}

#[test]
fn an_insecure_client_takes_any_certificate() {
    let folder = Folder::new();
    folder.make(Made { name: "server", params: between(named("device-1"), -9, -1), version_1: true });
    let options = ClientTlsOptions { insecure: true, ..ClientTlsOptions::default() };
    let client = ClientTls::load(&options).unwrap().config();
    assert_eq!(outcome(&client, &folder.server("server"), "example.com"), "accepted");
}

/// Authorities of the whole Web vouch for names that certificates list, and for nothing else.
#[test]
fn the_systems_authorities_vouch_for_less() {
    let folder = Folder::new();
    let authorities = Authorities::of_system_certificates(vec![folder.ca.der().clone()]);
    let verifier = ServerVerifier::new(authorities);
    let client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let client = Arc::new(client);
    let mut params = named("localhost");
    let by = |params: &CertificateParams, version_1| {
        folder.make(Made { name: "server", params: params.clone(), version_1 });
        outcome(&client, &folder.server("server"), "localhost")
    };
    assert_eq!(by(&params, true), "client: the certificate is of an authority that is not trusted");
    assert_eq!(by(&params, false), "client: the certificate is for another name");
    params.subject_alt_names.push(rcgen::SanType::DnsName("localhost".try_into().unwrap()));
    assert_eq!(by(&params, false), "accepted");
}

/// A site that is trusted by name, not its key.
#[test]
fn what_the_system_trusts_that_is_no_authority_stands_for_itself_alone() {
    let mut params = named("localhost");
    params.subject_alt_names.push(rcgen::SanType::DnsName("localhost".try_into().unwrap()));
    let folder = Folder::with_ca(params.clone());
    folder.make(Made { name: "server", params, version_1: false });
    let verifier = ServerVerifier::new(Authorities::of_system_certificates(vec![folder.ca.der().clone()]));
    let check = |certificate: &CertificateDer<'_>| {
        let outcome = verifier.verify_server_cert(certificate, &[], &at("localhost"), &[], UnixTime::now());
        outcome.map(drop).map_err(|error| explain(&error))
    };
    assert_eq!(check(folder.ca.der()), Ok(()));
    let made = &read_certificates(&folder.path("server.crt")).unwrap()[0];
    assert_eq!(check(made), Err("the certificate is of an authority that is not trusted".to_owned()));
}

/// Renewed with the same name and key, as is usual, it vouches for what it signed before.
#[test]
fn an_authority_vouches_while_it_is_in_date() {
    let key = KeyPair::generate().unwrap().serialize_pem();
    let key = || KeyPair::from_pem(&key).unwrap();
    let of =
        |from, until| CertifiedIssuer::self_signed(between(authority("CA"), from, until), key()).unwrap();
    let (now, days) = (UnixTime::now().as_secs(), |days| DAY * days);
    let at_day = |day: u32| UnixTime::since_unix_epoch(Duration::from_secs(now) + days(day));
    let mut folder = Folder::new();
    folder.ca = of(-1, 30);
    folder.make(Made { name: "made", params: between(named("localhost"), -1, 90), version_1: false });
    let made = &read_certificates(&folder.path("made.crt")).unwrap()[0];
    let check = |authorities: &[&CertifiedIssuer<'static, KeyPair>], day| {
        let pem: String = authorities.iter().map(|authority| authority.pem()).collect();
        folder.write("ca.crt", pem);
        let read = || Authorities::read(&folder.path("ca.crt")).unwrap();
        let client = ClientVerifier::new(read(), true, UsernameFrom::Nothing);
        let client = client.verify_client_cert(made, &[], at_day(day)).map(drop);
        let server = ServerVerifier::new(read());
        let server = server.verify_server_cert(made, &[], &at("localhost"), &[], at_day(day)).map(drop);
        assert_eq!(client, server);
        client.map_err(|error| explain(&error))
    };
    let expired = Err("the certificate has expired".to_owned());
    let (first, second, other) = (of(-1, 30), of(20, 90), Folder::new().ca);
    assert_eq!(check(&[&first], 25), Ok(()));
    assert_eq!(check(&[&first], 35), expired);
    assert_eq!(check(&[&second], 10), Err("the certificate is not valid yet".to_owned()));
    for day in [10, 25, 35] {
        assert_eq!(check(&[&first, &second], day), Ok(()), "{day}");
    }
    assert_eq!(check(&[&first, &of(-1, 40)], 45), expired);
    assert_eq!(check(&[&first, &other], 35), expired);
    let untrusted = Err("the certificate is of an authority that is not trusted".to_owned());
    assert_eq!(check(&[&of(-9, -1), &other], 1), expired);
    assert_eq!(check(&[&other], 1), untrusted);
}

/// The one that vouched for a client is found to have ended in a handshake, too.
#[test]
fn an_authority_that_has_expired_lets_nobody_in() {
    let folder = Folder::with_ca(between(authority("CA"), -9, -1));
    folder.make(Made { name: "made", params: named("localhost"), version_1: false });
    let expired = "the certificate has expired";
    let refused =
        outcome(&trusting_client(folder.pair("made")), &folder.asking_server("made", true), "localhost");
    assert_eq!(refused, format!("server: {expired}"));
    let refused = outcome(&folder.client("ca.crt"), &folder.server("made"), "localhost");
    assert_eq!(refused, format!("client: {expired}"));
}

#[test]
fn nobody_but_named_authorities_is_trusted() {
    let (folder, other) = (Folder::new(), Folder::with_ca(authority("Another CA")));
    folder.make(Made { name: "server", params: named("localhost"), version_1: false });
    let refused = outcome(&other.client("ca.crt"), &folder.server("server"), "localhost");
    assert_eq!(refused, "client: the certificate is of an authority that is not trusted");
}

#[test]
fn a_minimum_of_tls_1_3_refuses_tls_1_2() {
    let folder = Folder::new();
    folder.make_version_1("server", "localhost");
    let options = ServerTlsOptions {
        min_version: MinVersion::from_name("1.3").unwrap(),
        ..folder.server_options("server")
    };
    let server = ServerTls::load(&options).unwrap().config();
    let client = folder.client("ca.crt");
    let (client, _) = shake(&client, &server, "localhost").unwrap();
    assert_eq!(client.protocol_version(), Some(TLS13.version));
    let old = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let refused = shake(&Arc::new(old), &server, "localhost").unwrap_err();
    assert_eq!(refused, "server: the peer knows no version of TLS that is allowed");
}

#[test]
fn a_server_without_application_protocols_takes_clients_of_any() {
    let folder = Folder::new();
    folder.make_version_1("server", "localhost");
    let options = ClientTlsOptions {
        ca_path: Some(folder.path("ca.crt")),
        alpn: vec![b"x-amzn-mqtt-ca".to_vec()],
        ..ClientTlsOptions::default()
    };
    let client = ClientTls::load(&options).unwrap().config();
    assert_eq!(outcome(&client, &folder.server("server"), "localhost"), "accepted");
    let options = ServerTlsOptions { alpn: vec![b"h2".to_vec()], ..folder.server_options("server") };
    let server = ServerTls::load(&options).unwrap().config();
    assert!(shake(&client, &server, "localhost").unwrap_err().starts_with("server: "));
    let (client, _) = shake(&folder.client("ca.crt"), &server, "localhost").unwrap();
    assert_eq!(client.alpn_protocol(), None);
}

#[test]
fn sessions_are_resumed_until_files_are_read_again() {
    let folder = Folder::new();
    folder.make_version_1("server", "localhost");
    let server = ServerTls::load(&folder.server_options("server")).unwrap();
    let client = folder.client("ca.crt");
    let kind = || shake(&client, &server.config(), "localhost").unwrap().0.handshake_kind();
    assert_eq!(kind(), Some(HandshakeKind::Full));
    assert_eq!(kind(), Some(HandshakeKind::Resumed));
    reload([&server as &dyn TlsFiles]).unwrap();
    assert_eq!(kind(), Some(HandshakeKind::Full));
}

#[test]
fn what_is_read_again_is_for_the_next_connection() {
    let folder = Folder::new();
    folder.make_version_1("server", "localhost");
    folder.make_version_1("next", "localhost");
    let server = ServerTls::load(&folder.server_options("server")).unwrap();
    let client = folder.client("ca.crt");
    let shown = |client: &ClientConnection| client.peer_certificates().unwrap()[0].clone();
    let (mut open, mut other_end) = shake(&client, &server.config(), "localhost").unwrap();
    let before = shown(&open);

    // Half of the files: all stays as it was.
    fs::copy(folder.path("next.crt"), folder.path("server.crt")).unwrap();
    let error = reload([&server as &dyn TlsFiles]).unwrap_err().to_string();
    assert!(error.contains("server.key: the key is not that of the certificate in "), "{error}");
    assert_eq!(shown(&shake(&client, &server.config(), "localhost").unwrap().0), before);

    fs::copy(folder.path("next.key"), folder.path("server.key")).unwrap();
    reload([&server as &dyn TlsFiles]).unwrap();
    let after = shown(&shake(&client, &server.config(), "localhost").unwrap().0);
    assert_ne!(after, before);
    assert_eq!(after, read_certificates(&folder.path("next.crt")).unwrap()[0]);
    std::io::Write::write_all(&mut open.writer(), b"still here").unwrap();
    pass(&mut open, &mut other_end).unwrap();
    let mut heard = [0; 10];
    std::io::Read::read_exact(&mut other_end.reader(), &mut heard).unwrap();
    assert_eq!(&heard, b"still here");
}

#[test]
fn what_a_client_goes_by_is_read_again() {
    let (folder, stranger) = (Folder::new(), Folder::with_ca(authority("Another CA")));
    folder.make_version_1("server", "localhost");
    folder.make_version_1("client", "device-1");
    let own = folder.read("ca.crt");
    let server = folder.asking_server("server", true);
    let options = ClientTlsOptions {
        ca_path: Some(folder.path("ca.crt")),
        certificate: Some(folder.pair("client")),
        ..ClientTlsOptions::default()
    };
    let client = ClientTls::load(&options).unwrap();
    let by = || outcome(&client.config(), &server, "localhost");
    assert_eq!(by(), "accepted");
    folder.write("ca.crt", stranger.read("ca.crt"));
    assert_eq!(by(), "accepted");
    reload([&client as &dyn TlsFiles]).unwrap();
    assert_eq!(by(), "client: the certificate is of an authority that is not trusted");
    folder.write("ca.crt", own);
    stranger.make_version_1("client", "device-1");
    for file in ["client.crt", "client.key"] {
        folder.write(file, stranger.read(file));
    }
    reload([&client as &dyn TlsFiles]).unwrap();
    assert_eq!(by(), "server: the certificate is of an authority that is not trusted");
}

#[test]
fn all_is_read_again_or_nothing() {
    let folder = Folder::new();
    folder.make_version_1("one", "localhost");
    folder.make_version_1("other", "localhost");
    let [one, other] = ["one", "other"].map(|name| ServerTls::load(&folder.server_options(name)).unwrap());
    let client = folder.client("ca.crt");
    let shown = |server: &ServerTls| {
        let (client, _) = shake(&client, &server.config(), "localhost").unwrap();
        client.peer_certificates().unwrap().to_vec()
    };
    let before = shown(&one);
    folder.make_version_1("one", "localhost");
    folder.write("other.crt", "");
    for all in [[&one, &other], [&other, &one]] {
        let error = reload(all.map(|server| server as &dyn TlsFiles)).unwrap_err().to_string();
        assert!(error.ends_with("other.crt: no certificate in PEM in it; it is empty"), "{error}");
        assert_eq!(shown(&one), before);
    }
    folder.make_version_1("other", "localhost");
    reload([&one as &dyn TlsFiles, &other]).unwrap();
    assert_eq!(shown(&one), read_certificates(&folder.path("one.crt")).unwrap());
    assert_eq!(shown(&other), read_certificates(&folder.path("other.crt")).unwrap());
}

/// What is wrong with the server's files, without the folder.
fn check_error(folder: &Folder, expected: Expect) {
    let options =
        ServerTlsOptions { ca_path: Some(folder.path("ca.crt")), ..folder.server_options("server") };
    let error = ServerTls::load(&options).unwrap_err().to_string();
    expected.assert_eq(&error.replace(&format!("{}/", folder.directory.path().display()), ""));
}

#[test]
fn errors_name_the_file_and_what_is_in_it() {
    let folder = Folder::new();
    check_error(&folder, expect!["server.crt: No such file or directory (os error 2)"]);
    folder.make_version_1("server", "localhost");
    folder.make_version_1("other", "localhost");
    let (certificate, key) = (folder.read("server.crt"), folder.read("server.key"));
    let with_certificate = |text: &[u8], expected| {
        folder.write("server.crt", text);
        check_error(&folder, expected);
        folder.write("server.crt", &certificate);
    };
    with_certificate(b"", expect!["server.crt: no certificate in PEM in it; it is empty"]);
    with_certificate(&key, expect!["server.crt: no certificate in PEM in it; it has a key"]);
    with_certificate(
        b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        expect![
            "server.crt: no certificate in PEM in it; it has a request for one: openssl x509 -req makes a certificate of it"
        ],
    );
    with_certificate(
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        expect!["server.crt: certificate 1 in it is damaged"],
    );
    with_certificate(
        b"-----BEGIN CERTIFICATE-----\nAAAA\n",
        expect!["server.crt: damaged: there is no END CERTIFICATE"],
    );
    with_certificate(
        folder.ca.der(),
        expect![
            "server.crt: no certificate in PEM in it; it looks like DER: openssl has -inform der to convert it"
        ],
    );
    with_certificate(
        &folder.read("other.crt"),
        expect!["server.key: the key is not that of the certificate in server.crt"],
    );
    with_certificate(
        &[folder.read("ca.crt"), certificate.clone()].concat(),
        expect![
            "server.crt: the key in server.key is that of certificate 2 in it, which has to be the first"
        ],
    );
    let with_key = |text: &[u8], expected| {
        folder.write("server.key", text);
        check_error(&folder, expected);
        folder.write("server.key", &key);
    };
    with_key(b"", expect!["server.key: no private key in PEM in it; it is empty"]);
    with_key(&certificate, expect!["server.key: no private key in PEM in it; it has a certificate"]);
    with_key(
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        expect![
            "server.key: the key is damaged, or of another kind than RSA of 2048 bits and more, ECDSA on P-256 or P-384, and Ed25519"
        ],
    );
    with_key(
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        expect![
            "server.key: encrypted keys are not supported; without password: openssl pkey -in server.key -out FILE"
        ],
    );
    with_key(
        b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
        expect![
            "server.key: encrypted keys are not supported; without password: openssl pkey -in server.key -out FILE"
        ],
    );
    folder.write("ca.crt", &key);
    check_error(&folder, expect!["ca.crt: no certificate in PEM in it; it has a key"]);
    fs::remove_file(folder.path("ca.crt")).unwrap();
    fs::create_dir(folder.path("ca.crt")).unwrap();
    check_error(&folder, expect!["ca.crt: is no regular file"]);
}

/// As OpenSSL 3.0 prints it for `-nameopt RFC2253`.
#[test]
fn subjects_are_spelled_as_openssl_does() {
    let mut params = named("device-1");
    let name = &mut params.distinguished_name;
    name.push(DnType::OrganizationName, "Ex, \"ample\" + <Söhne>; \\#");
    name.push(DnType::OrganizationalUnitName, " #1 ");
    name.push(DnType::CountryName, "CH");
    name.push(DnType::from_oid(&[1, 2, 3, 4]), "x");
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let names = certificate_names(certificate.der()).unwrap();
    expect![[r#"1.2.3.4=#0C0178,C=CH,OU=\ #1\ ,O=Ex\, \"ample\" \+ \<S\C3\B6hne\>\; \\#,CN=device-1"#]]
        .assert_eq(&names.subject);
    assert_eq!(names.common_name.as_deref(), Some("device-1"));

    let mut params = named("device-1");
    params.distinguished_name = rcgen::DistinguishedName::new();
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let names = certificate_names(certificate.der()).unwrap();
    assert_eq!((names.common_name, names.subject), (None, String::new()));
    assert_eq!(certificate_names(&CertificateDer::from(vec![0x30, 0])), None);
}

#[test]
fn development_certificates_are_made_once() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("certs");
    let options = DevelopmentOptions { folder: folder.clone(), ..DevelopmentOptions::default() };
    let made = DevelopmentCertificates::make(&options).unwrap();
    assert!(made.authority.is_new && made.server.is_new && made.client.is_new);
    assert!(
        made.names.starts_with(&["localhost", "127.0.0.1", "::1"].map(str::to_owned)),
        "{:?}",
        made.names
    );
    for pair in [&made.authority, &made.server, &made.client] {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&pair.cert_path), mode(&pair.key_path)), (0o644, 0o600));
    }
    let before = content_of(&folder);

    let made = DevelopmentCertificates::make(&options).unwrap();
    assert!(!(made.authority.is_new || made.server.is_new || made.client.is_new));
    let more = DevelopmentOptions { client: Some("device-2".to_owned()), ..options.clone() };
    let made = DevelopmentCertificates::make(&more).unwrap();
    assert!(made.client.is_new && !made.server.is_new);
    let mut after = content_of(&folder);
    after.retain(|(name, _)| !name.starts_with("device-2."));
    assert_eq!(after, before);

    let hosts =
        DevelopmentOptions { hosts: vec!["broker.test".to_owned(), "10.0.0.8".to_owned()], ..options };
    let error = DevelopmentCertificates::make(&hosts).unwrap_err().to_string();
    assert!(error.ends_with("server.crt: is there; --force makes another, for other hosts"), "{error}");
    let made = DevelopmentCertificates::make(&DevelopmentOptions { force: true, ..hosts }).unwrap();
    assert!(made.server.is_new && !made.authority.is_new);
    assert_eq!(made.names[..2], ["broker.test", "10.0.0.8"]);
}

/// Files of a folder, by name.
fn content_of(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn development_certificates_work_on_this_machine() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    let made = DevelopmentCertificates::find_or_make(folder).unwrap();
    let server = Server::new(&ServerTlsOptions {
        cert_path: made.server.cert_path,
        key_path: made.server.key_path,
        ca_path: Some(made.authority.cert_path.clone()),
        client_auth: true,
        ..ServerTlsOptions::default()
    });
    let client = ClientTls::load(&ClientTlsOptions {
        ca_path: Some(made.authority.cert_path),
        certificate: Some((made.client.cert_path, made.client.key_path)),
        ..ClientTlsOptions::default()
    });
    let client = client.unwrap().config();
    for host in ["localhost", "127.0.0.1", "::1"] {
        assert_eq!(outcome(&client, &server, host), "accepted");
    }
    let (_, server) = shake(&client, &server.0[1], "localhost").unwrap();
    let names = certificate_names(&server.peer_certificates().unwrap()[0]).unwrap();
    assert_eq!(names.subject, "CN=client");
    // Browsers and Apple's systems refuse longer ones.
    let days = |path: &str| {
        let certificates = read_certificates(&folder.join(path)).unwrap();
        let certificate = super::authorities::parse(&certificates[0]).unwrap();
        let validity = certificate.validity();
        (validity.not_after.timestamp() - validity.not_before.timestamp()) / 86_400
    };
    assert_eq!((days("server.crt"), days("client.crt")), (365, 365));
}

#[test]
fn what_is_in_the_way_of_development_certificates_stays() {
    let folder = Folder::new();
    folder.write("server.key", "mine");
    let make = |force| {
        let options = DevelopmentOptions {
            folder: folder.directory.path().to_owned(),
            force,
            ..DevelopmentOptions::default()
        };
        DevelopmentCertificates::make(&options).map_err(|error| {
            error.to_string().replace(&format!("{}/", folder.directory.path().display()), "")
        })
    };
    let how =
        format!("both are made by: mockforge certs --dir {} --force", folder.directory.path().display());
    assert_eq!(make(false).unwrap_err(), format!("ca.key: is not there, but ca.crt is; {how}"));
    folder.write("ca.key", folder.ca.key().serialize_pem());
    assert_eq!(make(false).unwrap_err(), format!("server.crt: is not there, but server.key is; {how}"));
    assert_eq!(folder.read("server.key"), b"mine");
    let made = make(true).unwrap();
    assert!(made.server.is_new && !made.authority.is_new);
    let no_name = |client: &str| {
        let options = DevelopmentOptions {
            folder: folder.directory.path().to_owned(),
            client: Some(client.to_owned()),
            ..DevelopmentOptions::default()
        };
        DevelopmentCertificates::make(&options).unwrap_err().to_string()
    };
    for name in ["", "ca", "server", "../x", "a/b", ".hidden", "a\nb"] {
        assert!(no_name(name).contains("is not for a client: "), "{name}");
    }
}

#[test]
fn expired_development_certificates_say_how_to_make_others() {
    let folder = Folder::with_ca(authority("CA"));
    folder.write("ca.key", folder.ca.key().serialize_pem());
    folder.make(Made { name: "server", params: between(named("localhost"), -9, -1), version_1: false });
    let path = folder.directory.path();
    let error = DevelopmentCertificates::find_or_make(path).unwrap_err().to_string();
    let hint = format!("; make another: mockforge certs --dir {} --force", path.display());
    assert!(error.contains("server.crt: is good from ") && error.ends_with(&hint), "{error}");
    let options =
        DevelopmentOptions { folder: path.to_owned(), force: true, ..DevelopmentOptions::default() };
    DevelopmentCertificates::make(&options).unwrap();
    DevelopmentCertificates::find_or_make(path).unwrap();

    // An authority that has expired is made again, too.
    let folder = Folder::with_ca(between(authority("CA"), -9, -1));
    folder.write("ca.key", folder.ca.key().serialize_pem());
    let path = folder.directory.path();
    let make = |force| {
        DevelopmentCertificates::make(&DevelopmentOptions {
            folder: path.to_owned(),
            force,
            ..Default::default()
        })
    };
    assert!(make(false).unwrap_err().to_string().ends_with("ca.crt: the certificate has expired"));
    assert!(make(true).unwrap().authority.is_new);
    DevelopmentCertificates::find_or_make(path).unwrap();
}

/// As who follows the guide's commands has them.
#[test]
fn certificates_of_openssl_are_found_where_development_certificates_are_made() {
    let folder = Folder::new();
    folder.make_version_1("server", "localhost");
    let before = content_of(folder.directory.path());
    let found = DevelopmentCertificates::find_or_make(folder.directory.path()).unwrap();
    assert!(!found.server.is_new);
    assert_eq!(content_of(folder.directory.path()), before);
}

#[test]
fn a_certificate_is_made_for_the_name_that_a_client_asks_for() {
    let folder = Folder::new();
    folder.write("ca.key", folder.ca.key().serialize_pem());
    folder.make_version_1("server", "localhost");
    let authority = MintOptions { ca_path: folder.path("ca.crt"), ca_key_path: folder.path("ca.key") };
    let options = folder.server_options("server");
    let server =
        Server([&TLS12, &TLS13].map(|version| make_config(&options, Some(&authority), &[version]).unwrap()));
    let client = folder.client("ca.crt");
    assert_eq!(outcome(&client, &server, "broker.example.com"), "accepted");
    assert_eq!(outcome(&client, &server, "BROKER.example.com"), "accepted");
    let shown = |host| {
        let (client, _) = shake(&client, &server.0[1], host).unwrap();
        client.peer_certificates().unwrap().to_vec()
    };
    assert_eq!(shown("broker.example.com"), shown("broker.example.com"));
    assert_ne!(shown("broker.example.com"), shown("other.example.com"));
    assert_eq!(shown("localhost"), read_certificates(&folder.path("server.crt")).unwrap());
    // An address is not asked for, so the server's own is shown.
    assert_eq!(outcome(&client, &server, "127.0.0.1"), "client: the certificate is for another name");
}

#[test]
fn a_name_with_a_final_dot_is_the_one_without() {
    let folder = Folder::new();
    folder.write("ca.key", folder.ca.key().serialize_pem());
    folder.make_version_1("server", "localhost");
    let authority = MintOptions { ca_path: folder.path("ca.crt"), ca_key_path: folder.path("ca.key") };
    let (cert_path, key_path) = folder.pair("server");
    let mint = Mint::new(&authority, read_certified_key(&cert_path, &key_path).unwrap()).unwrap();
    let made = mint.certificate(Some("Trail.example."), SystemTime::now()).unwrap();
    let certificate = parse(&made.cert[0]).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let names: Vec<_> = names.value.general_names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["DNSName(trail.example)", "DNSName(trail.example.)"]);
    let verifier = ServerVerifier::new(Authorities::read(&folder.path("ca.crt")).unwrap());
    for host in ["trail.example", "trail.example."] {
        verifier.verify_server_cert(&made.cert[0], &[], &at(host), &[], UnixTime::now()).unwrap();
    }
}

#[test]
fn made_certificates_are_kept_for_a_while_and_a_number_of_names() {
    let folder = Folder::new();
    folder.write("ca.key", folder.ca.key().serialize_pem());
    folder.make_version_1("server", "localhost");
    let authority = MintOptions { ca_path: folder.path("ca.crt"), ca_key_path: folder.path("ca.key") };
    let (cert_path, key_path) = folder.pair("server");
    let mint = Mint::new(&authority, read_certified_key(&cert_path, &key_path).unwrap()).unwrap();
    let now = SystemTime::now();
    let get = |name: &str, now| mint.certificate(Some(name), now).unwrap();
    let first = get("first.test", now);
    assert!(Arc::ptr_eq(&first, &get("First.Test", now + DAY * 29)));
    assert!(!Arc::ptr_eq(&first, &get("first.test", now + DAY * 31)));
    let first = get("first.test", now);
    for number in 0..1022 {
        get(&format!("{number}.test"), now);
    }
    let last = get("last.test", now);
    assert!(Arc::ptr_eq(&first, &get("first.test", now)));
    get("one-more.test", now);
    assert!(!Arc::ptr_eq(&first, &get("first.test", now)));
    assert!(Arc::ptr_eq(&last, &get("last.test", now)));
}

#[test]
fn only_an_authority_can_make_certificates() {
    let folder = Folder::with_ca(named("CA"));
    folder.write("ca.key", folder.ca.key().serialize_pem());
    folder.make_version_1("server", "localhost");
    let authority = MintOptions { ca_path: folder.path("ca.crt"), ca_key_path: folder.path("ca.key") };
    let error = ServerTls::load_with_mint(&folder.server_options("server"), &authority).unwrap_err();
    assert!(error.to_string().ends_with("ca.crt: the certificate is not that of an authority"), "{error}");
}

/// Which a device has for the broker that it is made for.
#[test]
fn a_certificate_of_somebody_else_is_judged_only_if_asked_for() {
    let (folder, stranger) = (tempfile::tempdir().unwrap(), Folder::new());
    stranger.make(Made { name: "device", params: named("device-1"), version_1: false });
    DevelopmentCertificates::find_or_make(folder.path()).unwrap();
    let quiet = TlsConfig {
        port: 0,
        certificate: TlsCertificate::Development,
        ca_path: None,
        client_auth: false,
        min_version: MinVersion::default(),
        username_from: UsernameFrom::Nothing,
        mint: false,
        mint_ca: None,
        development: folder.path().to_owned(),
    };
    let by = |pair, config: &TlsConfig, is_proxy| {
        let server = ServerTls::of_mqtt(config, is_proxy).unwrap().config();
        outcome(&trusting_client(pair), &Server([Arc::clone(&server), server]), "localhost")
    };
    let own = || (folder.path().join("client.crt"), folder.path().join("client.key"));
    let required = TlsConfig { client_auth: true, ..quiet.clone() };
    let for_name = TlsConfig { username_from: UsernameFrom::CommonName, ..quiet.clone() };
    let with_ca = TlsConfig { ca_path: Some(folder.path().join("ca.crt")), ..quiet.clone() };
    for is_proxy in [false, true] {
        assert_eq!(by(stranger.pair("device"), &quiet, is_proxy), "accepted");
        for asking in [&required, &for_name, &with_ca] {
            let refused = by(stranger.pair("device"), asking, is_proxy);
            assert_eq!(refused, "server: the certificate is of an authority that is not trusted");
            assert_eq!(by(own(), asking, is_proxy), "accepted");
        }
    }
}

#[test]
fn keys_are_read_in_the_formats_of_openssl() {
    let folder = Folder::new();
    folder.make_version_1("server", "localhost");
    let client = folder.client("ca.crt");
    // Within PKCS#8 there is the format of SEC1, which `openssl ecparam -genkey` writes behind its parameters.
    let pkcs8 = PrivateKeyDer::from_pem_slice(&folder.read("server.key")).unwrap();
    let [outer] = elements(pkcs8.secret_der())[..] else { panic!("one SEQUENCE") };
    let sec1 = content(elements(content(outer))[2]);
    let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let sec1 = encode(sec1).replace("CERTIFICATE", "EC PRIVATE KEY");
    folder.write("server.key", format!("{parameters}{sec1}"));
    assert_eq!(outcome(&client, &folder.server("server"), "localhost"), "accepted");
    // The certificate in the same file.
    folder.write("server.key", [folder.read("server.crt"), folder.read("server.key")].concat());
    assert_eq!(outcome(&client, &folder.server("server"), "localhost"), "accepted");
}

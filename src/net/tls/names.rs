//! Who a certificate says that its owner is.

use std::fmt::Write;

use rustls::pki_types::CertificateDer;
use x509_parser::{
    asn1_rs::Tag,
    oid_registry::{OID_X509_COMMON_NAME, Oid},
    parse_x509_certificate,
    x509::{AttributeTypeAndValue, X509Name},
};

use super::UsernameFrom;

/// Of a certificate's subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateNames {
    /// The first one; none is empty.
    pub common_name: Option<String>,
    /// As RFC 2253 has it, and `openssl x509 -noout -subject -nameopt RFC2253` prints: `CN=device-1,O=Example`.
    pub subject: String,
}

/// Reads the names of a peer's certificate, which was checked; `None` when it is damaged.
pub fn certificate_names(certificate: &CertificateDer<'_>) -> Option<CertificateNames> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    let subject = certificate.subject();
    let common_name = common_names(subject).next().filter(|name| !name.is_empty());
    Some(CertificateNames { common_name, subject: in_rfc_2253(subject) })
}

/// The user name that a client's certificates, its own first, prove; they were checked.
pub fn identity(from: UsernameFrom, certificates: Option<&[CertificateDer<'_>]>) -> Option<Box<str>> {
    let names = certificate_names(certificates?.first()?)?;
    let name = match from {
        UsernameFrom::Nothing => None,
        UsernameFrom::CommonName => names.common_name,
        UsernameFrom::Subject => Some(names.subject),
    };
    // As MQTT has user names [MQTT-1.5.4-2].
    let fits = |name: &String| {
        !name.is_empty() && name.len() <= usize::from(u16::MAX) && !name.contains(char::is_control)
    };
    name.filter(fits).map(Into::into)
}

pub(super) fn common_names<'a>(subject: &'a X509Name<'_>) -> impl Iterator<Item = String> + 'a {
    subject
        .iter_attributes()
        .filter(|attribute| *attribute.attr_type() == OID_X509_COMMON_NAME)
        .filter_map(|attribute| text(attribute))
}

/// Last attribute first.
fn in_rfc_2253(name: &X509Name<'_>) -> String {
    let mut sets: Vec<String> = name
        .iter_rdn()
        .map(|set| {
            let attributes: Vec<String> = set.iter().map(shown).collect();
            // OpenSSL has these in reverse, too.
            attributes.into_iter().rev().collect::<Vec<_>>().join("+")
        })
        .collect();
    sets.reverse();
    sets.join(",")
}

fn shown(attribute: &AttributeTypeAndValue<'_>) -> String {
    let kind = attribute.attr_type();
    match (short_name(kind), text(attribute)) {
        (Some(name), Some(text)) => format!("{name}={}", escaped(&text)),
        (name, _) => {
            // The DER of what is not text, or not known.
            let mut shown = name.map_or_else(|| kind.to_id_string(), str::to_owned);
            shown.push_str("=#");
            for byte in der(attribute) {
                write!(shown, "{byte:02X}").expect("a string takes all");
            }
            shown
        }
    }
}

/// With NUL and other control characters as they are: whoever takes it for a name has rules of its own.
fn text(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    let value = attribute.attr_value();
    let bytes = value.data;
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString => {
            String::from_utf8(bytes.to_vec()).ok()
        }
        // Which everybody takes for Latin-1.
        Tag::T61String => Some(bytes.iter().map(|&byte| char::from(byte)).collect()),
        Tag::BmpString if bytes.len().is_multiple_of(2) => {
            let units: Vec<u16> =
                bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            String::from_utf16(&units).ok()
        }
        Tag::UniversalString if bytes.len().is_multiple_of(4) => bytes
            .chunks_exact(4)
            .map(|four| char::from_u32(u32::from_be_bytes([four[0], four[1], four[2], four[3]])))
            .collect(),
        _ => None,
    }
}

fn der(attribute: &AttributeTypeAndValue<'_>) -> Vec<u8> {
    use x509_parser::asn1_rs::ToDer;
    attribute.attr_value().to_der_vec().unwrap_or_default()
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let last = text.char_indices().last().map_or(0, |(at, _)| at);
    for (at, letter) in text.char_indices() {
        match letter {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => escaped.extend(['\\', letter]),
            '#' | ' ' if at == 0 => escaped.extend(['\\', letter]),
            ' ' if at == last => escaped.push_str("\\ "),
            ' '..='~' => escaped.push(letter),
            _ => {
                for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
                    write!(escaped, "\\{byte:02X}").expect("a string takes all");
                }
            }
        }
    }
    escaped
}

/// OpenSSL's names, of attributes that certificates have.
fn short_name(kind: &Oid<'_>) -> Option<&'static str> {
    Some(match kind.to_id_string().as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.13" => "description",
        "2.5.4.15" => "businessCategory",
        "2.5.4.17" => "postalCode",
        "2.5.4.41" => "name",
        "2.5.4.42" => "GN",
        "2.5.4.43" => "initials",
        "2.5.4.44" => "generationQualifier",
        "2.5.4.45" => "x500UniqueIdentifier",
        "2.5.4.46" => "dnQualifier",
        "2.5.4.65" => "pseudonym",
        "2.5.4.97" => "organizationIdentifier",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

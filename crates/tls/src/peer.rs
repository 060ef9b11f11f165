//! The contents of a certificate: subject, names, validity, fingerprints.

use std::fmt::Write as _;
use std::net::IpAddr;

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::prelude::X509Certificate;
use x509_parser::x509::X509Name;

/// The contents of a certificate, as Envoy writes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The certificate itself, in DER.
    pub der: Vec<u8>,
    /// The subject in the form of RFC 2253.
    pub subject: String,
    /// The issuer in the form of RFC 2253.
    pub issuer: String,
    /// The serial number in hexadecimal digits.
    pub serial: String,
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
    /// Subject alternative names that are DNS names.
    pub dns_names: Vec<String>,
    /// Subject alternative names that are URIs.
    pub uris: Vec<String>,
    /// Subject alternative names that are mail addresses.
    pub emails: Vec<String>,
    /// Subject alternative names that are IP addresses.
    pub ips: Vec<IpAddr>,
    /// Subject alternative names of other kinds: the object identifier and the value.
    pub other_names: Vec<(String, String)>,
    /// The public key with its algorithm, in DER.
    pub public_key: Vec<u8>,
    /// The common name of the subject, if it has one.
    pub common_name: Option<String>,
}

impl PeerCertificate {
    /// Parses a certificate; `None` if it is malformed.
    #[must_use]
    pub fn parse(der: &CertificateDer<'_>) -> Option<PeerCertificate> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let mut read = PeerCertificate {
            der: der.to_vec(),
            subject: rfc2253(parsed.subject()),
            issuer: rfc2253(parsed.issuer()),
            serial: serial(parsed.raw_serial()),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            public_key: parsed.public_key().raw.to_vec(),
            common_name: parsed
                .subject()
                .iter_common_name()
                .next()
                .and_then(|name| name.as_str().ok())
                .map(str::to_owned),
            ..PeerCertificate::default()
        };
        if let Ok(Some(names)) = parsed.subject_alternative_name() {
            for name in &names.value.general_names {
                read.add_name(name);
            }
        }
        Some(read)
    }

    /// Parses a certificate in PEM; `None` if it is malformed.
    #[must_use]
    pub fn from_pem(pem: &[u8]) -> Option<PeerCertificate> {
        PeerCertificate::parse(&CertificateDer::from_pem_slice(pem).ok()?)
    }

    fn add_name(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
            GeneralName::RFC822Name(mail) => self.emails.push((*mail).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let v6 = <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
                self.ips.extend(v4.or(v6));
            }
            GeneralName::OtherName(oid, value) => {
                // [0] EXPLICIT contains a string. Its tag and length, two bytes, are skipped.
                let text = value.get(4..).unwrap_or_default();
                let text = String::from_utf8_lossy(text).into_owned();
                self.other_names.push((oid.to_id_string(), text));
            }
            _ => {}
        }
    }

    /// Whether it must be sent with an OCSP response only (the TLS feature `status_request`, RFC 7633).
    pub(crate) fn must_staple(&self) -> bool {
        const TLS_FEATURE: &str = "1.3.6.1.5.5.7.1.24";
        let Ok((_, parsed)) = X509Certificate::from_der(&self.der) else {
            return false;
        };
        let mut extensions = parsed.extensions().iter();
        let feature = extensions.find(|one| one.oid.to_id_string() == TLS_FEATURE);
        // A list of numbers, of which 5 is `status_request`.
        feature.is_some_and(|one| one.value.windows(3).any(|part| part == [2, 1, 5]))
    }

    /// All subject alternative names in the order of the certificate, for messages.
    pub(crate) fn names(&self) -> Vec<String> {
        let Ok((_, parsed)) = X509Certificate::from_der(&self.der) else {
            return Vec::new();
        };
        let Ok(Some(names)) = parsed.subject_alternative_name() else {
            return Vec::new();
        };
        let mut all = Vec::new();
        for name in &names.value.general_names {
            let mut one = PeerCertificate::default();
            one.add_name(name);
            all.extend(one.dns_names.into_iter().chain(one.uris).chain(one.emails));
            all.extend(one.ips.iter().map(ToString::to_string));
            all.extend(one.other_names.into_iter().map(|(_, value)| value));
        }
        all
    }

    /// The SHA-256 digest of the certificate, in hexadecimal digits.
    #[must_use]
    pub fn sha256(&self) -> String {
        hex(digest::digest(&digest::SHA256, &self.der).as_ref())
    }

    /// The SHA-1 digest of the certificate, in hexadecimal digits.
    #[must_use]
    pub fn sha1(&self) -> String {
        let sha1 = &digest::SHA1_FOR_LEGACY_USE_ONLY;
        hex(digest::digest(sha1, &self.der).as_ref())
    }

    /// The certificate as PEM text.
    #[must_use]
    pub fn pem(&self) -> String {
        pem(&self.der)
    }

    /// Whole days from `now`, in seconds since 1970, until the certificate expires; 0 if it has expired.
    #[must_use]
    pub fn days_until_expiry(&self, now: i64) -> u64 {
        u64::try_from((self.not_after - now) / 86_400).unwrap_or(0)
    }
}

/// A certificate as PEM text, with lines of 64 characters.
pub(crate) fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem + "-----END CERTIFICATE-----\n"
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String never fails.
        write!(text, "{byte:02x}").unwrap_or_default();
    }
    text
}

/// Drops the leading zero byte that marks a large number as positive.
pub(crate) fn serial(raw: &[u8]) -> String {
    match raw {
        [0, rest @ ..] if !rest.is_empty() => hex(rest),
        all => hex(all),
    }
}

/// OpenSSL's short names of attributes.
const ATTRIBUTES: [(&str, &str); 17] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.13", "description"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.41", "name"),
    ("2.5.4.42", "GN"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// Formats a name as in RFC 2253: the last attribute comes first.
fn rfc2253(name: &X509Name<'_>) -> String {
    let sets: Vec<String> = name
        .iter_rdn()
        .map(|set| {
            let parts: Vec<String> = set
                .iter()
                .map(|attribute| {
                    let oid = attribute.attr_type().to_id_string();
                    let known = ATTRIBUTES.iter().find(|(known, _)| *known == oid);
                    match (known, attribute.as_str()) {
                        (Some((_, short)), Ok(text)) => format!("{short}={}", escaped(text)),
                        (_, _) => format!("{oid}=#{}", hex(attribute.attr_value().as_bytes())),
                    }
                })
                .collect();
            parts.join("+")
        })
        .collect();
    let sets: Vec<&str> = sets.iter().rev().map(String::as_str).collect();
    sets.join(",")
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.len().saturating_sub(1);
    for (at, byte) in text.bytes().enumerate() {
        let special = matches!(byte, b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';')
            || (at == 0 && matches!(byte, b' ' | b'#'))
            || (at == last && byte == b' ');
        if special {
            out.push('\\');
            out.push(char::from(byte));
        } else if byte.is_ascii_control() || !byte.is_ascii() {
            write!(out, "\\{byte:02X}").unwrap_or_default();
        } else {
            out.push(char::from(byte));
        }
    }
    out
}

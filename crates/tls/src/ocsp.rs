//! `TlsCertificate.ocsp_staple` and `DownstreamTlsContext.ocsp_staple_policy` (RFC 6960).

use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use outrider_config::api::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::OcspStaplePolicy;
use x509_parser::asn1_rs::Any;
use x509_parser::asn1_rs::Class;
use x509_parser::asn1_rs::FromDer as _;
use x509_parser::asn1_rs::GeneralizedTime;
use x509_parser::asn1_rs::Tag;

use crate::certificate::Certificate;
use crate::peer::serial;

/// When an OCSP response expires, in seconds since 1970. One without such a time is always expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OcspExpiry(Option<i64>);

/// Whether a client got the OCSP response that it asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stapling {
    /// The client did not ask for one.
    #[default]
    NotRequested,
    /// It was sent.
    Sent,
    /// There is none that is valid, and the policy allows that.
    Omitted,
    /// There is none that is valid, and the policy forbids the use of the certificate.
    Failed,
}

/// Reads the OCSP response `der` for the certificate with this serial number, in hexadecimal digits. The error says why it
/// cannot be used, with Envoy's text as far as there is one.
pub(crate) fn read(der: &[u8], serial_number: &str) -> Result<OcspExpiry, &'static str> {
    let malformed = "Failed to parse OCSP response";
    let response = single(der).and_then(|outer| elements(outer.data));
    let response = response.ok_or(malformed)?;
    if response.first().is_none_or(|status| status.data != [0]) {
        return Err("OCSP response was unsuccessful");
    }
    let answers = response.get(1).and_then(answers).ok_or(malformed)?;
    let [answer] = answers.as_slice() else {
        return Err("OCSP Response must be for one certificate only");
    };
    let parts = elements(answer.data).ok_or(malformed)?;
    let id = parts.first().and_then(|id| elements(id.data));
    let id = id.ok_or(malformed)?;
    if id
        .get(3)
        .is_none_or(|raw| serial(raw.data) != serial_number)
    {
        return Err("OCSP response does not match its TLS certificate");
    }
    let mut optional = parts.iter().skip(3);
    let next_update = optional.find(|part| is_context(part, 0));
    let expiry = next_update.and_then(|part| {
        let (_, time) = GeneralizedTime::from_der(part.data).ok()?;
        Some(time.utc_datetime().ok()?.unix_timestamp())
    });
    Ok(OcspExpiry(expiry))
}

/// The responses in a `responseBytes`.
fn answers<'a>(bytes: &Any<'a>) -> Option<Vec<Any<'a>>> {
    let bytes = elements(single(bytes.data)?.data)?;
    let basic = elements(single(bytes.get(1)?.data)?.data)?;
    let data = elements(basic.first()?.data)?;
    let list = data.iter().find(|part| part.tag() == Tag::Sequence)?;
    elements(list.data)
}

fn is_context(part: &Any<'_>, number: u32) -> bool {
    part.class() == Class::ContextSpecific && part.tag().0 == number
}

fn single(der: &[u8]) -> Option<Any<'_>> {
    let (_, element) = Any::from_der(der).ok()?;
    Some(element)
}

/// The elements in a row.
fn elements(mut der: &[u8]) -> Option<Vec<Any<'_>>> {
    let mut all = Vec::new();
    while !der.is_empty() {
        let (rest, element) = Any::from_der(der).ok()?;
        all.push(element);
        der = rest;
    }
    Some(all)
}

impl OcspExpiry {
    fn is_expired(self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        });
        self.0.is_none_or(|expiry| expiry < now)
    }
}

/// Whether a client that asks for an OCSP response gets the one of `certificate`.
pub(crate) fn stapling(certificate: &Certificate, policy: OcspStaplePolicy) -> Stapling {
    let policy = match certificate.must_staple {
        true => OcspStaplePolicy::MustStaple,
        false => policy,
    };
    match (policy, certificate.ocsp) {
        (_, Some(expiry)) if !expiry.is_expired() => Stapling::Sent,
        (OcspStaplePolicy::LenientStapling, _) | (OcspStaplePolicy::StrictStapling, None) => {
            Stapling::Omitted
        }
        (OcspStaplePolicy::StrictStapling, Some(_)) | (OcspStaplePolicy::MustStaple, _) => {
            Stapling::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESPONSE: &[u8] = include_bytes!("../../../conformance/certs/server.ocsp");
    const OLD: &[u8] = include_bytes!("../../../conformance/certs/old-server.ocsp");

    #[test]
    fn responses_are_for_one_certificate_and_expire() {
        let read = |der| super::read(der, "1004");
        assert!(!read(RESPONSE).unwrap().is_expired());
        assert!(read(OLD).unwrap().is_expired());
        let other = super::read(RESPONSE, "1005").unwrap_err();
        assert_eq!(other, "OCSP response does not match its TLS certificate");
        for end in 0..RESPONSE.len() - 1 {
            assert!(read(RESPONSE.get(..end).unwrap()).is_err(), "{end}");
        }
    }

    #[test]
    fn a_changed_byte_does_no_harm() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..5_000 {
            let mut der = RESPONSE.to_vec();
            let at = random.usize(..der.len());
            *der.get_mut(at).unwrap() = random.u8(..);
            let _ = read(&der, "1004");
        }
    }
}

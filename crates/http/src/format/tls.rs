//! Operators about TLS, on both sides. Their values are absent on plaintext connections.

use std::time::Duration;
use std::time::SystemTime;

use outrider_net::PeerCertificate;
use outrider_net::TlsInfo;

use crate::Stream;
use crate::format::Context;
use crate::format::OutputKind;
use crate::format::simple::SimpleOperator;
use crate::format::values;

/// By name.
pub(crate) const TLS: &[(&str, SimpleOperator)] = &[
    ("DOWNSTREAM_LOCAL_DNS_SAN", |cx, out| {
        list(local(cx.stream).map(|c| &c.dns_names), out)
    }),
    ("DOWNSTREAM_LOCAL_EMAIL_SAN", |cx, out| {
        list(local(cx.stream).map(|c| &c.emails), out)
    }),
    ("DOWNSTREAM_LOCAL_IP_SAN", |cx, out| {
        ips(local(cx.stream), out)
    }),
    ("DOWNSTREAM_LOCAL_OTHERNAME_SAN", |cx, out| {
        others(local(cx.stream), out)
    }),
    ("DOWNSTREAM_LOCAL_SUBJECT", |cx, out| {
        owned(local(cx.stream).map(|c| c.subject.clone()), out)
    }),
    ("DOWNSTREAM_LOCAL_URI_SAN", |cx, out| {
        list(local(cx.stream).map(|c| &c.uris), out)
    }),
    ("DOWNSTREAM_PEER_CERT", |cx, out| {
        owned(peer(cx.stream).map(url_encoded_pem), out)
    }),
    ("DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1", |cx, out| {
        chain(cx.stream, PeerCertificate::sha1, out)
    }),
    ("DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256", |cx, out| {
        chain(cx.stream, PeerCertificate::sha256, out)
    }),
    ("DOWNSTREAM_PEER_CHAIN_SERIALS", |cx, out| {
        chain(cx.stream, |c| c.serial.clone(), out)
    }),
    ("DOWNSTREAM_PEER_DNS_SAN", |cx, out| {
        list(peer(cx.stream).map(|c| &c.dns_names), out)
    }),
    ("DOWNSTREAM_PEER_EMAIL_SAN", |cx, out| {
        list(peer(cx.stream).map(|c| &c.emails), out)
    }),
    ("DOWNSTREAM_PEER_FINGERPRINT_1", |cx, out| {
        owned(peer(cx.stream).map(PeerCertificate::sha1), out)
    }),
    ("DOWNSTREAM_PEER_FINGERPRINT_256", |cx, out| {
        owned(peer(cx.stream).map(PeerCertificate::sha256), out)
    }),
    ("DOWNSTREAM_PEER_IP_SAN", |cx, out| {
        ips(peer(cx.stream), out)
    }),
    ("DOWNSTREAM_PEER_ISSUER", |cx, out| {
        owned(peer(cx.stream).map(|c| c.issuer.clone()), out)
    }),
    ("DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256", |cx, out| {
        owned(issuer(cx.stream).map(|c| c.sha256()), out)
    }),
    ("DOWNSTREAM_PEER_ISSUER_SERIAL", |cx, out| {
        owned(issuer(cx.stream).map(|c| c.serial), out)
    }),
    ("DOWNSTREAM_PEER_OTHERNAME_SAN", |cx, out| {
        others(peer(cx.stream), out)
    }),
    ("DOWNSTREAM_PEER_SERIAL", |cx, out| {
        owned(peer(cx.stream).map(|c| c.serial.clone()), out)
    }),
    ("DOWNSTREAM_PEER_SUBJECT", |cx, out| {
        owned(peer(cx.stream).map(|c| c.subject.clone()), out)
    }),
    ("DOWNSTREAM_PEER_URI_SAN", |cx, out| {
        list(peer(cx.stream).map(|c| &c.uris), out)
    }),
    ("DOWNSTREAM_TLS_CIPHER", |cx, out| {
        values::text(downstream(cx.stream).map(|tls| tls.cipher), out)
    }),
    ("DOWNSTREAM_TLS_GROUP", |cx, out| {
        values::text(downstream(cx.stream).map(|tls| tls.curve), out)
    }),
    // TLS 1.3 has none, and rustls does not tell that of TLS 1.2.
    ("DOWNSTREAM_TLS_SESSION_ID", values::absent),
    ("DOWNSTREAM_TLS_VERSION", |cx, out| {
        values::text(downstream(cx.stream).map(|tls| tls.version), out)
    }),
    ("UPSTREAM_LOCAL_DNS_SAN", |cx, out| {
        list(upstream_local(cx.stream).map(|c| &c.dns_names), out)
    }),
    ("UPSTREAM_LOCAL_IP_SAN", |cx, out| {
        ips(upstream_local(cx.stream), out)
    }),
    ("UPSTREAM_LOCAL_URI_SAN", |cx, out| {
        list(upstream_local(cx.stream).map(|c| &c.uris), out)
    }),
    ("UPSTREAM_PEER_CERT", |cx, out| {
        owned(upstream_peer(cx.stream).map(url_encoded_pem), out)
    }),
    ("UPSTREAM_PEER_DNS_SAN", |cx, out| {
        list(upstream_peer(cx.stream).map(|c| &c.dns_names), out)
    }),
    ("UPSTREAM_PEER_IP_SAN", |cx, out| {
        ips(upstream_peer(cx.stream), out)
    }),
    ("UPSTREAM_PEER_ISSUER", |cx, out| {
        owned(upstream_peer(cx.stream).map(|c| c.issuer.clone()), out)
    }),
    ("UPSTREAM_PEER_SUBJECT", |cx, out| {
        owned(upstream_peer(cx.stream).map(|c| c.subject.clone()), out)
    }),
    ("UPSTREAM_PEER_URI_SAN", |cx, out| {
        list(upstream_peer(cx.stream).map(|c| &c.uris), out)
    }),
    ("UPSTREAM_TLS_CIPHER", |cx, out| {
        values::text(upstream(cx.stream).map(|tls| tls.cipher), out)
    }),
    ("UPSTREAM_TLS_GROUP", |cx, out| {
        values::text(upstream(cx.stream).map(|tls| tls.curve), out)
    }),
    ("UPSTREAM_TLS_SESSION_ID", values::absent),
    ("UPSTREAM_TLS_VERSION", |cx, out| {
        values::text(upstream(cx.stream).map(|tls| tls.version), out)
    }),
];

fn downstream(stream: &Stream) -> Option<&TlsInfo> {
    stream.connection.tls.as_deref()
}

fn upstream(stream: &Stream) -> Option<&TlsInfo> {
    stream.upstream.as_ref()?.tls.as_deref()
}

pub(crate) fn peer(stream: &Stream) -> Option<&PeerCertificate> {
    downstream(stream)?.peer.as_deref()
}

fn local(stream: &Stream) -> Option<&PeerCertificate> {
    downstream(stream)?.local.as_deref()
}

pub(crate) fn upstream_peer(stream: &Stream) -> Option<&PeerCertificate> {
    upstream(stream)?.peer.as_deref()
}

fn upstream_local(stream: &Stream) -> Option<&PeerCertificate> {
    upstream(stream)?.local.as_deref()
}

/// The certificate that the peer's own was issued by, if it was sent.
fn issuer(stream: &Stream) -> Option<PeerCertificate> {
    let second = downstream(stream)?.peer_chain.get(1)?;
    PeerCertificate::parse(second)
}

/// The time from the start of the request to the end of the handshake, in milliseconds: 0 or less, unless the request was
/// sent as early data.
pub(crate) fn handshake_duration(context: &Context<'_>, out: &mut Vec<u8>) -> OutputKind {
    let stream = context.stream;
    let Some(completed) = downstream(stream).and_then(|tls| tls.completed) else {
        return OutputKind::Absent;
    };
    let started = stream.started.into_std();
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    let value = match completed.checked_duration_since(started) {
        Some(after) => millis(after),
        None => -millis(started.duration_since(completed)),
    };
    values::signed(value, out)
}

/// The name that this proxy asked the host for.
pub(crate) fn upstream_server_name(context: &Context<'_>, out: &mut Vec<u8>) -> OutputKind {
    let tls = upstream(context.stream);
    owned_or_absent(tls.map_or("", |tls| &tls.server_name), out)
}

/// `text`, which is empty if the value is absent.
pub(crate) fn owned_or_absent(text: &str, out: &mut Vec<u8>) -> OutputKind {
    values::text(Some(text).filter(|text| !text.is_empty()), out)
}

/// The name that the client asked for, if a listener filter found it.
pub(crate) fn server_name(context: &Context<'_>, out: &mut Vec<u8>) -> OutputKind {
    let name = &*context.stream.connection.server_name;
    values::text(Some(name).filter(|name| !name.is_empty()), out)
}

/// When a certificate's validity begins or ends.
pub(crate) fn time(certificate: Option<&PeerCertificate>, ends: bool) -> Option<SystemTime> {
    let certificate = certificate?;
    let seconds = match ends {
        true => certificate.not_after,
        false => certificate.not_before,
    };
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    Some(SystemTime::UNIX_EPOCH + since)
}

fn owned(value: Option<String>, out: &mut Vec<u8>) -> OutputKind {
    values::text(value.as_deref().filter(|value| !value.is_empty()), out)
}

fn list(names: Option<&Vec<String>>, out: &mut Vec<u8>) -> OutputKind {
    owned(names.map(|names| names.join(",")), out)
}

fn ips(certificate: Option<&PeerCertificate>, out: &mut Vec<u8>) -> OutputKind {
    let ips = certificate.map(|certificate| {
        let texts: Vec<String> = certificate.ips.iter().map(ToString::to_string).collect();
        texts.join(",")
    });
    owned(ips, out)
}

fn others(certificate: Option<&PeerCertificate>, out: &mut Vec<u8>) -> OutputKind {
    let names = certificate.map(|certificate| {
        let names = certificate.other_names.iter();
        let texts: Vec<&str> = names.map(|(_, value)| value.as_str()).collect();
        texts.join(",")
    });
    owned(names, out)
}

fn chain(
    stream: &Stream,
    of: impl Fn(&PeerCertificate) -> String,
    out: &mut Vec<u8>,
) -> OutputKind {
    let certificates = downstream(stream).map_or(&[][..], |tls| &tls.peer_chain);
    let parsed = certificates.iter().filter_map(PeerCertificate::parse);
    let texts: Vec<String> = parsed.map(|certificate| of(&certificate)).collect();
    owned(Some(texts.join(",")), out)
}

/// A certificate as PEM text, encoded for use in a header.
pub(crate) fn url_encoded_pem(certificate: &PeerCertificate) -> String {
    url_encoded(&certificate.pem())
}

pub(crate) fn url_encoded(pem: &str) -> String {
    let mut encoded = String::with_capacity(pem.len() * 5 / 4);
    for character in pem.chars() {
        match character {
            '\n' => encoded.push_str("%0A"),
            ' ' => encoded.push_str("%20"),
            '+' => encoded.push_str("%2B"),
            '/' => encoded.push_str("%2F"),
            '=' => encoded.push_str("%3D"),
            other => encoded.push(other),
        }
    }
    encoded
}

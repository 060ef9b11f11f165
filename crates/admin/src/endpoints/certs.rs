//! `/certs`: the certificates that are in use, as `envoy.admin.v3.Certificates`.

use std::time::Duration;
use std::time::SystemTime;

use outrider_tls::ContextCertificates;
use outrider_tls::PeerCertificate;
use outrider_tls::ShownCertificate;
use serde_json::Value;
use serde_json::json;

use super::config_dump::date_and_time;
use crate::Admin;
use crate::request::Request;
use crate::response::AdminResponse;

/// The last second that a protobuf timestamp can show: 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

pub(super) fn certs(_: &Request, admin: &Admin) -> AdminResponse {
    let contexts = admin.control.certificates();
    let shown: Vec<Value> = contexts.iter().map(context).collect();
    AdminResponse::json(&json!({ "certificates": shown }))
}

fn context(context: &ContextCertificates) -> Value {
    let all = |list: &[ShownCertificate]| list.iter().map(certificate).collect::<Vec<Value>>();
    json!({ "ca_cert": all(&context.authorities), "cert_chain": all(&context.own) })
}

fn certificate(shown: &ShownCertificate) -> Value {
    let facts = &shown.facts;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = i64::try_from(now.unwrap_or_default().as_secs()).unwrap_or(i64::MAX);
    json!({
        "path": shown.source,
        "serial_number": facts.serial,
        "subject_alt_names": names(facts),
        "days_until_expiration": facts.days_until_expiry(now).to_string(),
        "valid_from": timestamp(facts.not_before),
        "expiration_time": timestamp(facts.not_after),
    })
}

fn names(facts: &PeerCertificate) -> Vec<Value> {
    let dns = facts.dns_names.iter().map(|name| json!({ "dns": name }));
    let uris = facts.uris.iter().map(|name| json!({ "uri": name }));
    let ips = facts.ips.iter();
    let ips = ips.map(|ip| json!({ "ip_address": ip.to_string() }));
    dns.chain(uris).chain(ips).collect()
}

/// Seconds since 1970 as a protobuf timestamp.
fn timestamp(seconds: i64) -> Value {
    let seconds = u64::try_from(seconds).unwrap_or(0).min(LAST_SECOND);
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    match date_and_time(time) {
        Some(text) => format!("{text}Z").into(),
        None => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_stay_within_the_years_of_protobuf() {
        assert_eq!(timestamp(4_859_654_400), "2123-12-31T00:00:00Z");
        assert_eq!(timestamp(i64::MAX), "9999-12-31T23:59:59Z");
        assert_eq!(timestamp(-1), "1970-01-01T00:00:00Z");
    }
}

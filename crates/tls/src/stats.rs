//! `ssl.*` of a listener or cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::OnceLock;

use outrider_stats::Counter;
use outrider_stats::Gauge;
use outrider_stats::Metric;
use outrider_stats::Scope;
use outrider_stats::Stat;
use outrider_stats::Store;
use outrider_stats::Visitor;

use crate::certificate::Certificate;
use crate::failure::Check;
use crate::failure::TlsFailure;
use crate::info::TlsInfo;
use crate::ocsp::Stapling;
use crate::validation::Validation;

/// More than the number of names in any of these families: there are nine cipher suites and eleven signature
/// algorithms.
const NAMES: usize = 16;

/// Counters by the name of the negotiated version, suite, curve or algorithm. Each is listed once it has been used.
#[derive(Debug, Default)]
pub struct ByName([NamedCounter; NAMES]);

#[derive(Debug, Default)]
struct NamedCounter {
    name: OnceLock<&'static str>,
    counter: Counter,
}

impl ByName {
    fn count(&self, name: &'static str) {
        if name.is_empty() {
            return;
        }
        let mut slots = self.0.iter();
        if let Some(slot) = slots.find(|slot| *slot.name.get_or_init(|| name) == name) {
            slot.counter.inc();
        }
    }
}

impl Stat for ByName {
    fn visit_as(&self, name: &'static str, visitor: &mut Visitor<'_>) {
        visitor.below(name, |visitor| {
            for slot in &self.0 {
                if let Some(name) = slot.name.get() {
                    visitor.metric(name, Metric::Counter(&slot.counter));
                }
            }
        });
    }
}

outrider_stats::group! {
    /// `ssl.*`
    pub struct SslStats {
        connection_error: Counter,
        fail_verify_cert_hash: Counter,
        fail_verify_error: Counter,
        fail_verify_no_cert: Counter,
        fail_verify_san: Counter,
        handshake: Counter,
        no_certificate: Counter,
        ocsp_staple_failed: Counter,
        ocsp_staple_omitted: Counter,
        ocsp_staple_requests: Counter,
        ocsp_staple_responses: Counter,
        session_reused: Counter,
        was_key_usage_invalid: Counter,
        ciphers: ByName,
        curves: ByName,
        sigalgs: ByName,
        versions: ByName,
    }
}

outrider_stats::group! {
    /// `ssl.certificate.<name>.*`
    pub struct ExpiryStats { expiration_unix_time_seconds: Gauge }
}

/// The stats of a context that belong to the process rather than to a worker. They are listed while this is held.
#[derive(Debug)]
pub struct ContextStats {
    /// Lists the workers' stats before any worker has registered its own copy.
    _listed: Arc<SslStats>,
    _expiries: Vec<Arc<ExpiryStats>>,
}

/// Registers the stats of a context, below `scope`, with the expiry of its certificates. As in Envoy, of several
/// certificates with one name the last counts; of a CA's certificates, the one that expires first.
pub(crate) fn of_context(
    own: &[Certificate],
    validation: &Validation,
    store: &Store,
    scope: &Scope,
) -> ContextStats {
    let own = own
        .iter()
        .map(|one| (one.stat_name.as_str(), one.facts.not_after));
    let authorities = validation.authorities.iter();
    let authorities = authorities.map(|ca| (validation.stat_name.as_str(), ca.not_after));
    let mut shown: BTreeMap<&str, i64> = own.collect();
    for (name, not_after) in authorities {
        let earliest = shown.entry(name).or_insert(not_after);
        *earliest = not_after.min(*earliest);
    }
    let listed = shown.into_iter().map(|(name, not_after)| {
        let scope = scope.clone().name("ssl").name("certificate").name(name);
        let stats: Arc<ExpiryStats> = store.register(scope);
        let seconds = u64::try_from(not_after).unwrap_or(0);
        stats.expiration_unix_time_seconds.set(seconds);
        stats
    });
    ContextStats {
        _expiries: listed.collect(),
        _listed: store.register(scope.clone().name("ssl")),
    }
}

/// Counts the handshakes on a worker.
#[derive(Clone, Debug)]
pub struct WorkerSsl(pub Arc<SslStats>);

impl WorkerSsl {
    /// Counts a completed handshake.
    pub fn succeeded(&self, info: &TlsInfo) {
        let stats = &self.0;
        stats.handshake.inc();
        if info.resumed {
            stats.session_reused.inc();
        }
        stats.ciphers.count(info.cipher);
        stats.versions.count(info.version);
        stats.curves.count(info.curve);
        stats.sigalgs.count(info.signature);
        if info.peer.is_none() {
            stats.no_certificate.inc();
        }
        self.refused(info.forgiven);
    }

    /// Counts whether a client got the OCSP response that it asked for.
    pub fn stapled(&self, stapling: Stapling) {
        let stats = &self.0;
        match stapling {
            Stapling::NotRequested => return,
            Stapling::Sent => stats.ocsp_staple_responses.inc(),
            Stapling::Omitted => stats.ocsp_staple_omitted.inc(),
            Stapling::Failed => stats.ocsp_staple_failed.inc(),
        }
        stats.ocsp_staple_requests.inc();
    }

    /// Counts a connection that failed.
    pub fn failed(&self, failure: &TlsFailure) {
        let stats = &self.0;
        match failure.check {
            Some(check) => self.refused(Some(check)),
            None if failure.no_certificate => stats.fail_verify_no_cert.inc(),
            None if failure.is_closed() || failure.timed_out || failure.secrets_not_ready => {}
            None => stats.connection_error.inc(),
        }
    }

    fn refused(&self, check: Option<Check>) {
        let stats = &self.0;
        match check {
            Some(Check::Chain) => stats.fail_verify_error.inc(),
            Some(Check::San) => stats.fail_verify_san.inc(),
            Some(Check::Pin) => stats.fail_verify_cert_hash.inc(),
            Some(Check::Unconfigured) | None => {}
        }
    }
}

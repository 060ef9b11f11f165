//! Decides which requests are traced, and writes the reason into the request's id.

use outrider_codec::HeaderMap;
use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_config::api::envoy::r#type::v3::FractionalPercent;
use outrider_config::api::envoy::r#type::v3::Percent;
use outrider_config::api::envoy::r#type::v3::fractional_percent::DenominatorType;
use outrider_runtime::Fraction;
use outrider_runtime::Snapshot;

use crate::stats::TracingStats;

/// The length of a UUID as text.
const UUID_LENGTH: usize = 36;
/// The digit of a UUID that tells the reason: the version, which is 4 in a random UUID.
const REASON_DIGIT: usize = 14;

/// Why a request is traced or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TraceReason {
    NotTraceable,
    /// The client asks for it in `x-client-trace-id`.
    ClientForced,
    /// Another service asks for it in `x-envoy-force-trace`.
    ServiceForced,
    Sampling,
}

impl TraceReason {
    /// Whether the request is traced.
    pub(crate) fn is_traced(self) -> bool {
        self != TraceReason::NotTraceable
    }

    /// The digit in the id of a request.
    fn digit(self) -> u8 {
        match self {
            TraceReason::NotTraceable => b'4',
            TraceReason::Sampling => b'9',
            TraceReason::ServiceForced => b'a',
            TraceReason::ClientForced => b'b',
        }
    }

    /// Counts a request.
    pub(super) fn count(self, stats: &TracingStats) {
        match self {
            TraceReason::NotTraceable => stats.not_traceable.inc(),
            TraceReason::ClientForced => stats.client_enabled.inc(),
            TraceReason::ServiceForced => stats.service_forced.inc(),
            TraceReason::Sampling => stats.random_sampling.inc(),
        }
    }
}

/// `UuidRequestIdConfig`: what request ids have to do with tracing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestIdOptions {
    /// `pack_trace_reason`: whether the id gets the reason.
    pub(crate) packs_reason: bool,
    /// `use_request_id_for_trace_sampling`: whether the id decides.
    pub(crate) decides: bool,
}

/// The shares of requests that are traced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares {
    client: Fraction,
    random: Fraction,
    overall: Fraction,
}

impl Shares {
    /// The shares of a connection manager. As in Envoy, that of clients is in whole percents, the others in hundredths.
    pub(super) fn of_manager(
        client: Option<&Percent>,
        random: Option<&Percent>,
        overall: Option<&Percent>,
    ) -> Shares {
        let hundredths = |share: Option<&Percent>| {
            let value = share.map_or(100.0, |percent| percent.value);
            fraction((value * 100.0).round(), DenominatorType::TenThousand)
        };
        let client = client.map_or(100.0, |percent| percent.value);
        Shares {
            client: fraction(client.trunc(), DenominatorType::Hundred),
            random: hundredths(random),
            overall: hundredths(overall),
        }
    }

    /// The shares of a route, which replace those of the connection manager.
    pub(super) fn of_route(
        client: Option<&FractionalPercent>,
        random: Option<&FractionalPercent>,
        overall: Option<&FractionalPercent>,
    ) -> Shares {
        let share = |message: Option<&FractionalPercent>| {
            message.map_or(fraction(100.0, DenominatorType::Hundred), Fraction::of)
        };
        Shares {
            client: share(client),
            random: share(random),
            overall: share(overall),
        }
    }

    /// Decides about a request with these headers. `random` is a random number.
    pub(super) fn decide(
        &self,
        headers: &mut HeaderMap,
        options: RequestIdOptions,
        runtime: Option<&Snapshot>,
        random: u64,
    ) -> TraceReason {
        if !options.decides {
            return TraceReason::Sampling;
        }
        let Some(number) = number_of(headers) else {
            return TraceReason::NotTraceable;
        };
        let number = number % 10_000;
        let holds = |key: &str, default: Fraction, random| {
            let set = runtime.and_then(|runtime| runtime.fraction(key));
            set.unwrap_or(default).holds(random)
        };
        let told = reason_of(headers);
        let mut reason = told;
        if reason == TraceReason::NotTraceable {
            let asked = headers.contains_key(&header::X_CLIENT_TRACE_ID);
            if asked && holds("tracing.client_enabled", self.client, random) {
                reason = TraceReason::ClientForced;
            } else if headers.contains_key(&header::X_ENVOY_FORCE_TRACE) {
                reason = TraceReason::ServiceForced;
            } else if holds("tracing.random_sampling", self.random, number) {
                reason = TraceReason::Sampling;
            }
        }
        if reason.is_traced() && !holds("tracing.global_enabled", self.overall, number) {
            reason = TraceReason::NotTraceable;
        }
        if reason != told && options.packs_reason {
            write(reason, headers);
        }
        reason
    }
}

fn fraction(numerator: f64, denominator: DenominatorType) -> Fraction {
    Fraction::of(&FractionalPercent {
        // Saturates: the configuration has numbers from 0 to 100 here.
        numerator: numerator as u32,
        denominator: denominator.into(),
    })
}

/// The number in a request's id: its first eight hex digits.
fn number_of(headers: &HeaderMap) -> Option<u64> {
    let id = headers.get(&header::X_REQUEST_ID)?;
    super::span::parse_hex(id.as_bytes().get(..8)?)
}

/// The reason in a request's id.
fn reason_of(headers: &HeaderMap) -> TraceReason {
    let id = headers.get(&header::X_REQUEST_ID);
    let id = id.map(HeaderValue::as_bytes);
    match id.filter(|id| id.len() == UUID_LENGTH) {
        Some(id) => match id.get(REASON_DIGIT) {
            Some(b'9') => TraceReason::Sampling,
            Some(b'a') => TraceReason::ServiceForced,
            Some(b'b') => TraceReason::ClientForced,
            _ => TraceReason::NotTraceable,
        },
        None => TraceReason::NotTraceable,
    }
}

/// Writes the reason into the request's id.
fn write(reason: TraceReason, headers: &mut HeaderMap) {
    let Some(id) = headers.get(&header::X_REQUEST_ID) else {
        return;
    };
    let mut text = id.as_bytes().to_vec();
    if text.len() != UUID_LENGTH {
        return;
    }
    if let Some(digit) = text.get_mut(REASON_DIGIT) {
        *digit = reason.digit();
    }
    if let Ok(mut changed) = HeaderValue::from_bytes(&text) {
        changed.set_sensitive(id.is_sensitive());
        headers.insert(&header::X_REQUEST_ID, changed);
    }
}

#[cfg(test)]
mod tests {
    use outrider_codec::HeaderName;

    use super::*;

    const OPTIONS: RequestIdOptions = RequestIdOptions {
        packs_reason: true,
        decides: true,
    };

    fn shares(client: f64, random: f64, overall: f64) -> Shares {
        let share = |value| Percent { value };
        let (client, random, overall) = (share(client), share(random), share(overall));
        Shares::of_manager(Some(&client), Some(&random), Some(&overall))
    }

    fn headers(id: &'static str, more: Option<&HeaderName>) -> HeaderMap {
        let id = (&header::X_REQUEST_ID, HeaderValue::from_static(id));
        let more = more.map(|name| (name, HeaderValue::from_static("1")));
        std::iter::once(id).chain(more).collect()
    }

    #[test]
    fn the_reason_is_written_into_the_id() {
        let id = "00001387-0000-4000-8000-000000000000";
        let decide = |shares: Shares, options, more| {
            let mut headers = headers(id, more);
            let reason = shares.decide(&mut headers, options, None, 0);
            let id = headers.get(&header::X_REQUEST_ID).unwrap();
            (reason, char::from(id.as_bytes()[REASON_DIGIT]))
        };
        // 0x1387 is 4999.
        let sampled = (TraceReason::Sampling, '9');
        let not = (TraceReason::NotTraceable, '4');
        assert_eq!(decide(shares(100.0, 50.0, 100.0), OPTIONS, None), sampled);
        assert_eq!(decide(shares(100.0, 49.99, 100.0), OPTIONS, None), not);
        assert_eq!(decide(shares(100.0, 100.0, 49.99), OPTIONS, None), not);
        let client = Some(&header::X_CLIENT_TRACE_ID);
        assert_eq!(
            decide(shares(100.0, 0.0, 100.0), OPTIONS, client),
            (TraceReason::ClientForced, 'b')
        );
        assert_eq!(decide(shares(0.0, 0.0, 100.0), OPTIONS, client), not);
        let forced = Some(&header::X_ENVOY_FORCE_TRACE);
        assert_eq!(
            decide(shares(0.0, 0.0, 100.0), OPTIONS, forced),
            (TraceReason::ServiceForced, 'a')
        );
        let unpacked = RequestIdOptions {
            packs_reason: false,
            ..OPTIONS
        };
        assert_eq!(
            decide(shares(0.0, 100.0, 100.0), unpacked, None),
            (TraceReason::Sampling, '4')
        );
    }

    #[test]
    fn an_id_without_a_number_is_not_traced() {
        for id in ["short", "zzzzzzzz-0000-4000-8000-000000000000"] {
            let mut headers = headers(id, Some(&header::X_ENVOY_FORCE_TRACE));
            let reason = shares(100.0, 100.0, 100.0).decide(&mut headers, OPTIONS, None, 0);
            assert_eq!(reason, TraceReason::NotTraceable, "{id}");
        }
    }
}

//! Spans as messages of the OpenTelemetry protocol.

use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use outrider_client::otlp::ExportTraceServiceRequest;
use outrider_client::otlp::InstrumentationScope;
use outrider_client::otlp::KeyValue;
use outrider_client::otlp::ResourceSpans;
use outrider_client::otlp::ScopeSpans;
use outrider_client::otlp::SpanEvent;
use outrider_client::otlp::SpanMessage;
use outrider_client::otlp::SpanStatus;

use super::BatchInfo;
use crate::tracing::span::Span;
use crate::tracing::span::SpanKind;

/// The flag of a sampled span.
const SAMPLED: u32 = 1;
/// The flag that the next one is valid.
const HAS_IS_REMOTE: u32 = 0x100;
/// The flag of a span whose parent is in another process.
const IS_REMOTE: u32 = 0x200;
/// `STATUS_CODE_ERROR`
const ERROR: i32 = 2;
/// `STATUS_CODE_UNSET`
const UNSET: i32 = 0;

/// The request that exports `spans`.
pub(super) fn export(spans: Vec<Span>, batch: &BatchInfo) -> ExportTraceServiceRequest {
    let scope = batch.scope_version.as_ref();
    let scope_spans = ScopeSpans {
        scope: scope.map(|version| InstrumentationScope {
            name: "envoy".to_owned(),
            version: version.clone(),
        }),
        spans: spans.into_iter().map(message).collect(),
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(&batch.resource)
                .filter(|resource| !resource.attributes.is_empty())
                .cloned(),
            scope_spans: vec![scope_spans],
        }],
    }
}

fn message(span: Span) -> SpanMessage {
    let status = status(&span);
    let context = &span.context;
    let trace = [
        context.trace_high.to_be_bytes(),
        context.trace.to_be_bytes(),
    ];
    let remote = if span.has_remote_parent { IS_REMOTE } else { 0 };
    let events = span.events.iter();
    SpanMessage {
        trace_id: trace.concat(),
        span_id: context.id.to_be_bytes().to_vec(),
        trace_state: context.state.to_string(),
        parent_span_id: match context.parent {
            0 => Vec::new(),
            parent => parent.to_be_bytes().to_vec(),
        },
        kind: match span.kind {
            SpanKind::Server => 2,
            SpanKind::Client => 3,
        },
        start_time_unix_nano: nanos(span.start),
        end_time_unix_nano: nanos(span.end),
        events: events
            .map(|(at, name)| SpanEvent {
                time_unix_nano: nanos(*at),
                name: (*name).to_owned(),
            })
            .collect(),
        status,
        flags: SAMPLED | HAS_IS_REMOTE | remote,
        name: span.name,
        attributes: span
            .tags
            .into_iter()
            .filter(|(name, _)| !name.is_empty())
            .map(|(name, value)| KeyValue::text(name, value))
            .collect(),
    }
}

/// Whether the span failed. To the one who asks, all errors are failures; to the one who answers, only its own are. As
/// in Envoy, a gRPC status that is no failure gives a status without a code.
fn status(span: &Span) -> Option<SpanStatus> {
    let is_client = span.kind == SpanKind::Client;
    if let Some(status) = span.tag("grpc.status_code") {
        let own = matches!(status, "2" | "4" | "12" | "13" | "14" | "15");
        let failed = own || is_client && status != "0";
        return Some(SpanStatus {
            code: if failed { ERROR } else { UNSET },
        });
    }
    let http = span.tag("http.status_code")?.parse::<u16>().ok()?;
    let failed = http >= if is_client { 400 } else { 500 };
    failed.then_some(SpanStatus { code: ERROR })
}

fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

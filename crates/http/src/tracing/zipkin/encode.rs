//! Spans in Zipkin's formats: JSON (version 2 of its API) and protobuf
//! (<https://github.com/openzipkin/zipkin-api/blob/master/zipkin.proto>).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use prost::Message;
use serde_json::Value;
use serde_json::json;

use super::Endpoint;
use crate::tracing::span::Span;
use crate::tracing::span::SpanKind;

/// A JSON list of spans. `shares_spans`: whether the span of a request is the one that its client has begun.
pub(super) fn json(spans: &[Span], endpoint: &Endpoint, shares_spans: bool) -> Vec<u8> {
    let spans = spans
        .iter()
        .map(|span| json_span(span, endpoint, shares_spans));
    Value::Array(spans.collect()).to_string().into_bytes()
}

fn json_span(span: &Span, endpoint: &Endpoint, shares_spans: bool) -> Value {
    let context = &span.context;
    let trace = match context.trace_high {
        0 => format!("{:016x}", context.trace),
        high => format!("{high:016x}{:016x}", context.trace),
    };
    let annotations = annotations(span);
    let annotations =
        annotations.map(|(at, value)| json!({"timestamp": micros(at), "value": value}));
    let family = match endpoint.address {
        IpAddr::V4(_) => "ipv4",
        IpAddr::V6(_) => "ipv6",
    };
    let mut local = json!({family: endpoint.address.to_string(), "port": 0});
    let tags: BTreeMap<_, _> = tags(span).collect();
    let mut shown = json!({
        "traceId": trace,
        "id": format!("{:016x}", context.id),
        "kind": match span.kind {
            SpanKind::Client => "CLIENT",
            SpanKind::Server => "SERVER",
        },
        "timestamp": micros(span.start),
        "duration": duration(span),
        "annotations": annotations.collect::<Vec<_>>(),
    });
    let mut set = |name: &str, value: Value| {
        if let Some(fields) = shown.as_object_mut() {
            fields.insert(name.to_owned(), value);
        }
    };
    if let Some(fields) = local.as_object_mut()
        && !endpoint.service.is_empty()
    {
        let service = endpoint.service.as_str();
        fields.insert("serviceName".to_owned(), service.into());
    }
    set("localEndpoint", local);
    if context.parent != 0 {
        set("parentId", format!("{:016x}", context.parent).into());
    }
    if !span.name.is_empty() {
        set("name", span.name.as_str().into());
    }
    if span.kind == SpanKind::Server && shares_spans {
        set("shared", true.into());
    }
    if !tags.is_empty() {
        set("tags", json!(tags));
    }
    shown
}

/// The message `ListOfSpans`.
pub(super) fn proto(spans: &[Span], endpoint: &Endpoint, shares_spans: bool) -> Vec<u8> {
    let spans = spans.iter();
    let spans = spans.map(|span| proto_span(span, endpoint, shares_spans));
    let list = ListOfSpans {
        spans: spans.collect(),
    };
    list.encode_to_vec()
}

fn proto_span(span: &Span, endpoint: &Endpoint, shares_spans: bool) -> ZipkinSpan {
    let context = &span.context;
    let trace_id = match context.trace_high {
        0 => context.trace.to_be_bytes().to_vec(),
        high => [high.to_be_bytes(), context.trace.to_be_bytes()].concat(),
    };
    let (ipv4, ipv6) = match endpoint.address {
        IpAddr::V4(address) => (address.octets().to_vec(), Vec::new()),
        IpAddr::V6(address) => (Vec::new(), address.octets().to_vec()),
    };
    let tags = tags(span);
    ZipkinSpan {
        trace_id,
        // Envoy writes these two, other than the trace's id, with their lowest byte first.
        parent_id: match context.parent {
            0 => Vec::new(),
            parent => parent.to_le_bytes().to_vec(),
        },
        id: context.id.to_le_bytes().to_vec(),
        kind: match span.kind {
            SpanKind::Client => 1,
            SpanKind::Server => 2,
        },
        name: span.name.clone(),
        timestamp: micros(span.start),
        duration: duration(span),
        local_endpoint: Some(ZipkinEndpoint {
            service_name: endpoint.service.clone(),
            ipv4,
            ipv6,
        }),
        annotations: annotations(span)
            .map(|(at, value)| ZipkinAnnotation {
                timestamp: micros(at),
                value: value.to_owned(),
            })
            .collect(),
        tags: tags
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        shared: span.kind == SpanKind::Server && shares_spans,
    }
}

/// The events, and the end of the span.
fn annotations(span: &Span) -> impl Iterator<Item = (SystemTime, &'static str)> {
    let end = match span.kind {
        SpanKind::Client => "cr",
        SpanKind::Server => "ss",
    };
    span.events.iter().copied().chain([(span.end, end)])
}

/// The tags that have a value.
fn tags(span: &Span) -> impl Iterator<Item = (&str, &str)> {
    let tags = span.tags.iter();
    let tags = tags.map(|(name, value)| (&**name, &**value));
    tags.filter(|(name, value)| !name.is_empty() && !value.is_empty())
}

fn micros(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn duration(span: &Span) -> u64 {
    let took = span.end.duration_since(span.start).unwrap_or_default();
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

#[derive(Clone, PartialEq, Message)]
struct ListOfSpans {
    #[prost(message, repeated, tag = "1")]
    spans: Vec<ZipkinSpan>,
}

#[derive(Clone, PartialEq, Message)]
struct ZipkinSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    parent_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    id: Vec<u8>,
    #[prost(int32, tag = "4")]
    kind: i32,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(fixed64, tag = "6")]
    timestamp: u64,
    #[prost(uint64, tag = "7")]
    duration: u64,
    #[prost(message, optional, tag = "8")]
    local_endpoint: Option<ZipkinEndpoint>,
    #[prost(message, repeated, tag = "10")]
    annotations: Vec<ZipkinAnnotation>,
    #[prost(btree_map = "string, string", tag = "11")]
    tags: BTreeMap<String, String>,
    #[prost(bool, tag = "13")]
    shared: bool,
}

#[derive(Clone, PartialEq, Message)]
struct ZipkinEndpoint {
    #[prost(string, tag = "1")]
    service_name: String,
    #[prost(bytes = "vec", tag = "2")]
    ipv4: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    ipv6: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ZipkinAnnotation {
    #[prost(fixed64, tag = "1")]
    timestamp: u64,
    #[prost(string, tag = "2")]
    value: String,
}

//! Every command operator, by name.
//!
//! Two tables: operators without parameters are a function; the others are built from their parameter. What has no
//! meaning without TLS prints as absent, as it does in Envoy on a plaintext connection. A name that is in neither table is
//! an error in Envoy's words.

use std::time::Duration;
use std::time::SystemTime;

use outrider_net::Address;
use tokio::time::Instant;

use crate::Captures;
use crate::Stream;
use crate::format::Context;
use crate::format::Kind;
use crate::format::command::Command;
use crate::format::grpc_status::GrpcStatus;
use crate::format::grpc_status::capture_grpc_status;
use crate::format::headers::HeaderOperator;
use crate::format::metadata::MetadataOperator;
use crate::format::time::TimeFormat;
use crate::format::values;

/// A compiled operator.
#[derive(Clone, Debug)]
pub(crate) enum Operator {
    /// One of [`SIMPLE`].
    Simple(Simple),
    /// What is in a header, or made of `:path`.
    Header(HeaderOperator),
    StartTime(TimeFormat),
    EmitTime(TimeFormat),
    /// The same for every stream.
    Constant(Box<str>),
    GrpcStatus(GrpcStatus),
    /// An address without its port, or the network that it is in.
    Host(AddressOf, Option<u8>),
    CommonDuration(Point, Point, Precision),
    ResponseCodeDetails {
        keep_whitespace: bool,
    },
    Metadata(MetadataOperator),
    /// The first that is there and not empty, of at most so many bytes.
    Coalesce(Box<[Operator]>, Option<usize>),
}

/// Appends a value.
type Simple = fn(&Context<'_>, &mut Vec<u8>) -> Kind;
type AddressOf = fn(&Stream) -> Option<&Address>;
type Point = fn(&Stream) -> Option<Instant>;
type Build = fn(&Command<'_>) -> Result<Operator, String>;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Precision {
    Milliseconds,
    Microseconds,
    Nanoseconds,
}

const SIMPLE: &[(&str, Simple)] = &[
    ("BYTES_RECEIVED", |cx, out| {
        values::number(cx.stream.traffic.body_received, out)
    }),
    ("BYTES_RETRANSMITTED", |_, out| values::number(0, out)),
    ("BYTES_SENT", |cx, out| {
        values::number(cx.stream.traffic.body_sent, out)
    }),
    ("CONNECTION_ID", |cx, out| {
        values::number(cx.stream.connection.id, out)
    }),
    ("CONNECTION_TERMINATION_DETAILS", |cx, out| {
        values::text(cx.stream.connection_termination_details.as_deref(), out)
    }),
    ("CUSTOM_FLAGS", |_, _| Kind::Text),
    (
        "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
        |cx, out| values::number(cx.stream.traffic.header_received, out),
    ),
    ("DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT", |cx, out| {
        values::number(cx.stream.traffic.header_sent, out)
    }),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS", |cx, out| {
        values::address(local(cx.stream), out)
    }),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID", |_, _| {
        Kind::Text
    }),
    ("DOWNSTREAM_DIRECT_LOCAL_PORT", |cx, out| {
        values::port(local(cx.stream), out)
    }),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", |cx, out| {
        values::address(direct_remote(cx.stream), out)
    }),
    ("DOWNSTREAM_DIRECT_REMOTE_PORT", |cx, out| {
        values::port(direct_remote(cx.stream), out)
    }),
    ("DOWNSTREAM_HANDSHAKE_DURATION", values::absent),
    ("DOWNSTREAM_HEADER_BYTES_RECEIVED", |cx, out| {
        values::number(cx.stream.traffic.header_received, out)
    }),
    ("DOWNSTREAM_HEADER_BYTES_SENT", |cx, out| {
        values::number(cx.stream.traffic.header_sent, out)
    }),
    ("DOWNSTREAM_LOCAL_ADDRESS", |cx, out| {
        values::address(local(cx.stream), out)
    }),
    ("DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID", |_, _| Kind::Text),
    ("DOWNSTREAM_LOCAL_DNS_SAN", values::absent),
    ("DOWNSTREAM_LOCAL_EMAIL_SAN", values::absent),
    ("DOWNSTREAM_LOCAL_IP_SAN", values::absent),
    ("DOWNSTREAM_LOCAL_OTHERNAME_SAN", values::absent),
    ("DOWNSTREAM_LOCAL_PORT", |cx, out| {
        values::port(local(cx.stream), out)
    }),
    ("DOWNSTREAM_LOCAL_SUBJECT", values::absent),
    ("DOWNSTREAM_LOCAL_URI_SAN", values::absent),
    ("DOWNSTREAM_PEER_CERT", values::absent),
    ("DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1", values::absent),
    ("DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256", values::absent),
    ("DOWNSTREAM_PEER_CHAIN_SERIALS", values::absent),
    ("DOWNSTREAM_PEER_DNS_SAN", values::absent),
    ("DOWNSTREAM_PEER_EMAIL_SAN", values::absent),
    ("DOWNSTREAM_PEER_FINGERPRINT_1", values::absent),
    ("DOWNSTREAM_PEER_FINGERPRINT_256", values::absent),
    ("DOWNSTREAM_PEER_IP_SAN", values::absent),
    ("DOWNSTREAM_PEER_ISSUER", values::absent),
    ("DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256", values::absent),
    ("DOWNSTREAM_PEER_ISSUER_SERIAL", values::absent),
    ("DOWNSTREAM_PEER_OTHERNAME_SAN", values::absent),
    ("DOWNSTREAM_PEER_SERIAL", values::absent),
    ("DOWNSTREAM_PEER_SUBJECT", values::absent),
    ("DOWNSTREAM_PEER_URI_SAN", values::absent),
    ("DOWNSTREAM_REMOTE_ADDRESS", |cx, out| {
        values::address(remote(cx.stream), out)
    }),
    ("DOWNSTREAM_REMOTE_PORT", |cx, out| {
        values::port(remote(cx.stream), out)
    }),
    ("DOWNSTREAM_TLS_CIPHER", values::absent),
    ("DOWNSTREAM_TLS_GROUP", values::absent),
    ("DOWNSTREAM_TLS_SESSION_ID", values::absent),
    ("DOWNSTREAM_TLS_VERSION", values::absent),
    ("DOWNSTREAM_TRANSPORT_FAILURE_REASON", values::absent),
    ("DOWNSTREAM_WIRE_BYTES_RECEIVED", |cx, out| {
        values::number(cx.stream.traffic.wire_received, out)
    }),
    ("DOWNSTREAM_WIRE_BYTES_SENT", |cx, out| {
        values::number(cx.stream.traffic.wire_sent, out)
    }),
    ("DURATION", |cx, out| {
        values::milliseconds(Some(cx.stream.duration()), out)
    }),
    ("FILTER_CHAIN_NAME", |cx, out| {
        values::name(&cx.stream.connection.filter_chain, out)
    }),
    ("LOCAL_REPLY_BODY", |cx, out| {
        out.extend_from_slice(cx.local_reply_body);
        Kind::Text
    }),
    ("PACKETS_RETRANSMITTED", |_, out| values::number(0, out)),
    ("PROTOCOL", |cx, out| {
        values::protocol(Some(cx.stream.protocol), out)
    }),
    ("REQUEST_DURATION", |cx, out| {
        values::milliseconds(between(cx.stream, started, received_end), out)
    }),
    ("REQUEST_TX_DURATION", |cx, out| {
        values::milliseconds(between(cx.stream, started, upstream_sent_end), out)
    }),
    ("RESPONSE_CODE", |cx, out| {
        let code = cx
            .response_code
            .unwrap_or_else(|| cx.stream.response_code());
        values::number(code.into(), out)
    }),
    ("RESPONSE_DURATION", |cx, out| {
        values::milliseconds(between(cx.stream, started, upstream_received), out)
    }),
    ("RESPONSE_FLAGS", |cx, out| {
        values::display(&cx.stream.flags, out)
    }),
    ("RESPONSE_FLAGS_LONG", values::long_flags),
    ("RESPONSE_TX_DURATION", |cx, out| {
        values::milliseconds(between(cx.stream, upstream_received, sent_end), out)
    }),
    ("ROUNDTRIP_DURATION", values::absent),
    ("ROUTE_NAME", |cx, out| {
        values::name(
            cx.stream.route.as_ref().map_or("", |route| &route.name),
            out,
        )
    }),
    ("SPAN_ID", values::absent),
    ("TLS_JA3_FINGERPRINT", values::absent),
    ("TLS_JA4_FINGERPRINT", values::absent),
    ("TRACE_ID", values::absent),
    ("UNIQUE_ID", values::unique_id),
    ("UPSTREAM_CLUSTER", |cx, out| {
        values::text(cx.stream.upstream.as_ref().map(|up| &*up.cluster), out)
    }),
    ("UPSTREAM_CLUSTER_RAW", |cx, out| {
        values::text(cx.stream.upstream.as_ref().map(|up| &*up.cluster_raw), out)
    }),
    ("UPSTREAM_CONNECTION_ID", |cx, out| {
        values::number(connection_id(cx).unwrap_or(0), out)
    }),
    (
        "UPSTREAM_CONNECTION_IDS_ATTEMPTED",
        |cx, out| match connection_id(cx) {
            Some(id) => {
                values::number(id, out);
                Kind::Text
            }
            None => Kind::Absent,
        },
    ),
    ("UPSTREAM_CONNECTION_POOL_READY_DURATION", |cx, out| {
        values::milliseconds(
            cx.stream.upstream.as_ref().and_then(|up| up.pool_ready),
            out,
        )
    }),
    ("UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED", |cx, out| {
        values::number(upstream_bytes(cx, |up| up.header_received), out)
    }),
    ("UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT", |cx, out| {
        values::number(upstream_bytes(cx, |up| up.header_sent), out)
    }),
    ("UPSTREAM_HEADER_BYTES_RECEIVED", |cx, out| {
        values::number(upstream_bytes(cx, |up| up.header_received), out)
    }),
    ("UPSTREAM_HEADER_BYTES_SENT", |cx, out| {
        values::number(upstream_bytes(cx, |up| up.header_sent), out)
    }),
    ("UPSTREAM_HOST", |cx, out| {
        values::address(upstream_host(cx.stream), out)
    }),
    ("UPSTREAM_HOSTS_ATTEMPTED", |cx, out| {
        values::address(upstream_host(cx.stream), out)
    }),
    ("UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT", |cx, out| {
        values::host(upstream_host(cx.stream), None, out)
    }),
    ("UPSTREAM_HOST_NAME", values::upstream_host_name),
    ("UPSTREAM_HOST_NAMES_ATTEMPTED", values::upstream_host_name),
    (
        "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT",
        values::upstream_host_name_without_port,
    ),
    (
        "UPSTREAM_HOST_NAME_WITHOUT_PORT",
        values::upstream_host_name_without_port,
    ),
    ("UPSTREAM_LOCAL_ADDRESS", |cx, out| {
        values::address(upstream_local(cx.stream), out)
    }),
    ("UPSTREAM_LOCAL_DNS_SAN", values::absent),
    ("UPSTREAM_LOCAL_IP_SAN", values::absent),
    ("UPSTREAM_LOCAL_PORT", |cx, out| {
        values::port(upstream_local(cx.stream), out)
    }),
    ("UPSTREAM_LOCAL_URI_SAN", values::absent),
    ("UPSTREAM_PEER_CERT", values::absent),
    ("UPSTREAM_PEER_DNS_SAN", values::absent),
    ("UPSTREAM_PEER_IP_SAN", values::absent),
    ("UPSTREAM_PEER_ISSUER", values::absent),
    ("UPSTREAM_PEER_SUBJECT", values::absent),
    ("UPSTREAM_PEER_URI_SAN", values::absent),
    ("UPSTREAM_PROTOCOL", |cx, out| {
        values::protocol(cx.stream.upstream.as_ref().and_then(|up| up.protocol), out)
    }),
    ("UPSTREAM_REMOTE_ADDRESS", |cx, out| {
        values::address(upstream_remote(cx.stream), out)
    }),
    (
        "UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID",
        |cx, _| match upstream_remote(cx.stream) {
            Some(_) => Kind::Text,
            None => Kind::Absent,
        },
    ),
    ("UPSTREAM_REMOTE_PORT", |cx, out| {
        values::port(upstream_remote(cx.stream), out)
    }),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", |cx, out| {
        values::number(
            cx.stream
                .upstream
                .as_ref()
                .map_or(0, |up| up.attempts.into()),
            out,
        )
    }),
    ("UPSTREAM_SERVER_NAME", values::absent),
    ("UPSTREAM_TLS_CIPHER", values::absent),
    ("UPSTREAM_TLS_GROUP", values::absent),
    ("UPSTREAM_TLS_SESSION_ID", values::absent),
    ("UPSTREAM_TLS_VERSION", values::absent),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", |cx, out| {
        let upstream = cx.stream.upstream.as_ref();
        values::text(upstream.and_then(|up| up.transport_failure.as_deref()), out)
    }),
    ("UPSTREAM_WIRE_BYTES_RECEIVED", |cx, out| {
        values::number(upstream_bytes(cx, |up| up.wire_received), out)
    }),
    ("UPSTREAM_WIRE_BYTES_SENT", |cx, out| {
        values::number(upstream_bytes(cx, |up| up.wire_sent), out)
    }),
    ("VIRTUAL_CLUSTER_NAME", values::absent),
    ("ACCESS_LOG_TYPE", |_, out| {
        values::text(Some("DownstreamEnd"), out)
    }),
];

const PARAMETERIZED: &[(&str, Build)] = &[
    ("CLUSTER_METADATA", unsupported),
    ("COALESCE", coalesce),
    ("COMMON_DURATION", common_duration),
    ("CEL", unsupported),
    ("DOWNSTREAM_DETECTED_CLOSE_TYPE", unsupported),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT", |c| {
        host(c, local)
    }),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", |c| {
        host(c, direct_remote)
    }),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", |c| host(c, local)),
    ("DOWNSTREAM_LOCAL_CLOSE_REASON", unsupported),
    ("DOWNSTREAM_PEER_CERT_V_END", certificate_time),
    ("DOWNSTREAM_PEER_CERT_V_START", certificate_time),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", |c| {
        host(c, remote)
    }),
    ("DYNAMIC_METADATA", MetadataOperator::build_dynamic),
    ("EMIT_TIME", |c| time_format(c).map(Operator::EmitTime)),
    ("EMIT_TIME_LOCAL", unsupported),
    ("ENVIRONMENT", environment),
    ("FILTER_STATE", MetadataOperator::build_filter_state),
    ("GRPC_STATUS", GrpcStatus::build),
    ("GRPC_STATUS_NUMBER", GrpcStatus::build_number),
    ("HOSTNAME", hostname),
    ("METADATA", MetadataOperator::build_any),
    ("PATH", HeaderOperator::build_path),
    ("QUERY_PARAM", HeaderOperator::build_query_parameter),
    ("QUERY_PARAMS", HeaderOperator::build_query),
    ("REQ", HeaderOperator::build_request),
    ("REQUESTED_SERVER_NAME", HeaderOperator::build_server_name),
    ("REQUEST_HEADER", HeaderOperator::build_request),
    ("REQUEST_HEADERS_BYTES", unsupported),
    ("RESP", HeaderOperator::build_response),
    ("RESPONSE_CODE_DETAILS", response_code_details),
    ("RESPONSE_HEADER", HeaderOperator::build_response),
    ("RESPONSE_HEADERS_BYTES", unsupported),
    ("RESPONSE_TRAILER", HeaderOperator::build_trailer),
    ("RESPONSE_TRAILERS_BYTES", unsupported),
    ("START_TIME", |c| time_format(c).map(Operator::StartTime)),
    ("START_TIME_LOCAL", unsupported),
    ("STREAM_ID", HeaderOperator::build_stream_id),
    ("TRAILER", HeaderOperator::build_trailer),
    ("TYPED_CEL", unsupported),
    ("UPSTREAM_DETECTED_CLOSE_TYPE", unsupported),
    (
        "UPSTREAM_FILTER_STATE",
        MetadataOperator::build_filter_state,
    ),
    ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", |c| {
        host(c, upstream_local)
    }),
    ("UPSTREAM_LOCAL_CLOSE_REASON", unsupported),
    ("UPSTREAM_METADATA", unsupported),
    ("UPSTREAM_PEER_CERT_V_END", certificate_time),
    ("UPSTREAM_PEER_CERT_V_START", certificate_time),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", |c| {
        host(c, upstream_remote)
    }),
];

impl Operator {
    pub(crate) fn build(command: &Command<'_>) -> Result<Operator, String> {
        if let Some((_, simple)) = SIMPLE.iter().find(|(name, _)| *name == command.name) {
            command.takes_nothing()?;
            return Ok(Operator::Simple(*simple));
        }
        match PARAMETERIZED.iter().find(|(name, _)| *name == command.name) {
            Some((_, build)) => build(command),
            None => Err(format!(
                "Not supported field in StreamInfo: {}",
                command.name
            )),
        }
    }

    /// Appends the value for `context` to `out`; what was appended is left there even when it is absent.
    pub(crate) fn write(&self, context: &Context<'_>, out: &mut Vec<u8>) -> Kind {
        let stream = context.stream;
        match self {
            Operator::Simple(simple) => simple(context, out),
            Operator::Header(header) => header.write(stream, out),
            Operator::StartTime(format) => {
                format.write(stream.start_time, out);
                Kind::Text
            }
            Operator::EmitTime(format) => {
                format.write(SystemTime::now(), out);
                Kind::Text
            }
            Operator::Constant(text) => values::text(Some(text), out),
            Operator::GrpcStatus(status) => status.write(stream, out),
            Operator::Host(address, prefix) => values::host(address(stream), *prefix, out),
            Operator::CommonDuration(from, to, precision) => {
                values::difference(from(stream), to(stream), *precision, out)
            }
            Operator::ResponseCodeDetails { keep_whitespace } => {
                values::details(stream, *keep_whitespace, out)
            }
            Operator::Metadata(metadata) => metadata.write(stream, out),
            Operator::Coalesce(operators, max_length) => {
                let start = out.len();
                for operator in operators {
                    let kind = operator.write(context, out);
                    if kind != Kind::Absent && out.len() > start {
                        values::truncate(out, start, *max_length);
                        return Kind::Text;
                    }
                    out.truncate(start);
                }
                Kind::Absent
            }
        }
    }

    /// Adds the headers that this operator reads.
    pub(crate) fn capture(&self, captures: &mut Captures) {
        match self {
            Operator::Header(header) => header.capture(captures),
            Operator::GrpcStatus(_) => capture_grpc_status(captures),
            Operator::Coalesce(operators, _) => {
                for operator in operators {
                    operator.capture(captures);
                }
            }
            _ => {}
        }
    }
}

fn unsupported(command: &Command<'_>) -> Result<Operator, String> {
    Err(format!("the operator {} is not supported", command.name))
}

fn time_format(command: &Command<'_>) -> Result<TimeFormat, String> {
    command.takes_no_length()?;
    if command.param.is_empty() {
        return Ok(TimeFormat::default_format());
    }
    if command.param.contains("%n") || command.param.contains("%En") {
        return Err("Invalid header configuration. Format string contains newline.".to_owned());
    }
    Ok(TimeFormat::parse(command.param))
}

fn certificate_time(command: &Command<'_>) -> Result<Operator, String> {
    time_format(command).map(|_| Operator::Simple(values::absent))
}

fn environment(command: &Command<'_>) -> Result<Operator, String> {
    let name = command.required_param()?;
    let value = std::env::var(name).unwrap_or_else(|_| "-".to_owned());
    let mut end = command.max_length.unwrap_or(value.len()).min(value.len());
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    Ok(Operator::Constant(value[..end].into()))
}

fn hostname(command: &Command<'_>) -> Result<Operator, String> {
    command.takes_nothing()?;
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim_end();
    let name = if name.is_empty() { "-" } else { name };
    Ok(Operator::Constant(name.into()))
}

fn response_code_details(command: &Command<'_>) -> Result<Operator, String> {
    command.takes_no_length()?;
    Ok(Operator::ResponseCodeDetails {
        keep_whitespace: command.param == "ALLOW_WHITESPACES",
    })
}

/// A prefix length that is no number leaves the address as it is; one that is too long means all of it.
fn host(command: &Command<'_>, address: AddressOf) -> Result<Operator, String> {
    command.takes_no_length()?;
    let prefix = command.param.parse().ok();
    Ok(Operator::Host(address, prefix))
}

fn common_duration(command: &Command<'_>) -> Result<Operator, String> {
    let param = command.required_param()?;
    command.takes_no_length()?;
    let mut parts = param.split(':');
    let (Some(from), Some(to)) = (parts.next(), parts.next()) else {
        return Err(format!("Invalid common duration configuration: {param}."));
    };
    let precision = match parts.next() {
        None | Some("ms") => Precision::Milliseconds,
        Some("us") => Precision::Microseconds,
        Some("ns") => Precision::Nanoseconds,
        Some(other) => return Err(format!("Invalid common duration precision: {other}.")),
    };
    Ok(Operator::CommonDuration(
        point(from)?,
        point(to)?,
        precision,
    ))
}

fn point(name: &str) -> Result<Point, String> {
    Ok(match name {
        "DS_RX_BEG" => started,
        "DS_RX_END" => received_end,
        "US_TX_BEG" => |stream| stream.upstream.as_ref()?.traffic.first_sent,
        "US_TX_END" => upstream_sent_end,
        "US_RX_BEG" => upstream_received,
        "US_RX_END" => |stream| stream.upstream.as_ref()?.traffic.last_received,
        "DS_TX_BEG" => |stream| stream.traffic.first_sent,
        "DS_TX_END" => sent_end,
        "US_CX_BEG" | "US_CX_END" | "US_HS_END" | "US_RX_BODY_BEG" => {
            return Err(format!("the time point {name} is not supported"));
        }
        // A point that a filter may set; none does.
        _ => |_| None,
    })
}

fn coalesce(command: &Command<'_>) -> Result<Operator, String> {
    let config: serde_json::Value = serde_json::from_str(command.required_param()?)
        .map_err(|error| format!("COALESCE: failed to parse JSON configuration: {error}"))?;
    let operators = config
        .get("operators")
        .and_then(serde_json::Value::as_array)
        .ok_or("COALESCE: JSON configuration must contain 'operators' array")?;
    if operators.is_empty() {
        return Err("COALESCE: 'operators' array must not be empty".to_owned());
    }
    let mut built = Vec::with_capacity(operators.len());
    for (at, operator) in operators.iter().enumerate() {
        let operator = coalesced(operator).map_err(|error| {
            format!("COALESCE: failed to parse operator at index {at}: {error}")
        })?;
        built.push(operator);
    }
    Ok(Operator::Coalesce(built.into(), command.max_length))
}

fn coalesced(config: &serde_json::Value) -> Result<Operator, String> {
    let text = |key| config.get(key).and_then(serde_json::Value::as_str);
    let max_length = config
        .get("max_length")
        .and_then(serde_json::Value::as_u64)
        .and_then(|max| usize::try_from(max).ok());
    let name = match (config, text("command")) {
        (serde_json::Value::String(name), _) => name,
        (serde_json::Value::Object(_), Some(name)) => name,
        (serde_json::Value::Object(_), None) => {
            return Err("operator object must have 'command' field".to_owned());
        }
        _ => {
            return Err("operator entry must be either a string (command name) or an object with 'command' field".to_owned());
        }
    };
    let known = SIMPLE.iter().any(|(other, _)| *other == name)
        || PARAMETERIZED.iter().any(|(other, _)| *other == name);
    if !known {
        return Err(format!("unknown command: '{name}'"));
    }
    Operator::build(&Command {
        name,
        param: text("param").unwrap_or_default(),
        max_length,
    })
}

#[expect(clippy::unnecessary_wraps, reason = "an AddressOf")]
fn local(stream: &Stream) -> Option<&Address> {
    Some(&stream.connection.local)
}

#[expect(clippy::unnecessary_wraps, reason = "an AddressOf")]
fn remote(stream: &Stream) -> Option<&Address> {
    Some(&stream.remote_address)
}

#[expect(clippy::unnecessary_wraps, reason = "an AddressOf")]
fn direct_remote(stream: &Stream) -> Option<&Address> {
    Some(&stream.connection.remote)
}

fn upstream_host(stream: &Stream) -> Option<&Address> {
    stream.upstream.as_ref()?.host.as_ref()
}

fn upstream_local(stream: &Stream) -> Option<&Address> {
    stream.upstream.as_ref()?.local_address.as_ref()
}

/// The other end of the upstream connection, once there is one: the host's address.
fn upstream_remote(stream: &Stream) -> Option<&Address> {
    upstream_local(stream).and_then(|_| upstream_host(stream))
}

fn connection_id(context: &Context<'_>) -> Option<u64> {
    context.stream.upstream.as_ref()?.connection_id
}

fn upstream_bytes(context: &Context<'_>, bytes: impl Fn(&crate::Traffic) -> u64) -> u64 {
    context
        .stream
        .upstream
        .as_ref()
        .map_or(0, |up| bytes(&up.traffic))
}

#[expect(clippy::unnecessary_wraps, reason = "a Point")]
fn started(stream: &Stream) -> Option<Instant> {
    Some(stream.started)
}

fn received_end(stream: &Stream) -> Option<Instant> {
    stream.traffic.last_received
}

fn sent_end(stream: &Stream) -> Option<Instant> {
    stream.traffic.last_sent
}

fn upstream_sent_end(stream: &Stream) -> Option<Instant> {
    stream.upstream.as_ref()?.traffic.last_sent
}

fn upstream_received(stream: &Stream) -> Option<Instant> {
    stream.upstream.as_ref()?.traffic.first_received
}

fn between(stream: &Stream, from: Point, to: Point) -> Option<Duration> {
    Some(to(stream)?.saturating_duration_since(from(stream)?))
}

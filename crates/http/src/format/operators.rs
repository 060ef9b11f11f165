//! All command operators, by name.
//!
//! The operators without parameters are in the table [`SIMPLE`], the others in the table here. A name in neither table
//! is refused with Envoy's message.

use std::time::SystemTime;

use jiff::tz::TimeZone;

use crate::Captures;
use crate::Stream;
use crate::format::Context;
use crate::format::OutputKind;
use crate::format::command::FormatCommand;
use crate::format::filter_state::FilterStateOperator;
use crate::format::grpc_status::GrpcStatus;
use crate::format::grpc_status::capture_grpc_status;
use crate::format::headers::HeaderOperator;
use crate::format::metadata::MetadataOperator;
use crate::format::simple::SIMPLE;
use crate::format::simple::SimpleOperator;
use crate::format::stream_info;
use crate::format::stream_info::AddressOf;
use crate::format::stream_info::Point;
use crate::format::time::TimeFormat;
use crate::format::time::local_zone;
use crate::format::tls;
use crate::format::tls::TLS;
use crate::format::values;

/// A compiled operator.
#[derive(Clone, Debug)]
pub(crate) enum Operator {
    /// One of [`SIMPLE`].
    Simple(SimpleOperator),
    /// Prints a header, or a part of `:path` or `:authority`.
    Header(HeaderOperator),
    StartTime(TimeFormat),
    CertificateTime(TimeFormat, MomentOf),
    EmitTime(TimeFormat),
    /// The same text for every stream.
    Constant(Box<str>),
    GrpcStatus(GrpcStatus),
    /// An address without its port, or the network with this prefix length that contains it.
    Host(AddressOf, Option<u8>),
    CommonDuration(Point, Point, Precision),
    ResponseCodeDetails {
        keep_whitespace: bool,
    },
    Metadata(MetadataOperator),
    FilterState(FilterStateOperator),
    /// The first value that is neither absent nor empty, limited to this many bytes.
    Coalesce(Box<[Operator]>, Option<usize>),
}

type BuildOperator = fn(&FormatCommand<'_>) -> Result<Operator, String>;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Precision {
    Milliseconds,
    Microseconds,
    Nanoseconds,
}

const PARAMETERIZED: &[(&str, BuildOperator)] = &[
    ("CLUSTER_METADATA", unsupported),
    ("COALESCE", coalesce),
    ("COMMON_DURATION", common_duration),
    ("CEL", unsupported),
    ("DOWNSTREAM_DETECTED_CLOSE_TYPE", unsupported),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT", |c| {
        host(c, stream_info::direct_local)
    }),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", |c| {
        host(c, stream_info::direct_remote)
    }),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", |c| {
        host(c, stream_info::local)
    }),
    ("DOWNSTREAM_LOCAL_CLOSE_REASON", unsupported),
    ("DOWNSTREAM_PEER_CERT_V_END", |c| {
        certificate_time(c, |stream| tls::time(tls::peer(stream), true))
    }),
    ("DOWNSTREAM_PEER_CERT_V_START", |c| {
        certificate_time(c, |stream| tls::time(tls::peer(stream), false))
    }),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", |c| {
        host(c, stream_info::remote)
    }),
    ("DYNAMIC_METADATA", MetadataOperator::build_dynamic),
    ("EMIT_TIME", |c| utc_format(c).map(Operator::EmitTime)),
    ("EMIT_TIME_LOCAL", |c| {
        local_format(c).map(Operator::EmitTime)
    }),
    ("ENVIRONMENT", environment),
    ("FILTER_STATE", FilterStateOperator::build),
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
    ("START_TIME", |c| utc_format(c).map(Operator::StartTime)),
    ("START_TIME_LOCAL", |c| {
        local_format(c).map(Operator::StartTime)
    }),
    ("STREAM_ID", HeaderOperator::build_stream_id),
    ("TRAILER", HeaderOperator::build_trailer),
    ("TYPED_CEL", unsupported),
    ("UPSTREAM_DETECTED_CLOSE_TYPE", unsupported),
    ("UPSTREAM_FILTER_STATE", FilterStateOperator::build_upstream),
    ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", |c| {
        host(c, stream_info::upstream_local)
    }),
    ("UPSTREAM_LOCAL_CLOSE_REASON", unsupported),
    ("UPSTREAM_METADATA", unsupported),
    ("UPSTREAM_PEER_CERT_V_END", |c| {
        certificate_time(c, |stream| tls::time(tls::upstream_peer(stream), true))
    }),
    ("UPSTREAM_PEER_CERT_V_START", |c| {
        certificate_time(c, |stream| tls::time(tls::upstream_peer(stream), false))
    }),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", |c| {
        host(c, stream_info::upstream_remote)
    }),
];

impl Operator {
    pub(crate) fn build(command: &FormatCommand<'_>) -> Result<Operator, String> {
        let mut simple = SIMPLE.iter().chain(TLS);
        if let Some((_, simple)) = simple.find(|(name, _)| *name == command.name) {
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

    /// Appends the value for `context` to `out`. If the value is absent, the caller removes the bytes that were
    /// appended.
    pub(crate) fn write(&self, context: &Context<'_>, out: &mut Vec<u8>) -> OutputKind {
        let stream = context.stream;
        match self {
            Operator::Simple(simple) => simple(context, out),
            Operator::Header(header) => header.write(stream, out),
            Operator::StartTime(format) => {
                format.write(stream.start_time, out);
                OutputKind::Text
            }
            Operator::CertificateTime(format, moment) => match moment(stream) {
                Some(moment) => {
                    format.write(moment, out);
                    OutputKind::Text
                }
                None => OutputKind::Absent,
            },
            Operator::EmitTime(format) => {
                format.write(SystemTime::now(), out);
                OutputKind::Text
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
            Operator::FilterState(state) => state.write(stream, out),
            Operator::Coalesce(operators, max_length) => {
                let start = out.len();
                for operator in operators {
                    let kind = operator.write(context, out);
                    if kind != OutputKind::Absent && out.len() > start {
                        values::truncate(out, start, *max_length);
                        return OutputKind::Text;
                    }
                    out.truncate(start);
                }
                OutputKind::Absent
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

/// Every operator's name.
#[cfg(test)]
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    let simple = SIMPLE.iter().chain(TLS).map(|(name, _)| *name);
    simple.chain(PARAMETERIZED.iter().map(|(name, _)| *name))
}

fn unsupported(command: &FormatCommand<'_>) -> Result<Operator, String> {
    Err(format!("the operator {} is not supported", command.name))
}

fn utc_format(command: &FormatCommand<'_>) -> Result<TimeFormat, String> {
    time_format(command, TimeFormat::DEFAULT, TimeZone::UTC)
}

fn local_format(command: &FormatCommand<'_>) -> Result<TimeFormat, String> {
    time_format(command, TimeFormat::DEFAULT_LOCAL, local_zone())
}

fn time_format(
    command: &FormatCommand<'_>,
    default: &str,
    zone: TimeZone,
) -> Result<TimeFormat, String> {
    command.takes_no_length()?;
    if command.param.is_empty() {
        return Ok(TimeFormat::parse(default, zone));
    }
    if command.param.contains("%n") || command.param.contains("%En") {
        return Err("Invalid header configuration. Format string contains newline.".to_owned());
    }
    Ok(TimeFormat::parse(command.param, zone))
}

/// Reads a moment of a certificate.
type MomentOf = fn(&Stream) -> Option<SystemTime>;

fn certificate_time(command: &FormatCommand<'_>, moment: MomentOf) -> Result<Operator, String> {
    utc_format(command).map(|format| Operator::CertificateTime(format, moment))
}

fn environment(command: &FormatCommand<'_>) -> Result<Operator, String> {
    let name = command.required_param()?;
    let value = std::env::var(name).unwrap_or_else(|_| "-".to_owned());
    let mut end = command.max_length.unwrap_or(value.len()).min(value.len());
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    Ok(Operator::Constant(value[..end].into()))
}

fn hostname(command: &FormatCommand<'_>) -> Result<Operator, String> {
    command.takes_nothing()?;
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim_end();
    let name = if name.is_empty() { "-" } else { name };
    Ok(Operator::Constant(name.into()))
}

fn response_code_details(command: &FormatCommand<'_>) -> Result<Operator, String> {
    command.takes_no_length()?;
    Ok(Operator::ResponseCodeDetails {
        keep_whitespace: command.param == "ALLOW_WHITESPACES",
    })
}

/// An invalid prefix length prints the address unmasked; one that is too long masks nothing.
fn host(command: &FormatCommand<'_>, address: AddressOf) -> Result<Operator, String> {
    command.takes_no_length()?;
    let prefix = command.param.parse().ok();
    Ok(Operator::Host(address, prefix))
}

fn common_duration(command: &FormatCommand<'_>) -> Result<Operator, String> {
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
        "DS_RX_BEG" => stream_info::started,
        "DS_RX_END" => stream_info::received_end,
        "US_TX_BEG" => |stream| stream.upstream.as_ref()?.traffic.first_sent,
        "US_TX_END" => stream_info::upstream_sent_end,
        "US_RX_BEG" => stream_info::upstream_received,
        "US_RX_END" => |stream| stream.upstream.as_ref()?.traffic.last_received,
        "DS_TX_BEG" => |stream| stream.traffic.first_sent,
        "DS_TX_END" => stream_info::sent_end,
        "US_CX_BEG" | "US_CX_END" | "US_HS_END" | "US_RX_BODY_BEG" => {
            return Err(format!("the time point {name} is not supported"));
        }
        // In Envoy, filters can set other points; here none does, so they are absent.
        _ => |_| None,
    })
}

fn coalesce(command: &FormatCommand<'_>) -> Result<Operator, String> {
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
    let known = SIMPLE.iter().chain(TLS).any(|(other, _)| *other == name)
        || PARAMETERIZED.iter().any(|(other, _)| *other == name);
    if !known {
        return Err(format!("unknown command: '{name}'"));
    }
    Operator::build(&FormatCommand {
        name,
        param: text("param").unwrap_or_default(),
        max_length,
    })
}

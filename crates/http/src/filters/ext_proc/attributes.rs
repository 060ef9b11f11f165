//! The attributes of a stream that the processor gets (`request_attributes`, `response_attributes`).
//!
//! Envoy takes any CEL expression. Supported are the attributes by their names, and one header of the request.

use std::time::SystemTime;

use outrider_codec::header;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_net::Address;
use prost_types::Struct;
use prost_types::Timestamp;
use prost_types::Value;
use prost_types::value::Kind;

use crate::Stream;
use crate::filters::FilterCx;

type Evaluate = fn(&Stream, &FilterCx<'_>) -> Option<Kind>;

/// An attribute to send.
#[derive(Clone, Debug)]
pub(super) struct Attribute {
    /// As the configuration names it.
    name: String,
    source: AttributeSource,
}

#[derive(Clone, Debug)]
enum AttributeSource {
    Known(Evaluate),
    /// `request.headers["name"]`
    RequestHeader(String),
}

/// Checks the attributes found at `path`.
pub(super) fn build_attributes(
    names: &[String],
    path: &FieldPath,
) -> Result<Vec<Attribute>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let mut attributes = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let known = KNOWN.iter().find(|(known, _)| known == name);
        let source = match (known, header_name(name)) {
            (Some((_, evaluate)), _) => AttributeSource::Known(*evaluate),
            (None, Some(header)) => AttributeSource::RequestHeader(header.to_ascii_lowercase()),
            (None, None) => {
                let known: Vec<_> = KNOWN.iter().map(|(known, _)| *known).collect();
                let text = format!(
                    "not supported: the attribute {name:?}; expected one of: {}, or request.headers[\"<name>\"]",
                    known.join(", ")
                );
                errors.push(&path.index(index), text);
                continue;
            }
        };
        attributes.push(Attribute {
            name: name.clone(),
            source,
        });
    }
    errors.finish(attributes)
}

fn header_name(text: &str) -> Option<&str> {
    let quoted = text.strip_prefix("request.headers[")?.strip_suffix(']')?;
    let double = quoted
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    let single = || {
        quoted
            .strip_prefix('\'')
            .and_then(|text| text.strip_suffix('\''))
    };
    double
        .or_else(single)
        .filter(|name| !name.contains(['"', '\'', '\\']))
}

/// The values of `attributes`. An attribute that the stream does not have is left out.
pub(super) fn evaluate(attributes: &[Attribute], stream: &Stream, cx: &FilterCx<'_>) -> Struct {
    let values = attributes.iter().filter_map(|attribute| {
        let kind = match &attribute.source {
            AttributeSource::Known(evaluate) => evaluate(stream, cx),
            AttributeSource::RequestHeader(name) => {
                let value = stream.request.headers.get(name.as_str());
                value.map(|value| bytes(value.as_bytes()))
            }
        };
        Some((attribute.name.clone(), Value { kind: Some(kind?) }))
    });
    Struct {
        fields: values.collect(),
    }
}

fn bytes(value: &[u8]) -> Kind {
    Kind::StringValue(String::from_utf8_lossy(value).into_owned())
}

fn text(value: &str) -> Kind {
    Kind::StringValue(value.to_owned())
}

#[expect(clippy::cast_precision_loss, reason = "attributes are numbers of JSON")]
fn number(value: u64) -> Kind {
    Kind::NumberValue(value as f64)
}

fn address(address: &Address) -> Kind {
    Kind::StringValue(address.to_string())
}

fn port(address: &Address) -> Option<Kind> {
    address.ip().map(|ip| number(ip.port().into()))
}

fn request_header(stream: &Stream, name: &outrider_codec::HeaderName) -> Option<Kind> {
    let value = stream.request.headers.get(name)?;
    Some(bytes(value.as_bytes()))
}

/// The time of the request's start (RFC 3339), as CEL prints it.
fn time(at: SystemTime) -> Kind {
    let at = Timestamp::from(at);
    let text = at.to_string();
    Kind::StringValue(match text.strip_suffix('Z') {
        Some(utc) => format!("{utc}+00:00"),
        None => text,
    })
}

/// The attributes by name. See Envoy's list of attributes.
const KNOWN: &[(&str, Evaluate)] = &[
    ("request.path", |stream, _| {
        Some(text(stream.request.path.as_ref()?.as_str()))
    }),
    ("request.url_path", |stream, _| {
        Some(text(stream.request.path.as_ref()?.path()))
    }),
    ("request.query", |stream, _| {
        let query = stream.request.path.as_ref()?.query();
        Some(text(query.unwrap_or_default()))
    }),
    ("request.host", |stream, _| {
        Some(bytes(stream.request.authority()))
    }),
    ("request.scheme", |stream, _| {
        Some(text(stream.request.scheme()))
    }),
    ("request.method", |stream, _| {
        Some(text(stream.request.method.as_str()))
    }),
    ("request.referer", |stream, _| {
        request_header(stream, &header::REFERER)
    }),
    ("request.useragent", |stream, _| {
        request_header(stream, &header::USER_AGENT)
    }),
    ("request.id", |stream, _| {
        request_header(stream, &header::X_REQUEST_ID)
    }),
    ("request.time", |stream, _| Some(time(stream.start_time))),
    ("request.protocol", |stream, _| {
        Some(text(protocol(stream.protocol)))
    }),
    ("request.size", |stream, cx| {
        let length = stream.request.headers.get(&header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.as_str()?.parse().ok());
        Some(number(length.unwrap_or(cx.meter.body_bytes_received())))
    }),
    ("source.address", |stream, _| {
        Some(address(&stream.remote_address))
    }),
    ("source.port", |stream, _| port(&stream.remote_address)),
    ("destination.address", |stream, _| {
        Some(address(&stream.connection.local))
    }),
    ("destination.port", |stream, _| {
        port(&stream.connection.local)
    }),
    ("connection.id", |stream, _| {
        Some(number(stream.connection.id))
    }),
    ("connection.mtls", |stream, _| {
        let tls = stream.connection.tls.as_ref();
        let has_peer = tls.is_some_and(|tls| tls.peer.is_some());
        Some(Kind::BoolValue(has_peer))
    }),
    ("connection.requested_server_name", |stream, _| {
        let tls = stream.connection.tls.as_ref();
        let name = tls.map_or(&*stream.connection.server_name, |tls| &*tls.server_name);
        Some(text(name))
    }),
    ("xds.cluster_name", |stream, _| {
        Some(text(stream.cluster.as_ref()?.name()))
    }),
    ("xds.route_name", |stream, _| {
        Some(text(&stream.route.as_ref()?.name))
    }),
    ("xds.virtual_host_name", |stream, _| {
        Some(text(&stream.route.as_ref()?.virtual_host.name))
    }),
    ("xds.filter_chain_name", |stream, _| {
        Some(text(&stream.connection.filter_chain))
    }),
    ("response.code", |stream, _| {
        let response = stream.response.as_ref()?;
        Some(number(response.status.as_u16().into()))
    }),
    ("response.code_details", |stream, _| {
        Some(text(stream.details.as_deref()?))
    }),
    ("upstream.address", |stream, _| {
        let upstream = stream.upstream.as_ref()?;
        Some(address(upstream.host.as_ref()?))
    }),
    ("upstream.port", |stream, _| {
        port(stream.upstream.as_ref()?.host.as_ref()?)
    }),
    ("upstream.request_attempt_count", |stream, _| {
        Some(number(stream.upstream.as_ref()?.attempts.into()))
    }),
];

fn protocol(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_attributes_are_refused_by_name() {
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>()
        };
        let path = FieldPath::root();
        assert!(
            build_attributes(&names(&["request.path", "request.headers['x-a']"]), &path).is_ok()
        );
        for name in [
            "request.nothing",
            "1 + 1",
            "request.headers",
            "request.headers[\"a\" + 'b']",
        ] {
            let errors = build_attributes(&names(&[name]), &path).unwrap_err();
            assert!(errors.to_string().contains("not supported"), "{name}");
        }
    }
}

//! Operators that print headers, or parts of `:path` and `:authority`.

use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::header;

use crate::Captures;
use crate::Stream;
use crate::format::OutputKind;
use crate::format::command::FormatCommand;
use crate::format::operators::Operator;
use crate::format::tls;
use crate::format::values;
use outrider_matching::query_value;

/// The text to print, and how much of it is printed at most.
#[derive(Clone, Debug)]
pub(crate) struct HeaderOperator {
    source: HeaderSource,
    max_length: Option<usize>,
}

#[derive(Clone, Debug)]
enum HeaderSource {
    /// The first of these headers that the request has.
    Request(Box<[FormatHeaderName]>),
    /// The name that the TLS client asked for, or else these of the request.
    ServerName(Box<[FormatHeaderName]>),
    /// The request's id; of a TCP connection, a UUID of its random number.
    StreamId,
    Response(Box<[FormatHeaderName]>),
    Trailer(Box<[FormatHeaderName]>),
    /// One query parameter, decoded.
    QueryParameter(Box<str>),
    /// The whole query.
    Query {
        decoded: bool,
    },
    /// The first of these headers that the request has, as a path with or without its query.
    Path {
        names: Box<[FormatHeaderName]>,
        with_query: bool,
    },
}

/// A header's name. Pseudo-headers are not in the header map.
#[derive(Clone, Debug)]
enum FormatHeaderName {
    Method,
    Scheme,
    Authority,
    Path,
    Status,
    /// A pseudo-header that does not exist.
    Unknown,
    Header(HeaderName),
}

impl HeaderOperator {
    /// `%REQ(X?Y):Z%`.
    pub(crate) fn build_request(command: &FormatCommand<'_>) -> Result<Operator, String> {
        let names = names(command)?;
        Ok(HeaderOperator::of(
            HeaderSource::Request(names),
            command.max_length,
        ))
    }

    /// `%RESP(X?Y):Z%`.
    pub(crate) fn build_response(command: &FormatCommand<'_>) -> Result<Operator, String> {
        let names = names(command)?;
        Ok(HeaderOperator::of(
            HeaderSource::Response(names),
            command.max_length,
        ))
    }

    /// `%TRAILER(X?Y):Z%`.
    pub(crate) fn build_trailer(command: &FormatCommand<'_>) -> Result<Operator, String> {
        let names = names(command)?;
        Ok(HeaderOperator::of(
            HeaderSource::Trailer(names),
            command.max_length,
        ))
    }

    /// `%QUERY_PARAM(X):Z%`.
    pub(crate) fn build_query_parameter(command: &FormatCommand<'_>) -> Result<Operator, String> {
        let name = command.required_param()?;
        let source = HeaderSource::QueryParameter(name.into());
        Ok(HeaderOperator::of(source, command.max_length))
    }

    /// `%QUERY_PARAMS(X):Z%`.
    pub(crate) fn build_query(command: &FormatCommand<'_>) -> Result<Operator, String> {
        let decoded = match command.param {
            "" | "ORIG" => false,
            "DECODED" => true,
            other => {
                return Err(format!(
                    "Invalid QUERY_PARAMS option: '{other}', only 'ORIG'/'DECODED' are allowed"
                ));
            }
        };
        Ok(HeaderOperator::of(
            HeaderSource::Query { decoded },
            command.max_length,
        ))
    }

    /// `%PATH(X:Y):Z%`.
    pub(crate) fn build_path(command: &FormatCommand<'_>) -> Result<Operator, String> {
        let (query, source) = command.param.split_once(':').unwrap_or((command.param, ""));
        let with_query = match query {
            "" | "WQ" => true,
            "NQ" => false,
            other => {
                return Err(format!(
                    "Invalid PATH option: '{other}', only 'WQ'/'NQ' are allowed"
                ));
            }
        };
        let original = FormatHeaderName::Header(header::X_ENVOY_ORIGINAL_PATH.clone());
        let names: Box<[FormatHeaderName]> = match source {
            "ORIG" => [original].into(),
            "PATH" => [FormatHeaderName::Path].into(),
            "" | "ORIG_OR_PATH" => [original, FormatHeaderName::Path].into(),
            other => {
                return Err(format!(
                    "Invalid PATH option: '{other}', only 'ORIG'/'PATH'/'ORIG_OR_PATH' are allowed"
                ));
            }
        };
        Ok(HeaderOperator::of(
            HeaderSource::Path { names, with_query },
            command.max_length,
        ))
    }

    /// `%REQUESTED_SERVER_NAME(X:Y)%`: without a name from TLS, it may print the host.
    pub(crate) fn build_server_name(command: &FormatCommand<'_>) -> Result<Operator, String> {
        command.takes_no_length()?;
        let (kind, source) = command.param.split_once(':').unwrap_or((command.param, ""));
        let original = FormatHeaderName::Header(header::X_ENVOY_ORIGINAL_HOST.clone());
        let names: Box<[FormatHeaderName]> = match source {
            "ORIG" => [original].into(),
            "HOST" => [FormatHeaderName::Authority].into(),
            "" | "ORIG_OR_HOST" => [original, FormatHeaderName::Authority].into(),
            other => {
                return Err(format!(
                    "Invalid REQUESTED_SERVER_NAME option: '{other}', only 'ORIG_OR_HOST'/'HOST'/'ORIG' are allowed"
                ));
            }
        };
        match kind {
            "" | "SNI_ONLY" => Ok(Operator::Simple(tls::server_name)),
            "HOST_FIRST" => Ok(HeaderOperator::of(HeaderSource::Request(names), None)),
            "SNI_FIRST" => Ok(HeaderOperator::of(HeaderSource::ServerName(names), None)),
            other => Err(format!(
                "Invalid REQUESTED_SERVER_NAME option: '{other}', only 'SNI_ONLY'/'SNI_FIRST'/'HOST_FIRST' are allowed"
            )),
        }
    }

    /// `%STREAM_ID%`: the stream's id.
    pub(crate) fn build_stream_id(command: &FormatCommand<'_>) -> Result<Operator, String> {
        command.takes_nothing()?;
        Ok(HeaderOperator::of(HeaderSource::StreamId, None))
    }

    fn of(source: HeaderSource, max_length: Option<usize>) -> Operator {
        Operator::Header(HeaderOperator { source, max_length })
    }

    pub(crate) fn write(&self, stream: &Stream, out: &mut Vec<u8>) -> OutputKind {
        let start = out.len();
        let request =
            |names: &[FormatHeaderName]| names.iter().find_map(|name| name.of_request(stream));
        let value = match &self.source {
            HeaderSource::Request(names) => request(names),
            HeaderSource::ServerName(names) => {
                let name = &*stream.connection.server_name;
                if !name.is_empty() {
                    return values::text(Some(name), out);
                }
                request(names)
            }
            HeaderSource::StreamId if stream.is_http() => {
                let id = stream.request.headers.get(&header::X_REQUEST_ID);
                id.map(|id| id.as_bytes())
            }
            HeaderSource::StreamId => {
                let uuid = outrider_net::uuid(stream.id, stream.id.rotate_left(32));
                out.extend_from_slice(&uuid);
                return OutputKind::Text;
            }
            HeaderSource::Response(names) => names.iter().find_map(|name| name.of_response(stream)),
            HeaderSource::Trailer(names) => {
                let trailers = stream.response_trailers.as_ref();
                names.iter().find_map(|name| name.of_map(trailers?))
            }
            HeaderSource::QueryParameter(name) => {
                let query = stream.request.path.as_ref().and_then(|path| path.query());
                let Some(value) = query.and_then(|query| query_value(query, name)) else {
                    return OutputKind::Absent;
                };
                percent_decode(value.as_bytes(), out);
                values::truncate(out, start, self.max_length);
                return OutputKind::Text;
            }
            HeaderSource::Query { decoded } => {
                let query = stream.request.path.as_ref().and_then(|path| path.query());
                let Some(query) = query else {
                    return OutputKind::Absent;
                };
                if *decoded {
                    decode_legal(query.as_bytes(), out);
                } else {
                    out.extend_from_slice(query.as_bytes());
                }
                values::truncate(out, start, self.max_length);
                return OutputKind::Text;
            }
            HeaderSource::Path { names, with_query } => request(names).map(|path| {
                let end = memchr::memchr(b'?', path).filter(|_| !with_query);
                &path[..end.unwrap_or(path.len())]
            }),
        };
        let Some(value) = value else {
            return OutputKind::Absent;
        };
        out.extend_from_slice(value);
        values::truncate(out, start, self.max_length);
        OutputKind::Text
    }

    pub(crate) fn capture(&self, captures: &mut Captures) {
        let (names, capture) = match &self.source {
            HeaderSource::Response(names) => (names, &mut captures.response),
            HeaderSource::Trailer(names) => (names, &mut captures.trailers),
            HeaderSource::Request(_)
            | HeaderSource::ServerName(_)
            | HeaderSource::StreamId
            | HeaderSource::Path { .. }
            | HeaderSource::QueryParameter(_)
            | HeaderSource::Query { .. } => return,
        };
        for name in names {
            if let FormatHeaderName::Header(name) = name {
                capture.add(name);
            }
        }
    }
}

/// Parses `X?Y`.
fn names(command: &FormatCommand<'_>) -> Result<Box<[FormatHeaderName]>, String> {
    let param = command.required_param()?;
    let mut names = Vec::new();
    for name in param.split('?') {
        if names.len() == 2 {
            return Err(format!(
                "More than 1 alternative header specified in token: {param}"
            ));
        }
        names.push(name);
    }
    names
        .into_iter()
        .filter(|name| !name.is_empty())
        .map(FormatHeaderName::parse)
        .collect()
}

impl FormatHeaderName {
    fn parse(name: &str) -> Result<FormatHeaderName, String> {
        match name.to_ascii_lowercase().as_str() {
            ":method" => Ok(FormatHeaderName::Method),
            ":scheme" => Ok(FormatHeaderName::Scheme),
            ":authority" | "host" => Ok(FormatHeaderName::Authority),
            ":path" => Ok(FormatHeaderName::Path),
            ":status" => Ok(FormatHeaderName::Status),
            other if other.len() > 1 && other.starts_with(':') => Ok(FormatHeaderName::Unknown),
            other => other.parse().map(FormatHeaderName::Header).map_err(|_| {
                "Invalid header configuration. Format string contains invalid characters."
                    .to_owned()
            }),
        }
    }

    fn of_request<'s>(&self, stream: &'s Stream) -> Option<&'s [u8]> {
        let request = &stream.request;
        match self {
            FormatHeaderName::Method => {
                Some(request.method.as_str().as_bytes()).filter(|_| stream.is_http())
            }
            FormatHeaderName::Scheme => request
                .scheme
                .as_ref()
                .map(|scheme| scheme.as_str().as_bytes()),
            FormatHeaderName::Authority => {
                Some(request.authority()).filter(|host| !host.is_empty())
            }
            FormatHeaderName::Path => request.path.as_ref().map(|path| path.as_bytes()),
            FormatHeaderName::Status | FormatHeaderName::Unknown => None,
            FormatHeaderName::Header(name) => {
                request.headers.get(name).map(|value| value.as_bytes())
            }
        }
    }

    fn of_response<'s>(&self, stream: &'s Stream) -> Option<&'s [u8]> {
        let response = stream.response.as_ref()?;
        match self {
            FormatHeaderName::Status => Some(response.status.as_str().as_bytes()),
            other => other.of_map(&response.headers),
        }
    }

    fn of_map<'m>(&self, headers: &'m HeaderMap) -> Option<&'m [u8]> {
        match self {
            FormatHeaderName::Header(name) => headers.get(name).map(|value| value.as_bytes()),
            _ => None,
        }
    }
}

/// Appends a query as Envoy's `DECODED` prints it. `%XX` is decoded only if a URL may contain the character unescaped.
/// A `%` that does not begin an escape is left out, except at the end of the query.
fn decode_legal(query: &[u8], out: &mut Vec<u8>) {
    let mut rest = query;
    while let Some(at) = memchr::memchr(b'%', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        let Some(escape) = rest.get(..3) else { break };
        let mut byte = Vec::new();
        percent_decode(escape, &mut byte);
        match *byte {
            [byte]
                if byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte) =>
            {
                out.push(byte);
                rest = &rest[3..];
            }
            [_] => {
                out.extend_from_slice(escape);
                rest = &rest[3..];
            }
            _ => rest = &rest[1..],
        }
    }
    out.extend_from_slice(rest);
}

/// Appends `text` with each `%XX` decoded. A `%` that does not begin an escape stays.
pub(crate) fn percent_decode(text: &[u8], out: &mut Vec<u8>) {
    let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut at = 0;
    while at < text.len() {
        let decoded = match text[at] {
            b'%' => hex(text.get(at + 1)).zip(hex(text.get(at + 2))),
            _ => None,
        };
        match decoded.and_then(|(high, low)| u8::try_from(high << 4 | low).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
}

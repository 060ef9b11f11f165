//! Command operators such as `%START_TIME%`, in access logs, header values and bodies.
//!
//! A format is compiled when the configuration is loaded. Writing it appends to a buffer that the caller reuses. A new
//! operator is one entry in a table: in `simple` if it has no parameters, otherwise in `operators`.

mod attempted;
mod command;
mod filter_state;
mod grpc_status;
mod headers;
mod json;
mod metadata;
mod operators;
mod simple;
mod stream_info;
mod substitution;
mod time;
pub(crate) mod tls;
pub(crate) mod values;

#[cfg(test)]
mod tests;

use outrider_config::ConfigError;
use outrider_config::FieldPath;

use crate::Captures;
use crate::Stream;
use crate::format::command::FormatCommand;
pub(crate) use crate::format::grpc_status::capture_grpc_status;
pub(crate) use crate::format::grpc_status::grpc_status;
pub(crate) use crate::format::headers::percent_decode;
pub(crate) use crate::format::json::JsonFormatter;
pub(crate) use crate::format::metadata::write_json;
use crate::format::operators::Operator;
pub use crate::format::substitution::SubstitutionFormat;
pub(crate) use crate::format::tls::url_encoded_pem;
pub(crate) use crate::format::values::protocol_name;

/// The format of access logs whose configuration has none.
pub const DEFAULT_FORMAT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" ",
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" ",
    "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n"
);

/// The input of operators.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The request and its response.
    pub stream: &'a Stream,
    /// `%LOCAL_REPLY_BODY%`: the body of a local reply while it is being made.
    pub local_reply_body: &'a [u8],
    /// `%RESPONSE_CODE%`, if it is not the stream's: Envoy prints 0 while it makes a local reply.
    pub response_code: Option<u16>,
}

impl<'a> Context<'a> {
    /// The context for `stream`, outside of a local reply.
    #[must_use]
    pub fn new(stream: &'a Stream) -> Context<'a> {
        Context {
            stream,
            local_reply_body: b"",
            response_code: None,
        }
    }

    /// The context for `stream` while a local reply with `body` is made for it.
    #[must_use]
    pub fn local_reply(stream: &'a Stream, body: &'a [u8]) -> Context<'a> {
        Context {
            stream,
            local_reply_body: body,
            response_code: Some(0),
        }
    }

    /// The context for `stream`, whose response is complete but for its `body`.
    #[must_use]
    pub fn with_body(stream: &'a Stream, body: &'a [u8]) -> Context<'a> {
        Context {
            local_reply_body: body,
            ..Context::new(stream)
        }
    }
}

impl<'a> From<&'a Stream> for Context<'a> {
    fn from(stream: &'a Stream) -> Context<'a> {
        Context::new(stream)
    }
}

/// What kind of output an operator appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputKind {
    /// No value: `-` in a text, `null` in JSON.
    Absent,
    /// An empty text, but `null` in JSON: the port of an address without a port.
    Blank,
    /// Text, to be quoted in JSON.
    Text,
    /// A number or other text that is valid JSON as it is.
    Json,
}

/// A compiled text format.
#[derive(Clone, Debug)]
pub struct Formatter {
    parts: Box<[Part]>,
    /// The text for an absent value: `-`, or empty with `omit_empty_values`.
    absent: &'static str,
}

#[derive(Clone, Debug)]
enum Part {
    Literal(Box<str>),
    Operator(Operator),
}

impl Formatter {
    /// Compiles `format`, found at `path`; an absent value prints as `-`.
    ///
    /// # Errors
    /// If an operator is unknown, malformed or used wrongly; with Envoy's message.
    pub fn compile(format: &str, path: &FieldPath) -> Result<Formatter, ConfigError> {
        Formatter::parse(format, "-").map_err(|error| ConfigError::new(path, error))
    }

    /// Like [`Formatter::compile`], but an absent value prints nothing.
    ///
    /// # Errors
    /// As [`Formatter::compile`].
    pub fn compile_omitting(format: &str, path: &FieldPath) -> Result<Formatter, ConfigError> {
        Formatter::parse(format, "").map_err(|error| ConfigError::new(path, error))
    }

    fn parse(format: &str, absent: &'static str) -> Result<Formatter, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut at = 0;
        while let Some(next) = format[at..].chars().next() {
            if next != '%' {
                literal.push(next);
                at += next.len_utf8();
            } else if format[at + 1..].starts_with('%') {
                literal.push('%');
                at += 2;
            } else {
                let (command, length) = FormatCommand::parse(&format[at..]).ok_or_else(|| {
                    format!("Incorrect configuration: {format}. Couldn't find valid command at position {at}")
                })?;
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal).into()));
                }
                parts.push(Part::Operator(Operator::build(&command)?));
                at += length;
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        Ok(Formatter {
            parts: parts.into(),
            absent,
        })
    }

    /// Appends the format's text to `out`.
    pub fn write<'a>(&self, context: impl Into<Context<'a>>, out: &mut Vec<u8>) {
        let context = context.into();
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Part::Operator(operator) => {
                    if operator.write(&context, out) == OutputKind::Absent {
                        out.extend_from_slice(self.absent.as_bytes());
                    }
                }
            }
        }
    }

    /// Adds the headers that this format reads.
    pub fn capture(&self, captures: &mut Captures) {
        for part in &self.parts {
            if let Part::Operator(operator) = part {
                operator.capture(captures);
            }
        }
    }

    /// Whether the format consists of one part: an operator, or a text without one.
    pub(crate) fn is_single(&self) -> bool {
        self.parts.len() == 1
    }

    /// The text, if it is the same for every stream.
    pub(crate) fn constant(&self) -> Option<&str> {
        match &*self.parts {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The operator, if the format consists of it alone: JSON then keeps the type of its value.
    fn only_operator(&self) -> Option<&Operator> {
        match &*self.parts {
            [Part::Operator(operator)] => Some(operator),
            _ => None,
        }
    }
}

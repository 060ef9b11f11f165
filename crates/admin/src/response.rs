//! An answer of the admin server.

use std::fmt;

use serde_json::Value;

/// An answer, before it is sent.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: Box<dyn Iterator<Item = String>>,
    /// End the process once this is sent.
    pub(crate) quits: bool,
}

pub(crate) const TEXT: &str = "text/plain; charset=UTF-8";
/// Most errors of Envoy's `/config_dump`: it says twice not to sniff.
pub(crate) const TEXT_TWICE_UNSNIFFED: &str = "text/plain\r\nx-content-type-options: nosniff";
pub(crate) const HTML: &str = "text/html; charset=UTF-8";
pub(crate) const JSON: &str = "application/json";

impl Response {
    /// 200 with `text`.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::error(200, text)
    }

    /// `status` with `text`.
    pub(crate) fn error(status: u16, text: impl Into<String>) -> Self {
        Self::pieces(std::iter::once(text.into())).with_status(status)
    }

    /// `OK`, the answer of whatever only acts.
    pub(crate) fn done() -> Self {
        Self::text("OK\n")
    }

    /// 200 with `value`, indented as protobuf indents it.
    pub(crate) fn json(value: &Value) -> Self {
        let mut text = Vec::new();
        let indented = serde_json::ser::PrettyFormatter::with_indent(b" ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, indented);
        // Writing a value into memory cannot fail, and what serde_json writes is UTF-8.
        let written = serde::Serialize::serialize(value, &mut serializer);
        debug_assert!(written.is_ok());
        text.push(b'\n');
        Self::text(String::from_utf8(text).unwrap_or_default()).with_type(JSON)
    }

    /// 200 with text that is made as it is sent.
    pub(crate) fn pieces(body: impl Iterator<Item = String> + 'static) -> Self {
        Self {
            status: 200,
            content_type: TEXT,
            body: Box::new(body),
            quits: false,
        }
    }

    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn with_type(mut self, content_type: &'static str) -> Self {
        self.content_type = content_type;
        self
    }

    pub(crate) fn then_quit(mut self) -> Self {
        self.quits = true;
        self
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

//! A span while it is recorded, whichever tracer it is for.

use std::borrow::Cow;
use std::time::SystemTime;

/// The part of a span that travels with requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SpanContext {
    /// The upper 64 bits of the trace's id; zero if it has only 64.
    pub(crate) trace_high: u64,
    /// The lower 64 bits of the trace's id.
    pub(crate) trace: u64,
    pub(crate) id: u64,
    /// The id of the parent; zero if there is none.
    pub(crate) parent: u64,
    /// Whether the span is reported.
    pub(crate) sampled: bool,
    /// The vendors' part of a W3C context (`tracestate`).
    pub(crate) state: Box<str>,
}

/// Who the span is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpanKind {
    /// A request that the proxy serves.
    Server,
    /// A request that the proxy makes, or that it serves for outbound traffic.
    Client,
}

/// The format of the headers that carry the span on, if a tracer knows several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFormat {
    /// The tracer's own: `traceparent`, or the headers `x-b3-…`.
    Usual,
    /// The one header `b3`.
    SingleB3,
}

/// A span.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) context: SpanContext,
    pub(crate) name: String,
    pub(crate) kind: SpanKind,
    pub(crate) format: HeaderFormat,
    /// Whether the parent is in another process.
    pub(crate) has_remote_parent: bool,
    pub(crate) start: SystemTime,
    pub(crate) end: SystemTime,
    pub(crate) tags: Vec<Tag>,
    pub(crate) events: Vec<(SystemTime, &'static str)>,
}

/// The name and value of a tag.
pub(crate) type Tag = (Cow<'static, str>, Cow<'static, str>);

impl Span {
    /// A span that begins at `start`.
    pub(crate) fn new(
        context: SpanContext,
        name: String,
        kind: SpanKind,
        start: SystemTime,
    ) -> Span {
        Span {
            context,
            name,
            kind,
            format: HeaderFormat::Usual,
            has_remote_parent: false,
            start,
            end: start,
            tags: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Sets a tag. One of this name is replaced, where it stands.
    pub(crate) fn set_tag(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) {
        let (name, value) = (name.into(), value.into());
        match self.tags.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.tags.push((name, value)),
        }
    }

    /// The value of a tag.
    pub(crate) fn tag(&self, name: &str) -> Option<&str> {
        let found = self.tags.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| &**value)
    }
}

/// The number that at most 16 hex digits stand for; `None` if there are other characters, more of them, or none.
pub(super) fn parse_hex(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 16 {
        return None;
    }
    text.iter().try_fold(0, |number, byte| {
        let digit = char::from(*byte).to_digit(16)?;
        Some(number << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_that_is_set_again_keeps_its_place() {
        let context = SpanContext::default();
        let now = SystemTime::UNIX_EPOCH;
        let mut span = Span::new(context, String::new(), SpanKind::Server, now);
        span.set_tag("a", "1");
        span.set_tag("b", "2");
        span.set_tag("a", "3");
        assert_eq!(
            span.tags,
            [("a".into(), "3".into()), ("b".into(), "2".into())]
        );
        assert_eq!((span.tag("a"), span.tag("c")), (Some("3"), None));
    }

    #[test]
    fn hex_digits_are_parsed() {
        assert_eq!(parse_hex(b"b7ad6b7169203331"), Some(0xb7ad_6b71_6920_3331));
        assert_eq!(parse_hex(b"Ff"), Some(255));
        for wrong in ["", "g", "-1", "00112233445566778"] {
            assert_eq!(parse_hex(wrong.as_bytes()), None, "{wrong}");
        }
    }
}

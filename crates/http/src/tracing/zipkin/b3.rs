//! The B3 headers: `b3`, or `x-b3-traceid` and its like.

use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::header::X_B3_PARENTSPANID as PARENT_ID;
use outrider_codec::header::X_B3_SAMPLED as SAMPLED;
use outrider_codec::header::X_B3_SPANID as SPAN_ID;
use outrider_codec::header::X_B3_TRACEID as TRACE_ID;

use crate::tracing::span::HeaderFormat;
use crate::tracing::span::SpanContext;
use crate::tracing::span::parse_hex;
use crate::tracing::w3c::InvalidContext;

static B3: HeaderName = HeaderName::from_static("b3");

/// What the headers of a request say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct B3Context {
    /// The caller's span, with `sampled` as if the answer were yes.
    pub(super) span: Option<SpanContext>,
    /// Whether to report the trace, if the headers say it.
    pub(super) sampled: Option<bool>,
    /// The format that the caller uses.
    pub(super) format: HeaderFormat,
}

/// Reads the headers.
///
/// # Errors
/// If they are not valid.
pub(super) fn extract(headers: &HeaderMap) -> Result<B3Context, InvalidContext> {
    if let Some(single) = headers.get(&B3) {
        return parse_single(single.as_bytes());
    }
    let sampled = headers.get(&SAMPLED);
    let sampled = sampled.map(|value| matches!(value.as_bytes(), b"1" | b"true"));
    let found = headers.get(&TRACE_ID).zip(headers.get(&SPAN_ID));
    let span = match found {
        None => None,
        Some((trace, id)) => {
            let trace = trace_id(trace.as_bytes()).ok_or(InvalidContext)?;
            let parent = headers.get(&PARENT_ID).map(HeaderValue::as_bytes);
            let parent = parent.filter(|parent| !parent.is_empty());
            Some(SpanContext {
                trace_high: trace.0,
                trace: trace.1,
                id: parse_hex(id.as_bytes()).ok_or(InvalidContext)?,
                parent: match parent {
                    Some(parent) => parse_hex(parent).ok_or(InvalidContext)?,
                    None => 0,
                },
                sampled: true,
                ..SpanContext::default()
            })
        }
    };
    Ok(B3Context {
        span,
        sampled,
        format: HeaderFormat::Usual,
    })
}

/// The upper and the lower half of a trace's id.
fn trace_id(text: &[u8]) -> Option<(u64, u64)> {
    match text.len() {
        32 => {
            let (high, low) = text.split_at_checked(16)?;
            Some((parse_hex(high)?, parse_hex(low)?))
        }
        _ => Some((0, parse_hex(text)?)),
    }
}

/// `trace-span-sampled-parent`, of which the last two may be missing, or `sampled` alone.
fn parse_single(text: &[u8]) -> Result<B3Context, InvalidContext> {
    let mut context = B3Context {
        span: None,
        sampled: None,
        format: HeaderFormat::SingleB3,
    };
    if let [flag] = text {
        context.sampled = Some(parse_flag(*flag).ok_or(InvalidContext)?);
        return Ok(context);
    }
    let mut parts = text.split(|byte| *byte == b'-');
    let mut span = || {
        let trace = parts.next()?;
        let trace = Some(trace).filter(|trace| matches!(trace.len(), 16 | 32))?;
        let (trace_high, trace) = trace_id(trace)?;
        let id = parts.next().filter(|id| id.len() == 16)?;
        let sampled = match parts.next() {
            None => None,
            Some([flag]) => Some(parse_flag(*flag)?),
            Some(_) => return None,
        };
        let parent = match parts.next() {
            None => 0,
            Some(parent) => parse_hex(Some(parent).filter(|parent| parent.len() == 16)?)?,
        };
        let span = SpanContext {
            trace_high,
            trace,
            id: parse_hex(id)?,
            parent,
            sampled: true,
            ..SpanContext::default()
        };
        parts.next().is_none().then_some((span, sampled))
    };
    let (span, sampled) = span().ok_or(InvalidContext)?;
    context.span = Some(span);
    context.sampled = sampled;
    Ok(context)
}

/// `d` is for debugging; to a proxy it is a yes.
fn parse_flag(flag: u8) -> Option<bool> {
    match flag {
        b'0' => Some(false),
        b'1' | b'd' => Some(true),
        _ => None,
    }
}

/// Writes the headers.
pub(super) fn inject(context: &SpanContext, format: HeaderFormat, headers: &mut HeaderMap) {
    let trace = match context.trace_high {
        0 => format!("{:016x}", context.trace),
        high => format!("{high:016x}{:016x}", context.trace),
    };
    let id = format!("{:016x}", context.id);
    let parent = (context.parent != 0).then(|| format!("{:016x}", context.parent));
    let sampled = if context.sampled { "1" } else { "0" };
    let mut set = |name: &HeaderName, text: String| {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name.clone(), value);
        }
    };
    if format == HeaderFormat::SingleB3 {
        let parent = parent.map_or(String::new(), |parent| format!("-{parent}"));
        return set(&B3, format!("{trace}-{id}-{sampled}{parent}"));
    }
    set(&TRACE_ID, trace);
    set(&SPAN_ID, id);
    if let Some(parent) = parent {
        set(&PARENT_ID, parent);
    }
    set(&SAMPLED, sampled.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single(text: &str) -> Result<B3Context, InvalidContext> {
        let value = HeaderValue::try_from(text).unwrap();
        extract(&HeaderMap::from_iter([(B3.clone(), value)]))
    }

    #[test]
    fn one_header_has_all() {
        let text = "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90";
        let context = single(text).unwrap();
        assert_eq!(context.sampled, Some(true));
        let mut headers = HeaderMap::new();
        inject(&context.span.unwrap(), context.format, &mut headers);
        assert_eq!(headers["b3"], text);
        let short = single("64fe8b2a57d3eff7-e457b5a2e4d86bd1").unwrap();
        assert_eq!(short.sampled, None);
        assert_eq!(short.span.unwrap().parent, 0);
        for (text, sampled) in [("0", false), ("1", true), ("d", true)] {
            let context = single(text).unwrap();
            assert_eq!((context.span, context.sampled), (None, Some(sampled)));
        }
    }

    #[test]
    fn broken_headers_are_refused() {
        for wrong in [
            "",
            "x",
            "what",
            "64fe8b2a57d3eff7",
            "64fe8b2a57d3eff7-e457b5a2e4d86bd1-",
            "64fe8b2a57d3eff7-e457b5a2e4d86bd1-x",
            "64fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3",
            "64fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90-1",
            "64fe8b2a57d3eff7-e457b5a2e4d86bdg",
        ] {
            assert_eq!(single(wrong), Err(InvalidContext), "{wrong}");
        }
    }

    #[test]
    fn several_headers_have_all() {
        let header =
            |name: &HeaderName, text: &'static str| (name.clone(), HeaderValue::from_static(text));
        let headers = HeaderMap::from_iter([
            header(&TRACE_ID, "463ac35c9f6413ad48485a3953bb6124"),
            header(&SPAN_ID, "a2fb4a1d1a96d312"),
            header(&PARENT_ID, "0020000000000001"),
            header(&SAMPLED, "1"),
        ]);
        let context = extract(&headers).unwrap();
        let mut sent = HeaderMap::new();
        inject(&context.span.unwrap(), context.format, &mut sent);
        let shown = |headers: &HeaderMap| {
            let fields = headers.iter();
            let fields = fields.map(|(name, value)| format!("{name}: {}", value.as_str().unwrap()));
            fields.collect::<Vec<_>>()
        };
        assert_eq!(shown(&sent), shown(&headers));
    }
}

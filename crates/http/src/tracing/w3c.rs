//! The headers of W3C Trace Context: `traceparent` and `tracestate`.

use outrider_codec::HeaderMap;
use outrider_codec::HeaderValue;
use outrider_codec::header;

use super::span::SpanContext;
use super::span::parse_hex;

/// The context in these headers: its `id` is the caller's span. `None` if they have none.
///
/// # Errors
/// If they have one that is not valid.
pub(super) fn extract(headers: &HeaderMap) -> Result<Option<SpanContext>, InvalidContext> {
    let Some(parent) = headers.get(&header::TRACEPARENT) else {
        return Ok(None);
    };
    let mut context = parse(parent.as_bytes()).ok_or(InvalidContext)?;
    let states = headers.get_all(&header::TRACESTATE);
    let states = states.map(|state| String::from_utf8_lossy(state.as_bytes()));
    context.state = states.collect::<Vec<_>>().join(",").into();
    Ok(Some(context))
}

/// A context that is not valid: the request is not traced, and its headers are passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidContext;

fn parse(text: &[u8]) -> Option<SpanContext> {
    const LENGTH: usize = 55;
    if text.len() != LENGTH {
        return None;
    }
    let mut parts = text.split(|byte| *byte == b'-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let (id, flags) = (parts.next()?, parts.next()?);
    if parts.next().is_some()
        || (version.len(), trace.len(), id.len(), flags.len()) != (2, 32, 16, 2)
    {
        return None;
    }
    let (high, low) = trace.split_at_checked(16)?;
    parse_hex(version)?;
    let context = SpanContext {
        trace_high: parse_hex(high)?,
        trace: parse_hex(low)?,
        id: parse_hex(id)?,
        sampled: parse_hex(flags)? & 1 == 1,
        ..SpanContext::default()
    };
    let is_zero = (context.trace_high | context.trace) == 0 || context.id == 0;
    (!is_zero).then_some(context)
}

/// Writes `traceparent`.
pub(super) fn inject_parent(context: &SpanContext, headers: &mut HeaderMap) {
    let (high, low, id) = (context.trace_high, context.trace, context.id);
    let sampled = u8::from(context.sampled);
    let text = format!("00-{high:016x}{low:016x}-{id:016x}-{sampled:02x}");
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(&header::TRACEPARENT, value);
    }
}

/// Writes `tracestate`.
pub(super) fn inject_state(context: &SpanContext, headers: &mut HeaderMap) {
    if let Ok(value) = HeaderValue::try_from(&*context.state) {
        headers.insert(&header::TRACESTATE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_context_survives() {
        let mut headers = HeaderMap::new();
        headers.append(&header::TRACEPARENT, HeaderValue::from_static(PARENT));
        headers.append(&header::TRACESTATE, HeaderValue::from_static("a=b"));
        headers.append(&header::TRACESTATE, HeaderValue::from_static("c=d"));
        let context = extract(&headers).unwrap().unwrap();
        assert_eq!(context.id, 0xb7ad_6b71_6920_3331);
        assert!(context.sampled);
        let mut sent = HeaderMap::new();
        inject_parent(&context, &mut sent);
        inject_state(&context, &mut sent);
        assert_eq!(sent["traceparent"], PARENT);
        assert_eq!(sent["tracestate"], "a=b,c=d");
    }

    #[test]
    fn broken_contexts_are_refused() {
        for wrong in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "000-af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            let mut headers = HeaderMap::new();
            headers.append(&header::TRACEPARENT, HeaderValue::try_from(wrong).unwrap());
            assert_eq!(extract(&headers), Err(InvalidContext), "{wrong}");
        }
        assert_eq!(extract(&HeaderMap::new()), Ok(None));
    }
}

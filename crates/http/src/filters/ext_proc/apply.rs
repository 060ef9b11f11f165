//! Applies what the processor asks for to heads, trailers and bodies.

use bytes::Bytes;
use http::Method;
use http::StatusCode;
use http::uri::Scheme;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::RequestHead;
use outrider_codec::ResponseHead;
use outrider_codec::Target;
use outrider_config::api::envoy::config::core::v3::HeaderValueOption;
use outrider_config::api::envoy::service::ext_proc::v3::BodyMutation;
use outrider_config::api::envoy::service::ext_proc::v3::HeaderMutation;
use outrider_config::api::envoy::service::ext_proc::v3::ImmediateResponse;
use outrider_config::api::envoy::service::ext_proc::v3::body_mutation::Mutation;

use crate::filters::HeaderLimits;
use crate::filters::mutation_rules::MutationDecision;
use crate::filters::mutation_rules::MutationRules;
use crate::local_reply::LocalReply;

use super::stats::ExtProcStats;

/// Headers that can be changed: those of a request, a response, or trailers.
pub(super) enum Headers<'a> {
    Request(&'a mut RequestHead),
    Response(&'a mut ResponseHead),
    Trailers(&'a mut HeaderMap),
}

/// How headers may be changed.
#[derive(Clone, Copy)]
pub(super) struct MutationCx<'a> {
    pub(super) rules: &'a MutationRules,
    pub(super) limits: HeaderLimits,
    pub(super) stats: &'a ExtProcStats,
    /// Whether the whole message is replaced: then its method may change, too.
    pub(super) replaces: bool,
    /// Whether the length of the body is not known yet, so that it cannot be set.
    pub(super) loses_length: bool,
}

/// Why a mutation is not possible, as the details of the reply say it.
pub(super) type Rejected = String;

impl Headers<'_> {
    fn map(&mut self) -> &mut HeaderMap {
        match self {
            Headers::Request(head) => &mut head.headers,
            Headers::Response(head) => &mut head.headers,
            Headers::Trailers(trailers) => trailers,
        }
    }

    fn has(&mut self, name: &str) -> bool {
        name.starts_with(':') || self.map().contains_key(name)
    }

    /// Sets or adds a header. A value that a pseudo-header cannot have is ignored.
    fn set(&mut self, name: &str, value: HeaderValue, append: bool) {
        let text = || value.as_str();
        match (name, &mut *self) {
            (":path", Headers::Request(head)) => {
                if let Some(path) = text().and_then(|path| Target::try_from(path).ok()) {
                    head.path = Some(path);
                }
            }
            (":authority" | "host", Headers::Request(head)) => head.authority = Some(value),
            (":method", Headers::Request(head)) => {
                if let Ok(method) = Method::from_bytes(value.as_bytes()) {
                    head.method = method;
                }
            }
            (":scheme", Headers::Request(head)) => {
                if let Ok(scheme) = Scheme::try_from(value.as_bytes()) {
                    head.scheme = Some(scheme);
                }
            }
            (":status", Headers::Response(head)) => {
                let status = StatusCode::from_bytes(value.as_bytes()).ok();
                if let Some(status) = status.filter(|status| status.as_u16() >= 200) {
                    head.status = status;
                }
            }
            _ if name.starts_with(':') => {}
            _ => {
                let Ok(name) = HeaderName::try_from(name) else {
                    return;
                };
                match append {
                    true => self.map().append(name, value),
                    false => self.map().insert(name, value),
                }
            }
        }
    }
}

/// Applies `mutation` to `headers`.
///
/// # Errors
/// If it is not valid or not allowed. The changes before the invalid one stay.
pub(super) fn mutate(
    mutation: &HeaderMutation,
    headers: &mut Headers<'_>,
    cx: &MutationCx<'_>,
) -> Result<(), Rejected> {
    let reject = |text: String| {
        cx.stats.rejected_header_mutations.inc();
        Err(text)
    };
    let (removed, set) = (mutation.remove_headers.len(), mutation.set_headers.len());
    if removed > cx.limits.count || set > cx.limits.count {
        return reject("header_mutation_operation_count_exceeds_limit".to_owned());
    }
    for name in &mutation.remove_headers {
        if !is_name(name) {
            return reject("header_mutation_remove_contains_invalid_character".to_owned());
        }
        let name = name.to_ascii_lowercase();
        match cx.rules.check(&name, true) {
            MutationDecision::Allowed => drop(headers.map().remove(name.as_str())),
            MutationDecision::Ignored => cx.stats.rejected_header_mutations.inc(),
            MutationDecision::Refused => {
                return reject("header_mutation_remove_headers_failed".to_owned());
            }
        }
    }
    for option in &mutation.set_headers {
        set_header(option, headers, cx)?;
    }
    let map = headers.map();
    let bytes: usize = map
        .iter()
        .map(|(name, value)| name.as_str().len() + value.as_bytes().len())
        .sum();
    if map.len() > cx.limits.count || bytes > cx.limits.bytes {
        return reject("header_mutation_result_exceeds_limit".to_owned());
    }
    Ok(())
}

/// `append`. As in Envoy, `append_action` has no effect.
#[expect(deprecated, reason = "it is the field that Envoy obeys here")]
fn appends(option: &HeaderValueOption) -> bool {
    option.append.unwrap_or_default()
}

fn set_header(
    option: &HeaderValueOption,
    headers: &mut Headers<'_>,
    cx: &MutationCx<'_>,
) -> Result<(), Rejected> {
    let reject = |text: String| {
        cx.stats.rejected_header_mutations.inc();
        Err(text)
    };
    let Some(header) = &option.header else {
        return Ok(());
    };
    if cx.loses_length && header.key.eq_ignore_ascii_case("content-length") {
        return Ok(());
    }
    // As in Envoy, `value` is not read.
    let value = HeaderValue::from_bytes(&header.raw_value);
    let Some(value) = value.ok().filter(|_| is_name(&header.key)) else {
        return reject("header_mutation_set_contains_invalid_character".to_owned());
    };
    let name = header.key.to_ascii_lowercase();
    let append = appends(option);
    let is_system = name.starts_with(':') || name == "host";
    let mut decision = cx.rules.check(&name, false);
    if append && is_system && headers.has(&name) {
        decision = MutationDecision::Ignored;
    }
    if cx.replaces && name == ":method" {
        decision = MutationDecision::Allowed;
    }
    match decision {
        MutationDecision::Allowed => headers.set(&name, value, append),
        MutationDecision::Ignored => cx.stats.rejected_header_mutations.inc(),
        MutationDecision::Refused => {
            return reject("header_mutation_set_headers_failed".to_owned());
        }
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    let rest = name.strip_prefix(':').unwrap_or(name);
    HeaderName::try_from(rest.to_ascii_lowercase().as_str()).is_ok()
}

/// The bytes after `mutation`; `None` if it leaves them as they are.
pub(super) fn mutated(mutation: Option<BodyMutation>) -> Option<Bytes> {
    match mutation?.mutation? {
        Mutation::Body(body) => Some(body.into()),
        Mutation::ClearBody(true) => Some(Bytes::new()),
        Mutation::ClearBody(false) | Mutation::StreamedResponse(_) => None,
    }
}

/// The reply to the client that the processor has made.
pub(super) fn immediate(response: ImmediateResponse, cx: &MutationCx<'_>) -> LocalReply {
    let code = response.status.map_or(200, |status| status.code);
    let code = u16::try_from(code).ok().filter(|code| *code >= 200);
    let status = code.and_then(|code| StatusCode::from_u16(code).ok());
    let mut head = ResponseHead {
        status: status.unwrap_or(StatusCode::OK),
        ..ResponseHead::default()
    };
    if let Some(mutation) = &response.headers
        && let Err(text) = mutate(mutation, &mut Headers::Response(&mut head), cx)
    {
        log::warn!(target: "ext_proc", "the headers of an immediate response are not valid: {text}");
    }
    let mut reply = LocalReply::new(head.status, details(&response.details)).body(response.body);
    reply.grpc_status = response
        .grpc_status
        .and_then(|status| u8::try_from(status.status).ok());
    // A header may be there several times.
    reply.keeps_route_headers = true;
    let headers = head.headers.iter();
    reply.headers = headers
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    reply
}

/// Text for `%RESPONSE_CODE_DETAILS%`, which has no spaces.
pub(super) fn details(text: &str) -> String {
    text.replace(|letter: char| letter.is_ascii_whitespace(), "_")
}

#[cfg(test)]
mod tests {
    use outrider_config::api::envoy::config::core::v3::HeaderValue as HeaderMessage;

    use super::*;

    fn option(name: &str, value: &str, append: bool) -> HeaderValueOption {
        let header = HeaderMessage {
            key: name.to_owned(),
            raw_value: value.into(),
            ..HeaderMessage::default()
        };
        #[expect(deprecated, reason = "it is the field that is obeyed")]
        HeaderValueOption {
            header: Some(header),
            append: Some(append),
            ..HeaderValueOption::default()
        }
    }

    fn applied(set: Vec<HeaderValueOption>, remove: &[&str]) -> Result<Vec<String>, Rejected> {
        let stats = ExtProcStats::default();
        let cx = MutationCx {
            rules: &MutationRules::default(),
            limits: HeaderLimits {
                count: 3,
                bytes: 100,
            },
            stats: &stats,
            replaces: false,
            loses_length: true,
        };
        let mutation = HeaderMutation {
            set_headers: set,
            remove_headers: remove.iter().map(|&name| name.to_owned()).collect(),
        };
        let mut trailers = HeaderMap::from_iter([(
            HeaderName::from_static("x-old"),
            HeaderValue::from_static("old"),
        )]);
        mutate(&mutation, &mut Headers::Trailers(&mut trailers), &cx)?;
        let shown = trailers.iter();
        Ok(shown
            .map(|(name, value)| format!("{name}: {}", value.as_str().unwrap()))
            .collect())
    }

    #[test]
    fn headers_are_set_added_and_removed() {
        let set = vec![
            option("X-New", "1", false),
            option("x-new", "2", true),
            option("content-length", "7", false),
            option("host", "ignored", false),
        ];
        assert_eq!(
            applied(set[..3].to_vec(), &["X-Old"]).unwrap(),
            ["x-new: 1", "x-new: 2"]
        );
        assert!(applied(set, &[]).unwrap_err().contains("operation_count"));
    }

    #[test]
    fn invalid_and_too_large_mutations_are_refused() {
        let refused = |set, remove: &[&str]| applied(set, remove).unwrap_err();
        let text = refused(vec![option("a b", "1", false)], &[]);
        assert_eq!(text, "header_mutation_set_contains_invalid_character");
        let text = refused(vec![option("x", "a\nb", false)], &[]);
        assert_eq!(text, "header_mutation_set_contains_invalid_character");
        let text = refused(Vec::new(), &["a b"]);
        assert_eq!(text, "header_mutation_remove_contains_invalid_character");
        let text = refused(vec![option("x", &"y".repeat(200), false)], &[]);
        assert_eq!(text, "header_mutation_result_exceeds_limit");
    }

    #[test]
    fn details_have_no_spaces() {
        assert_eq!(details("a b\tc"), "a_b_c");
    }
}

//! Adds the proxy to `cdn-loop`, and refuses requests that have passed it too often
//! (`envoy.filters.http.cdn_loop`; RFC 8586).

use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use outrider_codec::Body;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::http::cdn_loop::v3::CdnLoopConfig as Message;
use outrider_config::unpack;
use prost_types::Any;

use super::FilterBuildCx;
use super::FilterCx;
use super::FilterFactory;
use super::FilterStatus;
use super::FilterWorkerCx;
use super::HttpFilter;
use super::HttpFilterConfig;
use crate::Stream;
use crate::local_reply::LocalReply;

pub(super) const FACTORY: FilterFactory = FilterFactory {
    message: "envoy.extensions.filters.http.cdn_loop.v3.CdnLoopConfig",
    build,
    routes: None,
};

const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

fn build(
    config: &Any,
    path: &FieldPath,
    _: &FilterBuildCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors> {
    let message: Message = unpack(config, path)?;
    let id = message.cdn_id;
    let mut rest = id.as_bytes();
    let is_whole = cdn_id(&mut rest).is_some() && rest.is_empty();
    let value = HeaderValue::try_from(id.clone());
    match (is_whole, value) {
        (true, Ok(value)) => Ok(Arc::new(CdnLoop {
            id: value,
            max: message.max_allowed_occurrences,
        })),
        _ => {
            let text = format!("Provided cdn_id \"{id}\" is not a valid CDN identifier");
            let error = ConfigError::new(&path.field("cdn_id"), text);
            Err(ConfigErrors::from(error))
        }
    }
}

#[derive(Debug)]
struct CdnLoop {
    id: HeaderValue,
    /// `max_allowed_occurrences`
    max: u32,
}

impl HttpFilterConfig for CdnLoop {
    fn worker(self: Arc<Self>, _: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter> {
        Rc::new(CdnLoopFilter { config: self })
    }
}

/// The filter on one worker.
#[derive(Debug)]
struct CdnLoopFilter {
    config: Arc<CdnLoop>,
}

impl HttpFilter for CdnLoopFilter {
    fn on_request(&self, stream: &mut Stream, _: &mut Body, _: &FilterCx<'_>) -> FilterStatus {
        let CdnLoop { id, max } = &*self.config;
        let headers = &mut stream.request.headers;
        let name = CDN_LOOP;
        let lists: Vec<_> = headers.get_all(&name).map(|v| v.as_bytes()).collect();
        let list = lists.join(&b',');
        match occurrences(&list, id.as_bytes()) {
            None => FilterStatus::Reply(
                LocalReply::new(StatusCode::BAD_REQUEST, "invalid_cdn_loop_header")
                    .body("Invalid CDN-Loop header in request."),
            ),
            Some(count) if count > *max as usize => FilterStatus::Reply(
                LocalReply::new(StatusCode::BAD_GATEWAY, "cdn_loop_detected")
                    .body("The server has detected a loop between CDNs."),
            ),
            Some(_) => {
                let all = match list.is_empty() {
                    true => Ok(id.clone()),
                    false => HeaderValue::from_bytes(&[&list, id.as_bytes()].join(&b',')),
                };
                if let Ok(all) = all {
                    headers.insert(name, all);
                }
                FilterStatus::Continue
            }
        }
    }
}

/// How often a list of CDNs has this one; `None` if it is no such list.
fn occurrences(list: &[u8], id: &[u8]) -> Option<usize> {
    let mut rest = list;
    let mut count = 0;
    loop {
        skip_spaces(&mut rest);
        let Some(&first) = rest.first() else {
            return Some(count);
        };
        if first != b',' {
            count += usize::from(cdn_id(&mut rest)? == id);
            skip_spaces(&mut rest);
            while skip(&mut rest, b';') {
                skip_spaces(&mut rest);
                parameter(&mut rest)?;
                skip_spaces(&mut rest);
            }
        }
        if !skip(&mut rest, b',') && !rest.is_empty() {
            return None;
        }
    }
}

/// A token or an IPv6 address, with a port or without.
fn cdn_id<'l>(rest: &mut &'l [u8]) -> Option<&'l [u8]> {
    let all = *rest;
    if skip(rest, b'[') {
        take_while(rest, |byte| {
            byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')
        });
        skip(rest, b']').then_some(())?;
    } else {
        token(rest)?;
    }
    if skip(rest, b':') {
        take_while(rest, |byte| byte.is_ascii_digit());
    }
    all.get(..all.len() - rest.len())
}

/// `token = (token / quoted-string)`
fn parameter(rest: &mut &[u8]) -> Option<()> {
    token(rest)?;
    skip(rest, b'=').then_some(())?;
    match skip(rest, b'"') {
        true => quoted_end(rest),
        false => token(rest),
    }
}

/// The rest of a quoted string (RFC 9110 §5.6.4).
fn quoted_end(rest: &mut &[u8]) -> Option<()> {
    loop {
        let (&first, after) = rest.split_first()?;
        *rest = after;
        match first {
            b'"' => return Some(()),
            b'\\' => {
                let (&escaped, after) = rest.split_first()?;
                (matches!(escaped, b'\t' | b' ') || escaped > b' ' && escaped != 0x7f)
                    .then_some(())?;
                *rest = after;
            }
            b'\t' | b' '..=0x7e | 0x80.. => {}
            _ => return None,
        }
    }
}

fn token(rest: &mut &[u8]) -> Option<()> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_!#$%&'*+.^`|~".contains(&byte);
    (take_while(rest, is_token) > 0).then_some(())
}

fn skip_spaces(rest: &mut &[u8]) {
    take_while(rest, |byte| matches!(byte, b' ' | b'\t'));
}

fn skip(rest: &mut &[u8], byte: u8) -> bool {
    let after = rest.strip_prefix(&[byte]);
    *rest = after.unwrap_or(rest);
    after.is_some()
}

/// Takes the bytes of a kind off the start, and returns how many.
fn take_while(rest: &mut &[u8], is_wanted: impl Fn(u8) -> bool) -> usize {
    let end = rest.iter().position(|byte| !is_wanted(*byte));
    let (taken, after) = rest.split_at(end.unwrap_or(rest.len()));
    *rest = after;
    taken.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_in_lists_and_refuses_what_is_none() {
        for (list, expected) in [
            ("", Some(0)),
            (" , ,", Some(0)),
            ("me", Some(1)),
            ("me,you, me ; v=1 ;q=\"a,\\\"me\",[::1]:80,me:", Some(2)),
            ("me;v", None),
            ("me;v=", None),
            ("me;v=\"open", None),
            ("me you", None),
            ("[::1", None),
            ("@", None),
        ] {
            assert_eq!(occurrences(list.as_bytes(), b"me"), expected, "{list}");
        }
    }
}

//! Follows a redirect of the upstream inside the proxy: the request starts again, as a stream of its own, with the URL of
//! the response's `location`.

use std::borrow::Cow;
use std::rc::Rc;

use http::Method;
use http::StatusCode;
use http::uri::Scheme;
use outrider_codec::Body;
use outrider_codec::HeaderValue;
use outrider_codec::RequestHead;
use outrider_codec::ResponseHead;
use outrider_codec::Target;
use outrider_codec::header;
use outrider_stats::Counter;
use outrider_stats::http::RouterStats;

use crate::ManagerStats;
use crate::Stream;
use crate::route::InternalRedirectPolicy;
use crate::route::RedirectPredicate;
use crate::route::RequestView;
use crate::route::Route;
use crate::router::attempt::UpstreamAttempt;
use crate::router::replay::ReplayBuffer;

/// What is known of the redirects of one request, across its streams.
#[derive(Clone, Debug, Default)]
pub(crate) struct FollowedRedirects {
    count: u32,
    /// The routes that the predicate `previous_routes` has seen, each with the route that redirected to it.
    previous: Vec<(String, String)>,
    /// The bytes of the body that were read again. To Envoy, the next stream receives them once more.
    pub(crate) bytes_replayed: u64,
}

/// The body of a request that starts again.
#[derive(Debug)]
pub(crate) struct RedirectedBody {
    pub(crate) body: Body,
    /// Its length.
    pub(crate) bytes: u64,
}

/// An absolute URL, as far as a request needs it.
#[derive(Debug, PartialEq, Eq)]
struct AbsoluteUrl<'a> {
    scheme: &'a str,
    /// The host, with the port if there is one.
    authority: &'a str,
    /// The path and the query, without the fragment. May be empty.
    path: &'a str,
}

/// Why a redirect is left to the client.
enum NotFollowed {
    BadLocation,
    UnsafeScheme,
    TooMany,
    NoRoute,
    Predicate,
}

impl InternalRedirectPolicy {
    /// Turns the request of `stream` into the one that the response `head` redirects to, and returns its body. Leaves it
    /// if there is no redirect, or none that may be followed.
    pub(super) fn follow(
        &self,
        (attempt, buffer): (&UpstreamAttempt<'_>, &ReplayBuffer),
        head: &ResponseHead,
        stream: &mut Stream,
        stats: &ManagerStats,
    ) -> Option<RedirectedBody> {
        if !self.statuses.contains(&head.status.as_u16()) {
            return None;
        }
        let call = attempt.call();
        let counts = call.cluster.stats();
        // As in Envoy, a request is redirected only if all of it has arrived and could be kept.
        let redirected = (buffer.whole())
            .filter(|_| head.headers.contains_key(&header::LOCATION))
            .map(|bytes| Ok((bytes, self.target(stream, call.route, head)?)));
        match redirected {
            Some(Ok((bytes, request))) => {
                counts.upstream_internal_redirect_succeeded_total.inc();
                let keeps_body = request.method == stream.request.method;
                stream.request = request;
                stream.redirects.get_or_insert_default().count += 1;
                stream.details = Some(Cow::Borrowed("internal_redirect"));
                Some(match keeps_body {
                    true => RedirectedBody {
                        body: buffer.body(),
                        bytes: bytes as u64,
                    },
                    false => RedirectedBody {
                        body: Body::Empty,
                        bytes: 0,
                    },
                })
            }
            not_followed => {
                if let Some(Err(reason)) = not_followed {
                    NotFollowed::counter(&reason, &stats.router).inc();
                }
                counts.upstream_internal_redirect_failed_total.inc();
                None
            }
        }
    }

    /// The request that the response redirects to.
    fn target(
        &self,
        stream: &mut Stream,
        route: &Route,
        head: &ResponseHead,
    ) -> Result<RequestHead, NotFollowed> {
        let location = head.headers.get(&header::LOCATION);
        let location = location.and_then(HeaderValue::as_str);
        let url = location.and_then(AbsoluteUrl::parse);
        let url = url.ok_or(NotFollowed::BadLocation)?;
        let is_http = stream.request.scheme() == "http";
        let to_http = url.scheme.eq_ignore_ascii_case("http");
        if is_http != to_http && !self.allows_other_scheme {
            return Err(NotFollowed::UnsafeScheme);
        }
        let count = stream.redirects.as_ref().map_or(0, |one| one.count);
        if count >= self.max {
            return Err(NotFollowed::TooMany);
        }
        let mut request = self.request(stream, &url, head)?;
        let routes = stream.routes.as_ref();
        let view = RequestView {
            head: &request,
            ..RequestView::of(stream)
        };
        let target = routes.and_then(|routes| routes.table().find(&view).cloned());
        stream.route.clone_from(&target);
        let Some(target) = target else {
            // As in Envoy, whose logs then show neither a route nor a cluster.
            if let Some(upstream) = &mut stream.upstream {
                (upstream.cluster, upstream.cluster_raw) = (Rc::from(""), Rc::from(""));
            }
            return Err(NotFollowed::NoRoute);
        };
        let schemes = (is_http, to_http);
        let followed = stream.redirects.get_or_insert_default();
        let mut predicates = self.predicates.iter();
        let accept = |one: &RedirectPredicate| {
            one.accepts(&target.name, &route.name, schemes, &mut *followed)
        };
        if !predicates.all(accept) {
            return Err(NotFollowed::Predicate);
        }
        let is_other = request.method != Method::GET && request.method != Method::HEAD;
        if head.status == StatusCode::SEE_OTHER && is_other {
            request.method = Method::GET;
            request.headers.remove(&header::CONTENT_LENGTH);
        }
        Ok(request)
    }

    /// The request of `stream` with the URL of the redirect and the headers to copy.
    fn request(
        &self,
        stream: &Stream,
        url: &AbsoluteUrl<'_>,
        head: &ResponseHead,
    ) -> Result<RequestHead, NotFollowed> {
        let before = &stream.request;
        let mut request = before.clone();
        for name in &self.copied_headers {
            request.headers.remove(name);
            for value in head.headers.get_all(name) {
                request.headers.append(name, value.clone());
            }
        }
        let path = match url.path {
            "" => "/".to_owned(),
            path if path.starts_with('/') => path.to_owned(),
            query => format!("/{query}"),
        };
        let bad = |_| NotFollowed::BadLocation;
        request.path = Some(Target::try_from(path).map_err(|_| NotFollowed::BadLocation)?);
        request.authority = Some(HeaderValue::try_from(url.authority).map_err(bad)?);
        let scheme = url.scheme.to_ascii_lowercase();
        request.scheme = Some(Scheme::try_from(&*scheme).map_err(|_| NotFollowed::BadLocation)?);
        let mut original = Vec::from(before.scheme());
        original.extend_from_slice(b"://");
        original.extend_from_slice(before.authority());
        original.extend_from_slice(before.path.as_ref().map_or(b"", |path| path.as_bytes()));
        if let Ok(original) = HeaderValue::from_bytes(&original) {
            let headers = &mut request.headers;
            headers.insert(&header::X_ENVOY_ORIGINAL_URL, original);
        }
        Ok(request)
    }
}

impl RedirectPredicate {
    fn accepts(
        &self,
        target: &str,
        current: &str,
        (is_http, to_http): (bool, bool),
        followed: &mut FollowedRedirects,
    ) -> bool {
        match self {
            RedirectPredicate::AllowListedRoutes(names) => names.iter().any(|name| name == target),
            RedirectPredicate::SafeCrossScheme => !is_http || to_http,
            RedirectPredicate::PreviousRoutes => {
                let seen = &mut followed.previous;
                let is_new = !seen
                    .iter()
                    .any(|(to, from)| to == target && from == current);
                if is_new {
                    seen.push((target.to_owned(), current.to_owned()));
                }
                is_new
            }
        }
    }
}

impl NotFollowed {
    fn counter<'s>(&self, stats: &'s RouterStats) -> &'s Counter {
        match self {
            NotFollowed::BadLocation => &stats.passthrough_internal_redirect_bad_location,
            NotFollowed::UnsafeScheme => &stats.passthrough_internal_redirect_unsafe_scheme,
            NotFollowed::TooMany => &stats.passthrough_internal_redirect_too_many_redirects,
            NotFollowed::NoRoute => &stats.passthrough_internal_redirect_no_route,
            NotFollowed::Predicate => &stats.passthrough_internal_redirect_predicate,
        }
    }
}

impl<'a> AbsoluteUrl<'a> {
    fn parse(text: &'a str) -> Option<AbsoluteUrl<'a>> {
        let (scheme, rest) = text.split_once("://")?;
        let is_scheme = !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphabetic());
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end)?;
        let authority = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                port.parse::<u16>().ok()?;
                host
            }
            _ => authority,
        };
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:%".contains(&byte);
        let is_valid = is_scheme
            && !host.is_empty()
            && host.bytes().all(is_host)
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        let path = path.split('#').next()?;
        is_valid.then_some(AbsoluteUrl {
            scheme,
            authority,
            path,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_urls_only() {
        let parts = |text| {
            let url = AbsoluteUrl::parse(text)?;
            Some((url.scheme, url.authority, url.path))
        };
        for (text, expected) in [
            ("http://a/b?c#d", Some(("http", "a", "/b?c"))),
            ("HTTPS://a.b:81", Some(("HTTPS", "a.b:81", ""))),
            ("http://[::1]:8/?x", Some(("http", "[::1]:8", "/?x"))),
            ("http://[::1]", Some(("http", "[::1]", ""))),
            ("http://u:p@a?x", Some(("http", "a", "?x"))),
            ("http://a:b/", None),
            ("http://a:65536/", None),
            ("http:///b", None),
            ("http://a b/", None),
            ("://a/", None),
            ("/b", None),
            ("", None),
        ] {
            assert_eq!(parts(text), expected, "{text}");
        }
    }
}

//! `RedirectAction`: redirects a request to another `location`.

use http::StatusCode;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::route::v3::RedirectAction;
use outrider_config::api::envoy::config::route::v3::redirect_action::PathRewriteSpecifier;
use outrider_config::api::envoy::config::route::v3::redirect_action::RedirectResponseCode;
use outrider_config::api::envoy::config::route::v3::redirect_action::SchemeRewriteSpecifier;

use crate::RequestHead;
use crate::Stream;
use crate::format::Formatter;
use crate::route::rewrite::PathRewrite;
use crate::route::rewrite::Substitution;
use crate::route::rewrite::set_path;
use crate::route::route_match::PathMatch;

/// Answers with a redirect.
#[derive(Debug)]
pub struct Redirect {
    /// The status, 301 by default.
    pub status: StatusCode,
    target: RedirectTarget,
}

#[derive(Debug)]
enum RedirectTarget {
    /// The same address with https, for `VirtualHost.require_tls`.
    Https,
    Changed {
        scheme: Option<Box<str>>,
        host: Box<str>,
        port: u32,
        path: Option<RedirectPath>,
        strip_query: bool,
    },
}

#[derive(Debug)]
enum RedirectPath {
    /// `path_redirect`, and whether it has a query, which then replaces the request's query.
    Fixed {
        path: Box<str>,
        has_query: bool,
    },
    Rewritten(PathRewrite),
}

impl Redirect {
    /// Redirects to the same address with https.
    pub(crate) fn to_https() -> Redirect {
        Redirect {
            status: StatusCode::MOVED_PERMANENTLY,
            target: RedirectTarget::Https,
        }
    }

    pub(crate) fn build(
        config: &RedirectAction,
        matched: &PathMatch,
        path: &FieldPath,
    ) -> Result<Redirect, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let scheme = match &config.scheme_rewrite_specifier {
            Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
            Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) if !scheme.is_empty() => {
                Some(scheme.as_str().into())
            }
            _ => None,
        };
        let new_path = errors.collect(RedirectPath::build(config, matched, path));
        errors.finish(Redirect {
            status: match config.response_code() {
                RedirectResponseCode::MovedPermanently => StatusCode::MOVED_PERMANENTLY,
                RedirectResponseCode::Found => StatusCode::FOUND,
                RedirectResponseCode::SeeOther => StatusCode::SEE_OTHER,
                RedirectResponseCode::TemporaryRedirect => StatusCode::TEMPORARY_REDIRECT,
                RedirectResponseCode::PermanentRedirect => StatusCode::PERMANENT_REDIRECT,
            },
            target: RedirectTarget::Changed {
                scheme,
                host: config.host_redirect.as_str().into(),
                port: config.port_redirect,
                path: new_path.flatten(),
                strip_query: config.strip_query,
            },
        })
    }

    /// The `location` for `stream`'s request. If the path is rewritten for it, the request gets the new path, which the
    /// access log then shows. `keep_original`: writes the old path into `x-envoy-original-path`.
    #[must_use]
    pub fn apply(&self, stream: &mut Stream, keep_original: bool) -> String {
        let rewritten = match &self.target {
            RedirectTarget::Changed {
                path: Some(RedirectPath::Rewritten(rewrite)),
                ..
            } => rewrite.apply(stream),
            _ => None,
        };
        let location = self.location(&stream.request, rewritten.as_deref());
        if let Some(path) = rewritten {
            set_path(&mut stream.request, path, keep_original);
        }
        location
    }

    /// `rewritten`: the request's path after a rewrite.
    fn location(&self, head: &RequestHead, rewritten: Option<&str>) -> String {
        let RedirectTarget::Changed {
            scheme,
            host,
            port,
            path,
            strip_query,
        } = &self.target
        else {
            return format!("https://{}{}", authority(head), head.path());
        };
        let old_scheme = head.scheme();
        let scheme = scheme.as_deref().unwrap_or(old_scheme);
        let port = match port {
            0 => String::new(),
            port => format!(":{port}"),
        };
        let host = if host.is_empty() {
            let drops_port = !port.is_empty() || scheme != old_scheme;
            without_port(
                authority(head),
                drops_port,
                port.is_empty().then_some(old_scheme),
            )
        } else {
            host
        };
        let mut location = format!("{scheme}://{host}{port}");
        let start = location.len();
        let keeps_query = push_path(&mut location, head, path.as_ref(), rewritten);
        if *strip_query
            && !keeps_query
            && let Some(at) = location[start..].find('?')
        {
            location.truncate(start + at);
        }
        location
    }
}

/// Appends the new path. Returns whether it has a query of its own, which `strip_query` does not remove.
fn push_path(
    location: &mut String,
    head: &RequestHead,
    path: Option<&RedirectPath>,
    rewritten: Option<&str>,
) -> bool {
    if let Some(RedirectPath::Fixed { path, has_query }) = path {
        location.push_str(path);
        if !has_query {
            let old = head.path();
            location.push_str(&old[old.find('?').unwrap_or(old.len())..]);
        }
        return *has_query;
    }
    location.push_str(rewritten.unwrap_or_else(|| head.path()));
    false
}

fn authority(head: &RequestHead) -> &str {
    head.host()
}

/// `host` without its port, if `drop` is set. With `default_of`, only the default port of that scheme is dropped.
fn without_port<'h>(host: &'h str, drop: bool, default_of: Option<&str>) -> &'h str {
    let split = if host.starts_with('[') {
        host.rfind("]:").map(|at| at + 1)
    } else {
        host.rfind(':')
    };
    let Some(at) = split.filter(|_| drop) else {
        return host;
    };
    let dropped = match default_of {
        None => true,
        Some("https") => &host[at..] == ":443",
        Some("http") => &host[at..] == ":80",
        Some(_) => false,
    };
    if dropped { &host[..at] } else { host }
}

impl RedirectPath {
    fn build(
        config: &RedirectAction,
        matched: &PathMatch,
        path: &FieldPath,
    ) -> Result<Option<RedirectPath>, ConfigErrors> {
        Ok(match &config.path_rewrite_specifier {
            None => None,
            Some(PathRewriteSpecifier::PathRedirect(to)) if to.is_empty() => None,
            Some(PathRewriteSpecifier::PathRedirect(to)) => {
                let slash = if to.starts_with('/') { "" } else { "/" };
                Some(RedirectPath::Fixed {
                    path: format!("{slash}{to}").into(),
                    has_query: to.contains('?'),
                })
            }
            Some(PathRewriteSpecifier::PrefixRewrite(with)) if with.is_empty() => None,
            Some(PathRewriteSpecifier::PrefixRewrite(with)) => {
                Some(RedirectPath::Rewritten(PathRewrite::Prefix {
                    matched: matched.clone(),
                    with: with.as_str().into(),
                }))
            }
            Some(PathRewriteSpecifier::RegexRewrite(regex)) => {
                let substitution = Substitution::build(regex, &path.field("regex_rewrite"))?;
                Some(RedirectPath::Rewritten(PathRewrite::Regex(substitution)))
            }
            Some(PathRewriteSpecifier::PathRewrite(format)) => {
                let format = Formatter::compile_omitting(format, &path.field("path_rewrite"))?;
                Some(RedirectPath::Rewritten(PathRewrite::Format(format)))
            }
        })
    }
}

#[cfg(test)]
mod tests;

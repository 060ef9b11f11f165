//! `RouteMatch`: whether a route matches a request.

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::route::v3 as api;
use outrider_net::TlsInfo;
use outrider_runtime::RuntimeFraction;

use crate::RequestHead;
use crate::grpc;
use crate::route::RequestView;
use outrider_config::re2::FullRegex;
use outrider_matching::CookieMatcher;
use outrider_matching::FilterStateMatcher;
use outrider_matching::HeaderMatcher;
use outrider_matching::MetadataMatcher;
use outrider_matching::QueryMatcher;

/// A built `RouteMatch`. All of its conditions must be met.
#[derive(Debug)]
pub(crate) struct RouteMatch {
    pub(crate) path: PathMatch,
    conditions: Option<Box<RouteConditions>>,
}

/// The condition on the path without its query.
#[derive(Clone, Debug)]
pub(crate) enum PathMatch {
    /// `prefix`.
    Prefix(Box<str>),
    /// `path`.
    Exact(Box<str>),
    /// `path_separated_prefix`: ends at a `/` or where the path ends.
    SeparatedPrefix(Box<str>),
    /// `safe_regex`: matches the whole path.
    Regex(FullRegex),
    /// `connect_matcher`: matches CONNECT requests with any path.
    Connect,
    /// One of the texts above with `case_sensitive: false`; the text is lower case.
    IgnoreCase(Box<PathMatch>),
}

/// The other conditions of a route.
#[derive(Debug, Default)]
struct RouteConditions {
    fraction: Option<RuntimeFraction>,
    grpc: bool,
    /// `tls_context`: whether the client presents a certificate, and whether it was checked.
    presents: Option<bool>,
    validated: Option<bool>,
    headers: Vec<HeaderMatcher>,
    query: Vec<QueryMatcher>,
    cookies: Vec<CookieMatcher>,
    dynamic_metadata: Vec<MetadataMatcher>,
    filter_state: Vec<FilterStateMatcher>,
}

impl RouteMatch {
    pub(crate) fn build(
        config: &api::RouteMatch,
        path: &FieldPath,
    ) -> Result<RouteMatch, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let path_match = errors.collect(build_path(config, path));
        let conditions = build_conditions(config, path, &mut errors);
        let route_match = RouteMatch {
            path: path_match.unwrap_or(PathMatch::Connect),
            conditions,
        };
        errors.finish(route_match)
    }

    /// Whether the route matches `request`, whose path without query and parameters is `path`.
    pub(crate) fn matches(&self, request: &RequestView<'_>, path: &str) -> bool {
        self.path.matches(request.head, path) && self.conditions_hold(request)
    }

    /// Whether all conditions other than the path are met.
    pub(crate) fn conditions_hold(&self, request: &RequestView<'_>) -> bool {
        self.conditions
            .as_ref()
            .is_none_or(|conditions| conditions.hold(request))
    }
}

fn build_path(config: &api::RouteMatch, path: &FieldPath) -> Result<PathMatch, ConfigErrors> {
    use api::route_match::PathSpecifier;
    let case_sensitive = config.case_sensitive.unwrap_or(true);
    let text = |text: &str| -> Box<str> {
        if case_sensitive {
            text.into()
        } else {
            text.to_ascii_lowercase().into()
        }
    };
    let path_match = match &config.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => PathMatch::Prefix(text(prefix)),
        Some(PathSpecifier::Path(exact)) => PathMatch::Exact(text(exact)),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            PathMatch::SeparatedPrefix(text(prefix))
        }
        // `case_sensitive` does not apply to regular expressions.
        Some(PathSpecifier::SafeRegex(regex)) => {
            let regex = FullRegex::build(regex, &path.field("safe_regex"))?;
            return Ok(PathMatch::Regex(regex));
        }
        Some(PathSpecifier::ConnectMatcher(_)) => return Ok(PathMatch::Connect),
        Some(PathSpecifier::PathMatchPolicy(_)) => {
            let mut errors = ConfigErrors::new();
            errors.push(
                &path.field("path_match_policy"),
                "path match policies are not supported",
            );
            return Err(errors);
        }
        None => {
            let mut errors = ConfigErrors::new();
            errors.push(path, "a path specifier is required");
            return Err(errors);
        }
    };
    Ok(if case_sensitive {
        path_match
    } else {
        PathMatch::IgnoreCase(Box::new(path_match))
    })
}

fn build_conditions(
    config: &api::RouteMatch,
    path: &FieldPath,
    errors: &mut ConfigErrors,
) -> Option<Box<RouteConditions>> {
    let mut conditions = RouteConditions {
        grpc: config.grpc.is_some(),
        presents: config.tls_context.and_then(|tls| tls.presented),
        validated: config.tls_context.and_then(|tls| tls.validated),
        fraction: config.runtime_fraction.as_ref().map(RuntimeFraction::of),
        ..RouteConditions::default()
    };
    conditions.headers = header_matchers(&config.headers, &path.field("headers"), errors);
    for (at, parameter) in config.query_parameters.iter().enumerate() {
        let path = path.field("query_parameters").index(at);
        conditions
            .query
            .extend(errors.collect(QueryMatcher::build(parameter, &path)));
    }
    for (at, cookie) in config.cookies.iter().enumerate() {
        let path = path.field("cookies").index(at);
        conditions
            .cookies
            .extend(errors.collect(CookieMatcher::build(cookie, &path)));
    }
    for (at, matcher) in config.dynamic_metadata.iter().enumerate() {
        let path = path.field("dynamic_metadata").index(at);
        conditions
            .dynamic_metadata
            .extend(errors.collect(MetadataMatcher::build(matcher, &path)));
    }
    for (at, matcher) in config.filter_state.iter().enumerate() {
        let path = path.field("filter_state").index(at);
        conditions
            .filter_state
            .extend(errors.collect(FilterStateMatcher::build(matcher, &path)));
    }
    conditions.is_some().then(|| Box::new(conditions))
}

/// Builds a list of header matchers, all of which must match.
pub(crate) fn header_matchers(
    config: &[api::HeaderMatcher],
    path: &FieldPath,
    errors: &mut ConfigErrors,
) -> Vec<HeaderMatcher> {
    let mut matchers = Vec::with_capacity(config.len());
    for (at, header) in config.iter().enumerate() {
        matchers.extend(errors.collect(HeaderMatcher::build(header, &path.index(at))));
    }
    matchers
}

impl RouteConditions {
    fn is_some(&self) -> bool {
        self.fraction.is_some()
            || self.grpc
            || self.presents.is_some()
            || self.validated.is_some()
            || !self.headers.is_empty()
            || !self.query.is_empty()
            || !self.cookies.is_empty()
            || !self.dynamic_metadata.is_empty()
            || !self.filter_state.is_empty()
    }

    /// Without TLS there is no certificate to ask for, and nothing to refuse.
    fn fits_certificate(&self, tls: Option<&TlsInfo>) -> bool {
        let presents = tls.is_some_and(|tls| tls.peer.is_some());
        let validated = tls.is_some_and(|tls| tls.validated);
        self.presents.is_none_or(|wanted| wanted == presents)
            && self.validated.is_none_or(|wanted| wanted == validated)
    }

    fn hold(&self, request: &RequestView<'_>) -> bool {
        let head = request.head;
        self.fraction
            .as_ref()
            .is_none_or(|fraction| fraction.holds(request.runtime, request.random))
            && (!self.grpc || grpc::is_request(&head.headers))
            && self.fits_certificate(request.tls)
            && self.headers.iter().all(|header| header.matches(head))
            && (self.query.is_empty() || {
                let query = head.path.as_ref().and_then(|path| path.query());
                self.query
                    .iter()
                    .all(|parameter| parameter.matches(query.unwrap_or_default()))
            })
            && self.cookies.iter().all(|cookie| cookie.matches(head))
            && self
                .dynamic_metadata
                .iter()
                .all(|matcher| matcher.matches(request.dynamic_metadata))
            && self
                .filter_state
                .iter()
                .all(|matcher| matcher.matches(request.filter_state))
    }
}

impl PathMatch {
    /// Whether `path`, which has no query, matches.
    pub(crate) fn matches(&self, head: &RequestHead, path: &str) -> bool {
        match self {
            PathMatch::Prefix(prefix) => path.starts_with(&**prefix),
            PathMatch::Exact(exact) => path == &**exact,
            PathMatch::SeparatedPrefix(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            PathMatch::Regex(regex) => regex.is_match(path.as_bytes()),
            PathMatch::Connect => head.method == http::Method::CONNECT,
            PathMatch::IgnoreCase(inner) => inner.matches_ignoring_case(path),
        }
    }

    fn matches_ignoring_case(&self, path: &str) -> bool {
        match self {
            PathMatch::Prefix(prefix) => starts_with_ignoring_case(path, prefix),
            PathMatch::Exact(exact) => path.eq_ignore_ascii_case(exact),
            PathMatch::SeparatedPrefix(prefix) => {
                starts_with_ignoring_case(path, prefix)
                    && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'))
            }
            PathMatch::Regex(_) | PathMatch::Connect | PathMatch::IgnoreCase(_) => false,
        }
    }

    /// How many bytes of a matched `path` a `prefix_rewrite` replaces: the prefix, or the whole path.
    pub(crate) fn matched_length(&self, path: &str) -> usize {
        match self {
            PathMatch::Prefix(prefix) | PathMatch::SeparatedPrefix(prefix) => prefix.len(),
            PathMatch::Exact(_) | PathMatch::Regex(_) | PathMatch::Connect => path.len(),
            PathMatch::IgnoreCase(inner) => inner.matched_length(path),
        }
    }
}

fn starts_with_ignoring_case(path: &str, prefix: &str) -> bool {
    path.as_bytes()
        .get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
}

#[cfg(test)]
mod tests {
    use api::route_match::PathSpecifier;
    use outrider_config::api::envoy::r#type::matcher::v3::RegexMatcher;

    use super::*;
    use crate::route::tests::head;
    use crate::route::tests::view;

    const PATHS: [&str; 10] = [
        "/a", "/a/", "/ab", "/A", "/a?x", "/a/b", "/a;x", "/", "/a%2fb", "/a/b?c/d",
    ];

    fn bits(config: &api::RouteMatch) -> String {
        let built = RouteMatch::build(config, &FieldPath::root()).unwrap();
        PATHS
            .iter()
            .map(|path| {
                let head = head("GET", "h", path, &[]);
                let path = path.split('?').next().unwrap();
                if built.matches(&view(&head), path) {
                    '1'
                } else {
                    '0'
                }
            })
            .collect()
    }

    /// Recorded with Envoy 1.40.0.
    #[test]
    fn paths_match_as_in_envoy() {
        let text = str::to_owned;
        let regex = |regex: &str| {
            PathSpecifier::SafeRegex(RegexMatcher {
                regex: text(regex),
                ..Default::default()
            })
        };
        for (specifier, case_sensitive, expected) in [
            (PathSpecifier::Prefix(text("/a")), None, "1110111011"),
            (PathSpecifier::Path(text("/a")), None, "1000100000"),
            (
                PathSpecifier::PathSeparatedPrefix(text("/a")),
                None,
                "1100110001",
            ),
            (PathSpecifier::Path(text("/a")), Some(false), "1001100000"),
            (PathSpecifier::Prefix(text("/a")), Some(false), "1111111011"),
            (
                PathSpecifier::PathSeparatedPrefix(text("/A")),
                Some(false),
                "1101110001",
            ),
            (regex("/a"), None, "1000100000"),
            (regex("/a.*"), None, "1110111011"),
            (regex("/A"), Some(false), "0001000000"),
            (PathSpecifier::Prefix(text("/a?x")), None, "0000000000"),
            (PathSpecifier::Path(text("/a?x")), None, "0000000000"),
            (PathSpecifier::Prefix(text("")), None, "1111111111"),
            (PathSpecifier::Path(text("")), None, "0000000000"),
            (regex("/a\\?x"), None, "0000000000"),
            (
                PathSpecifier::ConnectMatcher(api::route_match::ConnectMatcher {}),
                None,
                "0000000000",
            ),
        ] {
            let config = api::RouteMatch {
                path_specifier: Some(specifier),
                case_sensitive,
                ..Default::default()
            };
            assert_eq!(bits(&config), expected, "{config:?}");
        }
    }
}

//! Rewrites paths and hosts: `prefix_rewrite`, `regex_rewrite`, `path_rewrite` and the counterparts for hosts.

use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::Target;
use outrider_codec::header;
use outrider_config::ConfigError;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::route::v3::route_action::HostRewriteSpecifier;
use outrider_config::api::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use regex::bytes::Captures;
use regex::bytes::Regex;

use crate::RequestHead;
use crate::Stream;
use crate::format::Formatter;
use crate::route::header_mutation::header_name;
use crate::route::route_match::PathMatch;
use outrider_config::re2;

/// How the path is rewritten. The query is kept.
#[derive(Clone, Debug)]
pub(crate) enum PathRewrite {
    /// Replaces the part that the route matched by `with`.
    Prefix { matched: PathMatch, with: Box<str> },
    /// Replaces every match of a regular expression.
    Regex(Substitution),
    /// Replaces the whole path; an empty result changes nothing.
    Format(Formatter),
}

/// How `:authority` is rewritten.
#[derive(Clone, Debug)]
pub(crate) enum HostRewrite {
    Literal(HeaderValue),
    Header(HeaderName),
    /// Replaces the host by a substitution in the path.
    PathRegex(Substitution),
    Format(Formatter),
}

/// `RegexMatchAndSubstitute`: replaces each match of a regular expression.
#[derive(Clone, Debug)]
pub(crate) struct Substitution {
    pattern: Regex,
    parts: Box<[SubstitutionPart]>,
    /// Whether the substitution refers to a group that does not exist: RE2 then replaces nothing.
    impossible: bool,
}

#[derive(Clone, Debug)]
enum SubstitutionPart {
    Text(Box<str>),
    Group(usize),
}

impl PathRewrite {
    /// The new path of `stream`'s request, with its query; `None` if it does not change. A result that does not begin
    /// with a slash or contains a fragment is not used.
    pub(crate) fn apply(&self, stream: &Stream) -> Option<String> {
        let full = stream.request.path();
        let (path, query) = full.split_at(full.find('?').unwrap_or(full.len()));
        let new = match self {
            PathRewrite::Prefix { matched, with } => {
                let rest = path.get(matched.matched_length(path)..).unwrap_or_default();
                format!("{with}{rest}{query}")
            }
            PathRewrite::Regex(substitution) => substitution.apply(path) + query,
            PathRewrite::Format(formatter) => {
                let mut text = Vec::new();
                formatter.write(stream, &mut text);
                let text = String::from_utf8(text)
                    .ok()
                    .filter(|text| !text.is_empty())?;
                text + query
            }
        };
        (new.starts_with('/') && !new.contains('#')).then_some(new)
    }
}

/// Sets the request's path. `keep_original`: writes the old path into `x-envoy-original-path`.
pub(crate) fn set_path(head: &mut RequestHead, path: String, keep_original: bool) {
    // An invalid path does not change the request.
    let Ok(new) = Target::try_from(path) else {
        return;
    };
    let original = head.path.replace(new);
    let original = original.and_then(|path| HeaderValue::from_bytes(path.as_bytes()).ok());
    if let Some(original) = original.filter(|_| keep_original) {
        head.headers
            .insert(&header::X_ENVOY_ORIGINAL_PATH, original);
    }
}

impl HostRewrite {
    /// Builds `RouteAction.host_rewrite_specifier`, except `auto_host_rewrite`, which needs the chosen host.
    pub(crate) fn build(
        config: &HostRewriteSpecifier,
        path: &FieldPath,
    ) -> Result<Option<HostRewrite>, ConfigError> {
        Ok(Some(match config {
            HostRewriteSpecifier::AutoHostRewrite(_) => return Ok(None),
            HostRewriteSpecifier::HostRewriteLiteral(host) => {
                HostRewrite::literal(host, &path.field("host_rewrite_literal"))?
            }
            HostRewriteSpecifier::HostRewriteHeader(name) => {
                HostRewrite::Header(header_name(name, &path.field("host_rewrite_header"))?)
            }
            HostRewriteSpecifier::HostRewritePathRegex(config) => {
                let path = path.field("host_rewrite_path_regex");
                HostRewrite::PathRegex(Substitution::build(config, &path)?)
            }
            HostRewriteSpecifier::HostRewrite(format) => {
                HostRewrite::Format(Formatter::compile(format, &path.field("host_rewrite"))?)
            }
        }))
    }

    pub(crate) fn literal(host: &str, path: &FieldPath) -> Result<HostRewrite, ConfigError> {
        HeaderValue::try_from(host)
            .map(HostRewrite::Literal)
            .map_err(|_| ConfigError::new(path, "not a header value"))
    }

    /// The new host of `stream`'s request; `None` if it does not change.
    pub(crate) fn apply(&self, stream: &Stream) -> Option<HeaderValue> {
        let host = match self {
            HostRewrite::Literal(host) => host.clone(),
            HostRewrite::Header(name) => stream.request.headers.get(name)?.clone(),
            HostRewrite::PathRegex(substitution) => {
                let path = stream.request.path();
                let path = path.split('?').next().unwrap_or_default();
                HeaderValue::try_from(substitution.apply(path)).ok()?
            }
            HostRewrite::Format(formatter) => {
                let mut text = Vec::new();
                formatter.write(stream, &mut text);
                HeaderValue::from_bytes(&text).ok()?
            }
        };
        Some(host).filter(|host| !host.is_empty())
    }
}

/// Sets the request's host.
///
/// `keep_original`: writes the old host into `x-envoy-original-host`. `forward_original`: appends it to
/// `x-forwarded-host`.
pub(crate) fn set_host(
    head: &mut RequestHead,
    host: HeaderValue,
    keep_original: bool,
    forward_original: bool,
) {
    let original = head.authority.replace(host);
    let original = original.unwrap_or(HeaderValue::from_static(""));
    if keep_original {
        head.headers
            .insert(&header::X_ENVOY_ORIGINAL_HOST, original.clone());
    }
    if forward_original {
        let forwarded = match head.headers.get(&header::X_FORWARDED_HOST) {
            Some(earlier) if !earlier.is_empty() => {
                let all = [earlier.as_bytes(), b",", original.as_bytes()].concat();
                HeaderValue::from_bytes(&all).unwrap_or(original)
            }
            _ => original,
        };
        head.headers.insert(&header::X_FORWARDED_HOST, forwarded);
    }
}

impl Substitution {
    pub(crate) fn build(
        config: &RegexMatchAndSubstitute,
        path: &FieldPath,
    ) -> Result<Substitution, ConfigError> {
        let pattern = config.pattern.clone().unwrap_or_default();
        let pattern = re2::compile(&pattern)
            .map_err(|error| ConfigError::new(&path.field("pattern").field("regex"), error))?;
        let parts = parts(&config.substitution);
        let impossible = parts.iter().any(|part| {
            matches!(part, SubstitutionPart::Group(group) if *group >= pattern.captures_len())
        });
        Ok(Substitution {
            pattern,
            parts,
            impossible,
        })
    }

    /// `text` with every match replaced.
    pub(crate) fn apply(&self, text: &str) -> String {
        if self.impossible {
            return text.to_owned();
        }
        let replaced = self
            .pattern
            .replace_all(text.as_bytes(), |captures: &Captures<'_>| {
                let mut new = Vec::new();
                for part in &self.parts {
                    match part {
                        SubstitutionPart::Text(text) => new.extend_from_slice(text.as_bytes()),
                        SubstitutionPart::Group(group) => {
                            let group = captures.get(*group);
                            new.extend_from_slice(group.map_or(b"", |group| group.as_bytes()));
                        }
                    }
                }
                new
            });
        String::from_utf8_lossy(&replaced).into_owned()
    }
}

/// Splits a substitution at `\0` to `\9`. As in RE2, `\\` is a backslash, and any other escape ends the substitution.
fn parts(substitution: &str) -> Box<[SubstitutionPart]> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut letters = substitution.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            text.push(letter);
            continue;
        }
        match letters.next() {
            Some('\\') => text.push('\\'),
            Some(digit @ '0'..='9') => {
                parts.push(SubstitutionPart::Text(std::mem::take(&mut text).into()));
                parts.push(SubstitutionPart::Group(digit as usize - '0' as usize));
            }
            _ => break,
        }
    }
    parts.push(SubstitutionPart::Text(text.into()));
    parts.into()
}

#[cfg(test)]
mod tests {
    use outrider_config::api::envoy::r#type::matcher::v3::RegexMatcher;

    use super::*;
    use crate::route::tests::head;

    fn substitution(pattern: &str, substitution: &str) -> Substitution {
        let config = RegexMatchAndSubstitute {
            pattern: Some(RegexMatcher {
                regex: pattern.to_owned(),
                ..Default::default()
            }),
            substitution: substitution.to_owned(),
        };
        Substitution::build(&config, &FieldPath::root()).unwrap()
    }

    /// Results of Envoy 1.40.0 for `/a/b`.
    #[test]
    fn substitutes_as_in_envoy() {
        for (pattern, with, expected) in [
            ("/a/(.*)", "/z/\\1", "/z/b"),
            ("b", "[\\0]", "/a/[b]"),
            ("a", "\\9", "/a/b"),
            ("a", "\\\\x", "/\\x/b"),
            ("a", "\\x", "//b"),
            ("a", "x\\", "/x/b"),
            ("^/a.*$", "noslash", "noslash"),
            ("/zz/(.*)", "\\1", "/a/b"),
        ] {
            assert_eq!(
                substitution(pattern, with).apply("/a/b"),
                expected,
                "{pattern} {with}"
            );
        }
    }

    #[test]
    fn the_original_host_is_kept_and_forwarded_on_request() {
        let mut request = head("GET", "old", "/", &[("x-forwarded-host", "q")]);
        set_host(&mut request, HeaderValue::from_static("new"), false, true);
        assert_eq!(request.host(), "new");
        assert_eq!(request.headers["x-forwarded-host"], "q,old");
        assert!(!request.headers.contains_key(&header::X_ENVOY_ORIGINAL_HOST));
        set_host(&mut request, HeaderValue::from_static("newer"), true, false);
        assert_eq!(request.headers[&header::X_ENVOY_ORIGINAL_HOST], "new");
        assert_eq!(request.headers["x-forwarded-host"], "q,old");
    }

    #[test]
    fn the_original_path_is_kept_on_request() {
        let mut request = head("GET", "h", "/a?x", &[("x-envoy-original-path", "/evil")]);
        set_path(&mut request, "/n?x".to_owned(), true);
        assert_eq!(request.path(), "/n?x");
        assert_eq!(request.headers[&header::X_ENVOY_ORIGINAL_PATH], "/a?x");
        set_path(&mut request, "/bad path".to_owned(), true);
        assert_eq!(request.path(), "/n?x");
    }
}

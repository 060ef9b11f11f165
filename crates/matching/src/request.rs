//! The header, query parameter and cookie matchers made of `StringMatcher`.

#![expect(deprecated, reason = "Envoy still obeys its deprecated fields")]

use std::ops::Range;

use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::RequestHead;
use outrider_codec::ResponseHead;
use outrider_config::ConfigError;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::route::v3 as api;
use outrider_config::re2::FullRegex;
use outrider_config::string_matcher::PatternText;
use outrider_config::string_matcher::StringMatcher;

/// A condition on one header (`HeaderMatcher`). If a header has several values, one of them must match.
#[derive(Clone, Debug)]
pub struct HeaderMatcher {
    name: MatchedHeader,
    condition: HeaderCondition,
    invert: bool,
    missing_is_empty: bool,
}

#[derive(Clone, Debug)]
enum HeaderCondition {
    Present(bool),
    Range(Range<i64>),
    Text(StringMatcher),
}

/// The header that a matcher reads. Pseudo-headers are not in the header map.
#[derive(Clone, Debug)]
pub enum MatchedHeader {
    /// `:method`
    Method,
    /// `:scheme`
    Scheme,
    /// `:authority` or `host`
    Authority,
    /// `:path`
    Path,
    /// `:status`. Only responses have it.
    Status,
    /// In the header map.
    Header(HeaderName),
    /// A name that no header can have.
    Impossible,
}

impl HeaderMatcher {
    /// Builds the matcher found at `path`.
    ///
    /// # Errors
    /// A pattern is not valid.
    pub fn build(
        config: &api::HeaderMatcher,
        path: &FieldPath,
    ) -> Result<HeaderMatcher, ConfigError> {
        use api::header_matcher::HeaderMatchSpecifier as Specifier;
        let text = |text: &str| PatternText::new(text, false);
        let condition = match &config.header_match_specifier {
            None => HeaderCondition::Present(true),
            Some(Specifier::PresentMatch(present)) => HeaderCondition::Present(*present),
            // The deprecated form with an empty value only requires the header.
            Some(Specifier::ExactMatch(exact)) if exact.is_empty() => {
                HeaderCondition::Present(true)
            }
            Some(Specifier::ExactMatch(exact)) => {
                HeaderCondition::Text(StringMatcher::Exact(text(exact)))
            }
            Some(Specifier::PrefixMatch(prefix)) => {
                HeaderCondition::Text(StringMatcher::Prefix(text(prefix)))
            }
            Some(Specifier::SuffixMatch(suffix)) => {
                HeaderCondition::Text(StringMatcher::Suffix(text(suffix)))
            }
            Some(Specifier::ContainsMatch(part)) => {
                HeaderCondition::Text(StringMatcher::Contains(text(part)))
            }
            Some(Specifier::SafeRegexMatch(regex)) => HeaderCondition::Text(StringMatcher::Regex(
                FullRegex::build(regex, &path.field("safe_regex_match"))?,
            )),
            Some(Specifier::RangeMatch(range)) => HeaderCondition::Range(range.start..range.end),
            Some(Specifier::StringMatch(string)) => {
                HeaderCondition::Text(StringMatcher::build(string, &path.field("string_match"))?)
            }
        };
        Ok(HeaderMatcher {
            name: MatchedHeader::new(&config.name),
            condition,
            invert: config.invert_match,
            missing_is_empty: config.treat_missing_header_as_empty,
        })
    }

    /// Whether a request matches.
    #[must_use]
    pub fn matches(&self, head: &RequestHead) -> bool {
        self.holds(self.name.values(head))
    }

    /// Whether a response matches.
    #[must_use]
    pub fn matches_response(&self, head: &ResponseHead) -> bool {
        if matches!(self.name, MatchedHeader::Status) {
            return self.holds(std::iter::once(head.status.as_str().as_bytes()));
        }
        self.holds(self.name.values_of_response(head))
    }

    fn holds<'v>(&self, values: impl Iterator<Item = &'v [u8]>) -> bool {
        let mut values = values.peekable();
        if let HeaderCondition::Present(present) = &self.condition {
            let here = values.peek().is_some() || self.missing_is_empty;
            return (here == *present) != self.invert;
        }
        let matched = if values.peek().is_some() {
            values.any(|value| self.condition.matches(value))
        } else if self.missing_is_empty {
            self.condition.matches(b"")
        } else {
            return false;
        };
        matched != self.invert
    }
}

impl MatchedHeader {
    /// The header of this name.
    #[must_use]
    pub fn new(name: &str) -> MatchedHeader {
        match name.to_ascii_lowercase().as_str() {
            ":method" => MatchedHeader::Method,
            ":scheme" => MatchedHeader::Scheme,
            ":authority" | "host" => MatchedHeader::Authority,
            ":path" => MatchedHeader::Path,
            ":status" => MatchedHeader::Status,
            other => other
                .parse()
                .map_or(MatchedHeader::Impossible, MatchedHeader::Header),
        }
    }

    /// The values that the request has of it.
    pub fn values<'h>(&'h self, head: &'h RequestHead) -> impl Iterator<Item = &'h [u8]> {
        let pseudo = match self {
            MatchedHeader::Method => Some(head.method.as_str().as_bytes()),
            MatchedHeader::Scheme => head.scheme.as_ref().map(|s| s.as_str().as_bytes()),
            MatchedHeader::Authority => Some(head.authority()).filter(|a| !a.is_empty()),
            MatchedHeader::Path => head.path.as_ref().map(|p| p.as_str().as_bytes()),
            MatchedHeader::Status | MatchedHeader::Header(_) | MatchedHeader::Impossible => None,
        };
        pseudo.into_iter().chain(self.fields(&head.headers))
    }

    /// The values that a response has of it, pseudo-headers apart.
    pub fn values_of_response<'h>(
        &'h self,
        head: &'h ResponseHead,
    ) -> impl Iterator<Item = &'h [u8]> {
        self.fields(&head.headers)
    }

    fn fields<'h>(&'h self, headers: &'h HeaderMap) -> impl Iterator<Item = &'h [u8]> {
        let name = match self {
            MatchedHeader::Header(name) => Some(name),
            _ => None,
        };
        let fields = name.into_iter().flat_map(|name| headers.get_all(name));
        fields.map(|value| value.as_bytes())
    }
}

impl HeaderCondition {
    fn matches(&self, value: &[u8]) -> bool {
        match self {
            HeaderCondition::Present(present) => *present,
            HeaderCondition::Range(range) => std::str::from_utf8(value)
                .ok()
                .and_then(|value| value.trim().parse().ok())
                .is_some_and(|number| range.contains(&number)),
            HeaderCondition::Text(matcher) => matcher.matches(value),
        }
    }
}

/// A condition on the first value of a query parameter, not decoded (`QueryParameterMatcher`).
#[derive(Clone, Debug)]
pub struct QueryMatcher {
    name: String,
    condition: QueryCondition,
}

#[derive(Clone, Debug)]
enum QueryCondition {
    Present(bool),
    Text(StringMatcher),
}

impl QueryMatcher {
    /// Builds the matcher found at `path`.
    ///
    /// # Errors
    /// A pattern is not valid.
    pub fn build(
        config: &api::QueryParameterMatcher,
        path: &FieldPath,
    ) -> Result<QueryMatcher, ConfigError> {
        use api::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
        let condition = match &config.query_parameter_match_specifier {
            None => QueryCondition::Present(true),
            Some(Specifier::PresentMatch(present)) => QueryCondition::Present(*present),
            Some(Specifier::StringMatch(string)) => {
                QueryCondition::Text(StringMatcher::build(string, &path.field("string_match"))?)
            }
        };
        Ok(QueryMatcher {
            name: config.name.clone(),
            condition,
        })
    }

    /// Whether `query`, the text after the `?`, meets the condition.
    #[must_use]
    pub fn matches(&self, query: &str) -> bool {
        self.matches_value(query_value(query, &self.name).map(str::as_bytes))
    }

    /// The name of the parameter.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the value of the parameter, which may be absent, meets the condition.
    #[must_use]
    pub fn matches_value(&self, value: Option<&[u8]>) -> bool {
        match (&self.condition, value) {
            (QueryCondition::Present(present), value) => value.is_some() == *present,
            (QueryCondition::Text(matcher), Some(value)) => matcher.matches(value),
            (QueryCondition::Text(_), None) => false,
        }
    }
}

/// The first value of the parameter `name`, not decoded; empty if it has no `=`.
#[must_use]
pub fn query_value<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find_map(|(key, value)| (key == name).then_some(value))
}

/// A condition on the first value of a cookie (`CookieMatcher`).
#[derive(Clone, Debug)]
pub struct CookieMatcher {
    name: String,
    value: StringMatcher,
    invert: bool,
}

impl CookieMatcher {
    /// Builds the matcher found at `path`.
    ///
    /// # Errors
    /// A pattern is not valid.
    pub fn build(
        config: &api::CookieMatcher,
        path: &FieldPath,
    ) -> Result<CookieMatcher, ConfigError> {
        let path = path.field("string_match");
        let value = match &config.string_match {
            Some(string) => StringMatcher::build(string, &path)?,
            None => return Err(ConfigError::new(&path, "value is required")),
        };
        Ok(CookieMatcher {
            name: config.name.clone(),
            value,
            invert: config.invert_match,
        })
    }

    /// Whether a request matches.
    #[must_use]
    pub fn matches(&self, head: &RequestHead) -> bool {
        let matched = head
            .headers
            .get_all(&outrider_codec::header::COOKIE)
            .find_map(|cookies| cookie_value(cookies.as_bytes(), self.name.as_bytes()))
            .is_some_and(|value| self.value.matches(value));
        matched != self.invert
    }
}

/// The first value of the cookie `name`, without the quotes around it.
#[must_use]
pub fn cookie_value<'c>(cookies: &'c [u8], name: &[u8]) -> Option<&'c [u8]> {
    cookies.split(|&byte| byte == b';').find_map(|cookie| {
        let cookie = cookie.trim_ascii_start();
        let value = cookie.strip_prefix(name)?.strip_prefix(b"=")?;
        let unquoted = value
            .strip_prefix(b"\"")
            .and_then(|v| v.strip_suffix(b"\""));
        Some(unquoted.unwrap_or(value))
    })
}

#[cfg(test)]
mod tests;

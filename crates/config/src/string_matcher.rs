//! `StringMatcher`: a condition on a text.

use crate::ConfigError;
use crate::FieldPath;
use crate::api::envoy::r#type::matcher::v3 as matcher;
use crate::re2::FullRegex;

/// A condition on a text (`envoy.type.matcher.v3.StringMatcher`).
#[derive(Clone, Debug)]
pub enum StringMatcher {
    /// `exact`
    Exact(PatternText),
    /// `prefix`
    Prefix(PatternText),
    /// `suffix`
    Suffix(PatternText),
    /// `contains`
    Contains(PatternText),
    /// `safe_regex`
    Regex(FullRegex),
}

/// A text to compare with, lower-cased when case is to be ignored (ASCII only, as in Envoy).
#[derive(Clone, Debug)]
pub struct PatternText {
    text: Box<[u8]>,
    ignore_case: bool,
}

impl StringMatcher {
    /// Builds the matcher found at `path`.
    ///
    /// # Errors
    /// The pattern is invalid.
    pub fn build(
        config: &matcher::StringMatcher,
        path: &FieldPath,
    ) -> Result<StringMatcher, ConfigError> {
        use matcher::string_matcher::MatchPattern;
        let text = |text: &str| PatternText::new(text, config.ignore_case);
        Ok(match &config.match_pattern {
            Some(MatchPattern::Exact(exact)) => StringMatcher::Exact(text(exact)),
            Some(MatchPattern::Prefix(prefix)) => StringMatcher::Prefix(text(prefix)),
            Some(MatchPattern::Suffix(suffix)) => StringMatcher::Suffix(text(suffix)),
            Some(MatchPattern::Contains(part)) => StringMatcher::Contains(text(part)),
            Some(MatchPattern::SafeRegex(_)) if config.ignore_case => {
                return Err(ConfigError::new(
                    &path.field("ignore_case"),
                    "ignore_case has no effect for safe_regex.",
                ));
            }
            Some(MatchPattern::SafeRegex(regex)) => {
                StringMatcher::Regex(FullRegex::build(regex, &path.field("safe_regex"))?)
            }
            Some(MatchPattern::Custom(_)) => {
                return Err(ConfigError::new(
                    &path.field("custom"),
                    "custom string matchers are not supported",
                ));
            }
            None => {
                return Err(ConfigError::new(
                    path,
                    "one of exact, prefix, suffix, safe_regex or contains is required",
                ));
            }
        })
    }

    /// Whether `value` matches.
    #[must_use]
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            StringMatcher::Exact(text) => text.equals(value),
            StringMatcher::Prefix(text) => value
                .get(..text.text.len())
                .is_some_and(|start| text.equals(start)),
            StringMatcher::Suffix(text) => value
                .len()
                .checked_sub(text.text.len())
                .is_some_and(|at| text.equals(&value[at..])),
            StringMatcher::Contains(text) => text.is_in(value),
            StringMatcher::Regex(regex) => regex.is_match(value),
        }
    }
}

impl PatternText {
    /// The text, as it is compared.
    #[must_use]
    pub fn new(text: &str, ignore_case: bool) -> PatternText {
        let text = if ignore_case {
            text.to_ascii_lowercase()
        } else {
            text.to_owned()
        };
        PatternText {
            text: text.into_bytes().into(),
            ignore_case,
        }
    }

    fn equals(&self, value: &[u8]) -> bool {
        if self.ignore_case {
            self.text.eq_ignore_ascii_case(value)
        } else {
            *self.text == *value
        }
    }

    fn is_in(&self, value: &[u8]) -> bool {
        if self.ignore_case {
            value.windows(self.text.len()).any(|part| self.equals(part))
        } else {
            memchr::memmem::find(value, &self.text).is_some()
        }
    }
}

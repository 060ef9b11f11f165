//! `ValueMatcher`: a condition on a JSON-like value.

use std::ops::Range;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::r#type::matcher::v3 as api;
use outrider_config::api::envoy::r#type::matcher::v3::double_matcher;
use outrider_config::api::envoy::r#type::matcher::v3::list_matcher;
use outrider_config::api::envoy::r#type::matcher::v3::value_matcher::MatchPattern;
use outrider_config::string_matcher::StringMatcher;
use prost_types::Value;
use prost_types::value::Kind;

/// A condition on a value, which may be absent (`envoy.type.matcher.v3.ValueMatcher`).
#[derive(Clone, Debug)]
pub struct ValueMatcher(ValueCondition);

#[derive(Clone, Debug)]
enum ValueCondition {
    Null,
    Number(f64),
    /// The end is not in the range.
    NumberIn(Range<f64>),
    Text(StringMatcher),
    Bool(bool),
    Present,
    /// `present_match: false`. As in Envoy, an absent value does not match it either.
    Never,
    /// A list with an element that matches.
    OneOf(Box<ValueMatcher>),
    AnyOf(Box<[ValueMatcher]>),
}

impl ValueMatcher {
    /// Builds the matcher found at `path`.
    ///
    /// # Errors
    /// A pattern is not valid.
    pub fn build(
        config: &api::ValueMatcher,
        path: &FieldPath,
    ) -> Result<ValueMatcher, ConfigErrors> {
        Ok(ValueMatcher(match &config.match_pattern {
            Some(MatchPattern::NullMatch(_)) => ValueCondition::Null,
            Some(MatchPattern::DoubleMatch(number)) => match &number.match_pattern {
                Some(double_matcher::MatchPattern::Exact(exact)) => ValueCondition::Number(*exact),
                Some(double_matcher::MatchPattern::Range(range)) => {
                    ValueCondition::NumberIn(range.start..range.end)
                }
                None => return Err(required(&path.field("double_match"))),
            },
            Some(MatchPattern::StringMatch(text)) => {
                ValueCondition::Text(StringMatcher::build(text, &path.field("string_match"))?)
            }
            Some(MatchPattern::BoolMatch(wanted)) => ValueCondition::Bool(*wanted),
            Some(MatchPattern::PresentMatch(true)) => ValueCondition::Present,
            Some(MatchPattern::PresentMatch(false)) => ValueCondition::Never,
            Some(MatchPattern::ListMatch(list)) => {
                let path = path.field("list_match").field("one_of");
                match &list.match_pattern {
                    Some(list_matcher::MatchPattern::OneOf(matcher)) => {
                        ValueCondition::OneOf(Box::new(ValueMatcher::build(matcher, &path)?))
                    }
                    None => return Err(required(&path)),
                }
            }
            Some(MatchPattern::OrMatch(any)) => {
                let mut errors = ConfigErrors::new();
                let path = path.field("or_match").field("value_matchers");
                let matchers = any.value_matchers.iter().enumerate();
                let matchers = matchers.filter_map(|(at, matcher)| {
                    errors.collect(ValueMatcher::build(matcher, &path.index(at)))
                });
                let matchers = matchers.collect();
                errors.finish(ValueCondition::AnyOf(matchers))?
            }
            None => return Err(required(path)),
        }))
    }

    /// Whether the value meets the condition. An absent value meets none.
    #[must_use]
    pub fn matches(&self, value: Option<&Value>) -> bool {
        let kind = value.and_then(|value| value.kind.as_ref());
        match (&self.0, kind) {
            (ValueCondition::Null, Some(Kind::NullValue(_)))
            | (ValueCondition::Present, Some(_)) => true,
            (ValueCondition::Number(wanted), Some(Kind::NumberValue(number))) => wanted == number,
            (ValueCondition::NumberIn(range), Some(Kind::NumberValue(number))) => {
                range.contains(number)
            }
            (ValueCondition::Text(matcher), Some(Kind::StringValue(text))) => {
                matcher.matches(text.as_bytes())
            }
            (ValueCondition::Bool(wanted), Some(Kind::BoolValue(value))) => wanted == value,
            (ValueCondition::OneOf(matcher), Some(Kind::ListValue(list))) => {
                list.values.iter().any(|value| matcher.matches(Some(value)))
            }
            (ValueCondition::AnyOf(matchers), _) => {
                matchers.iter().any(|matcher| matcher.matches(value))
            }
            _ => false,
        }
    }
}

fn required(path: &FieldPath) -> ConfigErrors {
    ConfigErrors::from(ConfigError::new(path, "a match pattern is required"))
}

//! `FilterStateMatcher`: a condition on an object in the filter state.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::address_prefix::AddressPrefix;
use outrider_config::address_prefix::build_all;
use outrider_config::api::envoy::config::core::v3::CidrRange;
use outrider_config::api::envoy::r#type::matcher::v3 as api;
use outrider_config::api::envoy::r#type::matcher::v3::filter_state_matcher::Matcher;
use outrider_config::string_matcher::StringMatcher;
use outrider_net::FilterState;

/// The objects that filters share, as matchers see them.
pub trait FilterStateView: fmt::Debug {
    /// The object under this name as text; `None` if there is none, or it has no text.
    fn text(&self, name: &str) -> Option<Cow<'_, str>>;

    /// The IP address that the object under this name is; `None` if there is none, or it is something else.
    fn address(&self, name: &str) -> Option<IpAddr>;
}

impl FilterStateView for FilterState {
    fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        self.get(name)?.text()
    }

    fn address(&self, name: &str) -> Option<IpAddr> {
        self.get(name)?.address()
    }
}

/// A condition on an object in the filter state (`envoy.type.matcher.v3.FilterStateMatcher`).
#[derive(Clone, Debug)]
pub struct FilterStateMatcher {
    name: Box<str>,
    condition: ObjectCondition,
}

#[derive(Clone, Debug)]
enum ObjectCondition {
    Text(StringMatcher),
    Address {
        ranges: Vec<AddressPrefix>,
        invert: bool,
    },
}

impl FilterStateMatcher {
    /// Builds the matcher found at `path`.
    ///
    /// # Errors
    /// A pattern or a range is not valid.
    pub fn build(
        config: &api::FilterStateMatcher,
        path: &FieldPath,
    ) -> Result<FilterStateMatcher, ConfigErrors> {
        let condition = match &config.matcher {
            Some(Matcher::StringMatch(text)) => {
                ObjectCondition::Text(StringMatcher::build(text, &path.field("string_match"))?)
            }
            Some(Matcher::AddressMatch(addresses)) => {
                let ranges = addresses.ranges.iter().map(|range| CidrRange {
                    address_prefix: range.address_prefix.clone(),
                    prefix_len: range.prefix_len,
                });
                let ranges: Vec<_> = ranges.collect();
                let path = path.field("address_match").field("ranges");
                ObjectCondition::Address {
                    ranges: build_all(&ranges, &path)?,
                    invert: addresses.invert_match,
                }
            }
            None => {
                let text = "one of string_match or address_match is required";
                return Err(ConfigErrors::from(ConfigError::new(path, text)));
            }
        };
        Ok(FilterStateMatcher {
            name: config.key.as_str().into(),
            condition,
        })
    }

    /// Whether the object meets the condition. An absent object meets none.
    #[must_use]
    pub fn matches(&self, state: &dyn FilterStateView) -> bool {
        match &self.condition {
            ObjectCondition::Text(matcher) => state
                .text(&self.name)
                .is_some_and(|text| matcher.matches(text.as_bytes())),
            ObjectCondition::Address { ranges, invert } => {
                state.address(&self.name).is_some_and(|address| {
                    ranges.iter().any(|range| range.contains(address)) != *invert
                })
            }
        }
    }
}

//! Lists of string matchers (`ListStringMatcher`).

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::r#type::matcher::v3::ListStringMatcher;
use outrider_config::string_matcher::StringMatcher;

/// A list of matchers, of which one must match.
#[derive(Clone, Debug, Default)]
pub(super) struct StringMatchers(Vec<StringMatcher>);

impl StringMatchers {
    /// The matchers of `list`, found at `path`; `None` if it is empty.
    pub(super) fn optional(
        list: Option<&ListStringMatcher>,
        path: &FieldPath,
    ) -> Result<Option<StringMatchers>, ConfigErrors> {
        let Some(list) = list else {
            return Ok(None);
        };
        let mut errors = ConfigErrors::new();
        let path = path.field("patterns");
        let patterns = list.patterns.iter().enumerate();
        let matchers: Vec<_> = patterns
            .filter_map(|(index, pattern)| {
                let built = StringMatcher::build(pattern, &path.index(index));
                errors.collect(built.map_err(ConfigErrors::from))
            })
            .collect();
        errors.finish((!matchers.is_empty()).then_some(StringMatchers(matchers)))
    }

    /// Whether one of them matches.
    pub(super) fn matches(&self, name: &str) -> bool {
        self.0
            .iter()
            .any(|matcher| matcher.matches(name.as_bytes()))
    }
}

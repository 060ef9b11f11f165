//! The options in a bootstrap's `stats_config`: Prometheus labels, which stats exist, and histogram buckets.

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::metrics::v3::HistogramBucketSettings;
use outrider_config::api::envoy::config::metrics::v3::StatsConfig;
use outrider_config::api::envoy::config::metrics::v3::StatsMatcher;
use outrider_config::api::envoy::config::metrics::v3::TagSpecifier;
use outrider_config::api::envoy::config::metrics::v3::stats_matcher;
use outrider_config::api::envoy::config::metrics::v3::tag_specifier::TagValue;
use outrider_config::api::envoy::r#type::matcher::v3::ListStringMatcher;
use outrider_config::api::envoy::r#type::matcher::v3::StringMatcher;
use outrider_config::re2::SizeLimits;
use outrider_config::string_matcher;

use crate::ecmascript;
use crate::tags::TagRules;

/// Upper bounds of the histogram buckets that are shown if none are configured: Envoy's defaults, in milliseconds.
const DEFAULT_BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// A predicate on a stat's full name.
pub type NameMatcher = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// How a store labels, selects and buckets its stats. The default is Envoy's.
#[derive(Default)]
pub struct StatsOptions {
    pub(crate) tags: TagRules,
    pub(crate) admits: Option<NameMatcher>,
    pub(crate) bounds: Vec<(NameMatcher, Vec<f64>)>,
}

impl StatsOptions {
    /// Builds the options in `config`, found at `path`, with the labels that `--stats-tag` adds to all stats.
    ///
    /// # Errors
    /// If a regular expression is invalid or needs backtracking, or a tag has neither an expression nor a built-in
    /// rule.
    pub fn build(
        config: &StatsConfig,
        command_line: &[(String, String)],
        path: &FieldPath,
    ) -> Result<Self, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut tags = match config.use_all_default_tags {
            Some(false) => TagRules::without_defaults(),
            _ => TagRules::default(),
        };
        for (tag, value) in command_line {
            tags.add_fixed(tag, value);
        }
        let overrides = config.allow_default_tag_overrides == Some(true);
        for (index, tag) in config.stats_tags.iter().enumerate() {
            let path = path.field("stats_tags").index(index);
            if overrides && tag.tag_value.is_some() {
                tags.remove_built_in(&tag.tag_name);
            }
            add_tag(&mut tags, tag, &path, &mut errors);
        }
        let matcher = config.stats_matcher.as_ref();
        let matcher = matcher.map(|matcher| admission(matcher, &path.field("stats_matcher")));
        let admits = matcher
            .and_then(|matcher| errors.collect(matcher))
            .flatten();
        let path = path.field("histogram_bucket_settings");
        let settings = config.histogram_bucket_settings.iter().enumerate();
        let bounds = settings
            .filter_map(|(index, settings)| {
                errors.collect(self::bounds(settings, &path.index(index)))
            })
            .flatten()
            .collect();
        errors.finish(Self {
            tags,
            admits,
            bounds,
        })
    }

    pub(crate) fn has_matcher(&self) -> bool {
        self.admits.is_some()
    }

    /// Whether `stats_matcher` admits the stat. Others are still counted, which costs nothing, but never shown.
    pub(crate) fn is_admitted(&self, name: &str) -> bool {
        self.admits.as_ref().is_none_or(|admits| admits(name))
    }

    /// Whether buckets are configured for some histograms.
    pub(crate) fn has_own_bounds(&self) -> bool {
        !self.bounds.is_empty()
    }

    /// The upper bounds of the buckets for the histogram called `name`.
    pub(crate) fn bounds(&self, name: &str) -> &[f64] {
        let configured = self.bounds.iter().find(|(matches, _)| matches(name));
        configured.map_or(&DEFAULT_BOUNDS, |(_, bounds)| bounds)
    }
}

fn add_tag(tags: &mut TagRules, tag: &TagSpecifier, path: &FieldPath, errors: &mut ConfigErrors) {
    let name = &tag.tag_name;
    if name.is_empty() {
        return errors.push(&path.field("tag_name"), "tag_name cannot be empty");
    }
    match &tag.tag_value {
        Some(TagValue::FixedValue(value)) => tags.add_fixed(name, value),
        Some(TagValue::Regex(regex)) if !regex.is_empty() => match ecmascript::compile(regex) {
            Ok(compiled) => tags.add_regex(name, regex, compiled),
            Err(error) => errors.push(&path.field("regex"), error),
        },
        _ if TagRules::is_built_in(name) => tags.add_built_in(name),
        _ => errors.push(
            &path.field("tag_name"),
            format!("no regex specified for tag specifier and no default regex for name {name:?}"),
        ),
    }
}

/// Builds the predicate of `stats_matcher`; `None` admits everything.
fn admission(
    matcher: &StatsMatcher,
    path: &FieldPath,
) -> Result<Option<NameMatcher>, ConfigErrors> {
    use stats_matcher::StatsMatcher::ExclusionList;
    use stats_matcher::StatsMatcher::InclusionList;
    use stats_matcher::StatsMatcher::RejectAll;
    Ok(match &matcher.stats_matcher {
        None | Some(RejectAll(false)) => None,
        Some(RejectAll(true)) => Some(Box::new(|_| false)),
        Some(ExclusionList(list)) => {
            let any = any(list, &path.field("exclusion_list"))?;
            Some(Box::new(move |name| !any(name)))
        }
        Some(InclusionList(list)) => Some(any(list, &path.field("inclusion_list"))?),
    })
}

fn any(list: &ListStringMatcher, path: &FieldPath) -> Result<NameMatcher, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let path = path.field("patterns");
    let patterns = list.patterns.iter().enumerate();
    let patterns: Vec<_> = patterns
        .filter_map(|(i, pattern)| errors.collect(name_matcher(pattern, &path.index(i))))
        .collect();
    errors.finish(Box::new(move |name: &str| {
        patterns.iter().any(|matches| matches(name))
    }))
}

/// The bucket bounds in a setting; `None` if it keeps the default: `bins` only sizes Envoy's own tables.
fn bounds(
    settings: &HistogramBucketSettings,
    path: &FieldPath,
) -> Result<Option<(NameMatcher, Vec<f64>)>, ConfigErrors> {
    let matcher = settings.r#match.clone().unwrap_or_default();
    let matcher = name_matcher(&matcher, &path.field("match"))?;
    let mut bounds = settings.buckets.clone();
    bounds.sort_by(f64::total_cmp);
    Ok((!bounds.is_empty()).then_some((matcher, bounds)))
}

/// Builds the predicate of `matcher`, found at `path`. In Envoy there is no runtime yet when it is built, so the size of
/// its regular expression has no limit but its own.
///
/// # Errors
/// If its regular expression is invalid, or it is an extension.
pub fn name_matcher(
    matcher: &StringMatcher,
    path: &FieldPath,
) -> Result<NameMatcher, ConfigErrors> {
    let built = SizeLimits::suspend(|| string_matcher::StringMatcher::build(matcher, path))?;
    Ok(Box::new(move |name: &str| built.matches(name.as_bytes())))
}

impl std::fmt::Debug for StatsOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatsOptions")
            .field("tags", &self.tags)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use outrider_config::api::envoy::r#type::matcher::v3::RegexMatcher;
    use outrider_config::api::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

    use super::*;

    fn pattern(pattern: MatchPattern, ignore_case: bool) -> StringMatcher {
        StringMatcher {
            match_pattern: Some(pattern),
            ignore_case,
        }
    }

    fn list(pattern: StringMatcher) -> ListStringMatcher {
        ListStringMatcher {
            patterns: vec![pattern],
        }
    }

    #[test]
    fn patterns_match_names() {
        let regex = |regex: &str| {
            MatchPattern::SafeRegex(RegexMatcher {
                regex: regex.into(),
                ..RegexMatcher::default()
            })
        };
        for (matcher, yes, no) in [
            (MatchPattern::Exact("a.b".into()), "a.b", "axb"),
            (MatchPattern::Prefix("a.".into()), "a.c", "b.a."),
            (MatchPattern::Suffix(".b".into()), "a.b", "a.b.c"),
            (MatchPattern::Contains(".x.".into()), "a.x.c", "a.y.c"),
            (regex("a|b.*"), "bcd", "cab"),
        ] {
            let matches = name_matcher(&pattern(matcher, false), &FieldPath::root()).unwrap();
            assert!(matches(yes) && !matches(no), "{yes} {no}");
        }
        let insensitive = pattern(MatchPattern::Exact("A.b".into()), true);
        let matches = name_matcher(&insensitive, &FieldPath::root()).unwrap();
        assert!(matches("a.B"));
    }

    #[test]
    fn lists_admit_or_reject() {
        let live = || list(pattern(MatchPattern::Prefix("server.live".into()), false));
        for (matcher, live, state) in [
            (stats_matcher::StatsMatcher::RejectAll(true), false, false),
            (stats_matcher::StatsMatcher::RejectAll(false), true, true),
            (
                stats_matcher::StatsMatcher::InclusionList(live()),
                true,
                false,
            ),
            (
                stats_matcher::StatsMatcher::ExclusionList(live()),
                false,
                true,
            ),
        ] {
            let config = StatsConfig {
                stats_matcher: Some(StatsMatcher {
                    stats_matcher: Some(matcher),
                }),
                ..StatsConfig::default()
            };
            let options = StatsOptions::build(&config, &[], &FieldPath::root()).unwrap();
            assert_eq!(options.is_admitted("server.live"), live);
            assert_eq!(options.is_admitted("server.state"), state);
        }
    }

    #[test]
    fn bounds_are_sorted_and_chosen_by_name() {
        let config = StatsConfig {
            histogram_bucket_settings: vec![HistogramBucketSettings {
                r#match: Some(pattern(MatchPattern::Suffix("size".into()), false)),
                buckets: vec![3.0, 2.0],
                bins: None,
            }],
            ..StatsConfig::default()
        };
        let options = StatsOptions::build(&config, &[], &FieldPath::root()).unwrap();
        assert_eq!(options.bounds("a.size"), [2.0, 3.0]);
        assert_eq!(options.bounds("a.time").len(), 19);
    }

    #[test]
    fn every_error_has_its_path() {
        let tag = |name: &str, value| TagSpecifier {
            tag_name: name.into(),
            tag_value: value,
        };
        let config = StatsConfig {
            stats_tags: vec![
                tag("", Some(TagValue::FixedValue("x".into()))),
                tag("foo", None),
                tag("bar", Some(TagValue::Regex("(".into()))),
                tag("envoy.cluster_name", None),
            ],
            ..StatsConfig::default()
        };
        let path = FieldPath::root().field("stats_config");
        let errors = StatsOptions::build(&config, &[], &path).unwrap_err();
        let paths: Vec<_> = errors.0.iter().map(|e| e.path.to_string()).collect();
        let want = [
            "stats_tags[0].tag_name",
            "stats_tags[1].tag_name",
            "stats_tags[2].regex",
        ];
        assert_eq!(paths, want.map(|field| format!("stats_config.{field}")));
    }
}

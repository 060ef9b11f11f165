//! What a bootstrap's `stats_config` chooses: labels, which stats exist, and the buckets of histograms.

use crate::tags::TagRules;

/// Upper bounds of the buckets in which histograms are shown, unless configured; Envoy's, in milliseconds.
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

/// A question about a stat's full name.
pub type NameMatcher = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// How a store labels, chooses and buckets its stats. The default is Envoy's.
#[derive(Default)]
pub struct Options {
    pub(crate) tags: TagRules,
    pub(crate) admits: Option<NameMatcher>,
    pub(crate) bounds: Vec<(NameMatcher, Vec<f64>)>,
}

impl Options {
    pub(crate) fn has_matcher(&self) -> bool {
        self.admits.is_some()
    }

    /// Whether `stats_matcher` lets the stat exist. One that does not is still counted, which costs nothing, but never
    /// shown.
    pub(crate) fn is_admitted(&self, name: &str) -> bool {
        self.admits.as_ref().is_none_or(|admits| admits(name))
    }

    /// The upper bounds of the buckets for the histogram called `name`.
    pub(crate) fn bounds(&self, name: &str) -> &[f64] {
        let configured = self.bounds.iter().find(|(matches, _)| matches(name));
        configured.map_or(&DEFAULT_BOUNDS, |(_, bounds)| bounds)
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("tags", &self.tags)
            .finish_non_exhaustive()
    }
}

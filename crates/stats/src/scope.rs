//! The position of a group's stats in the tree of names.

/// The dotted prefix of a group's stats: `cluster.backend`, `listener.0.0.0.0_80.http.ingress`.
///
/// Prometheus labels are not set here: like Envoy, the store extracts them from the full name, so that both agree even
/// in surprising cases (a cluster called `a.b` has the label `a`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope(String);

impl Scope {
    /// A top-level scope: a fixed name such as `cluster` or `http`, or several joined by dots.
    pub fn new(name: &str) -> Self {
        Self(String::new()).name(name)
    }

    /// The scope `name` below this one. A name from the configuration is sanitized as in Envoy: `:` becomes `_`.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        if !self.0.is_empty() {
            self.0.push('.');
        }
        self.0.push_str(&sanitize(name));
        self
    }

    /// The scope `name` below this one, for the names of virtual hosts, virtual clusters, routes and zones, and for
    /// names chosen by clients: as in Envoy they are not sanitized, except that trailing dots are removed.
    #[must_use]
    pub fn verbatim(mut self, name: &str) -> Self {
        self.0.push('.');
        self.0.push_str(name.trim_end_matches('.'));
        self
    }

    /// The dotted name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The dotted name followed by a dot.
    pub(crate) fn into_prefix(mut self) -> Box<str> {
        if !self.0.is_empty() {
            self.0.push('.');
        }
        self.0.into()
    }
}

/// Envoy's `Stats::Utility::sanitizeStatsName`.
fn sanitize(name: &str) -> String {
    name.trim_end_matches('.')
        .replace("://", "_")
        .replace(":/", "_")
        .replace([':', '\0'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_joined_and_sanitized() {
        for (parts, want) in [
            (&["cluster", "a.b:80"][..], "cluster.a.b_80"),
            (
                &["listener", "[::1]:80", "http", "in"],
                "listener.[__1]_80.http.in",
            ),
            (&["cluster", "https://x:1/y"], "cluster.https_x_1/y"),
            (&["cluster", "x."], "cluster.x"),
        ] {
            let scope = parts[1..]
                .iter()
                .fold(Scope::new(parts[0]), |s, part| s.name(part));
            assert_eq!(scope.as_str(), want);
        }
    }
}

//! The names of all clusters.

use std::collections::HashSet;
use std::sync::Arc;

/// The names of all clusters, for checking references to clusters.
#[derive(Debug, Default)]
pub struct ClusterNames(HashSet<Arc<str>>);

impl FromIterator<Arc<str>> for ClusterNames {
    fn from_iter<I: IntoIterator<Item = Arc<str>>>(names: I) -> ClusterNames {
        ClusterNames(names.into_iter().collect())
    }
}

impl ClusterNames {
    /// Whether there is a cluster of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// The name of the cluster that `name` is probably a misspelling of.
    #[must_use]
    pub fn nearest(&self, name: &str) -> Option<&str> {
        outrider_config::nearest(name, self.0.iter().map(|name| &**name))
    }

    /// Adds a name.
    pub fn add(&mut self, name: &str) {
        self.0.insert(name.into());
    }

    /// Removes a name.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }
}

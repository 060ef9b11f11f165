//! An update of a subscription, wherever it comes from.

use outrider_config::Resource;

/// Resources that are new or have changed, and those that are gone.
#[derive(Debug, Default)]
pub struct Update {
    /// `version_info`, or `system_version_info` if the update is incremental.
    pub version: String,
    /// The resources, without errors.
    pub resources: Vec<Resource>,
    /// The resources that are gone.
    pub removed: Removed,
}

/// Which resources an update removes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Removed {
    /// All that it does not have: it is the state of the world.
    #[default]
    AllOthers,
    /// Those of these names.
    Names(Vec<String>),
}

impl Removed {
    /// Whether the resource of this name is gone, which the update does not have.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        match self {
            Removed::AllOthers => true,
            Removed::Names(names) => names.iter().any(|removed| removed == name),
        }
    }
}

//! The position of a value in a message: `static_resources.clusters[0].name`.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// The path of a field, from the root of the configuration down.
///
/// Cloning and extending cost one reference count: `build` functions pass paths down and only a failure prints them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct FieldPath(Option<Arc<PathNode>>);

#[derive(PartialEq, Eq)]
struct PathNode {
    parent: FieldPath,
    step: Step,
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Field(Cow<'static, str>),
    Index(usize),
    Key(String),
}

impl FieldPath {
    /// The empty path: the bootstrap itself.
    pub const fn root() -> Self {
        Self(None)
    }

    /// The path of the field `name` of the message at this path. Inside a `typed_config`, the path continues with the
    /// fields of its message.
    pub fn field(&self, name: impl Into<Cow<'static, str>>) -> Self {
        self.step(Step::Field(name.into()))
    }

    /// The path of element `index` of the list at this path.
    pub fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    /// The path of the value under `key` in the map at this path.
    pub fn key(&self, key: impl Into<String>) -> Self {
        self.step(Step::Key(key.into()))
    }

    pub(crate) fn step(&self, step: Step) -> Self {
        Self(Some(Arc::new(PathNode {
            parent: self.clone(),
            step,
        })))
    }

    /// The parent (message, list or map) of this value and the step from there; `None` at the root.
    pub(crate) fn last(&self) -> Option<(&Self, &Step)> {
        self.0.as_deref().map(|node| (&node.parent, &node.step))
    }

    pub(crate) fn parent(&self) -> Option<&Self> {
        self.last().map(|(parent, _)| parent)
    }

    /// Whether the path is inside the configuration of an extension. Envoy reads that when it creates the extension.
    pub fn is_in_extension(&self) -> bool {
        self.has_field(&|name| name.starts_with("typed_"))
    }

    /// Whether it leads through a field of this name.
    pub fn passes(&self, field: &str) -> bool {
        self.has_field(&|name| name == field)
    }

    fn has_field(&self, wanted: &dyn Fn(&str) -> bool) -> bool {
        self.last().is_some_and(|(parent, step)| {
            matches!(step, Step::Field(name) if wanted(name)) || parent.has_field(wanted)
        })
    }

    /// Whether this is the empty path.
    pub fn is_root(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(node) = &self.0 else { return Ok(()) };
        node.parent.fmt(f)?;
        match &node.step {
            Step::Field(name) if node.parent.is_root() => f.write_str(name),
            Step::Field(name) => write!(f, ".{name}"),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key:?}]"),
        }
    }
}

impl fmt::Debug for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FieldPath({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_fields_indices_and_keys() {
        let cluster = FieldPath::root()
            .field("static_resources")
            .field("clusters")
            .index(2);
        assert_eq!(cluster.to_string(), "static_resources.clusters[2]");
        let options = cluster.field("typed_extension_protocol_options").key("a.b");
        assert_eq!(
            options.to_string(),
            "static_resources.clusters[2].typed_extension_protocol_options[\"a.b\"]"
        );
        assert_eq!(FieldPath::root().to_string(), "");
    }

    #[test]
    fn knows_what_it_leads_through() {
        let cluster = FieldPath::root()
            .field("static_resources")
            .field("clusters");
        assert!(!cluster.is_in_extension());
        assert!(cluster.passes("static_resources"));
        assert!(!cluster.passes("route_config"));
        let options = cluster.index(0).field("typed_extension_protocol_options");
        assert!(options.key("typed").field("a").is_in_extension());
        assert!(!cluster.key("typed_config").is_in_extension());
    }
}

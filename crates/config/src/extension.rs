//! The extensions that are implemented, by Envoy's names.

use crate::schema::ExtensionRow;

/// An extension that configurations can name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Such as `envoy.filters.http.router`.
    pub name: &'static str,
    /// Such as `envoy.filters.http`.
    pub category: &'static str,
    /// The messages that configure it; empty for extensions that an enum selects.
    pub type_names: Vec<&'static str>,
}

/// The cluster types that have no message.
const CLUSTERS: [&str; 3] = [
    "envoy.cluster.logical_dns",
    "envoy.cluster.static",
    "envoy.cluster.strict_dns",
];

/// Rows of the table that Envoy does not list as extensions: the category of configurations of overload actions, and a
/// monitor.
const UNLISTED: [&str; 2] = [
    "envoy.overload_actions",
    "envoy.resource_monitors.global_downstream_max_connections",
];

/// Every extension that is implemented and that Envoy lists too, by category.
#[must_use]
pub fn extensions() -> Vec<Extension> {
    let mut extensions: Vec<Extension> = Vec::new();
    for row in ExtensionRow::all() {
        let (name, category) = (row.name(), row.category());
        let is_unlisted = UNLISTED.contains(&name) || UNLISTED.contains(&category);
        if is_unlisted || !row.is_implemented() && !CLUSTERS.contains(&name) {
            continue;
        }
        let types = Some(row.type_name()).filter(|name| !name.is_empty());
        match extensions.last_mut() {
            Some(last) if (last.name, last.category) == (name, category) => {
                last.type_names.extend(types);
            }
            _ => extensions.push(Extension {
                name,
                category,
                type_names: types.into_iter().collect(),
            }),
        }
    }
    extensions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_implemented() {
        let extensions = extensions();
        let find = |name: &str| extensions.iter().find(|extension| extension.name == name);
        let router = find("envoy.filters.http.router").unwrap();
        assert_eq!(router.category, "envoy.filters.http");
        let message = "envoy.extensions.filters.http.router.v3.Router";
        assert_eq!(router.type_names, [message]);
        assert!(find("envoy.cluster.static").unwrap().type_names.is_empty());
        assert!(find("envoy.filters.http.wasm").is_none());
    }
}

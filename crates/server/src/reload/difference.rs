//! Finds the changes in a bootstrap that can't be applied while the proxy runs.

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::Bootstrap;
use outrider_config::json::to_json;
use prost::Message as _;
use prost::Name as _;
use serde_json::Value;

/// Refuses a new bootstrap that differs from the running one in other fields than clusters, listeners and secrets, and names each.
pub(super) fn refuse_unchangeable(
    running: &Bootstrap,
    new: &Bootstrap,
) -> Result<(), ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let (running, new) = (unchangeable_part(running), unchangeable_part(new));
    let root = FieldPath::root();
    compare(&running, &new, &root, &mut errors);
    let resources = "static_resources";
    let path = root.field(resources);
    compare(&running[resources], &new[resources], &path, &mut errors);
    errors.finish(())
}

/// The bootstrap without clusters, listeners and secrets, as JSON.
fn unchangeable_part(bootstrap: &Bootstrap) -> Value {
    let mut rest = Bootstrap {
        static_resources: None,
        ..bootstrap.clone()
    };
    let resources = bootstrap.static_resources.clone();
    rest.static_resources = resources.map(|mut resources| {
        resources.clusters.clear();
        resources.secrets.clear();
        resources.listeners.clear();
        resources
    });
    to_json(&Bootstrap::full_name(), &rest.encode_to_vec()).unwrap_or_default()
}

/// Compares the members of two objects. `static_resources` is compared by its own members.
fn compare(running: &Value, new: &Value, path: &FieldPath, errors: &mut ConfigErrors) {
    let members = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let (running, new) = (members(running), members(new));
    let mut names: Vec<&String> = running.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        if name != "static_resources" && running.get(name) != new.get(name) {
            let path = path.field(name.clone());
            errors.push(
                &path,
                "cannot change while the proxy runs: restart it to have this applied",
            );
        }
    }
}

//! `layered_runtime`: values that operators override, in layers; the last layer that has a key wins.

use std::collections::BTreeMap;

use outrider_admin::NoAdminLayer;
use outrider_admin::RuntimeView;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::LayeredRuntime;
use outrider_config::api::envoy::config::bootstrap::v3::runtime_layer::LayerSpecifier;
use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind;

/// The layers. Only the main thread looks into them.
#[derive(Debug, Default)]
pub(crate) struct Runtime {
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    name: String,
    /// By key, as `/runtime` prints them.
    values: std::sync::Mutex<BTreeMap<String, String>>,
    is_admin: bool,
}

impl Runtime {
    /// The layers found at `path`.
    pub(crate) fn build(
        message: &LayeredRuntime,
        path: &FieldPath,
    ) -> Result<Runtime, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut layers: Vec<Layer> = Vec::new();
        for (index, layer) in message.layers.iter().enumerate() {
            let path = path.field("layers").index(index);
            if layers.iter().any(|earlier| earlier.name == layer.name) {
                errors.push(
                    &path.field("name"),
                    format!("duplicate layer name '{}'", layer.name),
                );
            }
            let mut values = BTreeMap::new();
            let mut is_admin = false;
            match &layer.layer_specifier {
                Some(LayerSpecifier::StaticLayer(layer)) => flatten("", layer, &mut values),
                Some(LayerSpecifier::AdminLayer(_))
                    if layers.iter().any(|earlier| earlier.is_admin) =>
                {
                    errors.push(
                        &path.field("admin_layer"),
                        "too many admin layers: only one is allowed",
                    );
                }
                Some(LayerSpecifier::AdminLayer(_)) => is_admin = true,
                Some(LayerSpecifier::DiskLayer(_)) => {
                    errors.push(&path.field("disk_layer"), "not supported")
                }
                Some(LayerSpecifier::RtdsLayer(_)) => {
                    errors.push(&path.field("rtds_layer"), "not supported")
                }
                None => errors.push(&path, "a layer is required: static_layer or admin_layer"),
            }
            layers.push(Layer {
                name: layer.name.clone(),
                values: std::sync::Mutex::new(values),
                is_admin,
            });
        }
        errors.finish(Runtime { layers })
    }

    /// The value of a key as a number that is not negative.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        let value = self.layers.iter().rev().find_map(|layer| {
            layer
                .values
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .get(key)
                .cloned()
        })?;
        value.parse().ok()
    }

    /// How many layers there are.
    pub(crate) fn layer_count(&self) -> usize {
        self.layers.len()
    }

    /// How many keys have a value, and how many of them the admin layer sets.
    pub(crate) fn key_counts(&self) -> (usize, usize) {
        let overrides = self
            .layers
            .iter()
            .filter(|layer| layer.is_admin)
            .map(|layer| {
                layer
                    .values
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .len()
            });
        (self.view().entries.len(), overrides.sum())
    }

    /// What `/runtime` shows.
    pub(crate) fn view(&self) -> RuntimeView {
        let mut entries: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (index, layer) in self.layers.iter().enumerate() {
            for (key, value) in layer
                .values
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .iter()
            {
                let values = entries
                    .entry(key.clone())
                    .or_insert_with(|| vec![String::new(); self.layers.len()]);
                values[index].clone_from(value);
            }
        }
        RuntimeView {
            layers: self.layers.iter().map(|layer| layer.name.clone()).collect(),
            entries: entries.into_iter().collect(),
        }
    }

    /// Sets values in the admin layer; an empty value takes an earlier one back.
    pub(crate) fn modify(&self, values: &[(String, String)]) -> Result<(), NoAdminLayer> {
        let layer = self
            .layers
            .iter()
            .find(|layer| layer.is_admin)
            .ok_or(NoAdminLayer)?;
        let mut overrides = layer
            .values
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for (key, value) in values {
            if value.is_empty() {
                overrides.remove(key);
            } else {
                overrides.insert(key.clone(), value.clone());
            }
        }
        Ok(())
    }
}

/// Nested structs become keys with dots. A struct that is a fractional percent is a value of its own.
fn flatten(prefix: &str, layer: &Struct, values: &mut BTreeMap<String, String>) {
    for (name, value) in &layer.fields {
        let key = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        match &value.kind {
            Some(Kind::StructValue(inner)) if !inner.fields.contains_key("numerator") => {
                flatten(&key, inner, values)
            }
            _ => {
                values.insert(key, print(value));
            }
        }
    }
}

fn print(value: &Value) -> String {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => String::new(),
        Some(Kind::BoolValue(on)) => on.to_string(),
        Some(Kind::NumberValue(number)) => number.to_string(),
        Some(Kind::StringValue(text)) => text.clone(),
        Some(Kind::ListValue(list)) => {
            let items: Vec<String> = list.values.iter().map(print).collect();
            format!("[{}]", items.join(", "))
        }
        Some(Kind::StructValue(inner)) => {
            let fields: BTreeMap<&String, String> = inner
                .fields
                .iter()
                .map(|(name, value)| (name, print(value)))
                .collect();
            let fields: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{name}: {value}"))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
    }
}

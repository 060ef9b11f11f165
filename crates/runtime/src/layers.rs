//! The layers of `layered_runtime`, on the main thread. The last layer that has a key wins.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;

use foldhash::fast::FixedState;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::LayeredRuntime;
use outrider_config::api::envoy::config::bootstrap::v3::RuntimeLayer;
use outrider_config::api::envoy::config::bootstrap::v3::runtime_layer::DiskLayer;
use outrider_config::api::envoy::config::bootstrap::v3::runtime_layer::LayerSpecifier;
use prost_types::Struct;
use prost_types::value::Kind;

use crate::Entry;
use crate::Snapshot;
use crate::disk;

/// The layers, lowest first.
#[derive(Debug, Default)]
pub struct Layers {
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    name: String,
    source: LayerSource,
    /// The values that were read last. Empty while a disk layer has no directory.
    values: Option<BTreeMap<String, Entry>>,
}

#[derive(Debug)]
enum LayerSource {
    Static,
    Disk {
        root: PathBuf,
        directory: PathBuf,
    },
    Admin,
    /// The values come from a control plane or a file of resources.
    Discovered,
}

/// A layer that is part of the snapshot.
#[derive(Clone, Copy, Debug)]
pub struct LoadedLayer<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its values by key.
    pub values: &'a BTreeMap<String, Entry>,
}

/// Why the admin layer refused values. It is unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusedValues {
    /// There is no admin layer.
    NoAdminLayer,
    /// A value is not YAML.
    Malformed {
        /// Its key.
        key: String,
        /// The error in the YAML.
        error: String,
    },
}

/// The outcome of reading all layers again.
#[derive(Debug)]
pub struct Loading {
    /// The values.
    pub snapshot: Snapshot,
    /// Disk layers that cannot be read, and why. They keep their values.
    pub errors: Vec<String>,
    /// How many directories of disk layers were read.
    pub disk_layers: usize,
}

impl Layers {
    /// The layers found at `path`; `service_cluster` is for `append_service_cluster`. Nothing is read yet.
    ///
    /// # Errors
    /// Names that are not unique, and a second admin layer.
    pub fn build(
        message: Option<&LayeredRuntime>,
        service_cluster: &str,
        path: &FieldPath,
    ) -> Result<Layers, ConfigErrors> {
        let Some(message) = message else {
            return Ok(Layers::default());
        };
        if message.layers.is_empty() {
            // A runtime without layers can be changed, as in Envoy.
            let admin = Layer::new("", LayerSource::Admin, BTreeMap::new());
            return Ok(Layers {
                layers: vec![admin],
            });
        }
        let mut errors = ConfigErrors::new();
        let mut layers: Vec<Layer> = Vec::new();
        for (index, message) in message.layers.iter().enumerate() {
            let path = path.field("layers").index(index);
            if layers.iter().any(|earlier| earlier.name == message.name) {
                errors.push(
                    &path.field("name"),
                    format!("Duplicate layer name: {}", message.name),
                );
            }
            match layer(message, service_cluster) {
                Some(layer) if layer.is_admin() && layers.iter().any(Layer::is_admin) => errors.push(
                    &path.field("admin_layer"),
                    "Too many admin layers specified in LayeredRuntime, at most one may be specified",
                ),
                Some(layer) => layers.push(layer),
                None => errors.push(
                    &path,
                    "expected one of static_layer, disk_layer, admin_layer, rtds_layer",
                ),
            }
        }
        errors.finish(Layers { layers })
    }

    /// The index of each disk layer, and the path whose replacement changes it.
    pub fn watched(&self) -> impl Iterator<Item = (usize, &Path)> {
        let layers = self.layers.iter().enumerate();
        layers.filter_map(|(index, layer)| match &layer.source {
            LayerSource::Disk { root, .. } => Some((index, root.as_path())),
            LayerSource::Static | LayerSource::Admin | LayerSource::Discovered => None,
        })
    }

    /// Whether values can change.
    #[must_use]
    pub fn can_change(&self) -> bool {
        let is_static = |layer: &Layer| matches!(layer.source, LayerSource::Static);
        !self.layers.iter().all(is_static)
    }

    /// Reads the disk layers, and puts all layers together.
    pub fn load(&mut self) -> Loading {
        let mut errors = Vec::new();
        let mut disk_layers = 0;
        for layer in &mut self.layers {
            let LayerSource::Disk { directory, .. } = &layer.source else {
                continue;
            };
            if !directory.is_dir() {
                layer.values = None;
                continue;
            }
            match disk::read(directory) {
                Ok(values) => {
                    layer.values = Some(values);
                    disk_layers += 1;
                }
                Err(error) => errors.push(format!("runtime layer {}: {error}", layer.name)),
            }
        }
        let mut values: HashMap<Box<str>, Entry, FixedState> = HashMap::default();
        for layer in self.loaded() {
            for (key, entry) in layer.values {
                values.insert(key.as_str().into(), entry.clone());
            }
        }
        Loading {
            snapshot: Snapshot::new(values),
            errors,
            disk_layers,
        }
    }

    /// The layers that are part of the snapshot, lowest first.
    pub fn loaded(&self) -> impl Iterator<Item = LoadedLayer<'_>> {
        self.layers.iter().filter_map(|layer| {
            Some(LoadedLayer {
                name: &layer.name,
                values: layer.values.as_ref()?,
            })
        })
    }

    /// Whether the admin layer has a value.
    #[must_use]
    pub fn has_overrides(&self) -> bool {
        let admin = self.layers.iter().find(|layer| layer.is_admin());
        let values = admin.and_then(|layer| layer.values.as_ref());
        values.is_some_and(|values| !values.is_empty())
    }

    /// Replaces all values of the layer of this name, which were discovered. They are visible after the next
    /// [`load`](Self::load).
    pub fn set_discovered(&mut self, name: &str, values: &Struct) {
        let mut flat = BTreeMap::new();
        flatten("", values, &mut flat);
        if let Some(layer) = self.layers.iter_mut().find(|layer| layer.name == name) {
            layer.values = Some(flat);
        }
    }

    /// Sets values in the admin layer. An empty value removes the key. If a key is given several times, the first value
    /// counts.
    ///
    /// # Errors
    /// There is no admin layer, or one of the values is not YAML; then no value is set.
    pub fn modify(&mut self, values: &[(String, String)]) -> Result<(), RefusedValues> {
        let layer = self.layers.iter_mut().find(|layer| layer.is_admin());
        let layer = layer.ok_or(RefusedValues::NoAdminLayer)?;
        let mut overrides = layer.values.clone().unwrap_or_default();
        for (index, (key, text)) in values.iter().enumerate() {
            let before = values.iter().take(index);
            if before.into_iter().any(|(earlier, _)| earlier == key) {
                continue;
            }
            if text.is_empty() {
                overrides.remove(key);
                continue;
            }
            let entry = Entry::of_text(text).map_err(|error| RefusedValues::Malformed {
                key: key.clone(),
                error,
            })?;
            overrides.insert(key.clone(), entry);
        }
        layer.values = Some(overrides);
        Ok(())
    }
}

fn layer(message: &RuntimeLayer, service_cluster: &str) -> Option<Layer> {
    let name = &message.name;
    match message.layer_specifier.as_ref()? {
        LayerSpecifier::StaticLayer(values) => {
            let mut flat = BTreeMap::new();
            flatten("", values, &mut flat);
            Some(Layer::new(name, LayerSource::Static, flat))
        }
        LayerSpecifier::AdminLayer(_) => {
            Some(Layer::new(name, LayerSource::Admin, BTreeMap::new()))
        }
        LayerSpecifier::DiskLayer(disk) => Some(Layer {
            name: name.clone(),
            source: disk_source(disk, service_cluster),
            values: None,
        }),
        LayerSpecifier::RtdsLayer(_) => {
            Some(Layer::new(name, LayerSource::Discovered, BTreeMap::new()))
        }
    }
}

fn disk_source(message: &DiskLayer, service_cluster: &str) -> LayerSource {
    let mut directory = format!("{}/{}", message.symlink_root, message.subdirectory);
    if message.append_service_cluster {
        directory = format!("{directory}/{service_cluster}");
    }
    LayerSource::Disk {
        root: PathBuf::from(&message.symlink_root),
        directory: directory.into(),
    }
}

impl Layer {
    fn new(name: &str, source: LayerSource, values: BTreeMap<String, Entry>) -> Layer {
        Layer {
            name: name.to_owned(),
            source,
            values: Some(values),
        }
    }

    fn is_admin(&self) -> bool {
        matches!(self.source, LayerSource::Admin)
    }
}

/// Nested structs become keys with dots. A struct that is a fractional percent, or empty, is a value.
fn flatten(prefix: &str, layer: &Struct, values: &mut BTreeMap<String, Entry>) {
    for (name, value) in &layer.fields {
        let key = match prefix {
            "" => name.clone(),
            prefix => format!("{prefix}.{name}"),
        };
        match &value.kind {
            Some(Kind::StructValue(inner)) if is_group(inner) => flatten(&key, inner, values),
            _ => {
                values.insert(key, Entry::of_value(value));
            }
        }
    }
}

fn is_group(value: &Struct) -> bool {
    let has = |name| value.fields.contains_key(name);
    !value.fields.is_empty() && !has("numerator") && !has("denominator")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use prost_types::Value;

    use super::*;

    fn static_layer(name: &str, values: &[(&str, &str)]) -> RuntimeLayer {
        let string = |text: &str| Value {
            kind: Some(Kind::StringValue(text.to_owned())),
        };
        let fields = values.iter();
        let fields = fields.map(|(key, text)| ((*key).to_owned(), string(text)));
        RuntimeLayer {
            name: name.to_owned(),
            layer_specifier: Some(LayerSpecifier::StaticLayer(Struct {
                fields: fields.collect(),
            })),
        }
    }

    fn admin(name: &str) -> RuntimeLayer {
        RuntimeLayer {
            name: name.to_owned(),
            layer_specifier: Some(LayerSpecifier::AdminLayer(Default::default())),
        }
    }

    fn disk(name: &str, root: &Path) -> RuntimeLayer {
        RuntimeLayer {
            name: name.to_owned(),
            layer_specifier: Some(LayerSpecifier::DiskLayer(DiskLayer {
                symlink_root: root.display().to_string(),
                subdirectory: "envoy".to_owned(),
                append_service_cluster: false,
            })),
        }
    }

    fn build(layers: Vec<RuntimeLayer>) -> Result<Layers, ConfigErrors> {
        let message = LayeredRuntime { layers };
        Layers::build(Some(&message), "cluster", &FieldPath::root())
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn the_last_layer_that_has_a_key_wins() {
        let base = static_layer("base", &[("a", "1"), ("b", "2")]);
        let over = static_layer("over", &[("a", "3")]);
        let mut layers = build(vec![base, over, admin("admin")]).unwrap();
        let number = |layers: &mut Layers, key| layers.load().snapshot.number(key);
        assert_eq!(number(&mut layers, "a"), Some(3));
        assert_eq!(number(&mut layers, "b"), Some(2));
        let changes = [pair("a", "4"), pair("a", "5"), pair("c", "6")];
        layers.modify(&changes).unwrap();
        assert_eq!(number(&mut layers, "a"), Some(4));
        let malformed = layers.modify(&[pair("a", "7"), pair("d", "{")]);
        assert!(matches!(malformed, Err(RefusedValues::Malformed { key, .. }) if key == "d"));
        assert_eq!(number(&mut layers, "a"), Some(4));
        layers.modify(&[pair("a", ""), pair("c", "")]).unwrap();
        assert_eq!(number(&mut layers, "a"), Some(3));
        assert!(!layers.has_overrides());
    }

    #[test]
    fn discovered_values_replace_those_before() {
        let discovered = RuntimeLayer {
            name: "rtds".to_owned(),
            layer_specifier: Some(LayerSpecifier::RtdsLayer(Default::default())),
        };
        let mut layers = build(vec![static_layer("base", &[("a", "1")]), discovered]).unwrap();
        assert!(layers.can_change());
        assert_eq!(layers.load().snapshot.number("a"), Some(1));
        let LayerSpecifier::StaticLayer(values) = static_layer("", &[("a", "2"), ("b", "3")])
            .layer_specifier
            .unwrap()
        else {
            unreachable!("a static layer was built");
        };
        layers.set_discovered("rtds", &values);
        let snapshot = layers.load().snapshot;
        assert_eq!(
            (snapshot.number("a"), snapshot.number("b")),
            (Some(2), Some(3))
        );
        layers.set_discovered("rtds", &Struct::default());
        let snapshot = layers.load().snapshot;
        assert_eq!(
            (snapshot.number("a"), snapshot.number("b")),
            (Some(1), None)
        );
        assert_eq!(layers.loaded().count(), 2);
    }

    #[test]
    fn names_are_unique_and_there_is_one_admin_layer() {
        let twice = vec![static_layer("a", &[]), static_layer("a", &[])];
        let error = build(twice).unwrap_err().to_string();
        assert_eq!(error, "layers[1].name: Duplicate layer name: a");
        let error = build(vec![admin("a"), admin("b")]).unwrap_err().to_string();
        assert!(error.contains("Too many admin layers"), "{error}");
        let mut without = build(vec![static_layer("a", &[])]).unwrap();
        assert_eq!(without.modify(&[]), Err(RefusedValues::NoAdminLayer));
        assert!(!without.can_change());
        let mut empty = build(Vec::new()).unwrap();
        assert_eq!(empty.modify(&[pair("a", "1")]), Ok(()));
    }

    #[test]
    fn a_disk_layer_that_cannot_be_read_stays_as_it_was() {
        let root = std::env::temp_dir().join(format!("outrider-runtime-{}", std::process::id()));
        let file = root.join("envoy/a/b");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "# five\n5\n").unwrap();
        let mut layers = build(vec![disk("disk", &root)]).unwrap();
        let loading = layers.load();
        assert_eq!(loading.snapshot.number("a.b"), Some(5));
        assert_eq!((loading.disk_layers, loading.errors.len()), (1, 0));
        fs::write(&file, "{").unwrap();
        let loading = layers.load();
        assert_eq!(loading.snapshot.number("a.b"), Some(5));
        assert!(
            loading.errors[0].contains("(key a.b): line "),
            "{loading:?}"
        );
        fs::remove_dir_all(&root).unwrap();
        assert!(layers.load().snapshot.is_empty());
        assert_eq!(layers.loaded().count(), 0);
    }
}

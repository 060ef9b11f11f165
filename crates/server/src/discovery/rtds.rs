//! Runtime values from control planes or files of resources (`rtds_layer`).

use std::io;
use std::rc::Rc;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::Bootstrap;
use outrider_config::api::envoy::config::bootstrap::v3::runtime_layer::LayerSpecifier;
use outrider_config::api::envoy::config::core::v3::ConfigSource as SourceMessage;
use outrider_config::api::envoy::service::runtime::v3::Runtime;
use outrider_stats::Scope;
use outrider_xds::ConfigSource;
use outrider_xds::Removed;
use outrider_xds::ResourceType;
use outrider_xds::Sources;
use outrider_xds::Subscription;
use outrider_xds::SubscriptionTarget;
use outrider_xds::Update;
use prost::Message as _;
use prost_types::Struct;
use tokio::task::JoinSet;

use crate::control::Control;

/// A layer of the runtime whose values are discovered.
#[derive(Clone, Debug)]
pub(crate) struct DiscoveredLayer {
    /// The name of the layer.
    layer: String,
    /// The name of the resource (`RtdsLayer.name`).
    resource: String,
    source: ConfigSource,
}

/// The `rtds_layer`s of `bootstrap`.
///
/// # Errors
/// A source is not supported, its file is missing, or the cluster of its control plane does not exist.
pub(super) fn build(
    bootstrap: &Bootstrap,
    sources: &Sources,
) -> Result<Vec<DiscoveredLayer>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let mut discovered = Vec::new();
    let path = FieldPath::root().field("layered_runtime").field("layers");
    let layers = bootstrap.layered_runtime.iter();
    for (index, layer) in layers.flat_map(|runtime| &runtime.layers).enumerate() {
        let Some(LayerSpecifier::RtdsLayer(rtds)) = &layer.layer_specifier else {
            continue;
        };
        let path = path.index(index).field("rtds_layer").field("rtds_config");
        let default = SourceMessage::default();
        let message = rtds.rtds_config.as_ref().unwrap_or(&default);
        if let Some(source) = errors.collect(ConfigSource::build(message, &path, sources)) {
            discovered.push(DiscoveredLayer {
                layer: layer.name.clone(),
                resource: rtds.name.clone(),
                source,
            });
        }
    }
    errors.finish(discovered)
}

/// Subscribes to the values of these layers. Waits until each has its first values, or has none for now.
///
/// # Errors
/// A file cannot be watched.
pub(crate) async fn start(layers: &[DiscoveredLayer], control: &Rc<Control>) -> io::Result<()> {
    let mut subscribed = Vec::with_capacity(layers.len());
    for layer in layers {
        let subject = SubscriptionTarget {
            kind: &ResourceType::RUNTIME,
            name: Some(&layer.resource),
            scope: Scope::new("runtime"),
        };
        let sources = control.clusters.sources();
        let subscription = sources.subscribe(&layer.source, subject, &control.store)?;
        subscribed.push((layer.clone(), subscription));
    }
    let mut reading = JoinSet::new();
    for (layer, mut subscription) in subscribed {
        let control = control.clone();
        reading.spawn_local(async move {
            subscription
                .update(async |update| layer.take(&update, &control))
                .await;
            tokio::task::spawn_local(layer.follow(subscription, control));
        });
    }
    while reading.join_next().await.is_some() {}
    Ok(())
}

impl DiscoveredLayer {
    /// Applies all further values.
    async fn follow(self, mut subscription: Subscription, control: Rc<Control>) {
        loop {
            subscription.changed().await;
            subscription
                .update(async |update| self.take(&update, &control))
                .await;
        }
    }

    /// Applies the values in `update`, or returns why they are refused.
    fn take(&self, update: &Update, control: &Control) -> Result<(), String> {
        let removed: &[String] = match &update.removed {
            Removed::AllOthers => &[],
            Removed::Names(names) => names,
        };
        match (update.resources.as_slice(), removed) {
            ([resource], []) if resource.name == self.resource => {
                let message = Runtime::decode(resource.wire.as_slice());
                let message = message.map_err(|error| error.to_string())?;
                self.set(&message.layer.unwrap_or_default(), control);
                Ok(())
            }
            ([resource], []) => Err(format!(
                "Unexpected RTDS runtime (expecting {}): {}",
                self.resource, resource.name
            )),
            ([], [name]) if *name == self.resource => {
                self.set(&Struct::default(), control);
                Ok(())
            }
            ([], [name]) => Err(format!(
                "Unexpected removal of unknown RTDS runtime layer {name}, expected {}",
                self.resource
            )),
            (added, removed) => Err(format!(
                "Unexpected RTDS resource length, number of added recources {}, number of removed recources {}",
                added.len(),
                removed.len()
            )),
        }
    }

    fn set(&self, values: &Struct, control: &Control) {
        control.runtime.set_discovered(&self.layer, values);
        control.reload_runtime();
    }
}

//! Control planes: one task for each stream, on the main thread.
//!
//! Subscriptions send [`Command`]s to the task of their stream, which sends them [`Event`]s. An update is acknowledged, or
//! refused with the reason, once all subscriptions have applied it. So a task handles one response at a time: a control
//! plane that sends faster has to wait.

mod client;
mod incremental;
mod mux;
mod protocol;
mod rate;
mod received;
mod state_of_the_world;
#[cfg(test)]
mod tests;
mod ttl;

use std::rc::Rc;
use std::sync::Arc;

use outrider_config::api::envoy::config::core::v3::Node;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

pub use client::ControlPlaneClient;
pub use client::DiscoveryStream;
pub use client::LocalFuture;
pub use client::Overflow;
pub use client::XdsRequest;
pub use client::XdsResponse;

use crate::ApiSource;
use crate::ResourceType;
use crate::Sources;
use crate::Update;
use crate::UpdateStats;
use crate::sources::Receivers;
use crate::stats::ControlPlaneStats;
use mux::Mux;

/// What subscriptions ask of a stream.
#[derive(Debug)]
pub(crate) enum Command {
    Subscribe(Watcher),
    Unsubscribe {
        kind: &'static ResourceType,
        id: u64,
    },
    /// Send no requests for this type.
    Pause(&'static ResourceType),
    Resume(&'static ResourceType),
}

/// A subscription, as its stream sees it.
#[derive(Debug)]
pub(crate) struct Watcher {
    pub(crate) id: u64,
    pub(crate) kind: &'static ResourceType,
    /// The one resource; `None` for all of the type.
    pub(crate) name: Option<String>,
    pub(crate) stats: Arc<UpdateStats>,
    pub(crate) events: mpsc::Sender<Event>,
}

/// What a stream tells a subscription.
#[derive(Debug)]
pub(crate) enum Event {
    /// New resources. The subscription replies whether it has applied them, or why not.
    Update(Update, oneshot::Sender<Result<(), String>>),
    /// A response was refused, perhaps because of the resource of another subscription.
    Rejected,
}

/// A stream of one subscription (`api_config_source`).
#[derive(Debug)]
pub(crate) struct NewMux {
    pub(crate) source: Arc<ApiSource>,
    pub(crate) kind: &'static ResourceType,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) stats: Arc<ControlPlaneStats>,
}

/// Opens the streams of all subscriptions.
pub struct ControlPlanes {
    sources: Sources,
    client: Rc<dyn ControlPlaneClient>,
    node: Arc<Node>,
}

impl ControlPlanes {
    /// Connects to the control planes of `sources` and identifies this proxy to them as `node`.
    #[must_use]
    pub fn new(sources: &Sources, client: Rc<dyn ControlPlaneClient>, node: Node) -> ControlPlanes {
        ControlPlanes {
            sources: sources.clone(),
            client,
            node: Arc::new(node),
        }
    }

    /// Serves subscriptions from now on, inside a `LocalSet` on the main thread. The stream of `aggregated`, with its stats,
    /// is opened once `ready` has ended.
    pub fn start(
        self,
        aggregated: Option<(Arc<ApiSource>, Arc<ControlPlaneStats>)>,
        ready: impl Future<Output = ()> + 'static,
    ) {
        let Some(receivers) = self.sources.take_receivers() else {
            return;
        };
        let Receivers {
            aggregated: commands,
            mut muxes,
        } = receivers;
        // Without `ads_config`, the receiver is dropped; subscriptions of `ads` then never get a response, as in Envoy.
        if let Some((source, stats)) = aggregated {
            let mux = self.mux(NewMux {
                source,
                kind: &ResourceType::AGGREGATED,
                commands,
                stats,
            });
            tokio::task::spawn_local(async move {
                ready.await;
                mux.run().await;
            });
        }
        tokio::task::spawn_local(async move {
            while let Some(new) = muxes.recv().await {
                tokio::task::spawn_local(self.mux(new).run());
            }
        });
    }

    fn mux(&self, new: NewMux) -> Mux {
        Mux::new(
            new,
            self.sources.clone(),
            self.client.clone(),
            self.node.clone(),
        )
    }
}

impl std::fmt::Debug for ControlPlanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlPlanes").finish_non_exhaustive()
    }
}

//! The state that all subscriptions share.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::ArcSwap;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::DisabledExtensions;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::GrpcService;
use outrider_net::FileWatches;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::mpsc::unbounded_channel;

use crate::control_plane::Command;
use crate::control_plane::NewMux;

/// Checks a gRPC service, found at a path, that may name the clusters that the function accepts. Implemented by
/// the crate that makes the calls.
pub type ServiceCheck =
    fn(&GrpcService, &FieldPath, &dyn Fn(&str) -> bool) -> Result<(), ConfigErrors>;

/// The file watches, the ways to the control planes, and the treatment of unknown fields. Clones share all of it.
#[derive(Clone)]
pub struct Sources(Arc<SharedSources>);

struct SharedSources {
    watches: FileWatches,
    reject_unknown_fields: AtomicBool,
    log_no_unknown_fields: AtomicBool,
    with_unknown_fields: AtomicU64,
    disabled_extensions: OnceLock<DisabledExtensions>,
    check_service: ServiceCheck,
    /// The bootstrap's clusters.
    clusters: ArcSwap<StaticClusters>,
    aggregated: UnboundedSender<Command>,
    muxes: UnboundedSender<NewMux>,
    receivers: Mutex<Option<Receivers>>,
    subscriptions: AtomicU64,
}

/// The names of the bootstrap's clusters, which control planes may have.
#[derive(Clone, Debug, Default)]
pub struct StaticClusters {
    /// All.
    pub all: HashSet<String>,
    /// Those that need no control plane to find their hosts.
    pub primary: HashSet<String>,
}

/// The other ends, which [`crate::ControlPlanes`] takes.
pub(crate) struct Receivers {
    pub(crate) aggregated: UnboundedReceiver<Command>,
    pub(crate) muxes: UnboundedReceiver<NewMux>,
}

impl Default for Sources {
    fn default() -> Sources {
        Sources::new(|_, _, _| Ok(()))
    }
}

impl Sources {
    /// No sources yet. Services of control planes are checked with `check_service`.
    #[must_use]
    pub fn new(check_service: ServiceCheck) -> Sources {
        let (aggregated, to_aggregated) = unbounded_channel();
        let (muxes, new_muxes) = unbounded_channel();
        Sources(Arc::new(SharedSources {
            watches: FileWatches::default(),
            reject_unknown_fields: AtomicBool::default(),
            log_no_unknown_fields: AtomicBool::default(),
            with_unknown_fields: AtomicU64::default(),
            disabled_extensions: OnceLock::default(),
            check_service,
            clusters: ArcSwap::default(),
            aggregated,
            muxes,
            receivers: Mutex::new(Some(Receivers {
                aggregated: to_aggregated,
                muxes: new_muxes,
            })),
            subscriptions: AtomicU64::default(),
        }))
    }

    /// The file watches.
    #[must_use]
    pub fn watches(&self) -> &FileWatches {
        &self.0.watches
    }

    /// Sets the bootstrap's clusters, which control planes may have.
    pub fn set_clusters(&self, clusters: StaticClusters) {
        self.0.clusters.store(Arc::new(clusters));
    }

    /// Checks the gRPC service of a control plane.
    pub(crate) fn check_service(
        &self,
        service: &GrpcService,
        path: &FieldPath,
    ) -> Result<(), ConfigErrors> {
        let clusters = self.0.clusters.load();
        (self.0.check_service)(service, path, &|name| clusters.all.contains(name))
    }

    /// Checks that the bootstrap has this cluster, and that it needs no control plane itself.
    pub(crate) fn check_primary(&self, name: &str, path: &FieldPath) -> Result<(), ConfigError> {
        if self.0.clusters.load().primary.contains(name) {
            return Ok(());
        }
        let text = format!(
            "must have a statically defined non-EDS cluster: '{name}' does not exist, was added via api, or is an EDS cluster"
        );
        let path = path.field("grpc_services").index(0).field("envoy_grpc");
        Err(ConfigError::new(&path.field("cluster_name"), text))
    }

    /// Where subscriptions of `ads` are.
    pub(crate) fn aggregated(&self) -> &UnboundedSender<Command> {
        &self.0.aggregated
    }

    /// Where new subscriptions of `api_config_source` go.
    pub(crate) fn muxes(&self) -> &UnboundedSender<NewMux> {
        &self.0.muxes
    }

    /// A number that no other subscription has.
    pub(crate) fn next_subscription(&self) -> u64 {
        self.0.subscriptions.fetch_add(1, Relaxed)
    }

    /// The other ends of these; `None` after the first call.
    pub(crate) fn take_receivers(&self) -> Option<Receivers> {
        let receivers = self.0.receivers.lock();
        receivers.unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Applies `--reject-unknown-dynamic-fields` and `--ignore-unknown-dynamic-fields`.
    pub fn treat_unknown_fields(&self, reject: bool, ignore: bool) {
        self.0.reject_unknown_fields.store(reject, Relaxed);
        self.0.log_no_unknown_fields.store(ignore, Relaxed);
    }

    /// Applies `--disable-extensions`. Only the first call has an effect.
    pub fn disable_extensions(&self, disabled: DisabledExtensions) {
        self.0.disabled_extensions.get_or_init(|| disabled);
    }

    pub(crate) fn disabled_extensions(&self) -> DisabledExtensions {
        self.0
            .disabled_extensions
            .get()
            .cloned()
            .unwrap_or_default()
    }

    pub(crate) fn allows_unknown_fields(&self) -> bool {
        !self.0.reject_unknown_fields.load(Relaxed)
    }

    /// Counts an update with unknown fields. Returns whether to log them.
    pub(crate) fn count_unknown_fields(&self) -> bool {
        let ignored = self.0.log_no_unknown_fields.load(Relaxed);
        if !ignored {
            self.0.with_unknown_fields.fetch_add(1, Relaxed);
        }
        !ignored
    }

    /// The number of updates with unknown fields since the last call (`server.dynamic_unknown_fields`).
    #[must_use]
    pub fn take_unknown_fields(&self) -> u64 {
        self.0.with_unknown_fields.swap(0, Relaxed)
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

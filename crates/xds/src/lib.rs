//! Resources that come from outside the bootstrap: clusters, listeners, routes, endpoints and secrets.
//!
//! A [`ConfigSource`] says where they come from: a file, or a control plane. A [`Subscription`] waits for updates and counts
//! the outcomes. The crate that uses the resources decodes and applies them.

mod api_source;
mod control_plane;
mod file;
mod resource_type;
mod secrets;
mod source;
mod sources;
mod stats;
mod subscription;
mod update;

pub use api_source::ApiSource;
pub use api_source::Protocol;
pub use api_source::RateLimit;
pub use control_plane::ControlPlaneClient;
pub use control_plane::ControlPlanes;
pub use control_plane::DiscoveryStream;
pub use control_plane::LocalFuture;
pub use control_plane::Overflow;
pub use control_plane::XdsRequest;
pub use control_plane::XdsResponse;
pub(crate) use file::FileSubscription;
pub use resource_type::ResourceType;
pub use secrets::DumpedSecret;
pub use secrets::SecretDump;
pub use secrets::SecretManager;
pub use secrets::check_secret_sources;
pub use source::ConfigSource;
pub use source::FileSource;
pub use source::Origin;
pub use sources::ServiceCheck;
pub use sources::Sources;
pub use sources::StaticClusters;
pub use stats::ControlPlaneStats;
pub use stats::UpdateStats;
pub use subscription::Acknowledgements;
pub use subscription::Subscription;
pub use subscription::SubscriptionTarget;
pub use update::Removed;
pub use update::Update;

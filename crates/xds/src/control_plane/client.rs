//! The calls to control planes, which a crate above this one makes.

use std::pin::Pin;

use outrider_config::api::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use outrider_config::api::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use outrider_config::api::envoy::service::discovery::v3::DiscoveryRequest;
use outrider_config::api::envoy::service::discovery::v3::DiscoveryResponse;

use crate::ApiSource;

/// A future of the main thread.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Opens streams to control planes.
pub trait ControlPlaneClient {
    /// Calls a streaming method of the control plane, of the protocol that `source` names. Fails with the reason.
    fn open<'a>(
        &'a self,
        source: &'a ApiSource,
        method: &'static str,
    ) -> LocalFuture<'a, Result<Box<dyn DiscoveryStream>, String>>;
}

/// An open stream. It is reset when it is dropped.
pub trait DiscoveryStream {
    /// Queues a request, which is sent while [`next`](Self::next) waits.
    ///
    /// # Errors
    /// The control plane does not read its requests, and too many wait already.
    fn send(&self, request: &XdsRequest) -> Result<(), Overflow>;

    /// The next response; `None` if the control plane has ended the stream. Fails with the reason. Dropping the future loses
    /// nothing.
    fn next(&mut self) -> LocalFuture<'_, Result<Option<XdsResponse>, String>>;
}

/// Too many requests wait to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

/// A request of either protocol.
#[derive(Clone, Debug, PartialEq)]
pub enum XdsRequest {
    /// For the state of the world.
    Whole(DiscoveryRequest),
    /// For changes.
    Incremental(DeltaDiscoveryRequest),
}

/// A response of either protocol.
#[derive(Clone, Debug, PartialEq)]
pub enum XdsResponse {
    /// The state of the world.
    Whole(DiscoveryResponse),
    /// Changes.
    Incremental(DeltaDiscoveryResponse),
}

//! What selects the host of a request, decided once for all its attempts.

use std::borrow::Cow;
use std::sync::Arc;

use outrider_upstream::Cluster;
use outrider_upstream::LookupFailure;
use outrider_upstream::MetadataMatchCriteria;
use outrider_upstream::PickRequest;

use crate::Stream;
use crate::dynamic_host;
use crate::route::ForwardAction;
use crate::route::RequestHash;
use crate::router::RouterCx;
use crate::wait::StopReason;

/// The properties of a request that its cluster selects hosts by.
#[derive(Debug, Default)]
pub(super) struct HostSelection<'a> {
    hashed: RequestHash,
    /// The route's `metadata_match`, overridden by the dynamic metadata `envoy.lb`.
    metadata_match: Option<Cow<'a, MetadataMatchCriteria>>,
    /// The host that the request names, if they name the hosts of its cluster.
    dynamic_host: Option<Arc<str>>,
}

impl<'a> HostSelection<'a> {
    /// Computes what `cluster` needs.
    pub(super) fn of(forward: &'a ForwardAction, cluster: &Cluster, stream: &Stream) -> Self {
        let balancer = &cluster.info().balancer;
        HostSelection {
            hashed: match &forward.hash_policy {
                Some(policy) if balancer.uses_hash() => policy.hash(stream),
                _ => RequestHash::default(),
            },
            metadata_match: (balancer.uses_metadata())
                .then(|| metadata_match(forward, stream))
                .flatten(),
            dynamic_host: None,
        }
    }

    /// Finds the host that the request names, whose head is as it goes upstream. This may have to wait for DNS.
    pub(super) async fn find_dynamic_host(
        &mut self,
        cluster: &Cluster,
        stream: &Stream,
        cx: &mut RouterCx<'_>,
    ) -> Result<Result<(), LookupFailure>, StopReason> {
        let Some(hosts) = &cluster.info().dynamic_hosts else {
            return Ok(Ok(()));
        };
        let name = dynamic_host::of_request(stream, hosts, true);
        let found = match hosts.known(&name) {
            Some(found) => found,
            None => cx.wait.until(hosts.find(&name)).await?,
        };
        Ok(found.map(|name| self.dynamic_host = Some(name)))
    }

    /// The request for a host, after so many hosts were `rejected` for this attempt.
    pub(super) fn request(&self, rejected: u32) -> PickRequest<'_> {
        PickRequest {
            hash: self.hashed.hash,
            rejected,
            metadata_match: self.metadata_match.as_deref(),
            dynamic_host: self.dynamic_host.as_deref(),
        }
    }

    /// Adds to the response the cookies that make the client's next request select the same host.
    pub(super) fn set_cookies(self, stream: &mut Stream) {
        self.hashed.set_cookies(stream);
    }
}

fn metadata_match<'a>(
    forward: &'a ForwardAction,
    stream: &Stream,
) -> Option<Cow<'a, MetadataMatchCriteria>> {
    let of_route = forward.metadata_match.as_deref();
    match stream.dynamic_metadata.get() {
        Some(metadata) if metadata.filter_metadata.contains_key("envoy.lb") => {
            MetadataMatchCriteria::merged(of_route, Some(metadata)).map(Cow::Owned)
        }
        _ => of_route.map(Cow::Borrowed),
    }
}

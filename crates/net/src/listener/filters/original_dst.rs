//! `envoy.filters.listener.original_dst`: finds the address that a client connected to before the kernel redirected its
//! connection to this proxy (`REDIRECT` of iptables).

use std::net::SocketAddr;
use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use outrider_config::unpack;
use prost_types::Any;

use super::BuildListenerFilter;
use super::InspectedConnection;
use super::ListenerFilter;
use super::ListenerFilterConfig;
use super::ListenerFilterStatus;
use crate::Address;
use crate::NetworkStream;
use crate::WorkerCx;

pub(super) const FACTORY: Factory<BuildListenerFilter> = Factory {
    message: "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
    build,
};

fn build(any: &Any, path: &FieldPath) -> Result<Arc<dyn ListenerFilterConfig>, ConfigErrors> {
    unpack::<OriginalDst>(any, path)?;
    Ok(Arc::new(OriginalDestination))
}

#[derive(Debug)]
struct OriginalDestination;

impl ListenerFilterConfig for OriginalDestination {
    fn worker(self: Arc<Self>, _: &WorkerCx) -> Box<dyn ListenerFilter> {
        Box::new(OriginalDestination)
    }
}

impl ListenerFilter for OriginalDestination {
    fn on_accept(
        &self,
        stream: &NetworkStream,
        connection: &mut InspectedConnection,
        _: &WorkerCx,
    ) -> ListenerFilterStatus {
        // The kernel knows none if it has not redirected the connection.
        if let NetworkStream::Tcp(socket) = stream
            && let Some(local) = connection.local.ip()
        {
            let original = match local {
                SocketAddr::V4(_) => {
                    rustix::net::sockopt::ip_original_dst(socket).map(SocketAddr::V4)
                }
                SocketAddr::V6(_) => {
                    rustix::net::sockopt::ipv6_original_dst(socket).map(SocketAddr::V6)
                }
            };
            if let Ok(original) = original
                && original != local
            {
                let remote = connection.remote.clone();
                connection.replace_addresses(Address::from(original), remote);
            }
        }
        ListenerFilterStatus::Continue
    }
}

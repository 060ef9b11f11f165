//! What the tests of several modules build.

use std::net::SocketAddr;

use outrider_net::Address;
use outrider_net::ConnectionInfo;
use tokio::time::Instant;

/// A connection between these two.
pub(crate) fn connection(local: SocketAddr, remote: SocketAddr) -> ConnectionInfo {
    ConnectionInfo {
        id: 1,
        local: Address::from(local),
        remote: Address::from(remote),
        started: Instant::now(),
        listener: "".into(),
        filter_chain: "".into(),
    }
}

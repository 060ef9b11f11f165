//! Values that the tests of several modules use.

use std::net::SocketAddr;
use std::rc::Rc;

use outrider_net::Address;
use outrider_net::DownstreamConnectionInfo;
use tokio::time::Instant;

use crate::RequestHead;
use crate::Stream;

/// A connection between these two addresses.
pub(crate) fn connection(local: SocketAddr, remote: SocketAddr) -> DownstreamConnectionInfo {
    DownstreamConnectionInfo {
        id: 1,
        local: Address::from(local),
        remote: Address::from(remote),
        started: Instant::now(),
        listener: "".into(),
        filter_chain: "".into(),
        server_name: "".into(),
        ja3: Box::default(),
        ja4: Box::default(),
        tls: None,
    }
}

/// A `GET /` from a loopback client.
pub(crate) fn stream() -> Stream {
    let local = SocketAddr::from(([127, 0, 0, 1], 80));
    let connection = Rc::new(connection(local, local));
    let head = RequestHead {
        scheme: Some(http::uri::Scheme::HTTP),
        path: Some(outrider_codec::Target::root()),
        ..RequestHead::default()
    };
    Stream::new(connection, head, http::Version::HTTP_2, 1)
}

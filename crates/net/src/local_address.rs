//! The machine's own address.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::UdpSocket;

/// The address of this machine on its default route. Sends nothing.
#[must_use]
pub fn local_address(prefers_ipv6: bool) -> IpAddr {
    // Connecting a datagram socket sends nothing: the kernel only chooses a local address by its routes.
    let (any, far): (IpAddr, IpAddr) = if prefers_ipv6 {
        let documentation = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        (Ipv6Addr::UNSPECIFIED.into(), documentation.into())
    } else {
        (
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv4Addr::new(192, 0, 2, 1).into(),
        )
    };
    let loopback: IpAddr = if prefers_ipv6 {
        Ipv6Addr::LOCALHOST.into()
    } else {
        Ipv4Addr::LOCALHOST.into()
    };
    UdpSocket::bind((any, 0))
        .and_then(|socket| {
            socket.connect((far, 9))?;
            socket.local_addr()
        })
        .map_or(loopback, |address| address.ip())
}

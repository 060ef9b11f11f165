//! Writes the headers for upstream hosts.

use std::net::IpAddr;
use std::net::SocketAddr;

use super::ProxyProtocolTlv;
use super::VERSION_2_SIGNATURE;
use crate::Address;

/// How long the part of a version 2 header can be that has addresses and TLVs.
const MAX_LENGTH: usize = u16::MAX as usize;

/// A header of version 1 for a connection from `source` to `destination`.
#[must_use]
pub fn write_version_1(source: &Address, destination: &Address) -> Vec<u8> {
    let text = match addresses(source, destination) {
        Some((source, destination)) => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (source.ip(), destination.ip());
            let (from_port, to_port) = (source.port(), destination.port());
            format!("PROXY {family} {from} {to} {from_port} {to_port}\r\n")
        }
        None => "PROXY UNKNOWN\r\n".to_owned(),
    };
    text.into_bytes()
}

/// A header of version 2 for a connection from `source` to `destination`, and whether it has all of `tlvs`: those that
/// do not fit are left out.
pub fn write_version_2<'t>(
    source: &Address,
    destination: &Address,
    tlvs: impl IntoIterator<Item = &'t ProxyProtocolTlv>,
) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    let family = match addresses(source, destination) {
        Some((source, destination)) => {
            for address in [source, destination] {
                match address.ip() {
                    IpAddr::V4(ip) => body.extend(ip.octets()),
                    IpAddr::V6(ip) => body.extend(ip.octets()),
                }
            }
            body.extend(source.port().to_be_bytes());
            body.extend(destination.port().to_be_bytes());
            if source.is_ipv4() { 0x11 } else { 0x21 }
        }
        None => 0,
    };
    let mut has_all = true;
    for tlv in tlvs {
        match u16::try_from(tlv.value.len()) {
            Ok(length) if body.len() + 3 + tlv.value.len() <= MAX_LENGTH => {
                body.push(tlv.kind);
                body.extend(length.to_be_bytes());
                body.extend(&tlv.value);
            }
            _ => has_all = false,
        }
    }
    (version_2(0x21, family, &body), has_all)
}

/// A header of version 2 of a connection that the proxy makes for itself, such as a health check.
#[must_use]
pub fn write_local_version_2() -> Vec<u8> {
    version_2(0x20, 0, &[])
}

fn version_2(version_and_command: u8, family_and_transport: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
    let fixed = [version_and_command, family_and_transport];
    [VERSION_2_SIGNATURE, &fixed, &length, body].concat()
}

/// The addresses, if both are of one family of IP.
fn addresses(source: &Address, destination: &Address) -> Option<(SocketAddr, SocketAddr)> {
    let (source, destination) = (source.ip()?, destination.ip()?);
    (source.is_ipv4() == destination.is_ipv4()).then_some((source, destination))
}

#[cfg(test)]
mod tests {
    use super::super::parse_version_1;
    use super::super::parse_version_2;
    use super::*;

    fn address(text: &str) -> Address {
        Address::Ip(text.parse().unwrap())
    }

    #[test]
    fn what_is_written_can_be_read() {
        for (source, destination) in [
            ("10.1.2.3:1", "10.4.5.6:2"),
            ("[2001:db8::1]:1", "[2001:db8::2]:2"),
        ] {
            let (from, to) = (address(source), address(destination));
            let both = Some((source.parse().unwrap(), destination.parse().unwrap()));
            let parsed = parse_version_1(&write_version_1(&from, &to)).unwrap();
            assert_eq!(parsed.addresses, both);
            let tlv = ProxyProtocolTlv {
                kind: 7,
                value: b"seven".to_vec(),
            };
            let (bytes, has_all) = write_version_2(&from, &to, [&tlv]);
            assert!(has_all);
            let parsed = parse_version_2(&bytes).unwrap().unwrap();
            assert_eq!((parsed.addresses, parsed.tlvs), (both, vec![tlv]));
        }
    }

    #[test]
    fn tlvs_that_do_not_fit_are_left_out() {
        let (from, to) = (address("10.1.2.3:1"), address("10.4.5.6:2"));
        let tlv = |kind, length| ProxyProtocolTlv {
            kind,
            value: vec![0; length],
        };
        let tlvs = [tlv(1, 65_521), tlv(2, 65_520), tlv(3, 1)];
        let (bytes, has_all) = write_version_2(&from, &to, &tlvs);
        assert!(!has_all);
        let parsed = parse_version_2(&bytes).unwrap().unwrap();
        assert_eq!(parsed.tlvs, [tlv(2, 65_520)]);
    }

    #[test]
    fn addresses_of_unix_sockets_are_not_told() {
        let (from, to) = (Address::pipe("/a", 0), address("10.4.5.6:2"));
        assert_eq!(write_version_1(&from, &to), b"PROXY UNKNOWN\r\n");
        let (bytes, _) = write_version_2(&from, &to, []);
        assert_eq!(bytes[12..], [0x21, 0, 0, 0]);
        assert_eq!(write_local_version_2()[12..], [0x20, 0, 0, 0]);
    }
}

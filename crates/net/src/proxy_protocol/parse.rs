//! Reads the headers of clients.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use super::ProxyProtocolTlv;

/// What headers of version 1 begin with.
pub(crate) const VERSION_1_SIGNATURE: &[u8] = b"PROXY ";
/// What headers of version 2 begin with.
pub(crate) const VERSION_2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The length of a version 2 header without addresses and facts.
const VERSION_2_FIXED: usize = 16;
/// The length of the longest version 1 header that Envoy accepts.
const MAX_VERSION_1: usize = 108;

/// The version of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderVersion {
    V1,
    V2,
}

/// A header that is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InvalidHeader;

/// A whole header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ParsedHeader {
    /// How many bytes it has.
    pub(crate) length: usize,
    /// The source and the destination; `None` if the proxy speaks for itself.
    pub(crate) addresses: Option<(SocketAddr, SocketAddr)>,
    pub(crate) tlvs: Vec<ProxyProtocolTlv>,
}

/// The version of the header that begins with `bytes`; `None` if more bytes are needed to tell.
pub(crate) fn find_version(bytes: &[u8]) -> Result<Option<HeaderVersion>, InvalidHeader> {
    if bytes.len() >= VERSION_2_FIXED {
        if bytes.starts_with(VERSION_2_SIGNATURE) {
            return Ok(Some(HeaderVersion::V2));
        }
        if !bytes.starts_with(VERSION_1_SIGNATURE) {
            return Err(InvalidHeader);
        }
    }
    // A line end is the first thing in a header of version 2.
    match line_end(bytes) {
        Some(end) if end > 2 => Ok(Some(HeaderVersion::V1)),
        _ if bytes.len() >= MAX_VERSION_1 => Ok(Some(HeaderVersion::V1)),
        _ => Ok(None),
    }
}

/// The position after the first line end.
fn line_end(bytes: &[u8]) -> Option<usize> {
    let at = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some(at + 2)
}

/// Reads a header of version 1, whose line end has arrived or is missing.
pub(crate) fn parse_version_1(bytes: &[u8]) -> Result<ParsedHeader, InvalidHeader> {
    let end = line_end(bytes).filter(|end| *end <= MAX_VERSION_1);
    let line = bytes.get(..end.ok_or(InvalidHeader)?);
    let line = std::str::from_utf8(line.unwrap_or_default()).map_err(|_| InvalidHeader)?;
    let words: Vec<&str> = line.trim_ascii_end().split(' ').collect();
    let addresses = match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family, source, destination, ports @ ..] => {
            let [source_port, destination_port] = ports else {
                return Err(InvalidHeader);
            };
            let is_v6 = match *family {
                "TCP4" => false,
                "TCP6" => true,
                _ => return Err(InvalidHeader),
            };
            Some((
                address(source, source_port, is_v6)?,
                address(destination, destination_port, is_v6)?,
            ))
        }
        _ => return Err(InvalidHeader),
    };
    Ok(ParsedHeader {
        length: line.len(),
        addresses,
        tlvs: Vec::new(),
    })
}

fn address(host: &str, port: &str, is_v6: bool) -> Result<SocketAddr, InvalidHeader> {
    let ip = match is_v6 {
        true => host.parse().map(IpAddr::V6),
        false => host.parse().map(IpAddr::V4),
    };
    let ip = ip.map_err(|_| InvalidHeader)?;
    let port = port.parse().map_err(|_| InvalidHeader)?;
    usable(SocketAddr::new(ip, port))
}

/// Reads a header of version 2, of which the part without addresses has arrived. An error with a length: the header has
/// this length, and more of it is needed.
pub(crate) fn parse_version_2(bytes: &[u8]) -> Result<Result<ParsedHeader, usize>, InvalidHeader> {
    let (_, rest) = bytes
        .split_at_checked(VERSION_2_SIGNATURE.len())
        .ok_or(InvalidHeader)?;
    let [
        version_and_command,
        family_and_transport,
        high,
        low,
        rest @ ..,
    ] = rest
    else {
        return Err(InvalidHeader);
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let (version, command) = (version_and_command >> 4, version_and_command & 0xf);
    if version != 2 || command > 1 {
        return Err(InvalidHeader);
    }
    let is_local = command == 0;
    let address_length = match family_and_transport {
        _ if is_local => 0,
        // IPv4 and IPv6, each over TCP or UDP.
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        _ => return Err(InvalidHeader),
    };
    if length < address_length {
        return Err(InvalidHeader);
    }
    let total = VERSION_2_FIXED + length;
    let Some((addresses, tlvs)) = rest
        .get(..length)
        .and_then(|rest| rest.split_at_checked(address_length))
    else {
        return Ok(Err(total));
    };
    Ok(Ok(match is_local {
        true => ParsedHeader {
            length: total,
            addresses: None,
            tlvs: Vec::new(),
        },
        false => ParsedHeader {
            length: total,
            addresses: Some(addresses_of(addresses)?),
            tlvs: parse_tlvs(tlvs)?,
        },
    }))
}

fn addresses_of(bytes: &[u8]) -> Result<(SocketAddr, SocketAddr), InvalidHeader> {
    let hosts = bytes.len() - 4;
    let (hosts, ports) = bytes.split_at(hosts);
    let (source, destination) = hosts.split_at(hosts.len() / 2);
    let [high, low, other_high, other_low] = ports else {
        return Err(InvalidHeader);
    };
    let address = |host: &[u8], port: [u8; 2]| {
        let ip: IpAddr = match host.len() {
            4 => <[u8; 4]>::try_from(host).map(|octets| Ipv4Addr::from(octets).into()),
            _ => <[u8; 16]>::try_from(host).map(|octets| Ipv6Addr::from(octets).into()),
        }
        .map_err(|_| InvalidHeader)?;
        usable(SocketAddr::new(ip, u16::from_be_bytes(port)))
    };
    Ok((
        address(source, [*high, *low])?,
        address(destination, [*other_high, *other_low])?,
    ))
}

/// Refuses addresses that no end of a TCP connection can have.
fn usable(address: SocketAddr) -> Result<SocketAddr, InvalidHeader> {
    let ip = address.ip();
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    match ip.is_unspecified() || ip.is_multicast() || is_broadcast {
        true => Err(InvalidHeader),
        false => Ok(address),
    }
}

fn parse_tlvs(bytes: &[u8]) -> Result<Vec<ProxyProtocolTlv>, InvalidHeader> {
    let mut tlvs = Vec::new();
    let mut rest = bytes;
    while let [kind, after @ ..] = rest {
        let [high, low, after @ ..] = after else {
            return Err(InvalidHeader);
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, after) = after.split_at_checked(length).ok_or(InvalidHeader)?;
        tlvs.push(ProxyProtocolTlv {
            kind: *kind,
            value: value.to_vec(),
        });
        rest = after;
    }
    Ok(tlvs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version_2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        let fixed = [&[0x20 | command, family][..], &length].concat();
        [VERSION_2_SIGNATURE, &fixed, body].concat()
    }

    const IPV4: &[u8] = &[10, 1, 2, 3, 10, 4, 5, 6, 0, 1, 0, 2];

    fn ipv4() -> (SocketAddr, SocketAddr) {
        ("10.1.2.3:1".parse().unwrap(), "10.4.5.6:2".parse().unwrap())
    }

    #[test]
    fn version_1_is_found_at_its_line_end() {
        let line = b"PROXY TCP4 10.1.2.3 10.4.5.6 1 2\r\n";
        for at in 0..line.len() {
            assert_eq!(find_version(&line[..at]), Ok(None), "{at}");
        }
        assert_eq!(find_version(line), Ok(Some(HeaderVersion::V1)));
        let parsed = parse_version_1(line).unwrap();
        assert_eq!(
            (parsed.length, parsed.addresses),
            (line.len(), Some(ipv4()))
        );
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let line = [&b"PROXY TCP4 "[..], &[b' '; 200]].concat();
        assert_eq!(find_version(&line[..107]), Ok(None));
        assert_eq!(find_version(&line[..108]), Ok(Some(HeaderVersion::V1)));
        assert_eq!(parse_version_1(&line), Err(InvalidHeader));
    }

    #[test]
    fn wrong_lines_are_refused() {
        for line in [
            "PROXY\r\n",
            "PROXY TCP4\r\n",
            "PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.256 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 0.0.0.0 1.2.3.4 1 2\r\n",
            "PROXY TCP6 ff02::1 ::1 1 2\r\n",
            "hello\r\n",
        ] {
            assert_eq!(
                parse_version_1(line.as_bytes()),
                Err(InvalidHeader),
                "{line}"
            );
        }
    }

    #[test]
    fn version_2_is_read_once_it_is_complete() {
        let body = [IPV4, &[2, 0, 1, b'x', 3, 0, 0]].concat();
        let header = version_2(1, 0x11, &body);
        for at in 16..header.len() {
            assert_eq!(
                parse_version_2(&header[..at]),
                Ok(Err(header.len())),
                "{at}"
            );
        }
        let parsed = parse_version_2(&header).unwrap().unwrap();
        assert_eq!(parsed.addresses, Some(ipv4()));
        let tlv = |kind, value: &[u8]| ProxyProtocolTlv {
            kind,
            value: value.to_vec(),
        };
        assert_eq!(parsed.tlvs, [tlv(2, b"x"), tlv(3, b"")]);
    }

    #[test]
    fn a_local_header_has_no_addresses() {
        let header = version_2(0, 0, &[0xff; 9]);
        let parsed = parse_version_2(&header).unwrap().unwrap();
        assert_eq!((parsed.length, parsed.addresses), (25, None));
    }

    #[test]
    fn wrong_headers_of_version_2_are_refused() {
        for header in [
            version_2(2, 0x11, IPV4),
            version_2(1, 0x31, &[0; 216]),
            version_2(1, 0x10, IPV4),
            version_2(1, 0x21, IPV4),
            version_2(1, 0x11, &IPV4[1..]),
            version_2(1, 0x11, &[IPV4, &[2]].concat()),
            version_2(1, 0x11, &[IPV4, &[2, 0]].concat()),
            version_2(1, 0x11, &[IPV4, &[2, 0, 2, 1]].concat()),
            version_2(1, 0x11, &[0; 12]),
            version_2(1, 0x21, &[0xff; 36]),
        ] {
            assert_eq!(parse_version_2(&header), Err(InvalidHeader), "{header:?}");
        }
    }
}

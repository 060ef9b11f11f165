//! Addresses as Envoy writes them: `127.0.0.1:80`, `[::1]:80`, `/run/x.sock`, `@abstract`.

use std::fmt;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where a socket is bound or connects to (`envoy.config.core.v3.Address`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IPv4 or IPv6 address and a TCP port.
    Ip(SocketAddr),
    /// A UNIX domain socket.
    Pipe(PipeAddress),
}

/// A UNIX domain socket (`envoy.config.core.v3.Pipe`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PipeAddress {
    /// A socket file, with the mode bits that it gets when it is bound (0: what the umask leaves).
    Path {
        /// The file's path.
        path: PathBuf,
        /// Mode bits, 0 to 0o777.
        mode: u32,
    },
    /// A name in Linux's abstract namespace, without the `@` that Envoy writes before it.
    Abstract(Vec<u8>),
}

impl Address {
    /// The IP address and port, unless it is a pipe.
    #[must_use]
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Address::Ip(address) => Some(*address),
            Address::Pipe(_) => None,
        }
    }

    /// A pipe's address from Envoy's spelling: a path, or `@` and an abstract name.
    #[must_use]
    pub fn pipe(text: &str, mode: u32) -> Address {
        Address::Pipe(match text.strip_prefix('@') {
            Some(name) => PipeAddress::Abstract(name.as_bytes().to_vec()),
            None => PipeAddress::Path {
                path: PathBuf::from(text),
                mode,
            },
        })
    }

    /// The host's part alone, as `%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%` prints it.
    #[must_use]
    pub fn host(&self) -> String {
        match self {
            Address::Ip(address) => address.ip().to_string(),
            Address::Pipe(_) => self.to_string(),
        }
    }
}

impl From<SocketAddr> for Address {
    /// An IPv4 address that a dual-stack socket reports as `::ffff:a.b.c.d` becomes IPv4 again, as in Envoy.
    fn from(address: SocketAddr) -> Address {
        if let SocketAddr::V6(v6) = address
            && let Some(v4) = v6.ip().to_ipv4_mapped()
        {
            return Address::Ip(SocketAddr::new(IpAddr::V4(v4), v6.port()));
        }
        Address::Ip(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => address.fmt(f),
            Address::Pipe(PipeAddress::Path { path, .. }) => path.display().fmt(f),
            Address::Pipe(PipeAddress::Abstract(name)) => {
                write!(f, "@{}", String::from_utf8_lossy(name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_envoy_does() {
        for (address, text) in [
            (
                Address::from(SocketAddr::from(([127, 0, 0, 1], 80))),
                "127.0.0.1:80",
            ),
            (
                Address::from("[::1]:80".parse::<SocketAddr>().unwrap()),
                "[::1]:80",
            ),
            (
                Address::from("[::ffff:10.0.0.1]:80".parse::<SocketAddr>().unwrap()),
                "10.0.0.1:80",
            ),
            (Address::pipe("/run/x.sock", 0), "/run/x.sock"),
            (Address::pipe("@hidden", 0), "@hidden"),
        ] {
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn the_host_of_an_ip_has_no_port_or_brackets() {
        assert_eq!(
            Address::from("[::1]:80".parse::<SocketAddr>().unwrap()).host(),
            "::1"
        );
    }
}

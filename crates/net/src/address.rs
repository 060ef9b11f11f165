//! Addresses as Envoy writes them: `127.0.0.1:80`, `[::1]:80`, `/run/x.sock`, `@abstract`.

use std::fmt;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::SocketAddrV6;
use std::path::PathBuf;
use std::sync::Arc;

use outrider_config::ConfigError;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3 as api;
use outrider_config::api::envoy::config::core::v3::address::Address as Kind;
use outrider_config::api::envoy::config::core::v3::envoy_internal_address::AddressNameSpecifier;
use outrider_config::api::envoy::config::core::v3::socket_address::PortSpecifier;

/// Where a socket is bound or connects to (`envoy.config.core.v3.Address`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IPv4 or IPv6 address and a TCP port.
    Ip(SocketAddr),
    /// A UNIX domain socket.
    Pipe(PipeAddress),
    /// An internal listener of this process.
    Internal(InternalAddress),
}

/// An internal listener (`envoy.config.core.v3.EnvoyInternalAddress`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InternalAddress {
    /// `server_listener_name`
    pub listener: Arc<str>,
    /// `endpoint_id`: tells apart endpoints of one listener; may be empty.
    pub endpoint_id: Arc<str>,
}

/// A UNIX domain socket (`envoy.config.core.v3.Pipe`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PipeAddress {
    /// A socket file, with the mode bits that it gets when it is bound. 0 leaves them to the umask.
    Path {
        /// The file's path.
        path: PathBuf,
        /// Mode bits, 0 to 0o777.
        mode: u32,
    },
    /// A name in Linux's abstract namespace, without Envoy's leading `@`.
    Abstract(Vec<u8>),
}

impl Address {
    /// The address found at `path`: an IP address and port for TCP, or a UNIX socket.
    ///
    /// # Errors
    /// Host names and named ports are not supported. The protocol is not checked here: as in Envoy,
    /// only listeners check it.
    pub fn build(address: &api::Address, path: &FieldPath) -> Result<Address, ConfigError> {
        match &address.address {
            Some(Kind::SocketAddress(socket)) => {
                build_socket_address(socket, &path.field("socket_address"))
            }
            Some(Kind::Pipe(pipe)) => build_pipe(pipe, &path.field("pipe")),
            Some(Kind::EnvoyInternalAddress(internal)) => {
                build_internal(internal, &path.field("envoy_internal_address"))
            }
            None => Err(ConfigError::new(path, "an address is required")),
        }
    }

    /// The IP address and port; `None` for other addresses.
    #[must_use]
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Address::Ip(address) => Some(*address),
            Address::Pipe(_) | Address::Internal(_) => None,
        }
    }

    /// The address of the client's end of each connection to an internal listener. It is Envoy's.
    #[must_use]
    pub fn internal_client() -> Address {
        Address::Internal(InternalAddress {
            listener: "internal_client_address".into(),
            endpoint_id: "".into(),
        })
    }

    /// `endpoint_id` of an internal address.
    #[must_use]
    pub fn endpoint_id(&self) -> Option<&str> {
        match self {
            Address::Internal(internal) => Some(&internal.endpoint_id),
            Address::Ip(_) | Address::Pipe(_) => None,
        }
    }

    /// Parses a UNIX socket's address as Envoy writes it: a path, or `@` and an abstract name.
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
            Address::Pipe(_) | Address::Internal(_) => self.to_string(),
        }
    }
}

impl From<SocketAddr> for Address {
    /// Turns an IPv4-mapped address (`::ffff:a.b.c.d`), as dual-stack sockets report IPv4 peers, into IPv4, as Envoy
    /// does.
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
            Address::Internal(InternalAddress {
                listener,
                endpoint_id,
            }) => write!(f, "envoy://{listener}/{endpoint_id}"),
        }
    }
}

fn build_socket_address(
    socket: &api::SocketAddress,
    path: &FieldPath,
) -> Result<Address, ConfigError> {
    let refuse =
        |field: &'static str, message: String| Err(ConfigError::new(&path.field(field), message));
    if !socket.resolver_name.is_empty() && socket.resolver_name != "envoy.ip" {
        let name = &socket.resolver_name;
        return refuse(
            "resolver_name",
            format!("not supported: {name}; expected envoy.ip"),
        );
    }
    let port = match &socket.port_specifier {
        Some(PortSpecifier::PortValue(port)) => *port,
        Some(PortSpecifier::NamedPort(_)) => {
            return refuse("named_port", "not supported: named ports".to_owned());
        }
        None => 0,
    };
    let Ok(port) = u16::try_from(port) else {
        return refuse("port_value", format!("expected 0 to 65535, got {port}"));
    };
    match parse_ip(&socket.address, port) {
        Some(address) => Ok(Address::Ip(address)),
        None => refuse(
            "address",
            format!("malformed IP address: {}", socket.address),
        ),
    }
}

/// Parses an IP address and adds `port`. An IPv6 address may have a zone: a number, or for a link-local address the
/// name of an interface.
#[must_use]
pub fn parse_ip(text: &str, port: u16) -> Option<SocketAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, port));
    }
    let (ip, zone) = text.split_once('%')?;
    let ip: Ipv6Addr = ip.parse().ok()?;
    let scope = match zone.parse() {
        Ok(number) => number,
        Err(_) if ip.is_unicast_link_local() => interface(zone)?,
        Err(_) => return None,
    };
    Some(SocketAddrV6::new(ip, port, 0, scope).into())
}

/// The index of the network interface called `name`, if it exists.
fn interface(name: &str) -> Option<u32> {
    let socket = std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0));
    let socket = socket.or_else(|_| std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)));
    rustix::net::netdevice::name_to_index(socket.ok()?, name).ok()
}

fn build_internal(
    internal: &api::EnvoyInternalAddress,
    path: &FieldPath,
) -> Result<Address, ConfigError> {
    let Some(AddressNameSpecifier::ServerListenerName(listener)) = &internal.address_name_specifier
    else {
        return Err(ConfigError::new(path, "server_listener_name is required"));
    };
    Ok(Address::Internal(InternalAddress {
        listener: listener.as_str().into(),
        endpoint_id: internal.endpoint_id.as_str().into(),
    }))
}

fn build_pipe(pipe: &api::Pipe, path: &FieldPath) -> Result<Address, ConfigError> {
    if pipe.path.starts_with('@') && pipe.mode != 0 {
        let message = "an abstract socket has no mode bits";
        return Err(ConfigError::new(&path.field("mode"), message));
    }
    // `sockaddr_un` holds 108 bytes, and a path needs one of them for its terminating zero.
    if pipe.path.len() > 107 {
        let message = format!(
            "path exceeds maximum UNIX domain socket path size: {}",
            pipe.path
        );
        return Err(ConfigError::new(&path.field("path"), message));
    }
    Ok(Address::pipe(&pipe.path, pipe.mode))
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

    #[test]
    fn builds_what_can_be_bound_and_refuses_the_rest() {
        let socket = |address: &str, port: u32| api::Address {
            address: Some(Kind::SocketAddress(api::SocketAddress {
                address: address.to_owned(),
                port_specifier: Some(PortSpecifier::PortValue(port)),
                ..Default::default()
            })),
        };
        let pipe = |path: &str, mode| api::Address {
            address: Some(Kind::Pipe(api::Pipe {
                path: path.to_owned(),
                mode,
            })),
        };
        for (address, expected) in [
            (socket("10.0.0.1", 80), Ok("10.0.0.1:80")),
            (socket("::", 0), Ok("[::]:0")),
            (socket("fe80::1%2", 1), Ok("[fe80::1%2]:1")),
            (socket("fe80::1%lo", 1), Ok("[fe80::1%1]:1")),
            (socket("2001:db8::1%3", 1), Ok("[2001:db8::1%3]:1")),
            (socket("::1%lo", 1), Err("malformed IP address: ::1%lo")),
            (socket("fe80::1%", 1), Err("malformed IP address: fe80::1%")),
            (
                socket("fe80::1%none", 1),
                Err("malformed IP address: fe80::1%none"),
            ),
            (
                socket("10.0.0.1%1", 1),
                Err("malformed IP address: 10.0.0.1%1"),
            ),
            (
                socket("localhost", 80),
                Err("malformed IP address: localhost"),
            ),
            (
                socket("1.2.3.4", 65536),
                Err("expected 0 to 65535, got 65536"),
            ),
            (pipe("/run/x", 0o600), Ok("/run/x")),
            (pipe("@x", 0), Ok("@x")),
            (pipe("@x", 1), Err("an abstract socket has no mode bits")),
            (api::Address::default(), Err("an address is required")),
        ] {
            let built = Address::build(&address, &FieldPath::root());
            let text = built.map(|address| address.to_string());
            assert_eq!(
                text.as_deref().map_err(|error| error.message.as_str()),
                expected
            );
        }
    }
}

//! `socket_options`: the supported options, by their Linux numbers.

use std::io;
use std::time::Duration;

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3 as api;
use outrider_config::api::envoy::config::core::v3::socket_option::SocketIpVersion;
use outrider_config::api::envoy::config::core::v3::socket_option::SocketState;
use outrider_config::api::envoy::config::core::v3::socket_option::Value;
use socket2::Socket;
use socket2::TcpKeepalive;

/// Options for one socket, each with the state of the socket at which it is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions(Vec<SocketOption>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct SocketOption {
    supported: &'static SupportedOption,
    value: u32,
    state: SocketState,
    ip_version: SocketIpVersion,
}

/// A supported option.
#[derive(Debug)]
struct SupportedOption {
    level: i64,
    name: i64,
    symbol: &'static str,
    set: fn(&Socket, u32) -> io::Result<()>,
}

impl PartialEq for SupportedOption {
    fn eq(&self, other: &SupportedOption) -> bool {
        (self.level, self.name) == (other.level, other.name)
    }
}

impl Eq for SupportedOption {}

const fn supported(
    level: i64,
    name: i64,
    symbol: &'static str,
    set: fn(&Socket, u32) -> io::Result<()>,
) -> SupportedOption {
    SupportedOption {
        level,
        name,
        symbol,
        set,
    }
}

const SOL_SOCKET: i64 = 1;
const IPPROTO_IP: i64 = 0;
const IPPROTO_TCP: i64 = 6;
const IPPROTO_IPV6: i64 = 41;

const SUPPORTED: &[SupportedOption] = &[
    supported(SOL_SOCKET, 2, "SO_REUSEADDR", |socket, value| {
        socket.set_reuse_address(value != 0)
    }),
    supported(SOL_SOCKET, 7, "SO_SNDBUF", |socket, value| {
        socket.set_send_buffer_size(value as usize)
    }),
    supported(SOL_SOCKET, 8, "SO_RCVBUF", |socket, value| {
        socket.set_recv_buffer_size(value as usize)
    }),
    supported(SOL_SOCKET, 9, "SO_KEEPALIVE", |socket, value| {
        socket.set_keepalive(value != 0)
    }),
    supported(SOL_SOCKET, 12, "SO_PRIORITY", Socket::set_priority),
    supported(SOL_SOCKET, 15, "SO_REUSEPORT", |socket, value| {
        socket.set_reuse_port(value != 0)
    }),
    supported(SOL_SOCKET, 36, "SO_MARK", Socket::set_mark),
    supported(SOL_SOCKET, 46, "SO_BUSY_POLL", Socket::set_busy_poll),
    supported(IPPROTO_IP, 1, "IP_TOS", Socket::set_tos_v4),
    supported(IPPROTO_IP, 2, "IP_TTL", Socket::set_ttl_v4),
    supported(IPPROTO_IP, 15, "IP_FREEBIND", |socket, value| {
        socket.set_freebind_v4(value != 0)
    }),
    supported(IPPROTO_IP, 19, "IP_TRANSPARENT", |socket, value| {
        socket.set_ip_transparent_v4(value != 0)
    }),
    supported(IPPROTO_TCP, 1, "TCP_NODELAY", |socket, value| {
        socket.set_tcp_nodelay(value != 0)
    }),
    supported(IPPROTO_TCP, 2, "TCP_MAXSEG", Socket::set_tcp_mss),
    supported(IPPROTO_TCP, 4, "TCP_KEEPIDLE", |socket, value| {
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(value.into())))
    }),
    supported(IPPROTO_TCP, 5, "TCP_KEEPINTVL", |socket, value| {
        socket.set_tcp_keepalive(
            &TcpKeepalive::new().with_interval(Duration::from_secs(value.into())),
        )
    }),
    supported(IPPROTO_TCP, 6, "TCP_KEEPCNT", |socket, value| {
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_retries(value))
    }),
    supported(IPPROTO_TCP, 12, "TCP_QUICKACK", |socket, value| {
        socket.set_tcp_quickack(value != 0)
    }),
    supported(IPPROTO_TCP, 18, "TCP_USER_TIMEOUT", |socket, value| {
        socket.set_tcp_user_timeout(Some(Duration::from_millis(value.into())))
    }),
    supported(
        IPPROTO_TCP,
        25,
        "TCP_NOTSENT_LOWAT",
        Socket::set_tcp_notsent_lowat,
    ),
    supported(
        IPPROTO_IPV6,
        16,
        "IPV6_UNICAST_HOPS",
        Socket::set_unicast_hops_v6,
    ),
    supported(IPPROTO_IPV6, 26, "IPV6_V6ONLY", |socket, value| {
        socket.set_only_v6(value != 0)
    }),
    supported(IPPROTO_IPV6, 67, "IPV6_TCLASS", Socket::set_tclass_v6),
    supported(IPPROTO_IPV6, 75, "IPV6_TRANSPARENT", |socket, value| {
        socket.set_ip_transparent_v6(value != 0)
    }),
    supported(IPPROTO_IPV6, 78, "IPV6_FREEBIND", |socket, value| {
        socket.set_freebind_v6(value != 0)
    }),
];

impl SocketOptions {
    /// Reads the options found at `path` (`repeated envoy.config.core.v3.SocketOption`). Options for datagram sockets
    /// are left out.
    ///
    /// # Errors
    /// Options that are not supported, and values that are not numbers.
    pub fn build(
        options: &[api::SocketOption],
        path: &FieldPath,
    ) -> Result<SocketOptions, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut built = Vec::new();
        for (index, option) in options.iter().enumerate() {
            let path = path.index(index);
            if option
                .r#type
                .as_ref()
                .is_some_and(|kind| kind.stream.is_none() && kind.datagram.is_some())
            {
                continue;
            }
            let found = SUPPORTED
                .iter()
                .find(|supported| (supported.level, supported.name) == (option.level, option.name));
            let Some(supported) = found else {
                let names: Vec<&str> = SUPPORTED.iter().map(|supported| supported.symbol).collect();
                let (level, name) = (option.level, option.name);
                let message = format!(
                    "not supported: level {level} name {name}; expected one of: {}",
                    names.join(", ")
                );
                errors.push(&path.field("name"), message);
                continue;
            };
            let value = match &option.value {
                Some(Value::IntValue(value)) => u32::try_from(*value).ok(),
                // Reads the bytes as the kernel would: the values of all supported options are integers.
                Some(Value::BufValue(bytes)) => {
                    bytes.as_slice().try_into().map(u32::from_ne_bytes).ok()
                }
                None => None,
            };
            match value {
                Some(value) => built.push(SocketOption {
                    supported,
                    value,
                    state: option.state(),
                    ip_version: option.ip_version(),
                }),
                None => errors.push(
                    &path,
                    format!(
                        "expected an int_value from 0 on, or a buf_value of four bytes, for {}",
                        supported.symbol
                    ),
                ),
            }
        }
        errors.finish(SocketOptions(built))
    }

    /// Sets the options for this state of the socket. The error names the option.
    ///
    /// # Errors
    /// The system's error.
    pub fn apply(&self, socket: &Socket, state: SocketState, is_ipv6: bool) -> io::Result<()> {
        let fits = |option: &&SocketOption| match option.ip_version {
            SocketIpVersion::Unspecified => true,
            SocketIpVersion::Ipv4 => !is_ipv6,
            SocketIpVersion::Ipv6 => is_ipv6,
        };
        for option in self
            .0
            .iter()
            .filter(|option| option.state == state)
            .filter(fits)
        {
            let symbol = option.supported.symbol;
            (option.supported.set)(socket, option.value).map_err(|error| {
                io::Error::new(error.kind(), format!("setting {symbol}: {error}"))
            })?;
        }
        Ok(())
    }
}

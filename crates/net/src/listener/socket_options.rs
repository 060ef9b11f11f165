//! `socket_options`: the options that can be set, by their Linux numbers.

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

/// Options for one socket, each with the moment at which it is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions(Vec<SocketOption>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct SocketOption {
    known: &'static Known,
    value: u32,
    state: SocketState,
    ip_version: SocketIpVersion,
}

/// An option that can be set.
#[derive(Debug)]
struct Known {
    level: i64,
    name: i64,
    words: &'static str,
    set: fn(&Socket, u32) -> io::Result<()>,
}

impl PartialEq for Known {
    fn eq(&self, other: &Known) -> bool {
        (self.level, self.name) == (other.level, other.name)
    }
}

impl Eq for Known {}

const fn known(
    level: i64,
    name: i64,
    words: &'static str,
    set: fn(&Socket, u32) -> io::Result<()>,
) -> Known {
    Known {
        level,
        name,
        words,
        set,
    }
}

const SOL_SOCKET: i64 = 1;
const IPPROTO_IP: i64 = 0;
const IPPROTO_TCP: i64 = 6;
const IPPROTO_IPV6: i64 = 41;

const KNOWN: &[Known] = &[
    known(SOL_SOCKET, 2, "SO_REUSEADDR", |socket, value| {
        socket.set_reuse_address(value != 0)
    }),
    known(SOL_SOCKET, 7, "SO_SNDBUF", |socket, value| {
        socket.set_send_buffer_size(value as usize)
    }),
    known(SOL_SOCKET, 8, "SO_RCVBUF", |socket, value| {
        socket.set_recv_buffer_size(value as usize)
    }),
    known(SOL_SOCKET, 9, "SO_KEEPALIVE", |socket, value| {
        socket.set_keepalive(value != 0)
    }),
    known(SOL_SOCKET, 12, "SO_PRIORITY", Socket::set_priority),
    known(SOL_SOCKET, 15, "SO_REUSEPORT", |socket, value| {
        socket.set_reuse_port(value != 0)
    }),
    known(SOL_SOCKET, 36, "SO_MARK", Socket::set_mark),
    known(SOL_SOCKET, 46, "SO_BUSY_POLL", Socket::set_busy_poll),
    known(IPPROTO_IP, 1, "IP_TOS", Socket::set_tos_v4),
    known(IPPROTO_IP, 2, "IP_TTL", Socket::set_ttl_v4),
    known(IPPROTO_IP, 15, "IP_FREEBIND", |socket, value| {
        socket.set_freebind_v4(value != 0)
    }),
    known(IPPROTO_IP, 19, "IP_TRANSPARENT", |socket, value| {
        socket.set_ip_transparent_v4(value != 0)
    }),
    known(IPPROTO_TCP, 1, "TCP_NODELAY", |socket, value| {
        socket.set_tcp_nodelay(value != 0)
    }),
    known(IPPROTO_TCP, 2, "TCP_MAXSEG", Socket::set_tcp_mss),
    known(IPPROTO_TCP, 4, "TCP_KEEPIDLE", |socket, value| {
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(value.into())))
    }),
    known(IPPROTO_TCP, 5, "TCP_KEEPINTVL", |socket, value| {
        socket.set_tcp_keepalive(
            &TcpKeepalive::new().with_interval(Duration::from_secs(value.into())),
        )
    }),
    known(IPPROTO_TCP, 6, "TCP_KEEPCNT", |socket, value| {
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_retries(value))
    }),
    known(IPPROTO_TCP, 12, "TCP_QUICKACK", |socket, value| {
        socket.set_tcp_quickack(value != 0)
    }),
    known(IPPROTO_TCP, 18, "TCP_USER_TIMEOUT", |socket, value| {
        socket.set_tcp_user_timeout(Some(Duration::from_millis(value.into())))
    }),
    known(
        IPPROTO_TCP,
        25,
        "TCP_NOTSENT_LOWAT",
        Socket::set_tcp_notsent_lowat,
    ),
    known(
        IPPROTO_IPV6,
        16,
        "IPV6_UNICAST_HOPS",
        Socket::set_unicast_hops_v6,
    ),
    known(IPPROTO_IPV6, 26, "IPV6_V6ONLY", |socket, value| {
        socket.set_only_v6(value != 0)
    }),
    known(IPPROTO_IPV6, 67, "IPV6_TCLASS", Socket::set_tclass_v6),
    known(IPPROTO_IPV6, 75, "IPV6_TRANSPARENT", |socket, value| {
        socket.set_ip_transparent_v6(value != 0)
    }),
    known(IPPROTO_IPV6, 78, "IPV6_FREEBIND", |socket, value| {
        socket.set_freebind_v6(value != 0)
    }),
];

impl SocketOptions {
    /// The options found at `path` (`repeated envoy.config.core.v3.SocketOption`); those for datagrams are left out.
    ///
    /// # Errors
    /// Options that are not known here, values that are no number.
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
            let found = KNOWN
                .iter()
                .find(|known| (known.level, known.name) == (option.level, option.name));
            let Some(known) = found else {
                let names: Vec<&str> = KNOWN.iter().map(|known| known.words).collect();
                let (level, name) = (option.level, option.name);
                let message = format!(
                    "not supported: level {level} name {name}; known are {}",
                    names.join(", ")
                );
                errors.push(&path.field("name"), message);
                continue;
            };
            let value = match &option.value {
                Some(Value::IntValue(value)) => u32::try_from(*value).ok(),
                // As the kernel would read it: all known options are numbers.
                Some(Value::BufValue(bytes)) => {
                    bytes.as_slice().try_into().map(u32::from_ne_bytes).ok()
                }
                None => None,
            };
            match value {
                Some(value) => built.push(SocketOption {
                    known,
                    value,
                    state: option.state(),
                    ip_version: option.ip_version(),
                }),
                None => errors.push(
                    &path,
                    format!(
                        "expected an int_value from 0 on, or a buf_value of four bytes, for {}",
                        known.words
                    ),
                ),
            }
        }
        errors.finish(SocketOptions(built))
    }

    /// Sets the options whose moment it is. The error names the option.
    ///
    /// # Errors
    /// The system's.
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
            let words = option.known.words;
            (option.known.set)(socket, option.value).map_err(|error| {
                io::Error::new(error.kind(), format!("setting {words}: {error}"))
            })?;
        }
        Ok(())
    }
}

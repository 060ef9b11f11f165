//! The settings of a resolver, from any of the fields that can configure it.

use std::net::SocketAddr;
use std::time::Duration;

use outrider_config::ConfigError;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::Address as AddressMessage;
use outrider_config::api::envoy::config::core::v3::DnsResolutionConfig;
use outrider_config::api::envoy::config::core::v3::DnsResolverOptions;
use outrider_config::api::envoy::config::core::v3::TypedExtensionConfig;
use outrider_config::api::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use outrider_config::api::envoy::extensions::network::dns_resolver::getaddrinfo::v3::GetAddrInfoDnsResolverConfig;
use outrider_config::type_name;
use outrider_config::unpack;
use outrider_net::Address;
use prost::Name;

/// The defaults of Envoy's library, which apply if the config has a number that the library ignores.
const LIBRARY_TIMEOUT: Duration = Duration::from_secs(2);
const LIBRARY_TRIES: u32 = 3;

/// How names are resolved. Clusters with equal settings share a resolver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Settings {
    /// The servers to ask; empty means those of `/etc/resolv.conf`.
    pub(super) servers: Vec<SocketAddr>,
    /// Whether the servers of `/etc/resolv.conf` take precedence over these.
    pub(super) servers_are_fallback: bool,
    /// Whether search domains are ignored.
    pub(super) no_search: bool,
    /// Whether servers are asked by TCP only.
    pub(super) tcp_only: bool,
    /// Whether families without a local address are not asked for.
    pub(super) filter_unroutable: bool,
    /// How long to wait for a server in the first round, while its latency is not known.
    pub(super) timeout: Duration,
    /// How many times each server is asked.
    pub(super) tries: u32,
    /// Whether a random server is asked, not the first.
    pub(super) rotate: bool,
    /// The UDP payload size that the EDNS record of a question offers, in bytes; `None` without the record. Above
    /// 65,535 it cannot be encoded, and no name can be resolved.
    pub(super) edns: Option<u32>,
    /// How long answers are cached at most.
    pub(super) cached: Duration,
    /// Whether timeouts count in `dns.cares.reinits`.
    pub(super) count_timeouts: bool,
    /// The TTL of all addresses; `None` for that of the records.
    pub(super) fixed_ttl: Option<Duration>,
}

impl Default for Settings {
    /// Envoy's defaults, which differ from its library's.
    fn default() -> Settings {
        Settings {
            servers: Vec::new(),
            servers_are_fallback: false,
            no_search: false,
            tcp_only: false,
            filter_unroutable: false,
            timeout: Duration::from_secs(5),
            tries: 4,
            rotate: false,
            edns: Some(1232),
            cached: Duration::ZERO,
            count_timeouts: false,
            fixed_ttl: None,
        }
    }
}

impl Settings {
    pub(super) fn of_servers(servers: Vec<SocketAddr>) -> Settings {
        Settings {
            servers,
            ..Settings::default()
        }
    }

    /// Reads the settings from `typed_dns_resolver_config`, or else from `dns_resolution_config` or
    /// `use_tcp_for_dns_lookups` of the message at `path`; `None` if it has none of these.
    pub(super) fn build(
        typed: Option<&TypedExtensionConfig>,
        old: Option<&DnsResolutionConfig>,
        tcp: bool,
        path: &FieldPath,
    ) -> Result<Option<Settings>, ConfigError> {
        if let Some(extension) = typed {
            let path = path.field("typed_dns_resolver_config");
            return Settings::of_extension(extension, &path).map(Some);
        }
        if let Some(old) = old {
            let path = path.field("dns_resolution_config");
            let servers = servers(&old.resolvers, &path.field("resolvers"))?;
            let mut settings = Settings::of_servers(servers);
            settings.apply_options(old.dns_resolver_options.as_ref());
            return Ok(Some(settings));
        }
        Ok(tcp.then(|| {
            let mut settings = Settings::default();
            settings.ask_by_tcp();
            settings
        }))
    }

    fn of_extension(
        extension: &TypedExtensionConfig,
        path: &FieldPath,
    ) -> Result<Settings, ConfigError> {
        let path = path.field("typed_config");
        let Some(any) = &extension.typed_config else {
            return Err(ConfigError::new(&path, "expected the config of a resolver"));
        };
        if type_name(any) == GetAddrInfoDnsResolverConfig::full_name() {
            let library: GetAddrInfoDnsResolverConfig = unpack(any, &path)?;
            let default = Settings::default();
            return Ok(Settings {
                tries: library
                    .num_retries
                    .map_or(default.tries, |retries| retries.saturating_add(1)),
                // The C library does not report TTLs, so Envoy assumes one minute.
                fixed_ttl: Some(Duration::from_secs(60)),
                ..default
            });
        }
        let cares: CaresDnsResolverConfig = unpack(any, &path)?;
        let default = Settings::default();
        let mut settings = Settings {
            servers: servers(&cares.resolvers, &path.field("resolvers"))?,
            servers_are_fallback: cares.use_resolvers_as_fallback,
            filter_unroutable: cares.filter_unroutable_families,
            timeout: cares
                .query_timeout_seconds
                .map_or(default.timeout, query_timeout),
            tries: cares.query_tries.map_or(default.tries, |tries| {
                library_number(tries.into()).unwrap_or(LIBRARY_TRIES)
            }),
            rotate: cares.rotate_nameservers,
            edns: cares
                .edns0_max_payload_size
                .and_then(|size| library_number(size.into()))
                .or(default.edns),
            cached: Duration::from_secs(cares.qcache_max_ttl.unwrap_or(0).into()),
            count_timeouts: cares.reinit_channel_on_timeout,
            ..default
        };
        settings.apply_options(cares.dns_resolver_options.as_ref());
        Ok(settings)
    }

    fn apply_options(&mut self, options: Option<&DnsResolverOptions>) {
        if let Some(options) = options {
            self.no_search = options.no_default_search_domain;
            if self.no_search {
                self.edns = None;
            }
            if options.use_tcp_for_dns_lookups {
                self.ask_by_tcp();
            }
        }
    }

    /// Envoy's library has EDNS among its default flags, and setting any flag drops the defaults; so TCP turns EDNS
    /// off.
    fn ask_by_tcp(&mut self) {
        self.tcp_only = true;
        self.edns = None;
    }
}

/// `query_timeout_seconds`: a signed 32-bit number of seconds that becomes an unsigned 32-bit number of milliseconds.
fn query_timeout(seconds: u64) -> Duration {
    library_number(seconds).map_or(LIBRARY_TIMEOUT, |seconds| {
        Duration::from_millis(seconds.wrapping_mul(1000).into())
    })
}

/// A number as the library reads it: as a signed 32-bit number; values below 1 are ignored.
fn library_number(number: u64) -> Option<u32> {
    let low = u32::try_from(number & u64::from(u32::MAX)).ok()?;
    Some(low).filter(|low| (1..=i32::MAX.unsigned_abs()).contains(low))
}

/// The addresses of servers, with port 53 by default.
pub(super) fn servers(
    messages: &[AddressMessage],
    path: &FieldPath,
) -> Result<Vec<SocketAddr>, ConfigError> {
    let mut servers = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let path = path.index(index);
        let address = Address::build(message, &path)?;
        let Some(mut server) = address.ip() else {
            let message = format!("DNS resolver '{address}' is not an IP address");
            return Err(ConfigError::new(&path, message));
        };
        if server.port() == 0 {
            server.set_port(53);
        }
        servers.push(server);
    }
    Ok(servers)
}

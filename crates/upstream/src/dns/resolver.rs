//! One resolver: what is asked of whom, and what the answers mean.

use std::fmt;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use hickory_resolver::Hosts;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::ConnectionConfig;
use hickory_resolver::config::NameServerConfig;
use hickory_resolver::config::ResolveHosts;
use hickory_resolver::config::ResolverConfig;
use hickory_resolver::config::ResolverOpts;
use hickory_resolver::net::DnsError;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::proto::rr::RecordType;

use super::Settings;
use super::system;
use super::system::ResolvConf;
use super::system::Watched;
use crate::stats::DnsStats;

/// Which addresses are wanted (`DnsLookupFamily`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv6, and IPv4 only if there is none.
    Auto,
    V4Only,
    V6Only,
    /// IPv4, and IPv6 only if there is none.
    V4Preferred,
    /// Both.
    All,
}

/// What a name resolved to: no address is an answer, too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// In the order of the answer.
    pub(crate) addresses: Vec<IpAddr>,
    /// How long they may be kept; zero when nobody said.
    pub(crate) ttl: Duration,
    /// The server said that there is no such name, rather than no address of the kind.
    pub(crate) no_such_name: bool,
}

/// Why a name could not be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No server answered in time.
    Timeout,
    /// A server said that it cannot answer, or what it said makes no sense.
    Server(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Timeout => f.write_str("no server answered in time"),
            Failure::Server(why) => f.write_str(why),
        }
    }
}

/// Resolves names by one set of settings.
pub(crate) struct Resolver {
    settings: Settings,
    stats: Arc<DnsStats>,
    state: Mutex<State>,
}

struct State {
    resolv_conf: Watched<ResolvConf>,
    hosts: Watched<Hosts>,
    /// Those asked at present.
    servers: Servers,
    /// The server to begin with when they take turns.
    turn: usize,
}

/// A client for each server: hickory's own choice among several would not be Envoy's.
#[derive(Clone, Default)]
struct Servers {
    addresses: Vec<SocketAddr>,
    clients: Vec<TokioResolver>,
}

impl Resolver {
    pub(crate) fn new(settings: Settings, stats: Arc<DnsStats>) -> Resolver {
        Resolver {
            settings,
            stats,
            state: Mutex::new(State {
                resolv_conf: Watched::new("/etc/resolv.conf", system::read_resolv_conf),
                hosts: Watched::new("/etc/hosts", system::read_hosts),
                servers: Servers::default(),
                turn: 0,
            }),
        }
    }

    #[cfg(test)]
    pub(super) fn with_files(settings: Settings, resolv_conf: &str, hosts: &str) -> Resolver {
        let resolver = Resolver::new(settings, Arc::default());
        let mut state = resolver.state();
        state.resolv_conf = Watched::new(resolv_conf, system::read_resolv_conf);
        state.hosts = Watched::new(hosts, system::read_hosts);
        drop(state);
        resolver
    }

    /// The addresses of `name`. Only on the main thread's runtime.
    pub(crate) async fn resolve(&self, name: &str, family: Family) -> Result<Answer, Failure> {
        self.stats.resolve_total.inc();
        self.stats.pending_resolutions.inc();
        let resolved = self.resolve_families(name, family).await;
        self.stats.pending_resolutions.dec();
        match &resolved {
            Ok(answer) if answer.addresses.is_empty() => self.stats.not_found.inc(),
            Ok(_) => {}
            Err(Failure::Timeout) => self.stats.timeouts.inc(),
            Err(Failure::Server(_)) => self.stats.get_addr_failure.inc(),
        }
        resolved
    }

    async fn resolve_families(&self, name: &str, family: Family) -> Result<Answer, Failure> {
        use RecordType::A;
        use RecordType::AAAA;
        match family {
            Family::V4Only => self.look_up(name, A).await,
            Family::V6Only => self.look_up(name, AAAA).await,
            Family::Auto => self.look_up_either(name, [AAAA, A]).await,
            Family::V4Preferred => self.look_up_either(name, [A, AAAA]).await,
            Family::All => {
                let (v4, v6) = tokio::join!(self.look_up(name, A), self.look_up(name, AAAA));
                match (v4, v6) {
                    (Ok(mut v4), Ok(v6)) => {
                        v4.ttl = match (v4.addresses.is_empty(), v6.addresses.is_empty()) {
                            (true, _) => v6.ttl,
                            (_, true) => v4.ttl,
                            _ => v4.ttl.min(v6.ttl),
                        };
                        v4.addresses.extend(v6.addresses);
                        Ok(v4)
                    }
                    // An address of one kind is worth more than the failure to find one of the other.
                    (Ok(found), Err(_)) | (Err(_), Ok(found)) if !found.addresses.is_empty() => {
                        Ok(found)
                    }
                    (Err(failure), _) | (_, Err(failure)) => Err(failure),
                }
            }
        }
    }

    /// The first kind if there is any of it, else whatever comes of the second.
    async fn look_up_either(
        &self,
        name: &str,
        [first, second]: [RecordType; 2],
    ) -> Result<Answer, Failure> {
        match self.look_up(name, first).await {
            Ok(answer) if !answer.addresses.is_empty() => Ok(answer),
            _ => self.look_up(name, second).await,
        }
    }

    async fn look_up(&self, name: &str, kind: RecordType) -> Result<Answer, Failure> {
        if self.settings.filter_unroutable {
            let (v4, v6) = system::routable_families();
            if !(if kind == RecordType::A { v4 } else { v6 }) {
                return Ok(Answer::default());
            }
        }
        if let Ok(ip) = name.parse::<IpAddr>() {
            let of_kind = ip.is_ipv4() == (kind == RecordType::A);
            return Ok(Answer {
                addresses: of_kind.then_some(ip).into_iter().collect(),
                ..Answer::default()
            });
        }
        let Some(full) = system::fully_qualified(name).filter(|_| !name.is_empty()) else {
            return Err(Failure::Server(format!("{name:?} is not a host name")));
        };
        let (conf, hosts) = {
            let mut state = self.state();
            (state.resolv_conf.get(), state.hosts.get())
        };
        let local = system::look_up(&hosts, &full, kind);
        if !local.is_empty() {
            let ttl = self.settings.fixed_ttl.unwrap_or_default();
            return Ok(Answer {
                addresses: local,
                ttl,
                ..Answer::default()
            });
        }
        let servers = self.servers(&conf);
        let mut best = Answer::default();
        for candidate in self.candidates(name, full, &conf) {
            let answer = self.ask(&servers, &candidate, kind).await?;
            if !answer.addresses.is_empty() {
                return Ok(answer);
            }
            best = answer;
        }
        Ok(best)
    }

    /// The names to try, in turn: with the search domains, and as it is.
    fn candidates(&self, text: &str, full: Name, conf: &ResolvConf) -> Vec<Name> {
        if text.ends_with('.') || self.settings.no_search {
            return vec![full];
        }
        let mut bare = full.clone();
        bare.set_fqdn(false);
        let searched = conf.search.iter();
        let searched = searched.filter_map(|domain| bare.clone().append_domain(domain).ok());
        let dots = text.matches('.').count();
        if dots >= conf.ndots {
            std::iter::once(full).chain(searched).collect()
        } else {
            searched.chain(std::iter::once(full)).collect()
        }
    }

    /// Asks the servers, one after the other and round again, until one can answer.
    async fn ask(
        &self,
        servers: &[TokioResolver],
        name: &Name,
        kind: RecordType,
    ) -> Result<Answer, Failure> {
        let mut failure = Failure::Server("no server to ask".to_owned());
        let mut timeout = self.settings.timeout;
        for _ in 0..self.settings.tries {
            for server in servers {
                let lookup = server.lookup(name.clone(), kind);
                match tokio::time::timeout(timeout, lookup).await {
                    Ok(Ok(lookup)) => {
                        let records = lookup.answers();
                        let ttl = records.iter().map(|record| record.ttl).min();
                        let ttl = Duration::from_secs(u64::from(ttl.unwrap_or(0)));
                        let addresses = records.iter().filter(|r| r.record_type() == kind);
                        return Ok(Answer {
                            addresses: addresses.filter_map(|r| r.data.ip_addr()).collect(),
                            ttl: self.settings.fixed_ttl.unwrap_or(ttl),
                            no_such_name: false,
                        });
                    }
                    Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => {
                        return Ok(Answer {
                            no_such_name: none.response_code == ResponseCode::NXDomain,
                            ..Answer::default()
                        });
                    }
                    Ok(Err(NetError::Timeout)) | Err(_) => failure = Failure::Timeout,
                    Ok(Err(error)) => failure = Failure::Server(error.to_string()),
                }
            }
            timeout = timeout.saturating_mul(2);
        }
        Err(failure)
    }

    /// The clients of the servers to ask, in the order in which to ask them.
    fn servers(&self, conf: &ResolvConf) -> Vec<TokioResolver> {
        let settings = &self.settings;
        let of_system = settings.servers.is_empty()
            || settings.servers_are_fallback && !conf.servers.is_empty();
        let mut addresses = if of_system {
            conf.servers.clone()
        } else {
            settings.servers.clone()
        };
        if addresses.is_empty() {
            addresses.push(SocketAddr::from(([127, 0, 0, 1], 53)));
        }
        let mut state = self.state();
        if state.servers.addresses != addresses {
            state.servers = Servers {
                clients: addresses.iter().filter_map(|a| self.client(*a)).collect(),
                addresses,
            };
        }
        let mut clients = state.servers.clients.clone();
        if (settings.rotate || of_system && conf.rotate) && !clients.is_empty() {
            let turn = state.turn % clients.len();
            state.turn = turn + 1;
            clients.rotate_left(turn);
        }
        clients
    }

    fn client(&self, server: SocketAddr) -> Option<TokioResolver> {
        let mut connections = vec![ConnectionConfig::tcp()];
        if !self.settings.tcp_only {
            connections.insert(0, ConnectionConfig::udp());
        }
        for connection in &mut connections {
            connection.port = server.port();
        }
        let server = NameServerConfig::new(server.ip(), true, connections);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let mut options = ResolverOpts::default();
        options.attempts = 0;
        // The limit that counts is that of `ask`, which is longer each time round.
        options.timeout = self.settings.timeout.saturating_mul(1 << 10);
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.num_concurrent_reqs = 1;
        options.edns_payload_len = self.settings.udp_payload;
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        match builder.build() {
            Ok(client) => Some(client),
            Err(error) => {
                log::error!(target: "dns", "cannot use a DNS server: {error}");
                None
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

//! One resolver: which questions are asked for a name, and how answers are interpreted.

use std::fmt;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use hickory_proto::rr::RecordType;

use super::Settings;
use super::cache::Cache;
use super::query::NameQuery;
use super::query::ResolveError;
use super::query::ResolveErrorKind;
use super::servers::Servers;
use super::system;
use super::system::CachedFile;
use super::system::Hosts;
use super::system::ResolvConf;
use crate::stats::DnsStats;

/// The address families to look up (`DnsLookupFamily`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv6; IPv4 only if there is no IPv6 address.
    Auto,
    V4Only,
    V6Only,
    /// IPv4; IPv6 only if there is no IPv4 address.
    V4Preferred,
    /// Both.
    All,
}

/// The addresses of a name. An answer may have no address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// In the order of the answer.
    pub(crate) addresses: Vec<IpAddr>,
    /// How long they may be kept; zero if the answer does not say.
    pub(crate) ttl: Duration,
    /// Whether the server said that the name does not exist (rather than that it has no address of this family).
    pub(crate) no_such_name: bool,
}

/// Resolves names with one set of settings.
pub(crate) struct Resolver {
    settings: Settings,
    stats: Arc<DnsStats>,
    state: Mutex<ResolverState>,
}

struct ResolverState {
    resolv_conf: CachedFile<ResolvConf>,
    hosts: CachedFile<Hosts>,
    /// The servers in use.
    servers: Arc<Servers>,
    cache: Cache,
}

impl Resolver {
    pub(crate) fn new(settings: Settings, stats: Arc<DnsStats>) -> Resolver {
        Resolver {
            state: Mutex::new(ResolverState {
                resolv_conf: CachedFile::new("/etc/resolv.conf", system::read_resolv_conf),
                hosts: CachedFile::new("/etc/hosts", system::read_hosts),
                servers: Arc::new(Servers::new(Vec::new(), false)),
                cache: Cache::new(settings.cached),
            }),
            settings,
            stats,
        }
    }

    #[cfg(test)]
    pub(super) fn with_files(settings: Settings, resolv_conf: &str, hosts: &str) -> Resolver {
        let resolver = Resolver::new(settings, Arc::default());
        let mut state = resolver.state();
        state.resolv_conf = CachedFile::new(resolv_conf, system::read_resolv_conf);
        state.hosts = CachedFile::new(hosts, system::read_hosts);
        drop(state);
        resolver
    }

    /// Resolves `name`. Must be called on the main thread's runtime.
    pub(crate) async fn resolve(&self, name: &str, family: Family) -> Result<Answer, ResolveError> {
        self.stats.pending_resolutions.inc();
        let resolved = self.resolve_families(name, family).await;
        self.stats.pending_resolutions.dec();
        if let Err(failed) = &resolved {
            let again = match failed.kind {
                ResolveErrorKind::Server(ResponseCode::FormErr)
                | ResolveErrorKind::Malformed(_) => false,
                ResolveErrorKind::Unreachable(_) | ResolveErrorKind::Server(_) => true,
                ResolveErrorKind::Timeout => self.settings.count_timeouts,
            };
            if again {
                self.stats.reinits.inc();
            }
        }
        resolved
    }

    async fn resolve_families(&self, name: &str, family: Family) -> Result<Answer, ResolveError> {
        use RecordType::A;
        use RecordType::AAAA;
        match family {
            Family::V4Only => self.look_up(name, A).await,
            Family::V6Only => self.look_up(name, AAAA).await,
            Family::Auto => self.look_up_either(name, [AAAA, A]).await,
            Family::V4Preferred => self.look_up_either(name, [A, AAAA]).await,
            Family::All => self.counted(self.look_up_both(name).await),
        }
    }

    /// The first family if it has addresses, otherwise the result of the second.
    async fn look_up_either(
        &self,
        name: &str,
        [first, second]: [RecordType; 2],
    ) -> Result<Answer, ResolveError> {
        match self.look_up(name, first).await {
            Ok(answer) if !answer.addresses.is_empty() => Ok(answer),
            _ => self.look_up(name, second).await,
        }
    }

    async fn look_up_both(&self, name: &str) -> Result<Answer, ResolveError> {
        // Once there are IPv4 addresses, failures of the IPv6 lookup do not matter.
        let (v4_found, never) = (AtomicBool::new(false), AtomicBool::new(false));
        let v4 = async {
            let found = self.look_up_kind(name, RecordType::A, &never).await;
            if found.as_ref().is_ok_and(|a| !a.addresses.is_empty()) {
                v4_found.store(true, Ordering::Relaxed);
            }
            found
        };
        let v6 = self.look_up_kind(name, RecordType::AAAA, &v4_found);
        match tokio::join!(biased; v4, v6) {
            (Ok(mut v4), Ok(v6)) => {
                v4.ttl = match (v4.addresses.is_empty(), v6.addresses.is_empty()) {
                    (true, _) => v6.ttl,
                    (_, true) => v4.ttl,
                    _ => v4.ttl.min(v6.ttl),
                };
                for address in v6.addresses {
                    if !v4.addresses.contains(&address) {
                        v4.addresses.push(address);
                    }
                }
                Ok(v4)
            }
            // Addresses of one family take precedence over a failure for the other.
            (Ok(found), Err(_)) | (Err(_), Ok(found)) if !found.addresses.is_empty() => Ok(found),
            (Err(failed), _) | (_, Err(failed)) => Err(failed),
        }
    }

    async fn look_up(&self, name: &str, kind: RecordType) -> Result<Answer, ResolveError> {
        self.counted(self.look_up_kind(name, kind, &AtomicBool::new(false)).await)
    }

    fn counted(&self, found: Result<Answer, ResolveError>) -> Result<Answer, ResolveError> {
        self.stats.resolve_total.inc();
        match &found {
            Ok(answer) if answer.addresses.is_empty() => self.stats.not_found.inc(),
            Ok(_) => {}
            Err(failed) if failed.kind == ResolveErrorKind::Timeout => {
                self.stats.timeouts.add(failed.timeouts);
            }
            Err(_) => self.stats.get_addr_failure.inc(),
        }
        found
    }

    async fn look_up_kind(
        &self,
        name: &str,
        kind: RecordType,
        last_attempt: &AtomicBool,
    ) -> Result<Answer, ResolveError> {
        if self.settings.filter_unroutable {
            let (v4, v6) = system::routable_families();
            if !(if kind == RecordType::A { v4 } else { v6 }) {
                return Ok(Answer::default());
            }
        }
        // An IPv4 literal is returned whatever family was asked for.
        if let Ok(ip) = name.parse::<IpAddr>()
            && (ip.is_ipv4() || kind == RecordType::AAAA)
        {
            return Ok(Answer {
                addresses: vec![ip],
                ..Answer::default()
            });
        }
        let Some(full) = system::fully_qualified(name) else {
            let message = format!("{name:?} is not a host name");
            return Err(ResolveErrorKind::Malformed(message).into());
        };
        if system::is_below(&full, "onion") {
            return Ok(Answer {
                no_such_name: true,
                ..Answer::default()
            });
        }
        let (conf, hosts) = {
            let mut state = self.state();
            (state.resolv_conf.get(), state.hosts.get())
        };
        let local = system::look_up(&hosts, &full, kind);
        if !local.is_empty() {
            return Ok(self.fixed_ttl(Answer {
                addresses: local,
                ..Answer::default()
            }));
        }
        let servers = self.servers(&conf);
        let asking = NameQuery {
            settings: &self.settings,
            servers: &servers,
            last_attempt,
        };
        self.search(&asking, self.candidates(name, full, &conf), kind)
            .await
    }

    /// Asks for one name after the other until one has an address.
    async fn search(
        &self,
        asking: &NameQuery<'_>,
        names: Vec<Name>,
        kind: RecordType,
    ) -> Result<Answer, ResolveError> {
        let mut best = Ok(Answer::default());
        let mut timeouts = 0;
        for name in names {
            match self.ask(asking, &name, kind).await {
                Ok(answer) if !answer.addresses.is_empty() => return Ok(self.fixed_ttl(answer)),
                Ok(answer) => best = Ok(answer),
                Err(mut failed) => {
                    timeouts += failed.timeouts;
                    failed.timeouts = timeouts;
                    // Some servers return a failure for an unknown name of one label.
                    let goes_on = name.num_labels() == 1
                        && matches!(
                            failed.kind,
                            ResolveErrorKind::Server(
                                ResponseCode::ServFail | ResponseCode::Refused
                            )
                        );
                    if !goes_on {
                        return Err(failed);
                    }
                    best = Err(failed);
                }
            }
        }
        best
    }

    async fn ask(
        &self,
        asking: &NameQuery<'_>,
        name: &Name,
        kind: RecordType,
    ) -> Result<Answer, ResolveError> {
        if let Some(answer) = self.state().cache.get(name, kind) {
            return Ok(answer);
        }
        let reply = asking.ask(name.clone(), kind).await?;
        if reply.code == ResponseCode::FormErr {
            return Err(ResolveErrorKind::Server(reply.code).into());
        }
        self.state().cache.insert(name, kind, &reply);
        Ok(reply.answer)
    }

    fn fixed_ttl(&self, answer: Answer) -> Answer {
        Answer {
            ttl: self.settings.fixed_ttl.unwrap_or(answer.ttl),
            ..answer
        }
    }

    /// The names to try, in order: with the search domains, and as it is.
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

    /// The servers to ask.
    fn servers(&self, conf: &ResolvConf) -> Arc<Servers> {
        let settings = &self.settings;
        let of_system = settings.servers.is_empty()
            || settings.servers_are_fallback && !conf.servers.is_empty();
        let mut addresses = if of_system {
            &conf.servers
        } else {
            &settings.servers
        };
        let default = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 53))];
        if addresses.is_empty() {
            addresses = &default;
        }
        let rotate = settings.rotate || of_system && conf.rotate;
        let mut state = self.state();
        if !state.servers.is_same(addresses, rotate) {
            state.servers = Arc::new(Servers::new(addresses.clone(), rotate));
        }
        state.servers.clone()
    }

    fn state(&self) -> MutexGuard<'_, ResolverState> {
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

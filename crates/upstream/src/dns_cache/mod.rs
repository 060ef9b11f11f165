//! DNS caches (`envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheConfig`): the addresses of names that requests
//! give.
//!
//! All that use a cache name it and share it. The main thread resolves (`resolving`), each name once for all requests
//! that wait. Workers read a snapshot of all names. When a name becomes known, the clusters that use the cache hear of
//! it first, so that they have its host before a request goes on.

mod host_name;
mod resolving;
mod settings;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::Weak;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::ArcSwap;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::Bootstrap;
use outrider_config::api::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use outrider_net::Address;
use outrider_net::clock;
use outrider_runtime::Runtime;
use outrider_stats::Scope;
use outrider_stats::Store;
use tokio::sync::mpsc;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::dns::Resolvers;
use crate::stats::DnsCacheStats;

pub use host_name::HostName;
pub(crate) use resolving::CacheTask;
use settings::CacheSettings;

/// All DNS caches, by name.
#[derive(Debug)]
pub struct DnsCaches {
    resolvers: Arc<Resolvers>,
    store: Arc<Store>,
    runtime: Arc<Runtime>,
    known: Mutex<HashMap<String, (DnsCacheConfig, Weak<DnsCache>)>>,
    /// Takes the tasks of new caches to the main thread.
    tasks: UnboundedSender<CacheTask>,
    /// The other end, until the main thread takes it.
    waiting: Mutex<Option<UnboundedReceiver<CacheTask>>>,
}

impl DnsCaches {
    /// No caches. The bootstrap has the settings of DNS for caches without their own.
    ///
    /// # Errors
    /// The bootstrap's settings of DNS are not valid.
    pub fn new(
        bootstrap: &Bootstrap,
        store: &Arc<Store>,
        runtime: &Arc<Runtime>,
    ) -> Result<Arc<DnsCaches>, ConfigError> {
        let (tasks, waiting) = mpsc::unbounded_channel();
        Ok(Arc::new(DnsCaches {
            resolvers: Arc::new(Resolvers::new(bootstrap, store)?),
            store: store.clone(),
            runtime: runtime.clone(),
            known: Mutex::default(),
            tasks,
            waiting: Mutex::new(Some(waiting)),
        }))
    }

    pub(crate) fn resolvers(&self) -> &Arc<Resolvers> {
        &self.resolvers
    }

    /// The cache of this config, found at `path`: the one of its name, or a new one.
    ///
    /// # Errors
    /// The config is not valid, or a cache of the same name has another.
    pub fn get(
        &self,
        config: &DnsCacheConfig,
        path: &FieldPath,
    ) -> Result<Arc<DnsCache>, ConfigErrors> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((existing, cache)) = known.get(&config.name)
            && let Some(cache) = cache.upgrade()
        {
            if existing == config {
                return Ok(cache);
            }
            let message = format!(
                "config specified DNS cache '{}' with different settings: use the same in all places, or another name",
                config.name
            );
            return Err(ConfigErrors::from(ConfigError::new(path, message)));
        }
        let settings = CacheSettings::build(config, path, &self.resolvers)?;
        let scope = Scope::new("dns_cache").name(&config.name);
        let (questions, asked) = mpsc::unbounded_channel();
        let shared = Arc::new(SharedCache {
            hosts: ArcSwap::default(),
            stats: self.store.register(scope),
            started: clock::now(),
            settings,
        });
        shared.list_stats();
        // If the process only validates its configuration, nobody runs the task.
        let _unused = self.tasks.send(CacheTask::new(shared.clone(), asked));
        let cache = Arc::new(DnsCache {
            runtime: self.runtime.clone(),
            limit_key: format!("dns_cache.{}.circuit_breakers", config.name).into(),
            pending: AtomicU64::new(0),
            shared,
            questions,
        });
        known.retain(|_, (_, cache)| cache.strong_count() > 0);
        known.insert(
            config.name.clone(),
            (config.clone(), Arc::downgrade(&cache)),
        );
        Ok(cache)
    }

    /// Resolves the names of all caches from now on. Must be called on the main thread, inside a `LocalSet`.
    pub(crate) fn start(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut tasks) = waiting.take() {
            tokio::task::spawn_local(async move {
                while let Some(task) = tasks.recv().await {
                    tokio::task::spawn_local(task.run());
                }
            });
        }
    }
}

/// One DNS cache, as workers see it. It resolves names until the last of its users drops it.
pub struct DnsCache {
    shared: Arc<SharedCache>,
    questions: UnboundedSender<Question>,
    runtime: Arc<Runtime>,
    /// The runtime key of the limit of pending requests.
    limit_key: Box<str>,
    /// How many requests wait for a name.
    pending: AtomicU64,
}

/// What the main thread and the workers share of a cache.
#[derive(Debug)]
struct SharedCache {
    settings: CacheSettings,
    /// The names that were resolved once, whether or not with success.
    hosts: ArcSwap<HashMap<Arc<str>, Arc<CachedHost>>>,
    stats: Arc<DnsCacheStats>,
    /// The origin of [`CachedHost::used`].
    started: Instant,
}

/// A name that was resolved.
#[derive(Debug)]
pub(crate) struct CachedHost {
    name: HostName,
    /// None if it has never had an address.
    addresses: Vec<Address>,
    /// Why it has no address, in Envoy's words.
    details: Arc<str>,
    has_failed: bool,
    /// When it was last used, in milliseconds since the cache began.
    used: Arc<AtomicU64>,
}

/// What workers and clusters ask the main thread.
enum Question {
    /// Resolve this name.
    Resolve {
        name: HostName,
        /// Whether a known failure is not an answer.
        again: bool,
        reply: oneshot::Sender<Option<Arc<CachedHost>>>,
    },
    /// Say which hosts there are, and all that changes.
    Observe(UnboundedSender<HostChange>),
}

/// A change of one host with addresses.
#[derive(Debug)]
pub(crate) struct HostChange {
    pub(crate) name: Arc<str>,
    /// Its addresses; `None` if it was removed.
    pub(crate) addresses: Option<Vec<Address>>,
    /// To be dropped when the change is done. The cache waits for that.
    pub(crate) done: oneshot::Sender<()>,
}

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupFailure {
    /// There are too many names (`max_hosts`).
    Overflow,
    /// It could not be resolved; `%RESPONSE_CODE_DETAILS%` in Envoy's words.
    Failed(Arc<str>),
}

impl LookupFailure {
    /// `%RESPONSE_CODE_DETAILS%` of an overflow.
    pub const OVERFLOW: &str = "dns_cache_overflow";
}

/// A place among the requests that may wait for names at once.
#[derive(Debug)]
pub struct PendingLookup {
    cache: Arc<DnsCache>,
}

impl DnsCache {
    /// A place among the requests that may wait for names at once; `None` if the circuit breaker is open.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Option<PendingLookup> {
        let max = self.max_pending();
        let before = self.pending.fetch_add(1, Relaxed);
        if before >= max {
            self.pending.fetch_sub(1, Relaxed);
            self.shared.stats.dns_rq_pending_overflow.inc();
            return None;
        }
        self.show_pending(max);
        Some(PendingLookup {
            cache: self.clone(),
        })
    }

    /// The first address of `name` if it is known already, or its failure; `None` if it has to be looked up.
    #[must_use]
    pub fn known(&self, name: &HostName) -> Option<Result<Address, LookupFailure>> {
        let hosts = self.shared.hosts.load();
        let host = hosts.get(&**name.text())?;
        (!self.is_asked_again(host)).then(|| host.result())
    }

    /// Looks up a name, or waits for the lookup that is under way.
    ///
    /// # Errors
    /// There is no address.
    pub async fn look_up(&self, name: &HostName) -> Result<Address, LookupFailure> {
        let hosts = self.shared.hosts.load_full();
        let known = hosts.get(&**name.text());
        if let Some(host) = known.filter(|host| !self.is_asked_again(host)) {
            return host.result();
        }
        let overflow = || {
            self.shared.stats.host_overflow.inc();
            LookupFailure::Overflow
        };
        if hosts.len() >= self.shared.settings.max_hosts {
            return Err(overflow());
        }
        let (reply, answer) = oneshot::channel();
        let question = Question::Resolve {
            name: name.clone(),
            again: known.is_some(),
            reply,
        };
        drop(hosts);
        match self.questions.send(question) {
            Ok(()) => match answer.await {
                Ok(Some(host)) => host.result(),
                _ => Err(overflow()),
            },
            Err(_) => Err(overflow()),
        }
    }

    /// Notes that a request uses this name, so that the name stays.
    pub(crate) fn touch(&self, name: &str) {
        if let Some(host) = self.shared.hosts.load().get(name) {
            host.used.store(self.shared.age(), Relaxed);
        }
    }

    /// All hosts with addresses, and then what changes. Once.
    pub(crate) fn observe(&self) -> UnboundedReceiver<HostChange> {
        let (observer, changes) = mpsc::unbounded_channel();
        // If the task has gone, the process ends.
        let _unused = self.questions.send(Question::Observe(observer));
        changes
    }

    /// `disable_dns_refresh_on_failure`
    fn is_asked_again(&self, host: &CachedHost) -> bool {
        self.shared.settings.keeps_no_failures && host.has_failed
    }

    fn max_pending(&self) -> u64 {
        let runtime = self.runtime.snapshot();
        let limit = runtime.number(&self.limit_key);
        limit.unwrap_or(self.shared.settings.max_pending)
    }

    fn show_pending(&self, max: u64) {
        let breakers = &self.shared.stats.circuit_breakers;
        let remaining = max.saturating_sub(self.pending.load(Relaxed));
        breakers.rq_pending_remaining.set(remaining);
        breakers.rq_pending_open.set(u64::from(remaining == 0));
    }
}

impl Drop for PendingLookup {
    fn drop(&mut self) {
        self.cache.pending.fetch_sub(1, Relaxed);
        self.cache.show_pending(self.cache.max_pending());
    }
}

impl SharedCache {
    /// How old the cache is, in milliseconds.
    fn age(&self) -> u64 {
        u64::try_from(clock::since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    fn list_stats(&self) {
        let breakers = &self.stats.circuit_breakers;
        breakers.rq_pending_remaining.set(self.settings.max_pending);
        breakers.rq_pending_open.set(0);
    }
}

impl CachedHost {
    fn result(&self) -> Result<Address, LookupFailure> {
        match self.addresses.first() {
            Some(first) => Ok(first.clone()),
            None => Err(LookupFailure::Failed(self.details.clone())),
        }
    }
}

impl fmt::Debug for DnsCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DnsCache")
            .field("hosts", &self.shared.hosts.load().keys())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

//! The main thread's side of a DNS cache: resolves names, again and again, and removes those that nobody uses.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use outrider_net::Address;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::CachedHost;
use super::HostChange;
use super::HostName;
use super::Question;
use super::SharedCache;
use crate::dns::Answer;
use crate::dns::ResolveError;
use crate::dns::answer_details;

/// What runs on the main thread for a cache.
pub(crate) struct CacheTask {
    shared: Arc<SharedCache>,
    questions: UnboundedReceiver<Question>,
}

/// The cache while it runs.
struct RunningCache {
    shared: Arc<SharedCache>,
    names: RefCell<HashMap<Arc<str>, NameEntry>>,
    observers: RefCell<Vec<UnboundedSender<HostChange>>>,
}

type Waiter = oneshot::Sender<Option<Arc<CachedHost>>>;

/// A name that is known or being resolved.
struct NameEntry {
    task: AbortHandle,
    waiters: Vec<Waiter>,
    /// When the waiters that have left are taken out next.
    prune_at: usize,
}

/// The shortest list of waiters that is searched for those that have left.
const PRUNED: usize = 64;

/// The result of one lookup: the addresses with the time that they are valid, and the reason if there are none.
struct Resolved {
    addresses: Vec<Address>,
    ttl: Duration,
    details: String,
    has_failed: bool,
}

impl CacheTask {
    pub(super) fn new(
        shared: Arc<SharedCache>,
        questions: UnboundedReceiver<Question>,
    ) -> CacheTask {
        CacheTask { shared, questions }
    }

    /// Answers questions until nobody is left to ask.
    pub(crate) async fn run(mut self) {
        let cache = Rc::new(RunningCache {
            shared: self.shared,
            names: RefCell::default(),
            observers: RefCell::default(),
        });
        for name in &cache.shared.settings.preresolved {
            cache.resolve(name, None, false);
        }
        while let Some(question) = self.questions.recv().await {
            match question {
                Question::Resolve { name, again, reply } => {
                    cache.resolve(&name, Some(reply), again)
                }
                Question::Observe(observer) => cache.observe(observer),
            }
        }
        for (_, entry) in cache.names.take() {
            entry.task.abort();
        }
    }
}

impl RunningCache {
    /// Answers at once if the name is known, or else when its lookup, which this may begin, has a result.
    fn resolve(self: &Rc<Self>, name: &HostName, waiter: Option<Waiter>, again: bool) {
        let known = self.shared.hosts.load().get(name.text()).cloned();
        if let Some(known) = known {
            if !(again && known.has_failed) {
                if let Some(waiter) = waiter {
                    let _left = waiter.send(Some(known));
                }
                return;
            }
            self.forget(name.text());
        }
        let mut names = self.names.borrow_mut();
        let is_full = names.len() >= self.shared.settings.max_hosts;
        let entry = match names.entry(name.text().clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if is_full => {
                if let Some(waiter) = waiter {
                    let _left = waiter.send(None);
                }
                return;
            }
            Entry::Vacant(entry) => {
                self.shared.stats.host_added.inc();
                self.shared.stats.num_hosts.inc();
                let task = tokio::task::spawn_local(follow(self.clone(), name.clone()));
                entry.insert(NameEntry {
                    task: task.abort_handle(),
                    waiters: Vec::new(),
                    prune_at: PRUNED,
                })
            }
        };
        entry.waiters.extend(waiter);
        if entry.waiters.len() >= entry.prune_at {
            entry.waiters.retain(|waiter| !waiter.is_closed());
            entry.prune_at = PRUNED.max(2 * entry.waiters.len());
        }
    }

    /// Takes the result of a lookup: publishes it to the clusters, then to the workers.
    async fn take(&self, name: &HostName, resolved: Resolved) {
        let stats = &self.shared.stats;
        let key = name.text();
        let known = self.shared.hosts.load().get(key).cloned();
        let before = known.as_ref().map_or(&[][..], |known| &known.addresses);
        let keeps = resolved.addresses.is_empty() || resolved.addresses == before;
        // A name that has had addresses keeps them, whatever happens later.
        if known.is_none() || !keeps || before.is_empty() {
            let used = known.as_ref().map(|known| known.used.clone());
            let host = CachedHost {
                name: name.clone(),
                addresses: resolved.addresses,
                details: resolved.details.into(),
                has_failed: resolved.has_failed,
                used: used.unwrap_or_else(|| Arc::new(AtomicU64::new(self.shared.age()))),
            };
            if !keeps {
                stats.host_address_changed.inc();
                self.tell_observers(key, Some(&host.addresses)).await;
            }
            let mut hosts = HashMap::clone(&self.shared.hosts.load());
            hosts.insert(key.clone(), Arc::new(host));
            self.shared.hosts.store(Arc::new(hosts));
        }
        let waiters = {
            let mut names = self.names.borrow_mut();
            let entry = names.get_mut(key);
            entry.map_or_else(Vec::new, |entry| std::mem::take(&mut entry.waiters))
        };
        let host = self.shared.hosts.load().get(key).cloned();
        for waiter in waiters {
            let _left = waiter.send(host.clone());
        }
    }

    /// Takes the name out of the list that workers see, and ends its task.
    fn forget(&self, name: &Arc<str>) {
        if let Some(entry) = self.names.borrow_mut().remove(name) {
            entry.task.abort();
            self.shared.stats.host_removed.inc();
            self.shared.stats.num_hosts.dec();
        }
        let mut hosts = HashMap::clone(&self.shared.hosts.load());
        hosts.remove(name);
        self.shared.hosts.store(Arc::new(hosts));
    }

    /// Whether the name was not used for so long that it is to be removed.
    fn is_idle(&self, name: &str) -> bool {
        let hosts = self.shared.hosts.load();
        let Some(host) = hosts.get(name) else {
            return true;
        };
        let idle = self.shared.age().saturating_sub(host.used.load(Relaxed));
        Duration::from_millis(idle) > self.shared.settings.host_ttl
    }

    async fn tell_observers(&self, name: &Arc<str>, addresses: Option<&Vec<Address>>) {
        let observers = self.observers.borrow().clone();
        for observer in observers {
            let (done, is_done) = oneshot::channel();
            let change = HostChange {
                name: name.clone(),
                addresses: addresses.cloned(),
                done,
            };
            match observer.send(change) {
                // An error says that the observer is done, or has gone.
                Ok(()) => drop(is_done.await),
                Err(_) => self.observers.borrow_mut().retain(|one| !one.is_closed()),
            }
        }
    }

    fn observe(&self, observer: UnboundedSender<HostChange>) {
        for host in self.shared.hosts.load().values() {
            if !host.addresses.is_empty() {
                let _left = observer.send(HostChange {
                    name: host.name.text().clone(),
                    addresses: Some(host.addresses.clone()),
                    done: oneshot::channel().0,
                });
            }
        }
        self.observers.borrow_mut().push(observer);
    }
}

/// Resolves one name again and again, until nobody has used it for its time to live.
async fn follow(cache: Rc<RunningCache>, name: HostName) {
    let (settings, stats) = (&cache.shared.settings, &cache.shared.stats);
    let mut failure_refresh = settings.failure_refresh.clone();
    loop {
        stats.dns_query_attempt.inc();
        let resolved = resolve_once(&cache.shared, &name).await;
        let wait = match resolved.has_failed {
            true => {
                stats.dns_query_failure.inc();
                (!settings.keeps_no_failures).then(|| failure_refresh.next())
            }
            false => {
                stats.dns_query_success.inc();
                failure_refresh.reset();
                Some(settings.after(!resolved.addresses.is_empty(), resolved.ttl))
            }
        };
        cache.take(&name, resolved).await;
        match wait {
            Some(wait) => tokio::time::sleep(wait).await,
            // The next request for the name begins anew.
            None => std::future::pending().await,
        }
        if cache.is_idle(name.text()) {
            cache.tell_observers(name.text(), None).await;
            cache.forget(name.text());
            return;
        }
    }
}

async fn resolve_once(shared: &SharedCache, name: &HostName) -> Resolved {
    let settings = &shared.settings;
    let (host, port) = name.parts();
    let resolving = settings.resolver.resolve(host, settings.family);
    let result = match settings.query_timeout {
        None => resolving.await,
        Some(timeout) => match tokio::time::timeout(timeout, resolving).await {
            Ok(result) => result,
            Err(_) => {
                shared.stats.dns_query_timeout.inc();
                return Resolved::without_address("resolve_timeout", true);
            }
        },
    };
    Resolved::of(result, port, shared)
}

impl Resolved {
    /// A result without addresses, and the reason in Envoy's words.
    fn without_address(details: &str, has_failed: bool) -> Resolved {
        Resolved {
            addresses: Vec::new(),
            ttl: Duration::ZERO,
            details: format!("dns_resolution_failure{{{}}}", details.replace(' ', "_")),
            has_failed,
        }
    }

    fn of(result: Result<Answer, ResolveError>, port: u16, shared: &SharedCache) -> Resolved {
        let details = answer_details(&result);
        let Ok(answer) = result else {
            return Resolved::without_address(&details, true);
        };
        let admitted = answer.addresses.iter();
        let admitted = admitted.filter(|address| shared.settings.admits(**address));
        let addresses: Vec<_> = admitted
            .map(|address| Address::Ip(SocketAddr::new(*address, port)))
            .collect();
        let removed = answer.addresses.len() - addresses.len();
        shared.stats.dns_address_filter_out.add(removed as u64);
        let details = match removed > 0 {
            true => "address_denied",
            false => details.as_str(),
        };
        Resolved {
            addresses,
            ttl: answer.ttl,
            ..Resolved::without_address(details, false)
        }
    }
}

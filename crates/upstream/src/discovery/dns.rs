//! STRICT_DNS and LOGICAL_DNS: names that are resolved periodically.
//!
//! STRICT_DNS makes one host of each address. LOGICAL_DNS makes one host of all addresses together and treats an empty
//! answer as a failure. A failed lookup changes nothing. An empty answer, or NXDOMAIN, empties a STRICT_DNS cluster, as
//! in Envoy.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_config::api::envoy::config::cluster::v3::cluster::DnsLookupFamily as LegacyFamily;
use outrider_config::api::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily;
use outrider_config::api::envoy::extensions::clusters::dns::v3::DnsCluster;
use outrider_config::api::envoy::extensions::clusters::dns::v3::dns_cluster::RefreshRate;
use outrider_config::duration;
use outrider_net::Address;
use tokio::task::JoinSet;

use super::Discovery;
use crate::HealthFlag;
use crate::Host;
use crate::HostDescription;
use crate::HostsPublisher;
use crate::LocalityHosts;
use crate::PriorityHosts;
use crate::dns::Answer;
use crate::dns::Family;
use crate::dns::Resolver;
use crate::dns::Resolvers;
use crate::endpoints;
use crate::endpoints::DnsTarget;
use crate::endpoints::Endpoint;
use crate::endpoints::LocalityEndpoints;

mod failure_refresh;

pub(crate) use failure_refresh::FailureRefresh;

#[derive(Debug)]
struct DnsDiscovery {
    resolver: Arc<Resolver>,
    schedule: ResolveSchedule,
    /// `all_addresses_in_single_endpoint`
    logical: bool,
    family: Family,
    /// `wait_for_warm_on_init`
    wait_for_warm: bool,
    localities: Vec<LocalityEndpoints<DnsTarget>>,
}

/// When to resolve again.
#[derive(Clone, Debug)]
struct ResolveSchedule {
    /// `dns_refresh_rate`
    refresh: Duration,
    /// `respect_dns_ttl`
    respect_ttl: bool,
    /// `dns_min_refresh_rate`: smaller TTLs are raised to this.
    min_refresh: Duration,
    /// `dns_jitter`
    jitter: Duration,
    /// `dns_failure_refresh_rate`
    failure_refresh: FailureRefresh,
}

/// Builds a cluster from the DNS fields of `Cluster` itself.
pub(super) fn build_legacy(
    cluster: &Cluster,
    path: &FieldPath,
    logical: bool,
    resolvers: &Resolvers,
) -> Result<Box<dyn Discovery>, ConfigErrors> {
    let resolver = resolvers.of_cluster(cluster, path)?;
    #[expect(deprecated, reason = "old but live fields of Cluster")]
    let config = DnsCluster {
        dns_refresh_rate: cluster.dns_refresh_rate,
        dns_failure_refresh_rate: cluster.dns_failure_refresh_rate.map(|rate| RefreshRate {
            base_interval: rate.base_interval,
            max_interval: rate.max_interval,
        }),
        respect_dns_ttl: cluster.respect_dns_ttl,
        dns_jitter: cluster.dns_jitter,
        dns_lookup_family: match cluster.dns_lookup_family() {
            LegacyFamily::Auto => DnsLookupFamily::Auto,
            LegacyFamily::V4Only => DnsLookupFamily::V4Only,
            LegacyFamily::V6Only => DnsLookupFamily::V6Only,
            LegacyFamily::V4Preferred => DnsLookupFamily::V4Preferred,
            LegacyFamily::All => DnsLookupFamily::All,
        }
        .into(),
        all_addresses_in_single_endpoint: logical,
        ..DnsCluster::default()
    };
    finish((cluster, path), (&config, path), resolver)
}

/// Builds a cluster from a `DnsCluster`.
pub(super) fn build(
    cluster: (&Cluster, &FieldPath),
    config: (&DnsCluster, &FieldPath),
    resolvers: &Resolvers,
) -> Result<Box<dyn Discovery>, ConfigErrors> {
    let resolver = resolvers.of_dns_cluster(config.0, config.1)?;
    finish(cluster, config, resolver)
}

fn finish(
    (cluster, path): (&Cluster, &FieldPath),
    (config, config_path): (&DnsCluster, &FieldPath),
    resolver: Arc<Resolver>,
) -> Result<Box<dyn Discovery>, ConfigErrors> {
    let logical = config.all_addresses_in_single_endpoint;
    let assignment_path = path.field("load_assignment");
    let mut localities = match &cluster.load_assignment {
        Some(assignment) => endpoints::build(assignment, &assignment_path, endpoints::dns_target)?,
        None => Vec::new(),
    };
    if logical {
        check_logical(cluster, &localities, &assignment_path)?;
        for locality in &mut localities {
            locality.priority = 0;
        }
    }
    Ok(Box::new(DnsDiscovery {
        resolver,
        schedule: ResolveSchedule::build(config, config_path)?,
        logical,
        family: match config.dns_lookup_family() {
            DnsLookupFamily::Unspecified | DnsLookupFamily::Auto => Family::Auto,
            DnsLookupFamily::V4Only => Family::V4Only,
            DnsLookupFamily::V6Only => Family::V6Only,
            DnsLookupFamily::V4Preferred => Family::V4Preferred,
            DnsLookupFamily::All => Family::All,
        },
        wait_for_warm: cluster.wait_for_warm_on_init.unwrap_or(true),
        localities,
    }))
}

fn check_logical(
    cluster: &Cluster,
    localities: &[LocalityEndpoints<DnsTarget>],
    path: &FieldPath,
) -> Result<(), ConfigError> {
    match localities {
        [only] if only.endpoints.len() == 1 => Ok(()),
        _ if cluster.load_assignment.is_some() => Err(ConfigError::new(
            path,
            "LOGICAL_DNS clusters must have a single locality_lb_endpoint and a single lb_endpoint",
        )),
        _ => Err(ConfigError::new(
            path,
            "LOGICAL_DNS clusters must have a single host",
        )),
    }
}

impl ResolveSchedule {
    fn build(config: &DnsCluster, path: &FieldPath) -> Result<ResolveSchedule, ConfigError> {
        let read = |value: Option<&_>, name| duration::optional(value, &path.field(name));
        let refresh = read(config.dns_refresh_rate.as_ref(), "dns_refresh_rate")?
            .unwrap_or(Duration::from_secs(5));
        let min_refresh = read(config.dns_min_refresh_rate.as_ref(), "dns_min_refresh_rate")?;
        let failure = config.dns_failure_refresh_rate.as_ref();
        let failure_path = path.field("dns_failure_refresh_rate");
        Ok(ResolveSchedule {
            refresh,
            respect_ttl: config.respect_dns_ttl,
            min_refresh: min_refresh.unwrap_or_default(),
            jitter: read(config.dns_jitter.as_ref(), "dns_jitter")?.unwrap_or_default(),
            failure_refresh: FailureRefresh::build(failure, refresh, &failure_path)?,
        })
    }

    /// How long an answer is used.
    fn after(&self, answer: &Answer) -> Duration {
        let mut wait = self.refresh;
        if self.respect_ttl && !answer.addresses.is_empty() && !answer.ttl.is_zero() {
            wait = answer.ttl.max(self.min_refresh);
        }
        match u64::try_from(self.jitter.as_millis()) {
            Ok(jitter) if jitter > 0 => wait + Duration::from_millis(fastrand::u64(0..jitter)),
            _ => wait,
        }
    }
}

impl Discovery for DnsDiscovery {
    fn run(self: Box<Self>, hosts: HostsPublisher) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(self.resolve_all(hosts))
    }
}

impl DnsDiscovery {
    async fn resolve_all(self: Box<Self>, publisher: HostsPublisher) {
        let targets: usize = self.localities.iter().map(|l| l.endpoints.len()).sum();
        if targets == 0 || !self.wait_for_warm {
            publisher.initialized();
        }
        let hosts = self.localities.iter();
        let progress = Progress {
            publisher,
            hosts: hosts
                .map(|locality| vec![Vec::new(); locality.endpoints.len()])
                .collect(),
            failure_refresh: self.schedule.failure_refresh.clone(),
        };
        let (dns, progress) = (Rc::new(*self), Rc::new(RefCell::new(progress)));
        let mut tasks = JoinSet::new();
        for (locality, endpoints) in dns.localities.iter().enumerate() {
            for endpoint in 0..endpoints.endpoints.len() {
                let place = NamePosition { locality, endpoint };
                tasks.spawn_local(follow(dns.clone(), progress.clone(), place));
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    fn endpoint(&self, place: NamePosition) -> &Endpoint<DnsTarget> {
        &self.localities[place.locality].endpoints[place.endpoint]
    }
}

/// The position of one of a cluster's names.
#[derive(Clone, Copy, Debug)]
struct NamePosition {
    locality: usize,
    endpoint: usize,
}

/// The results for a cluster's names so far.
#[derive(Debug)]
struct Progress {
    publisher: HostsPublisher,
    /// Addresses by locality and name.
    hosts: Vec<Vec<Vec<Arc<Host>>>>,
    /// All names share it: each failure advances it and each success resets it, as in Envoy.
    failure_refresh: FailureRefresh,
}

/// Resolves one name again and again. Never returns.
async fn follow(dns: Rc<DnsDiscovery>, progress: Rc<RefCell<Progress>>, place: NamePosition) {
    let target = &dns.endpoint(place).target;
    loop {
        progress.borrow().publisher.stats().update_attempt.inc();
        let resolved = dns.resolver.resolve(&target.name, dns.family).await;
        let wait = {
            let mut progress = progress.borrow_mut();
            let wait = match &resolved {
                Ok(answer) if !(dns.logical && answer.addresses.is_empty()) => {
                    progress.publisher.stats().update_success.inc();
                    progress.failure_refresh.reset();
                    progress.take(&dns, place, answer);
                    dns.schedule.after(answer)
                }
                failed => {
                    progress.publisher.stats().update_failure.inc();
                    if let Err(failure) = failed {
                        log::debug!(target: "upstream", "DNS resolution of {} failed: {failure}", target.name);
                    }
                    progress.failure_refresh.next()
                }
            };
            progress.publisher.initialized();
            wait
        };
        tokio::time::sleep(wait).await;
    }
}

impl Progress {
    /// Applies the answer for one name.
    fn take(&mut self, dns: &DnsDiscovery, place: NamePosition, answer: &Answer) {
        let Endpoint {
            target,
            description,
        } = dns.endpoint(place);
        let described = describe(description, target);
        let known = &self.hosts[place.locality][place.endpoint];
        let lists = address_lists(answer, target.port, dns.logical);
        let mut changed = false;
        let mut hosts = Vec::with_capacity(lists.len());
        for addresses in lists {
            if let Some(host) = known.iter().find(|host| host.addresses() == addresses) {
                self.publisher.count_match(&described);
                host.state().set(HealthFlag::PendingDynamicRemoval, false);
                hosts.push(host.clone());
                continue;
            }
            changed = true;
            hosts.push(self.publisher.host(addresses, &described));
        }
        let is_new = |host: &&Arc<Host>| !hosts.iter().any(|other| Arc::ptr_eq(other, host));
        let removed: Vec<Arc<Host>> = known.iter().filter(is_new).cloned().collect();
        if !dns.logical {
            hosts.extend(self.publisher.kept_of(removed.into_iter()));
        }
        changed |= hosts.len() != known.len();
        if !dns.logical {
            let weight = hosts.iter().map(|host| host.weight()).max().unwrap_or(1);
            let stats = self.publisher.stats();
            stats.max_host_weight.set(u64::from(weight));
        }
        if !changed {
            self.publisher.stats().update_no_rebuild.inc();
            return;
        }
        if hosts.is_empty() {
            warn_emptied(&self.publisher.info().name, target, known.len(), answer);
        }
        self.hosts[place.locality][place.endpoint] = hosts;
        self.publisher.publish(self.priorities(dns), 1);
    }

    fn priorities(&self, dns: &DnsDiscovery) -> Vec<PriorityHosts> {
        let mut priorities: Vec<PriorityHosts> = Vec::new();
        for (locality, hosts) in dns.localities.iter().zip(&self.hosts) {
            let priority = locality.priority as usize;
            if priorities.len() <= priority {
                priorities.resize_with(priority + 1, PriorityHosts::default);
            }
            priorities[priority].localities.push(LocalityHosts {
                weight: locality.weight,
                hosts: hosts.iter().flatten().cloned().collect(),
            });
        }
        priorities
    }
}

/// A host without `hostname` gets the resolved name as its host name.
fn describe(description: &Arc<HostDescription>, target: &DnsTarget) -> Arc<HostDescription> {
    if !description.hostname.is_empty() {
        return description.clone();
    }
    Arc::new(HostDescription {
        hostname: target.name.as_str().into(),
        ..HostDescription::clone(description)
    })
}

/// The addresses of each host that an answer yields, without duplicates.
fn address_lists(answer: &Answer, port: u16, logical: bool) -> Vec<Vec<Address>> {
    let mut addresses: Vec<Address> = Vec::with_capacity(answer.addresses.len());
    for ip in &answer.addresses {
        let address = Address::Ip(SocketAddr::new(*ip, port));
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if logical {
        vec![addresses]
    } else {
        addresses.into_iter().map(|address| vec![address]).collect()
    }
}

fn warn_emptied(cluster: &str, target: &DnsTarget, removed: usize, answer: &Answer) {
    let said = if answer.no_such_name {
        "NXDOMAIN"
    } else {
        "no address"
    };
    log::warn!(
        target: "upstream",
        "cluster {cluster}: DNS answered {said} for {}, {removed} hosts removed",
        target.name
    );
}

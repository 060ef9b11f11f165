//! The main thread's side of one cluster: takes the hosts that discovery finds, has them checked, and publishes them to the
//! workers.
//!
//! A change of a host's health only is published at most once per `update_merge_window`; all changes within it are published
//! together. Until the cluster has warmed, changes of health are not published at all.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::rc::Weak;
use std::sync::Arc;
use std::time::Duration;

use outrider_net::Address;
use outrider_stats::Store;
use tokio::sync::mpsc;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::ClusterInfo;
use crate::Health;
use crate::HealthFlag;
use crate::Host;
use crate::HostDescription;
use crate::HostHealth;
use crate::MembershipStats;
use crate::PriorityHosts;
use crate::SharedCluster;
use crate::health::HealthReport;
use crate::health::HostReport;
use crate::health_check::HealthChecker;
use crate::health_check::Transition;
use crate::outlier::ChangedHosts;
use crate::outlier::OutlierDetector;
use crate::outlier::OutlierMonitor;
use crate::stats::ClusterManagerStats;

/// What a cluster's discovery publishes hosts with. Lives on the main thread.
pub struct HostsPublisher {
    hosts: Rc<ClusterHosts>,
}

/// The hosts of one cluster on the main thread.
pub(crate) struct ClusterHosts {
    cluster: Arc<SharedCluster>,
    changed: watch::Sender<()>,
    manager: Arc<ClusterManagerStats>,
    /// What was published last.
    priorities: RefCell<Arc<[PriorityHosts]>>,
    warming: RefCell<Option<Warming>>,
    checker: Option<HealthChecker>,
    detector: Option<OutlierDetector>,
    /// Both ends of the channel of the workers' reports; the receiver until [`ClusterHosts::watch`] takes it.
    reports: UnboundedSender<HostReport>,
    reported: RefCell<Option<UnboundedReceiver<HostReport>>>,
    updates: RefCell<MergedUpdates>,
    this: Weak<ClusterHosts>,
}

/// What a cluster waits for before requests may use it.
struct Warming {
    /// How many clusters still warm.
    clusters: watch::Sender<usize>,
    /// Discovery has found the first hosts, or has given up for now.
    discovered: bool,
    /// How many results of health checks must come.
    checks: usize,
}

/// When changes of health were published.
#[derive(Default)]
struct MergedUpdates {
    last: Option<Instant>,
    scheduled: Option<AbortHandle>,
}

impl ClusterHosts {
    /// The hosts of `cluster`, none at first. Inside a `LocalSet`.
    pub(crate) fn new(
        cluster: Arc<SharedCluster>,
        changed: watch::Sender<()>,
        warming: watch::Sender<usize>,
        manager: Arc<ClusterManagerStats>,
        store: &Arc<Store>,
    ) -> Rc<ClusterHosts> {
        warming.send_modify(|clusters| *clusters += 1);
        let (reports, reported) = mpsc::unbounded_channel();
        Rc::new_cyclic(|this: &Weak<ClusterHosts>| ClusterHosts {
            checker: HealthChecker::new(&cluster, store, this.clone()),
            detector: OutlierDetector::new(&cluster, store),
            cluster,
            changed,
            manager,
            priorities: RefCell::default(),
            warming: RefCell::new(Some(Warming {
                clusters: warming,
                discovered: false,
                checks: 0,
            })),
            reports,
            reported: RefCell::new(Some(reported)),
            updates: RefCell::default(),
            this: this.clone(),
        })
    }

    /// What the discovery of this cluster publishes hosts with.
    pub(crate) fn publisher(self: &Rc<Self>) -> HostsPublisher {
        HostsPublisher {
            hosts: self.clone(),
        }
    }

    /// Has the hosts watched for as long as it is polled; ends at once if nothing watches them.
    pub(crate) async fn watch(self: Rc<Self>) {
        let reported = self.reported.take();
        // What is published until now was balanced by the hosts that the local cluster has now.
        let local = self.cluster.process.local_cluster_of(&self.cluster.info);
        let mut local = local.map(|local| local.hosts.subscribe());
        let Some(mut reported) = reported.filter(|_| self.is_watched() || local.is_some()) else {
            return;
        };
        let mut next = self.next_interval();
        loop {
            let interval = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            let local_changed = async {
                // The sender lives as long as the process.
                if let Some(local) = &mut local
                    && local.changed().await.is_ok()
                {
                    return;
                }
                std::future::pending().await
            };
            tokio::select! {
                () = local_changed => {
                    let priorities = self.priorities.borrow().clone();
                    self.swap(priorities);
                }
                // This holds one of the senders itself, so the channel never ends.
                Some((host, report)) = reported.recv() => self.on_report(&host, report),
                () = interval => {
                    if let Some(detector) = &self.detector {
                        self.on_outliers(&detector.on_interval());
                    }
                    next = self.next_interval();
                }
            }
        }
    }

    /// Whether anything watches the health of the hosts.
    fn is_watched(&self) -> bool {
        self.checker.is_some() || self.detector.is_some()
    }

    /// When outlier detection looks at the hosts again.
    fn next_interval(&self) -> Option<Instant> {
        let detector = self.detector.as_ref()?;
        Some(Instant::now() + detector.interval())
    }

    fn on_report(&self, host: &HostHealth, report: HealthReport) {
        host.note_received(report);
        if let (HealthReport::ImmediateFailure, Some(checker)) = (report, &self.checker) {
            checker.fail_passively(host);
        }
        if let Some(detector) = &self.detector {
            self.on_outliers(&detector.on_report(host, report));
        }
    }

    /// Publishes that outlier detection has changed the health of hosts; one update for each, as in Envoy.
    fn on_outliers(&self, changed: &ChangedHosts) {
        for _ in changed {
            self.on_health_changed();
        }
    }

    /// How the hosts are checked, if they are.
    pub(crate) fn checker(&self) -> Option<&HealthChecker> {
        self.checker.as_ref()
    }

    /// A health check of `host` has given a result.
    pub(crate) fn on_checked(&self, host: &Host, transition: Transition, healthy: bool) {
        if transition == Transition::Changed {
            let failed = host.state().has(HealthFlag::FailedActiveHc);
            if failed {
                host.state().count_failure();
            }
            if !(failed && self.drop_if_removed(host)) {
                self.on_health_changed();
            }
        }
        if healthy && let Some(detector) = &self.detector {
            self.on_outliers(&detector.on_check_passed(host.state()));
        }
        self.count_check();
    }

    /// One of the checks that warming waits for has given a result, or never will.
    pub(crate) fn count_check(&self) {
        let mut warming = self.warming.borrow_mut();
        if let Some(warming) = &mut *warming
            && warming.discovered
        {
            warming.checks = warming.checks.saturating_sub(1);
        }
        drop(warming);
        self.finish_warming();
    }

    /// Takes away `host`, which is unhealthy, if discovery no longer names it. Returns whether it did.
    fn drop_if_removed(&self, host: &Host) -> bool {
        if !host.state().has(HealthFlag::PendingDynamicRemoval) {
            return false;
        }
        let mut priorities = self.priorities.borrow().to_vec();
        for locality in priorities.iter_mut().flat_map(|p| &mut p.localities) {
            (locality.hosts).retain(|other| !std::ptr::eq(&**other, host));
        }
        self.publish(priorities, 1);
        true
    }

    /// Publishes that the health of some host has changed, now or at the end of the merge window.
    pub(crate) fn on_health_changed(&self) {
        if self.warming.borrow().is_some() {
            return;
        }
        let window = self.cluster.info.update_merge_window;
        if window.is_zero() {
            self.publish_health();
            return;
        }
        let mut updates = self.updates.borrow_mut();
        let elapsed = updates.last.map(|last| last.elapsed());
        if elapsed.is_none_or(|elapsed| elapsed > window) {
            updates.cancel(&self.manager);
            updates.last = Some(Instant::now());
            drop(updates);
            self.manager.update_out_of_merge_window.inc();
            self.publish_health();
        } else if updates.scheduled.is_none() {
            let this = self.this.clone();
            let task = tokio::task::spawn_local(publish_merged(this, window));
            updates.scheduled = Some(task.abort_handle());
        }
    }

    fn publish_health(&self) {
        self.manager.cluster_updated.inc();
        let priorities = self.priorities.borrow().clone();
        self.swap(priorities);
    }

    fn publish(&self, mut priorities: Vec<PriorityHosts>, changes: u64) {
        // The lists live long, and there may be thousands of clusters, so no spare capacity is kept.
        for priority in &mut priorities {
            priority.localities.shrink_to_fit();
            for locality in &mut priority.localities {
                locality.hosts.shrink_to_fit();
            }
        }
        self.cluster.membership.membership_change.add(changes);
        if self.warming.borrow().is_none() {
            let mut updates = self.updates.borrow_mut();
            updates.cancel(&self.manager);
            updates.last = Some(Instant::now());
            self.manager.cluster_updated.inc();
        }
        let priorities: Arc<[PriorityHosts]> = priorities.into();
        self.priorities.replace(priorities.clone());
        if let Some(checker) = &self.checker {
            checker.set_hosts(priorities.iter().flat_map(PriorityHosts::iter));
        }
        if let Some(detector) = &self.detector {
            detector.set_hosts(priorities.iter().flat_map(PriorityHosts::iter));
        }
        self.swap(priorities);
    }

    /// Makes these the cluster's hosts, for all workers at once.
    fn swap(&self, priorities: Arc<[PriorityHosts]>) {
        let (mut healthy, mut degraded, mut excluded, mut total) = (0, 0, 0, 0);
        for host in priorities.iter().flat_map(PriorityHosts::iter) {
            total += 1;
            healthy += u64::from(host.health() == Health::Healthy);
            degraded += u64::from(host.health() == Health::Degraded);
            excluded += u64::from(host.is_excluded());
        }
        let stats = &self.cluster.membership;
        stats.membership_healthy.set(healthy);
        stats.membership_degraded.set(degraded);
        stats.membership_excluded.set(excluded);
        stats.membership_total.set(total);
        self.cluster.set_hosts(priorities.clone());
        self.changed.send_replace(());
        if let Some(local) = &self.cluster.process.local_cluster
            && local.name == self.cluster.info.name
        {
            local.hosts.send_replace(priorities);
        }
    }

    /// Discovery has found the first hosts, or knows that there are none yet.
    fn on_discovered(&self) {
        let checks = self.checker.as_ref().map_or(0, HealthChecker::unfinished);
        if let Some(warming) = &mut *self.warming.borrow_mut()
            && !std::mem::replace(&mut warming.discovered, true)
        {
            warming.checks = checks;
        }
        self.finish_warming();
    }

    /// The cluster has warmed if it has its first hosts and each was checked once.
    fn finish_warming(&self) {
        let finished = |warming: &mut Warming| warming.discovered && warming.checks == 0;
        let finished = self.warming.borrow_mut().take_if(finished);
        let Some(warming) = finished else {
            return;
        };
        if self.checker.is_some() {
            let priorities = self.priorities.borrow().clone();
            self.swap(priorities);
        }
        warming.clusters.send_modify(|clusters| *clusters -= 1);
    }
}

impl Drop for ClusterHosts {
    fn drop(&mut self) {
        let updates = self.updates.get_mut();
        if let Some(task) = updates.scheduled.take() {
            task.abort();
        }
        // Nobody is to wait for a cluster that has gone.
        if let Some(warming) = self.warming.get_mut().take() {
            warming.clusters.send_modify(|clusters| *clusters -= 1);
        }
    }
}

impl MergedUpdates {
    /// Forgets what was to be published later: it is published now.
    fn cancel(&mut self, stats: &ClusterManagerStats) {
        if let Some(task) = self.scheduled.take() {
            task.abort();
            stats.update_merge_cancelled.inc();
        }
    }
}

/// Publishes, once `window` has passed, the changes of health that came within it.
async fn publish_merged(hosts: Weak<ClusterHosts>, window: Duration) {
    tokio::time::sleep(window).await;
    if let Some(hosts) = hosts.upgrade() {
        hosts.updates.replace(MergedUpdates {
            last: Some(Instant::now()),
            scheduled: None,
        });
        hosts.manager.cluster_updated_via_merge.inc();
        let priorities = hosts.priorities.borrow().clone();
        hosts.swap(priorities);
    }
}

impl HostsPublisher {
    /// The cluster's settings.
    #[must_use]
    pub fn info(&self) -> &Arc<ClusterInfo> {
        &self.hosts.cluster.info
    }

    /// The cluster's `update_*` and other counters of the main thread.
    #[must_use]
    pub fn stats(&self) -> &MembershipStats {
        &self.hosts.cluster.membership
    }

    /// Makes a host; `addresses` must not be empty. If hosts are checked, it counts as failed until it was.
    #[must_use]
    pub fn host(&self, addresses: Vec<Address>, description: &Arc<HostDescription>) -> Arc<Host> {
        self.count_match(description);
        let thresholds = &self.hosts.cluster.outlier_thresholds;
        let monitor = self.hosts.detector.as_ref();
        let monitor = monitor.map(|_| OutlierMonitor::new(thresholds.clone()));
        let state = match self.hosts.is_watched() {
            true => HostHealth::reporting_to(self.hosts.reports.clone(), monitor),
            false => Arc::default(),
        };
        let host = Host::new(addresses, description.clone(), state);
        if self.hosts.checker.is_some() && !host.is_unchecked() {
            host.state().set(HealthFlag::IsChecked, true);
            host.state().set(HealthFlag::FailedActiveHc, true);
            let pends = self.info().ignore_new_hosts_until_first_hc;
            host.state().set(HealthFlag::PendingActiveHc, pends);
        }
        host
    }

    /// Counts a host for its transport socket.
    pub(crate) fn count_match(&self, description: &HostDescription) {
        let cluster = &self.hosts.cluster;
        let position = cluster.info.transport_sockets.position(description);
        if let Some(stats) = cluster.matched.get(position) {
            stats.total_match_count.inc();
        }
    }

    /// Those of `removed`, which discovery no longer names, that stay for now, because checks say that they are healthy.
    pub(crate) fn kept_of(&self, removed: impl Iterator<Item = Arc<Host>>) -> Vec<Arc<Host>> {
        if self.hosts.checker.is_none() || self.info().ignore_health_on_host_removal {
            return Vec::new();
        }
        let stays = |host: &Arc<Host>| {
            !host.state().has(HealthFlag::FailedActiveHc)
                && host.eds_health() != crate::HealthStatus::Unhealthy
        };
        let kept: Vec<Arc<Host>> = removed.filter(stays).collect();
        for host in &kept {
            host.state().set(HealthFlag::PendingDynamicRemoval, true);
        }
        kept
    }

    /// Whether the cluster has just these hosts, in these localities of these weights.
    pub(crate) fn has_published(&self, priorities: &[PriorityHosts]) -> bool {
        let published = self.hosts.priorities.borrow();
        published.len() == priorities.len()
            && (published.iter().zip(priorities)).all(|(before, now)| before.is_same(now))
    }

    /// Makes these the cluster's hosts, for all workers at once. `changes` is how many priorities are not as they were.
    pub fn publish(&self, priorities: Vec<PriorityHosts>, changes: u64) {
        self.hosts.publish(priorities, changes);
    }

    /// The cluster has its first hosts, or knows that it has none yet. If hosts are checked, the server waits for the first
    /// round of checks; otherwise it need not wait for the cluster any longer.
    pub fn initialized(&self) {
        self.hosts.on_discovered();
    }
}

impl Drop for HostsPublisher {
    fn drop(&mut self) {
        self.initialized();
    }
}

impl fmt::Debug for HostsPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HostsPublisher")
            .field(&self.info().name)
            .finish()
    }
}

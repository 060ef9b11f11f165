//! Active health checks (`Cluster.health_checks`): each host of a cluster is asked regularly whether it is healthy.
//!
//! The checks run on the main thread, each host's in a task of its own. What a result means for the host is decided by its
//! [`HostChecks`], as in Envoy: a host counts as unhealthy until its first check, which decides alone; later changes need as many
//! results in a row as the thresholds say, except that an unexpected answer makes a host unhealthy at once.

mod config;
mod connection;
mod events;
mod grpc;
mod http;
mod payload;
mod schedule;
mod tcp;

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::rc::Weak;
use std::sync::Arc;

use outrider_net::clock;
use outrider_stats::Store;
use tokio::task::AbortHandle;

use crate::HealthFlag;
use crate::Host;
use crate::HostHealth;
use crate::SharedCluster;
use crate::publisher::ClusterHosts;

use config::CheckKind;
pub(crate) use config::HealthCheckConfig;
use connection::HealthCheckCx;
use events::Event;
pub use events::EventFile;
pub use events::EventFiles;
pub(crate) use events::timestamp;

/// Whether a result changes how a host is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transition {
    /// It is as before.
    Unchanged,
    /// More such results will change it.
    ChangePending,
    /// It is used differently from now on.
    Changed,
}

/// Why a check failed (`envoy.data.core.v3.HealthCheckFailureType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailureType {
    /// The host answered that it is unhealthy, or something unexpected.
    Active,
    /// A response to a request said so.
    Passive,
    /// No connection, or it broke.
    Network,
    /// No answer in time.
    NetworkTimeout,
}

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CheckResult {
    Healthy {
        degraded: bool,
    },
    Failed {
        kind: FailureType,
        /// It counts towards `unhealthy_threshold`, as failures of the network always do.
        retriable: bool,
        /// The status of the answer; 0 without one.
        status: u16,
    },
}

/// Checks the hosts of one cluster.
pub(crate) struct HealthChecker {
    cx: Rc<HealthCheckCx>,
    /// By the host's health, which outlives a change of its address.
    sessions: RefCell<HashMap<*const HostHealth, Rc<HostChecks>>>,
    hosts: Weak<ClusterHosts>,
}

/// The checks of one host.
struct HostChecks {
    host: RefCell<Arc<Host>>,
    /// No check has given a result so far.
    first: Cell<bool>,
    /// Results in a row that speak against the host's state.
    healthy: Cell<u32>,
    unhealthy: Cell<u32>,
    task: Cell<Option<AbortHandle>>,
}

impl HealthChecker {
    /// The checker of `cluster`, if its hosts are to be checked.
    pub(crate) fn new(
        cluster: &SharedCluster,
        store: &Arc<Store>,
        hosts: Weak<ClusterHosts>,
    ) -> Option<HealthChecker> {
        let config = cluster.info.health_check.clone()?;
        Some(HealthChecker {
            cx: Rc::new(HealthCheckCx::new(cluster, config, store)),
            sessions: RefCell::default(),
            hosts,
        })
    }

    /// Checks these hosts from now on, and no others.
    pub(crate) fn set_hosts<'h>(&self, hosts: impl Iterator<Item = &'h Arc<Host>>) {
        let mut before = self.sessions.take();
        let mut kept = HashMap::with_capacity(before.len());
        for host in hosts.filter(|host| !host.is_unchecked()) {
            let key = Arc::as_ptr(host.state());
            if kept.contains_key(&key) {
                continue;
            }
            let session = before.remove(&key);
            if let Some(session) = &session {
                session.host.replace(host.clone());
            }
            kept.insert(key, session.unwrap_or_else(|| self.start(host)));
        }
        self.sessions.replace(kept);
        for session in before.into_values() {
            self.end(&session);
        }
    }

    /// How many hosts have no result so far.
    pub(crate) fn unfinished(&self) -> usize {
        let sessions = self.sessions.borrow();
        sessions
            .values()
            .filter(|session| session.first.get())
            .count()
    }

    /// A response to a request asked that the host be excluded.
    pub(crate) fn fail_passively(&self, health: &HostHealth) {
        let key = std::ptr::from_ref(health);
        let session = self.sessions.borrow().get(&key).cloned();
        if let Some(session) = session {
            self.failed(&session, FailureType::Passive, false, 0);
        }
    }

    fn start(&self, host: &Arc<Host>) -> Rc<HostChecks> {
        let state = host.state();
        if !state.has(HealthFlag::FailedActiveHc) {
            self.cx.stats.healthy.inc();
        }
        if state.has(HealthFlag::DegradedActiveHc) {
            self.cx.stats.degraded.inc();
        }
        let session = Rc::new(HostChecks {
            host: RefCell::new(host.clone()),
            first: Cell::new(true),
            healthy: Cell::new(0),
            unhealthy: Cell::new(0),
            task: Cell::new(None),
        });
        let run = run(session.clone(), self.cx.clone(), self.hosts.clone());
        let task = tokio::task::spawn_local(run);
        session.task.set(Some(task.abort_handle()));
        session
    }

    fn end(&self, session: &HostChecks) {
        session.stop();
        let host = session.host.borrow().clone();
        if !host.state().has(HealthFlag::FailedActiveHc) {
            self.cx.stats.healthy.dec();
        }
        if host.state().has(HealthFlag::DegradedActiveHc) {
            self.cx.stats.degraded.dec();
        }
        if session.first.get()
            && let Some(hosts) = self.hosts.upgrade()
        {
            hosts.count_check();
        }
    }

    /// Applies the result of a check.
    fn take(&self, session: &HostChecks, result: CheckResult) -> Transition {
        match result {
            CheckResult::Healthy { degraded } => self.succeeded(session, degraded),
            CheckResult::Failed {
                kind,
                retriable,
                status,
            } => self.failed(session, kind, retriable, status),
        }
    }

    fn succeeded(&self, session: &HostChecks, degraded: bool) -> Transition {
        let host = session.host.borrow().clone();
        let (state, config) = (host.state(), &self.cx.config);
        session.unhealthy.set(0);
        let mut transition = Transition::Unchanged;
        if state.has(HealthFlag::FailedActiveHc) {
            session.healthy.set(session.healthy.get() + 1);
            if session.first.get() || session.healthy.get() == config.healthy_threshold {
                state.set(HealthFlag::ActiveHcTimeout, false);
                state.set(HealthFlag::ExcludedViaImmediateHcFail, false);
                state.set(HealthFlag::FailedActiveHc, false);
                self.cx.stats.healthy.inc();
                transition = Transition::Changed;
                let first_check = session.first.get();
                self.log(&host, &Event::AddHealthy { first_check });
            } else {
                transition = Transition::ChangePending;
            }
            state.note_pass(clock::since(host.added()));
        }
        if transition != Transition::Changed && config.always_log_success {
            self.log(&host, &Event::SuccessfulHealthCheck);
        }
        if state.set(HealthFlag::PendingActiveHc, false) {
            transition = Transition::Changed;
        }
        if state.set(HealthFlag::DegradedActiveHc, degraded) {
            if degraded {
                self.cx.stats.degraded.inc();
                self.log(&host, &Event::DegradedHealthyHost);
            } else {
                // As in Envoy, the gauge goes down only when the checks of a degraded host end.
                self.log(&host, &Event::NoLongerDegradedHost);
            }
            if transition == Transition::Unchanged {
                transition = Transition::Changed;
            }
        }
        self.cx.stats.success.inc();
        self.finish(session, &host, transition, true)
    }

    fn failed(
        &self,
        session: &HostChecks,
        kind: FailureType,
        retriable: bool,
        status: u16,
    ) -> Transition {
        let host = session.host.borrow().clone();
        let (state, config) = (host.state(), &self.cx.config);
        session.healthy.set(0);
        let mut transition = Transition::Unchanged;
        if !state.has(HealthFlag::FailedActiveHc) {
            let mut fails = !kind.is_network() && !retriable;
            if !fails {
                session.unhealthy.set(session.unhealthy.get() + 1);
                fails = session.unhealthy.get() == config.unhealthy_threshold;
            }
            if fails {
                state.set(HealthFlag::FailedActiveHc, true);
                self.cx.stats.healthy.dec();
                transition = Transition::Changed;
                self.log(&host, &Event::EjectUnhealthy { kind, status });
            } else {
                transition = Transition::ChangePending;
            }
        }
        let timed_out = kind == FailureType::NetworkTimeout;
        let failed = state.has(HealthFlag::FailedActiveHc);
        state.set(HealthFlag::ActiveHcTimeout, timed_out && failed);
        if state.set(HealthFlag::PendingActiveHc, false) {
            transition = Transition::Changed;
        }
        let first_check = session.first.get();
        if first_check || config.always_log_failures {
            let event = Event::HealthCheckFailure {
                kind,
                first_check,
                status,
            };
            self.log(&host, &event);
        }
        self.cx.stats.failure.inc();
        if kind.is_network() {
            self.cx.stats.network_failure.inc();
        } else if kind == FailureType::Passive {
            self.cx.stats.passive_failure.inc();
        }
        self.finish(session, &host, transition, false)
    }

    fn finish(
        &self,
        session: &HostChecks,
        host: &Host,
        transition: Transition,
        healthy: bool,
    ) -> Transition {
        session.first.set(false);
        if let Some(hosts) = self.hosts.upgrade() {
            hosts.on_checked(host, transition, healthy);
        }
        transition
    }

    fn log(&self, host: &Host, event: &Event) {
        let config = &self.cx.config;
        if !config.events.is_empty() {
            let line = events::line(event, config.kind.checker_type(), host, &self.cx.info.name);
            for file in &config.events {
                file.write(line.clone());
            }
        }
    }
}

impl Drop for HealthChecker {
    fn drop(&mut self) {
        for session in self.sessions.get_mut().values() {
            session.stop();
        }
    }
}

impl HostChecks {
    fn stop(&self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl FailureType {
    fn is_network(self) -> bool {
        matches!(self, FailureType::Network | FailureType::NetworkTimeout)
    }

    fn name(self) -> &'static str {
        match self {
            FailureType::Active => "ACTIVE",
            FailureType::Passive => "PASSIVE",
            FailureType::Network => "NETWORK",
            FailureType::NetworkTimeout => "NETWORK_TIMEOUT",
        }
    }
}

impl CheckResult {
    /// The connection could not be made, or broke.
    const BROKEN: CheckResult = CheckResult::Failed {
        kind: FailureType::Network,
        retriable: false,
        status: 0,
    };
    /// The answer did not come in time.
    const TIMED_OUT: CheckResult = CheckResult::Failed {
        kind: FailureType::NetworkTimeout,
        retriable: false,
        status: 0,
    };
}

/// How one host is asked: keeps its connection between checks.
enum Probe {
    Http(http::HttpProbe),
    Grpc(grpc::GrpcProbe),
    Tcp(tcp::TcpProbe),
}

/// Checks one host for as long as it is polled.
async fn run(session: Rc<HostChecks>, cx: Rc<HealthCheckCx>, hosts: Weak<ClusterHosts>) {
    let mut probe = match &cx.config.kind {
        CheckKind::Http(_) => Probe::Http(http::HttpProbe::default()),
        CheckKind::Grpc(_) => Probe::Grpc(grpc::GrpcProbe::default()),
        CheckKind::Tcp(_) => Probe::Tcp(tcp::TcpProbe::default()),
    };
    if let Some(delay) = schedule::initial_delay(&cx) {
        tokio::time::sleep(delay).await;
    }
    loop {
        cx.stats.attempt.inc();
        let host = session.host.borrow().clone();
        let checked = tokio::time::timeout(cx.config.timeout, probe.check(&cx, &host)).await;
        let mut result = checked.unwrap_or_else(|_| {
            probe.give_up(&cx);
            CheckResult::TIMED_OUT
        });
        loop {
            let Some(hosts) = hosts.upgrade() else {
                return;
            };
            let Some(checker) = hosts.checker() else {
                return;
            };
            let healthy = matches!(result, CheckResult::Healthy { .. });
            let transition = checker.take(&session, result);
            let wait = schedule::interval(&cx, healthy, transition);
            drop(hosts);
            tokio::select! {
                () = tokio::time::sleep(wait) => break,
                // A connection that breaks between checks counts as a failed check.
                () = probe.broken() => result = CheckResult::BROKEN,
            }
        }
    }
}

impl Probe {
    async fn check(&mut self, cx: &HealthCheckCx, host: &Host) -> CheckResult {
        match (self, &cx.config.kind) {
            (Probe::Http(probe), CheckKind::Http(config)) => probe.check(config, cx, host).await,
            (Probe::Grpc(probe), CheckKind::Grpc(config)) => probe.check(config, cx, host).await,
            (Probe::Tcp(probe), CheckKind::Tcp(config)) => probe.check(config, cx, host).await,
            _ => CheckResult::BROKEN, // a probe is made for its kind of check
        }
    }

    /// Ends a check that timed out.
    fn give_up(&mut self, cx: &HealthCheckCx) {
        match self {
            Probe::Http(probe) => *probe = http::HttpProbe::default(),
            Probe::Grpc(probe) => probe.give_up(cx),
            Probe::Tcp(probe) => *probe = tcp::TcpProbe::default(),
        }
    }

    /// Waits until the connection breaks, if a broken connection counts.
    async fn broken(&mut self) {
        match self {
            Probe::Tcp(probe) => probe.broken().await,
            Probe::Http(_) | Probe::Grpc(_) => std::future::pending().await,
        }
    }
}

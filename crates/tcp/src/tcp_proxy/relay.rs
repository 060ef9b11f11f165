//! Moves bytes between a client and a host until both have ended, one of them fails, or a timer ends the connection.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;

use outrider_http::ResponseFlag;
use outrider_net::NetworkStream;
use outrider_stats::Gauge;
use outrider_upstream::Cluster;
use outrider_upstream::ClusterStats;
use outrider_upstream::TcpLease;
use tokio::task::spawn_local;

use super::TcpProxy;
use super::connect::ConnectedHost;
use super::flow::Flow;
use super::flow::FlowCounts;
use super::flow::FlowError;
use super::session::Session;
use super::stats::TcpProxyStats;
use super::timers::SessionTimers;

/// A client's connection and a host's, and the bytes between them.
pub(super) struct Relay {
    client: NetworkStream,
    host: NetworkStream,
    to_client: Flow,
    to_host: Flow,
    /// `None` for a tunnel.
    lease: Option<TcpLease>,
    cluster: Rc<Cluster>,
}

/// Why a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RelayEnd {
    /// Both have ended, the host last or the client last.
    Finished { by_host: bool },
    /// The client's connection is complete, but the host has not got everything.
    ClientFinished,
    /// The client reset its connection.
    ClientReset,
    /// The client's connection failed in another way.
    ClientGone,
    /// The host reset its connection.
    HostReset,
    /// The host's connection failed in another way.
    HostGone,
    /// A timer passed.
    Expired,
    /// The listener drains.
    Drained,
}

impl Relay {
    /// The bytes between a client and the host that `session` is connected to.
    pub(super) fn new(client: NetworkStream, host: ConnectedHost, session: &Session) -> Relay {
        let ConnectedHost {
            cluster,
            stream,
            lease,
            ..
        } = host;
        let limit = cluster.info().per_connection_buffer_limit_bytes;
        if lease.is_some() {
            cluster.stats().upstream_cx_tx_bytes_buffered.mark_used();
        }
        Relay {
            client,
            host: stream,
            to_client: Flow::new(session.proxy.config.buffer_limit),
            to_host: Flow::new(usize::try_from(limit).unwrap_or(usize::MAX)),
            lease,
            cluster,
        }
    }

    /// Moves bytes until the end.
    pub(super) async fn run(mut self, session: Session, mut timers: SessionTimers) {
        let end = poll_fn(|cx| match self.poll(&session, cx) {
            Poll::Pending => timers.poll(&session, cx).map(|()| RelayEnd::Expired),
            end => end,
        })
        .await;
        match end {
            RelayEnd::Finished { by_host: false } | RelayEnd::Expired => {}
            RelayEnd::Finished { by_host: true } => self.closed_by_host(),
            RelayEnd::ClientReset => self.host.reset_on_close(),
            RelayEnd::HostReset => {
                session.flag(ResponseFlag::UpstreamRemoteReset);
                self.closed_by_host();
                self.client.reset_on_close();
            }
            RelayEnd::HostGone => {
                self.closed_by_host();
                self.flush_to_client(&session, &mut timers).await;
            }
            RelayEnd::Drained => {
                session.proxy.stats.downstream_cx_drain_close.inc();
                self.flush_to_client(&session, &mut timers).await;
            }
            RelayEnd::ClientFinished | RelayEnd::ClientGone => {
                let proxy = session.proxy.clone();
                if self.to_host.is_pending() {
                    self.to_client.discard(&ClientCounts::of(
                        counted(self.lease.as_ref(), &self.cluster),
                        &session,
                    ));
                    return self.flush_to_host(proxy);
                }
            }
        }
        self.to_client.discard(&ClientCounts::of(
            counted(self.lease.as_ref(), &self.cluster),
            &session,
        ));
        self.to_host.discard(&HostCounts::of(
            counted(self.lease.as_ref(), &self.cluster),
            &session,
        ));
    }

    fn closed_by_host(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.closed_by_host();
        }
    }

    fn poll(&mut self, session: &Session, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        let proxy = &session.proxy;
        let moved = Cell::new(false);
        let buffer = &mut *proxy.read_buffer.borrow_mut();
        let counts = HostCounts {
            moved: Some(&moved),
            ..HostCounts::of(counted(self.lease.as_ref(), &self.cluster), session)
        };
        let sides = (&mut self.client, &mut self.host);
        match self.to_host.poll(cx, sides, buffer, &counts) {
            Err(FlowError::Read(error)) => return Poll::Ready(client_failed(&error)),
            Err(FlowError::Write(error)) => return Poll::Ready(host_failed(&error)),
            Ok(()) => {}
        }
        let counts = ClientCounts {
            moved: Some(&moved),
            ..ClientCounts::of(counted(self.lease.as_ref(), &self.cluster), session)
        };
        let host_had_ended = self.to_client.read_ended();
        let sides = (&mut self.host, &mut self.client);
        match self.to_client.poll(cx, sides, buffer, &counts) {
            Err(FlowError::Read(error)) => return Poll::Ready(host_failed(&error)),
            Err(FlowError::Write(error)) => return Poll::Ready(client_failed(&error)),
            Ok(()) => {}
        }
        if moved.get() {
            session.touch();
            if proxy.config.checks_drain && proxy.drain.is_draining() {
                return Poll::Ready(RelayEnd::Drained);
            }
        }
        let client_done = self.to_host.read_ended() && self.to_client.write_ended();
        match (client_done, self.to_host.write_ended()) {
            (true, true) => Poll::Ready(RelayEnd::Finished {
                by_host: !host_had_ended,
            }),
            (true, false) if self.to_host.is_pending() => Poll::Ready(RelayEnd::ClientFinished),
            _ => Poll::Pending,
        }
    }

    /// Writes the pending bytes to the client, as long as the timers allow.
    async fn flush_to_client(&mut self, session: &Session, timers: &mut SessionTimers) {
        poll_fn(|cx| {
            let counts = ClientCounts::of(counted(self.lease.as_ref(), &self.cluster), session);
            let written = self.to_client.write_pending(cx, &mut self.client, &counts);
            if written.is_err() || !self.to_client.is_pending() {
                return Poll::Ready(());
            }
            timers.poll(session, cx)
        })
        .await;
    }

    /// Writes the pending bytes to the host after the client's connection has ended, as long as the host takes some within
    /// `idle_timeout`.
    fn flush_to_host(mut self, proxy: Rc<TcpProxy>) {
        let activity = proxy.worker.activity.connection();
        activity.set(true);
        let active = proxy.stats.hold(|stats| &stats.upstream_flush_active);
        proxy.stats.upstream_flush_total.inc();
        let limit = proxy.config.idle_timeout;
        drop(self.client);
        drop(spawn_local(async move {
            let _held = (activity, active);
            let timers = proxy.worker.timers.clone();
            let mut idle = timers.timer();
            let rest = |limit| timers.now() + limit;
            idle.set(limit.map(rest));
            let moved = Cell::new(false);
            let counts = HostCounts {
                stats: &proxy.stats,
                cluster: counted(self.lease.as_ref(), &self.cluster),
                session: None,
                moved: Some(&moved),
            };
            poll_fn(|cx| {
                let written = self.to_host.write_pending(cx, &mut self.host, &counts);
                if written.is_err() || !self.to_host.is_pending() {
                    return Poll::Ready(());
                }
                if moved.take() {
                    idle.set(limit.map(rest));
                }
                let expired = idle.poll_elapsed(cx);
                if expired.is_ready() {
                    proxy.stats.idle_timeout.inc();
                }
                expired
            })
            .await;
            self.to_host.discard(&counts);
            drop(self.lease);
        }));
    }
}

/// The stats of the cluster, if the relay counts the bytes of the host's connection.
fn counted<'a>(lease: Option<&TcpLease>, cluster: &'a Cluster) -> Option<&'a Arc<ClusterStats>> {
    lease.map(|_| cluster.stats())
}

fn is_reset(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionReset
}

fn host_failed(error: &io::Error) -> RelayEnd {
    match is_reset(error) {
        true => RelayEnd::HostReset,
        false => RelayEnd::HostGone,
    }
}

fn client_failed(error: &io::Error) -> RelayEnd {
    match is_reset(error) {
        true => RelayEnd::ClientReset,
        false => RelayEnd::ClientGone,
    }
}

/// Counts the bytes from the client to the host.
struct HostCounts<'a> {
    stats: &'a Arc<TcpProxyStats>,
    /// `None` for a tunnel, whose bytes its codec counts.
    cluster: Option<&'a Arc<ClusterStats>>,
    /// `None` once the client's connection has ended.
    session: Option<&'a Session>,
    /// Set when bytes were moved.
    moved: Option<&'a Cell<bool>>,
}

impl<'a> HostCounts<'a> {
    fn of(cluster: Option<&'a Arc<ClusterStats>>, session: &'a Session) -> HostCounts<'a> {
        HostCounts {
            stats: &session.proxy.stats,
            cluster,
            session: Some(session),
            moved: None,
        }
    }
}

impl FlowCounts for HostCounts<'_> {
    fn received(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.stats.downstream_cx_rx_bytes_total.add(bytes);
        if let Some(session) = self.session {
            session.received.set(session.received.get() + bytes);
        }
        note(self.moved);
    }

    fn sent(&self, bytes: usize) {
        if let Some(cluster) = self.cluster {
            cluster.upstream_cx_tx_bytes_total.add(bytes as u64);
        }
        note(self.moved);
    }

    fn buffered(&self, before: usize, after: usize) {
        if let Some(cluster) = self.cluster {
            move_gauge(&cluster.upstream_cx_tx_bytes_buffered, before, after);
        }
    }

    fn paused(&self, is_paused: bool) {
        let stats = self.stats;
        match is_paused {
            true => stats.downstream_flow_control_paused_reading_total.inc(),
            false => stats.downstream_flow_control_resumed_reading_total.inc(),
        }
    }
}

/// Counts the bytes from the host to the client.
struct ClientCounts<'a> {
    stats: &'a Arc<TcpProxyStats>,
    /// `None` for a tunnel, whose bytes its codec counts.
    cluster: Option<&'a Arc<ClusterStats>>,
    session: &'a Session,
    /// Set when bytes were moved.
    moved: Option<&'a Cell<bool>>,
}

impl<'a> ClientCounts<'a> {
    fn of(cluster: Option<&'a Arc<ClusterStats>>, session: &'a Session) -> ClientCounts<'a> {
        ClientCounts {
            stats: &session.proxy.stats,
            cluster,
            session,
            moved: None,
        }
    }
}

impl FlowCounts for ClientCounts<'_> {
    fn received(&self, bytes: usize) {
        let bytes = bytes as u64;
        if let Some(cluster) = self.cluster {
            cluster.upstream_cx_rx_bytes_total.add(bytes);
        }
        self.session.sent.set(self.session.sent.get() + bytes);
        note(self.moved);
    }

    fn sent(&self, bytes: usize) {
        self.stats.downstream_cx_tx_bytes_total.add(bytes as u64);
        note(self.moved);
    }

    fn buffered(&self, before: usize, after: usize) {
        move_gauge(&self.stats.downstream_cx_tx_bytes_buffered, before, after);
    }

    fn paused(&self, is_paused: bool) {
        let Some(stats) = self.cluster else {
            return;
        };
        match is_paused {
            true => stats.upstream_flow_control_paused_reading_total.inc(),
            false => stats.upstream_flow_control_resumed_reading_total.inc(),
        }
    }
}

fn note(moved: Option<&Cell<bool>>) {
    if let Some(moved) = moved {
        moved.set(true);
    }
}

/// Adjusts a gauge by the change of one connection's contribution to it.
fn move_gauge(gauge: &Gauge, before: usize, after: usize) {
    match after.checked_sub(before) {
        Some(more) => gauge.add(more as u64),
        None => gauge.sub((before - after) as u64),
    }
}

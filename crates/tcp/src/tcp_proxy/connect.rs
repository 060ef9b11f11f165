//! Connecting to a host, in as many attempts as are allowed.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrider_config::api::envoy::data::accesslog::v3::AccessLogType;
use outrider_http::ResponseFlag;
use outrider_http::UpstreamInfo;
use outrider_net::Address;
use outrider_net::BackOff;
use outrider_net::NetworkStream;
use outrider_net::TlsInfo;
use outrider_net::clock;
use outrider_upstream::BreakerResource;
use outrider_upstream::Cluster;
use outrider_upstream::Host;
use outrider_upstream::OutlierResult;
use outrider_upstream::Pick;
use outrider_upstream::PickRequest;
use outrider_upstream::PoolFailure;
use outrider_upstream::RoutingPriority;
use outrider_upstream::TcpConnection;
use outrider_upstream::TcpLease;
use xxhash_rust::xxh64::xxh64;

use super::session::Ended;
use super::session::Session;

/// A connection to a host of a cluster, or a tunnel through it.
pub(super) struct ConnectedHost {
    pub(super) cluster: Rc<Cluster>,
    pub(super) stream: NetworkStream,
    /// Unique among all upstream connections of the process.
    pub(super) id: u64,
    pub(super) local: Option<Address>,
    pub(super) tls: Option<Rc<TlsInfo>>,
    /// Counts the connection. `None` for a tunnel, which is a request on a connection that its pool counts.
    pub(super) lease: Option<TcpLease>,
}

impl ConnectedHost {
    fn over_tcp(connection: TcpConnection, cluster: Rc<Cluster>) -> ConnectedHost {
        ConnectedHost {
            stream: connection.stream,
            id: connection.id,
            local: connection.local,
            tls: connection.tls,
            lease: Some(connection.lease),
            cluster,
        }
    }
}

/// What an attempt that waits too long counts as, for outlier detection.
const GATEWAY_TIMEOUT: u16 = 504;

impl Session {
    /// Connects to a host.
    pub(super) async fn connect(&self) -> Result<ConnectedHost, Ended> {
        let proxy = &self.proxy;
        let mut attempts = 0;
        let mut back_off = proxy.config.back_off;
        let began = clock::now();
        loop {
            let (cluster, mut pick) = self.pick(attempts)?;
            pick.announce(|| {
                let connection = self.connection.borrow();
                connection.proxy_protocol_header(&connection.remote)
            });
            attempts += 1;
            self.note_upstream(|upstream| {
                upstream.attempts = attempts;
                upstream.hosts_attempted.push(pick.host().clone());
            });
            let connected = match &proxy.config.tunneling {
                None => {
                    let connected = pick.connect(RoutingPriority::Default).await;
                    connected.map(|connection| ConnectedHost::over_tcp(connection, cluster.clone()))
                }
                Some(tunneling) => {
                    let stream = self.as_stream(AccessLogType::NotSet);
                    tunneling.open(&pick, cluster.clone(), stream).await
                }
            };
            let waited = clock::since(began);
            self.note_upstream(|upstream| upstream.pool_ready = Some(waited));
            match connected {
                Ok(connected) => {
                    self.connected(pick.host(), &connected);
                    return Ok(connected);
                }
                Err(failure) => self.not_connected(pick.host(), &failure),
            }
            if attempts >= proxy.config.max_connect_attempts {
                self.flag(ResponseFlag::UpstreamRetryLimitExceeded);
                cluster.stats().upstream_cx_connect_attempts_exceeded.inc();
                return Err(Ended);
            }
            let wait = back_off.as_mut().map_or(Duration::ZERO, BackOff::next_wait);
            proxy.worker.timers.sleep(wait).await;
        }
    }

    /// Picks a cluster and a host of it. Notes why there is none.
    fn pick(&self, attempts: u32) -> Result<(Rc<Cluster>, Pick), Ended> {
        let proxy = &self.proxy;
        let random = proxy.worker.random();
        let (name, metadata_match) = proxy.config.cluster(self.cluster.as_deref(), random);
        let Some(cluster) = proxy.clusters.get(name) else {
            proxy.stats.downstream_cx_no_route.inc();
            self.flag(ResponseFlag::NoClusterFound);
            return Err(Ended);
        };
        let names = (cluster.observability_name().clone(), cluster.name().clone());
        match &mut *self.upstream.borrow_mut() {
            Some(upstream) => (upstream.cluster, upstream.cluster_raw) = names,
            none => *none = Some(Box::new(UpstreamInfo::new(names.0, names.1))),
        }
        self.note_upstream(|upstream| upstream.attempts = attempts);
        // The pool would let the connection wait for room, so it is refused here, as in Envoy.
        let breakers = cluster.breakers();
        if !breakers.has_room(RoutingPriority::Default, BreakerResource::Connections) {
            self.flag(ResponseFlag::UpstreamOverflow);
            cluster.stats().upstream_cx_overflow.inc();
            return Err(Ended);
        }
        let hash = self.hash().filter(|_| cluster.info().balancer.uses_hash());
        let request = PickRequest {
            hash,
            metadata_match,
            ..PickRequest::default()
        };
        let Ok(pick) = cluster.pick(request) else {
            self.flag(ResponseFlag::NoHealthyUpstream);
            return Err(Ended);
        };
        Ok((cluster, pick))
    }

    /// The hash by `hash_policy`.
    fn hash(&self) -> Option<u64> {
        if !self.proxy.config.hashes_source_ip {
            return None;
        }
        match &self.connection.borrow().remote {
            Address::Ip(address) => Some(xxh64(address.ip().to_string().as_bytes(), 0)),
            Address::Pipe(_) | Address::Internal(_) => None,
        }
    }

    fn connected(&self, host: &Arc<Host>, connection: &ConnectedHost) {
        host.put_result(OutlierResult::ConnectedFinally);
        self.note_upstream(|upstream| {
            note_host(upstream, host);
            upstream.local_address.clone_from(&connection.local);
            upstream.connection_id = Some(connection.id);
            upstream.tls.clone_from(&connection.tls);
        });
        self.touch();
        if self.proxy.config.log_moments.connected {
            self.log(AccessLogType::TcpUpstreamConnected);
        }
    }

    fn not_connected(&self, host: &Arc<Host>, failure: &PoolFailure) {
        match failure {
            PoolFailure::Timeout => {
                host.put_result(OutlierResult::TimedOut(GATEWAY_TIMEOUT));
                self.flag(ResponseFlag::UpstreamConnectionFailure);
            }
            PoolFailure::RemoteConnectionFailure(_) => {
                host.put_result(OutlierResult::ConnectFailed);
                self.flag(ResponseFlag::UpstreamConnectionFailure);
            }
            PoolFailure::LocalConnectionFailure(_) => {}
            PoolFailure::Overflow | PoolFailure::ActiveOverflow | PoolFailure::PoolOverflow => {
                return self.note_upstream(|upstream| {
                    upstream.host = None;
                    upstream.host_name = None;
                });
            }
        }
        let reason = failure.transport_failure_reason();
        self.note_upstream(|upstream| {
            note_host(upstream, host);
            let reason = (!reason.is_empty()).then(|| Cow::Owned(reason.replace(' ', "_")));
            upstream.transport_failure = reason;
        });
    }
}

fn note_host(upstream: &mut UpstreamInfo, host: &Arc<Host>) {
    upstream.host = Some(host.address().clone());
    upstream.host_name = Some(host.hostname().clone()).filter(|name| !name.is_empty());
}

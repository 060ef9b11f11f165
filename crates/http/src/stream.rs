//! One request and its response, as filters, formatters and the access log see them.
//!
//! The request's head stays in [`Stream::request`]: a codec writes it from there. The response's header map moves on
//! with the response; only the headers that a formatter of this configuration reads ([`Capture`]) are copied into the
//! stream.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use http::Version;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::Meter;
use outrider_codec::Reason;
use outrider_codec::RequestHead;
use outrider_codec::ResponseHead;
use outrider_codec::StreamError;
use outrider_config::api::envoy::data::accesslog::v3::AccessLogType;
use outrider_net::Address;
use outrider_net::DownstreamConnectionInfo;
use outrider_net::TlsInfo;
use outrider_net::clock;
use outrider_runtime::LocalSnapshot;
use outrider_runtime::Snapshot;
use outrider_upstream::Cluster;
use outrider_upstream::Host;
use tokio::time::Instant;

use crate::filters::DynamicMetadata;
use crate::filters::FilterState;
use crate::filters::Filters;
use crate::filters::StreamSlots;
use crate::grpc;
use crate::manager::ConnectionManager;
use crate::manager::RoutesInUse;
use crate::request::Origin;
use crate::response_flags::ResponseFlag;
use crate::response_flags::ResponseFlags;
use crate::route::Route;
use crate::router::FollowedRedirects;
use crate::router::UpstreamRequest;
use crate::tracing;
use crate::tracing::StreamTrace;

/// Everything that is known about one request and its response.
#[derive(Debug)]
pub struct Stream {
    /// The downstream connection.
    pub connection: Rc<DownstreamConnectionInfo>,
    /// A random number for this stream (`%STREAM_ID%`).
    pub id: u64,
    /// When the first byte of the request head arrived, by the wall clock (`%START_TIME%`).
    pub start_time: SystemTime,
    /// The same time on the monotonic clock.
    pub started: Instant,
    /// Why the stream is logged (`%ACCESS_LOG_TYPE%`).
    pub log_type: AccessLogType,
    /// The client's protocol. [`NOT_HTTP`](Stream::NOT_HTTP) for a TCP connection that is logged.
    pub protocol: Version,
    /// The request head, as the last filter left it.
    pub request: RequestHead,
    /// The response head, once there is one.
    pub response: Option<ResponseHead>,
    /// The response trailers that were captured.
    pub response_trailers: Option<HeaderMap>,
    /// The client's address, from `x-forwarded-for` or the connection (`%DOWNSTREAM_REMOTE_ADDRESS%`).
    pub remote_address: Address,
    /// The routes that were current when the stream began.
    pub(crate) routes: Option<Rc<RoutesInUse>>,
    /// The route that was found last.
    pub route: Option<Arc<Route>>,
    /// Why the stream ended as it did.
    pub flags: ResponseFlags,
    /// `%RESPONSE_CODE_DETAILS%`: where the response came from.
    pub details: Option<Cow<'static, str>>,
    /// `%CONNECTION_TERMINATION_DETAILS%`.
    pub connection_termination_details: Option<Cow<'static, str>>,
    /// Whether the request asks for another protocol: CONNECT, or an upgrade.
    pub(crate) is_upgrade: bool,
    /// Whether the response filters are skipped: the overload manager refused the request.
    pub(crate) skips_filters: bool,
    /// Whether the request asks for WebSocket.
    pub(crate) is_websocket: bool,
    /// Whether the client's request is gRPC.
    pub(crate) is_grpc: bool,
    /// Whether the request that goes upstream is gRPC: filters may have translated it.
    pub(crate) is_upstream_grpc: bool,
    /// Whether the request is a health check of this proxy, by the filter of that name.
    pub(crate) is_health_check: bool,
    /// The port that was stripped off the target of a CONNECT. It is added again for the upstream, because a CONNECT
    /// without a port is not valid.
    pub(crate) connect_port: Option<u16>,
    /// Where the request came from.
    pub(crate) origin: Origin,
    /// The redirects that the request has followed.
    pub(crate) redirects: Option<Box<FollowedRedirects>>,
    /// The virtual cluster that the request was counted in (`%VIRTUAL_CLUSTER_NAME%`).
    pub(crate) virtual_cluster: Option<Arc<str>>,
    /// The cluster that the route chose for this request, if a cluster of that name exists.
    pub(crate) cluster: Option<Rc<Cluster>>,
    /// The upstream side, once a cluster was chosen.
    pub upstream: Option<Box<UpstreamInfo>>,
    /// Bytes and times on the client's side.
    pub traffic: Traffic,
    /// When the stream ended, for `%DURATION%`.
    pub ended: Option<Instant>,
    /// The filters, if the route enables or disables some.
    pub(crate) filters: Option<Filters>,
    /// Values that filters keep for this stream.
    pub slots: StreamSlots,
    /// Metadata that filters have set.
    pub dynamic_metadata: DynamicMetadata,
    /// Objects that filters share.
    pub filter_state: FilterState,
    /// The runtime values that apply to the stream from its start to its end.
    pub(crate) runtime: Option<LocalSnapshot>,
    /// The trace, if the connection manager has tracing.
    pub(crate) trace: Option<Box<StreamTrace>>,
}

/// The upstream side of a stream: that of the last attempt.
#[derive(Clone, Debug)]
pub struct UpstreamInfo {
    /// The cluster's name, or its `alt_stat_name` (`%UPSTREAM_CLUSTER%`); empty if the request no longer has a route.
    pub cluster: Rc<str>,
    /// The cluster's name (`%UPSTREAM_CLUSTER_RAW%`).
    pub cluster_raw: Rc<str>,
    /// The chosen host's address (`%UPSTREAM_HOST%`).
    pub host: Option<Address>,
    /// The chosen host's name (`%UPSTREAM_HOST_NAME%`).
    pub host_name: Option<Arc<str>>,
    /// The hosts of all attempts to connect; empty for requests.
    pub hosts_attempted: Vec<Arc<Host>>,
    /// The proxy's address on the upstream connection.
    pub local_address: Option<Address>,
    /// `%UPSTREAM_CONNECTION_ID%`.
    pub connection_id: Option<u64>,
    /// `%UPSTREAM_PROTOCOL%`.
    pub protocol: Option<Version>,
    /// What is known of the connection's TLS.
    pub tls: Option<Rc<TlsInfo>>,
    /// `%UPSTREAM_REQUEST_ATTEMPT_COUNT%`.
    pub attempts: u32,
    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`.
    pub transport_failure: Option<Cow<'static, str>>,
    /// Bytes and times on the upstream side.
    pub traffic: Traffic,
    /// The bytes of the attempts before the last.
    pub(crate) earlier: Option<Box<Traffic>>,
    /// How long it took to get a connection from the pool, or an error.
    pub pool_ready: Option<Duration>,
    /// The request to the host, once one was picked.
    pub(crate) request: Option<Rc<UpstreamRequest>>,
}

impl UpstreamInfo {
    /// Adds the bytes of an attempt that is followed by another.
    pub(crate) fn keep_counts(&mut self, request: &UpstreamRequest) {
        if let Some(meter) = request.meter() {
            let earlier = self.earlier.get_or_insert_default();
            earlier.add(&Traffic::counts(&meter));
        }
    }

    /// The upstream side for a cluster, before a host is picked.
    #[must_use]
    pub fn new(cluster: Rc<str>, cluster_raw: Rc<str>) -> UpstreamInfo {
        UpstreamInfo {
            cluster,
            cluster_raw,
            host: None,
            host_name: None,
            hosts_attempted: Vec::new(),
            local_address: None,
            connection_id: None,
            protocol: None,
            tls: None,
            attempts: 0,
            transport_failure: None,
            traffic: Traffic::default(),
            earlier: None,
            pool_ready: None,
            request: None,
        }
    }
}

/// Bytes and times of one side of a stream. "Received" and "sent" are from the proxy's point of view.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Body bytes received (`%BYTES_RECEIVED%`).
    pub body_received: u64,
    /// Body bytes sent (`%BYTES_SENT%`).
    pub body_sent: u64,
    /// Bytes of header fields received, as encoded.
    pub header_received: u64,
    /// Bytes of header fields sent, as encoded.
    pub header_sent: u64,
    /// Bytes of header fields received, before HTTP/2 compressed them.
    pub decompressed_received: u64,
    /// Bytes of header fields sent, before HTTP/2 compressed them.
    pub decompressed_sent: u64,
    /// All bytes received, with framing.
    pub wire_received: u64,
    /// All bytes sent, with framing.
    pub wire_sent: u64,
    /// When the first byte was received.
    pub first_received: Option<Instant>,
    /// When the last byte was received.
    pub last_received: Option<Instant>,
    /// When the first byte was sent.
    pub first_sent: Option<Instant>,
    /// When the last byte was sent.
    pub last_sent: Option<Instant>,
}

impl Stream {
    /// The protocol of a stream that is not HTTP: a TCP connection in an access log.
    pub const NOT_HTTP: Version = Version::HTTP_09;

    /// A stream that begins now, with this head; `id` is a random number.
    pub(crate) fn new(
        connection: Rc<DownstreamConnectionInfo>,
        request: RequestHead,
        protocol: Version,
        id: u64,
    ) -> Stream {
        let is_grpc = grpc::is_request(&request.headers);
        Stream {
            remote_address: connection.remote.clone(),
            filter_state: connection.filter_state.clone(),
            connection,
            id,
            start_time: clock::wall(),
            started: clock::now(),
            log_type: AccessLogType::DownstreamEnd,
            protocol,
            is_grpc,
            is_upstream_grpc: is_grpc,
            is_health_check: false,
            request,
            response: None,
            response_trailers: None,
            routes: None,
            route: None,
            flags: ResponseFlags::default(),
            details: None,
            connection_termination_details: None,
            is_upgrade: false,
            skips_filters: false,
            is_websocket: false,
            connect_port: None,
            origin: Origin::External,
            redirects: None,
            virtual_cluster: None,
            cluster: None,
            upstream: None,
            traffic: Traffic::default(),
            ended: None,
            filters: None,
            slots: StreamSlots::default(),
            dynamic_metadata: DynamicMetadata::default(),
            runtime: None,
            trace: None,
        }
    }

    /// The stream that follows this one because of a redirect: its request is the one that this stream has now.
    pub(crate) fn redirected(&self, id: u64) -> Stream {
        let (connection, request) = (self.connection.clone(), self.request.clone());
        Stream {
            remote_address: self.remote_address.clone(),
            origin: self.origin,
            redirects: self.redirects.clone(),
            ..Stream::new(connection, request, self.protocol, id)
        }
    }

    /// Sets the time of the first byte to `began`, if it is known.
    pub(crate) fn set_began(&mut self, began: Option<Instant>) {
        if let Some(began) = began {
            let ago = self.started.saturating_duration_since(began);
            self.start_time = self.start_time.checked_sub(ago).unwrap_or(self.start_time);
            self.started = began;
        }
    }

    /// The runtime values of this stream; `None` if no value is set.
    pub(crate) fn runtime(&self) -> Option<&Snapshot> {
        self.runtime.as_deref().map(|snapshot| &**snapshot)
    }

    /// Whether it is a request, and not a TCP connection that is logged.
    pub(crate) fn is_http(&self) -> bool {
        self.protocol != Stream::NOT_HTTP
    }

    /// The response's status, or 0 without a response (`%RESPONSE_CODE%`).
    #[must_use]
    pub fn response_code(&self) -> u16 {
        self.response
            .as_ref()
            .map_or(0, |response| response.status.as_u16())
    }

    /// How long the stream has taken so far, or in total once it has ended (`%DURATION%`).
    #[must_use]
    pub fn duration(&self) -> Duration {
        let end = self.ended.unwrap_or_else(clock::now);
        end.saturating_duration_since(self.started)
    }
}

impl Traffic {
    /// The codec's counts so far, for the side whose first byte was received or sent at `began`.
    fn server(meter: &Meter, began: Instant) -> Traffic {
        Traffic {
            first_received: Some(began),
            last_received: meter.receive_ended(),
            first_sent: meter.send_began(),
            last_sent: meter.send_ended(),
            ..Traffic::counts(meter)
        }
    }

    pub(crate) fn client(meter: &Meter, response_began: Option<Instant>) -> Traffic {
        Traffic {
            first_received: response_began,
            last_received: meter.receive_ended(),
            first_sent: meter.send_began(),
            last_sent: meter.send_ended(),
            ..Traffic::counts(meter)
        }
    }

    /// Adds the bytes of `other`; the times stay.
    fn add(&mut self, other: &Traffic) {
        self.body_received += other.body_received;
        self.body_sent += other.body_sent;
        self.header_received += other.header_received;
        self.header_sent += other.header_sent;
        self.decompressed_received += other.decompressed_received;
        self.decompressed_sent += other.decompressed_sent;
        self.wire_received += other.wire_received;
        self.wire_sent += other.wire_sent;
    }

    fn counts(meter: &Meter) -> Traffic {
        Traffic {
            body_received: meter.body_bytes_received(),
            body_sent: meter.body_bytes_sent(),
            header_received: meter.header_bytes_received(),
            header_sent: meter.header_bytes_sent(),
            decompressed_received: meter.decompressed_header_bytes_received(),
            decompressed_sent: meter.decompressed_header_bytes_sent(),
            wire_received: meter.wire_bytes_received(),
            wire_sent: meter.wire_bytes_sent(),
            ..Traffic::default()
        }
    }
}

/// Owns a stream until its end. However the stream ends, dropping this counts and logs it, once.
///
/// If the future that serves the stream is dropped at an `.await`, this is dropped too; then the client's connection
/// has closed.
#[derive(Debug)]
pub(crate) struct StreamEnd {
    pub(crate) stream: Stream,
    manager: Rc<ConnectionManager>,
    meter: Rc<Meter>,
    /// Whether the reason for the stream's end has been noted.
    outcome_known: bool,
}

impl StreamEnd {
    pub(crate) fn new(
        stream: Stream,
        manager: Rc<ConnectionManager>,
        meter: Rc<Meter>,
    ) -> StreamEnd {
        manager.stats().requests.downstream_rq_active.inc();
        StreamEnd {
            stream,
            manager,
            meter,
            outcome_known: false,
        }
    }

    /// Notes that the whole response was sent, or that the reason for its failure is in the stream already.
    pub(crate) fn mark_ended(&mut self) {
        self.outcome_known = true;
    }

    /// Notes that the client reset the stream or closed its connection.
    pub(crate) fn client_gone(&mut self, error: &StreamError) {
        self.outcome_known = true;
        self.manager.stats().requests.downstream_rq_rx_reset.inc();
        let (flag, details) = match error {
            StreamError::ConnectionAborted(details) => {
                self.stream.details = Some(Cow::Borrowed(details));
                return;
            }
            // The whole request has arrived: the client only wants no more of the response.
            StreamError::RemoteReset(Reason::NO_ERROR) if self.meter.receive_ended().is_some() => {
                return;
            }
            StreamError::RemoteReset(Reason::PROTOCOL_ERROR) => {
                (ResponseFlag::DownstreamProtocolError, "http2.remote_reset")
            }
            StreamError::RemoteReset(_) => {
                (ResponseFlag::DownstreamRemoteReset, "http2.remote_reset")
            }
            StreamError::RemoteRefused => {
                (ResponseFlag::DownstreamRemoteReset, "http2.remote_refuse")
            }
            // For trailers over a limit, Envoy reports a reset by the client, not a protocol error.
            StreamError::ProtocolError(
                details @ ("http2.too_many_headers" | "http2.header_list_size_too_large"),
            ) => (ResponseFlag::DownstreamRemoteReset, *details),
            StreamError::ProtocolError(details) => {
                (ResponseFlag::DownstreamProtocolError, *details)
            }
            _ => (
                ResponseFlag::DownstreamConnectionTermination,
                "downstream_remote_disconnect",
            ),
        };
        self.stream.flags.set(flag);
        self.stream.details = Some(Cow::Borrowed(details));
    }

    /// Reads the codec's counts into the stream.
    pub(crate) fn read_meters(&mut self) {
        let stream = &mut self.stream;
        stream.traffic = Traffic::server(&self.meter, stream.started);
        let redirects = stream.redirects.as_ref();
        stream.traffic.body_received += redirects.map_or(0, |one| one.bytes_replayed);
        if let Some(upstream) = &mut stream.upstream
            && let Some(request) = &upstream.request
        {
            let last = request.meter().map(|meter| {
                let began = request.response_began();
                Traffic::client(&meter, began)
            });
            upstream.traffic = last.unwrap_or_default();
            if let Some(earlier) = &upstream.earlier {
                upstream.traffic.add(earlier);
            }
        }
    }
}

impl Drop for StreamEnd {
    fn drop(&mut self) {
        if !self.outcome_known {
            self.client_gone(&StreamError::ConnectionTermination);
        }
        let ended = clock::now();
        self.stream.ended = Some(ended);
        self.stream.dynamic_metadata.merge_late();
        self.read_meters();
        let took = ended
            .saturating_duration_since(self.stream.started)
            .as_millis();
        let took = u64::try_from(took).unwrap_or(u64::MAX);
        let stats = self.manager.stats();
        stats.requests.downstream_rq_time.record(took);
        if self.stream.is_health_check {
            stats.tracing.health_check.inc();
        }
        self.manager.log(&self.stream);
        self.manager.end_filters(&mut self.stream);
        if self.stream.trace.is_some() {
            tracing::end(&mut self.stream, clock::wall());
        }
        stats.requests.downstream_rq_active.dec();
    }
}

/// The headers that the formatters of a configuration read after the heads were sent on. The code that compiles a
/// formatter adds the names in it.
#[derive(Clone, Debug, Default)]
pub struct Captures {
    /// Headers of the response, read when the stream ends.
    pub response: Capture,
    /// Headers of the response's trailers.
    pub trailers: Capture,
}

/// The names of the headers to keep when a head is sent on.
#[derive(Clone, Debug, Default)]
pub struct Capture(Vec<HeaderName>);

impl Capture {
    /// Adds `name`, if it is not there yet.
    pub fn add(&mut self, name: &HeaderName) {
        if !self.0.contains(name) {
            self.0.push(name.clone());
        }
    }

    /// A copy of the captured headers in `headers`.
    #[must_use]
    pub fn from(&self, headers: &HeaderMap) -> HeaderMap {
        let mut kept = HeaderMap::new();
        for name in &self.0 {
            for value in headers.get_all(name) {
                kept.append(name, value.clone());
            }
        }
        kept
    }
}

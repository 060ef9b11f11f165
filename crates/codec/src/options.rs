//! Configuration of connections, for both roles and both codecs. Defaults are those of Envoy 1.40.

use std::sync::Arc;
use std::time::Duration;

use outrider_net::Activity;
use outrider_net::DrainSignal;
use outrider_net::OverloadLevel;
use outrider_net::Shutdown;
use outrider_net::TimeoutScale;
use outrider_net::Timers;
use outrider_net::scaled;

use crate::MalformedRequest;
use crate::stats::ByteCounts;
use crate::stats::ConnectionStats;
use crate::stats::Http1Stats;
use crate::stats::Http2Stats;

/// Which codec serves a connection (`HttpConnectionManager.CodecType`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CodecType {
    /// The HTTP/2 preface decides.
    #[default]
    Auto,
    /// HTTP/1 always.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
}

/// What to do with request header names that hold an underscore (`HeadersWithUnderscoresAction`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnderscoresAction {
    /// The header is passed on.
    #[default]
    Allow,
    /// The request is refused.
    Reject,
    /// The header is dropped.
    Drop,
}

/// How HTTP/1 writes header names (`Http1ProtocolOptions.header_key_format`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderCase {
    /// `content-type`
    #[default]
    Lower,
    /// `Content-Type`
    ProperWords,
}

/// `envoy.config.core.v3.Http1ProtocolOptions`.
#[derive(Clone, Debug)]
pub struct Http1Options {
    /// `allow_absolute_url`
    pub allow_absolute_url: bool,
    /// `accept_http_10`
    pub accept_http_10: bool,
    /// `default_host_for_http_10`; empty if not set.
    pub default_host_for_http_10: String,
    /// `header_key_format`
    pub header_case: HeaderCase,
    /// `enable_trailers`
    pub enable_trailers: bool,
    /// `allow_chunked_length`
    pub allow_chunked_length: bool,
    /// `send_fully_qualified_url`
    pub send_fully_qualified_url: bool,
    /// Whether to refuse targets with the scheme `https`, as an edge proxy does on plaintext connections.
    pub refuse_https_targets: bool,
    /// `override_stream_error_on_invalid_http_message`, or the connection manager's own setting.
    pub stream_error_on_invalid_message: bool,
}

impl Default for Http1Options {
    fn default() -> Http1Options {
        Http1Options {
            allow_absolute_url: true,
            accept_http_10: false,
            default_host_for_http_10: String::new(),
            header_case: HeaderCase::Lower,
            enable_trailers: false,
            allow_chunked_length: false,
            send_fully_qualified_url: false,
            refuse_https_targets: false,
            stream_error_on_invalid_message: false,
        }
    }
}

/// `envoy.config.core.v3.KeepaliveSettings`.
#[derive(Clone, Debug)]
pub struct Keepalive {
    /// Time between pings; `None` sends no regular pings.
    pub interval: Option<Duration>,
    /// How long to wait for the acknowledgement. The time restarts whenever a frame arrives.
    pub timeout: Duration,
    /// The maximum random addition to each interval, in percent of it.
    pub interval_jitter_percent: f64,
    /// A connection without traffic for this long is pinged before a new stream.
    pub connection_idle_interval: Option<Duration>,
}

/// `envoy.config.core.v3.Http2ProtocolOptions`.
#[derive(Clone, Debug)]
pub struct Http2Options {
    /// `hpack_table_size`, bytes
    pub hpack_table_size: u32,
    /// `max_concurrent_streams`: how many streams the peer may open, and as a client how many this side opens
    pub max_concurrent_streams: u32,
    /// `initial_stream_window_size`, bytes
    pub initial_stream_window_size: u32,
    /// `initial_connection_window_size`, bytes
    pub initial_connection_window_size: u32,
    /// `allow_connect`
    pub allow_connect: bool,
    /// `max_consecutive_inbound_frames_with_empty_payload`
    pub max_consecutive_inbound_frames_with_empty_payload: u32,
    /// `max_inbound_priority_frames_per_stream`
    pub max_inbound_priority_frames_per_stream: u32,
    /// `max_inbound_window_update_frames_per_data_frame_sent`
    pub max_inbound_window_update_frames_per_data_frame_sent: u32,
    /// `max_outbound_frames`
    pub max_outbound_frames: u32,
    /// `max_outbound_control_frames`
    pub max_outbound_control_frames: u32,
    /// `stream_reset_burst`, on servers
    pub stream_reset_burst: u64,
    /// `stream_reset_rate`, resets a second, on servers
    pub stream_reset_rate: u64,
    /// `override_stream_error_on_invalid_http_message`, or the connection manager's own setting.
    pub stream_error_on_invalid_message: bool,
    /// `connection_keepalive`
    pub keepalive: Option<Keepalive>,
    /// `enable_huffman_encoding`
    pub huffman: Huffman,
}

impl Default for Http2Options {
    fn default() -> Http2Options {
        Http2Options {
            hpack_table_size: 4096,
            max_concurrent_streams: 1024,
            initial_stream_window_size: 16 << 20,
            initial_connection_window_size: 24 << 20,
            allow_connect: false,
            max_consecutive_inbound_frames_with_empty_payload: 1,
            max_inbound_priority_frames_per_stream: 100,
            max_inbound_window_update_frames_per_data_frame_sent: 10,
            max_outbound_frames: 10_000,
            max_outbound_control_frames: 1_000,
            stream_reset_burst: 1_000,
            stream_reset_rate: 33,
            stream_error_on_invalid_message: false,
            keepalive: None,
            huffman: Huffman::default(),
        }
    }
}

/// Which strings in header blocks are Huffman-coded (`enable_huffman_encoding`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Huffman {
    /// Not configured: strings that enter the dynamic table, and long ones. For others, coding costs both sides more
    /// time than the saved bytes are worth.
    #[default]
    Selective,
    /// Every string that becomes shorter.
    Always,
    /// No string.
    Never,
}

/// A connection manager's options for the server role, shared by all of its connections on a worker.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// `codec_type`
    pub codec: CodecType,
    /// `http_protocol_options`
    pub http1: Http1Options,
    /// `http2_protocol_options`
    pub http2: Http2Options,
    /// `max_request_headers_kb`, KiB
    pub max_request_headers_kb: u32,
    /// `common_http_protocol_options.max_headers_count`
    pub max_headers_count: u32,
    /// `common_http_protocol_options.headers_with_underscores_action`
    pub underscores: UnderscoresAction,
    /// `common_http_protocol_options.idle_timeout`; `None` disables it.
    pub idle_timeout: Option<Duration>,
    /// `common_http_protocol_options.max_connection_duration`
    pub max_connection_duration: Option<Duration>,
    /// `common_http_protocol_options.max_connection_duration_jitter`, percent
    pub max_connection_duration_jitter_percent: f64,
    /// `http1_safe_max_connection_duration`: when the duration is reached, an HTTP/1 connection closes after its next
    /// response instead of draining.
    pub http1_safe_max_connection_duration: bool,
    /// `common_http_protocol_options.max_requests_per_connection`
    pub max_requests_per_connection: Option<u32>,
    /// `request_headers_timeout`; `None` disables it.
    pub request_headers_timeout: Option<Duration>,
    /// `stream_idle_timeout`, applied here while a request's head is being received; `None` disables it.
    pub stream_idle_timeout: Option<Duration>,
    /// `request_timeout`, applied here while a request's head is being received; `None` disables it.
    pub request_timeout: Option<Duration>,
    /// `common_http_protocol_options.max_stream_duration`, applied here while a request's head is being received;
    /// `None` disables it.
    pub max_stream_duration: Option<Duration>,
    /// `drain_timeout`
    pub drain_timeout: Duration,
    /// `delayed_close_timeout`; `None` disables it.
    pub delayed_close_timeout: Option<Duration>,
    /// `per_connection_buffer_limit_bytes` of the listener
    pub buffer_limit: u32,
    /// `http.<stat_prefix>.downstream_cx_*`
    pub stats: Arc<ConnectionStats>,
    /// `http1.*`
    pub http1_stats: Arc<Http1Stats>,
    /// `http2.*`
    pub http2_stats: Arc<Http2Stats>,
    /// Signals the connections to drain.
    pub drain: DrainSignal,
    /// Records which connections have requests in progress.
    pub activity: Activity,
    /// The stage of the process's shutdown.
    pub shutdown: Shutdown,
    /// What the overload manager changes in connections.
    pub overload: ServerOverload,
    /// The worker's timers.
    pub timers: Timers,
}

/// What the overload manager changes in connections; nothing if it is not configured.
#[derive(Clone, Debug, Default)]
pub struct ServerOverload {
    /// `envoy.overload_actions.disable_http_keepalive`
    pub disables_keepalive: Option<Arc<OverloadLevel>>,
    /// `HTTP_DOWNSTREAM_CONNECTION_IDLE`: how `idle_timeout` is shortened.
    pub idle: Option<TimeoutScale>,
    /// `HTTP_DOWNSTREAM_CONNECTION_MAX`: how `max_connection_duration` is shortened.
    pub max_duration: Option<TimeoutScale>,
    /// `HTTP_DOWNSTREAM_STREAM_IDLE`: how `stream_idle_timeout` is shortened.
    pub stream_idle: Option<TimeoutScale>,
}

impl ServerOverload {
    /// Whether the connection that sends a response now should close after it.
    pub(crate) fn ends_connection(&self) -> bool {
        let level = self.disables_keepalive.as_ref();
        level.is_some_and(|level| level.applies(|| fastrand::u64(..)))
    }
}

impl ServerOptions {
    /// Envoy's defaults on a worker. The stats are not registered in any store until the caller sets them.
    #[must_use]
    pub fn new(timers: Timers, drain: DrainSignal) -> ServerOptions {
        ServerOptions {
            codec: CodecType::Auto,
            http1: Http1Options::default(),
            http2: Http2Options::default(),
            max_request_headers_kb: 60,
            max_headers_count: 100,
            underscores: UnderscoresAction::Allow,
            idle_timeout: Some(Duration::from_secs(3600)),
            max_connection_duration: None,
            max_connection_duration_jitter_percent: 0.0,
            http1_safe_max_connection_duration: false,
            max_requests_per_connection: None,
            request_headers_timeout: None,
            stream_idle_timeout: None,
            request_timeout: None,
            max_stream_duration: None,
            drain_timeout: Duration::from_secs(5),
            delayed_close_timeout: Some(Duration::from_secs(1)),
            buffer_limit: 1 << 20,
            stats: Arc::default(),
            http1_stats: Arc::default(),
            http2_stats: Arc::default(),
            drain,
            activity: Activity::default(),
            shutdown: Shutdown::default(),
            overload: ServerOverload::default(),
            timers,
        }
    }
}

impl ServerOptions {
    /// The shortest timeout for receiving a request's head, counted from its first byte, and the response if it
    /// expires.
    pub(crate) fn head_timeout(&self) -> Option<(Duration, MalformedRequest)> {
        let timeouts = [
            (
                self.request_headers_timeout,
                MalformedRequest::header_timeout(),
            ),
            (
                (self.stream_idle_timeout)
                    .map(|timeout| scaled(timeout, self.overload.stream_idle.as_ref())),
                MalformedRequest::idle_timeout(),
            ),
            (self.request_timeout, MalformedRequest::request_timeout()),
            (self.max_stream_duration, MalformedRequest::max_duration()),
        ];
        let timeouts = timeouts.into_iter();
        let set = timeouts.filter_map(|(timeout, response)| Some((timeout?, response)));
        set.min_by_key(|(timeout, _)| *timeout)
    }
}

/// A cluster's options for the client role, shared by all of its connections on a worker.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `http_protocol_options`
    pub http1: Http1Options,
    /// `http2_protocol_options`
    pub http2: Http2Options,
    /// `common_http_protocol_options.max_response_headers_kb`, KiB; `None` uses each codec's default.
    pub max_response_headers_kb: Option<u32>,
    /// `common_http_protocol_options.max_headers_count`
    pub max_headers_count: u32,
    /// `per_connection_buffer_limit_bytes` of the cluster
    pub buffer_limit: u32,
    /// Counts the connections' bytes: the cluster's stats.
    pub bytes: Arc<dyn ByteCounts>,
    /// `cluster.<name>.http1.*`
    pub http1_stats: Arc<Http1Stats>,
    /// `cluster.<name>.http2.*`
    pub http2_stats: Arc<Http2Stats>,
    /// The worker's timers.
    pub timers: Timers,
}

impl ClientOptions {
    /// Envoy's defaults on a worker. The stats are not registered in any store until the caller sets them.
    #[must_use]
    pub fn new(timers: Timers, bytes: Arc<dyn ByteCounts>) -> ClientOptions {
        ClientOptions {
            http1: Http1Options::default(),
            http2: Http2Options::default(),
            max_response_headers_kb: None,
            max_headers_count: 100,
            buffer_limit: 1 << 20,
            bytes,
            http1_stats: Arc::default(),
            http2_stats: Arc::default(),
            timers,
        }
    }
}

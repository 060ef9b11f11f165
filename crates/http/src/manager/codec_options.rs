//! The codec's options in the connection manager's message.

use std::rc::Rc;
use std::time::Duration;

use outrider_codec::CodecType;
use outrider_codec::Http1Options;
use outrider_codec::Http2Options;
use outrider_codec::ServerOptions;
use outrider_codec::ServerOverload;
use outrider_codec::UnderscoresAction;
use outrider_codec::stats::Http1Stats;
use outrider_codec::stats::Http2Stats;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager as Message;
use outrider_config::duration;
use outrider_net::DrainSignal;
use outrider_net::OverloadAction;
use outrider_net::ScaledTimer;
use outrider_net::WorkerCx;
use outrider_stats::Scope;

use crate::BuildCx;
use crate::filters::HeaderLimits;
use crate::manager::config::StreamTimeouts;
use crate::manager::config::codec_type;

/// The codec's part of the configuration, before it is given a worker.
#[derive(Clone, Debug)]
pub(super) struct CodecOptions {
    codec: CodecType,
    http1: Http1Options,
    http2: Http2Options,
    max_request_headers_kb: u32,
    max_headers_count: u32,
    underscores: UnderscoresAction,
    idle_timeout: Option<Duration>,
    max_connection_duration: Option<Duration>,
    max_connection_duration_jitter_percent: f64,
    http1_safe_max_connection_duration: bool,
    max_requests_per_connection: Option<u32>,
    request_headers_timeout: Option<Duration>,
    drain_timeout: Duration,
    delayed_close_timeout: Option<Duration>,
    buffer_limit: u32,
    bypasses_overload_manager: bool,
}

impl CodecOptions {
    pub(super) fn build(
        message: &Message,
        path: &FieldPath,
        cx: &BuildCx<'_>,
    ) -> Result<CodecOptions, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let stream_error = message
            .stream_error_on_invalid_http_message
            .unwrap_or(false);
        let common = message.common_http_protocol_options.unwrap_or_default();
        let common_path = path.field("common_http_protocol_options");
        let http1 = message.http_protocol_options.clone().unwrap_or_default();
        let http2 = message.http2_protocol_options.clone().unwrap_or_default();
        let http2 =
            Http2Options::build(&http2, &path.field("http2_protocol_options"), stream_error);
        let http2 = errors.collect(http2).unwrap_or_default();
        let codec = errors
            .collect(codec_type(message, path))
            .unwrap_or_default();
        let mut optional = |field: Option<&prost_types::Duration>, path: FieldPath| {
            errors.collect(duration::optional(field, &path)).flatten()
        };
        let idle_timeout = optional(
            common.idle_timeout.as_ref(),
            common_path.field("idle_timeout"),
        );
        let max_connection_duration = optional(
            common.max_connection_duration.as_ref(),
            common_path.field("max_connection_duration"),
        );
        let request_headers_timeout = optional(
            message.request_headers_timeout.as_ref(),
            path.field("request_headers_timeout"),
        );
        let drain_timeout = optional(message.drain_timeout.as_ref(), path.field("drain_timeout"));
        let delayed_close = optional(
            message.delayed_close_timeout.as_ref(),
            path.field("delayed_close_timeout"),
        );
        let runtime = |key: &str, default| {
            let set = cx.runtime.number(key);
            set.map_or(default, |value| u32::try_from(value).unwrap_or(u32::MAX))
        };
        let unless_zero = |timeout: Option<Duration>| timeout.filter(|timeout| !timeout.is_zero());
        let options = CodecOptions {
            codec,
            http1: Http1Options {
                refuse_https_targets: message.use_remote_address.unwrap_or(false),
                ..Http1Options::build(&http1, stream_error)
            },
            http2,
            max_request_headers_kb: message.max_request_headers_kb.unwrap_or_else(|| {
                runtime("envoy.reloadable_features.max_request_headers_size_kb", 60)
            }),
            max_headers_count: common.max_headers_count.unwrap_or_else(|| {
                runtime("envoy.reloadable_features.max_request_headers_count", 100)
            }),
            underscores: common.headers_with_underscores_action().into(),
            idle_timeout: unless_zero(Some(idle_timeout.unwrap_or(Duration::from_secs(3600)))),
            max_connection_duration: unless_zero(max_connection_duration),
            max_connection_duration_jitter_percent: common
                .max_connection_duration_jitter
                .map_or(0.0, |jitter| jitter.value),
            http1_safe_max_connection_duration: message.http1_safe_max_connection_duration,
            max_requests_per_connection: common
                .max_requests_per_connection
                .filter(|requests| *requests > 0),
            request_headers_timeout: unless_zero(request_headers_timeout),
            drain_timeout: drain_timeout.unwrap_or(Duration::from_secs(5)),
            delayed_close_timeout: unless_zero(Some(
                delayed_close.unwrap_or(Duration::from_secs(1)),
            )),
            buffer_limit: cx.buffer_limit,
            bypasses_overload_manager: cx.bypasses_overload_manager,
        };
        errors.finish(options)
    }

    /// How many headers a message may have.
    pub(super) fn header_limits(&self) -> HeaderLimits {
        HeaderLimits {
            count: self.max_headers_count as usize,
            bytes: self.max_request_headers_kb as usize * 1024,
        }
    }

    /// The options for the connections of one worker, with stats in `http.<stat_prefix>`. The codec applies `timeouts`
    /// to a request while its head is incomplete.
    pub(super) fn worker(
        &self,
        cx: &WorkerCx,
        scope: &Scope,
        drain: &DrainSignal,
        timeouts: &StreamTimeouts,
    ) -> Rc<ServerOptions> {
        let CodecOptions {
            codec,
            http1,
            http2,
            ..
        } = self.clone();
        Rc::new(ServerOptions {
            codec,
            http1,
            http2,
            max_request_headers_kb: self.max_request_headers_kb,
            max_headers_count: self.max_headers_count,
            underscores: self.underscores,
            idle_timeout: self.idle_timeout,
            max_connection_duration: self.max_connection_duration,
            max_connection_duration_jitter_percent: self.max_connection_duration_jitter_percent,
            http1_safe_max_connection_duration: self.http1_safe_max_connection_duration,
            max_requests_per_connection: self.max_requests_per_connection,
            request_headers_timeout: self.request_headers_timeout,
            stream_idle_timeout: timeouts.idle,
            request_timeout: timeouts.request,
            max_stream_duration: timeouts.max_duration,
            drain_timeout: self.drain_timeout,
            delayed_close_timeout: self.delayed_close_timeout,
            buffer_limit: self.buffer_limit,
            stats: cx.store.register(scope.clone()),
            http1_stats: cx.store.register::<Http1Stats>(Scope::new("http1")),
            http2_stats: cx
                .store
                .register_unlisted::<Http2Stats>(Scope::new("http2")),
            drain: drain.clone(),
            activity: cx.activity.clone(),
            shutdown: cx.shutdown.clone(),
            overload: self.overload(cx),
            timers: cx.timers.clone(),
        })
    }

    fn overload(&self, cx: &WorkerCx) -> ServerOverload {
        let overload = cx.overload();
        ServerOverload {
            disables_keepalive: match self.bypasses_overload_manager {
                true => None,
                false => overload.action(OverloadAction::DisableHttpKeepalive),
            },
            // As in Envoy, timeouts are shortened even for listeners that bypass the overload manager.
            idle: overload.timer(ScaledTimer::ConnectionIdle),
            max_duration: overload.timer(ScaledTimer::ConnectionMax),
            stream_idle: overload.timer(ScaledTimer::StreamIdle),
        }
    }
}

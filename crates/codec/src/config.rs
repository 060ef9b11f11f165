//! Builds codec options from Envoy's messages. The support table refuses fields that are not read here, or lists why
//! they have no effect.

use outrider_config::ConfigError;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::Http1ProtocolOptions;
use outrider_config::api::envoy::config::core::v3::Http2ProtocolOptions;
use outrider_config::api::envoy::config::core::v3::KeepaliveSettings;
use outrider_config::api::envoy::config::core::v3::http_protocol_options::HeadersWithUnderscoresAction;
use outrider_config::api::envoy::config::core::v3::http1_protocol_options::header_key_format::HeaderFormat;
use outrider_config::duration;

use crate::HeaderCase;
use crate::Http1Options;
use crate::Http2Options;
use crate::Huffman;
use crate::Keepalive;
use crate::UnderscoresAction;

impl Http1Options {
    /// Builds the options in `message`. If it does not set `override_stream_error_on_invalid_http_message`,
    /// `stream_error_on_invalid_message` applies, which is the connection manager's setting.
    #[must_use]
    pub fn build(message: &Http1ProtocolOptions, stream_error_on_invalid_message: bool) -> Self {
        let format = message.header_key_format.as_ref();
        let proper_words = matches!(
            format.and_then(|format| format.header_format.as_ref()),
            Some(HeaderFormat::ProperCaseWords(_))
        );
        Http1Options {
            allow_absolute_url: message.allow_absolute_url.unwrap_or(true),
            accept_http_10: message.accept_http_10,
            default_host_for_http_10: message.default_host_for_http_10.clone(),
            header_case: if proper_words {
                HeaderCase::ProperWords
            } else {
                HeaderCase::Lower
            },
            enable_trailers: message.enable_trailers,
            allow_chunked_length: message.allow_chunked_length,
            send_fully_qualified_url: message.send_fully_qualified_url,
            refuse_https_targets: false,
            stream_error_on_invalid_message: message
                .override_stream_error_on_invalid_http_message
                .unwrap_or(stream_error_on_invalid_message),
        }
    }
}

impl Http2Options {
    /// Builds the options in `message`, found at `path`. If it does not set
    /// `override_stream_error_on_invalid_http_message`, `stream_error_on_invalid_message` applies, which is the
    /// connection manager's setting.
    ///
    /// # Errors
    /// When a duration is out of range.
    pub fn build(
        message: &Http2ProtocolOptions,
        path: &FieldPath,
        stream_error_on_invalid_message: bool,
    ) -> Result<Self, ConfigError> {
        #[expect(deprecated, reason = "an old but live field")]
        let old_setting = message.stream_error_on_invalid_http_messaging;
        let default = Http2Options::default();
        let keepalive = message.connection_keepalive.as_ref();
        let keepalive_path = path.field("connection_keepalive");
        Ok(Http2Options {
            hpack_table_size: message.hpack_table_size.unwrap_or(default.hpack_table_size),
            max_concurrent_streams: message
                .max_concurrent_streams
                .unwrap_or(default.max_concurrent_streams),
            initial_stream_window_size: message
                .initial_stream_window_size
                .unwrap_or(default.initial_stream_window_size),
            initial_connection_window_size: message
                .initial_connection_window_size
                .unwrap_or(default.initial_connection_window_size),
            allow_connect: message.allow_connect,
            max_consecutive_inbound_frames_with_empty_payload: message
                .max_consecutive_inbound_frames_with_empty_payload
                .unwrap_or(default.max_consecutive_inbound_frames_with_empty_payload),
            max_inbound_priority_frames_per_stream: message
                .max_inbound_priority_frames_per_stream
                .unwrap_or(default.max_inbound_priority_frames_per_stream),
            max_inbound_window_update_frames_per_data_frame_sent: message
                .max_inbound_window_update_frames_per_data_frame_sent
                .unwrap_or(default.max_inbound_window_update_frames_per_data_frame_sent),
            max_outbound_frames: message
                .max_outbound_frames
                .unwrap_or(default.max_outbound_frames),
            max_outbound_control_frames: message
                .max_outbound_control_frames
                .unwrap_or(default.max_outbound_control_frames),
            stream_reset_burst: message
                .stream_reset_burst
                .unwrap_or(default.stream_reset_burst),
            stream_reset_rate: message
                .stream_reset_rate
                .unwrap_or(default.stream_reset_rate),
            stream_error_on_invalid_message: message
                .override_stream_error_on_invalid_http_message
                .unwrap_or(old_setting || stream_error_on_invalid_message),
            keepalive: keepalive
                .map(|message| Keepalive::build(message, &keepalive_path))
                .transpose()?,
            huffman: match message.enable_huffman_encoding {
                None => Huffman::Selective,
                Some(true) => Huffman::Always,
                Some(false) => Huffman::Never,
            },
        })
    }
}

impl Keepalive {
    fn build(message: &KeepaliveSettings, path: &FieldPath) -> Result<Keepalive, ConfigError> {
        let interval = message.interval.as_ref();
        let idle = message.connection_idle_interval.as_ref();
        let timeout = message.timeout.as_ref();
        Ok(Keepalive {
            interval: duration::optional(interval, &path.field("interval"))?,
            timeout: duration::optional(timeout, &path.field("timeout"))?.unwrap_or_default(),
            interval_jitter_percent: message
                .interval_jitter
                .as_ref()
                .map_or(15.0, |percent| percent.value),
            connection_idle_interval: duration::optional(
                idle,
                &path.field("connection_idle_interval"),
            )?,
        })
    }
}

impl From<HeadersWithUnderscoresAction> for UnderscoresAction {
    fn from(action: HeadersWithUnderscoresAction) -> UnderscoresAction {
        match action {
            HeadersWithUnderscoresAction::Allow => UnderscoresAction::Allow,
            HeadersWithUnderscoresAction::RejectRequest => UnderscoresAction::Reject,
            HeadersWithUnderscoresAction::DropHeader => UnderscoresAction::Drop,
        }
    }
}

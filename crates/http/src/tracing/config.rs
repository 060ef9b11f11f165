//! The tracing of a connection manager and of routes, as configured.

use std::sync::Arc;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::route::v3 as route;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::RequestIdExtension;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing as Message;
use outrider_config::api::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use outrider_config::unpack;

use super::custom_tag::CustomTag;
use super::sampling::RequestIdOptions;
use super::sampling::Shares;
use super::tracers::TracerConfig;
use crate::BuildCx;
use crate::Captures;
use crate::format::Formatter;
use crate::format::capture_grpc_status;

/// `max_path_tag_length` if it is not set.
const MAX_PATH_TAG_LENGTH: u32 = 256;

/// The tracing of a connection manager.
#[derive(Debug)]
pub(crate) struct TracingConfig {
    /// `None` without a provider: requests are sampled, but have no spans.
    pub(super) tracer: Option<Arc<dyn TracerConfig>>,
    pub(super) shares: Shares,
    pub(super) ids: RequestIdOptions,
    /// `verbose`
    pub(super) verbose: bool,
    /// `max_path_tag_length`, bytes.
    pub(super) max_path_tag_length: usize,
    /// `custom_tags`
    pub(super) custom_tags: Arc<[Arc<CustomTag>]>,
    /// `spawn_upstream_span`
    pub(super) has_upstream_span: bool,
    /// Whether the listener is for outbound traffic.
    pub(super) is_egress: bool,
    /// `no_context_propagation`
    pub(super) hides_context: bool,
    pub(super) operations: Operations,
    /// `node.id`
    pub(super) node_id: Arc<str>,
    /// `node.locality.zone`
    pub(super) zone: Arc<str>,
}

/// The formats of the names of spans.
#[derive(Clone, Debug, Default)]
pub(super) struct Operations {
    /// `operation`
    pub(super) request: Option<Formatter>,
    /// `upstream_operation`
    pub(super) upstream: Option<Formatter>,
}

impl Operations {
    fn build(request: &str, upstream: &str, path: &FieldPath) -> Result<Operations, ConfigErrors> {
        let format = |text: &str, field| match text {
            "" => Ok(None),
            text => Formatter::compile_omitting(text, &path.field(field)).map(Some),
        };
        Ok(Operations {
            request: format(request, "operation")?,
            upstream: format(upstream, "upstream_operation")?,
        })
    }

    fn capture(&self, captures: &mut Captures) {
        for format in [&self.request, &self.upstream].into_iter().flatten() {
            format.capture(captures);
        }
    }
}

impl TracingConfig {
    /// The tracing of the connection manager found at `path`, if it has any.
    pub(crate) fn build(
        manager: &HttpConnectionManager,
        path: &FieldPath,
        ids: RequestIdOptions,
        cx: &BuildCx<'_>,
    ) -> Result<Option<Arc<TracingConfig>>, ConfigErrors> {
        let Some(message) = &manager.tracing else {
            return Ok(None);
        };
        let path = path.field("tracing");
        let mut errors = ConfigErrors::new();
        let tracer = cx.tracers.find(message.provider.as_ref(), &path, cx);
        let tracer = errors.collect(tracer);
        let tags = CustomTag::list(&message.custom_tags, &path.field("custom_tags"));
        let tags = errors.collect(tags).unwrap_or_default();
        let operations = Operations::build(&message.operation, &message.upstream_operation, &path);
        let operations = errors.collect(operations).unwrap_or_default();
        errors.finish(Some(Arc::new(TracingConfig {
            tracer: tracer.flatten(),
            shares: shares(message),
            ids,
            verbose: message.verbose,
            max_path_tag_length: message.max_path_tag_length.unwrap_or(MAX_PATH_TAG_LENGTH)
                as usize,
            custom_tags: tags.into(),
            has_upstream_span: message.spawn_upstream_span.unwrap_or(false),
            is_egress: cx.is_outbound,
            hides_context: message.no_context_propagation,
            operations,
            node_id: cx.node_id.into(),
            zone: cx.zone.into(),
        })))
    }

    /// Adds the headers of responses that spans show.
    pub(crate) fn capture(&self, captures: &mut Captures) {
        if self.tracer.is_none() {
            return;
        }
        capture_grpc_status(captures);
        captures.response.add(&outrider_codec::header::GRPC_MESSAGE);
        captures.trailers.add(&outrider_codec::header::GRPC_MESSAGE);
        self.operations.capture(captures);
        for tag in &*self.custom_tags {
            tag.capture(captures);
        }
    }
}

fn shares(message: &Message) -> Shares {
    Shares::of_manager(
        message.client_sampling.as_ref(),
        message.random_sampling.as_ref(),
        message.overall_sampling.as_ref(),
    )
}

/// `Route.tracing` and `Route.decorator`.
#[derive(Debug)]
pub(crate) struct RouteTracing {
    pub(super) shares: Option<Shares>,
    pub(super) custom_tags: Arc<[Arc<CustomTag>]>,
    pub(super) operations: Operations,
    pub(super) decorator: Option<Decorator>,
}

/// `Route.decorator`
#[derive(Clone, Debug)]
pub(super) struct Decorator {
    pub(super) operation: Arc<str>,
    /// Whether the other side is told the operation.
    pub(super) propagates: bool,
}

impl RouteTracing {
    /// The tracing of the route found at `path`, if it has any.
    pub(crate) fn build(
        config: &route::Route,
        path: &FieldPath,
    ) -> Result<Option<Arc<RouteTracing>>, ConfigErrors> {
        if config.tracing.is_none() && config.decorator.is_none() {
            return Ok(None);
        }
        let mut errors = ConfigErrors::new();
        let path = path.field("tracing");
        let message = config.tracing.clone().unwrap_or_default();
        let tags = CustomTag::list(&message.custom_tags, &path.field("custom_tags"));
        let tags = errors.collect(tags).unwrap_or_default();
        let operations = Operations::build(&message.operation, &message.upstream_operation, &path);
        let operations = errors.collect(operations).unwrap_or_default();
        errors.finish(Some(Arc::new(RouteTracing {
            shares: config.tracing.as_ref().map(|message| {
                Shares::of_route(
                    message.client_sampling.as_ref(),
                    message.random_sampling.as_ref(),
                    message.overall_sampling.as_ref(),
                )
            }),
            custom_tags: tags.into(),
            operations,
            decorator: config.decorator.as_ref().map(|decorator| Decorator {
                operation: decorator.operation.as_str().into(),
                propagates: decorator.propagate.unwrap_or(true),
            }),
        })))
    }

    /// Adds the headers of responses that the route's tags read.
    pub(crate) fn capture(&self, captures: &mut Captures) {
        self.operations.capture(captures);
        for tag in &*self.custom_tags {
            tag.capture(captures);
        }
    }
}

/// The options of request ids.
pub(crate) fn request_id_options(
    extension: Option<&RequestIdExtension>,
    path: &FieldPath,
) -> Result<RequestIdOptions, ConfigErrors> {
    let config = extension.and_then(|extension| extension.typed_config.as_ref());
    let message = match config {
        Some(config) => unpack(config, &path.field("typed_config"))?,
        None => UuidRequestIdConfig::default(),
    };
    Ok(RequestIdOptions {
        packs_reason: message.pack_trace_reason.unwrap_or(true),
        decides: message.use_request_id_for_trace_sampling.unwrap_or(true),
    })
}

pub(super) fn error(path: &FieldPath, text: &str) -> ConfigErrors {
    ConfigError::new(path, text).into()
}

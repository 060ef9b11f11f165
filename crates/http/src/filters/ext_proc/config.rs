//! The filter's settings, and those of some routes.

use std::time::Duration;

use http::StatusCode;
use outrider_client::ServiceCx;
use outrider_client::grpc::GrpcService;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3 as core;
use outrider_config::api::envoy::extensions::filters::http::ext_proc::v3 as api;
use outrider_config::api::envoy::extensions::filters::http::ext_proc::v3::external_processor::RouteCacheAction;
use outrider_config::api::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use outrider_config::api::envoy::extensions::filters::http::ext_proc::v3::processing_mode::HeaderSendMode;
use outrider_config::duration;

use crate::filters::mutation_rules::MutationRules;
use crate::filters::string_matchers::StringMatchers;

use super::attributes::Attribute;
use super::attributes::build_attributes;

/// `message_timeout`, if it is not set.
const MESSAGE_TIMEOUT: Duration = Duration::from_millis(200);
/// `deferred_close_timeout`, if it is not set.
const DEFERRED_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The built `ExternalProcessor`.
#[derive(Debug)]
pub(super) struct ExtProcConfig {
    pub(super) service: GrpcService,
    pub(super) failure_mode_allow: bool,
    pub(super) mode: api::ProcessingMode,
    pub(super) request_attributes: Vec<Attribute>,
    pub(super) response_attributes: Vec<Attribute>,
    pub(super) message_timeout: Duration,
    /// Zero if the processor may not change the timeout.
    pub(super) max_message_timeout: Duration,
    pub(super) stat_prefix: String,
    pub(super) rules: MutationRules,
    allowed_headers: Option<StringMatchers>,
    disallowed_headers: Option<StringMatchers>,
    pub(super) allows_mode_override: bool,
    pub(super) allowed_override_modes: Vec<api::ProcessingMode>,
    pub(super) disable_immediate_response: bool,
    pub(super) namespaces: Namespaces,
    pub(super) is_observing: bool,
    pub(super) route_cache_action: RouteCacheAction,
    pub(super) deferred_close_timeout: Duration,
    /// `send_body_without_waiting_for_header_response`
    pub(super) sends_body_early: bool,
    pub(super) status_on_error: StatusCode,
    /// `allow_content_length_header`
    pub(super) keeps_content_length: bool,
}

/// The namespaces of dynamic metadata that pass between the stream and the processor.
#[derive(Clone, Debug, Default)]
pub(super) struct Namespaces {
    pub(super) forwarded: Vec<String>,
    pub(super) received: Vec<String>,
}

/// The built `ExtProcPerRoute`.
#[derive(Debug)]
pub(super) enum RouteSettings {
    Disabled,
    Overrides(Box<Overrides>),
}

/// The built `ExtProcOverrides`.
#[derive(Debug)]
pub(super) struct Overrides {
    mode: Option<api::ProcessingMode>,
    service: Option<GrpcService>,
    metadata: Vec<(HeaderName, HeaderValue)>,
    forwarded: Option<Vec<String>>,
    received: Option<Vec<String>>,
    failure_mode_allow: Option<bool>,
}

/// What applies to one stream.
#[derive(Debug)]
pub(super) struct StreamSettings {
    pub(super) mode: api::ProcessingMode,
    /// The service of the route, if it differs.
    pub(super) service: Option<GrpcService>,
    pub(super) namespaces: Namespaces,
    pub(super) failure_mode_allow: bool,
}

impl ExtProcConfig {
    /// The filter's settings found at `path`.
    pub(super) fn build(
        message: &api::ExternalProcessor,
        path: &FieldPath,
        cx: &ServiceCx<'_>,
    ) -> Result<ExtProcConfig, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let service = match &message.grpc_service {
            Some(service) => GrpcService::build(service, &path.field("grpc_service"), cx),
            None => Err(ConfigErrors::from(ConfigError::new(
                path,
                "expected grpc_service, the service to ask",
            ))),
        };
        let service = errors.collect(service);
        let mut time = |value: &Option<prost_types::Duration>, field| {
            let built = duration::optional(value.as_ref(), &path.field(field));
            errors.collect(built.map_err(ConfigErrors::from)).flatten()
        };
        let message_timeout = time(&message.message_timeout, "message_timeout");
        let max_message_timeout = time(&message.max_message_timeout, "max_message_timeout");
        let deferred = time(&message.deferred_close_timeout, "deferred_close_timeout");
        let rules = message.mutation_rules.clone().unwrap_or_default();
        let rules = MutationRules::build(&rules, &path.field("mutation_rules"));
        let rules = errors.collect(rules);
        let forward = message.forward_rules.clone().unwrap_or_default();
        let forward_path = path.field("forward_rules");
        let allowed = StringMatchers::optional(
            forward.allowed_headers.as_ref(),
            &forward_path.field("allowed_headers"),
        );
        let allowed_headers = errors.collect(allowed).flatten();
        let disallowed = StringMatchers::optional(
            forward.disallowed_headers.as_ref(),
            &forward_path.field("disallowed_headers"),
        );
        let disallowed_headers = errors.collect(disallowed).flatten();
        let request_attributes = build_attributes(
            &message.request_attributes,
            &path.field("request_attributes"),
        );
        let request_attributes = errors.collect(request_attributes);
        let response_attributes = build_attributes(
            &message.response_attributes,
            &path.field("response_attributes"),
        );
        let response_attributes = errors.collect(response_attributes);
        let route_cache_action = route_cache_action(message, path);
        let route_cache_action = errors.collect(route_cache_action.map_err(ConfigErrors::from));
        let status = message.status_on_error.as_ref().map(|status| status.code);
        let status = status.and_then(|code| StatusCode::from_u16(u16::try_from(code).ok()?).ok());
        let (Some(service), Some(rules)) = (service, rules) else {
            return Err(errors);
        };
        errors.finish(ExtProcConfig {
            service,
            failure_mode_allow: message.failure_mode_allow,
            mode: message.processing_mode.unwrap_or_default(),
            request_attributes: request_attributes.unwrap_or_default(),
            response_attributes: response_attributes.unwrap_or_default(),
            message_timeout: message_timeout.unwrap_or(MESSAGE_TIMEOUT),
            max_message_timeout: max_message_timeout.unwrap_or_default(),
            stat_prefix: message.stat_prefix.clone(),
            rules,
            allowed_headers,
            disallowed_headers,
            allows_mode_override: message.allow_mode_override,
            allowed_override_modes: message.allowed_override_modes.clone(),
            disable_immediate_response: message.disable_immediate_response,
            namespaces: Namespaces::build(message.metadata_options.as_ref()),
            is_observing: message.observability_mode,
            route_cache_action: route_cache_action.unwrap_or_default(),
            deferred_close_timeout: deferred.unwrap_or(DEFERRED_CLOSE_TIMEOUT),
            sends_body_early: message.send_body_without_waiting_for_header_response,
            status_on_error: status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            keeps_content_length: message.allow_content_length_header,
        })
    }

    /// Whether the processor gets the header of this name.
    pub(super) fn forwards(&self, name: &str) -> bool {
        let matches = |matchers: &Option<StringMatchers>| {
            let matchers = matchers.as_ref();
            matchers.map(|matchers| matchers.matches(name))
        };
        matches(&self.disallowed_headers) != Some(true)
            && matches(&self.allowed_headers) != Some(false)
    }

    /// Whether the processor may choose this mode.
    pub(super) fn allows_mode(&self, mode: &api::ProcessingMode) -> bool {
        let modes = &self.allowed_override_modes;
        // How the headers of the request are sent is decided already.
        let is_same = |allowed: &api::ProcessingMode| {
            api::ProcessingMode {
                request_header_mode: mode.request_header_mode,
                ..*allowed
            } == *mode
        };
        modes.is_empty() || modes.iter().any(is_same)
    }
}

/// What happens to the route: `route_cache_action`, or the older `disable_clear_route_cache`.
fn route_cache_action(
    message: &api::ExternalProcessor,
    path: &FieldPath,
) -> Result<RouteCacheAction, ConfigError> {
    match (
        message.route_cache_action(),
        message.disable_clear_route_cache,
    ) {
        (action, false) => Ok(action),
        (RouteCacheAction::Default, true) => Ok(RouteCacheAction::Retain),
        (_, true) => Err(ConfigError::new(
            &path.field("route_cache_action"),
            "only one of route_cache_action and disable_clear_route_cache may be set",
        )),
    }
}

impl Namespaces {
    fn build(options: Option<&api::MetadataOptions>) -> Namespaces {
        Namespaces {
            forwarded: forwarded(options).unwrap_or_default(),
            received: received(options).unwrap_or_default(),
        }
    }
}

fn forwarded(options: Option<&api::MetadataOptions>) -> Option<Vec<String>> {
    let namespaces = options?.forwarding_namespaces.as_ref()?;
    Some(namespaces.untyped.clone())
}

fn received(options: Option<&api::MetadataOptions>) -> Option<Vec<String>> {
    let namespaces = options?.receiving_namespaces.as_ref()?;
    Some(namespaces.untyped.clone())
}

impl RouteSettings {
    /// The settings for some routes, found at `path`.
    pub(super) fn build(
        message: &api::ExtProcPerRoute,
        path: &FieldPath,
    ) -> Result<RouteSettings, ConfigErrors> {
        use api::ext_proc_per_route::Override;
        let overrides = match &message.r#override {
            Some(Override::Disabled(_)) => return Ok(RouteSettings::Disabled),
            Some(Override::Overrides(overrides)) => overrides,
            None => {
                let text = "expected disabled or overrides";
                return Err(ConfigErrors::from(ConfigError::new(path, text)));
            }
        };
        // As in Envoy, a service of a route may name a cluster that comes later.
        let cx = ServiceCx {
            has_cluster: &|_| true,
            nearest_cluster: &|_| None,
        };
        let mut errors = ConfigErrors::new();
        let path = path.field("overrides");
        let build = |service: &core::GrpcService| {
            GrpcService::build(service, &path.field("grpc_service"), &cx)
        };
        let service = errors.collect(overrides.grpc_service.as_ref().map(build).transpose());
        let metadata = cx.headers(
            &overrides.grpc_initial_metadata,
            &path.field("grpc_initial_metadata"),
        );
        let metadata = errors.collect(metadata).unwrap_or_default();
        let options = overrides.metadata_options.as_ref();
        errors.finish(RouteSettings::Overrides(Box::new(Overrides {
            mode: overrides.processing_mode,
            service: service.flatten(),
            metadata,
            forwarded: forwarded(options),
            received: received(options),
            failure_mode_allow: overrides.failure_mode_allow,
        })))
    }
}

impl StreamSettings {
    /// Merges the levels of a route into the filter's settings; `None` if the most specific one disables the filter.
    pub(super) fn merge<'r>(
        config: &ExtProcConfig,
        levels: impl Iterator<Item = &'r RouteSettings>,
    ) -> Option<StreamSettings> {
        let mut settings = StreamSettings {
            mode: config.mode,
            service: None,
            namespaces: config.namespaces.clone(),
            failure_mode_allow: config.failure_mode_allow,
        };
        let mut is_disabled = false;
        let mut metadata = Vec::new();
        for level in levels {
            is_disabled = matches!(level, RouteSettings::Disabled);
            let RouteSettings::Overrides(level) = level else {
                // As in Envoy, the mode of a wider level ends with a level that disables the filter.
                settings.mode = config.mode;
                continue;
            };
            settings.mode = level.mode.unwrap_or(settings.mode);
            settings.service = level.service.clone().or(settings.service);
            metadata.extend(level.metadata.iter().cloned());
            let namespaces = &mut settings.namespaces;
            if let Some(forwarded) = &level.forwarded {
                namespaces.forwarded.clone_from(forwarded);
            }
            if let Some(received) = &level.received {
                namespaces.received.clone_from(received);
            }
            settings.failure_mode_allow = level
                .failure_mode_allow
                .unwrap_or(settings.failure_mode_allow);
        }
        if !metadata.is_empty() {
            let service = settings.service.take();
            let service = service.unwrap_or_else(|| config.service.clone());
            settings.service = Some(service.with_metadata(&metadata));
        }
        (!is_disabled).then_some(settings)
    }
}

/// The modes of one direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct SideMode {
    pub(super) headers: bool,
    pub(super) body: BodySendMode,
    pub(super) trailers: bool,
}

impl SideMode {
    pub(super) fn of_request(mode: &api::ProcessingMode) -> SideMode {
        SideMode {
            headers: mode.request_header_mode() != HeaderSendMode::Skip,
            body: mode.request_body_mode(),
            trailers: mode.request_trailer_mode() == HeaderSendMode::Send,
        }
    }

    pub(super) fn of_response(mode: &api::ProcessingMode) -> SideMode {
        SideMode {
            headers: mode.response_header_mode() != HeaderSendMode::Skip,
            body: mode.response_body_mode(),
            trailers: mode.response_trailer_mode() == HeaderSendMode::Send,
        }
    }

    /// Whether the processor gets nothing of this direction.
    pub(super) fn is_off(self) -> bool {
        !self.headers && self.body == BodySendMode::None && !self.trailers
    }

    /// Whether nothing follows the headers.
    pub(super) fn ends_with_headers(self) -> bool {
        self.body == BodySendMode::None && !self.trailers
    }

    /// Whether the length of the body is not known when the headers are sent on.
    pub(super) fn loses_length(self) -> bool {
        match self.body {
            BodySendMode::Streamed | BodySendMode::BufferedPartial => true,
            BodySendMode::Buffered => !self.headers,
            _ => false,
        }
    }
}

/// The mode that a processor chooses: what it leaves to the default stays as configured. Body modes are always chosen.
pub(super) fn overridden(
    chosen: &api::ProcessingMode,
    configured: &api::ProcessingMode,
) -> api::ProcessingMode {
    let header = |chosen: i32, configured: i32| match chosen == HeaderSendMode::Default as i32 {
        true => configured,
        false => chosen,
    };
    api::ProcessingMode {
        request_header_mode: header(chosen.request_header_mode, configured.request_header_mode),
        response_header_mode: header(chosen.response_header_mode, configured.response_header_mode),
        request_body_mode: chosen.request_body_mode,
        response_body_mode: chosen.response_body_mode,
        request_trailer_mode: header(chosen.request_trailer_mode, configured.request_trailer_mode),
        response_trailer_mode: header(
            chosen.response_trailer_mode,
            configured.response_trailer_mode,
        ),
    }
}

//! The filter's configuration: `ExtAuthz`, and `ExtAuthzPerRoute` for some routes.

use std::collections::HashMap;
use std::time::Duration;

use http::StatusCode;
use outrider_client::HttpService;
use outrider_client::ServiceCx;
use outrider_client::grpc::GrpcService;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3 as core;
use outrider_config::api::envoy::extensions::filters::http::ext_authz::v3 as api;
use outrider_config::api::envoy::r#type::matcher::v3::ListStringMatcher;
use outrider_runtime::RuntimeFraction;
use outrider_runtime::Snapshot;

use crate::filters::mutation_rules::MutationRules;
use crate::filters::string_matchers::StringMatchers;

/// The timeout of a check, if the service sets none.
const TIMEOUT: Duration = Duration::from_millis(200);

/// The built `ExtAuthz`.
#[derive(Debug)]
pub(super) struct ExtAuthzConfig {
    pub(super) service: Service,
    pub(super) failure_mode_allow: bool,
    pub(super) adds_failure_header: bool,
    pub(super) body: Option<BodySettings>,
    pub(super) packs_as_bytes: bool,
    pub(super) clears_route_cache: bool,
    pub(super) status_on_error: StatusCode,
    pub(super) validates_mutations: bool,
    pub(super) metadata_namespaces: Vec<String>,
    pub(super) route_metadata_namespaces: Vec<String>,
    pub(super) enabled: Option<RuntimeFraction>,
    pub(super) deny_at_disable: Option<RuntimeFlag>,
    pub(super) includes_certificate: bool,
    pub(super) includes_tls_session: bool,
    pub(super) stat_prefix: String,
    pub(super) headers: HeaderSelection,
    pub(super) charges_cluster: bool,
    pub(super) encodes_raw_headers: bool,
    pub(super) rules: Option<MutationRules>,
    pub(super) ingests_metadata: bool,
    /// `max_denied_response_body_bytes`; 0 for no limit.
    pub(super) max_denied_body: usize,
}

/// The authorization service.
#[derive(Debug)]
pub(super) enum Service {
    Grpc {
        service: GrpcService,
        timeout: Duration,
    },
    Http(Box<HttpAuthService>),
}

/// A service that is asked by HTTP.
#[derive(Debug)]
pub(super) struct HttpAuthService {
    pub(super) service: HttpService,
    pub(super) path_prefix: String,
    pub(super) path_override: String,
    pub(super) headers_to_add: Vec<(HeaderName, HeaderValue)>,
    pub(super) upstream: StringMatchers,
    pub(super) upstream_append: StringMatchers,
    /// `None` for all headers.
    pub(super) client: Option<StringMatchers>,
    pub(super) client_on_success: StringMatchers,
    pub(super) metadata: StringMatchers,
}

/// `BufferSettings`
#[derive(Clone, Copy, Debug)]
pub(super) struct BodySettings {
    /// `max_request_bytes`
    pub(super) limit: usize,
    /// `allow_partial_message`
    pub(super) allows_part: bool,
}

/// `RuntimeFeatureFlag`
#[derive(Debug)]
pub(super) struct RuntimeFlag {
    pub(super) key: String,
    pub(super) default: bool,
}

/// Which of the client's headers a service gets.
#[derive(Debug)]
pub(super) struct HeaderSelection {
    /// `None` for all.
    allowed: Option<StringMatchers>,
    disallowed: StringMatchers,
    /// Whether the service is asked by HTTP. Then it gets some headers in any case.
    is_http: bool,
}

/// The built `ExtAuthzPerRoute`.
#[derive(Debug)]
pub(super) enum RouteSettings {
    Disabled,
    Check(Box<CheckSettings>),
}

#[derive(Debug)]
pub(super) struct CheckSettings {
    pub(super) context: HashMap<String, String>,
    pub(super) without_body: bool,
    pub(super) body: Option<BodySettings>,
    pub(super) service: Option<Service>,
}

impl ExtAuthzConfig {
    /// The filter's settings found at `path`.
    pub(super) fn build(
        message: &api::ExtAuthz,
        path: &FieldPath,
        cx: &ServiceCx<'_>,
    ) -> Result<ExtAuthzConfig, ConfigErrors> {
        use api::ext_authz::Services;
        let mut errors = ConfigErrors::new();
        let headers = errors.collect(HeaderSelection::build(message, path));
        let service = match &message.services {
            Some(Services::GrpcService(service)) => {
                Service::grpc(service, &path.field("grpc_service"), cx)
            }
            Some(Services::HttpService(service)) => {
                Service::http(service, &path.field("http_service"), cx)
            }
            None => Err(ConfigErrors::from(ConfigError::new(
                path,
                "expected grpc_service or http_service",
            ))),
        };
        let service = errors.collect(service);
        let rules_path = path.field("decoder_header_mutation_rules");
        let rules = message.decoder_header_mutation_rules.as_ref();
        let rules = rules.map(|rules| MutationRules::build(rules, &rules_path));
        let rules = errors.collect(rules.transpose()).flatten();
        let status = message.status_on_error.as_ref();
        let status = status.and_then(|status| status_code(status.code));
        let (Some(service), Some(headers)) = (service, headers) else {
            return Err(errors);
        };
        let body = message.with_request_body.as_ref();
        errors.finish(ExtAuthzConfig {
            service,
            failure_mode_allow: message.failure_mode_allow,
            adds_failure_header: message.failure_mode_allow_header_add,
            body: body.map(BodySettings::new),
            packs_as_bytes: body.is_some_and(|body| body.pack_as_bytes),
            clears_route_cache: message.clear_route_cache,
            status_on_error: status.unwrap_or(StatusCode::FORBIDDEN),
            validates_mutations: message.validate_mutations,
            metadata_namespaces: message.metadata_context_namespaces.clone(),
            route_metadata_namespaces: message.route_metadata_context_namespaces.clone(),
            enabled: message.filter_enabled.as_ref().map(RuntimeFraction::of),
            deny_at_disable: message.deny_at_disable.as_ref().map(RuntimeFlag::new),
            includes_certificate: message.include_peer_certificate,
            includes_tls_session: message.include_tls_session,
            stat_prefix: message.stat_prefix.clone(),
            headers,
            charges_cluster: message.charge_cluster_response_stats.unwrap_or(true),
            encodes_raw_headers: message.encode_raw_headers,
            rules,
            ingests_metadata: message.enable_dynamic_metadata_ingestion.unwrap_or(true),
            max_denied_body: message.max_denied_response_body_bytes as usize,
        })
    }
}

impl Service {
    fn grpc(
        message: &core::GrpcService,
        path: &FieldPath,
        cx: &ServiceCx<'_>,
    ) -> Result<Service, ConfigErrors> {
        let service = GrpcService::build(message, path, cx)?;
        let timeout = service.timeout().unwrap_or(TIMEOUT);
        Ok(Service::Grpc { service, timeout })
    }

    fn http(
        message: &api::HttpService,
        path: &FieldPath,
        cx: &ServiceCx<'_>,
    ) -> Result<Service, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let uri_path = path.field("server_uri");
        let service = match &message.server_uri {
            Some(uri) => HttpService::build(uri, &uri_path, cx),
            None => Err(ConfigErrors::from(ConfigError::new(
                &uri_path,
                "expected the URI and the cluster of the service",
            ))),
        };
        let service = errors.collect(service);
        if !message.path_prefix.is_empty() && !message.path_override.is_empty() {
            let text = "only one of path_prefix and path_override may be set";
            errors.push(&path.field("path_override"), text);
        }
        for (field, value) in [
            ("path_prefix", &message.path_prefix),
            ("path_override", &message.path_override),
        ] {
            if !value.is_empty() && !value.starts_with('/') {
                errors.push(&path.field(field), "expected a path that begins with /");
            }
        }
        let request = message.authorization_request.clone().unwrap_or_default();
        let request_path = path.field("authorization_request");
        let add_path = request_path.field("headers_to_add");
        let headers_to_add = errors.collect(cx.headers(&request.headers_to_add, &add_path));
        let response = message.authorization_response.clone().unwrap_or_default();
        let response_path = path.field("authorization_response");
        let mut list = |list: &Option<ListStringMatcher>, field| {
            let built = StringMatchers::optional(list.as_ref(), &response_path.field(field));
            errors.collect(built).flatten()
        };
        let upstream = list(
            &response.allowed_upstream_headers,
            "allowed_upstream_headers",
        );
        let upstream_append = list(
            &response.allowed_upstream_headers_to_append,
            "allowed_upstream_headers_to_append",
        );
        let client = list(&response.allowed_client_headers, "allowed_client_headers");
        let client_on_success = list(
            &response.allowed_client_headers_on_success,
            "allowed_client_headers_on_success",
        );
        let metadata = list(
            &response.dynamic_metadata_from_headers,
            "dynamic_metadata_from_headers",
        );
        let (Some(service), Some(headers_to_add)) = (service, headers_to_add) else {
            return Err(errors);
        };
        errors.finish(Service::Http(Box::new(HttpAuthService {
            service,
            path_prefix: message.path_prefix.clone(),
            path_override: message.path_override.clone(),
            headers_to_add,
            upstream: upstream.unwrap_or_default(),
            upstream_append: upstream_append.unwrap_or_default(),
            client,
            client_on_success: client_on_success.unwrap_or_default(),
            metadata: metadata.unwrap_or_default(),
        })))
    }
}

impl HeaderSelection {
    fn build(message: &api::ExtAuthz, path: &FieldPath) -> Result<HeaderSelection, ConfigErrors> {
        use api::ext_authz::Services;
        let mut errors = ConfigErrors::new();
        let allowed = StringMatchers::optional(
            message.allowed_headers.as_ref(),
            &path.field("allowed_headers"),
        );
        let mut allowed = errors.collect(allowed).flatten();
        let disallowed = StringMatchers::optional(
            message.disallowed_headers.as_ref(),
            &path.field("disallowed_headers"),
        );
        let disallowed = errors.collect(disallowed).flatten();
        let is_http = matches!(message.services, Some(Services::HttpService(_)));
        if let Some(Services::HttpService(service)) = &message.services {
            let request = service.authorization_request.as_ref();
            #[expect(deprecated, reason = "Envoy still obeys it")]
            let older = request.and_then(|request| request.allowed_headers.as_ref());
            let path = path.field("http_service").field("authorization_request");
            let older = StringMatchers::optional(older, &path.field("allowed_headers"));
            let older = errors.collect(older).flatten();
            allowed = allowed
                .or(older)
                .or_else(|| Some(StringMatchers::default()));
        }
        errors.finish(HeaderSelection {
            allowed,
            disallowed: disallowed.unwrap_or_default(),
            is_http,
        })
    }

    /// Whether the service gets the header of this name, in lower case.
    pub(super) fn has(&self, name: &str) -> bool {
        if self.disallowed.matches(name) {
            return false;
        }
        let always = matches!(name, ":authority" | ":method" | ":path" | "authorization");
        match &self.allowed {
            None => true,
            Some(allowed) => self.is_http && always || allowed.matches(name),
        }
    }
}

impl BodySettings {
    fn new(message: &api::BufferSettings) -> BodySettings {
        BodySettings {
            limit: message.max_request_bytes as usize,
            allows_part: message.allow_partial_message,
        }
    }
}

impl RuntimeFlag {
    fn new(message: &core::RuntimeFeatureFlag) -> RuntimeFlag {
        RuntimeFlag {
            key: message.runtime_key.clone(),
            default: message.default_value.unwrap_or_default(),
        }
    }

    /// Whether the flag is set, by the runtime or by default.
    pub(super) fn is_set(&self, runtime: Option<&Snapshot>) -> bool {
        let value = runtime.and_then(|runtime| runtime.flag(&self.key));
        value.unwrap_or(self.default)
    }
}

impl RouteSettings {
    /// The settings for some routes, found at `path`.
    pub(super) fn build(
        message: &api::ExtAuthzPerRoute,
        path: &FieldPath,
    ) -> Result<RouteSettings, ConfigErrors> {
        use api::check_settings::ServiceOverride;
        use api::ext_authz_per_route::Override;
        let settings = match &message.r#override {
            Some(Override::Disabled(_)) => return Ok(RouteSettings::Disabled),
            Some(Override::CheckSettings(settings)) => settings,
            None => {
                let text = "expected disabled or check_settings";
                return Err(ConfigErrors::from(ConfigError::new(path, text)));
            }
        };
        // As in Envoy, a service of a route may name a cluster that comes later.
        let cx = ServiceCx {
            has_cluster: &|_| true,
            nearest_cluster: &|_| None,
        };
        let path = path.field("check_settings");
        let service = match &settings.service_override {
            Some(ServiceOverride::GrpcService(service)) => {
                Some(Service::grpc(service, &path.field("grpc_service"), &cx)?)
            }
            Some(ServiceOverride::HttpService(service)) => {
                Some(Service::http(service, &path.field("http_service"), &cx)?)
            }
            None => None,
        };
        let body = settings.with_request_body.as_ref();
        if settings.disable_request_body_buffering && body.is_some() {
            let text = "disable_request_body_buffering and with_request_body exclude each other";
            return Err(ConfigErrors::from(ConfigError::new(&path, text)));
        }
        Ok(RouteSettings::Check(Box::new(CheckSettings {
            context: settings.context_extensions.clone(),
            without_body: settings.disable_request_body_buffering,
            body: body.map(BodySettings::new),
            service,
        })))
    }
}

/// The status of an `HttpStatus`; `None` if it is not set or not one of Envoy's.
fn status_code(code: i32) -> Option<StatusCode> {
    let code = u16::try_from(code).ok().filter(|code| *code != 0)?;
    StatusCode::from_u16(code).ok()
}

//! `ApiConfigSource`: a control plane, and how it is spoken to.

use std::hash::Hash;
use std::hash::Hasher;
use std::time::Duration;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::ApiConfigSource as Message;
use outrider_config::api::envoy::config::core::v3::GrpcService;
use outrider_config::api::envoy::config::core::v3::api_config_source::ApiType;
use outrider_config::api::envoy::config::core::v3::grpc_service::TargetSpecifier;
use outrider_net::BackOff;
use prost::Message as _;

use crate::Sources;

/// The limit of the first delay before a stream is opened again, as in Envoy.
const BASE_DELAY: Duration = Duration::from_millis(500);
/// The limit of all delays, as in Envoy.
const MAX_DELAY: Duration = Duration::from_secs(30);

/// A control plane.
#[derive(Clone, Debug)]
pub struct ApiSource {
    /// How resources are asked for.
    pub protocol: Protocol,
    /// `grpc_services[0]`, which was checked.
    pub service: GrpcService,
    /// The name of the service's cluster.
    pub cluster: String,
    /// `set_node_on_first_message_only`
    pub node_on_first_message_only: bool,
    /// `rate_limit_settings`
    pub rate_limit: Option<RateLimit>,
    /// The delays before a stream is opened again.
    pub back_off: BackOff,
    /// The whole message as protobuf bytes: sources are the same if these are.
    id: Vec<u8>,
}

/// How resources are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `GRPC`: each response has all resources of a type.
    StateOfTheWorld,
    /// `DELTA_GRPC`: each response has what has changed.
    Incremental,
}

/// `RateLimitSettings`: the limit of the requests on one stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// `max_tokens`
    pub burst: u32,
    /// `fill_rate`, requests per second.
    pub rate: f64,
}

impl PartialEq for ApiSource {
    fn eq(&self, other: &ApiSource) -> bool {
        self.id == other.id
    }
}

impl Eq for ApiSource {}

impl Hash for ApiSource {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl ApiSource {
    /// Reads the control plane found at `path`.
    ///
    /// # Errors
    /// Everything in it that is wrong or not supported.
    pub fn build(
        message: &Message,
        path: &FieldPath,
        sources: &Sources,
    ) -> Result<ApiSource, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let protocol = errors.collect(protocol(message, path));
        let services_path = path.field("grpc_services");
        let [service] = message.grpc_services.as_slice() else {
            let text = format!(
                "expected one gRPC service, got {}",
                message.grpc_services.len()
            );
            errors.push(&services_path, text);
            return Err(errors);
        };
        if !message.cluster_names.is_empty() {
            let text = "is not for gRPC: expected grpc_services alone";
            errors.push(&path.field("cluster_names"), text);
        }
        let service_path = services_path.index(0);
        errors.collect(sources.check_service(service, &service_path));
        let cluster = match &service.target_specifier {
            Some(TargetSpecifier::EnvoyGrpc(grpc)) => grpc.cluster_name.clone(),
            // The check of the service has refused it.
            Some(TargetSpecifier::GoogleGrpc(_)) | None => String::new(),
        };
        let Some(protocol) = protocol else {
            return Err(errors);
        };
        errors.finish(ApiSource {
            protocol,
            service: service.clone(),
            cluster,
            node_on_first_message_only: message.set_node_on_first_message_only,
            rate_limit: message
                .rate_limit_settings
                .as_ref()
                .map(|settings| RateLimit {
                    burst: settings.max_tokens.unwrap_or(100),
                    rate: settings.fill_rate.unwrap_or(10.0),
                }),
            back_off: BackOff::new(BASE_DELAY, MAX_DELAY),
            id: message.encode_to_vec(),
        })
    }
}

fn protocol(message: &Message, path: &FieldPath) -> Result<Protocol, ConfigError> {
    match message.api_type() {
        ApiType::Grpc => Ok(Protocol::StateOfTheWorld),
        ApiType::DeltaGrpc => Ok(Protocol::Incremental),
        other => {
            let text = format!(
                "{} is not supported; expected one of: GRPC, DELTA_GRPC",
                other.as_str_name()
            );
            Err(ConfigError::new(&path.field("api_type"), text))
        }
    }
}

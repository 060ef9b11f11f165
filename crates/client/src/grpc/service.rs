//! A gRPC service as configured (`envoy.config.core.v3.GrpcService`).

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::RequestHead;
use outrider_codec::Target;
use outrider_codec::header;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::GrpcService as Message;
use outrider_config::api::envoy::config::core::v3::grpc_service::EnvoyGrpc;
use outrider_config::api::envoy::config::core::v3::grpc_service::TargetSpecifier;
use outrider_config::duration;

use super::headers;
use crate::CallOptions;
use crate::ServiceCx;

/// The longest message that is accepted if `max_receive_message_length` is not set, in bytes.
const MESSAGE_LIMIT: usize = 64 << 20;

/// A gRPC service and how it is called. Clones share nothing that changes.
#[derive(Clone, Debug)]
pub struct GrpcService {
    /// `envoy_grpc.cluster_name`
    pub(super) cluster: Arc<str>,
    /// `envoy_grpc.authority`, or the cluster's name.
    authority: HeaderValue,
    /// `initial_metadata`
    metadata: Vec<(HeaderName, HeaderValue)>,
    /// `envoy_grpc.max_receive_message_length`, bytes.
    pub(super) message_limit: usize,
    /// `timeout`
    timeout: Option<Duration>,
    /// `envoy_grpc.skip_envoy_headers`
    skips_envoy_headers: bool,
}

impl GrpcService {
    /// Checks the service found at `path`.
    ///
    /// # Errors
    /// If its cluster does not exist, or a field asks for something that is not supported.
    pub fn build(
        message: &Message,
        path: &FieldPath,
        cx: &ServiceCx<'_>,
    ) -> Result<GrpcService, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let Some(TargetSpecifier::EnvoyGrpc(grpc)) = &message.target_specifier else {
            let text = "expected envoy_grpc with the cluster_name of the service";
            errors.push(path, text);
            return Err(errors);
        };
        let timeout = duration::optional(message.timeout.as_ref(), &path.field("timeout"));
        let timeout = errors
            .collect(timeout.map_err(ConfigErrors::from))
            .flatten();
        let grpc_path = path.field("envoy_grpc");
        let cluster = cx.cluster(&grpc.cluster_name, &grpc_path.field("cluster_name"));
        let cluster = errors.collect(cluster.map_err(ConfigErrors::from));
        let authority = errors.collect(authority(grpc, &grpc_path).map_err(ConfigErrors::from));
        let metadata =
            errors.collect(cx.headers(&message.initial_metadata, &path.field("initial_metadata")));
        let (Some(cluster), Some(authority), Some(metadata)) = (cluster, authority, metadata)
        else {
            return Err(errors);
        };
        let limit = grpc.max_receive_message_length.filter(|limit| *limit > 0);
        errors.finish(GrpcService {
            cluster,
            authority,
            metadata,
            message_limit: limit.map_or(MESSAGE_LIMIT, |limit| limit as usize),
            timeout,
            skips_envoy_headers: grpc.skip_envoy_headers,
        })
    }

    /// The same service, whose calls have this header too, unless the configuration sets it.
    #[must_use]
    pub fn with_header(mut self, name: &HeaderName, value: HeaderValue) -> GrpcService {
        self.metadata.insert(0, (name.clone(), value));
        self
    }

    /// `timeout`, if it is set.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// The same service with more metadata, which replaces metadata of the same name.
    #[must_use]
    pub fn with_metadata(mut self, more: &[(HeaderName, HeaderValue)]) -> GrpcService {
        for (name, value) in more {
            self.metadata.retain(|(known, _)| known != name);
            self.metadata.push((name.clone(), value.clone()));
        }
        self
    }

    /// The name of the service's cluster.
    #[must_use]
    pub fn cluster(&self) -> &Arc<str> {
        &self.cluster
    }

    /// The head of a call of `method`, a path such as `/package.Service/Method`.
    pub(super) fn head(&self, method: &'static str, timeout: Option<Duration>) -> RequestHead {
        let mut head = RequestHead {
            method: Method::POST,
            authority: Some(self.authority.clone()),
            path: Some(Target::from_static(method)),
            ..RequestHead::default()
        };
        let headers = &mut head.headers;
        headers.append(&header::TE, HeaderValue::from_static("trailers"));
        if let Some(timeout) = timeout {
            headers.append(&header::GRPC_TIMEOUT, headers::timeout_value(timeout));
        }
        let content_type = HeaderValue::from_static("application/grpc");
        headers.append(&header::CONTENT_TYPE, content_type);
        for (name, value) in &self.metadata {
            headers.insert(name.clone(), value.clone());
        }
        head
    }

    pub(super) fn options(&self, timeout: Option<Duration>) -> CallOptions {
        CallOptions {
            timeout,
            request_end: None,
            is_internal: !self.skips_envoy_headers,
            forwarded_for: !self.skips_envoy_headers,
        }
    }
}

fn authority(grpc: &EnvoyGrpc, path: &FieldPath) -> Result<HeaderValue, ConfigError> {
    let (text, field) = match grpc.authority.is_empty() {
        true => (&grpc.cluster_name, "cluster_name"),
        false => (&grpc.authority, "authority"),
    };
    HeaderValue::try_from(text.as_str()).map_err(|_| {
        let text = format!("{text:?} cannot be the :authority of a request");
        ConfigError::new(&path.field(field), text)
    })
}

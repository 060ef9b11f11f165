//! Streams to control planes (xDS).

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::GrpcService as Message;
use outrider_config::api::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use outrider_config::api::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use outrider_config::api::envoy::service::discovery::v3::DiscoveryRequest;
use outrider_config::api::envoy::service::discovery::v3::DiscoveryResponse;
use outrider_xds::ApiSource;
use outrider_xds::ControlPlaneClient;
use outrider_xds::DiscoveryStream;
use outrider_xds::LocalFuture;
use outrider_xds::Overflow;
use outrider_xds::Protocol;
use outrider_xds::XdsRequest;
use outrider_xds::XdsResponse;

use crate::InternalClient;
use crate::ServiceCx;
use crate::grpc::GrpcService;
use crate::grpc::GrpcStream;
use crate::grpc::Status;

/// Checks the gRPC service of a control plane, found at `path`.
///
/// # Errors
/// If its cluster does not exist, or a field asks for something that is not supported.
pub fn check_control_plane(
    service: &Message,
    path: &FieldPath,
    has_cluster: &dyn Fn(&str) -> bool,
) -> Result<(), ConfigErrors> {
    let cx = ServiceCx {
        has_cluster,
        nearest_cluster: &|_| None,
    };
    GrpcService::build(service, path, &cx).map(drop)
}

impl ControlPlaneClient for InternalClient {
    fn open<'a>(
        &'a self,
        source: &'a ApiSource,
        method: &'static str,
    ) -> LocalFuture<'a, Result<Box<dyn DiscoveryStream>, String>> {
        Box::pin(async move {
            let cx = ServiceCx {
                has_cluster: &|_| true,
                nearest_cluster: &|_| None,
            };
            let service = GrpcService::build(&source.service, &FieldPath::root(), &cx);
            let service = service.map_err(|errors| errors.to_string())?;
            let failed = |status: Status| status.to_string();
            // As in Envoy, the service's timeout is not for streams that are meant to last.
            let stream: Box<dyn DiscoveryStream> = match source.protocol {
                Protocol::StateOfTheWorld => {
                    let stream = self.stream(&service, method, None).await;
                    Box::new(Whole(stream.map_err(failed)?))
                }
                Protocol::Incremental => {
                    let stream = self.stream(&service, method, None).await;
                    Box::new(Incremental(stream.map_err(failed)?))
                }
            };
            Ok(stream)
        })
    }
}

struct Whole(GrpcStream<DiscoveryRequest, DiscoveryResponse>);

impl DiscoveryStream for Whole {
    fn send(&self, request: &XdsRequest) -> Result<(), Overflow> {
        match request {
            XdsRequest::Whole(request) => self.0.send(request).map_err(|_| Overflow),
            XdsRequest::Incremental(_) => Ok(()), // the source has one protocol
        }
    }

    fn next(&mut self) -> LocalFuture<'_, Result<Option<XdsResponse>, String>> {
        Box::pin(async {
            let next = self.0.next().await.map_err(|status| status.to_string())?;
            Ok(next.map(XdsResponse::Whole))
        })
    }
}

struct Incremental(GrpcStream<DeltaDiscoveryRequest, DeltaDiscoveryResponse>);

impl DiscoveryStream for Incremental {
    fn send(&self, request: &XdsRequest) -> Result<(), Overflow> {
        match request {
            XdsRequest::Incremental(request) => self.0.send(request).map_err(|_| Overflow),
            XdsRequest::Whole(_) => Ok(()), // the source has one protocol
        }
    }

    fn next(&mut self) -> LocalFuture<'_, Result<Option<XdsResponse>, String>> {
        Box::pin(async {
            let next = self.0.next().await.map_err(|status| status.to_string())?;
            Ok(next.map(XdsResponse::Incremental))
        })
    }
}

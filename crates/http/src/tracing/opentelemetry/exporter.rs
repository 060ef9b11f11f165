//! Sends spans to an OpenTelemetry collector, over gRPC or HTTP.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::StatusCode;
use outrider_client::CallOptions;
use outrider_client::HttpService;
use outrider_client::InternalClient;
use outrider_client::grpc::GrpcService;
use outrider_client::otlp::ExportServiceResponse;
use outrider_client::otlp::ExportTraceServiceRequest;
use outrider_codec::Body;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::RequestHead;
use outrider_codec::Target;
use outrider_codec::header;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::VERSION;
use outrider_config::api::envoy::config::trace::v3::OpenTelemetryConfig as Message;
use outrider_net::WorkerCx;
use outrider_stats::Counter;
use outrider_stats::Scope;
use outrider_upstream::Clusters;
use prost::Message as _;

use super::BatchInfo;
use super::encode;
use super::refused;
use crate::tracing::TracerBuildCx;
use crate::tracing::headers_to_add;
use crate::tracing::reporter::SpanExporter;
use crate::tracing::span::Span;

/// How long an export over gRPC may take, if its service has no timeout.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

outrider_stats::group! {
    /// `tracing.opentelemetry.*`
    pub(super) struct OtelTracerStats {
        spans_dropped: Counter,
        spans_sent: Counter,
        timer_flushed: Counter,
    }
}

/// Where spans go.
#[derive(Clone, Debug)]
pub(super) struct OtlpTarget {
    service: OtlpService,
    local_address: IpAddr,
}

#[derive(Clone, Debug)]
enum OtlpService {
    Grpc(Box<GrpcService>),
    Http(Arc<HttpService>, Box<RequestHead>),
}

impl OtlpTarget {
    pub(super) fn build(
        message: &Message,
        path: &FieldPath,
        cx: &TracerBuildCx<'_>,
    ) -> Result<OtlpTarget, ConfigErrors> {
        let agent = HeaderValue::try_from(format!("OTel-OTLP-Exporter-Envoy/{VERSION}"));
        let agent = agent.unwrap_or_else(|_| HeaderValue::from_static("")); // a version is valid in a header
        let service = match (&message.grpc_service, &message.http_service) {
            (Some(service), None) => {
                let path = path.field("grpc_service");
                let service = cx.with_services(|cx| GrpcService::build(service, &path, cx))?;
                OtlpService::Grpc(Box::new(service.with_header(&header::USER_AGENT, agent)))
            }
            (None, Some(service)) => {
                let path = path.field("http_service");
                let headers = &service.request_headers_to_add;
                let headers = headers_to_add(headers, &path.field("request_headers_to_add"), cx)?;
                let uri = service.http_uri.clone().unwrap_or_default();
                let path = path.field("http_uri");
                let service = cx.with_services(|cx| HttpService::build(&uri, &path, cx))?;
                let head = head(&service, agent, headers, &path)?;
                OtlpService::Http(Arc::new(service), Box::new(head))
            }
            _ => {
                return Err(refused(
                    path,
                    "expected one of grpc_service and http_service",
                ));
            }
        };
        Ok(OtlpTarget {
            service,
            local_address: cx.local_address(),
        })
    }
}

fn head(
    service: &HttpService,
    agent: HeaderValue,
    headers: Vec<(HeaderName, HeaderValue)>,
    path: &FieldPath,
) -> Result<RequestHead, ConfigErrors> {
    let target = Target::try_from(service.path.as_str());
    let mut head = RequestHead {
        method: Method::POST,
        authority: Some(service.authority.clone()),
        path: Some(target.map_err(|_| refused(path, "the URI has no valid path"))?),
        ..RequestHead::default()
    };
    let content_type = HeaderValue::from_static("application/x-protobuf");
    head.headers.append(&header::CONTENT_TYPE, content_type);
    head.headers.append(&header::USER_AGENT, agent);
    for (name, value) in headers {
        head.headers.insert(name, value);
    }
    Ok(head)
}

/// Sends spans to the collector.
#[derive(Debug)]
pub(super) struct OtlpExporter {
    client: InternalClient,
    target: OtlpTarget,
    batch: BatchInfo,
    stats: Arc<OtelTracerStats>,
}

impl OtlpExporter {
    pub(super) fn new(
        target: OtlpTarget,
        batch: BatchInfo,
        worker: &Rc<WorkerCx>,
        clusters: &Rc<Clusters>,
    ) -> OtlpExporter {
        let scope = Scope::new("tracing").name("opentelemetry");
        OtlpExporter {
            client: InternalClient::new(clusters, target.local_address),
            target,
            batch,
            stats: worker.store.register(scope),
        }
    }

    async fn send(&self, request: &ExportTraceServiceRequest) {
        match &self.target.service {
            OtlpService::Grpc(service) => {
                // Envoy ignores the timeout, and tells the collector none. But no export may wait for ever.
                let limit = service.timeout().unwrap_or(EXPORT_TIMEOUT);
                let call = self.client.unary(service, METHOD, request, None);
                match tokio::time::timeout(limit, call).await {
                    Ok(Ok(ExportServiceResponse {})) => {}
                    Ok(Err(status)) => {
                        log::debug!(target: "tracing", "spans not exported: {status}");
                    }
                    Err(_) => log::debug!(target: "tracing", "spans not exported in {limit:?}"),
                }
            }
            OtlpService::Http(service, head) => {
                let timeout = service.timeout;
                let options = CallOptions {
                    timeout: (!timeout.is_zero()).then_some(timeout),
                    request_end: None,
                    is_internal: true,
                    forwarded_for: true,
                };
                let body = Body::full(request.encode_to_vec());
                let head = RequestHead::clone(head);
                let call = self.client.request(&service.cluster, head, body, &options);
                match call.await {
                    Ok(response) if response.head.status == StatusCode::OK => {}
                    Ok(response) => {
                        let status = response.head.status;
                        log::error!(target: "tracing", "the collector of spans has answered with status {status}");
                    }
                    Err(failure) => {
                        log::debug!(target: "tracing", "spans not exported: {failure}");
                    }
                }
            }
        }
    }
}

impl SpanExporter for OtlpExporter {
    const MIN_FLUSH_SPANS: &'static str = "tracing.opentelemetry.min_flush_spans";
    const FLUSH_INTERVAL: &'static str = "tracing.opentelemetry.flush_interval_ms";

    fn export(self: Rc<Self>, spans: Vec<Span>) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move {
            self.stats.spans_sent.add(spans.len() as u64);
            let request = encode::export(spans, &self.batch);
            self.send(&request).await;
        })
    }

    fn count_dropped(&self, spans: u64) {
        self.stats.spans_dropped.add(spans);
    }

    fn count_timer(&self) {
        self.stats.timer_flushed.inc();
    }
}

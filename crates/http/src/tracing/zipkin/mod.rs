//! Zipkin (`envoy.tracers.zipkin`).

mod b3;
mod encode;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use http::Method;
use outrider_client::CallFailure;
use outrider_client::CallOptions;
use outrider_client::HttpService;
use outrider_client::InternalClient;
use outrider_codec::Body;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderValue;
use outrider_codec::RequestHead;
use outrider_codec::Target;
use outrider_codec::header;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::trace::v3::ZipkinConfig as Message;
use outrider_config::api::envoy::config::trace::v3::zipkin_config::CollectorEndpointVersion;
use outrider_config::api::envoy::config::trace::v3::zipkin_config::TraceContextOption;
use outrider_config::unpack;
use outrider_net::WorkerCx;
use outrider_stats::Counter;
use outrider_stats::Scope;
use outrider_upstream::Clusters;
use prost_types::Any;

use super::BuildTracer;
use super::SpanStart;
use super::Tracer;
use super::TracerBuildCx;
use super::TracerConfig;
use super::reporter::Reporter;
use super::reporter::SpanExporter;

use super::span::Span;
use super::span::SpanContext;
use super::span::SpanKind;
use super::w3c;

pub(super) const FACTORY: Factory<BuildTracer> = Factory {
    message: "envoy.config.trace.v3.ZipkinConfig",
    build,
};

/// How many spans may wait for their export.
const PENDING_LIMIT: usize = 10_000;
/// The time for one export in milliseconds, if the runtime does not set `tracing.zipkin.request_timeout`.
const REQUEST_TIMEOUT: u64 = 5000;

outrider_stats::group! {
    /// `tracing.zipkin.*`
    pub(super) struct ZipkinStats {
        reports_dropped: Counter,
        reports_failed: Counter,
        reports_sent: Counter,
        reports_skipped_no_cluster: Counter,
        spans_sent: Counter,
        timer_flushed: Counter,
    }
}

/// The tracer as configured.
#[derive(Debug)]
struct ZipkinTracerConfig {
    collector: Collector,
    /// The name and the address in the spans.
    endpoint: Endpoint,
    local_address: IpAddr,
    /// `trace_id_128bit`
    has_long_ids: bool,
    /// `timestamp_trace_ids`: the upper half of a trace's id begins with the time.
    has_time_in_ids: bool,
    /// `shared_span_context`
    shares_spans: bool,
    /// `split_spans_for_request`
    splits_spans: bool,
    /// `trace_context_option`: whether W3C headers are used besides B3.
    uses_w3c: bool,
}

/// The service that produces the spans.
#[derive(Clone, Debug)]
struct Endpoint {
    service: String,
    address: IpAddr,
}

/// Where spans go.
#[derive(Clone, Debug)]
struct Collector {
    cluster: Arc<str>,
    head: RequestHead,
    is_proto: bool,
}

fn build(
    config: &Any,
    path: &FieldPath,
    cx: &TracerBuildCx<'_>,
) -> Result<Arc<dyn TracerConfig>, ConfigErrors> {
    let message: Message = unpack(config, path)?;
    let is_proto = match message.collector_endpoint_version() {
        CollectorEndpointVersion::HttpJson => false,
        CollectorEndpointVersion::HttpProto => true,
        // The other two are refused by name when the configuration is read.
        _ => {
            let text = "expected HTTP_JSON or HTTP_PROTO";
            let path = path.field("collector_endpoint_version");
            return Err(ConfigError::new(&path, text).into());
        }
    };
    let (cluster, mut head) = match &message.collector_service {
        Some(service) => {
            let path = path.field("collector_service");
            let uri = service.http_uri.clone().unwrap_or_default();
            let options = &service.request_headers_to_add;
            let headers =
                super::headers_to_add(options, &path.field("request_headers_to_add"), cx)?;
            let service =
                cx.with_services(|cx| HttpService::build(&uri, &path.field("http_uri"), cx))?;
            let mut head = head(service.authority, &service.path, &path)?;
            for (name, value) in headers {
                head.headers.insert(name, value);
            }
            (service.cluster, head)
        }
        None => collector_cluster(&message, path, cx)?,
    };
    let content_type = match is_proto {
        true => "application/x-protobuf",
        false => "application/json",
    };
    let content_type = HeaderValue::from_static(content_type);
    (head.headers).insert_if_absent(&header::CONTENT_TYPE, content_type);
    #[expect(deprecated, reason = "Envoy still obeys it")]
    let splits_spans = message.split_spans_for_request;
    Ok(Arc::new(ZipkinTracerConfig {
        collector: Collector {
            cluster,
            head,
            is_proto,
        },
        endpoint: Endpoint {
            service: cx.process.node_cluster.to_owned(),
            address: cx.local_address(),
        },
        local_address: cx.local_address(),
        has_long_ids: message.trace_id_128bit || message.timestamp_trace_ids,
        has_time_in_ids: message.timestamp_trace_ids,
        shares_spans: message.shared_span_context.unwrap_or(true),
        splits_spans,
        uses_w3c: message.trace_context_option() == TraceContextOption::UseB3WithW3cPropagation,
    }))
}

/// The collector by the older fields.
fn collector_cluster(
    message: &Message,
    path: &FieldPath,
    cx: &TracerBuildCx<'_>,
) -> Result<(Arc<str>, RequestHead), ConfigErrors> {
    let (cluster, endpoint) = (&message.collector_cluster, &message.collector_endpoint);
    if cluster.is_empty() || endpoint.is_empty() {
        let text = "expected collector_cluster and collector_endpoint, or collector_service";
        return Err(ConfigError::new(path, text).into());
    }
    let cluster_path = path.field("collector_cluster");
    let checked = cx.with_services(|cx| cx.cluster(cluster, &cluster_path))?;
    let host = match message.collector_hostname.as_str() {
        "" => cluster,
        host => host,
    };
    let host = HeaderValue::try_from(host).map_err(|_| {
        let text = format!("{host:?} cannot be the host of a request");
        ConfigError::new(&path.field("collector_hostname"), text)
    })?;
    Ok((
        checked,
        head(host, endpoint, &path.field("collector_endpoint"))?,
    ))
}

fn head(host: HeaderValue, target: &str, path: &FieldPath) -> Result<RequestHead, ConfigError> {
    let invalid = |_| ConfigError::new(path, format!("{target:?} is no path"));
    Ok(RequestHead {
        method: Method::POST,
        authority: Some(host),
        path: Some(Target::try_from(target).map_err(invalid)?),
        ..RequestHead::default()
    })
}

impl TracerConfig for ZipkinTracerConfig {
    fn worker(self: Arc<Self>, worker: &Rc<WorkerCx>, clusters: &Rc<Clusters>) -> Rc<dyn Tracer> {
        let exporter = ZipkinExporter {
            client: InternalClient::new(clusters, self.local_address),
            worker: worker.clone(),
            collector: self.collector.clone(),
            endpoint: self.endpoint.clone(),
            shares_spans: self.shares_spans,
            stats: worker.store.register(Scope::new("tracing").name("zipkin")),
        };
        Rc::new(ZipkinTracer {
            reporter: Reporter::new(exporter, worker, PENDING_LIMIT),
            worker: worker.clone(),
            config: self,
        })
    }
}

/// The tracer on one worker.
#[derive(Debug)]
struct ZipkinTracer {
    config: Arc<ZipkinTracerConfig>,
    worker: Rc<WorkerCx>,
    reporter: Rc<Reporter<ZipkinExporter>>,
}

impl ZipkinTracer {
    /// An id; it is not zero, which would mean that there is none.
    fn id(&self) -> u64 {
        self.worker.random().max(1)
    }

    fn new_trace(&self, now: SystemTime) -> SpanContext {
        let id = self.id();
        let high = match (self.config.has_long_ids, self.config.has_time_in_ids) {
            (false, _) => 0,
            (true, false) => self.id(),
            (true, true) => {
                let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
                since.as_secs() << 32 | self.worker.random() >> 32
            }
        };
        SpanContext {
            trace_high: high,
            trace: id,
            id,
            ..SpanContext::default()
        }
    }
}

impl Tracer for ZipkinTracer {
    fn start(&self, start: SpanStart<'_>) -> Option<Span> {
        let config = &self.config;
        let mut found = b3::extract(start.headers).ok()?;
        if config.uses_w3c && found.span.is_none() && found.sampled.is_none() {
            found.span = w3c::extract(start.headers).ok()?;
            found.sampled = found.span.as_ref().map(|span| span.sampled);
        }
        let is_client = start.is_egress && !start.has_upstream_span && !config.splits_spans;
        let kind = match is_client {
            true => SpanKind::Client,
            false => SpanKind::Server,
        };
        let mut context = match found.span {
            None => self.new_trace(start.time),
            Some(caller) if config.shares_spans && !is_client => caller,
            Some(caller) => SpanContext {
                id: self.id(),
                parent: caller.id,
                ..caller
            },
        };
        context.sampled = found.sampled.unwrap_or(start.is_traced);
        context.state = Box::default();
        let mut span = Span::new(context, start.host.to_owned(), kind, start.time);
        span.format = found.format;
        Some(span)
    }

    fn child(&self, parent: &Span, name: String, now: SystemTime) -> Span {
        let context = SpanContext {
            id: self.id(),
            parent: parent.context.id,
            ..parent.context.clone()
        };
        let mut span = Span::new(context, name, SpanKind::Client, now);
        span.format = parent.format;
        span
    }

    fn inject(&self, span: &Span, headers: &mut HeaderMap) {
        b3::inject(&span.context, span.format, headers);
        if self.config.uses_w3c {
            w3c::inject_parent(&span.context, headers);
        }
    }

    fn report(&self, span: Span) {
        self.reporter.report(span);
    }

    fn trace_id(&self, span: &Span) -> String {
        match span.context.trace_high {
            0 => format!("{:016x}", span.context.trace),
            high => format!("{high:016x}{:016x}", span.context.trace),
        }
    }
}

/// Sends spans to the collector.
#[derive(Debug)]
struct ZipkinExporter {
    client: InternalClient,
    worker: Rc<WorkerCx>,
    collector: Collector,
    endpoint: Endpoint,
    shares_spans: bool,
    stats: Arc<ZipkinStats>,
}

impl SpanExporter for ZipkinExporter {
    const MIN_FLUSH_SPANS: &'static str = "tracing.zipkin.min_flush_spans";
    const FLUSH_INTERVAL: &'static str = "tracing.zipkin.flush_interval_ms";

    fn export(self: Rc<Self>, spans: Vec<Span>) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move {
            self.stats.spans_sent.add(spans.len() as u64);
            let body = match self.collector.is_proto {
                true => encode::proto(&spans, &self.endpoint, self.shares_spans),
                false => encode::json(&spans, &self.endpoint, self.shares_spans),
            };
            let runtime = self.worker.runtime();
            let timeout =
                runtime.and_then(|values| values.number("tracing.zipkin.request_timeout"));
            let options = CallOptions {
                timeout: Some(Duration::from_millis(timeout.unwrap_or(REQUEST_TIMEOUT))),
                request_end: None,
                is_internal: true,
                forwarded_for: true,
            };
            let head = self.collector.head.clone();
            let call =
                (self.client).request(&self.collector.cluster, head, Body::full(body), &options);
            let counter = match call.await {
                Ok(response) if response.head.status == http::StatusCode::ACCEPTED => {
                    &self.stats.reports_sent
                }
                // To Envoy, a reply of its own router is a response.
                Ok(_) | Err(CallFailure::NoResponse { .. }) => &self.stats.reports_dropped,
                Err(CallFailure::UnknownCluster) => &self.stats.reports_skipped_no_cluster,
                Err(CallFailure::Reset { .. } | CallFailure::TooLarge) => {
                    &self.stats.reports_failed
                }
            };
            counter.inc();
        })
    }

    fn count_dropped(&self, _spans: u64) {
        self.stats.reports_dropped.inc();
    }

    fn count_timer(&self) {
        self.stats.timer_flushed.inc();
    }
}

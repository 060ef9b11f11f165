//! The tracers, by the messages that configure them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::rc::Weak;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::SystemTime;

use outrider_client::ServiceCx;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::HeaderValueOption;
use outrider_config::api::envoy::config::trace::v3::tracing::Http as Provider;
use outrider_config::api::envoy::config::trace::v3::tracing::http::ConfigType;
use outrider_net::WorkerCx;
use outrider_upstream::Clusters;
use prost::Message as _;
use prost_types::Any;

use super::opentelemetry;
use super::span::Span;
use super::zipkin;
use crate::BuildCx;

/// Builds a tracer from its message.
pub(super) type BuildTracer =
    fn(&Any, &FieldPath, &TracerBuildCx<'_>) -> Result<Arc<dyn TracerConfig>, ConfigErrors>;

const FACTORIES: &[Factory<BuildTracer>] = &[opentelemetry::FACTORY, zipkin::FACTORY];

/// A tracer as configured, shared by all workers.
pub(super) trait TracerConfig: fmt::Debug + Send + Sync {
    /// The tracer on a worker.
    fn worker(self: Arc<Self>, worker: &Rc<WorkerCx>, clusters: &Rc<Clusters>) -> Rc<dyn Tracer>;
}

/// A tracer on one worker.
pub(super) trait Tracer: fmt::Debug {
    /// Starts the span of a request. `None` if the request's headers have a context that is not valid.
    fn start(&self, start: SpanStart<'_>) -> Option<Span>;
    /// Starts the span of a request to a host, whose cause is `parent`.
    fn child(&self, parent: &Span, name: String, now: SystemTime) -> Span;
    /// Writes the context of a span into the headers of a request to a host.
    fn inject(&self, span: &Span, headers: &mut HeaderMap);
    /// Takes a span that has ended and is sampled.
    fn report(&self, span: Span);
    /// The id of the span's trace, in hex digits.
    fn trace_id(&self, span: &Span) -> String;
}

/// What a span begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct SpanStart<'a> {
    pub(super) headers: &'a HeaderMap,
    /// The host that the client asks for.
    pub(super) host: &'a str,
    pub(super) time: SystemTime,
    /// Whether the listener is for outbound traffic.
    pub(super) is_egress: bool,
    /// Whether requests to hosts have spans of their own.
    pub(super) has_upstream_span: bool,
    /// Whether the connection manager traces the request.
    pub(super) is_traced: bool,
}

impl SpanStart<'_> {
    /// The name of a span that nothing else names.
    pub(super) fn operation(&self) -> String {
        match self.is_egress {
            true => format!("egress {}", self.host),
            false => "ingress".to_owned(),
        }
    }
}

/// What a tracer needs to be built.
#[derive(Clone, Copy, Debug)]
pub(super) struct TracerBuildCx<'a> {
    /// The rest of the process.
    pub(super) process: &'a BuildCx<'a>,
}

impl TracerBuildCx<'_> {
    /// Calls `build` with what is needed to check the collector's service.
    pub(super) fn with_services<T>(&self, build: impl FnOnce(&ServiceCx<'_>) -> T) -> T {
        let clusters = self.process.clusters;
        build(&ServiceCx {
            has_cluster: &|name| clusters.has(name),
            nearest_cluster: &|name| clusters.nearest(name).map(str::to_owned),
        })
    }

    /// The machine's own address.
    pub(super) fn local_address(&self) -> IpAddr {
        outrider_net::local_address(self.process.prefers_ipv6)
    }
}

/// The headers that a tracer adds to its calls.
pub(super) fn headers_to_add(
    options: &[HeaderValueOption],
    path: &FieldPath,
    cx: &TracerBuildCx<'_>,
) -> Result<Vec<(HeaderName, HeaderValue)>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let mut headers = Vec::new();
    for (index, option) in options.iter().enumerate() {
        let path = path.index(index).field("header");
        let header = option.header.clone().unwrap_or_default();
        let header = cx.with_services(|cx| cx.header(&header, &path));
        headers.extend(errors.collect(header.map_err(ConfigErrors::from)));
    }
    errors.finish(headers)
}

/// The tracers of the process. Connection managers with the same provider share one.
#[derive(Debug, Default)]
pub struct Tracers {
    /// `Bootstrap.tracing`: the provider of connection managers that have none.
    default: Option<Provider>,
    built: Mutex<HashMap<Vec<u8>, std::sync::Weak<dyn TracerConfig>>>,
}

impl Tracers {
    /// The tracers of a process whose bootstrap has this provider.
    #[must_use]
    pub fn new(default: Option<Provider>) -> Tracers {
        Tracers {
            default,
            built: Mutex::default(),
        }
    }

    /// The tracer of a connection manager; `None` if neither it nor the bootstrap has a provider.
    pub(super) fn find(
        &self,
        provider: Option<&Provider>,
        path: &FieldPath,
        cx: &BuildCx<'_>,
    ) -> Result<Option<Arc<dyn TracerConfig>>, ConfigErrors> {
        let Some(provider) = provider.or(self.default.as_ref()) else {
            return Ok(None);
        };
        let path = path.field("provider").field("typed_config");
        let Some(ConfigType::TypedConfig(config)) = &provider.config_type else {
            let text = "expected the configuration of a tracer";
            return Err(super::config::error(&path, text));
        };
        let key = config.encode_to_vec();
        // Only a panic poisons it, and a panic ends the process.
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        built.retain(|_, tracer| tracer.strong_count() > 0);
        if let Some(known) = built.get(&key).and_then(std::sync::Weak::upgrade) {
            return Ok(Some(known));
        }
        let build = Factory::find(FACTORIES, "tracer", config, &path)?;
        let tracer = build(config, &path, &TracerBuildCx { process: cx })?;
        built.insert(key, Arc::downgrade(&tracer));
        Ok(Some(tracer))
    }
}

/// Tracers with their configuration.
type WorkerTracers = Vec<(Arc<dyn TracerConfig>, Weak<dyn Tracer>)>;

thread_local! {
    /// This worker's tracers, so that all connection managers report to the same.
    static WORKER_TRACERS: RefCell<WorkerTracers> = const { RefCell::new(Vec::new()) };
}

/// This worker's tracer of the configuration.
pub(super) fn of_worker(
    config: &Arc<dyn TracerConfig>,
    worker: &Rc<WorkerCx>,
    clusters: &Rc<Clusters>,
) -> Rc<dyn Tracer> {
    WORKER_TRACERS.with_borrow_mut(|tracers| {
        tracers.retain(|(_, tracer)| tracer.strong_count() > 0);
        let known = tracers.iter().find(|(known, _)| Arc::ptr_eq(known, config));
        if let Some(tracer) = known.and_then(|(_, tracer)| tracer.upgrade()) {
            return tracer;
        }
        let tracer = config.clone().worker(worker, clusters);
        tracers.push((config.clone(), Rc::downgrade(&tracer)));
        tracer
    })
}

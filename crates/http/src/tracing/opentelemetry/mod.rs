//! OpenTelemetry (`envoy.tracers.opentelemetry`).

mod encode;
mod exporter;
mod resource;
mod sampler;

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use outrider_client::otlp::ResourceMessage;
use outrider_codec::HeaderMap;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::trace::v3::OpenTelemetryConfig as Message;
use outrider_config::unpack;
use outrider_net::WorkerCx;
use outrider_upstream::Clusters;
use prost_types::Any;

use super::BuildTracer;
use super::SpanStart;
use super::Tracer;
use super::TracerBuildCx;
use super::TracerConfig;
use super::reporter::Reporter;
use super::span::Span;
use super::span::SpanContext;
use super::span::SpanKind;
use super::w3c;
use exporter::OtlpExporter;
use exporter::OtlpTarget;
use sampler::SpanSampler;

pub(super) const FACTORY: Factory<BuildTracer> = Factory {
    message: "envoy.config.trace.v3.OpenTelemetryConfig",
    build,
};

/// `max_cache_size` if it is not set.
const CACHE_SIZE: u32 = 1024;

/// The tracer as configured.
#[derive(Debug)]
struct OtelTracerConfig {
    target: OtlpTarget,
    batch: BatchInfo,
    sampler: Option<SpanSampler>,
    /// `max_cache_size`
    cache_size: usize,
}

/// What all batches of spans have in common.
#[derive(Clone, Debug)]
struct BatchInfo {
    resource: ResourceMessage,
    /// The version of the program, if batches name the program as their scope (`set_instrumentation_scope`).
    scope_version: Option<String>,
}

fn build(
    config: &Any,
    path: &FieldPath,
    cx: &TracerBuildCx<'_>,
) -> Result<Arc<dyn TracerConfig>, ConfigErrors> {
    let message: Message = unpack(config, path)?;
    let mut errors = ConfigErrors::new();
    let target = errors.collect(OtlpTarget::build(&message, path, cx));
    let resource = errors.collect(resource::build(&message, path));
    let sampler = message.sampler.as_ref();
    let sampler = sampler.map(|sampler| SpanSampler::build(sampler, &path.field("sampler")));
    let sampler = sampler.and_then(|sampler| errors.collect(sampler));
    let has_scope = message.set_instrumentation_scope.unwrap_or(true);
    let (Some(target), Some(resource)) = (target, resource) else {
        return Err(errors);
    };
    errors.finish(Arc::new(OtelTracerConfig {
        target,
        batch: BatchInfo {
            resource,
            scope_version: has_scope.then(|| outrider_config::VERSION.to_owned()),
        },
        sampler,
        cache_size: message.max_cache_size.unwrap_or(CACHE_SIZE) as usize,
    }))
}

impl TracerConfig for OtelTracerConfig {
    fn worker(self: Arc<Self>, worker: &Rc<WorkerCx>, clusters: &Rc<Clusters>) -> Rc<dyn Tracer> {
        let (target, batch) = (self.target.clone(), self.batch.clone());
        let exporter = OtlpExporter::new(target, batch, worker, clusters);
        Rc::new(OtelTracer {
            reporter: Reporter::new(exporter, worker, self.cache_size),
            worker: worker.clone(),
            config: self,
        })
    }
}

/// The tracer on one worker.
#[derive(Debug)]
struct OtelTracer {
    config: Arc<OtelTracerConfig>,
    worker: Rc<WorkerCx>,
    reporter: Rc<Reporter<OtlpExporter>>,
}

impl OtelTracer {
    /// An id; zero is not valid.
    fn id(&self) -> u64 {
        self.worker.random().max(1)
    }
}

impl Tracer for OtelTracer {
    fn start(&self, start: SpanStart<'_>) -> Option<Span> {
        let caller = w3c::extract(start.headers).ok()?;
        let mut context = match &caller {
            Some(caller) => SpanContext {
                id: self.id(),
                parent: caller.id,
                ..caller.clone()
            },
            None => SpanContext {
                trace_high: self.id(),
                trace: self.id(),
                id: self.id(),
                sampled: true,
                ..SpanContext::default()
            },
        };
        if let Some(sampler) = &self.config.sampler {
            context.sampled = sampler.samples(caller.as_ref(), context.trace_high);
        }
        // Neither a sampler nor the caller can trace what the connection manager does not trace.
        context.sampled &= start.is_traced;
        let kind = match start.is_egress && !start.has_upstream_span {
            true => SpanKind::Client,
            false => SpanKind::Server,
        };
        let mut span = Span::new(context, start.operation(), kind, start.time);
        span.has_remote_parent = caller.is_some();
        Some(span)
    }

    fn child(&self, parent: &Span, name: String, now: SystemTime) -> Span {
        let mut context = SpanContext {
            id: self.id(),
            parent: parent.context.id,
            ..parent.context.clone()
        };
        if let Some(sampler) = &self.config.sampler {
            context.sampled = sampler.samples(Some(&parent.context), context.trace_high);
        }
        Span::new(context, name, SpanKind::Client, now)
    }

    fn inject(&self, span: &Span, headers: &mut HeaderMap) {
        w3c::inject_parent(&span.context, headers);
        w3c::inject_state(&span.context, headers);
    }

    fn report(&self, span: Span) {
        self.reporter.report(span);
    }

    fn trace_id(&self, span: &Span) -> String {
        let context = &span.context;
        format!("{:016x}{:016x}", context.trace_high, context.trace)
    }
}

fn refused(path: &FieldPath, text: &str) -> ConfigErrors {
    ConfigError::new(path, text).into()
}

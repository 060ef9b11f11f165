//! The trace of one stream: its span, and that of the request to a host.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use outrider_codec::HeaderMap;
use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_net::WorkerCx;
use outrider_net::clock;
use outrider_upstream::Clusters;

use super::config::Operations;
use super::config::TracingConfig;
use super::custom_tag::CustomTag;
use super::sampling::TraceReason;
use super::span::Span;
use super::tags;
use super::tracers;
use super::tracers::SpanStart;
use super::tracers::Tracer;
use crate::Stream;
use crate::router::UpstreamRequest;
use crate::stats::TracingStats;

/// The tracing of a connection manager on one worker.
#[derive(Debug)]
pub(crate) struct WorkerTracing {
    config: Arc<TracingConfig>,
    tracer: Option<Rc<dyn Tracer>>,
}

/// The trace of one stream.
#[derive(Debug)]
pub(crate) struct StreamTrace {
    tracing: Rc<WorkerTracing>,
    reason: TraceReason,
    /// The span of the request; `None` if there is no tracer, or the request has a context that is not valid.
    span: Option<Span>,
    /// The span of the request to a host.
    attempt: Option<Span>,
    /// The operation of the decorator that the client is told.
    told_operation: Option<Arc<str>>,
}

impl WorkerTracing {
    pub(crate) fn new(
        config: &Arc<TracingConfig>,
        worker: &Rc<WorkerCx>,
        clusters: &Rc<Clusters>,
    ) -> Rc<WorkerTracing> {
        let tracer = config.tracer.as_ref();
        Rc::new(WorkerTracing {
            config: config.clone(),
            tracer: tracer.map(|tracer| tracers::of_worker(tracer, worker, clusters)),
        })
    }

    /// Decides whether the stream is traced, and starts its span.
    pub(crate) fn start(self: &Rc<Self>, stream: &mut Stream, random: u64, stats: &TracingStats) {
        let config = &self.config;
        let route = stream.route.clone();
        let route = route.as_ref().and_then(|route| route.tracing.as_deref());
        let shares = route
            .and_then(|route| route.shares)
            .unwrap_or(config.shares);
        let runtime = stream.runtime.as_deref().map(|snapshot| &**snapshot);
        let headers = &mut stream.request.headers;
        let reason = shares.decide(headers, config.ids, runtime, random);
        reason.count(stats);
        let mut trace = StreamTrace {
            tracing: self.clone(),
            reason,
            span: None,
            attempt: None,
            told_operation: None,
        };
        trace.span = self.tracer.as_ref().and_then(|tracer| {
            tracer.start(SpanStart {
                headers: &stream.request.headers,
                host: stream.request.host(),
                time: stream.start_time,
                is_egress: config.is_egress,
                has_upstream_span: config.has_upstream_span,
                is_traced: reason.is_traced(),
            })
        });
        if let Some(span) = trace.sampled() {
            span.set_tag("node_id", config.node_id.to_string());
            span.set_tag("zone", config.zone.to_string());
        }
        let has_format = match route {
            Some(route) if route.operations.request.is_some() => true,
            _ => config.operations.request.is_some(),
        };
        let decorator = route.and_then(|route| route.decorator.as_ref());
        let decorator = decorator.filter(|one| !has_format && !one.operation.is_empty());
        if self.tracer.is_some() {
            if let (Some(decorator), Some(span)) = (decorator, &mut trace.span) {
                span.name = decorator.operation.to_string();
            }
            let told = decorator.filter(|decorator| decorator.propagates);
            trace.tell(
                told.map(|decorator| &decorator.operation),
                &mut stream.request.headers,
            );
        }
        stream.trace = Some(Box::new(trace));
    }
}

impl StreamTrace {
    /// Whether the stream is traced because another service asks for it.
    pub(crate) fn is_forced(&self) -> bool {
        self.reason == TraceReason::ServiceForced
    }

    /// The id of the trace, in hex digits.
    pub(crate) fn trace_id(&self) -> Option<String> {
        let tracer = self.tracing.tracer.as_ref()?;
        Some(tracer.trace_id(self.span.as_ref()?))
    }

    /// The span of the request, if it will be reported.
    fn sampled(&mut self) -> Option<&mut Span> {
        self.span.as_mut().filter(|span| span.context.sampled)
    }

    /// Outbound, the host is told the operation, and inbound, the client. A client that tells one itself names the span.
    fn tell(&mut self, operation: Option<&Arc<str>>, headers: &mut HeaderMap) {
        let name = &header::X_ENVOY_DECORATOR_OPERATION;
        if self.tracing.config.is_egress {
            let value = operation.and_then(|operation| HeaderValue::try_from(&**operation).ok());
            if let Some(value) = value {
                headers.insert(name, value);
            }
            return;
        }
        self.told_operation = operation.cloned();
        let told = headers.remove(name).filter(|value| !value.is_empty());
        if let (Some(told), Some(span)) = (told, &mut self.span) {
            span.name = String::from_utf8_lossy(told.as_bytes()).into_owned();
            self.told_operation = None;
        }
    }

    /// Handles the operation in the headers of the response to the client.
    pub(crate) fn finish_response(&mut self, headers: &mut HeaderMap) {
        let name = &header::X_ENVOY_DECORATOR_OPERATION;
        if self.tracing.config.is_egress {
            let told = headers.remove(name).filter(|value| !value.is_empty());
            if let (Some(told), Some(span)) = (told, &mut self.span) {
                span.name = String::from_utf8_lossy(told.as_bytes()).into_owned();
            }
        } else if let Some(operation) = &self.told_operation
            && let Ok(value) = HeaderValue::try_from(&**operation)
        {
            headers.insert(name, value);
        }
    }

    /// Begins an attempt at a request to the cluster of this name. `attempts`: how many there are with it.
    pub(crate) fn begin_attempt(&mut self, cluster: &str, attempts: u32) {
        if !self.tracing.config.has_upstream_span {
            return;
        }
        let parent = self.span.as_ref().zip(self.tracing.tracer.as_ref());
        self.attempt = parent.map(|(span, tracer)| {
            let mut child = tracer.child(span, format!("router {cluster} egress"), clock::wall());
            if attempts > 1 && child.context.sampled {
                child.set_tag("retry.count", (attempts - 1).to_string());
            }
            child
        });
    }

    /// Writes the context into the headers of a request to a host.
    pub(crate) fn inject(&self, headers: &mut HeaderMap) {
        let span = self.attempt.as_ref().or(self.span.as_ref());
        if let Some((span, tracer)) = span.zip(self.tracing.tracer.as_ref())
            && !self.tracing.config.hides_context
        {
            tracer.inject(span, headers);
        }
    }

    /// The tags of the configuration.
    pub(super) fn custom_tags(&self, stream: &Stream) -> Box<[Arc<CustomTag>]> {
        let manager = &self.tracing.config.custom_tags;
        let route = stream.route.as_ref();
        let route = route.and_then(|route| route.tracing.as_ref());
        CustomTag::merge(route.map_or(&[], |route| &*route.custom_tags), manager)
    }
}

/// Ends the span of a request to a host, if there is one.
pub(crate) fn end_attempt(stream: &mut Stream, request: &UpstreamRequest) {
    let Some(trace) = &mut stream.trace else {
        return;
    };
    let Some(mut span) = trace.attempt.take() else {
        return;
    };
    let tracing = trace.tracing.clone();
    if !span.context.sampled {
        return;
    }
    span.end = match request.ended() {
        Some(ended) => tags::wall(stream, ended),
        None => clock::wall(),
    };
    tags::finish_attempt(&mut span, stream, request, &tracing.config);
    rename(&mut span, stream, &tracing.config, |operations| {
        operations.upstream.as_ref()
    });
    report(&tracing, span);
}

/// Ends the spans of a stream that has ended.
pub(crate) fn end(stream: &mut Stream, ended: SystemTime) {
    let upstream = stream.upstream.as_ref();
    if let Some(request) = upstream.and_then(|upstream| upstream.request.clone()) {
        end_attempt(stream, &request);
    }
    let Some(trace) = &mut stream.trace else {
        return;
    };
    let tracing = trace.tracing.clone();
    let Some(mut span) = trace.span.take() else {
        return;
    };
    if span.context.sampled {
        span.end = ended;
        tags::finish_request(&mut span, stream, &tracing.config);
        rename(&mut span, stream, &tracing.config, |operations| {
            operations.request.as_ref()
        });
        report(&tracing, span);
    }
}

/// Names a span as its format says: that of the route, else that of the connection manager.
fn rename(
    span: &mut Span,
    stream: &Stream,
    config: &TracingConfig,
    format: impl Fn(&Operations) -> Option<&crate::format::Formatter>,
) {
    let route = stream.route.as_ref();
    let route = route.and_then(|route| route.tracing.as_ref());
    let of_route = route.and_then(|route| format(&route.operations));
    let Some(format) = of_route.or_else(|| format(&config.operations)) else {
        return;
    };
    let mut name = Vec::new();
    format.write(stream, &mut name);
    if !name.is_empty() {
        span.name = String::from_utf8_lossy(&name).into_owned();
    }
}

fn report(tracing: &WorkerTracing, span: Span) {
    if let Some(tracer) = &tracing.tracer {
        tracer.report(span);
    }
}

//! Tracing: which requests are traced, their spans, and the tracers that report them
//! (`HttpConnectionManager.tracing`, `Bootstrap.tracing`).

mod config;
mod custom_tag;
mod opentelemetry;
mod reporter;
mod sampling;
mod span;
mod stream_trace;
mod tags;
mod tracers;
mod w3c;
mod zipkin;

pub(crate) use config::RouteTracing;
pub(crate) use config::TracingConfig;
pub(crate) use config::request_id_options;
pub(crate) use stream_trace::StreamTrace;
pub(crate) use stream_trace::WorkerTracing;
pub(crate) use stream_trace::end;
pub(crate) use stream_trace::end_attempt;
pub use tracers::Tracers;
use tracers::headers_to_add;

use tracers::BuildTracer;
use tracers::SpanStart;
use tracers::Tracer;
use tracers::TracerBuildCx;
use tracers::TracerConfig;

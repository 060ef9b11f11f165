//! HTTP filters, which see each request between the connection manager and the router.
//!
//! A new filter is a file beside this one and an entry in `FACTORIES`. The router is not an [`HttpFilter`]: it is split
//! off when the chain is built, so that a chain has at most one router and runs it last.

mod grpc_stats;

use std::any::Any as StdAny;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use outrider_codec::Body;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter as HttpFilterMessage;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use outrider_net::WorkerCx;
use prost_types::Any;
use smallvec::SmallVec;

use crate::Stream;
use crate::local_reply::LocalReply;
use crate::router::Router;

/// One configured filter, shared by all workers.
pub trait HttpFilterConfig: fmt::Debug + Send + Sync {
    /// The filter on one worker.
    fn worker(self: Arc<Self>, worker: &WorkerCx) -> Rc<dyn HttpFilter>;
}

/// A filter on one worker, shared by its streams. The heads are in the stream. A filter keeps its data about a stream
/// in `stream.extensions`, and wraps a body in order to see it.
pub trait HttpFilter: fmt::Debug {
    /// Looks at the request's head.
    fn on_request(&self, stream: &mut Stream) -> FilterStatus {
        let _ = stream;
        FilterStatus::Continue
    }

    /// Wraps the request's body, if the filter has to see it.
    fn wrap_request_body(&self, stream: &mut Stream, body: Body) -> Body {
        let _ = stream;
        body
    }

    /// Looks at the response's head, also that of a local reply.
    fn on_response(&self, stream: &mut Stream) -> FilterStatus {
        let _ = stream;
        FilterStatus::Continue
    }

    /// Wraps the response's body, if the filter has to see it.
    fn wrap_response_body(&self, stream: &mut Stream, body: Body) -> Body {
        let _ = stream;
        body
    }
}

/// Values that filters keep for one stream.
#[derive(Debug, Default)]
pub struct StreamExtensions(SmallVec<[Rc<dyn StdAny>; 2]>);

impl StreamExtensions {
    /// Adds `value`.
    pub fn insert<T: 'static>(&mut self, value: Rc<T>) {
        self.0.push(value);
    }

    /// All values of this type, the oldest first.
    pub fn all<T: 'static>(&self) -> impl Iterator<Item = Rc<T>> + '_ {
        let values = self.0.iter();
        values.filter_map(|value| value.clone().downcast().ok())
    }
}

/// What happens to a stream after a filter.
pub enum FilterStatus {
    /// The next filter runs.
    Continue,
    /// The client gets this reply.
    Reply(LocalReply),
    /// The filter changed headers that routes match on: the route is found again, then the next filter runs.
    Reroute,
    /// The stream waits for this future, such as a timer or an RPC. Only this case allocates.
    Wait(Pin<Box<dyn Future<Output = WaitResult>>>),
}

/// The result of a filter's wait.
#[derive(Debug)]
pub enum WaitResult {
    /// The next filter runs, after these changes to the head.
    Continue(HeaderEdits),
    /// The client gets this reply.
    Reply(LocalReply),
}

/// Changes to a head that a filter asks for after a wait, during which it cannot borrow the head.
#[derive(Debug, Default)]
pub struct HeaderEdits {
    /// Headers to remove.
    pub remove: Vec<HeaderName>,
    /// Headers to set after the removal.
    pub set: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderEdits {
    fn apply(self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in self.set {
            headers.insert(name, value);
        }
    }
}

/// What an entry of `http_filters` configures.
enum BuiltFilter {
    Filter(Arc<dyn HttpFilterConfig>),
    Router(Router),
}

type Build = fn(&Any, &FieldPath) -> Result<BuiltFilter, ConfigErrors>;

/// Every HTTP filter.
const FACTORIES: &[Factory<Build>] = &[
    Factory {
        message: "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
        build: |config, path| grpc_stats::build(config, path).map(BuiltFilter::Filter),
    },
    Factory {
        message: "envoy.extensions.filters.http.router.v3.Router",
        build: |config, path| Router::build(config, path).map(BuiltFilter::Router),
    },
];

/// The filters of a connection manager on one worker, in the order of the config.
#[derive(Debug, Default)]
pub struct HttpFilterChain(Vec<Rc<dyn HttpFilter>>);

/// The built `http_filters`: the filters, and the router at their end.
#[derive(Debug)]
pub(crate) struct HttpFilterChainConfig {
    configs: Vec<Arc<dyn HttpFilterConfig>>,
    /// `None` only if the config has no filter at all. Envoy accepts that, and never answers.
    pub(crate) router: Option<Router>,
}

impl HttpFilterChainConfig {
    pub(crate) fn build(
        filters: &[HttpFilterMessage],
        path: &FieldPath,
    ) -> Result<HttpFilterChainConfig, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut configs = Vec::new();
        let mut router = None;
        for (index, filter) in filters.iter().enumerate() {
            let path = path.index(index);
            let Some(config) = errors.collect(typed_config(filter, &path)) else {
                continue;
            };
            let last = index + 1 == filters.len();
            let path = path.field("typed_config");
            match errors.collect(build_filter(config, &path)) {
                Some(BuiltFilter::Router(built)) => {
                    if !last {
                        errors.push(
                            &path,
                            "the router ends the filter chain, so it must come last",
                        );
                    }
                    router = Some(built);
                }
                Some(BuiltFilter::Filter(filter)) => {
                    configs.push(filter);
                    if last {
                        errors.push(&path, "the last filter must be envoy.filters.http.router");
                    }
                }
                None => {}
            }
        }
        errors.finish(HttpFilterChainConfig { configs, router })
    }

    /// The filters on a worker.
    pub(crate) fn worker(&self, worker: &WorkerCx) -> HttpFilterChain {
        let filters = self.configs.iter();
        HttpFilterChain(
            filters
                .map(|config| config.clone().worker(worker))
                .collect(),
        )
    }
}

/// A filter's own message.
fn typed_config<'a>(
    filter: &'a HttpFilterMessage,
    path: &FieldPath,
) -> Result<&'a Any, ConfigError> {
    match &filter.config_type {
        Some(ConfigType::TypedConfig(config)) => Ok(config),
        Some(ConfigType::ConfigDiscovery(_)) => Err(ConfigError::new(
            &path.field("config_discovery"),
            "not supported: filter configuration from a server",
        )),
        None => Err(ConfigError::new(
            &path.field("typed_config"),
            format!(
                "expected the configuration of {:?} with its @type",
                filter.name
            ),
        )),
    }
}

fn build_filter(config: &Any, path: &FieldPath) -> Result<BuiltFilter, ConfigErrors> {
    let build = Factory::find(FACTORIES, "HTTP filter", config, path)?;
    build(config, path)
}

impl HttpFilterChain {
    /// Whether there are no filters but the router.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Runs the request through the filters. `reroute` finds the route again.
    ///
    /// # Errors
    /// The reply of a filter that ended the request.
    pub async fn request(
        &self,
        stream: &mut Stream,
        mut body: Body,
        reroute: impl Fn(&mut Stream),
    ) -> Result<Body, LocalReply> {
        for filter in &self.0 {
            match filter.on_request(stream) {
                FilterStatus::Continue => {}
                FilterStatus::Reply(reply) => return Err(reply),
                FilterStatus::Reroute => reroute(stream),
                FilterStatus::Wait(wait) => match wait.await {
                    WaitResult::Continue(edits) => edits.apply(&mut stream.request.headers),
                    WaitResult::Reply(reply) => return Err(reply),
                },
            }
            body = filter.wrap_request_body(stream, body);
        }
        Ok(body)
    }

    /// Runs the response, whose head is in the stream, through the filters, the last one first.
    ///
    /// # Errors
    /// The reply of a filter that replaced the response.
    pub async fn response(&self, stream: &mut Stream, mut body: Body) -> Result<Body, LocalReply> {
        for filter in self.0.iter().rev() {
            match filter.on_response(stream) {
                FilterStatus::Continue | FilterStatus::Reroute => {}
                FilterStatus::Reply(reply) => return Err(reply),
                FilterStatus::Wait(wait) => match wait.await {
                    WaitResult::Continue(edits) => {
                        if let Some(response) = &mut stream.response {
                            edits.apply(&mut response.headers);
                        }
                    }
                    WaitResult::Reply(reply) => return Err(reply),
                },
            }
            body = filter.wrap_response_body(stream, body);
        }
        Ok(body)
    }
}

impl fmt::Debug for FilterStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FilterStatus::Continue => "Continue",
            FilterStatus::Reply(_) => "Reply",
            FilterStatus::Reroute => "Reroute",
            FilterStatus::Wait(_) => "Wait",
        })
    }
}

#[cfg(test)]
mod tests;

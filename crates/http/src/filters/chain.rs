//! The chain of a connection manager's filters: built from `http_filters`, and run for each stream.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use outrider_codec::Body;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter as HttpFilterMessage;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use outrider_config::type_name;
use outrider_net::WorkerCx;
use outrider_stats::Scope;
use outrider_upstream::Clusters;
use prost_types::Any;

use crate::BuildCx;
use crate::Stream;
use crate::local_reply::LocalReply;
use crate::route::Route;
use crate::router::Router;

use super::FACTORIES;
use super::FilterBuildCx;
use super::FilterCx;
use super::FilterStatus;
use super::FilterWorkerCx;
use super::HttpFilter;
use super::HttpFilterConfig;

/// The message of the router. It is no [`HttpFilter`]: it is split off when the chain is built, so that a chain has at
/// most one router and runs it last.
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

/// The built `http_filters`: the filters, and the router at their end.
#[derive(Debug)]
pub(crate) struct HttpFilterChainConfig {
    filters: Vec<ConfiguredFilter>,
    /// `None` only if the config has no filter at all. Envoy accepts that, and never answers.
    pub(crate) router: Option<Router>,
}

#[derive(Debug)]
struct ConfiguredFilter {
    name: Arc<str>,
    /// `HttpFilter.disabled`: whether the filter runs only on routes that enable it.
    is_disabled: bool,
    config: Arc<dyn HttpFilterConfig>,
}

impl HttpFilterChainConfig {
    /// The chain of `filters`, found at `path`; `scope` is `http.<stat_prefix>`.
    pub(crate) fn build(
        filters: &[HttpFilterMessage],
        path: &FieldPath,
        scope: &Scope,
        cx: &BuildCx<'_>,
    ) -> Result<HttpFilterChainConfig, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut chain = HttpFilterChainConfig {
            filters: Vec::new(),
            router: None,
        };
        for (index, filter) in filters.iter().enumerate() {
            let path = path.index(index);
            let is_last = index + 1 == filters.len();
            let cx = FilterBuildCx {
                name: &filter.name,
                scope,
                process: cx,
            };
            errors.collect(chain.add(filter, is_last, &path, &cx));
        }
        errors.finish(chain)
    }

    fn add(
        &mut self,
        filter: &HttpFilterMessage,
        is_last: bool,
        path: &FieldPath,
        cx: &FilterBuildCx<'_>,
    ) -> Result<(), ConfigErrors> {
        let config = typed_config(filter, path)?;
        let mut errors = ConfigErrors::new();
        let typed_path = path.field("typed_config");
        if type_name(config) == ROUTER {
            if !is_last {
                errors.push(
                    &typed_path,
                    "the router ends the filter chain, so it must come last",
                );
            }
            if filter.disabled {
                errors.push(
                    &path.field("disabled"),
                    "the router ends the filter chain, so it cannot be disabled",
                );
            }
            self.router = errors.collect(Router::build(config, &typed_path));
            return errors.finish(());
        }
        let factory = FACTORIES
            .iter()
            .find(|factory| factory.message == type_name(config));
        let Some(factory) = factory else {
            let known: Vec<_> = FACTORIES.iter().map(|factory| factory.message).collect();
            errors.push(
                &typed_path,
                format!(
                    "not supported: HTTP filter {}; expected one of: {}, {ROUTER}",
                    type_name(config),
                    known.join(", ")
                ),
            );
            return Err(errors);
        };
        if let Some(config) = errors.collect((factory.build)(config, &typed_path, cx)) {
            self.filters.push(ConfiguredFilter {
                name: filter.name.as_str().into(),
                is_disabled: filter.disabled,
                config,
            });
        }
        if is_last {
            errors.push(
                &typed_path,
                "the last filter must be envoy.filters.http.router",
            );
        }
        errors.finish(())
    }

    /// The filters on a worker.
    pub(crate) fn worker(&self, worker: &Rc<WorkerCx>, clusters: &Rc<Clusters>) -> HttpFilterChain {
        let slots = Cell::new(0);
        let filters = self.filters.iter().map(|configured| ChainEntry {
            name: configured.name.clone(),
            is_disabled: configured.is_disabled,
            filter: configured.config.clone().worker(&FilterWorkerCx {
                worker,
                clusters,
                name: &configured.name,
                slots: &slots,
            }),
        });
        HttpFilterChain::new(filters.collect())
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

/// Filters in the order of the config.
pub(crate) type Filters = Rc<[Rc<dyn HttpFilter>]>;

/// The filters of a connection manager on one worker.
#[derive(Debug)]
pub(crate) struct HttpFilterChain {
    all: Vec<ChainEntry>,
    /// The filters that run unless the route enables or disables some.
    enabled: Filters,
    /// The filters that do something when a stream has ended.
    at_end: Filters,
}

#[derive(Debug)]
pub(super) struct ChainEntry {
    pub(super) name: Arc<str>,
    pub(super) is_disabled: bool,
    pub(super) filter: Rc<dyn HttpFilter>,
}

impl HttpFilterChain {
    pub(super) fn new(all: Vec<ChainEntry>) -> HttpFilterChain {
        let enabled = all.iter().filter(|entry| !entry.is_disabled);
        HttpFilterChain {
            enabled: enabled.map(|entry| entry.filter.clone()).collect(),
            at_end: (all.iter().map(|entry| entry.filter.clone()))
                .filter(|filter| filter.follows_end())
                .collect(),
            all,
        }
    }

    /// Whether there are no filters but the router.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The filters of a stream, if its route enables or disables some; `None` stands for the usual ones. As in Envoy, this
    /// is decided once, before the first filter runs.
    pub(crate) fn of_route(&self, route: Option<&Route>) -> Option<Filters> {
        let configs = &route?.filter_configs;
        if configs.is_empty() {
            return None;
        }
        let is_disabled = |entry: &ChainEntry| {
            configs
                .is_disabled(&entry.name)
                .unwrap_or(entry.is_disabled)
        };
        if self
            .all
            .iter()
            .all(|entry| is_disabled(entry) == entry.is_disabled)
        {
            return None;
        }
        let enabled = self.all.iter().filter(|entry| !is_disabled(entry));
        Some(enabled.map(|entry| entry.filter.clone()).collect())
    }

    /// Runs the request through the filters.
    ///
    /// # Errors
    /// The reply of a filter that ended the request.
    pub(crate) async fn request(
        &self,
        stream: &mut Stream,
        body: &mut Body,
        cx: &FilterCx<'_>,
    ) -> Result<(), LocalReply> {
        let of_route = stream.filters.clone();
        for filter in of_route.as_ref().unwrap_or(&self.enabled).iter() {
            match filter.on_request(stream, body, cx) {
                FilterStatus::Continue => {}
                FilterStatus::Reply(reply) => return Err(reply),
                FilterStatus::Wait => filter.wait_on_request(stream, body, cx).await?,
            }
        }
        Ok(())
    }

    /// Tells the filters that a stream has ended.
    pub(crate) fn end(&self, stream: &mut Stream) {
        for filter in self.at_end.iter() {
            filter.on_stream_end(stream);
        }
    }

    /// Runs the response, whose head is in the stream, through the filters, the last one first.
    ///
    /// # Errors
    /// The reply of a filter that replaced the response.
    pub(crate) async fn response(
        &self,
        stream: &mut Stream,
        body: &mut Body,
        cx: &FilterCx<'_>,
    ) -> Result<(), LocalReply> {
        let of_route = stream.filters.clone();
        for filter in of_route.as_ref().unwrap_or(&self.enabled).iter().rev() {
            match filter.on_response(stream, body, cx) {
                FilterStatus::Continue => {}
                FilterStatus::Reply(reply) => return Err(reply),
                FilterStatus::Wait => filter.wait_on_response(stream, body, cx).await?,
            }
        }
        Ok(())
    }
}

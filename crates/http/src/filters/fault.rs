//! Injects faults (`envoy.filters.http.fault`): delays requests, answers them with errors, and slows responses down.

mod settings;
mod slow_body;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrider_codec::Body;
use outrider_codec::header;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::unpack;
use outrider_net::clock;
use outrider_stats::Counter;
use outrider_stats::Lazy;
use outrider_stats::Scope;
use outrider_stats::SharedCounter;
use outrider_stats::SharedGauge;
use outrider_stats::WorkerStore;
use prost_types::Any;

use self::settings::FaultSettings;
use self::slow_body::SlowBody;
use super::FilterBuildCx;
use super::FilterCx;
use super::FilterFactory;
use super::FilterStatus;
use super::FilterWait;
use super::FilterWorkerCx;
use super::HttpFilter;
use super::HttpFilterConfig;
use super::RouteConfig;
use super::RouteFactory;
use super::RouteFilterConfig;
use super::StreamSlot;
use crate::ResponseFlag;
use crate::Stream;
use crate::local_reply::LocalReply;
use crate::route::RouteCx;

pub(super) const FACTORY: FilterFactory = FilterFactory {
    message: "envoy.extensions.filters.http.fault.v3.HTTPFault",
    build,
    routes: Some(&RouteFactory {
        message: "envoy.extensions.filters.http.fault.v3.HTTPFault",
        build: build_for_routes,
    }),
};

/// How many downstream clusters get stats of their own on one worker. Clients choose their names.
const CLUSTERS: usize = 1000;

outrider_stats::group! {
    /// `http.<stat_prefix>.fault.*`: shared by all workers, because `max_active_faults` limits all of them together.
    pub(super) struct FaultStats {
        aborts_injected: SharedCounter,
        active_faults: SharedGauge,
        delays_injected: SharedCounter,
        faults_overflow: SharedCounter,
        response_rl_injected: SharedCounter,
    }
}

outrider_stats::group! {
    /// `http.<stat_prefix>.fault.<downstream cluster>.*`
    pub(super) struct ClusterFaultStats {
        aborts_injected: Lazy<Counter>,
        delays_injected: Lazy<Counter>,
    }
}

fn build(
    config: &Any,
    path: &FieldPath,
    cx: &FilterBuildCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors> {
    let scope = cx.scope.clone().name("fault");
    Ok(Arc::new(FaultConfig {
        settings: Arc::new(FaultSettings::build(&unpack(config, path)?, path)?),
        stats: cx.process.store.register(scope.clone()),
        scope,
    }))
}

fn build_for_routes(
    config: &Any,
    path: &FieldPath,
    _: &RouteCx<'_>,
) -> Result<RouteFilterConfig, ConfigErrors> {
    let settings = FaultSettings::build(&unpack(config, path)?, path)?;
    Ok(Arc::new(RouteFault(Arc::new(settings))))
}

#[derive(Debug)]
struct FaultConfig {
    settings: Arc<FaultSettings>,
    stats: Arc<FaultStats>,
    /// `http.<stat_prefix>.fault`
    scope: Scope,
}

/// The faults of a route.
#[derive(Debug)]
struct RouteFault(Arc<FaultSettings>);

impl HttpFilterConfig for FaultConfig {
    fn worker(self: Arc<Self>, cx: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter> {
        Rc::new(FaultFilter {
            config: self,
            routes: cx.route_config(),
            store: cx.worker.store.clone(),
            clusters: RefCell::default(),
            fault: cx.slot(),
        })
    }
}

/// A fault that is being injected. It counts as active until the stream ends.
struct ActiveFault {
    stats: Arc<FaultStats>,
    settings: Arc<FaultSettings>,
    delay: Option<Duration>,
    /// How many KiB of the response may be sent in a second.
    response_rate: Option<u64>,
}

impl Drop for ActiveFault {
    fn drop(&mut self) {
        self.stats.active_faults.dec();
    }
}

/// The filter on one worker.
struct FaultFilter {
    config: Arc<FaultConfig>,
    routes: RouteConfig<RouteFault>,
    store: WorkerStore,
    clusters: RefCell<HashMap<Box<str>, Arc<ClusterFaultStats>>>,
    fault: StreamSlot<ActiveFault>,
}

impl FaultFilter {
    /// Counts one more active fault, unless there are too many.
    fn activate(&self, settings: &Arc<FaultSettings>, stream: &Stream) -> Option<ActiveFault> {
        let stats = &self.config.stats;
        if stats.active_faults.value() >= settings.max_active_faults(stream) {
            stats.faults_overflow.inc();
            return None;
        }
        stats.active_faults.inc();
        Some(ActiveFault {
            stats: stats.clone(),
            settings: settings.clone(),
            delay: None,
            response_rate: None,
        })
    }

    /// Counts for the cluster that the client says it belongs to.
    fn count_for_cluster(
        &self,
        settings: &FaultSettings,
        stream: &Stream,
        count: impl FnOnce(&ClusterFaultStats),
    ) {
        let name = stream
            .request
            .headers
            .get(&header::X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER);
        let name = name.map_or(Cow::Borrowed(""), |name| {
            String::from_utf8_lossy(name.as_bytes())
        });
        if name.is_empty() || settings.disables_cluster_stats {
            return;
        }
        let mut clusters = self.clusters.borrow_mut();
        if let Some(stats) = clusters.get(&*name) {
            return count(stats);
        }
        if clusters.len() < CLUSTERS {
            let stats: Arc<ClusterFaultStats> = self
                .store
                .register(self.config.scope.clone().verbatim(&name));
            count(&stats);
            clusters.insert(name.into(), stats);
        }
    }

    /// The reply to a request that is aborted, if it is.
    fn abort(&self, settings: &Arc<FaultSettings>, stream: &mut Stream) -> Option<LocalReply> {
        let reply = settings.abort(stream)?;
        if self.fault.get(stream).is_none() {
            let active = self.activate(settings, stream)?;
            self.fault.set(stream, Rc::new(active));
        }
        self.config.stats.aborts_injected.inc();
        self.count_for_cluster(settings, stream, |stats| stats.aborts_injected.get().inc());
        stream.flags.set(ResponseFlag::FaultInjected);
        Some(reply)
    }
}

impl HttpFilter for FaultFilter {
    fn on_request(&self, stream: &mut Stream, _: &mut Body, _: &FilterCx<'_>) -> FilterStatus {
        let of_route = self.routes.most_specific(stream.route.as_deref());
        let settings = of_route.map_or(&self.config.settings, |route| &route.0);
        if !settings.applies(stream) {
            return FilterStatus::Continue;
        }
        let settings = settings.clone();
        let mut active = None;
        if let Some(rate) = settings.response_rate(stream) {
            active = self.activate(&settings, stream);
            if let Some(active) = &mut active {
                self.config.stats.response_rl_injected.inc();
                active.response_rate = Some(rate);
            }
        }
        if let Some(delay) = settings.delay(stream) {
            active = active.or_else(|| self.activate(&settings, stream));
            if let Some(mut active) = active {
                active.delay = Some(delay);
                self.config.stats.delays_injected.inc();
                self.count_for_cluster(&settings, stream, |stats| {
                    stats.delays_injected.get().inc();
                });
                stream.flags.set(ResponseFlag::DelayInjected);
                self.fault.set(stream, Rc::new(active));
                return FilterStatus::Wait;
            }
        }
        if let Some(active) = active {
            self.fault.set(stream, Rc::new(active));
        }
        match self.abort(&settings, stream) {
            Some(reply) => FilterStatus::Reply(reply),
            None => FilterStatus::Continue,
        }
    }

    fn wait_on_request<'a>(
        &'a self,
        stream: &'a mut Stream,
        body: &'a mut Body,
        cx: &'a FilterCx<'a>,
    ) -> FilterWait<'a> {
        Box::pin(async move {
            let Some(active) = self.fault.share(stream) else {
                return Ok(());
            };
            let mut timer = cx.worker.timers.timer();
            timer.set(active.delay.map(|delay| clock::now() + delay));
            cx.hold_body(body, timer.elapsed()).await;
            match self.abort(&active.settings, stream) {
                Some(reply) => Err(reply),
                None => Ok(()),
            }
        })
    }

    fn on_response(&self, stream: &mut Stream, body: &mut Body, cx: &FilterCx<'_>) -> FilterStatus {
        let fault = self.fault.get(stream);
        if let Some(rate) = fault.and_then(|fault| fault.response_rate)
            && !body.is_end_stream()
        {
            let timer = cx.worker.timers.timer();
            *body = Body::wrap(SlowBody::new(std::mem::take(body), rate, timer));
        }
        FilterStatus::Continue
    }
}

impl fmt::Debug for FaultFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultFilter")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

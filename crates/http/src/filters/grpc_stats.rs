//! Counts gRPC calls by cluster and method (`envoy.filters.http.grpc_stats`): statuses, messages and the time upstream.
//! Calls in the Connect protocol are counted, too.

pub(super) mod counters;
mod messages;

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use outrider_codec::Body;
use outrider_codec::header;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::http::grpc_stats::v3::FilterConfig as Message;
use outrider_config::api::envoy::extensions::filters::http::grpc_stats::v3::filter_config::PerMethodStatSpecifier;
use outrider_config::unpack;
use prost_types::Any;

use self::counters::CallCounters;
use self::counters::MethodCounters;
use self::counters::Methods;
use self::messages::CountedRequest;
use self::messages::CountedResponse;
use self::messages::Protocol;
use super::FilterBuildCx;
use super::FilterCx;
use super::FilterFactory;
use super::FilterStatus;
use super::FilterWorkerCx;
use super::HttpFilter;
use super::HttpFilterConfig;
use super::StreamSlot;

use crate::Stream;

/// The filter's configuration.
#[derive(Debug)]
struct GrpcStatsConfig {
    methods: Methods,
    /// `enable_upstream_stats`
    times_upstream: bool,
}

pub(super) const FACTORY: FilterFactory = FilterFactory {
    message: "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
    build,
    routes: None,
};

fn build(
    config: &Any,
    path: &FieldPath,
    _cx: &FilterBuildCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors> {
    let message: Message = unpack(config, path)?;
    let methods = match message.per_method_stat_specifier {
        Some(PerMethodStatSpecifier::StatsForAllMethods(true)) => Methods::All {
            replace_dots: message.replace_dots_in_grpc_service_name,
        },
        Some(PerMethodStatSpecifier::IndividualMethodStatsAllowlist(list)) => {
            let services = list.services.into_iter();
            let named = services.flat_map(|service| {
                let methods = service.method_names.into_iter();
                methods.map(move |method| (service.name.as_str().into(), method.into()))
            });
            Methods::Named(named.collect())
        }
        _ => Methods::Named(HashSet::new()),
    };
    Ok(Arc::new(GrpcStatsConfig {
        methods,
        times_upstream: message.enable_upstream_stats,
    }))
}

impl HttpFilterConfig for GrpcStatsConfig {
    fn worker(self: Arc<Self>, cx: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter> {
        Rc::new(GrpcStatsFilter {
            times_upstream: self.times_upstream,
            counters: MethodCounters::new(self.methods.clone(), "grpc", cx.worker.store.clone()),
            call: cx.slot(),
        })
    }
}

/// The filter on one worker.
#[derive(Debug)]
struct GrpcStatsFilter {
    /// `enable_upstream_stats`
    times_upstream: bool,
    counters: MethodCounters,
    /// The counters of a stream's call, if it is counted.
    call: StreamSlot<CallCounters>,
}

impl HttpFilter for GrpcStatsFilter {
    fn on_request(&self, stream: &mut Stream, body: &mut Body, _cx: &FilterCx<'_>) -> FilterStatus {
        if let Some(upstream) = &stream.upstream
            && let Some(protocol) = Protocol::of(&stream.request.headers)
            && let Some(target) = &stream.request.path
            && let Some(call) = self.counters.find(&upstream.cluster, target.as_str())
        {
            let call = match protocol {
                Protocol::GRPC => call,
                protocol => Rc::new(CallCounters {
                    protocol,
                    ..(*call).clone()
                }),
            };
            self.call.set(stream, call.clone());
            if !body.is_end_stream() {
                *body = Body::wrap(CountedRequest::new(std::mem::take(body), call));
            }
        }
        FilterStatus::Continue
    }

    fn on_response(
        &self,
        stream: &mut Stream,
        body: &mut Body,
        _cx: &FilterCx<'_>,
    ) -> FilterStatus {
        let (Some(call), Some(response)) = (self.call.share(stream), &stream.response) else {
            return FilterStatus::Continue;
        };
        let upstream = stream.upstream.as_ref();
        let meter = upstream
            .and_then(|upstream| upstream.request.as_ref()?.meter())
            .filter(|_| self.times_upstream);
        let (status, headers) = (response.status, &response.headers);
        if call.protocol.versioned {
            call.stats.count_outcome(status == StatusCode::OK);
        } else if !messages::is_connect_response(status, headers) {
            call.stats.count(headers.get(&header::GRPC_STATUS));
        }
        if body.is_end_stream() {
            if let Some(meter) = &meter {
                call.stats.record_time(meter);
            }
            return FilterStatus::Continue;
        }
        let is_grpc = messages::is_grpc_response(status, headers);
        let counted = CountedResponse::new(std::mem::take(body), is_grpc, meter, call);
        *body = Body::wrap(counted);
        FilterStatus::Continue
    }
}

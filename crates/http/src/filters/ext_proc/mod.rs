//! Lets a service see and change requests and responses (`envoy.filters.http.ext_proc`).

mod apply;
mod attributes;
mod body;
mod config;
mod conversation;
mod logging;
mod message;
mod process;
mod pump;
mod stats;

use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use outrider_client::InternalClient;
use outrider_codec::Body;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::http::ext_proc::v3 as api;
use outrider_config::api::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use outrider_config::unpack;
use outrider_stats::Scope;
use outrider_upstream::Clusters;
use prost_types::Any;
use tokio::task::AbortHandle;
use tokio::task::JoinSet;

use crate::Stream;
use crate::filters::FilterBuildCx;
use crate::filters::FilterCx;
use crate::filters::FilterFactory;
use crate::filters::FilterStatus;
use crate::filters::FilterWait;
use crate::filters::FilterWorkerCx;
use crate::filters::HttpFilter;
use crate::filters::HttpFilterConfig;
use crate::filters::RouteConfig;
use crate::filters::StreamSlot;
use crate::filters::route_config::RouteFactory;

use self::config::ExtProcConfig;
use self::config::RouteSettings;
use self::config::StreamSettings;
use self::conversation::Awaits;
use self::conversation::Conversation;
use self::conversation::LateEffects;
use self::conversation::Side;
use self::logging::LoggingInfo;
use self::stats::ExtProcStats;

pub(super) const FACTORY: FilterFactory = FilterFactory {
    message: "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
    build,
    routes: Some(&RouteFactory {
        message: "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute",
        build: |config, path, _| {
            let message: api::ExtProcPerRoute = unpack(config, path)?;
            Ok(Arc::new(RouteSettings::build(&message, path)?))
        },
    }),
};

fn build(
    config: &Any,
    path: &FieldPath,
    cx: &FilterBuildCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors> {
    let message: api::ExternalProcessor = unpack(config, path)?;
    let config = cx.with_services(|services| ExtProcConfig::build(&message, path, services))?;
    Ok(Arc::new(ExtProc {
        name: cx.name.to_owned(),
        config: Arc::new(config),
        scope: cx.scope.clone(),
        local_address: outrider_net::local_address(cx.process.prefers_ipv6),
    }))
}

/// The filter, shared by all workers.
#[derive(Debug)]
struct ExtProc {
    name: String,
    config: Arc<ExtProcConfig>,
    /// `http.<stat_prefix>`
    scope: Scope,
    local_address: IpAddr,
}

impl HttpFilterConfig for ExtProc {
    fn worker(self: Arc<Self>, cx: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter> {
        let scope = self.scope.clone().name("ext_proc");
        let scope = match self.config.stat_prefix.as_str() {
            "" => scope,
            prefix => scope.name(prefix),
        };
        let shared = Shared {
            config: self.config.clone(),
            client: Rc::new(InternalClient::new(cx.clusters, self.local_address)),
            clusters: cx.clusters.clone(),
            stats: cx.worker.store.register(scope),
            calls: RefCell::default(),
        };
        Rc::new(ExtProcFilter {
            shared: Rc::new(shared),
            route: cx.route_config(),
            conversation: cx.slot(),
            filter: self,
        })
    }
}

/// What all streams of a worker share.
struct Shared {
    config: Arc<ExtProcConfig>,
    client: Rc<InternalClient>,
    clusters: Rc<Clusters>,
    stats: Arc<ExtProcStats>,
    /// The calls under way.
    calls: RefCell<JoinSet<()>>,
}

impl Shared {
    fn spawn(&self, call: impl Future<Output = ()> + 'static) -> AbortHandle {
        let mut calls = self.calls.borrow_mut();
        while calls.try_join_next().is_some() {}
        calls.spawn_local(call)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The filter on one worker.
#[derive(Debug)]
struct ExtProcFilter {
    filter: Arc<ExtProc>,
    shared: Rc<Shared>,
    route: RouteConfig<RouteSettings>,
    conversation: StreamSlot<Conversation>,
}

impl HttpFilter for ExtProcFilter {
    fn on_request(&self, stream: &mut Stream, body: &mut Body, cx: &FilterCx<'_>) -> FilterStatus {
        match self.begin(stream, cx) {
            Some(conversation) => self.see((&conversation, Side::Request), stream, body, cx),
            None => FilterStatus::Continue,
        }
    }

    fn wait_on_request<'a>(
        &'a self,
        stream: &'a mut Stream,
        body: &'a mut Body,
        cx: &'a FilterCx<'a>,
    ) -> FilterWait<'a> {
        Box::pin(self.process(Side::Request, stream, body, cx))
    }

    fn on_response(&self, stream: &mut Stream, body: &mut Body, cx: &FilterCx<'_>) -> FilterStatus {
        let known = self.conversation.share(stream);
        let Some(conversation) = known.or_else(|| self.begin(stream, cx)) else {
            return FilterStatus::Continue;
        };
        stream.dynamic_metadata.merge_late();
        if conversation.is_over() {
            return FilterStatus::Continue;
        }
        if conversation.ignores_response() {
            conversation.end();
            return FilterStatus::Continue;
        }
        self.see((&conversation, Side::Response), stream, body, cx)
    }

    fn wait_on_response<'a>(
        &'a self,
        stream: &'a mut Stream,
        body: &'a mut Body,
        cx: &'a FilterCx<'a>,
    ) -> FilterWait<'a> {
        Box::pin(self.process(Side::Response, stream, body, cx))
    }
}

impl ExtProcFilter {
    /// Begins the conversation about a stream, unless its route disables the filter.
    fn begin(&self, stream: &mut Stream, cx: &FilterCx<'_>) -> Option<Rc<Conversation>> {
        let levels = self.route.all(stream.route.as_deref());
        let settings = StreamSettings::merge(&self.shared.config, levels)?;
        let logging = Rc::new(LoggingInfo::default());
        stream.filter_state.set(&self.filter.name, logging.clone());
        let conversation = Rc::new(Conversation::new(
            &self.shared,
            settings,
            cx.header_limits,
            LateEffects {
                reply: cx.late_reply(),
                metadata: stream.dynamic_metadata.late(),
                logging,
            },
        ));
        self.conversation.set(stream, conversation.clone());
        Some(conversation)
    }

    /// Handles the head of one direction: decides whether it has to wait for the processor.
    fn see(
        &self,
        (conversation, side): (&Rc<Conversation>, Side),
        stream: &mut Stream,
        body: &mut Body,
        cx: &FilterCx<'_>,
    ) -> FilterStatus {
        let config = &self.shared.config;
        let metadata = message::metadata(stream, conversation.forwarded_namespaces());
        let attributes = match side {
            Side::Request => &config.request_attributes,
            Side::Response => &config.response_attributes,
        };
        let attributes =
            (!attributes.is_empty()).then(|| attributes::evaluate(attributes, stream, cx));
        conversation.begin(side, metadata, attributes);
        let mode = conversation.mode(side);
        let has_body = !body.is_end_stream();
        let holds_body = matches!(
            mode.body,
            BodySendMode::Buffered | BodySendMode::BufferedPartial
        );
        if !config.is_observing && (mode.headers || has_body && holds_body) {
            return FilterStatus::Wait;
        }
        if mode.headers
            && let Some(message) = process::headers(config, side, stream, !has_body)
        {
            conversation.send(side, message, Awaits::Headers);
        }
        if has_body && (mode.body == BodySendMode::Streamed || mode.trailers) {
            let rest = std::mem::take(body);
            *body = Body::wrap(process::passed(conversation, side, rest, stream, cx));
        }
        if !config.is_observing && mode.loses_length() && !config.keeps_content_length {
            process::remove_length(side, stream);
        }
        FilterStatus::Continue
    }
}

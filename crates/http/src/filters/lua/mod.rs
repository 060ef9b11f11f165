//! Runs scripts on requests and responses (`envoy.filters.http.lua`), in LuaJIT.
//!
//! Each worker has one Lua state ([`machine::Machine`]) for each source code, and each script runs as a coroutine of it.
//! While a script runs, the stream is moved into its [`run::Run`], where the script's objects find it. A script that has
//! to wait yields an [`run::Operation`]; [`driver`] carries it out and resumes the script with the result.

mod body;
mod buffer;
mod call;
mod config;
mod crypto;
mod driver;
mod handle;
mod headers;
mod info;
mod machine;
mod run;
mod tls;
mod values;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Weak;

use outrider_client::InternalClient;
use outrider_codec::Body;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::http::lua::v3 as api;
use outrider_config::unpack;
use outrider_stats::Counter;
use outrider_stats::Scope;
use prost_types::Any;

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

use self::config::Code;
use self::config::LuaConfig;
use self::config::RouteCode;
use self::config::RouteSettings;
use self::driver::Progress;
use self::driver::Script;
use self::machine::Machine;
use self::run::Direction;
use self::run::Environment;
use self::run::Run;

pub(super) const FACTORY: FilterFactory = FilterFactory {
    message: "envoy.extensions.filters.http.lua.v3.Lua",
    build,
    routes: Some(&RouteFactory {
        message: "envoy.extensions.filters.http.lua.v3.LuaPerRoute",
        build: |config, path, _| {
            let message: api::LuaPerRoute = unpack(config, path)?;
            Ok(Arc::new(RouteSettings::build(&message, path)?))
        },
    }),
};

outrider_stats::group! {
    /// `http.<stat_prefix>.lua.*`
    pub(super) struct LuaStats {
        errors: Counter,
        executions: Counter,
    }
}

fn build(
    config: &Any,
    path: &FieldPath,
    cx: &FilterBuildCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors> {
    let message: api::Lua = unpack(config, path)?;
    let config = LuaConfig::build(&message, path)?;
    let scope = cx.scope.clone().name("lua");
    Ok(Arc::new(LuaFilterConfig {
        scope: match message.stat_prefix.as_str() {
            "" => scope,
            prefix => scope.name(prefix),
        },
        config: Arc::new(config),
        name: cx.name.into(),
        local_address: outrider_net::local_address(cx.process.prefers_ipv6),
    }))
}

/// The filter, shared by all workers.
#[derive(Debug)]
struct LuaFilterConfig {
    config: Arc<LuaConfig>,
    /// `http.<stat_prefix>.lua`
    scope: Scope,
    name: Arc<str>,
    local_address: IpAddr,
}

impl HttpFilterConfig for LuaFilterConfig {
    fn worker(self: Arc<Self>, cx: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter> {
        let load = |code: &Arc<Code>| Machine::load_again(code);
        let sources = self.config.sources.iter();
        Rc::new(LuaFilter {
            default: self.config.default.as_ref().and_then(load),
            sources: sources
                .filter_map(|(name, code)| Some((name.clone(), load(code)?)))
                .collect(),
            of_routes: RefCell::default(),
            routes: cx.route_config(),
            waiting: cx.slot(),
            environment: Rc::new(Environment {
                client: Rc::new(InternalClient::new(cx.clusters, self.local_address)),
                clusters: cx.clusters.clone(),
                stats: cx.worker.store.register(self.scope.clone()),
                config: self.config.clone(),
                name: self.name.clone(),
                background: RefCell::default(),
            }),
        })
    }
}

/// A script that has begun and waits, between `on_request` or `on_response` and the wait that follows.
type Waiting = RefCell<Option<(Script, run::Operation)>>;

/// The machine of a route's own code, as long as the route exists.
type RouteMachine = (Weak<Code>, Option<Rc<Machine>>);

/// The filter on one worker.
struct LuaFilter {
    default: Option<Rc<Machine>>,
    /// `source_codes`
    sources: HashMap<String, Rc<Machine>>,
    /// The codes of routes, by the address of their configuration.
    of_routes: RefCell<HashMap<usize, RouteMachine>>,
    routes: RouteConfig<RouteSettings>,
    waiting: StreamSlot<Waiting>,
    environment: Rc<Environment>,
}

impl LuaFilter {
    /// The machine that runs the scripts for this stream.
    fn machine(&self, stream: &Stream) -> Option<Rc<Machine>> {
        let route = self.routes.most_specific(stream.route.as_deref());
        match route.map(|settings| &settings.code) {
            Some(RouteCode::Disabled) => None,
            Some(RouteCode::Named(name)) => self.sources.get(name).cloned(),
            Some(RouteCode::Own(code)) => self.of_route(code),
            Some(RouteCode::Default) | None => self.default.clone(),
        }
    }

    fn of_route(&self, code: &Arc<Code>) -> Option<Rc<Machine>> {
        let key = Arc::as_ptr(code).addr();
        let mut known = self.of_routes.borrow_mut();
        if let Some((owner, machine)) = known.get(&key)
            && owner.strong_count() > 0
        {
            return machine.clone();
        }
        // Routes were replaced: the machines of old ones are not needed any more.
        known.retain(|_, (owner, _)| owner.strong_count() > 0);
        let machine = Machine::load_again(code);
        known.insert(key, (Arc::downgrade(code), machine.clone()));
        machine
    }

    fn start(
        &self,
        direction: Direction,
        stream: &mut Stream,
        body: &mut Body,
        cx: &FilterCx<'_>,
    ) -> FilterStatus {
        let Some(machine) = self.machine(stream) else {
            return FilterStatus::Continue;
        };
        let Some(function) = machine.function(direction) else {
            return FilterStatus::Continue;
        };
        let context = self.routes.most_specific(stream.route.as_deref());
        let context = context.and_then(|settings| settings.context.clone());
        let run = Run::new(direction, self.environment.clone(), context, stream);
        run.end_stream.set(body.is_end_stream());
        let Some(mut script) = Script::new(machine, function, run) else {
            return FilterStatus::Continue;
        };
        self.environment.stats.executions.inc();
        let started = script.start(stream);
        script.reroute(stream, cx);
        match started {
            Progress::Ended => {
                driver::put_back(&script.run, body);
                FilterStatus::Continue
            }
            Progress::Replied(reply) => FilterStatus::Reply(*reply),
            Progress::Waits(operation) => {
                let waiting = RefCell::new(Some((script, operation)));
                self.waiting.set(stream, Rc::new(waiting));
                FilterStatus::Wait
            }
        }
    }

    fn wait<'a>(
        &'a self,
        stream: &'a mut Stream,
        body: &'a mut Body,
        cx: &'a FilterCx<'a>,
    ) -> FilterWait<'a> {
        Box::pin(async move {
            let waiting = self.waiting.share(stream);
            let waiting = waiting.and_then(|waiting| waiting.take());
            match waiting {
                Some((script, operation)) => {
                    driver::drive(script, operation, stream, body, cx).await
                }
                None => Ok(()),
            }
        })
    }
}

impl HttpFilter for LuaFilter {
    fn on_request(&self, stream: &mut Stream, body: &mut Body, cx: &FilterCx<'_>) -> FilterStatus {
        self.start(Direction::Request, stream, body, cx)
    }

    fn wait_on_request<'a>(
        &'a self,
        stream: &'a mut Stream,
        body: &'a mut Body,
        cx: &'a FilterCx<'a>,
    ) -> FilterWait<'a> {
        self.wait(stream, body, cx)
    }

    fn on_response(&self, stream: &mut Stream, body: &mut Body, cx: &FilterCx<'_>) -> FilterStatus {
        self.start(Direction::Response, stream, body, cx)
    }

    fn wait_on_response<'a>(
        &'a self,
        stream: &'a mut Stream,
        body: &'a mut Body,
        cx: &'a FilterCx<'a>,
    ) -> FilterWait<'a> {
        self.wait(stream, body, cx)
    }
}

impl fmt::Debug for LuaFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LuaFilter")
            .field("config", &self.environment.config)
            .finish_non_exhaustive()
    }
}

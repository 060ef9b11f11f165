//! From the command line to serving, and back down.
//!
//! Everything is built before the first socket is bound, and all sockets are bound before the first connection is
//! accepted: whatever can go wrong at start-up ends the process with exit code 1 while nothing depends on it yet.

use std::cell::Cell;
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use outrider_admin::Admin;
use outrider_admin::AdminConfig;
use outrider_admin::ListenerView;
use outrider_admin::ProcessStats;
use outrider_config::Diagnostics;
use outrider_config::FieldPath;
use outrider_config::Loaded;
use outrider_config::Sources;
use outrider_config::api::envoy::config::bootstrap::v3::bootstrap::StatsFlush;
use outrider_config::duration;
use outrider_http::access_log::AccessLog;
use outrider_http::access_log::FlushOptions;
use outrider_http::access_log::LogFiles;
use outrider_http::access_log::WorkerLog;
use outrider_net::BoundListener;
use outrider_net::Timers;
use outrider_stats::Store;
use tokio::runtime;
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::admin_log;
use crate::allocator;
use crate::application_log;
use crate::build::ListenerPlan;
use crate::build::Plan;
use crate::cli::Mode;
use crate::cli::Options;
use crate::control::Control;
use crate::control::Handle;
use crate::control::Phase;
use crate::dump;
use crate::logging::Logging;
use crate::runtime::Runtime;
use crate::signals::Signals;
use crate::worker::Order;
use crate::worker::Worker;

/// `Bootstrap.stats_flush_interval` when it is not set.
const STATS_FLUSH_INTERVAL: Duration = Duration::from_secs(5);

/// Why the process cannot start, or go on.
#[derive(Debug)]
pub(crate) enum Fatal {
    /// The config is wrong: what, and where.
    Config(Diagnostics),
    /// The system does not give what the config asks for.
    System(String),
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fatal::Config(diagnostics) => diagnostics.fmt(f),
            Fatal::System(message) => f.write_str(message),
        }
    }
}

/// Everything built from the config.
struct Built {
    plan: Plan,
    admin: AdminConfig,
    runtime: Rc<Runtime>,
    store: Arc<Store>,
    log_files: Rc<LogFiles>,
    admin_logs: Vec<AccessLog>,
    loaded: Loaded,
    flush_interval: Duration,
}

/// Builds what `--mode serve` builds and lets go of it again.
pub(crate) fn validate(options: &Options, logging: &Logging) -> Result<(), Fatal> {
    build(options, logging).map(drop)
}

/// Serves until a signal or the admin server ends it.
pub(crate) fn serve(options: Options, logging: Arc<Logging>) -> Result<(), Fatal> {
    let started = Instant::now();
    let (epoch, base_id) = (options.restart_epoch, options.base_id);
    log::info!(target: "main", "initializing epoch {epoch} (base id={base_id}, hot restart version=disabled)");
    write_file(&options.base_id_path, &base_id.to_string())?;
    let built = build(&options, &logging)?;
    let bound = bind(&built.plan, options.concurrency)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("cannot start"))?;
    let process = Process {
        options,
        logging,
        started,
    };
    let result = LocalSet::new().block_on(&runtime, process.run(built, bound));
    log::info!(target: "main", "exiting");
    result
}

/// Reads the config and builds all of it.
fn build(options: &Options, logging: &Logging) -> Result<Built, Fatal> {
    let sources = Sources {
        config_path: (!options.config_path.is_empty()).then(|| options.config_path.clone().into()),
        config_yaml: (!options.config_yaml.is_empty()).then(|| options.config_yaml.clone()),
        allow_unknown_static_fields: options.allow_unknown_static_fields,
    };
    let loaded = load(&sources)?;
    if !options.skip_deprecated_logs {
        for warning in &loaded.warnings {
            log::warn!(target: "misc", "{warning}");
        }
    }
    let bootstrap = &loaded.bootstrap;
    let diagnose = |errors| Fatal::Config(loaded.positions.diagnose(errors));
    application_log::apply(bootstrap, options, logging).map_err(diagnose)?;
    let root = FieldPath::root();
    let layers = bootstrap.layered_runtime.clone().unwrap_or_default();
    let runtime = Runtime::build(&layers, &root.field("layered_runtime")).map_err(diagnose)?;
    let stats_config = bootstrap.stats_config.clone().unwrap_or_default();
    let stats = outrider_stats::Options::build(
        &stats_config,
        &options.stats_tags,
        &root.field("stats_config"),
    );
    let store = Store::with_options(stats.map_err(diagnose)?);
    let log_files = LogFiles::new(
        FlushOptions {
            interval: options.file_flush_interval,
            min_size: options.file_flush_min_size_kb as usize * 1024,
        },
        &store,
    );
    let admin = bootstrap.admin.clone().unwrap_or_default();
    let admin_logs =
        admin_log::build(&admin, &root.field("admin"), &log_files).map_err(diagnose)?;
    let admin = AdminConfig::build(&admin, &root.field("admin")).map_err(diagnose)?;
    let interval = bootstrap.stats_flush_interval.as_ref();
    let interval = duration::optional(interval, &root.field("stats_flush_interval"));
    let flush_interval = interval
        .map_err(|error| diagnose(error.into()))?
        .unwrap_or(STATS_FLUSH_INTERVAL);
    let plan = Plan::build(bootstrap, options, &runtime, &store, &log_files).map_err(diagnose)?;
    Ok(Built {
        admin: admin.flush_on_request(matches!(
            bootstrap.stats_flush,
            Some(StatsFlush::StatsFlushOnAdmin(true))
        )),
        plan,
        runtime: Rc::new(runtime),
        store,
        log_files: Rc::new(log_files),
        admin_logs,
        flush_interval,
        loaded,
    })
}

/// Reads the config, on a thread of its own: what is read is dropped once everything is built, and its pages, which
/// then hold nothing else, go back to the system. What reading took besides goes back at once, so that what is built
/// does not come to lie between it.
fn load(sources: &Sources) -> Result<Loaded, Fatal> {
    let loaded = thread::scope(|scope| scope.spawn(|| outrider_config::load(sources)).join());
    allocator::give_back();
    loaded
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        .map_err(Fatal::Config)
}

/// Binds every listener, so that an address in use ends start-up before anything is accepted.
fn bind(plan: &Plan, workers: u32) -> Result<Vec<(Arc<ListenerPlan>, BoundListener)>, Fatal> {
    let mut bound = Vec::new();
    for listener in &plan.listeners {
        let sockets = listener
            .config
            .bind(workers)
            .map_err(|error| Fatal::System(error.to_string()))?;
        bound.push((listener.clone(), sockets));
    }
    Ok(bound)
}

/// The running process.
struct Process {
    options: Options,
    logging: Arc<Logging>,
    started: Instant,
}

impl Process {
    async fn run(
        self,
        built: Built,
        bound: Vec<(Arc<ListenerPlan>, BoundListener)>,
    ) -> Result<(), Fatal> {
        let signals = Signals::new().map_err(system("cannot listen to signals"))?;
        let admin_listener = self.bind_admin(&built.admin).await?;
        let control = self.control(&built, &bound);
        let (store, flush_interval) = (built.store, built.flush_interval);
        let (admin, clusters) = (built.admin, built.plan.clusters);
        // What was read is many times as large as what was built of it. Its memory is given back once workers run.
        drop(built.loaded);
        let timers = Timers::new();
        tokio::task::spawn_local(timers.clone().run());
        let admin_logs = built.admin_logs.iter().map(|log| log.worker(&timers));
        let admin_logs: Rc<[WorkerLog]> = admin_logs.collect();
        if let Some(listener) = admin_listener {
            let logs = admin_logs.clone();
            let limits = built
                .plan
                .connections
                .admin_limits(admin.ignores_global_limit());
            let admin = Admin::new(admin, store.clone(), Rc::new(Handle(control.clone())))
                .with_limits(limits)
                .with_access_log(Box::new(move |request| admin_log::write(&logs, request)));
            tokio::task::spawn_local(outrider_admin::serve(listener, Rc::new(admin)));
        }
        let running = clusters.clone();
        tokio::task::spawn_local(async move { running.run().await });
        tokio::task::spawn_local(flush(control.clone(), store.clone(), flush_interval));
        if control.options.mode == Mode::InitOnly {
            clusters.initialized().await;
            return Ok(());
        }
        let ended = async {
            tokio::select! {
                () = signals.run(control.clone()) => {}
                () = control.quit.notified() => {}
            }
        };
        let started = async {
            clusters.initialized().await;
            log::info!(target: "upstream", "cm init: all clusters initialized");
            log::info!(target: "main", "all clusters initialized. initializing init manager");
            start_workers(&control, &store, bound)
        };
        tokio::pin!(ended);
        let workers = tokio::select! {
            () = &mut ended => return Ok(()),
            workers = started => workers?,
        };
        allocator::give_back();
        log::info!(target: "main", "starting main dispatch loop");
        ended.await;
        log::info!(target: "main", "shutting down server instance");
        control.order(Order::Quit);
        for worker in workers {
            // A worker that panicked has ended all the same.
            let _ = worker.join();
        }
        admin_logs.iter().for_each(WorkerLog::flush);
        control.log_files.finish();
        log::info!(target: "main", "main dispatch loop exited");
        Ok(())
    }

    /// Binds the admin server and writes where it is.
    async fn bind_admin(
        &self,
        config: &AdminConfig,
    ) -> Result<Option<outrider_admin::Listener>, Fatal> {
        let Some(address) = config.address() else {
            log::warn!(target: "main", "no admin address is configured: there is no admin server");
            return Ok(None);
        };
        let listener = outrider_admin::Listener::bind(address)
            .await
            .map_err(|error| Fatal::System(format!("admin: cannot bind '{address}': {error}")))?;
        log::info!(target: "admin", "admin address: {}", listener.address());
        write_file(
            &self.options.admin_address_path,
            &listener.address().to_string(),
        )?;
        Ok(Some(listener))
    }

    fn control(self, built: &Built, bound: &[(Arc<ListenerPlan>, BoundListener)]) -> Rc<Control> {
        let stats = ProcessStats::new(&built.store, self.options.concurrency);
        stats
            .listener_manager
            .listener_added
            .add(bound.len() as u64);
        if let Some(version) = built.loaded.bootstrap.stats_server_version_override {
            stats.server.version.set(version);
        }
        // Only what is read once there is a runtime is counted there.
        let warnings = built.loaded.warnings.iter();
        // Envoy reads routes twice: with the connection manager and by themselves.
        let times = |path: &FieldPath| match path.is_in_extension() {
            true => 1 + u64::from(path.passes("route_config")),
            // It makes an access log of this with an option that is deprecated too.
            false => u64::from(path.passes("access_log_path")),
        };
        let deprecated = warnings.map(|warning| times(&warning.path)).sum();
        stats.runtime.deprecated_feature_use.add(deprecated);
        if deprecated > 0 {
            let seen = &stats.runtime.deprecated_feature_seen_since_process_start;
            seen.set(deprecated);
        }
        let unknown = built.loaded.sources_with_unknown_fields;
        stats.server.static_unknown_fields.add(unknown);
        let listeners = bound.iter().map(|(plan, sockets)| ListenerView {
            name: plan.config.name.to_string(),
            addresses: sockets.addresses(),
        });
        let control = Control {
            listeners: listeners.collect(),
            plans: built.plan.listeners.clone(),
            connections: built.plan.connections.clone(),
            node: dump::node(built.loaded.bootstrap.node.as_ref(), &self.options),
            config: dump::Source::new(built.loaded.wire.clone(), SystemTime::now()),
            clusters: built.plan.clusters.clone(),
            runtime: built.runtime.clone(),
            log_files: built.log_files.clone(),
            phase: Cell::new(Phase::Clusters),
            health_checks_fail: Cell::new(false),
            draining: Cell::new(false),
            workers: RefCell::new(Vec::new()),
            quit: Notify::new(),
            options: self.options,
            logging: self.logging,
            started: self.started,
            stats,
        };
        // Envoy loads its runtime twice: before and after the clusters are there.
        control.count_runtime();
        control.count_runtime();
        control.refresh_stats();
        Rc::new(control)
    }
}

/// Lets the kernel take connections and starts the threads that serve them.
fn start_workers(
    control: &Control,
    store: &Arc<Store>,
    bound: Vec<(Arc<ListenerPlan>, BoundListener)>,
) -> Result<Vec<JoinHandle<()>>, Fatal> {
    log::info!(target: "config", "all dependencies initialized. starting workers");
    control.phase.set(Phase::Listeners);
    let stats = &control.stats.listener_manager;
    let count = control.options.concurrency;
    let mut sockets: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
    stats.total_listeners_active.set(bound.len() as u64);
    stats.total_listeners_warming.mark_used();
    for (plan, bound) in bound {
        bound
            .listen()
            .map_err(|error| Fatal::System(error.to_string()))?;
        for (worker, own) in sockets.iter_mut().zip(bound.into_workers()) {
            worker.push((plan.clone(), own));
            stats.listener_create_success.inc();
        }
    }
    let mut threads = Vec::new();
    for (index, listeners) in (0..count).zip(sockets) {
        let (orders, inbox) = mpsc::unbounded_channel();
        let worker = Worker {
            index,
            store: store.clone(),
            clusters: control.clusters.clone(),
            listeners,
            orders: inbox,
        };
        threads.push(worker.start().map_err(system("cannot start a worker"))?);
        control.workers.borrow_mut().push(orders);
    }
    stats.workers_started.set(1);
    control.phase.set(Phase::Running);
    control.refresh_stats();
    let took = u64::try_from(control.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    control.stats.server.initialization_time_ms.record(took);
    Ok(threads)
}

/// Ends an interval of the histograms, again and again.
async fn flush(control: Rc<Control>, store: Arc<Store>, interval: Duration) {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
    loop {
        ticks.tick().await;
        control.refresh_stats();
        store.flush();
    }
}

/// Writes a file that an option asks for; no path, no file.
fn write_file(path: &str, content: &str) -> Result<(), Fatal> {
    if path.is_empty() {
        return Ok(());
    }
    std::fs::write(path, content)
        .map_err(|error| Fatal::System(format!("cannot write '{path}': {error}")))
}

fn system(what: &'static str) -> impl Fn(io::Error) -> Fatal {
    move |error| Fatal::System(format!("{what}: {error}"))
}

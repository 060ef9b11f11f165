//! Start-up, serving and shutdown of the process.
//!
//! Everything is built before the first socket is bound, and all sockets are bound before the first connection is
//! accepted. So an error at start-up ends the process with exit code 1 before any client depends on it.

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
use outrider_admin::ProcessStats;
use outrider_config::BootstrapSources;
use outrider_config::Diagnostics;
use outrider_config::DisabledExtensions;
use outrider_config::FieldPath;
use outrider_config::Loaded;
use outrider_config::api::envoy::config::bootstrap::v3::bootstrap::StatsFlush;
use outrider_config::duration;
use outrider_http::access_log::AccessLog;
use outrider_http::access_log::FlushOptions;
use outrider_http::access_log::LogFiles;
use outrider_http::access_log::WorkerLog;
use outrider_net::BindError;
use outrider_net::FileWatch;
use outrider_net::FileWatches;
use outrider_net::Timers;
use outrider_overload::OverloadManager;
use outrider_stats::Store;
use tokio::runtime;
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::admin_log;
use crate::allocator;
use crate::application_log;
use crate::build::Plan;
use crate::cli::IpVersion;
use crate::cli::Mode;
use crate::cli::Options;
use crate::control::AdminControl;
use crate::control::Control;
use crate::control::Phase;
use crate::control_planes;
use crate::discovery;
use crate::discovery::Discoveries;
use crate::discovery::RouteDiscovery;
use crate::dump;
use crate::graceful_end;
use crate::listener_manager::ListenerManager;
use crate::listener_manager::PreparedListeners;
use crate::listener_plan::ListenerChange;
use crate::logging::Logging;
use crate::node;
use crate::overload;
use crate::reload;
use crate::reload::Reloader;
use crate::reload::WatchedConfig;
use crate::retired::Retired;
use crate::runtime::RuntimeLoader;
use crate::signals::Signals;
use crate::worker::Worker;
use crate::worker_listeners::DrainPlan;

/// `Bootstrap.stats_flush_interval` when it is not set.
const STATS_FLUSH_INTERVAL: Duration = Duration::from_secs(5);

/// Why the process cannot start or continue.
#[derive(Debug)]
pub(crate) enum Fatal {
    /// The errors of the config, with their places.
    Config(Diagnostics),
    /// The system refuses something that the config asks for, such as an address.
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
    runtime: Arc<RuntimeLoader>,
    store: Arc<Store>,
    log_files: Arc<LogFiles>,
    admin_logs: Vec<AccessLog>,
    loaded: Loaded,
    flush_interval: Duration,
    /// `--watch-config`
    config_file: Option<WatchedConfig>,
    overload: Option<OverloadManager>,
}

/// Builds everything that `--mode serve` builds, and drops it.
pub(crate) fn validate(options: &Options, logging: &Logging) -> Result<(), Fatal> {
    build(options, logging).map(drop)
}

/// Serves until a signal or the admin server ends it.
pub(crate) fn serve(options: Options, logging: Arc<Logging>) -> Result<(), Fatal> {
    let started = Instant::now();
    let (epoch, base_id) = (options.restart_epoch, options.base_id);
    log::info!(target: "main", "initializing epoch {epoch} (base id={base_id}, hot restart version=disabled)");
    write_file("base id", &options.base_id_path, &base_id.to_string());
    let built = build(&options, &logging)?;
    let stats = ProcessStats::new(&built.store, options.concurrency);
    let retired = Retired::default();
    let listeners = ListenerManager::new(
        options.concurrency,
        DrainPlan::of(&options),
        retired.clone(),
        stats.listener_manager.clone(),
    );
    let mut prepared = PreparedListeners::default();
    for plan in &built.plan.listeners {
        prepared.set(plan.clone(), ListenerChange::Whole);
    }
    let unbound = |error: BindError| Fatal::System(error.to_string());
    // All listeners are bound now, so that an address in use ends start-up before any connection is accepted.
    drop(listeners.put(prepared).map_err(unbound)?);
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("cannot start"))?;
    let process = Process {
        options,
        logging,
        started,
        stats,
        listeners,
        retired,
    };
    let result = LocalSet::new().block_on(&runtime, process.run(built));
    log::info!(target: "main", "exiting");
    result
}

/// Reads the config and builds all of it.
fn build(options: &Options, logging: &Logging) -> Result<Built, Fatal> {
    let files = FileWatches::default();
    let config_file = watch_config(options, &files);
    for warning in DisabledExtensions::parse(&options.disabled_extensions).1 {
        log::warn!(target: "misc", "{warning}");
    }
    let loaded = load(&options.sources())?;
    if !options.skip_deprecated_logs {
        for warning in &loaded.warnings {
            log::warn!(target: "misc", "{warning}");
        }
    }
    let bootstrap = &loaded.bootstrap;
    let diagnose = |errors| Fatal::Config(loaded.positions.diagnose(errors));
    application_log::apply(bootstrap, options, logging).map_err(diagnose)?;
    let root = FieldPath::root();
    let node = bootstrap.node.clone().unwrap_or_default();
    let runtime = RuntimeLoader::build(
        bootstrap.layered_runtime.as_ref(),
        options.service_cluster(&node),
        &root.field("layered_runtime"),
        &files,
    );
    let runtime = Arc::new(runtime.map_err(diagnose)?);
    let stats_config = bootstrap.stats_config.clone().unwrap_or_default();
    let stats = outrider_stats::StatsOptions::build(
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
    let log_files = Arc::new(log_files);
    let admin = bootstrap.admin.clone().unwrap_or_default();
    let admin_logs =
        admin_log::build(&admin, &root.field("admin"), &log_files).map_err(diagnose)?;
    let admin = AdminConfig::build(&admin, &root.field("admin")).map_err(diagnose)?;
    let interval = bootstrap.stats_flush_interval.as_ref();
    let interval = duration::optional(interval, &root.field("stats_flush_interval"));
    let flush_interval = interval
        .map_err(|error| diagnose(error.into()))?
        .unwrap_or(STATS_FLUSH_INTERVAL);
    let overload =
        overload::build(bootstrap, &store, runtime.runtime(), &files).map_err(diagnose)?;
    let state = overload.as_ref().map(OverloadManager::state).cloned();
    let shared = (&store, &log_files, &state.unwrap_or_default());
    let plan = Plan::build(bootstrap, options, &runtime, shared).map_err(diagnose)?;
    Ok(Built {
        admin: admin.flush_on_request(matches!(
            bootstrap.stats_flush,
            Some(StatsFlush::StatsFlushOnAdmin(true))
        )),
        plan,
        runtime,
        store,
        log_files,
        admin_logs,
        flush_interval,
        config_file,
        loaded,
        overload,
    })
}

/// Reads the config on a thread of its own, so that the memory pages of the messages hold nothing else: once everything is
/// built and the messages are dropped, these pages return to the system. The reader's temporary memory returns at once,
/// so that later allocations do not keep its pages in use.
fn load(sources: &BootstrapSources) -> Result<Loaded, Fatal> {
    let loaded = thread::scope(|scope| scope.spawn(|| outrider_config::load(sources)).join());
    allocator::return_freed_memory();
    loaded
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        .map_err(Fatal::Config)
}

/// The running process.
struct Process {
    options: Options,
    logging: Arc<Logging>,
    started: Instant,
    stats: ProcessStats,
    listeners: ListenerManager,
    retired: Retired,
}

impl Process {
    async fn run(self, built: Built) -> Result<(), Fatal> {
        let mut signals = Signals::new().map_err(system("cannot listen to signals"))?;
        let admin_listener = self.bind_admin(&built.admin).await?;
        let Built {
            plan,
            admin,
            runtime,
            store,
            log_files,
            admin_logs,
            loaded,
            flush_interval,
            config_file,
            overload,
        } = built;
        let dynamic = plan.dynamic.clone();
        // The messages are many times as large as the objects built from them. Their memory is returned once workers run.
        let (reloader, reloads) = Reloader::new(&store);
        let control = self.control(plan, runtime, loaded, (log_files, reloader, store.clone()));
        set_options_of_sources(&control);
        let clusters = control.clusters.clone();
        let timers = Timers::new();
        tokio::task::spawn_local(timers.clone().run());
        let admin_logs = admin_logs.iter().map(|log| log.worker(&timers));
        let admin_logs: Rc<[WorkerLog]> = admin_logs.collect();
        if let Some(listener) = admin_listener {
            let logs = admin_logs.clone();
            let connections = &control.listener_factory.connections;
            let limits = connections.admin_limits(admin.ignores_global_limit());
            let runtime = control.runtime.runtime().clone();
            let ip_version = control.options.local_address_ip_version;
            let local_address = outrider_net::local_address(ip_version == IpVersion::V6);
            let admin = Admin::new(admin, store.clone(), Rc::new(AdminControl(control.clone())))
                .with_limits(limits)
                .with_access_log(Box::new(move |request| {
                    admin_log::write(&logs, request, local_address, &runtime.snapshot());
                }));
            tokio::task::spawn_local(outrider_admin::serve(listener, Rc::new(admin)));
        }
        let primary = control_planes::start(&control, dynamic.aggregated.clone());
        clusters.start();
        tokio::task::spawn_local(flush(control.clone(), store.clone(), flush_interval));
        for watch in control.runtime.take_watches() {
            tokio::task::spawn_local(follow_runtime(watch, control.clone()));
        }
        if control.options.mode == Mode::InitOnly {
            clusters.initialized().await;
            return Ok(());
        }
        let started = async {
            clusters.primary_initialized().await;
            // Without a control plane, nobody waits for this.
            let _ = primary.send(());
            let layers = discovery::rtds::start(&dynamic.runtime, &control).await;
            layers.map_err(system("layered_runtime"))?;
            clusters.initialized().await;
            log::info!(target: "upstream", "cm init: all clusters initialized");
            log::info!(target: "main", "all clusters initialized. initializing init manager");
            let discovered = Discoveries::start(&dynamic, &control).await;
            discovered.map_err(system("dynamic_resources"))?;
            start_workers(&control, &store)
        };
        let workers = tokio::select! {
            _ = asked_to_end(&mut signals, &control) => return Ok(()),
            workers = started => workers?,
        };
        allocator::return_freed_memory();
        overload::start(overload, &control);
        tokio::task::spawn_local(free_retired(control.clone()));
        tokio::task::spawn_local(reload::run(control.clone(), reloads));
        if let Some(file) = config_file {
            tokio::task::spawn_local(reload::follow(control.clone(), file));
        }
        log::info!(target: "main", "starting main dispatch loop");
        end(&mut signals, &control).await;
        finish(workers, &admin_logs, &control);
        Ok(())
    }

    /// Binds the admin server and writes where it is.
    async fn bind_admin(
        &self,
        config: &AdminConfig,
    ) -> Result<Option<outrider_admin::AdminListener>, Fatal> {
        let Some(address) = config.address() else {
            log::warn!(target: "main", "no admin address is configured: there is no admin server");
            return Ok(None);
        };
        let listener = outrider_admin::AdminListener::bind(address)
            .await
            .map_err(|error| Fatal::System(format!("admin: cannot bind '{address}': {error}")))?;
        log::info!(target: "admin", "admin address: {}", listener.address());
        write_file(
            "admin address",
            &self.options.admin_address_path,
            &listener.address().to_string(),
        );
        Ok(Some(listener))
    }

    fn control(
        self,
        plan: Plan,
        runtime: Arc<RuntimeLoader>,
        loaded: Loaded,
        (log_files, reloader, store): (Arc<LogFiles>, Reloader, Arc<Store>),
    ) -> Rc<Control> {
        let stats = self.stats;
        if let Some(version) = loaded.bootstrap.stats_server_version_override {
            stats.server.version.set(version);
        }
        // As in Envoy, only warnings from messages that are read after the runtime is loaded count in its stats.
        let warnings = loaded.warnings.iter();
        // Envoy reads routes twice: with the connection manager and by themselves.
        let times = |path: &FieldPath| match path.is_in_extension() {
            true => 1 + u64::from(path.passes("route_config")),
            // Envoy turns this into an access log with an option that is deprecated too.
            false => u64::from(path.passes("access_log_path")),
        };
        let deprecated = warnings.map(|warning| times(&warning.path)).sum();
        stats.runtime.deprecated_feature_use.add(deprecated);
        if deprecated > 0 {
            let seen = &stats.runtime.deprecated_feature_seen_since_process_start;
            seen.set(deprecated);
        }
        let unknown = loaded.sources_with_unknown_fields;
        stats.server.static_unknown_fields.add(unknown);
        let node = node::complete(loaded.bootstrap.node.as_ref());
        let xds_node = node::with_options(node.clone(), &self.options);
        let control = Control {
            listeners: self.listeners,
            listener_factory: plan.listener_factory,
            config: RefCell::new(dump::LoadedBootstrap::new(
                loaded.wire.clone(),
                node::short(&node),
                SystemTime::now(),
            )),
            node: node::full(&xds_node),
            xds_node,
            clusters: plan.clusters.clone(),
            runtime,
            log_files,
            reloader,
            routes: RouteDiscovery::new(store.clone(), plan.clusters.clone(), self.retired.clone()),
            retired: self.retired,
            discoveries: RefCell::default(),
            store,
            phase: Cell::new(Phase::Clusters),
            health_checks_fail: Arc::default(),
            draining: Cell::new(false),
            ending: Cell::new(false),
            quit: Notify::new(),
            activity: (0..self.options.concurrency)
                .map(|_| Arc::default())
                .collect(),
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

/// Passes the options about unknown fields and disabled extensions on to the sources of dynamic resources.
fn set_options_of_sources(control: &Control) {
    let options = &control.options;
    let sources = control.clusters.sources();
    sources.treat_unknown_fields(
        options.reject_unknown_dynamic_fields,
        options.ignore_unknown_dynamic_fields,
    );
    sources.disable_extensions(DisabledExtensions::parse(&options.disabled_extensions).0);
}

/// The source of a request to end the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndRequest {
    /// SIGTERM or SIGINT.
    Signal,
    /// `/quitquitquit`
    Admin,
}

/// Handles signals until the process is asked to end.
async fn asked_to_end(signals: &mut Signals, control: &Control) -> EndRequest {
    tokio::select! {
        () = signals.until_end(control) => EndRequest::Signal,
        () = control.quit.notified() => EndRequest::Admin,
    }
}

/// Serves until the process is asked to end, then ends its workers.
async fn end(signals: &mut Signals, control: &Control) {
    let request = asked_to_end(signals, control).await;
    if request == EndRequest::Admin || control.options.exits_immediately {
        return control.listeners.quit();
    }
    tokio::select! {
        _ = asked_to_end(signals, control) => {
            log::warn!(target: "main", "asked to end again: cutting what is under way");
            control.listeners.quit();
        }
        () = graceful_end::finish_requests(control) => control.listeners.finish(),
    }
}

/// Waits for the workers to end, then writes what is left of the logs.
fn finish(workers: Vec<JoinHandle<()>>, admin_logs: &[WorkerLog], control: &Control) {
    log::info!(target: "main", "shutting down server instance");
    for worker in workers {
        // A worker that panicked has ended too.
        let _ = worker.join();
    }
    admin_logs.iter().for_each(WorkerLog::flush);
    control.log_files.finish();
    log::info!(target: "main", "main dispatch loop exited");
}

/// Starts listening, and starts the threads that serve connections.
fn start_workers(control: &Control, store: &Arc<Store>) -> Result<Vec<JoinHandle<()>>, Fatal> {
    log::info!(target: "config", "all dependencies initialized. starting workers");
    control.phase.set(Phase::Listeners);
    let mut threads = Vec::new();
    for (index, activity) in (0..).zip(&control.activity) {
        let (commands, inbox) = mpsc::unbounded_channel();
        let worker = Worker {
            index,
            store: store.clone(),
            runtime: control.runtime.runtime().clone(),
            clusters: control.clusters.clone(),
            activity: activity.clone(),
            health_checks_fail: control.health_checks_fail.clone(),
            overload: control.listener_factory.overload.clone(),
            commands: inbox,
        };
        threads.push(worker.start().map_err(system("cannot start a worker"))?);
        control.listeners.add_worker(commands);
    }
    let unbound = |error: BindError| Fatal::System(error.to_string());
    control.listeners.start().map_err(unbound)?;
    let stats = &control.stats.listener_manager;
    stats.total_listeners_warming.mark_used();
    stats.workers_started.set(1);
    control.phase.set(Phase::Running);
    control.refresh_stats();
    let took = u64::try_from(control.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    control.stats.server.initialization_time_ms.record(took);
    Ok(threads)
}

/// Ends an interval of the histograms at each `stats_flush_interval`.
async fn flush(control: Rc<Control>, store: Arc<Store>, interval: Duration) {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
    loop {
        ticks.tick().await;
        control.refresh_stats();
        store.flush();
    }
}

/// Frees what was replaced once no worker uses it.
async fn free_retired(control: Rc<Control>) {
    let retired = control.retired.clone();
    retired.free(|| control.routes.forget_unused()).await;
}

/// Loads the runtime again each time that the root of a disk layer is replaced.
async fn follow_runtime(mut root: FileWatch, control: Rc<Control>) {
    loop {
        root.replaced().await;
        control.reload_runtime();
    }
}

/// `--watch-config`
fn watch_config(options: &Options, files: &FileWatches) -> Option<WatchedConfig> {
    let path = &options.config_path;
    if !options.watch_config || options.mode != Mode::Serve {
        return None;
    }
    WatchedConfig::new(path, files)
        .map_err(|error| {
            log::error!(target: "config", "'{path}' cannot be watched, so its changes are not noticed: {error}");
        })
        .ok()
}

/// Writes the file that an option asks for, unless `path` is empty. As in Envoy, a failure is logged and not fatal.
fn write_file(option: &str, path: &str, content: &str) {
    if !path.is_empty()
        && let Err(error) = std::fs::write(path, content)
    {
        log::error!(target: "main", "cannot open {option} output file {path} for writing: {error}");
    }
}

/// The error of a system call that failed in `action`.
fn system(action: &'static str) -> impl Fn(io::Error) -> Fatal {
    move |error| Fatal::System(format!("{action}: {error}"))
}

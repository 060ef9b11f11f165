//! The command line, spelled as Envoy spells it.
//!
//! Every flag is one entry of [`flags::FLAGS`]; parsing, `--help` and the messages are made from that table.
//! `--flag=value` is understood too, which Envoy's own parser refuses.

mod duration;
mod flags;
mod help;

use std::time::Duration;

use outrider_config::api::envoy::config::core::v3::Node;

pub(crate) use crate::cli::duration::parse_duration;
use crate::cli::flags::FLAGS;
use crate::cli::flags::Set;
pub(crate) use crate::cli::help::wrap;
use crate::logging::Level;
use crate::logging::Levels;

/// The middle part of the version line.
pub(crate) use outrider_config::VERSION;

/// The options of the command line, with Envoy's defaults.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) config_path: String,
    pub(crate) config_yaml: String,
    pub(crate) allow_unknown_static_fields: bool,
    pub(crate) reject_unknown_dynamic_fields: bool,
    pub(crate) ignore_unknown_dynamic_fields: bool,
    pub(crate) skip_deprecated_logs: bool,
    pub(crate) mode: Mode,
    pub(crate) concurrency: u32,
    pub(crate) cpuset_threads: bool,
    pub(crate) admin_address_path: String,
    pub(crate) local_address_ip_version: IpVersion,
    pub(crate) log_level: Level,
    pub(crate) component_log_level: String,
    pub(crate) log_format: Option<String>,
    pub(crate) log_format_escaped: bool,
    pub(crate) log_path: String,
    pub(crate) log_stacktrace_single_entry: bool,
    pub(crate) enable_fine_grain_logging: bool,
    pub(crate) service_cluster: String,
    pub(crate) service_node: String,
    pub(crate) service_zone: String,
    pub(crate) file_flush_interval: Duration,
    pub(crate) file_flush_min_size_kb: u32,
    /// `--drain-time-s`, if it is given.
    pub(crate) drain_time: Option<Duration>,
    /// `--drain-idle-time`
    pub(crate) drain_idle_time: Duration,
    /// `--exit-on-sigterm-immediately`
    pub(crate) exits_immediately: bool,
    pub(crate) drain_strategy: DrainStrategy,
    pub(crate) parent_shutdown_time: Duration,
    pub(crate) base_id: u32,
    pub(crate) base_id_path: String,
    pub(crate) use_dynamic_base_id: bool,
    pub(crate) restart_epoch: u32,
    pub(crate) disable_hot_restart: bool,
    pub(crate) skip_hot_restart_on_no_parent: bool,
    pub(crate) skip_hot_restart_parent_stats: bool,
    pub(crate) hot_restart_version: bool,
    pub(crate) enable_mutex_tracing: bool,
    pub(crate) enable_core_dump: bool,
    pub(crate) disabled_extensions: String,
    pub(crate) socket_path: String,
    pub(crate) socket_mode: u32,
    pub(crate) watch_config: bool,
    pub(crate) stats_tags: Vec<(String, String)>,
    pub(crate) levels: Levels,
}

/// `--mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Check the config, then serve.
    Serve,
    /// Build everything from the config and exit.
    Validate,
    /// Start up, bind, and exit before serving.
    InitOnly,
}

/// `--local-address-ip-version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IpVersion {
    /// `v4`
    V4,
    /// `v6`
    V6,
}

/// `--drain-strategy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DrainStrategy {
    /// Connections are asked to close with a probability that grows over the drain time.
    Gradual,
    /// All connections are asked to close at once.
    Immediate,
}

/// The action that the command line asks for.
#[derive(Debug)]
pub(crate) enum CliAction {
    /// Run with these options.
    Run(Box<Options>),
    /// Print this on standard output and exit with 0.
    Print(String),
}

/// The command line was refused, with this text for standard error.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RefusedCommandLine(pub(crate) String);

impl Default for Options {
    fn default() -> Options {
        Options {
            config_path: String::new(),
            config_yaml: String::new(),
            allow_unknown_static_fields: false,
            watch_config: false,
            reject_unknown_dynamic_fields: false,
            ignore_unknown_dynamic_fields: false,
            skip_deprecated_logs: false,
            mode: Mode::Serve,
            concurrency: granted_cpus(),
            cpuset_threads: false,
            admin_address_path: String::new(),
            local_address_ip_version: IpVersion::V4,
            log_level: Level::Info,
            component_log_level: String::new(),
            log_format: None,
            log_format_escaped: false,
            log_path: String::new(),
            log_stacktrace_single_entry: false,
            enable_fine_grain_logging: false,
            service_cluster: String::new(),
            service_node: String::new(),
            service_zone: String::new(),
            file_flush_interval: Duration::from_secs(10),
            file_flush_min_size_kb: 64,
            drain_time: None,
            drain_idle_time: Duration::ZERO,
            exits_immediately: false,
            drain_strategy: DrainStrategy::Gradual,
            parent_shutdown_time: Duration::from_secs(900),
            base_id: 0,
            base_id_path: String::new(),
            use_dynamic_base_id: false,
            restart_epoch: 0,
            disable_hot_restart: false,
            skip_hot_restart_on_no_parent: false,
            skip_hot_restart_parent_stats: false,
            hot_restart_version: false,
            enable_mutex_tracing: false,
            enable_core_dump: false,
            disabled_extensions: String::new(),
            socket_path: "@envoy_domain_socket".to_owned(),
            socket_mode: 0,
            stats_tags: Vec::new(),
            levels: Levels::default(),
        }
    }
}

/// The number of CPUs that the affinity mask and the cgroup's quota (v1 or v2) allow, at least one. Envoy starts a worker
/// for every CPU of the machine unless `--cpuset-threads` is given; under a container's quota these throttle each other.
fn granted_cpus() -> u32 {
    std::thread::available_parallelism()
        .ok()
        .and_then(|cpus| u32::try_from(cpus.get()).ok())
        .unwrap_or(1)
}

impl Options {
    /// `--service-cluster`, or the node's.
    pub(crate) fn service_cluster<'a>(&'a self, node: &'a Node) -> &'a str {
        either(&self.service_cluster, &node.cluster)
    }

    /// `--service-node`, or the node's.
    pub(crate) fn service_node<'a>(&'a self, node: &'a Node) -> &'a str {
        either(&self.service_node, &node.id)
    }

    /// `--service-zone`, or the node's.
    pub(crate) fn service_zone<'a>(&'a self, node: &'a Node) -> &'a str {
        let locality = node.locality.as_ref();
        either(
            &self.service_zone,
            locality.map_or("", |locality| &locality.zone),
        )
    }
}

/// The flag's value, or the configured value if the flag is not given.
fn either<'a>(flag: &'a str, configured: &'a str) -> &'a str {
    if flag.is_empty() { configured } else { flag }
}

/// Reads the arguments after the program's name. `program` is the name that messages use.
pub(crate) fn parse(program: &str, arguments: &[String]) -> Result<CliAction, RefusedCommandLine> {
    let mut options = Options::default();
    let mut given = [false; FLAGS.len()];
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == "--" || argument == "--ignore_rest" {
            break;
        }
        let refuse = |id: &str, message: String| parse_error(program, id, &message);
        let (name, attached) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (argument.as_str(), None),
        };
        let Some((index, flag)) = flags::find(name) else {
            return Err(refuse(argument, "Couldn't find match for argument".into()));
        };
        let already = std::mem::replace(&mut given[index], true);
        if already && !flag.repeats() {
            return Err(refuse(&flag.id(), "Argument already set!".into()));
        }
        let mut value = || match attached {
            Some(value) => Ok(value.to_owned()),
            None => arguments
                .next()
                .cloned()
                .ok_or_else(|| refuse(&flag.id(), "Missing a value for this argument!".into())),
        };
        match &flag.set {
            Set::Help | Set::Version | Set::Switch(_) if attached.is_some() => {
                return Err(refuse(argument, "Couldn't find match for argument".into()));
            }
            Set::Help => return Ok(CliAction::Print(help::complete(program))),
            Set::Version => return Ok(CliAction::Print(help::version(program))),
            Set::Switch(set) => set(&mut options),
            Set::Number(set) => {
                let text = value()?;
                let number = text.parse().map_err(|_| {
                    let message = format!("Couldn't read argument value from string '{text}'");
                    refuse(&flag.id(), message)
                })?;
                set(&mut options, number);
            }
            Set::Text(set) => set(&mut options, value()?)
                .map_err(|message| RefusedCommandLine(format!("error: {message}\n")))?,
        }
    }
    options
        .check()
        .map_err(|message| RefusedCommandLine(format!("error: {message}\n")))?;
    Ok(CliAction::Run(Box::new(options)))
}

impl Options {
    /// Checks the flags that depend on each other.
    fn check(&mut self) -> Result<(), String> {
        self.levels = Levels::parse(self.log_level, &self.component_log_level)?;
        if self.restart_epoch == 0 {
            return Ok(());
        }
        if self.use_dynamic_base_id {
            return Err(format!(
                "cannot use --restart-epoch={} with --use-dynamic-base-id",
                self.restart_epoch
            ));
        }
        if !self.disable_hot_restart && !self.skip_hot_restart_on_no_parent {
            return Err(format!(
                "cannot take over from a parent with --restart-epoch={}: hot restart is not supported \
                 (--skip-hot-restart-on-no-parent or --disable-hot-restart start without one)",
                self.restart_epoch
            ));
        }
        Ok(())
    }

    /// `--drain-time-s`, with Envoy's default.
    pub(crate) fn drain_time(&self) -> Duration {
        self.drain_time.unwrap_or(Duration::from_secs(600))
    }

    /// The `--log-format` in force, with Envoy's default.
    pub(crate) fn log_format(&self) -> &str {
        self.log_format
            .as_deref()
            .unwrap_or(crate::logging::DEFAULT_FORMAT)
    }
}

fn parse_error(program: &str, id: &str, message: &str) -> RefusedCommandLine {
    RefusedCommandLine(format!(
        "PARSE ERROR: Argument: {id}\n             {message}\n\nBrief USAGE: \n{}\n\
         For complete USAGE and HELP type: \n   {program} --help\n\n{} -- {message}\n",
        help::usage(program),
        id.trim_matches(['(', ')']),
    ))
}

#[cfg(test)]
mod tests;

//! The table of flags, in Envoy's order. A flag that is accepted without effect says why; `--help` prints the reason.

use std::time::Duration;

use crate::cli::DrainStrategy;
use crate::cli::IpVersion;
use crate::cli::Mode;
use crate::cli::Options;
use crate::cli::duration::parse_duration;
use crate::logging::Level;

/// One flag.
pub(crate) struct Flag {
    /// The name after `--`.
    pub(crate) long: &'static str,
    /// The letter after `-`.
    pub(crate) short: Option<&'static str>,
    /// The description for `--help`.
    pub(crate) about: &'static str,
    /// Why it has no effect; empty for a flag that has one.
    pub(crate) no_effect: &'static str,
    /// The type of its value, and how the value is stored.
    pub(crate) set: Set,
}

/// The type of a flag's value.
pub(crate) enum Set {
    /// Nothing.
    Switch(fn(&mut Options)),
    /// A number of 32 bits.
    Number(fn(&mut Options, u32)),
    /// Text. The error of the function is printed after `error: `.
    Text(fn(&mut Options, String) -> Result<(), String>),
    /// Nothing: prints the help.
    Help,
    /// Nothing: prints the version.
    Version,
}

impl Flag {
    /// Its name in messages.
    pub(crate) fn id(&self) -> String {
        match self.short {
            Some(short) => format!("-{short} (--{})", self.long),
            None => format!("(--{})", self.long),
        }
    }

    /// Whether it may be given more than once.
    pub(crate) fn repeats(&self) -> bool {
        self.long == "stats-tag"
    }
}

/// The flag called `name` (`--concurrency`, `-c`), and its place in the table.
pub(crate) fn find(name: &str) -> Option<(usize, &'static Flag)> {
    let matches = |flag: &Flag| match name.strip_prefix("--") {
        Some(long) => flag.long == long,
        None => name
            .strip_prefix('-')
            .is_some_and(|short| flag.short == Some(short)),
    };
    FLAGS.iter().enumerate().find(|(_, flag)| matches(flag))
}

const fn flag(long: &'static str, set: Set, about: &'static str) -> Flag {
    Flag {
        long,
        short: None,
        about,
        no_effect: "",
        set,
    }
}

const fn without_effect(long: &'static str, set: Set, reason: &'static str) -> Flag {
    Flag {
        long,
        short: None,
        about: "",
        no_effect: reason,
        set,
    }
}

const fn short(short: &'static str, flag: Flag) -> Flag {
    Flag {
        short: Some(short),
        ..flag
    }
}

const NO_HOT_RESTART: &str =
    "hot restart is not supported, and instances never share memory or sockets";

/// All flags.
pub(crate) const FLAGS: &[Flag] = &[
    flag(
        "stats-tag",
        Set::Text(stats_tag),
        "A tag put on every stat, as `name:value`; may be given several times.",
    ),
    flag(
        "watch-config",
        Set::Switch(|o| o.watch_config = true),
        "Reload the configuration whenever the content of its file changes, also through the links of a Kubernetes ConfigMap; OUTRIDER_WATCH_CONFIG=1 does the same. Envoy has no such flag.",
    ),
    without_effect(
        "enable-core-dump",
        Set::Switch(|o| o.enable_core_dump = true),
        "the system's limits decide about core dumps",
    ),
    without_effect("socket-mode", Set::Text(socket_mode), NO_HOT_RESTART),
    without_effect(
        "socket-path",
        Set::Text(|o, v| {
            o.socket_path = v;
            Ok(())
        }),
        NO_HOT_RESTART,
    ),
    flag(
        "disable-extensions",
        Set::Text(|o, v| {
            o.disabled_extensions = v;
            Ok(())
        }),
        "Extensions that no configuration may use, as 'category/name' with commas between them.",
    ),
    without_effect(
        "cpuset-threads",
        Set::Switch(|o| o.cpuset_threads = true),
        "the default number of workers always respects affinity and the cgroup",
    ),
    without_effect(
        "enable-mutex-tracing",
        Set::Switch(|o| o.enable_mutex_tracing = true),
        "workers share no mutexes",
    ),
    without_effect(
        "disable-hot-restart",
        Set::Switch(|o| o.disable_hot_restart = true),
        NO_HOT_RESTART,
    ),
    flag(
        "mode",
        Set::Text(mode),
        "'serve' (the default), 'validate' (check the configuration and exit) or 'init_only' (start up and exit).",
    ),
    without_effect(
        "parent-shutdown-time-s",
        Set::Number(|o, v| o.parent_shutdown_time = Duration::from_secs(v.into())),
        NO_HOT_RESTART,
    ),
    flag(
        "drain-strategy",
        Set::Text(drain_strategy),
        "How connections are asked to close while draining: 'gradual' (the default) or 'immediate'.",
    ),
    flag(
        "drain-time-s",
        Set::Number(|o, v| o.drain_time = Some(Duration::from_secs(v.into()))),
        "Seconds that draining takes: of replaced or drained listeners 600 by default, after SIGTERM or SIGINT 25 at most.",
    ),
    flag(
        "drain-idle-time",
        Set::Text(drain_idle_time),
        "After SIGTERM or SIGINT, serves until no request has been under way for so long: seconds, or a number with 'ms', \
         's' or 'm'; 0 by default. For a sidecar whose application still calls while it shuts down. (Not in Envoy.)",
    ),
    flag(
        "exit-on-sigterm-immediately",
        Set::Switch(|o| o.exits_immediately = true),
        "SIGTERM and SIGINT cut the requests under way, as in Envoy, instead of waiting for them. (Not in Envoy.)",
    ),
    flag(
        "file-flush-min-size-kb",
        Set::Number(|o, v| o.file_flush_min_size_kb = v),
        "Kilobytes of access log gathered before they are written; 64 by default.",
    ),
    flag(
        "file-flush-interval-msec",
        Set::Number(|o, v| o.file_flush_interval = Duration::from_millis(v.into())),
        "Milliseconds after which gathered access log is written; 10000 by default.",
    ),
    flag(
        "service-zone",
        Set::Text(|o, v| {
            o.service_zone = v;
            Ok(())
        }),
        "The zone of this node, whatever the configuration's node says.",
    ),
    flag(
        "service-node",
        Set::Text(|o, v| {
            o.service_node = v;
            Ok(())
        }),
        "The id of this node, whatever the configuration's node says.",
    ),
    flag(
        "service-cluster",
        Set::Text(|o, v| {
            o.service_cluster = v;
            Ok(())
        }),
        "The cluster of this node, whatever the configuration's node says.",
    ),
    flag(
        "hot-restart-version",
        Set::Switch(|o| o.hot_restart_version = true),
        "Prints 'disabled': hot restart is not supported.",
    ),
    flag(
        "restart-epoch",
        Set::Number(|o, v| o.restart_epoch = v),
        "0 for a first start. Another number needs --disable-hot-restart or --skip-hot-restart-on-no-parent.",
    ),
    flag(
        "log-path",
        Set::Text(|o, v| {
            o.log_path = v;
            Ok(())
        }),
        "A file for log lines instead of standard error; SIGUSR1 opens it again.",
    ),
    without_effect(
        "enable-fine-grain-logging",
        Set::Switch(|o| o.enable_fine_grain_logging = true),
        "levels are set by logger",
    ),
    flag(
        "log-format-escaped",
        Set::Switch(|o| o.log_format_escaped = true),
        "Writes control characters of log messages as escape sequences.",
    ),
    flag(
        "log-format",
        Set::Text(|o, v| {
            o.log_format = Some(v);
            Ok(())
        }),
        "The form of log lines in spdlog's pattern syntax. Default is \"[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v\".",
    ),
    flag(
        "component-log-level",
        Set::Text(|o, v| {
            o.component_log_level = v;
            Ok(())
        }),
        "Levels of single loggers: upstream:debug,config:trace.",
    ),
    short(
        "l",
        flag(
            "log-level",
            Set::Text(log_level),
            "The level of all loggers: trace, debug, info (the default), warning or warn, error, critical, off.",
        ),
    ),
    flag(
        "local-address-ip-version",
        Set::Text(ip_version),
        "v4 (the default) or v6: which of the machine's own addresses stands for it.",
    ),
    flag(
        "admin-address-path",
        Set::Text(|o, v| {
            o.admin_address_path = v;
            Ok(())
        }),
        "A file that gets the admin server's address once it is bound.",
    ),
    without_effect(
        "log-stacktrace-single-entry",
        Set::Switch(|o| o.log_stacktrace_single_entry = true),
        "no stack traces are logged",
    ),
    flag(
        "skip-deprecated-logs",
        Set::Switch(|o| o.skip_deprecated_logs = true),
        "Does not warn of deprecated fields.",
    ),
    flag(
        "ignore-unknown-dynamic-fields",
        Set::Switch(|o| o.ignore_unknown_dynamic_fields = true),
        "Says and counts nothing of unknown fields in files of resources.",
    ),
    flag(
        "reject-unknown-dynamic-fields",
        Set::Switch(|o| o.reject_unknown_dynamic_fields = true),
        "Rejects updates of resources that have unknown fields.",
    ),
    flag(
        "allow-unknown-static-fields",
        Set::Switch(|o| o.allow_unknown_static_fields = true),
        "Warns of unknown fields in the configuration instead of refusing them.",
    ),
    flag(
        "allow-unknown-fields",
        Set::Switch(|o| o.allow_unknown_static_fields = true),
        "The deprecated name of --allow-unknown-static-fields.",
    ),
    flag(
        "config-yaml",
        Set::Text(|o, v| {
            o.config_yaml = v;
            Ok(())
        }),
        "Configuration given here as YAML; it is merged over that of --config-path.",
    ),
    short(
        "c",
        flag(
            "config-path",
            Set::Text(|o, v| {
                o.config_path = v;
                Ok(())
            }),
            "The configuration file (.yaml, .yml, .json).",
        ),
    ),
    flag(
        "concurrency",
        Set::Number(|o, v| o.concurrency = v.max(1)),
        "The number of worker threads; by default the CPUs that affinity and the cgroup grant.",
    ),
    flag(
        "base-id-path",
        Set::Text(|o, v| {
            o.base_id_path = v;
            Ok(())
        }),
        "A file that gets the base id.",
    ),
    without_effect(
        "skip-hot-restart-parent-stats",
        Set::Switch(|o| o.skip_hot_restart_parent_stats = true),
        NO_HOT_RESTART,
    ),
    flag(
        "skip-hot-restart-on-no-parent",
        Set::Switch(|o| o.skip_hot_restart_on_no_parent = true),
        "Starts with a --restart-epoch above 0 without a parent.",
    ),
    without_effect(
        "use-dynamic-base-id",
        Set::Switch(|o| o.use_dynamic_base_id = true),
        NO_HOT_RESTART,
    ),
    without_effect("base-id", Set::Number(|o, v| o.base_id = v), NO_HOT_RESTART),
    flag("version", Set::Version, "Prints the version and exits."),
    short("h", flag("help", Set::Help, "Prints this and exits.")),
];

fn stats_tag(options: &mut Options, value: String) -> Result<(), String> {
    let Some((name, text)) = value.split_once(':') else {
        return Err(format!("misformatted stats-tag '{value}'"));
    };
    let invalid = |part: &str| {
        Err(format!(
            "misformatted stats-tag '{value}' contains invalid char in '{part}'"
        ))
    };
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric()) {
        return invalid(name);
    }
    if text.is_empty() || text.contains('.') {
        return invalid(text);
    }
    options.stats_tags.push((name.to_owned(), text.to_owned()));
    Ok(())
}

fn drain_idle_time(options: &mut Options, value: String) -> Result<(), String> {
    options.drain_idle_time = parse_duration(&value).ok_or_else(|| {
        format!("invalid drain-idle-time '{value}': expected a time such as 5, 5s, 500ms or 1m")
    })?;
    Ok(())
}

fn socket_mode(options: &mut Options, value: String) -> Result<(), String> {
    // As in Envoy, a value that is not an octal number is ignored.
    options.socket_mode = u32::from_str_radix(&value, 8).unwrap_or(0);
    Ok(())
}

fn mode(options: &mut Options, value: String) -> Result<(), String> {
    options.mode = match value.as_str() {
        "serve" => Mode::Serve,
        "validate" => Mode::Validate,
        "init_only" => Mode::InitOnly,
        _ => return Err(format!("unknown mode '{value}'")),
    };
    Ok(())
}

fn drain_strategy(options: &mut Options, value: String) -> Result<(), String> {
    options.drain_strategy = match value.as_str() {
        "gradual" => DrainStrategy::Gradual,
        "immediate" => DrainStrategy::Immediate,
        _ => return Err(format!("unknown drain-strategy '{value}'")),
    };
    Ok(())
}

fn ip_version(options: &mut Options, value: String) -> Result<(), String> {
    options.local_address_ip_version = match value.as_str() {
        "v4" => IpVersion::V4,
        "v6" => IpVersion::V6,
        _ => return Err(format!("unknown IP address version '{value}'")),
    };
    Ok(())
}

fn log_level(options: &mut Options, value: String) -> Result<(), String> {
    options.log_level =
        Level::parse(&value).ok_or_else(|| format!("invalid log level specified '{value}'"))?;
    Ok(())
}

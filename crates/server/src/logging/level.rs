//! Levels, and how `--log-level` and `--component-log-level` set them.

use crate::logging::loggers::LOGGERS;

/// Envoy's levels. The `log` facade lacks the last two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Level {
    Trace,
    Debug,
    Info,
    Warning,
    Error,
    Critical,
    Off,
}

impl Level {
    const ALL: [Level; 7] = [
        Level::Trace,
        Level::Debug,
        Level::Info,
        Level::Warning,
        Level::Error,
        Level::Critical,
        Level::Off,
    ];

    /// A level by its name; `warn` is `warning`.
    pub(crate) fn parse(name: &str) -> Option<Level> {
        match name {
            "warn" => Some(Level::Warning),
            _ => Level::ALL.into_iter().find(|level| level.name() == name),
        }
    }

    /// The level whose number this is.
    pub(crate) fn from_number(number: u8) -> Level {
        Level::ALL
            .get(usize::from(number))
            .copied()
            .unwrap_or(Level::Off)
    }

    /// Envoy's name for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
            Level::Critical => "critical",
            Level::Off => "off",
        }
    }

    /// The facade's filter that lets all records of this level pass.
    pub(crate) fn filter(self) -> log::LevelFilter {
        match self {
            Level::Trace => log::LevelFilter::Trace,
            Level::Debug => log::LevelFilter::Debug,
            Level::Info => log::LevelFilter::Info,
            Level::Warning => log::LevelFilter::Warn,
            Level::Error => log::LevelFilter::Error,
            Level::Critical | Level::Off => log::LevelFilter::Off,
        }
    }
}

impl From<log::Level> for Level {
    fn from(level: log::Level) -> Level {
        match level {
            log::Level::Trace => Level::Trace,
            log::Level::Debug => Level::Debug,
            log::Level::Info => Level::Info,
            log::Level::Warn => Level::Warning,
            log::Level::Error => Level::Error,
        }
    }
}

/// A level for each logger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Levels(Vec<Level>);

impl Default for Levels {
    fn default() -> Levels {
        Levels(vec![Level::Info; LOGGERS.len()])
    }
}

impl Levels {
    /// `all` for every logger but those that `components` names (`upstream:debug,config:trace`).
    pub(crate) fn parse(all: Level, components: &str) -> Result<Levels, String> {
        let mut levels = Levels(vec![all; LOGGERS.len()]);
        for component in components
            .split(',')
            .filter(|component| !component.is_empty())
        {
            let Some((name, level)) = component.split_once(':') else {
                return Err(format!(
                    "component log level not correctly specified '{component}'"
                ));
            };
            let level = Level::parse(level)
                .ok_or_else(|| format!("invalid log level specified '{level}'"))?;
            let index = LOGGERS
                .iter()
                .position(|&logger| logger == name)
                .ok_or_else(|| format!("invalid component specified '{name}'"))?;
            levels.0[index] = level;
        }
        Ok(levels)
    }

    /// The levels, in the loggers' order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Level> {
        self.0.iter().copied()
    }
}

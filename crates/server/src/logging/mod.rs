//! Log lines: Envoy's loggers, levels and line format behind the `log` facade.
//!
//! A record's target is an Envoy logger's name (`log::info!(target: "upstream", …)`) or a module path, which belongs
//! to its crate's logger. Levels change at run time through `/logging`. A line is one `write`; nothing is buffered.

mod level;
mod loggers;
mod pattern;

use std::fmt;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;

use arc_swap::ArcSwap;

pub(crate) use level::Level;
pub(crate) use level::Levels;
pub(crate) use loggers::LOGGERS;
pub(crate) use pattern::Pattern;

use crate::logging::pattern::LogRecord;

/// Envoy's `--log-format` default.
pub(crate) const DEFAULT_FORMAT: &str = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v";

/// The process's log.
pub(crate) struct Logging {
    levels: Vec<AtomicU8>,
    pattern: ArcSwap<Pattern>,
    escape: bool,
    sink: ArcSwap<Sink>,
}

/// Where lines go.
enum Sink {
    Stderr,
    File(PathBuf, File),
}

impl Sink {
    fn open(path: PathBuf) -> io::Result<Sink> {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        Ok(Sink::File(path, file))
    }

    fn write(&self, line: &[u8]) {
        // A failed write to the log cannot be reported anywhere.
        let _ = match self {
            Sink::Stderr => io::stderr().write_all(line),
            Sink::File(_, file) => (&*file).write_all(line),
        };
    }
}

impl Logging {
    /// A log on standard error, with these levels and this line format.
    pub(crate) fn new(levels: &Levels, format: &str, escape: bool) -> Arc<Logging> {
        let logging = Logging {
            levels: LOGGERS.iter().map(|_| AtomicU8::new(0)).collect(),
            pattern: ArcSwap::from_pointee(Pattern::compile(format)),
            escape,
            sink: ArcSwap::from_pointee(Sink::Stderr),
        };
        for (index, level) in levels.iter().enumerate() {
            logging.levels[index].store(level as u8, Ordering::Relaxed);
        }
        Arc::new(logging)
    }

    /// Makes this the log of the whole process. Only the first call in a process counts.
    pub(crate) fn install(self: &Arc<Logging>) {
        if log::set_boxed_logger(Box::new(Facade(self.clone()))).is_ok() {
            self.publish_max_level();
        }
    }

    /// Sends lines to a file from now on (`--log-path`).
    pub(crate) fn open(&self, path: &str) -> io::Result<()> {
        self.sink.store(Arc::new(Sink::open(PathBuf::from(path))?));
        Ok(())
    }

    /// Opens the log file again, after it was moved away. An error leaves the old one in use.
    pub(crate) fn reopen(&self) -> io::Result<()> {
        if let Sink::File(path, _) = &**self.sink.load() {
            self.sink.store(Arc::new(Sink::open(path.clone())?));
        }
        Ok(())
    }

    /// Changes the line format (`Bootstrap.application_log_config`).
    pub(crate) fn set_pattern(&self, pattern: Pattern) {
        self.pattern.store(Arc::new(pattern));
    }

    /// Every logger's level, in Envoy's order.
    pub(crate) fn levels(&self) -> Vec<(&'static str, Level)> {
        LOGGERS
            .iter()
            .zip(&self.levels)
            .map(|(&name, level)| (name, load(level)))
            .collect()
    }

    /// Changes one logger's level; false when there is no such logger.
    pub(crate) fn set_level(&self, logger: &str, level: Level) -> bool {
        let Some(index) = LOGGERS.iter().position(|&name| name == logger) else {
            return false;
        };
        self.levels[index].store(level as u8, Ordering::Relaxed);
        self.publish_max_level();
        true
    }

    /// Changes the level of all loggers.
    pub(crate) fn set_all(&self, level: Level) {
        for each in &self.levels {
            each.store(level as u8, Ordering::Relaxed);
        }
        self.publish_max_level();
    }

    /// Logs at `critical`, which the `log` facade does not know.
    pub(crate) fn critical(
        &self,
        logger: &'static str,
        file: &'static str,
        line: u32,
        message: fmt::Arguments<'_>,
    ) {
        if load(&self.levels[loggers::index(logger)]) <= Level::Critical {
            self.write(Level::Critical, logger, (file, line), message);
        }
    }

    /// Lets the facade skip records that no logger writes, before they are formatted.
    fn publish_max_level(&self) {
        let most = self.levels.iter().map(load).min().unwrap_or(Level::Off);
        log::set_max_level(most.filter());
    }

    fn write(
        &self,
        level: Level,
        logger: &str,
        location: (&str, u32),
        message: fmt::Arguments<'_>,
    ) {
        let mut message = message.to_string();
        if self.escape {
            message = pattern::escape_c(&message);
        }
        let line = LogRecord {
            level,
            logger,
            file: location.0,
            line: location.1,
            message: &message,
        };
        let mut text = String::with_capacity(128 + message.len());
        self.pattern.load().write(&line, &mut text);
        text.push('\n');
        self.sink.load().write(text.as_bytes());
    }
}

fn load(level: &AtomicU8) -> Level {
    Level::from_number(level.load(Ordering::Relaxed))
}

/// The implementation that the `log` crate calls.
struct Facade(Arc<Logging>);

impl log::Log for Facade {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        let index = loggers::of_target(metadata.target());
        load(&self.0.levels[index]) <= Level::from(metadata.level())
    }

    fn log(&self, record: &log::Record<'_>) {
        let index = loggers::of_target(record.target());
        let level = Level::from(record.level());
        if load(&self.0.levels[index]) <= level {
            let location = (
                record.file().unwrap_or_default(),
                record.line().unwrap_or_default(),
            );
            self.0
                .write(level, LOGGERS[index], location, *record.args());
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logger_writes_from_its_own_level_on() {
        let folder = std::env::temp_dir().join(format!("outrider-log-{}", std::process::id()));
        let levels = Levels::parse(Level::Info, "upstream:debug,router:off").unwrap();
        let logging = Logging::new(&levels, "%n %l %v", true);
        logging.open(folder.to_str().unwrap()).unwrap();
        let facade = Facade(logging.clone());
        let log = |target: &str, level: log::Level, text: &str| {
            log::Log::log(
                &facade,
                &log::Record::builder()
                    .target(target)
                    .level(level)
                    .args(format_args!("{text}"))
                    .build(),
            );
        };
        log("main", log::Level::Debug, "quiet");
        log("main", log::Level::Warn, "two\nlines");
        log("upstream", log::Level::Debug, "said");
        log("outrider_upstream::pool", log::Level::Debug, "by its crate");
        log("router", log::Level::Error, "never");
        assert!(logging.set_level("router", Level::Error));
        assert!(!logging.set_level("nobody", Level::Error));
        log("router", log::Level::Error, "now");
        logging.critical("main", "f.rs", 1, format_args!("worst"));
        let text = std::fs::read_to_string(&folder).unwrap();
        std::fs::remove_file(&folder).unwrap();
        assert_eq!(
            text,
            "main warning two\\nlines\nupstream debug said\nupstream debug by its crate\nrouter error now\n\
             main critical worst\n"
        );
    }
}

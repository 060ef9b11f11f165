//! The access log: one line for each stream that ends.
//!
//! An [`AccessLog`] is built on the main thread, and each worker makes its own [`WorkerLog`] from it. A worker formats
//! lines into its buffer for the file, and sends the buffer to the file's writer thread when it is full or the flush
//! interval has passed. So a worker never waits for a disk, and the lines of one worker stay in order even if several
//! of its logs write to one file.

mod buffer;
mod files;
mod filter;
mod logged_connection;
mod logged_exchange;
mod stats;

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::accesslog::v3 as api;
use outrider_config::api::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use outrider_config::api::envoy::extensions::access_loggers::file::v3::file_access_log;
use outrider_config::api::envoy::extensions::access_loggers::stream::v3 as stream;
use outrider_config::unpack;
use outrider_net::Timers;
use prost_types::Any;

use crate::Captures;
use crate::Stream;
use crate::access_log::buffer::Buffer;
use crate::access_log::files::Destination;
pub use crate::access_log::files::FlushOptions;
use crate::access_log::files::LogFile;
pub use crate::access_log::files::LogFiles;
pub(crate) use crate::access_log::filter::AccessLogFilter;
pub use crate::access_log::logged_connection::LoggedConnection;
pub use crate::access_log::logged_exchange::LoggedExchange;
use crate::format::DEFAULT_FORMAT;
use crate::format::SubstitutionFormat;

/// Reads a logger's `typed_config`: where its lines go, and their format.
type BuildLogger = fn(&Any, &FieldPath) -> Result<(Destination, SubstitutionFormat), ConfigErrors>;

/// The access loggers.
const FACTORIES: &[Factory<BuildLogger>] = &[
    Factory {
        message: "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        build: build_file,
    },
    Factory {
        message: "envoy.extensions.access_loggers.stream.v3.StderrAccessLog",
        build: build_stderr,
    },
    Factory {
        message: "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        build: build_stdout,
    },
];

/// A configured access log (`envoy.config.accesslog.v3.AccessLog`), shared by all workers.
#[derive(Clone, Debug)]
pub struct AccessLog {
    filter: Option<Arc<AccessLogFilter>>,
    format: Arc<SubstitutionFormat>,
    file: Arc<LogFile>,
}

impl AccessLog {
    /// Builds the `AccessLog` found at `path`, and opens its file.
    ///
    /// # Errors
    /// If a format or filter is wrong, the file cannot be opened, or the logger is not supported.
    pub fn build(
        config: &api::AccessLog,
        path: &FieldPath,
        files: &LogFiles,
    ) -> Result<AccessLog, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let filter = config.filter.as_ref().and_then(|filter| {
            errors.collect(AccessLogFilter::build(filter, &path.field("filter")))
        });
        let logger = errors.collect(logger(config, path));
        let Some((destination, format)) = logger else {
            return Err(errors);
        };
        let typed_config = path.field("typed_config");
        let Some(file) = errors.collect(open(destination, &typed_config.field("path"), files))
        else {
            return Err(errors);
        };
        errors.finish(AccessLog {
            filter: filter.map(Arc::new),
            format: Arc::new(format),
            file,
        })
    }

    /// A log in the default format to the file `name`, which comes from the field at `path` (`admin.access_log_path`).
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn to_file(
        name: &str,
        path: &FieldPath,
        files: &LogFiles,
    ) -> Result<AccessLog, ConfigErrors> {
        Ok(AccessLog {
            filter: None,
            format: Arc::new(SubstitutionFormat::text(DEFAULT_FORMAT, path)?),
            file: open(Destination::named(name), path, files)?,
        })
    }

    /// Adds the headers that the filter and the format read.
    pub fn capture(&self, captures: &mut Captures) {
        if let Some(filter) = &self.filter {
            filter.capture(captures);
        }
        self.format.capture(captures);
    }

    /// This log on a worker, or on the main thread. The first log of a thread for a file spawns the task that flushes
    /// its buffer periodically.
    #[must_use]
    pub fn worker(&self, timers: &Timers) -> WorkerLog {
        WorkerLog {
            filter: self.filter.clone(),
            format: Arc::clone(&self.format),
            buffer: Buffer::of(&self.file, timers),
        }
    }
}

fn logger(
    config: &api::AccessLog,
    path: &FieldPath,
) -> Result<(Destination, SubstitutionFormat), ConfigErrors> {
    let path = path.field("typed_config");
    let Some(api::access_log::ConfigType::TypedConfig(typed)) = &config.config_type else {
        return Err(ConfigErrors::from(ConfigError::new(
            &path,
            "a typed_config is required",
        )));
    };
    let build = Factory::find(FACTORIES, "access logger", typed, &path)?;
    build(typed, &path)
}

fn open(
    destination: Destination,
    path: &FieldPath,
    files: &LogFiles,
) -> Result<Arc<LogFile>, ConfigErrors> {
    files
        .open(destination)
        .map_err(|error| ConfigErrors::from(ConfigError::new(path, error)))
}

#[expect(deprecated, reason = "Envoy still obeys the older formats")]
fn build_file(
    typed: &Any,
    path: &FieldPath,
) -> Result<(Destination, SubstitutionFormat), ConfigErrors> {
    use file_access_log::AccessLogFormat;
    let config: FileAccessLog = unpack(typed, path)?;
    let format = match &config.access_log_format {
        Some(AccessLogFormat::LogFormat(format)) => {
            SubstitutionFormat::build(format, &path.field("log_format"))
        }
        Some(AccessLogFormat::JsonFormat(format)) => {
            SubstitutionFormat::json(format, &path.field("json_format"))
        }
        Some(AccessLogFormat::TypedJsonFormat(format)) => {
            SubstitutionFormat::json(format, &path.field("typed_json_format"))
        }
        Some(AccessLogFormat::Format(format)) if !format.is_empty() => {
            SubstitutionFormat::text(format, &path.field("format"))
        }
        Some(AccessLogFormat::Format(_)) | None => SubstitutionFormat::text(DEFAULT_FORMAT, path),
    };
    Ok((Destination::named(&config.path), format?))
}

fn build_stdout(
    typed: &Any,
    path: &FieldPath,
) -> Result<(Destination, SubstitutionFormat), ConfigErrors> {
    use stream::stdout_access_log::AccessLogFormat;
    let config: stream::StdoutAccessLog = unpack(typed, path)?;
    let format = match &config.access_log_format {
        Some(AccessLogFormat::LogFormat(format)) => {
            SubstitutionFormat::build(format, &path.field("log_format"))?
        }
        None => SubstitutionFormat::text(DEFAULT_FORMAT, path)?,
    };
    Ok((Destination::Stdout, format))
}

fn build_stderr(
    typed: &Any,
    path: &FieldPath,
) -> Result<(Destination, SubstitutionFormat), ConfigErrors> {
    use stream::stderr_access_log::AccessLogFormat;
    let config: stream::StderrAccessLog = unpack(typed, path)?;
    let format = match &config.access_log_format {
        Some(AccessLogFormat::LogFormat(format)) => {
            SubstitutionFormat::build(format, &path.field("log_format"))?
        }
        None => SubstitutionFormat::text(DEFAULT_FORMAT, path)?,
    };
    Ok((Destination::Stderr, format))
}

/// An access log on one worker.
pub struct WorkerLog {
    filter: Option<Arc<AccessLogFilter>>,
    format: Arc<SubstitutionFormat>,
    buffer: Rc<Buffer>,
}

impl WorkerLog {
    /// Writes a stream that has ended. Never waits: if the file cannot keep up, the line is dropped and counted.
    pub fn log(&self, stream: &Stream) {
        if let Some(filter) = &self.filter
            && !filter.passes(stream)
        {
            return;
        }
        self.buffer.add(|out| self.format.write(stream, out));
    }

    /// Sends the buffered lines to the writer. Needed where the log is not dropped before [`LogFiles::finish`].
    pub fn flush(&self) {
        self.buffer.flush();
    }

    /// Writes a request that no connection manager served.
    pub fn log_exchange(&self, exchange: &LoggedExchange<'_>) {
        self.log(&exchange.stream());
    }
}

impl fmt::Debug for WorkerLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerLog")
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

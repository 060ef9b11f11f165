//! Log files and the threads that write them.
//!
//! Each file has a thread of its own, so that a blocked file (a full pipe, a slow disk) does not delay the others. The
//! number of waiting buffers is limited; lines beyond that are dropped and counted.

use std::collections::HashMap;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Duration;

use outrider_stats::Scope;
use outrider_stats::Store;
use outrider_upstream::EventFile;
use outrider_upstream::EventFiles;
use rustix::fs::OFlags;
use rustix::fs::fcntl_getfl;
use rustix::fs::fcntl_setfl;

use crate::access_log::stats::AccessLogStats;
use crate::access_log::stats::FilesystemStats;

/// How many buffers may wait for a file's thread: 8 MiB with the default of 64 KiB each.
const MAX_WAITING: usize = 128;

/// The stack of a writer's thread, which calls nothing deep.
const STACK: usize = 64 * 1024;

/// How long the process waits for each file when it ends.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// When workers send lines to the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushOptions {
    /// `--file-flush-interval-msec`
    pub interval: Duration,
    /// `--file-flush-min-size-kb`, in bytes.
    pub min_size: usize,
}

impl Default for FlushOptions {
    fn default() -> FlushOptions {
        FlushOptions {
            interval: Duration::from_secs(10),
            min_size: 64 * 1024,
        }
    }
}

/// The file or stream that lines are written to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Destination {
    File(String),
    Stdout,
    Stderr,
}

impl Destination {
    /// The file called `name`. The names of the two standard streams are taken for the streams, so that logs to a
    /// stream and to its name write through one file, in order.
    pub(crate) fn named(name: &str) -> Destination {
        match name {
            "/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1" => Destination::Stdout,
            "/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2" => Destination::Stderr,
            name => Destination::File(name.to_owned()),
        }
    }
}

/// All log files of the process. Belongs to the main thread.
#[derive(Debug)]
pub struct LogFiles {
    options: FlushOptions,
    stats: Arc<FilesystemStats>,
    access_log_stats: Arc<AccessLogStats>,
    /// Locked when a log is built and when files are reopened, never while a request is served.
    files: Mutex<HashMap<Destination, Arc<LogFile>>>,
}

/// One open file, as workers see it.
#[derive(Debug)]
pub(crate) struct LogFile {
    options: FlushOptions,
    pub(super) stats: Arc<FilesystemStats>,
    pub(super) access_log_stats: Arc<AccessLogStats>,
    /// Set to make the writer reopen the file before its next write.
    reopen: Arc<AtomicBool>,
    messages: SyncSender<WriterMessage>,
}

enum WriterMessage {
    Write(Vec<u8>),
    /// Wakes the writer, so that it reopens the file without waiting for lines.
    Wake,
    /// Ends the writer once it has written all earlier lines.
    End(mpsc::Sender<()>),
}

impl LogFiles {
    /// Without any open file.
    #[must_use]
    pub fn new(options: FlushOptions, store: &Arc<Store>) -> LogFiles {
        LogFiles {
            options,
            stats: store.register(Scope::new("filesystem")),
            access_log_stats: store.register(Scope::new("access_log")),
            files: Mutex::default(),
        }
    }

    /// Opens `destination`, or returns the file if it is open already.
    pub(crate) fn open(&self, destination: Destination) -> Result<Arc<LogFile>, String> {
        if let Some(file) = self.lock().get(&destination) {
            return Ok(Arc::clone(file));
        }
        let output =
            LogOutput::open(&destination).map_err(|error| open_error(&destination, &error))?;
        let (messages, received) = mpsc::sync_channel(MAX_WAITING);
        let reopen = Arc::new(AtomicBool::new(false));
        let writer = FileWriter {
            output,
            destination: destination.clone(),
            stats: Arc::clone(&self.stats),
            reopen: Arc::clone(&reopen),
        };
        thread::Builder::new()
            .name("access_log".to_owned())
            .stack_size(STACK)
            .spawn(move || writer.run(received))
            .map_err(|error| format!("unable to start a log writer: {error}"))?;
        let file = Arc::new(LogFile {
            options: self.options,
            stats: Arc::clone(&self.stats),
            access_log_stats: Arc::clone(&self.access_log_stats),
            reopen,
            messages,
        });
        let mut files = self.lock();
        // Files that only a replaced config used: their writers write the lines they have, and end.
        files.retain(|_, file| Arc::strong_count(file) > 1);
        files.insert(destination, Arc::clone(&file));
        Ok(file)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Destination, Arc<LogFile>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reopens every file, after log rotation (SIGUSR1).
    pub fn reopen(&self) {
        for file in self.lock().values() {
            file.reopen.store(true, Ordering::Relaxed);
            // If the queue is full, the writer is awake already.
            file.messages.try_send(WriterMessage::Wake).ok();
        }
    }

    /// Waits, up to a limit, until all lines in the queues are written. Workers must have ended before.
    pub fn finish(&self) {
        for file in self.lock().values() {
            let (done, wait) = mpsc::channel();
            if file.messages.try_send(WriterMessage::End(done)).is_ok() {
                // If a file does not finish in time, its lines are lost: the process ends.
                wait.recv_timeout(LAST_WAIT).ok();
            }
        }
    }
}

fn open_error(destination: &Destination, error: &io::Error) -> String {
    let reason = error.to_string();
    let reason = reason.split(" (os error").next().unwrap_or_default();
    match destination {
        Destination::File(name) => format!("unable to open file '{name}': {reason}"),
        Destination::Stdout => format!("unable to open stdout: {reason}"),
        Destination::Stderr => format!("unable to open stderr: {reason}"),
    }
}

impl LogFile {
    pub(crate) fn flush_size(&self) -> usize {
        self.options.min_size
    }

    pub(crate) fn flush_interval(&self) -> Duration {
        self.options.interval
    }

    pub(crate) fn flushed_by_timer(&self) {
        self.stats.flushed_by_timer.inc();
    }

    /// Sends `count` lines to the writer, or drops them if its queue is full.
    pub(crate) fn write(&self, lines: Vec<u8>, count: u64) {
        let size = lines.len() as u64;
        self.stats.write_total_buffered.add(size);
        if self.messages.try_send(WriterMessage::Write(lines)).is_ok() {
            self.stats.write_buffered.add(count);
        } else {
            self.stats.write_total_buffered.sub(size);
            self.access_log_stats.lines_dropped.add(count);
        }
    }
}

impl EventFiles for LogFiles {
    fn open(&self, path: &str) -> Result<Arc<dyn EventFile>, String> {
        let file: Arc<LogFile> = LogFiles::open(self, Destination::named(path))?;
        Ok(file)
    }
}

impl EventFile for LogFile {
    fn write(&self, line: Vec<u8>) {
        LogFile::write(self, line, 1);
    }
}

struct FileWriter {
    output: LogOutput,
    destination: Destination,
    stats: Arc<FilesystemStats>,
    reopen: Arc<AtomicBool>,
}

impl FileWriter {
    /// Runs until [`WriterMessage::End`], or until no worker can send any more.
    fn run(mut self, messages: Receiver<WriterMessage>) {
        while let Ok(message) = messages.recv() {
            if self.reopen.swap(false, Ordering::Relaxed) {
                self.open_again();
            }
            match message {
                WriterMessage::Write(lines) => self.write(&lines),
                WriterMessage::Wake => {}
                WriterMessage::End(done) => {
                    drop(messages);
                    // The waiting thread may have given up.
                    done.send(()).ok();
                    return;
                }
            }
        }
    }

    fn write(&mut self, lines: &[u8]) {
        match self.output.write(lines) {
            Ok(()) => self.stats.write_completed.inc(),
            Err(_) => self.stats.write_failed.inc(),
        }
        self.stats.write_total_buffered.sub(lines.len() as u64);
    }

    fn open_again(&mut self) {
        match LogOutput::open(&self.destination) {
            Ok(output) => self.output = output,
            // The writer continues with the old file.
            Err(_) => self.stats.reopen_failed.inc(),
        }
    }
}

enum LogOutput {
    File(File),
    Stdout,
    Stderr,
}

impl LogOutput {
    fn open(destination: &Destination) -> io::Result<LogOutput> {
        Ok(match destination {
            Destination::File(name) => {
                LogOutput::File(OpenOptions::new().append(true).create(true).open(name)?)
            }
            Destination::Stdout => {
                append(io::stdout());
                LogOutput::Stdout
            }
            Destination::Stderr => {
                append(io::stderr());
                LogOutput::Stderr
            }
        })
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            LogOutput::File(file) => file.write_all(lines),
            LogOutput::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(lines)?;
                stdout.flush()
            }
            LogOutput::Stderr => io::stderr().lock().write_all(lines),
        }
    }
}

/// Makes writes to a standard stream append. If both streams were redirected separately to the same regular file, they
/// would otherwise overwrite each other's lines.
fn append(stream: impl AsFd) {
    if let Ok(flags) = fcntl_getfl(&stream) {
        // A descriptor that cannot append is not a regular file, so no lines can be overwritten.
        fcntl_setfl(&stream, flags | OFlags::APPEND).ok();
    }
}

//! What is counted of log files.

use outrider_stats::Counter;
use outrider_stats::Gauge;

outrider_stats::group! {
    /// `filesystem.*`
    pub struct FilesystemStats {
        flushed_by_timer: Counter,
        reopen_failed: Counter,
        write_buffered: Counter,
        write_completed: Counter,
        write_failed: Counter,
        write_total_buffered: Gauge,
    }
}

outrider_stats::group! {
    /// `access_log.*`: lines that were dropped because their file could not keep up. Envoy, which has no bound, has no such
    /// counter.
    pub struct AccessLogStats {
        lines_dropped: Counter,
    }
}

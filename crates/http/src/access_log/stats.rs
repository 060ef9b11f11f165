//! The stats of log files, which workers and writer threads count.

use outrider_stats::SharedCounter;
use outrider_stats::SharedGauge;

outrider_stats::group! {
    /// `filesystem.*`
    pub struct FilesystemStats {
        flushed_by_timer: SharedCounter,
        reopen_failed: SharedCounter,
        write_buffered: SharedCounter,
        write_completed: SharedCounter,
        write_failed: SharedCounter,
        write_total_buffered: SharedGauge,
    }
}

outrider_stats::group! {
    /// `access_log.*`: lines that were dropped because their file could not keep up. Envoy has no such counter, because
    /// its queue is not limited.
    pub struct AccessLogStats {
        lines_dropped: SharedCounter,
    }
}

//! Signals: SIGTERM and SIGINT ask the process to end, SIGUSR1 opens log files again, SIGHUP reloads the config.
//! SIGPIPE is ignored by Rust's own start-up code.

use std::io;

use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use crate::control::Control;
use crate::reload::Trigger;

/// The signals that the process handles itself, from now on.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
}

impl Signals {
    /// Replaces the system's default handlers, which would end the process.
    pub(crate) fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }

    /// Handles signals. Returns when one asks the process to end; may be called again to wait for the next such signal.
    pub(crate) async fn until_end(&mut self, control: &Control) {
        loop {
            tokio::select! {
                Some(()) = self.terminate.recv() => return log::warn!(target: "main", "caught SIGTERM"),
                Some(()) = self.interrupt.recv() => return log::warn!(target: "main", "caught SIGINT"),
                Some(()) = self.hangup.recv() => {
                    log::info!(target: "main", "caught SIGHUP. Reloading the config.");
                    control.reloader.request(Trigger::Signal);
                }
                Some(()) = self.user1.recv() => {
                    log::info!(target: "main", "caught SIGUSR1. Reopening access logs.");
                    control.reopen_logs();
                }
                else => return std::future::pending().await,
            }
        }
    }
}

//! The timers of one connection: how long it may be idle, how long it may last, and when it is logged.

use std::task::Context;
use std::task::Poll;

use outrider_config::api::envoy::data::accesslog::v3::AccessLogType;
use outrider_http::ResponseFlag;
use outrider_net::Timer;

use super::session::Session;

/// The timers of a connection.
pub(super) struct SessionTimers {
    idle: Timer,
    age: Timer,
    log: Timer,
}

impl SessionTimers {
    /// The timers of a connection that begins now.
    pub(super) fn new(session: &Session) -> SessionTimers {
        let config = &session.proxy.config;
        let timers = &session.proxy.worker.timers;
        let now = timers.now();
        let (mut idle, mut age, mut log) = (timers.timer(), timers.timer(), timers.timer());
        idle.set(config.idle_timeout.map(|limit| now + limit));
        age.set(config.max_duration().map(|limit| now + limit));
        log.set(config.log_moments.interval.map(|interval| now + interval));
        SessionTimers { idle, age, log }
    }

    /// Ready once the connection must be closed, which is counted. Logs it in between.
    pub(super) fn poll(&mut self, session: &Session, cx: &mut Context<'_>) -> Poll<()> {
        let proxy = &session.proxy;
        while self.idle.poll_elapsed(cx).is_ready() {
            // Bytes do not move the timer. When it fires, it is set again to the time at which the connection will have
            // been idle for long enough.
            let now = proxy.worker.timers.now();
            let limit = proxy.config.idle_timeout;
            let deadline = limit.map(|limit| session.last_activity() + limit);
            self.idle.set(deadline);
            if deadline.is_some_and(|deadline| deadline <= now) {
                proxy.stats.idle_timeout.inc();
                return Poll::Ready(());
            }
        }
        if self.age.poll_elapsed(cx).is_ready() {
            proxy.stats.max_downstream_connection_duration.inc();
            session.flag(ResponseFlag::DurationTimeout);
            return Poll::Ready(());
        }
        while self.log.poll_elapsed(cx).is_ready() {
            session.log(AccessLogType::TcpPeriodic);
            let interval = proxy.config.log_moments.interval;
            let now = proxy.worker.timers.now();
            self.log.set(interval.map(|interval| now + interval));
        }
        Poll::Pending
    }
}

//! The timeouts of one stream, on one timer.
//!
//! Deadlines move far more often than they pass: the idle deadline moves with every frame. So the timer is armed for
//! the earliest deadline and not touched when that deadline moves later. Only when it fires is it armed again, for the
//! earliest deadline still ahead.

use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use http::StatusCode;
use outrider_codec::Meter;
use outrider_net::TimeoutScale;
use outrider_net::Timer;
use outrider_net::clock;
use outrider_net::scaled;
use tokio::time::Instant;

use crate::ResponseFlag;
use crate::local_reply::LocalReply;

/// Which timeout passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExpiredTimeout {
    /// `stream_idle_timeout`, or the route's `idle_timeout`.
    Idle,
    /// `request_timeout`
    Request,
    /// `max_stream_duration`, also by `grpc-timeout`.
    Duration,
    /// The route's `timeout`.
    Response,
    /// `per_try_timeout`, or `x-envoy-upstream-rq-per-try-timeout-ms`
    PerTry,
    /// `per_try_idle_timeout`
    PerTryIdle,
    /// The cluster's `max_stream_duration`.
    UpstreamDuration,
}

/// A timer, and the time that it is armed for.
#[derive(Debug)]
pub(crate) struct DeadlineTimer {
    timer: Timer,
    armed: Option<Instant>,
}

/// The deadlines of one stream.
#[derive(Debug)]
pub(crate) struct StreamDeadlines {
    timer: DeadlineTimer,
    /// Whether the timer may have to be armed for an earlier time.
    moved: bool,
    /// Whether the request was still incomplete at the last poll.
    awaits_request: bool,
    /// The number of frames in both directions on the client's side at the last poll.
    activity: u64,
    idle_since: Instant,
    idle: Option<Duration>,
    /// How the overload manager shortens `idle`.
    idle_scale: Option<Rc<TimeoutScale>>,
    flush: Option<Duration>,
    request: Option<Instant>,
    duration: Option<Instant>,
    response: Option<Duration>,
    /// When a WebSocket handshake began. Response timeouts count from then, because such a request has no end.
    handshake: Option<Instant>,
    per_try: Option<Duration>,
    /// When the try under way got its connection.
    try_began: Option<Instant>,
    try_idle: Option<Box<TryIdle>>,
    upstream_duration: Option<Instant>,
}

/// The idle timeout of one try.
#[derive(Debug)]
struct TryIdle {
    timeout: Duration,
    /// The counts of the upstream side.
    meter: Rc<Meter>,
    /// The number of frames at the last poll, and the time of that poll.
    activity: u64,
    since: Instant,
}

impl From<Timer> for DeadlineTimer {
    fn from(timer: Timer) -> DeadlineTimer {
        DeadlineTimer { timer, armed: None }
    }
}

impl DeadlineTimer {
    fn set(&mut self, deadline: Option<Instant>) {
        self.armed = deadline;
        self.timer.set(deadline);
    }
}

impl StreamDeadlines {
    /// No deadline yet, for a stream that began at `now`. The `timer` may still be armed for an earlier stream: it is
    /// armed again only if this stream needs it sooner.
    pub(crate) fn new(timer: DeadlineTimer, now: Instant) -> StreamDeadlines {
        StreamDeadlines {
            timer,
            moved: true,
            awaits_request: true,
            activity: 0,
            idle_since: now,
            idle: None,
            idle_scale: None,
            flush: None,
            request: None,
            duration: None,
            response: None,
            handshake: None,
            per_try: None,
            try_began: None,
            try_idle: None,
            upstream_duration: None,
        }
    }

    /// Forgets all deadlines: the request starts again at `now`, as another stream.
    pub(crate) fn restart(&mut self, now: Instant) {
        (self.moved, self.idle_since) = (true, now);
        (self.request, self.duration, self.response) = (None, None, None);
        (self.handshake, self.per_try, self.try_began) = (None, None, None);
        (self.try_idle, self.upstream_duration) = (None, None);
    }

    /// Sets how the overload manager shortens the idle timeout. The timer must be one that is checked again when that
    /// changes.
    pub(crate) fn scale_idle(&mut self, scale: Option<&Rc<TimeoutScale>>) {
        self.idle_scale = scale.cloned();
    }

    /// Sets how long the stream may be idle; `None` for no limit.
    pub(crate) fn set_idle(&mut self, idle: Option<Duration>) {
        self.idle = idle;
        self.moved = true;
    }

    /// Sets how long the stream may be idle once the whole response is waiting for the client; `None` for no limit.
    pub(crate) fn set_flush(&mut self, flush: Option<Duration>) {
        self.flush = flush;
    }

    /// Notes that the upstream has sent its whole response: from now on the flush timeout applies.
    pub(crate) fn begin_flush(&mut self) {
        self.moved |= self.idle != self.flush || self.idle_scale.is_some();
        self.idle = self.flush;
        self.idle_scale = None;
    }

    /// Sets the time by which the whole request must have arrived.
    pub(crate) fn set_request(&mut self, deadline: Option<Instant>) {
        self.request = deadline;
        self.moved = true;
    }

    /// Sets the time by which the stream must have ended.
    pub(crate) fn set_duration(&mut self, deadline: Option<Instant>) {
        self.duration = deadline;
        self.moved = true;
    }

    /// Sets how long after the request's end the response must have ended.
    pub(crate) fn set_response(&mut self, timeout: Option<Duration>) {
        self.response = timeout;
        self.moved = true;
    }

    /// Notes that the request asks for a WebSocket and has its connection: timeouts of the response count from the first
    /// time that this happens.
    pub(crate) fn begin_handshake(&mut self) {
        self.handshake.get_or_insert_with(clock::now);
        self.moved = true;
    }

    /// Notes that the upstream has switched to WebSocket: the timeouts of the response now wait for the client's end.
    pub(crate) fn end_handshake(&mut self) {
        self.handshake = None;
    }

    /// Sets how long the try under way may be idle on the upstream side, whose counts are `meter`.
    pub(crate) fn set_try_idle(&mut self, timeout: Duration, meter: Rc<Meter>) {
        self.try_idle = Some(Box::new(TryIdle {
            timeout,
            activity: meter.activity(),
            meter,
            since: clock::now(),
        }));
        self.moved = true;
    }

    /// Removes the deadlines of a try that has failed.
    pub(crate) fn end_try(&mut self) {
        self.per_try = None;
        self.try_idle = None;
        self.upstream_duration = None;
    }

    /// Sets how long the response to a try, which has just got its connection, may take from now or from the request's
    /// end, whichever is later.
    pub(crate) fn begin_try(&mut self, timeout: Duration) {
        self.per_try = Some(timeout);
        self.try_began = Some(clock::now());
        self.moved = true;
    }

    /// Sets the time by which the upstream stream must have ended.
    pub(crate) fn set_upstream_duration(&mut self, deadline: Option<Instant>) {
        self.upstream_duration = deadline;
        self.moved = true;
    }

    /// Ready when a deadline has passed. `meter` is the client's side of the stream.
    #[inline(never)] // one copy for all callers
    pub(crate) fn poll_expired(
        &mut self,
        meter: &Meter,
        cx: &mut Context<'_>,
    ) -> Poll<ExpiredTimeout> {
        if self.idle.is_some() && self.activity != meter.activity() {
            self.activity = meter.activity();
            self.idle_since = clock::now();
        }
        if let Some(idle) = &mut self.try_idle
            && idle.activity != idle.meter.activity()
        {
            idle.activity = idle.meter.activity();
            idle.since = clock::now();
        }
        // The end of the request removes the request's own deadline and starts those that count from it.
        self.moved |= self.awaits_request && meter.receive_ended().is_some();
        if self.moved {
            self.moved = false;
            self.awaits_request = meter.receive_ended().is_none();
            match self.earliest(meter) {
                Some((next, _)) if self.timer.armed.is_none_or(|armed| next < armed) => {
                    self.timer.set(Some(next));
                }
                _ => {}
            }
        }
        if self.timer.armed.is_none() {
            return Poll::Pending;
        }
        loop {
            std::task::ready!(self.timer.timer.poll_elapsed(cx));
            let Some((next, what)) = self.earliest(meter) else {
                self.timer.set(None);
                return Poll::Pending;
            };
            if Instant::now() >= next {
                return Poll::Ready(what);
            }
            self.timer.set(Some(next));
        }
    }

    /// Returns the timer, for the next stream of the same task.
    pub(crate) fn into_timer(self) -> DeadlineTimer {
        self.timer
    }

    fn earliest(&self, meter: &Meter) -> Option<(Instant, ExpiredTimeout)> {
        let ended = meter.receive_ended();
        let requested = ended.or(self.handshake);
        let after_request = |timeout: Option<Duration>| Some(requested? + timeout?);
        let began = requested.and(requested.max(self.try_began));
        let try_idle = self.try_idle.as_deref().filter(|_| requested.is_some());
        let mut earliest = None;
        for (deadline, what) in [
            (
                (self.idle).map(|idle| self.idle_since + scaled(idle, self.idle_scale.as_deref())),
                ExpiredTimeout::Idle,
            ),
            (
                self.request.filter(|_| ended.is_none()),
                ExpiredTimeout::Request,
            ),
            (self.duration, ExpiredTimeout::Duration),
            (after_request(self.response), ExpiredTimeout::Response),
            (
                began
                    .zip(self.per_try)
                    .map(|(began, timeout)| began + timeout),
                ExpiredTimeout::PerTry,
            ),
            (
                try_idle.map(|idle| idle.since + idle.timeout),
                ExpiredTimeout::PerTryIdle,
            ),
            (self.upstream_duration, ExpiredTimeout::UpstreamDuration),
        ] {
            if let Some(deadline) = deadline
                && earliest.is_none_or(|(before, _)| deadline < before)
            {
                earliest = Some((deadline, what));
            }
        }
        earliest
    }
}

impl ExpiredTimeout {
    /// The reply for a client that has not received a response head yet. `complete`: the client has sent its whole
    /// request, so the delay was not the client's.
    pub(crate) fn reply(self, complete: bool) -> LocalReply {
        let late = if complete {
            StatusCode::GATEWAY_TIMEOUT
        } else {
            StatusCode::REQUEST_TIMEOUT
        };
        let reply = |status, body: &'static str| {
            let reply = LocalReply::new(status, self.details()).body(body);
            LocalReply {
                flag: self.flag(),
                ..reply
            }
        };
        match self {
            ExpiredTimeout::Idle => reply(late, "stream timeout"),
            ExpiredTimeout::Request => reply(StatusCode::REQUEST_TIMEOUT, "request timeout"),
            ExpiredTimeout::Duration => LocalReply {
                grpc_status: Some(4), // DEADLINE_EXCEEDED
                ..reply(late, "downstream duration timeout")
            },
            ExpiredTimeout::Response | ExpiredTimeout::PerTry | ExpiredTimeout::PerTryIdle => {
                reply(StatusCode::GATEWAY_TIMEOUT, "upstream request timeout")
            }
            ExpiredTimeout::UpstreamDuration => reply(late, "upstream max stream duration reached"),
        }
    }

    /// `%RESPONSE_CODE_DETAILS%`
    pub(crate) fn details(self) -> &'static str {
        match self {
            ExpiredTimeout::Idle => "stream_idle_timeout",
            ExpiredTimeout::Request => "request_overall_timeout",
            ExpiredTimeout::Duration => "max_duration_timeout",
            ExpiredTimeout::Response => "response_timeout",
            ExpiredTimeout::PerTry => "upstream_per_try_timeout",
            ExpiredTimeout::PerTryIdle => "upstream_per_try_idle_timeout",
            ExpiredTimeout::UpstreamDuration => "upstream_max_stream_duration_reached",
        }
    }

    /// The response flag of this timeout.
    pub(crate) fn flag(self) -> Option<ResponseFlag> {
        match self {
            ExpiredTimeout::Idle => Some(ResponseFlag::StreamIdleTimeout),
            ExpiredTimeout::Request | ExpiredTimeout::Duration => None,
            ExpiredTimeout::Response | ExpiredTimeout::PerTry | ExpiredTimeout::PerTryIdle => {
                Some(ResponseFlag::UpstreamRequestTimeout)
            }
            ExpiredTimeout::UpstreamDuration => {
                Some(ResponseFlag::UpstreamMaxStreamDurationReached)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use outrider_net::Timers;

    use super::*;

    async fn first(set: impl FnOnce(&mut StreamDeadlines, Instant)) -> (ExpiredTimeout, Duration) {
        let timers = Timers::new();
        let local = tokio::task::LocalSet::new();
        local.spawn_local(timers.clone().run());
        local
            .run_until(async move {
                let start = Instant::now();
                let mut deadlines = StreamDeadlines::new(timers.timer().into(), start);
                set(&mut deadlines, start);
                let meter = Meter::default();
                let expired = poll_fn(|cx| deadlines.poll_expired(&meter, cx)).await;
                (expired, start.elapsed())
            })
            .await
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_deadline_counts() {
        let seconds = Duration::from_secs;
        let (expired, after) = first(|deadlines, start| {
            deadlines.set_idle(Some(seconds(300)));
            deadlines.set_duration(Some(start + seconds(20)));
            deadlines.set_request(Some(start + seconds(10)));
        })
        .await;
        assert_eq!(expired, ExpiredTimeout::Request);
        assert!(after >= seconds(10) && after < seconds(11), "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_route_timeout_waits_for_the_request() {
        let seconds = Duration::from_secs;
        let (expired, _) = first(|deadlines, _| {
            deadlines.set_response(Some(seconds(1)));
            deadlines.begin_try(seconds(1));
            deadlines.set_idle(Some(seconds(300)));
        })
        .await;
        assert_eq!(expired, ExpiredTimeout::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_armed_for_an_earlier_stream_moves_no_deadline() {
        let seconds = Duration::from_secs;
        for (earlier, later) in [(5, 20), (20, 5)] {
            let (_, after) = first(|deadlines, start| {
                deadlines.set_duration(Some(start + seconds(earlier)));
                let mut cx = Context::from_waker(std::task::Waker::noop());
                assert!(
                    deadlines
                        .poll_expired(&Meter::default(), &mut cx)
                        .is_pending()
                );
                let unused = Timers::new().timer().into();
                let before = std::mem::replace(deadlines, StreamDeadlines::new(unused, start));
                *deadlines = StreamDeadlines::new(before.into_timer(), start);
                deadlines.set_duration(Some(start + seconds(later)));
            })
            .await;
            let late = after.checked_sub(seconds(later));
            assert!(late.is_some_and(|late| late < seconds(1)), "{after:?}");
        }
    }
}

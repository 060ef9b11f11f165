//! A request that may be tried several times.

use std::time::Duration;

use outrider_codec::StreamError;
use outrider_net::clock;
use outrider_upstream::Pick;
use outrider_upstream::PickError;

use crate::Stream;
use crate::deadlines::ExpiredTimeout;
use crate::router::RouterCx;
use crate::router::attempt::AttemptFailure;
use crate::router::attempt::AttemptResponse;
use crate::router::attempt::UpstreamAttempt;
use crate::router::failure;
use crate::router::forwarded_request::ForwardedRequest;
use crate::router::host_selection::HostSelection;
use crate::router::replay::ReplayBuffer;
use crate::router::retry::FailedAttempt;
use crate::router::retry::RetryState;
use crate::router::retry::RetryVerdict;
use crate::wait::StopReason;

/// Tries until an attempt's outcome is the request's. Returns that attempt and its response.
pub(super) async fn run<'a>(
    mut retry: RetryState,
    first: UpstreamAttempt<'a>,
    selection: &HostSelection<'_>,
    (stream, buffer): (&mut Stream, &ReplayBuffer),
    cx: &mut RouterCx<'_>,
) -> Result<(UpstreamAttempt<'a>, AttemptResponse), StopReason> {
    let call = first.call();
    // A redirect may need the body once more.
    let stop_keeping = || {
        if call.forward.internal_redirects.is_none() {
            buffer.stop_keeping();
        }
    };
    let mut attempt = first;
    loop {
        retry.tries(attempt.host());
        let outcome = attempt.run(stream, buffer.body(), cx).await;
        let verdict = if buffer.is_abandoned() {
            RetryVerdict::Final
        } else {
            verdict_on(&mut retry, &attempt, &outcome, stream)
        };
        let wait = match verdict {
            RetryVerdict::Retry(wait) => wait,
            RetryVerdict::Final => {
                stop_keeping();
                return finish(attempt, outcome, stream);
            }
            RetryVerdict::Denied(flag) => {
                stream.flags.set(flag);
                stop_keeping();
                return finish(attempt, outcome, stream);
            }
        };
        let after_timeout = matches!(
            outcome,
            Err(AttemptFailure::TimedOut(
                ExpiredTimeout::PerTry | ExpiredTimeout::PerTryIdle
            ))
        );
        if let Ok(answer) = &outcome {
            attempt.count_retried(stream, answer);
        }
        // Resets the attempt's stream, if it has not ended.
        drop(outcome);
        attempt.end_span(stream);
        pause(wait.time, cx).await?;
        retry.begins(wait);
        if let Some(upstream) = &mut stream.upstream {
            upstream.attempts += 1;
        }
        let Ok(pick) = pick(call, &retry, selection) else {
            call.router
                .count_unavailable(stream, &call.cluster, &call.extra_stats);
            let told = call.told_attempts(stream);
            return Err(failure::no_healthy_upstream().after_attempts(told).into());
        };
        let requested = cx.wait.respond.meter().receive_ended();
        let elapsed = requested.map(clock::since).unwrap_or_default();
        call.prepare_again(pick.host(), after_timeout, elapsed, stream);
        attempt = UpstreamAttempt::new(call, pick, stream, cx);
    }
}

fn verdict_on(
    retry: &mut RetryState,
    attempt: &UpstreamAttempt<'_>,
    outcome: &Result<AttemptResponse, AttemptFailure>,
    stream: &Stream,
) -> RetryVerdict {
    let request_began = attempt.request_began();
    let after = |retry: &mut RetryState, error| {
        let failed = FailedAttempt {
            error,
            request_began,
        };
        retry.after_failure(failed, stream)
    };
    match outcome {
        Ok((head, _)) => retry.after_response(head, stream),
        Err(AttemptFailure::Failed(error, _)) => after(retry, error),
        // To Envoy, these reset the attempt's stream.
        Err(AttemptFailure::TimedOut(
            ExpiredTimeout::PerTry | ExpiredTimeout::PerTryIdle | ExpiredTimeout::UpstreamDuration,
        )) => after(retry, &StreamError::LocalReset),
        Err(
            AttemptFailure::TimedOut(_)
            | AttemptFailure::Stopped(_)
            | AttemptFailure::PoolOverflow
            | AttemptFailure::FailedAfterInterim(_),
        ) => RetryVerdict::Final,
    }
}

fn finish<'a>(
    attempt: UpstreamAttempt<'a>,
    outcome: Result<AttemptResponse, AttemptFailure>,
    stream: &mut Stream,
) -> Result<(UpstreamAttempt<'a>, AttemptResponse), StopReason> {
    match outcome {
        Ok(answer) => Ok((attempt, answer)),
        Err(failure) => Err(attempt.give_up(stream, failure)),
    }
}

/// Waits before a retry. The request's timeouts go on, but not those of a try.
async fn pause(wait: Duration, cx: &mut RouterCx<'_>) -> Result<(), StopReason> {
    cx.wait.deadlines.end_try();
    cx.wait.until(tokio::time::sleep(wait)).await
}

/// The host for a retry: another than the policy's predicates reject, if one is found in as many picks as allowed.
fn pick(
    call: &ForwardedRequest<'_>,
    retry: &RetryState,
    selection: &HostSelection<'_>,
) -> Result<Pick, PickError> {
    let mut rejected = 0;
    loop {
        let mut pick = call.cluster.pick(selection.request(rejected))?;
        if rejected < retry.host_selection_attempts() && retry.rejects(pick.host()) {
            rejected += 1;
            continue;
        }
        call.demand(&mut pick);
        return Ok(pick);
    }
}

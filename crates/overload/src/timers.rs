//! The timeouts that an action shortens (`ScaleTimersOverloadActionConfig`).

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::overload::v3::ScaleTimersOverloadActionConfig;
use outrider_config::api::envoy::config::overload::v3::scale_timers_overload_action_config::ScaleTimer;
use outrider_config::api::envoy::config::overload::v3::scale_timers_overload_action_config::TimerType;
use outrider_config::api::envoy::config::overload::v3::scale_timers_overload_action_config::scale_timer::OverloadAdjust;
use outrider_config::duration;
use outrider_net::ScaledTimer;
use outrider_net::TimeoutMinimum;

/// A timeout, and the shortest that it becomes.
pub(crate) type TimerMinimum = (ScaledTimer, TimeoutMinimum);

/// The timeouts that `config`, found at `path`, shortens.
///
/// # Errors
/// All that is wrong with it.
pub(crate) fn build(
    config: &ScaleTimersOverloadActionConfig,
    path: &FieldPath,
) -> Result<Vec<TimerMinimum>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let mut timers: Vec<TimerMinimum> = Vec::new();
    let path = path.field("timer_scale_factors");
    for (index, message) in config.timer_scale_factors.iter().enumerate() {
        let path = path.index(index);
        let Some((timer, minimum)) = errors.collect(one(message, &path)) else {
            continue;
        };
        if timers.iter().any(|(earlier, _)| *earlier == timer) {
            let name = message.timer().as_str_name();
            let text = format!("a second entry for timer type {name}: expected at most one");
            errors.push(&path.field("timer"), text);
        }
        timers.push((timer, minimum));
    }
    errors.finish(timers)
}

fn one(message: &ScaleTimer, path: &FieldPath) -> Result<TimerMinimum, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let timer = match message.timer() {
        TimerType::HttpDownstreamConnectionIdle => ScaledTimer::ConnectionIdle,
        TimerType::HttpDownstreamStreamIdle => ScaledTimer::StreamIdle,
        TimerType::TransportSocketConnect => ScaledTimer::TransportSocketConnect,
        TimerType::HttpDownstreamConnectionMax => ScaledTimer::ConnectionMax,
        TimerType::HttpDownstreamStreamFlush => {
            errors.push(
                &path.field("timer"),
                "not supported: HTTP_DOWNSTREAM_STREAM_FLUSH",
            );
            return Err(errors);
        }
        TimerType::Unspecified => {
            errors.push(&path.field("timer"), "expected a timer type");
            return Err(errors);
        }
    };
    let minimum = match &message.overload_adjust {
        Some(OverloadAdjust::MinTimeout(timeout)) => {
            let timeout = duration::optional(Some(timeout), &path.field("min_timeout"));
            let timeout = errors.collect(timeout).flatten();
            TimeoutMinimum::Absolute(timeout.unwrap_or_default())
        }
        Some(OverloadAdjust::MinScale(percent)) => TimeoutMinimum::Share(percent.value / 100.0),
        None => {
            errors.push(path, "expected min_timeout or min_scale");
            return Err(errors);
        }
    };
    errors.finish((timer, minimum))
}

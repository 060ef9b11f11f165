//! `google.protobuf.Duration` as a [`std::time::Duration`].

use std::time::Duration;

use crate::ConfigError;
use crate::FieldPath;

/// The duration found at `path`.
///
/// # Errors
/// It is negative, or its nanoseconds are not a fraction of a second.
pub fn to_std(duration: &prost_types::Duration, path: &FieldPath) -> Result<Duration, ConfigError> {
    match (
        u64::try_from(duration.seconds),
        u32::try_from(duration.nanos),
    ) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => Err(ConfigError::new(
            path,
            format!(
                "expected a positive duration, got {} s {} ns",
                duration.seconds, duration.nanos
            ),
        )),
    }
}

/// Like [`to_std`] for a field that may be absent.
///
/// # Errors
/// As [`to_std`].
pub fn optional(
    duration: Option<&prost_types::Duration>,
    path: &FieldPath,
) -> Result<Option<Duration>, ConfigError> {
    duration.map(|duration| to_std(duration, path)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_negative_durations() {
        let path = FieldPath::root().field("timeout");
        let duration = |seconds, nanos| prost_types::Duration { seconds, nanos };
        assert_eq!(to_std(&duration(1, 5), &path), Ok(Duration::new(1, 5)));
        assert!(to_std(&duration(-1, 0), &path).is_err());
        assert!(to_std(&duration(0, -1), &path).is_err());
        assert!(to_std(&duration(0, 1_000_000_000), &path).is_err());
        assert_eq!(optional(None, &path), Ok(None));
    }
}

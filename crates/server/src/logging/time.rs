//! Calendar time in UTC, for log lines.

use std::time::Duration;

/// A moment, broken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Civil {
    pub(crate) year: u64,
    /// 1 to 12.
    pub(crate) month: usize,
    /// 1 to 31.
    pub(crate) day: u64,
    /// 0 is Sunday.
    pub(crate) weekday: usize,
    pub(crate) hour: u64,
    pub(crate) minute: u64,
    pub(crate) second: u64,
    pub(crate) nanos: u32,
}

impl Civil {
    /// Breaks down the time since 1970 (the proleptic Gregorian calendar, counted in eras of 400 years from March on).
    pub(crate) fn from_unix(since: Duration) -> Civil {
        let days = since.as_secs() / 86_400;
        let seconds = since.as_secs() % 86_400;
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 {
            from_march + 3
        } else {
            from_march - 9
        };
        Civil {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month: usize::try_from(month).unwrap_or(1),
            day: day_of_year - (153 * from_march + 2) / 5 + 1,
            weekday: usize::try_from((days + 4) % 7).unwrap_or(0),
            hour: seconds / 3_600,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            nanos: since.subsec_nanos(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaks_down_known_moments() {
        for (seconds, date, weekday, time) in [
            (0, (1970, 1, 1), 4, (0, 0, 0)),
            (951_827_696, (2000, 2, 29), 2, (12, 34, 56)),
            (1_795_373_474, (2026, 11, 22), 0, (18, 51, 14)),
            (4_107_542_399, (2100, 2, 28), 0, (23, 59, 59)),
        ] {
            let civil = Civil::from_unix(Duration::from_secs(seconds));
            assert_eq!((civil.year, civil.month, civil.day), date);
            assert_eq!(civil.weekday, weekday, "{date:?}");
            assert_eq!((civil.hour, civil.minute, civil.second), time);
        }
    }
}

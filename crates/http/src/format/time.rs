//! Points in time as text: the `strftime` language of `%START_TIME(…)%`, in UTC.
//!
//! The language is absl's: strftime, `%s` and `%E…`. Envoy adds `%f` with an optional number of digits.

use std::time::SystemTime;
use std::time::UNIX_EPOCH;

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A compiled format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TimeFormat(Box<[FormatItem]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum FormatItem {
    Literal(Box<str>),
    /// One of strftime's letters.
    Field(char),
    /// A number without its leading zero or blank (`%-d`).
    Unpadded(char),
    /// This many digits of the second's fraction.
    Fraction(usize),
    /// The second's fraction without trailing zeros, at least one digit (`%E*f`).
    ShortestFraction,
    /// Seconds with the fraction without trailing zeros (`%E*S`).
    ShortestSeconds,
}

/// A date and time in UTC.
#[derive(Clone, Copy, Debug)]
struct CalendarTime {
    year: i64,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
    nanos: u32,
    /// 0 to 6 from Sunday.
    weekday: u32,
    /// 0 to 365.
    year_day: u32,
    unix: i64,
}

impl TimeFormat {
    /// `2006-01-02T15:04:05.000Z`, the default of `%START_TIME%`.
    pub(crate) fn default_format() -> TimeFormat {
        TimeFormat::parse("%Y-%m-%dT%H:%M:%E3SZ")
    }

    /// Compiles `format`. As in Envoy, unknown conversions are printed literally.
    pub(crate) fn parse(format: &str) -> TimeFormat {
        let mut items = FormatParser::default();
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            items.literal.push_str(&rest[..at]);
            let length = items.conversion(&rest[at + 1..]);
            rest = &rest[at + 1 + length..];
        }
        items.literal.push_str(rest);
        items.flush();
        TimeFormat(items.list.into())
    }

    /// Appends `time` to `out`.
    pub(crate) fn write(&self, time: SystemTime, out: &mut Vec<u8>) {
        let civil = CalendarTime::from(time);
        for item in &self.0 {
            match item {
                FormatItem::Literal(text) => out.extend_from_slice(text.as_bytes()),
                FormatItem::Field(letter) => civil.field(*letter, out),
                FormatItem::Unpadded(letter) => {
                    let start = out.len();
                    civil.field(*letter, out);
                    let padding = out[start..]
                        .iter()
                        .take_while(|byte| matches!(byte, b'0' | b' '))
                        .count();
                    let padding = padding.min(out.len() - start - 1);
                    out.drain(start..start + padding);
                }
                FormatItem::Fraction(digits) => civil.fraction(*digits, out),
                FormatItem::ShortestFraction => civil.shortest_fraction(out),
                FormatItem::ShortestSeconds => {
                    digits(civil.second.into(), 2, out);
                    if civil.nanos > 0 {
                        out.push(b'.');
                        civil.shortest_fraction(out);
                    }
                }
            }
        }
    }
}

#[derive(Default)]
struct FormatParser {
    list: Vec<FormatItem>,
    literal: String,
}

impl FormatParser {
    fn flush(&mut self) {
        if !self.literal.is_empty() {
            let text = std::mem::take(&mut self.literal);
            self.list.push(FormatItem::Literal(text.into()));
        }
    }

    fn push(&mut self, item: FormatItem) {
        self.flush();
        self.list.push(item);
    }

    /// Parses the conversion after a `%`, and returns its length.
    fn conversion(&mut self, text: &str) -> usize {
        let mut letters = text.chars();
        let (first, second, third) = (letters.next(), letters.next(), letters.next());
        match (first, second, third) {
            (Some('%'), ..) => {
                self.literal.push('%');
                1
            }
            (Some('f'), ..) => {
                self.push(FormatItem::Fraction(9));
                1
            }
            (Some(count @ '1'..='9'), Some('f'), _) => {
                self.push(FormatItem::Fraction(count as usize - '0' as usize));
                2
            }
            (Some('E'), Some('*'), Some('S')) => {
                self.push(FormatItem::ShortestSeconds);
                3
            }
            (Some('E'), Some('*'), Some('f')) => {
                self.push(FormatItem::ShortestFraction);
                3
            }
            (Some('E'), Some(count @ '0'..='9'), Some(unit @ ('S' | 'f'))) => {
                let count = count as usize - '0' as usize;
                if unit == 'S' {
                    self.push(FormatItem::Field('S'));
                    if count > 0 {
                        self.literal.push('.');
                    }
                }
                if count > 0 {
                    self.push(FormatItem::Fraction(count));
                }
                3
            }
            (Some('E'), Some('4'), Some('Y')) => {
                self.push(FormatItem::Field('Y'));
                3
            }
            (Some('E'), Some('*'), Some('z')) | (Some(':'), Some(':'), Some('z')) => {
                self.literal.push_str("+00:00:00");
                3
            }
            (Some('E'), Some('z'), _) | (Some(':'), Some('z'), _) => {
                self.literal.push_str("+00:00");
                2
            }
            (Some('E'), Some('T'), _) => {
                self.literal.push('T');
                2
            }
            (Some('-'), Some(letter), _) if is_field(letter) => {
                self.push(FormatItem::Unpadded(letter));
                2
            }
            (Some(letter), ..) if is_field(letter) => {
                self.push(FormatItem::Field(letter));
                1
            }
            _ => {
                self.literal.push('%');
                0
            }
        }
    }
}

fn is_field(letter: char) -> bool {
    "aAbBcCdDeFgGhHIjklmMpPrRsStTuUVwWxXyYzZ".contains(letter)
}

impl From<SystemTime> for CalendarTime {
    fn from(time: SystemTime) -> CalendarTime {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        let days = unix / 86_400;
        // Seconds of a day fit into 32 bits.
        let seconds = u32::try_from(unix % 86_400).unwrap_or(0);
        let (year, month, day) = date(days);
        let first = days_since_epoch(year);
        CalendarTime {
            year,
            month,
            day,
            hour: seconds / 3600,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            nanos: since.subsec_nanos(),
            weekday: small((days + 4) % 7),
            year_day: small(days - first),
            unix,
        }
    }
}

impl CalendarTime {
    fn field(&self, letter: char, out: &mut Vec<u8>) {
        let hour12 = match self.hour % 12 {
            0 => 12,
            hour => hour,
        };
        let iso_weekday = if self.weekday == 0 { 7 } else { self.weekday };
        match letter {
            'a' => out.extend_from_slice(&DAYS[self.weekday as usize].as_bytes()[..3]),
            'A' => out.extend_from_slice(DAYS[self.weekday as usize].as_bytes()),
            'b' | 'h' => out.extend_from_slice(&MONTHS[self.month as usize - 1].as_bytes()[..3]),
            'B' => out.extend_from_slice(MONTHS[self.month as usize - 1].as_bytes()),
            'c' => self.fields("a b e T Y", out),
            'C' => digits(self.year / 100, 2, out),
            'd' => digits(self.day.into(), 2, out),
            'D' | 'x' => self.fields("m/d/y", out),
            'e' => padded(self.day, out),
            'F' => self.fields("Y-m-d", out),
            'g' => digits(self.iso_week().0 % 100, 2, out),
            'G' => digits(self.iso_week().0, 1, out),
            'H' => digits(self.hour.into(), 2, out),
            'I' => digits(hour12.into(), 2, out),
            'j' => digits(i64::from(self.year_day) + 1, 3, out),
            'k' => padded(self.hour, out),
            'l' => padded(hour12, out),
            'm' => digits(self.month.into(), 2, out),
            'M' => digits(self.minute.into(), 2, out),
            'p' => out.extend_from_slice(if self.hour < 12 { b"AM" } else { b"PM" }),
            'P' => out.extend_from_slice(if self.hour < 12 { b"am" } else { b"pm" }),
            'r' => self.fields("I:M:S p", out),
            'R' => self.fields("H:M", out),
            's' => digits(self.unix, 1, out),
            'S' => digits(self.second.into(), 2, out),
            't' => out.push(b'\t'),
            'T' | 'X' => self.fields("H:M:S", out),
            'u' => digits(iso_weekday.into(), 1, out),
            'U' => digits(((self.year_day + 7 - self.weekday) / 7).into(), 2, out),
            'V' => digits(self.iso_week().1, 2, out),
            'w' => digits(self.weekday.into(), 1, out),
            'W' => digits(((self.year_day + 8 - iso_weekday) / 7).into(), 2, out),
            'y' => digits(self.year % 100, 2, out),
            'Y' => digits(self.year, 1, out),
            'z' => out.extend_from_slice(b"+0000"),
            'Z' => out.extend_from_slice(b"UTC"),
            _ => {}
        }
    }

    /// Appends several fields with the literal text between them.
    fn fields(&self, letters: &str, out: &mut Vec<u8>) {
        for letter in letters.chars() {
            if is_field(letter) {
                self.field(letter, out);
            } else {
                out.push(letter as u8);
            }
        }
    }

    fn fraction(&self, count: usize, out: &mut Vec<u8>) {
        let start = out.len();
        digits(self.nanos.into(), 9, out);
        out.truncate(start + count);
    }

    fn shortest_fraction(&self, out: &mut Vec<u8>) {
        let start = out.len();
        self.fraction(9, out);
        while out.len() > start + 1 && out.ends_with(b"0") {
            out.pop();
        }
    }

    /// The week of ISO 8601 and the year that it belongs to.
    fn iso_week(&self) -> (i64, i64) {
        let iso_weekday = if self.weekday == 0 { 7 } else { self.weekday };
        let week = (i64::from(self.year_day) + 11 - i64::from(iso_weekday)) / 7;
        if week < 1 {
            (self.year - 1, weeks_in(self.year - 1))
        } else if week > weeks_in(self.year) {
            (self.year + 1, 1)
        } else {
            (self.year, week)
        }
    }
}

/// Appends `value` with at least `width` digits.
fn digits(value: i64, width: usize, out: &mut Vec<u8>) {
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(value);
    out.extend(std::iter::repeat_n(b'0', width.saturating_sub(text.len())));
    out.extend_from_slice(text.as_bytes());
}

/// Appends `value`, with a blank before a single digit.
fn padded(value: u32, out: &mut Vec<u8>) {
    if value < 10 {
        out.push(b' ');
    }
    digits(value.into(), 1, out);
}

/// Year, month and day of a day since 1970-01-01, which is not negative (H. Hinnant's `civil_from_days`).
fn date(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, small(month), small(day))
}

/// The day since the epoch on which `year` begins.
fn days_since_epoch(year: i64) -> i64 {
    let before = year - 1;
    before * 365 + before / 4 - before / 100 + before / 400 - 719_162
}

fn weeks_in(year: i64) -> i64 {
    let weekday = (days_since_epoch(year) + 4).rem_euclid(7);
    let leap = days_since_epoch(year + 1) - days_since_epoch(year) == 366;
    if weekday == 4 || (leap && weekday == 3) {
        53
    } else {
        52
    }
}

/// Converts a part of a date, which is always small enough.
fn small(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn format(format: &str, unix: u64, nanos: u32) -> String {
        let mut out = Vec::new();
        TimeFormat::parse(format).write(UNIX_EPOCH + Duration::new(unix, nanos), &mut out);
        String::from_utf8(out).unwrap()
    }

    /// The outputs of Envoy 1.40.0 for 2026-11-22 18:53:18.017503, a Sunday.
    #[test]
    fn prints_as_envoy_does() {
        for (text, expected) in [
            ("%Y-%m-%dT%H:%M:%E3SZ", "2026-11-22T18:53:18.017Z"),
            ("%s.%3f", "1795373598.017"),
            ("%f", "017503000"),
            ("%1f|%2f|%6f|%9f|%0f", "0|01|017503|017503000|%0f"),
            ("%C|%E3S|%E*S|%E3f|%E*f", "20|18.017|18.017503|017|017503"),
            ("%Ez|%E*z|%:z|%::z", "+00:00|+00:00:00|+00:00|+00:00:00"),
            (
                "%ET|%O|%i|%J|%K|%L|%N|%Q|%v|%o|%+",
                "T|%O|%i|%J|%K|%L|%N|%Q|%v|%o|%+",
            ),
            ("lit%%", "lit%"),
            ("%fx%3f", "017503000x017"),
            ("%E4Y|%j|%a|%A|%b|%B", "2026|326|Sun|Sunday|Nov|November"),
            (
                "%c|%D|%e|%F",
                "Sun Nov 22 18:53:18 2026|11/22/26|22|2026-11-22",
            ),
            ("%g|%G|%V|%U|%W|%u|%w", "26|2026|47|47|46|7|0"),
            (
                "%I|%k|%l|%p|%P|%r|%R|%T",
                "06|18| 6|PM|pm|06:53:18 PM|18:53|18:53:18",
            ),
            ("%y|%z|%Z|%-d|%-I", "26|+0000|UTC|22|6"),
        ] {
            assert_eq!(format(text, 1_795_373_598, 17_503_000), expected, "{text}");
        }
    }

    #[test]
    fn computes_calendar_dates() {
        for (unix, expected) in [
            (0, "1970-01-01 Thu 001 1970-01"),
            (951_782_400, "2000-02-29 Tue 060 2000-09"),
            (1_230_768_000, "2009-01-01 Thu 001 2009-01"),
            (1_262_304_000, "2010-01-01 Fri 001 2009-53"),
            (1_735_603_200, "2024-12-31 Tue 366 2025-01"),
            (4_102_444_799, "2099-12-31 Thu 365 2099-53"),
        ] {
            assert_eq!(format("%F %a %j %G-%V", unix, 0), expected);
        }
    }
}

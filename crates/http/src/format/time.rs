//! Points in time as text: the formats of `%START_TIME(…)%`, `%START_TIME_LOCAL(…)%` and their like.
//!
//! Envoy's language is strftime's as glibc knows it, with absl's `%E…` conversions and Envoy's `%f`, which takes a count
//! of digits. This file reads that language; `jiff` knows the calendar and the time zones and prints what is rare. The
//! numbers that almost every access log prints are written here, because `jiff` reads its format again for each line.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::strtime::BrokenDownTime;
use jiff::fmt::strtime::Config;
use jiff::fmt::strtime::PosixCustom;
use jiff::tz::TimeZone;

/// A compiled format and the time zone to print in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TimeFormat {
    items: Box<[FormatItem]>,
    zone: TimeZone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum FormatItem {
    Text(Box<str>),
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    /// The first digits of the second's fraction, as many as given, at most nine.
    Fraction(usize),
    /// One conversion in `jiff`'s spelling.
    Strftime(Box<str>),
    /// The next item, with blanks before it up to this width.
    Width(usize),
}

/// Letters that strftime converts, apart from `%n`, which Envoy refuses.
const CONVERSIONS: &str = "aAbBcCdDeFgGhHIjklmMpPrRsStTuUVwWxXyYzZ";
/// Conversions that take `%E`, and those that take `%O`; both mean the same without it in the C locale.
const WITH_E: &str = "cCxXyY";
const WITH_O: &str = "deHImMSuUVwWy";
/// Conversions that print no number: blanks fill their width, which `jiff` would ignore.
const TEXTS: &str = "aAbBcDFhpPrRTxXZ";
/// The largest width that is applied, which is also the largest that `jiff` reads.
const MAX_WIDTH: usize = 255;
/// The most digits of a fraction, as in absl.
const MAX_FRACTION: usize = 18;

impl TimeFormat {
    /// The format of `%START_TIME%` without a parameter: `2006-01-02T15:04:05.000Z`.
    pub(crate) const DEFAULT: &str = "%Y-%m-%dT%H:%M:%E3SZ";
    /// The format of `%START_TIME_LOCAL%` without a parameter: `2006-01-02T15:04:05.000+0000`.
    pub(crate) const DEFAULT_LOCAL: &str = "%Y-%m-%dT%H:%M:%E3S%z";

    /// Compiles `format`. Text after a `%` that is no conversion stays as it is, as in Envoy.
    pub(crate) fn parse(format: &str, zone: TimeZone) -> TimeFormat {
        let mut items = FormatParser::default();
        items.parse(format);
        items.flush();
        TimeFormat {
            items: items.list.into(),
            zone,
        }
    }

    /// Appends `time` to `out`.
    pub(crate) fn write(&self, time: SystemTime, out: &mut Vec<u8>) {
        // Only a clock outside of the years -9999 to 9999 does not fit.
        let time = Timestamp::try_from(time).unwrap_or_default();
        let civil = self.zone.to_datetime(time);
        let mut width = 0;
        for item in &self.items {
            match item {
                FormatItem::Text(text) => out.extend_from_slice(text.as_bytes()),
                FormatItem::Year => {
                    out.extend_from_slice(itoa::Buffer::new().format(civil.year()).as_bytes());
                }
                FormatItem::Month => two_digits(civil.month(), out),
                FormatItem::Day => two_digits(civil.day(), out),
                FormatItem::Hour => two_digits(civil.hour(), out),
                FormatItem::Minute => two_digits(civil.minute(), out),
                FormatItem::Second => two_digits(civil.second(), out),
                FormatItem::Fraction(count) => fraction(civil, *count, out),
                FormatItem::Width(next) => width = *next,
                FormatItem::Strftime(conversion) => {
                    let start = out.len();
                    let time = BrokenDownTime::from(&time.to_zoned_datetime(self.zone.clone()));
                    let config = Config::new().custom(PosixCustom::new());
                    // Writing to memory does not fail, and a test prints each conversion.
                    let _ = time.format_with_config(&config, &**conversion, out);
                    let missing = std::mem::take(&mut width).saturating_sub(out.len() - start);
                    out.splice(start..start, std::iter::repeat_n(b' ', missing));
                }
            }
        }
    }
}

/// The time zone of `%START_TIME_LOCAL%`: what `TZ` names, else that of the machine.
///
/// As in Envoy, an unknown name is UTC, and so is a rule like `EST5EDT,M3.2.0,M11.1.0`, which only the application log
/// understands.
pub(crate) fn local_zone() -> TimeZone {
    let zone = match std::env::var("TZ") {
        Ok(name) if !name.contains("zoneinfo/") => {
            TimeZone::get(name.strip_prefix(':').unwrap_or(&name))
        }
        _ => TimeZone::try_system(),
    };
    zone.unwrap_or(TimeZone::UTC)
}

#[derive(Default)]
struct FormatParser {
    list: Vec<FormatItem>,
    text: String,
}

impl FormatParser {
    fn parse(&mut self, format: &str) {
        let mut rest = format;
        while let Some((text, conversion)) = rest.split_once('%') {
            self.text.push_str(text);
            rest = self.conversion(conversion).unwrap_or_else(|| {
                self.text.push('%');
                conversion
            });
        }
        self.text.push_str(rest);
    }

    fn flush(&mut self) {
        if !self.text.is_empty() {
            let text = std::mem::take(&mut self.text);
            self.list.push(FormatItem::Text(text.into()));
        }
    }

    fn push(&mut self, item: FormatItem) {
        self.flush();
        self.list.push(item);
    }

    /// Takes the conversion that `text`, which follows a `%`, begins with, and returns the rest.
    fn conversion<'a>(&mut self, text: &'a str) -> Option<&'a str> {
        if let Some((count, rest)) = envoy_fraction(text) {
            self.fraction(count);
            return Some(rest);
        }
        let (letter, rest) = split_first(text)?;
        match letter {
            // Envoy replaces its own conversion before it looks for escapes: `%%3f` is a percent sign and a fraction.
            '%' if envoy_fraction(rest).is_some() => return None,
            '%' => self.text.push('%'),
            'E' => return self.extended(rest),
            'O' => {
                let (letter, rest) = split_first(rest)?;
                return WITH_O.contains(letter).then(|| {
                    self.plain(letter);
                    rest
                });
            }
            _ if CONVERSIONS.contains(letter) => self.plain(letter),
            _ => return self.modified(text),
        }
        Some(rest)
    }

    /// A conversion without flags and width.
    fn plain(&mut self, letter: char) {
        match letter {
            'Y' => self.push(FormatItem::Year),
            'm' => self.push(FormatItem::Month),
            'd' => self.push(FormatItem::Day),
            'H' => self.push(FormatItem::Hour),
            'M' => self.push(FormatItem::Minute),
            'S' => self.push(FormatItem::Second),
            'F' => self.parse("%Y-%m-%d"),
            'T' | 'X' => self.parse("%H:%M:%S"),
            _ => self.push(FormatItem::Strftime(format!("%{letter}").into())),
        }
    }

    /// What absl and glibc know after `%E`.
    fn extended<'a>(&mut self, text: &'a str) -> Option<&'a str> {
        for (spelling, conversion) in [("*S", "%S%.f"), ("*f", "%f"), ("*z", "%::z"), ("z", "%:z")]
        {
            if let Some(rest) = text.strip_prefix(spelling) {
                self.push(FormatItem::Strftime(conversion.into()));
                return Some(rest);
            }
        }
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (count, unit) = text.split_at(digits);
        if let Ok(count) = count.parse::<usize>() {
            let count = count.min(MAX_FRACTION);
            match split_first(unit)? {
                ('S', rest) => {
                    self.push(FormatItem::Second);
                    if count > 0 {
                        self.text.push('.');
                    }
                    self.fraction(count);
                    return Some(rest);
                }
                ('f', rest) => {
                    self.fraction(count);
                    return Some(rest);
                }
                ('Y', rest) if count == 4 => {
                    self.push(FormatItem::Year);
                    return Some(rest);
                }
                _ => return None,
            }
        }
        match split_first(text)? {
            (letter @ ('T' | '%'), rest) => {
                self.text.push(letter);
                Some(rest)
            }
            (letter, rest) if WITH_E.contains(letter) => {
                self.plain(letter);
                Some(rest)
            }
            _ => None,
        }
    }

    /// A conversion with a flag, a width or colons: `%-d`, `%^a`, `%5Y`, `%:z`.
    fn modified<'a>(&mut self, text: &'a str) -> Option<&'a str> {
        let (flag, rest) = match split_first(text)? {
            (flag, rest) if "-_0^#".contains(flag) => (Some(flag), rest),
            _ => (None, text),
        };
        let after_width = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let width = rest.strip_suffix(after_width)?;
        let after_colons = after_width.trim_start_matches(':');
        let colons = after_width.strip_suffix(after_colons)?;
        let (letter, rest) = split_first(after_colons)?;
        if !CONVERSIONS.contains(letter) || colons.len() > if letter == 'z' { 3 } else { 0 } {
            return None;
        }
        let flag = match flag {
            // The other case than usual is capitals for names, which `jiff` leaves as they are.
            Some('#') if "aAbBh".contains(letter) => Some('^'),
            // Zeros fill the width of every number but a few, which `jiff` does not know of these two.
            None if "Cs".contains(letter) => Some('0'),
            flag => flag,
        };
        let flag = flag.map(String::from).unwrap_or_default();
        let width = match width {
            "" => None,
            width => Some(width.parse().unwrap_or(MAX_WIDTH).min(MAX_WIDTH)),
        };
        let conversion = match width {
            Some(width) if TEXTS.contains(letter) => {
                self.push(FormatItem::Width(width));
                format!("%{flag}{letter}")
            }
            Some(width) => format!("%{flag}{width}{colons}{letter}"),
            None => format!("%{flag}{colons}{letter}"),
        };
        self.push(FormatItem::Strftime(conversion.into()));
        Some(rest)
    }

    fn fraction(&mut self, count: usize) {
        let counted = count.min(9);
        if counted > 0 {
            self.push(FormatItem::Fraction(counted));
        }
        self.text.extend(std::iter::repeat_n('0', count - counted));
    }
}

/// The count of digits of Envoy's `%f` or `%3f`, and what follows it.
fn envoy_fraction(text: &str) -> Option<(usize, &str)> {
    if let Some(rest) = text.strip_prefix('f') {
        return Some((9, rest));
    }
    let (digit, rest) = split_first(text)?;
    let count = digit.to_digit(10).filter(|count| *count > 0)?;
    Some((usize::try_from(count).ok()?, rest.strip_prefix('f')?))
}

fn split_first(text: &str) -> Option<(char, &str)> {
    let mut letters = text.chars();
    letters.next().map(|first| (first, letters.as_str()))
}

/// Appends a number below 100.
fn two_digits(value: i8, out: &mut Vec<u8>) {
    let value = value.unsigned_abs();
    out.extend_from_slice(&[b'0' + value / 10, b'0' + value % 10]);
}

/// Appends the first `count` digits of the fraction of `time`'s second.
fn fraction(time: DateTime, count: usize, out: &mut Vec<u8>) {
    let mut nanos = time.subsec_nanosecond().unsigned_abs();
    let mut digits = [b'0'; 9];
    for digit in digits.iter_mut().rev() {
        *digit += u8::try_from(nanos % 10).unwrap_or(0);
        nanos /= 10;
    }
    out.extend(digits.iter().take(count));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;
    use std::time::UNIX_EPOCH;

    use super::*;

    fn format(format: &str, unix: u64, nanos: u32) -> String {
        format_in(TimeZone::UTC, format, unix, nanos)
    }

    fn format_in(zone: TimeZone, format: &str, unix: u64, nanos: u32) -> String {
        let mut out = Vec::new();
        let time = UNIX_EPOCH + Duration::new(unix, nanos);
        TimeFormat::parse(format, zone).write(time, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// 2026-11-22 18:53:18.017503, a Sunday, and what Envoy 1.40.0 printed of it.
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
            ("%x|%X|%h|%s|%t", "11/22/26|18:53:18|Nov|1795373598|\t"),
        ] {
            assert_eq!(format(text, 1_795_373_598, 17_503_000), expected, "{text}");
        }
    }

    #[test]
    fn knows_the_calendar() {
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

    /// What Envoy 1.40.0 printed in New York at 2026-11-29 15:48:42.190128.
    #[test]
    fn prints_local_time_with_flags_and_widths() {
        let new_york = TimeZone::posix("EST5EDT,M3.2.0,M11.1.0").unwrap();
        for (text, expected) in [
            (TimeFormat::DEFAULT_LOCAL, "2026-11-29T15:48:42.190-0500"),
            (
                "%Z|%z|%Ez|%E*z|%:z|%::z|%:::z|%::::z",
                "EST|-0500|-05:00|-05:00:00|-05:00|-05:00:00|-05|%::::z",
            ),
            (
                "%Ec|%EC|%Ex|%EX|%Ey|%EY",
                "Sun Nov 29 15:48:42 2026|20|11/29/26|15:48:42|26|2026",
            ),
            ("%Od|%OH|%Oe|%OI|%Om|%OM|%OS", "29|15|29|03|11|48|42"),
            ("%Ou|%OU|%OV|%Ow|%OW|%Oy|%O", "7|48|48|0|47|26|%O"),
            (
                "%_d|%^a|%#a|%^B|%^p|%#p|%^Z|%#Z",
                "29|SUN|SUN|NOVEMBER|PM|pm|EST|est",
            ),
            (
                "%5d|%010Y|%0e|%3S|%_I|%05H|%10a",
                "00029|0000002026|29|042| 3|00015|       Sun",
            ),
            ("%3C|%12s", "020|001795985322"),
            (
                "%E5f|%E0f|%E0S|%E10S|%E12f",
                "19012||42|42.1901280000|190128000000",
            ),
            (
                "%E15S|%E4Y|%E5Y|%E%|%ET",
                "42.190128000000000|2026|%E5Y|%|T",
            ),
            (
                "%ES|%Ef|%E|%E*|%E*x|%3|%-|%:|%::",
                "%ES|%Ef|%E|%E*|%E*x|%3|%-|%:|%::",
            ),
            (
                "%-f|%_3f|%%3f|%%%f|%^|trailing %",
                "%-f|%_3f|%190|%190128000|%^|trailing %",
            ),
        ] {
            let printed = format_in(new_york.clone(), text, 1_795_985_322, 190_128_000);
            assert_eq!(printed, expected, "{text}");
        }
    }

    #[test]
    fn prints_every_conversion() {
        for letter in CONVERSIONS.chars() {
            for modifier in ["", "-", "999999999999", "_300", "#"] {
                let text = format!("%{modifier}{letter}");
                assert_ne!(format(&text, 0, 0), "", "{text}");
            }
        }
    }
}

//! spdlog's line patterns (`--log-format`), with the flags that Envoy adds. Compiled once, written per line.
//!
//! Times are in the time zone of `TZ`, else in that of the machine. `%!` prints nothing, because a record has no
//! function's name; so do the colour marks `%^` and `%$`.

use std::cell::Cell;
use std::fmt::Write;
use std::time::Duration;

use jiff::Timestamp;
use jiff::ZonedDateTime;
use jiff::tz::TimeZone;

use crate::cli::VERSION;
use crate::logging::Level;

/// One record.
pub(crate) struct LogRecord<'a> {
    pub(crate) level: Level,
    pub(crate) logger: &'a str,
    pub(crate) file: &'a str,
    pub(crate) line: u32,
    pub(crate) message: &'a str,
}

/// A compiled pattern.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    items: Vec<PatternItem>,
    zone: TimeZone,
}

#[derive(Debug, PartialEq, Eq)]
enum PatternItem {
    Literal(String),
    Flag(char, Padding),
}

/// `%8l`, `%-8l`, `%=8l`; with `!` longer text is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Padding {
    width: usize,
    side: Side,
    truncate: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Side {
    #[default]
    Left,
    Right,
    Centre,
}

/// Wider padding is cut to this, as in spdlog.
const MAX_WIDTH: usize = 64;

impl Pattern {
    /// Reads a pattern. As in spdlog, an unknown flag is printed as it is written, and a `%` at the end is dropped.
    pub(crate) fn compile(text: &str) -> Pattern {
        let mut items = Vec::new();
        let mut literal = String::new();
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            if character != '%' {
                literal.push(character);
                continue;
            }
            let padding = read_padding(&mut characters);
            match characters.next() {
                None => {}
                Some('%') => literal.push('%'),
                Some(flag) if is_flag(flag) => {
                    if !literal.is_empty() {
                        items.push(PatternItem::Literal(std::mem::take(&mut literal)));
                    }
                    items.push(PatternItem::Flag(flag, padding));
                }
                Some(unknown) => literal.extend(['%', unknown]),
            }
        }
        if !literal.is_empty() {
            items.push(PatternItem::Literal(literal));
        }
        Pattern {
            items,
            zone: TimeZone::try_system().unwrap_or(TimeZone::UTC),
        }
    }

    /// Whether the pattern prints the message as it is (`%v`), which would break a line of JSON.
    pub(crate) fn prints_raw_message(&self) -> bool {
        self.items
            .iter()
            .any(|item| matches!(item, PatternItem::Flag('v', _)))
    }

    /// Appends the line's text, without a newline.
    pub(crate) fn write(&self, line: &LogRecord<'_>, text: &mut String) {
        let now = Timestamp::now().to_zoned_datetime(self.zone.clone());
        for item in &self.items {
            match item {
                PatternItem::Literal(literal) => text.push_str(literal),
                PatternItem::Flag(flag, padding) => {
                    let start = text.len();
                    // Writing to a string cannot fail.
                    let _ = write_flag(*flag, line, &now, text);
                    padding.apply(text, start);
                }
            }
        }
    }
}

impl Padding {
    fn apply(self, text: &mut String, start: usize) {
        let length = text[start..].chars().count();
        if self.truncate && length > self.width {
            let cut = text[start..]
                .char_indices()
                .nth(self.width)
                .map_or(text.len(), |(at, _)| start + at);
            text.truncate(cut);
        }
        let missing = self.width.saturating_sub(length);
        let before = match self.side {
            Side::Left => missing,
            Side::Right => 0,
            Side::Centre => missing / 2,
        };
        text.insert_str(start, &" ".repeat(before));
        text.push_str(&" ".repeat(missing - before));
    }
}

fn read_padding(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Padding {
    let mut padding = Padding::default();
    match characters.peek() {
        Some('-') => padding.side = Side::Right,
        Some('=') => padding.side = Side::Centre,
        Some(digit) if digit.is_ascii_digit() => {}
        _ => return padding,
    }
    if padding.side != Side::Left {
        characters.next();
    }
    while let Some(digit) = characters.peek().and_then(|digit| digit.to_digit(10)) {
        padding.width = (padding.width * 10 + digit as usize).min(MAX_WIDTH);
        characters.next();
    }
    if padding.width > 0 && characters.peek() == Some(&'!') {
        padding.truncate = true;
        characters.next();
    }
    padding
}

fn is_flag(flag: char) -> bool {
    "aAbhBcCYDxmdHIMSefFErRTXpzlLntPsg#!@vj_+*NiuoO^$&".contains(flag)
}

fn write_flag(
    flag: char,
    line: &LogRecord<'_>,
    now: &ZonedDateTime,
    text: &mut String,
) -> std::fmt::Result {
    match flag {
        'l' => text.push_str(line.level.name()),
        'L' => text.extend(
            line.level
                .name()
                .chars()
                .next()
                .map(|first| first.to_ascii_uppercase()),
        ),
        'n' => text.push_str(line.logger),
        't' => write!(text, "{}", thread_id())?,
        'P' => write!(text, "{}", std::process::id())?,
        's' => text.push_str(line.file.rsplit('/').next().unwrap_or_default()),
        'g' => text.push_str(line.file),
        '#' => write!(text, "{}", line.line)?,
        '@' => write!(text, "{}:{}", line.file, line.line)?,
        'v' | '+' => text.push_str(line.message),
        '_' => text.push_str(&escape_c(line.message)),
        'j' => text.push_str(escape_json(line.message).trim_matches('"')),
        'N' => text.push_str(VERSION),
        'i' | 'u' | 'o' | 'O' => write_elapsed(flag, now.timestamp(), text)?,
        _ => write_time(flag, now, text)?,
    }
    Ok(())
}

fn write_time(flag: char, now: &ZonedDateTime, text: &mut String) -> std::fmt::Result {
    match time_conversion(flag) {
        Some(conversion) => write!(text, "{}", now.strftime(conversion)),
        None => Ok(()),
    }
}

/// spdlog's time flags as strftime formats.
fn time_conversion(flag: char) -> Option<&'static str> {
    Some(match flag {
        'a' => "%a",
        'A' => "%A",
        'b' | 'h' => "%b",
        'B' => "%B",
        'c' => "%a %b %-d %T %Y",
        'C' => "%y",
        'Y' => "%Y",
        'D' | 'x' => "%m/%d/%y",
        'm' => "%m",
        'd' => "%d",
        'H' => "%H",
        'I' => "%I",
        'M' => "%M",
        'S' => "%S",
        'e' => "%3f",
        'f' => "%6f",
        'F' => "%9f",
        'E' => "%s",
        'r' => "%I:%M:%S %p",
        'R' => "%R",
        'T' | 'X' => "%T",
        'p' => "%p",
        'z' => "%:z",
        _ => return None,
    })
}

/// The time since this thread's last line with such a flag, in µs, ns, ms or s.
fn write_elapsed(flag: char, now: Timestamp, text: &mut String) -> std::fmt::Result {
    thread_local!(static LAST: Cell<Option<Timestamp>> = const { Cell::new(None) });
    let last = LAST.replace(Some(now)).unwrap_or(now);
    // The clock may have been set back.
    let elapsed = now
        .duration_since(last)
        .try_into()
        .unwrap_or(Duration::ZERO);
    match flag {
        'i' => write!(text, "{}", elapsed.as_micros()),
        'u' => write!(text, "{}", elapsed.as_nanos()),
        'o' => write!(text, "{}", elapsed.as_millis()),
        _ => write!(text, "{}", elapsed.as_secs()),
    }
}

/// The kernel's number of this thread, read once per thread.
fn thread_id() -> u32 {
    thread_local!(static ID: u32 = std::fs::read_link("/proc/thread-self")
        .ok()
        .and_then(|path| path.file_name()?.to_str()?.parse().ok())
        .unwrap_or_else(std::process::id));
    ID.with(|id| *id)
}

/// C's escape sequences for control characters, quotes and backslashes (`--log-format-escaped`, `%_`).
pub(crate) fn escape_c(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for character in message.chars() {
        match character {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '"' => text.push_str("\\\""),
            '\'' => text.push_str("\\'"),
            '\\' => text.push_str("\\\\"),
            control if control.is_ascii_control() => {
                text.push_str(&format!("\\{:03o}", u32::from(control)))
            }
            other => text.push(other),
        }
    }
    text
}

fn escape_json(message: &str) -> String {
    serde_json::Value::from(message).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(pattern: &str) -> String {
        let mut text = String::new();
        let line = LogRecord {
            level: Level::Warning,
            logger: "config",
            file: "crates/server/src/main.rs",
            line: 7,
            message: "a \"b\"\nc",
        };
        Pattern::compile(pattern).write(&line, &mut text);
        text
    }

    #[test]
    fn writes_what_spdlog_and_envoy_write() {
        for (pattern, expected) in [
            (
                "%l|%L|%n|%s|%g|%#|%@",
                "warning|W|config|main.rs|crates/server/src/main.rs|7|crates/server/src/main.rs:7",
            ),
            (
                "[%9l|%-9l|%=9l|%3!l|%8!n]",
                "[  warning|warning  | warning |war|  config]",
            ),
            ("%v", "a \"b\"\nc"),
            ("%j", "a \\\"b\\\"\\nc"),
            ("%_", "a \\\"b\\\"\\nc"),
            ("%%|%^%l%$|%&|%q|x%", "%|warning||%q|x"),
        ] {
            assert_eq!(write(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn writes_times() {
        let zone = TimeZone::posix("EST5EDT,M3.2.0,M11.1.0").unwrap();
        let now = Timestamp::new(1_795_373_474, 291_620_000).unwrap();
        let now = now.to_zoned_datetime(zone);
        for (flags, expected) in [
            ("Y-m-d T.e", "2026-11-22 13:51:14.291"),
            ("a A b B h", "Sun Sunday Nov November Nov"),
            ("c C", "Sun Nov 22 13:51:14 2026 26"),
            ("H I M S f F", "13 01 51 14 291620 291620000"),
            (
                "p r R X D x z E",
                "PM 01:51:14 PM 13:51 13:51:14 11/22/26 11/22/26 -05:00 1795373474",
            ),
        ] {
            let mut text = String::new();
            for flag in flags.chars() {
                if flag.is_alphabetic() {
                    write_time(flag, &now, &mut text).unwrap();
                } else {
                    text.push(flag);
                }
            }
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn the_default_line_has_envoys_columns() {
        let line = write(crate::logging::DEFAULT_FORMAT);
        let parts: Vec<&str> = line.split(['[', ']']).collect();
        assert_eq!(parts[1].len(), "2026-11-22 18:51:14.291".len(), "{line}");
        assert!(parts[3].parse::<u32>().is_ok(), "{line}");
        assert_eq!(
            (parts[5], parts[7], parts[9]),
            ("warning", "config", "crates/server/src/main.rs:7")
        );
    }
}

//! Regular expressions of `stats_tags`, which Envoy reads with C++'s `std::regex`: the syntax is ECMAScript's, not RE2's.
//!
//! The `regex` crate compiles them, after syntax that means something else there was translated. Look-ahead and
//! back-references need backtracking, which that crate does not do, so they are refused.

use std::iter::Peekable;
use std::str::Chars;

use regex::Regex;

/// Compiles `pattern` to search with.
///
/// # Errors
/// What `std::regex` refuses, in Envoy's words, and what would need backtracking.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    let mut writer = Writer {
        rest: pattern.chars().peekable(),
        written: String::with_capacity(pattern.len()),
        open: 0,
    };
    let error = |reason: &str| format!("Invalid regex '{pattern}': {reason}");
    writer.write().map_err(error)?;
    Regex::new(&writer.written).map_err(|_| error("expected a smaller expression"))
}

const ESCAPE: &str = "The expression contained an invalid escaped character, or a trailing escape.";
const REPEAT: &str = "One of *?+{ was not preceded by a valid regular expression.";
const BRACES: &str = "The expression contained an invalid range in a {} expression.";
const RANGE: &str =
    "The expression contained an invalid character range, such as [b-a] in most encodings.";
const BRACKETS: &str = "The expression contained mismatched [ and ].";
const GROUPS: &str = "The expression contained mismatched ( and ).";
const REST: &str = "The parser did not consume the entire regular expression.";
const BACKTRACKING: &str = "look-ahead and back-references are not supported";

struct Writer<'p> {
    rest: Peekable<Chars<'p>>,
    written: String,
    /// How many groups are open.
    open: usize,
}

impl Writer<'_> {
    fn write(&mut self) -> Result<(), &'static str> {
        // Whether a repetition may follow.
        let mut atom = false;
        while let Some(next) = self.rest.next() {
            atom = match next {
                '\\' => self.escape(false)?,
                '[' => self.class()?,
                '(' => self.group()?,
                ')' => {
                    self.open = self.open.checked_sub(1).ok_or(REST)?;
                    self.written.push(')');
                    true
                }
                '*' | '+' | '?' | '{' if !atom => return Err(REPEAT),
                '*' | '+' | '?' | '{' => self.repetition(next)?,
                '^' | '$' | '|' => {
                    self.written.push(next);
                    false
                }
                ']' | '}' => return Err(REST),
                '.' => {
                    self.written.push_str(r"[^\n\r\u{2028}\u{2029}]");
                    true
                }
                literal => self.literal(literal),
            };
        }
        match self.open {
            0 => Ok(()),
            _ => Err(GROUPS),
        }
    }

    fn literal(&mut self, literal: char) -> bool {
        self.written
            .push_str(&regex::escape(literal.encode_utf8(&mut [0; 4])));
        true
    }

    fn group(&mut self) -> Result<bool, &'static str> {
        self.open += 1;
        self.written.push('(');
        if self.rest.next_if_eq(&'?').is_some() {
            match self.rest.next() {
                Some(':') => self.written.push_str("?:"),
                Some('=' | '!') => return Err(BACKTRACKING),
                _ => return Err(REPEAT),
            }
        }
        Ok(false)
    }

    /// A repetition, which no other may follow.
    fn repetition(&mut self, first: char) -> Result<bool, &'static str> {
        self.written.push(first);
        if first == '{' {
            let least = self.number().ok_or(BRACES)?;
            if self.rest.next_if_eq(&',').is_some() {
                self.written.push(',');
                if self.number().is_some_and(|most| most < least) {
                    return Err(BRACES);
                }
            }
            self.rest.next_if_eq(&'}').ok_or(BRACES)?;
            self.written.push('}');
        }
        if self.rest.next_if_eq(&'?').is_some() {
            self.written.push('?');
        }
        Ok(false)
    }

    fn number(&mut self) -> Option<u32> {
        let begin = self.written.len();
        while let Some(digit) = self.rest.next_if(char::is_ascii_digit) {
            self.written.push(digit);
        }
        self.written.get(begin..)?.parse().ok()
    }

    /// What follows a backslash. Returns whether a repetition may follow.
    fn escape(&mut self, in_class: bool) -> Result<bool, &'static str> {
        let escaped = self.rest.next().ok_or(ESCAPE)?;
        let code = match escaped {
            'd' | 'D' | 's' | 'S' | 'w' | 'W' => {
                // ASCII only, and negated ones are of whole characters.
                let ascii = match escaped {
                    'd' => "[0-9]",
                    'D' => "[^0-9]",
                    's' => r"[\t-\r ]",
                    'S' => r"[^\t-\r ]",
                    'w' => "[0-9A-Za-z_]",
                    _ => "[^0-9A-Za-z_]",
                };
                self.written.push_str(ascii);
                return Ok(true);
            }
            'b' | 'B' if !in_class => {
                self.written.push('\\');
                self.written.push(escaped);
                return Ok(false);
            }
            'b' => 8,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            'v' => 11,
            '0' => 0,
            '1'..='9' => return Err(BACKTRACKING),
            'c' => match self.rest.next() {
                Some(letter) if letter.is_ascii_alphabetic() => letter as u32 % 32,
                _ => return Err(ESCAPE),
            },
            'x' => self.hex(2)?,
            'u' => self.hex(4)?,
            letter if letter.is_ascii_alphanumeric() => return Err(ESCAPE),
            itself => itself as u32,
        };
        Ok(self.literal(char::from_u32(code).ok_or(ESCAPE)?))
    }

    fn hex(&mut self, digits: usize) -> Result<u32, &'static str> {
        let mut code = 0;
        for _ in 0..digits {
            let digit = self.rest.next().and_then(|digit| digit.to_digit(16));
            code = code * 16 + digit.ok_or(ESCAPE)?;
        }
        Ok(code)
    }

    fn class(&mut self) -> Result<bool, &'static str> {
        let negated = self.rest.next_if_eq(&'^').is_some();
        if self.rest.next_if_eq(&']').is_some() {
            // Any character, or none.
            self.written
                .push_str(if negated { r"[\s\S]" } else { r"[^\s\S]" });
            return Ok(true);
        }
        self.written.push_str(if negated { "[^" } else { "[" });
        // What may become the begin of a range: a character, or a class, which is refused.
        let mut low: Option<Option<char>> = None;
        loop {
            let next = self.rest.next().ok_or(BRACKETS)?;
            let begin = self.written.len();
            match next {
                ']' => break,
                '-' if low.is_some() && self.rest.peek().is_some_and(|&high| high != ']') => {
                    let low = low.take().flatten().ok_or(RANGE)?;
                    self.written.push('-');
                    let high = self.class_character()?.ok_or(RANGE)?;
                    if low > high {
                        return Err(RANGE);
                    }
                    continue;
                }
                '[' if self.rest.peek() == Some(&':') => {
                    self.written.push('[');
                    while let Some(name) = self.rest.next_if(|&name| name != ']') {
                        self.written.push(name);
                    }
                    self.rest.next().ok_or(BRACKETS)?;
                    self.written.push(']');
                    low = None;
                    continue;
                }
                '\\' => {
                    self.escape(true)?;
                }
                literal => {
                    self.literal(literal);
                }
            }
            low = Some(self.character_from(begin));
        }
        self.written.push(']');
        Ok(true)
    }

    /// The end of a range: one character.
    fn class_character(&mut self) -> Result<Option<char>, &'static str> {
        let begin = self.written.len();
        match self.rest.next().ok_or(BRACKETS)? {
            '\\' => self.escape(true)?,
            literal => self.literal(literal),
        };
        Ok(self.character_from(begin))
    }

    /// The one character that was written from `begin` on; `None` for a class such as `\d`.
    fn character_from(&self, begin: usize) -> Option<char> {
        let written = self.written.get(begin..)?;
        let character = written.strip_prefix('\\').unwrap_or(written);
        let mut characters = character.chars();
        characters.next().filter(|_| characters.next().is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Envoy 1.40.0's verdict on each expression.
    #[test]
    fn refuses_what_envoy_refuses_in_its_words() {
        for (pattern, error) in [
            ("(?i)a", Some(REPEAT)),
            ("(?P<n>a)", Some(REPEAT)),
            ("(?<n>a)", Some(REPEAT)),
            ("(?s).", Some(REPEAT)),
            ("*a", Some(REPEAT)),
            ("a**", Some(REPEAT)),
            ("a++", Some(REPEAT)),
            ("a{1,2}{3}", Some(REPEAT)),
            ("{", Some(REPEAT)),
            ("a{,3}", Some(BRACES)),
            ("a}", Some(REST)),
            ("]", Some(REST)),
            ("[]a]", Some(REST)),
            ("(", Some(GROUPS)),
            ("[a", Some(BRACKETS)),
            ("[b-a]", Some(RANGE)),
            ("[\\d-z]", Some(RANGE)),
            ("\\C", Some(ESCAPE)),
            ("\\pN", Some(ESCAPE)),
            ("\\Z", Some(ESCAPE)),
            ("\\e", Some(ESCAPE)),
            ("\\Qa\\E", Some(ESCAPE)),
            ("\\k", Some(ESCAPE)),
            ("a{2000}", None),
            ("(a{100}){100}", None),
            ("(?:a)", None),
            ("\\bfoo", None),
            ("\\x41\\u0041\\ca\\0", None),
            ("[^]", None),
            ("a|", None),
            ("()", None),
            ("\\_\\-", None),
            ("[[:alpha:]&&~]", None),
            ("$^", None),
            ("a*?", None),
            // Envoy accepts these.
            ("(?=a)b", Some(BACKTRACKING)),
            ("(?!a)", Some(BACKTRACKING)),
            ("(a)\\1", Some(BACKTRACKING)),
        ] {
            let want = error.map(|reason| format!("Invalid regex '{pattern}': {reason}"));
            assert_eq!(compile(pattern).err(), want, "{pattern}");
        }
    }

    #[test]
    fn means_what_ecmascript_means() {
        for (pattern, text, found) in [
            ("^a.c$", "abc", Some("abc")),
            ("a.c", "a\nc", None),
            ("[a[]+", "x[a", Some("[a")),
            ("[a&&b]+", "&b", Some("&b")),
            ("[+--]+", "a,-", Some(",-")),
            ("[a-]+", "-a", Some("-a")),
            ("\\d", "٣", None),
            ("[\\w.]+", "é_a.", Some("_a.")),
            ("[^\\d]", "1a", Some("a")),
            ("a|ab", "ab", Some("a")),
            ("\\x41\\u0042", "AB", Some("AB")),
            ("[[:digit:]a]+", "1a", Some("1a")),
            ("#x ", "#x ", Some("#x ")),
        ] {
            let regex = compile(pattern).unwrap();
            let at = regex.find(text).map(|found| found.as_str());
            assert_eq!(at, found, "{pattern}");
        }
    }
}

//! Regular expressions in RE2's syntax, which Envoy's configurations are written in.
//!
//! The `regex` crate has RE2's semantics and nearly its syntax. [`compile`] translates what differs (`\d` is ASCII in
//! RE2, `&&` in a class and `{` without a count are literal, `\Q…\E`, `\C`) and refuses what RE2 refuses, in its words,
//! so that one file loads or fails in both proxies.

use outrider_config::ConfigError;
use outrider_config::FieldPath;
use outrider_config::api::envoy::r#type::matcher::v3::RegexMatcher;
use regex::bytes::Regex;

/// RE2's limit on a counted repetition.
const MAX_REPEAT: u64 = 1000;

/// A regular expression that must match a whole value, as Envoy's matchers ask for.
#[derive(Clone, Debug)]
pub(crate) struct FullRegex {
    regex: Regex,
    /// As it is in the configuration.
    pattern: String,
}

impl FullRegex {
    /// Compiles a `RegexMatcher`. Its engine is always RE2's syntax; `max_program_size` bounds RE2's own programs.
    pub(crate) fn build(config: &RegexMatcher, path: &FieldPath) -> Result<FullRegex, ConfigError> {
        let translated = translate(&config.regex)
            .map_err(|error| ConfigError::new(&path.field("regex"), error))?;
        let anchored = format!(r"\A(?:{translated})\z");
        let regex = new_regex(&anchored, &config.regex)
            .map_err(|error| ConfigError::new(&path.field("regex"), error))?;
        Ok(FullRegex {
            regex,
            pattern: config.regex.clone(),
        })
    }

    /// Whether all of `value` matches.
    pub(crate) fn is_match(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }

    /// The pattern as configured.
    pub(crate) fn pattern(&self) -> &str {
        &self.pattern
    }
}

/// Compiles `pattern` as RE2 would, to search with. Errors are RE2's.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    new_regex(&translate(pattern)?, pattern)
}

fn new_regex(translated: &str, pattern: &str) -> Result<Regex, String> {
    Regex::new(translated).map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "pattern too large - compile failed".to_owned(),
        other => format!(
            "regex {pattern:?} is not valid: {}",
            other.to_string().lines().last().unwrap_or_default()
        ),
    })
}

/// Rewrites `pattern` from RE2's syntax to the `regex` crate's.
fn translate(pattern: &str) -> Result<String, String> {
    let mut translator = Translator {
        pattern,
        at: 0,
        out: String::with_capacity(pattern.len() + 8),
        depth: 0,
        repeatable: false,
        last_repeat: None,
    };
    translator.run()?;
    if translator.depth > 0 {
        return Err(format!("missing ): {pattern}"));
    }
    Ok(translator.out)
}

struct Translator<'a> {
    pattern: &'a str,
    at: usize,
    out: String,
    depth: usize,
    /// Whether the last item may be repeated.
    repeatable: bool,
    /// Where the repetition operator that was just read starts: a second one is an error in RE2.
    last_repeat: Option<usize>,
}

impl<'a> Translator<'a> {
    fn rest(&self) -> &'a str {
        &self.pattern[self.at..]
    }

    /// Copies `length` bytes as one item that may be repeated.
    fn item(&mut self, length: usize) {
        self.out.push_str(&self.pattern[self.at..self.at + length]);
        self.at += length;
        self.done_item();
    }

    fn done_item(&mut self) {
        self.repeatable = true;
        self.last_repeat = None;
    }

    fn run(&mut self) -> Result<(), String> {
        while let Some(next) = self.rest().chars().next() {
            match next {
                '(' => self.open()?,
                ')' => {
                    self.depth = self
                        .depth
                        .checked_sub(1)
                        .ok_or_else(|| format!("unexpected ): {}", self.pattern))?;
                    self.item(1);
                }
                '|' => {
                    self.item(1);
                    self.repeatable = false;
                }
                '*' | '+' | '?' => self.repeat(1)?,
                '{' => match counted_repeat(self.rest()) {
                    Some(length) => self.repeat(length)?,
                    None => self.literal("\\{", 1),
                },
                '}' | ']' => {
                    self.out.push('\\');
                    self.item(1);
                }
                '[' => self.class()?,
                '\\' => self.escape()?,
                other => self.item(other.len_utf8()),
            }
        }
        Ok(())
    }

    fn literal(&mut self, text: &str, consumed: usize) {
        self.out.push_str(text);
        self.at += consumed;
        self.done_item();
    }

    /// `(`, `(?:`, `(?flags)`, `(?flags:` or a named group.
    fn open(&mut self) -> Result<(), String> {
        let rest = self.rest();
        let Some(options) = rest.strip_prefix("(?") else {
            self.item(1);
            self.depth += 1;
            self.repeatable = false;
            return Ok(());
        };
        let named = options.starts_with("P<")
            || (options.starts_with('<')
                && !options.starts_with("<=")
                && !options.starts_with("<!"));
        let length = if named {
            let end = options
                .find('>')
                .ok_or_else(|| format!("invalid named capture group: {rest}"))?;
            end + 1
        } else {
            let end = options
                .find(|c: char| !matches!(c, 'i' | 'm' | 's' | 'U' | '-'))
                .ok_or_else(|| format!("missing ): {}", self.pattern))?;
            if !options[end..].starts_with([':', ')']) {
                let bad = options[end..].chars().next().map_or(0, char::len_utf8);
                return Err(format!(
                    "invalid perl operator: (?{}",
                    &options[..end + bad]
                ));
            }
            end + 1
        };
        if !options[..length].ends_with(')') {
            self.depth += 1;
        }
        self.item(2 + length);
        self.repeatable = false;
        Ok(())
    }

    /// A repetition operator of `length` bytes, and the `?` that makes it lazy.
    fn repeat(&mut self, length: usize) -> Result<(), String> {
        let operator = &self.pattern[self.at..self.at + length];
        if !self.repeatable {
            return Err(format!("no argument for repetition operator: {operator}"));
        }
        if let Some(first) = self.last_repeat {
            let both = &self.pattern[first..self.at + length];
            return Err(format!("bad repetition operator: {both}"));
        }
        if operator.starts_with('{') {
            let counts = operator.trim_matches(['{', '}']).split(',');
            let mut counts = counts.filter(|n| !n.is_empty()).map(str::parse::<u64>);
            let least = counts.next();
            let most = counts.next();
            let too_large = |n: &Result<u64, _>| !matches!(n, Ok(n) if *n <= MAX_REPEAT);
            let reversed = matches!((&least, &most), (Some(Ok(a)), Some(Ok(b))) if a > b);
            if least.iter().chain(&most).any(too_large) || reversed {
                return Err(format!("invalid repetition size: {operator}"));
            }
        }
        let start = self.at;
        let lazy = usize::from(self.pattern[start + length..].starts_with('?'));
        self.item(length + lazy);
        self.last_repeat = Some(start);
        Ok(())
    }

    /// A bracket expression. Only `[:name:]` and escapes are special inside it; `[`, `&&`, `--` and `~~` are literal.
    fn class(&mut self) -> Result<(), String> {
        let start = self.at;
        let missing = |pattern: &str| format!("missing ]: {}", &pattern[start..]);
        self.out.push('[');
        self.at += 1;
        if self.rest().starts_with('^') {
            self.out.push('^');
            self.at += 1;
        }
        let first = self.at;
        loop {
            let rest = self.rest();
            let Some(next) = rest.chars().next() else {
                return Err(missing(self.pattern));
            };
            match next {
                ']' if self.at > first => break,
                '[' if rest.starts_with("[:") && rest.contains(":]") => {
                    let end = rest.find(":]").map_or(rest.len(), |end| end + 2);
                    self.out.push_str(&rest[..end]);
                    self.at += end;
                }
                '\\' => self.escape()?,
                '[' | ']' | '&' | '~' => {
                    self.out.push('\\');
                    self.out.push(next);
                    self.at += 1;
                }
                // A range, or a literal at either end.
                '-' => {
                    let literal = self.at == first || rest[1..].starts_with(']');
                    self.out.push_str(if literal { "\\-" } else { "-" });
                    self.at += 1;
                }
                other => {
                    self.out.push(other);
                    self.at += other.len_utf8();
                }
            }
        }
        self.out.push(']');
        self.at += 1;
        self.done_item();
        Ok(())
    }

    fn escape(&mut self) -> Result<(), String> {
        let rest = self.rest();
        let Some(next) = rest[1..].chars().next() else {
            return Err("trailing \\ at end of regexp".to_owned());
        };
        let consumed = 1 + next.len_utf8();
        match next {
            'd' | 'D' | 's' | 'S' | 'w' | 'W' => self.ascii_class(next),
            'b' | 'B' => {
                let text = format!("(?-u:\\{next})");
                self.literal(&text, consumed);
                self.repeatable = false;
            }
            'C' => self.literal("(?s-u:.)", consumed),
            'Q' => {
                let quoted = &rest[2..];
                let end = quoted.find("\\E").unwrap_or(quoted.len());
                let text = regex::escape(&quoted[..end]);
                self.literal(&text, (2 + end + 2).min(rest.len()));
            }
            'A' | 'z' | 'a' | 'f' | 'n' | 'r' | 't' | 'v' => self.item(consumed),
            'p' | 'P' => {
                let length = if rest[2..].starts_with('{') {
                    rest.find('}').map_or(rest.len(), |end| end + 1)
                } else {
                    2 + rest[2..].chars().next().map_or(0, char::len_utf8)
                };
                self.item(length);
            }
            'x' => {
                let length = if rest[2..].starts_with('{') {
                    rest.find('}').map_or(rest.len(), |end| end + 1)
                } else {
                    4
                };
                if !rest.is_char_boundary(length) || length > rest.len() {
                    return Err(format!("invalid escape sequence: {rest}"));
                }
                self.item(length);
            }
            '0'..='7' if next == '0' => {
                let digits = rest[1..]
                    .bytes()
                    .take(3)
                    .take_while(|b| (b'0'..=b'7').contains(b))
                    .count();
                let code = u32::from_str_radix(&rest[1..=digits], 8).unwrap_or(0);
                let text = format!("\\x{{{code:x}}}");
                self.literal(&text, 1 + digits);
            }
            // RE2: an escaped punctuation character is itself.
            other if other.is_ascii() && !other.is_ascii_alphanumeric() => {
                let text = format!("\\x{{{:x}}}", u32::from(other));
                self.literal(&text, consumed);
            }
            other => return Err(format!("invalid escape sequence: \\{other}")),
        }
        Ok(())
    }

    /// Perl's classes, which RE2 keeps to ASCII; each form is also valid inside brackets.
    fn ascii_class(&mut self, name: char) {
        let text = match name {
            'd' => "[0-9]",
            'D' => "[^0-9]",
            's' => "[\\t\\n\\f\\r ]",
            'S' => "[^\\t\\n\\f\\r ]",
            'w' => "[0-9A-Za-z_]",
            _ => "[^0-9A-Za-z_]",
        };
        self.literal(text, 2);
    }
}

/// The length of `{n}`, `{n,}` or `{n,m}` at the start of `text`; anything else is a literal brace in RE2.
fn counted_repeat(text: &str) -> Option<usize> {
    let end = text.find('}')?;
    let inside = &text[1..end];
    let (least, most) = inside.split_once(',').unwrap_or((inside, "0"));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    (!least.is_empty() && digits(least) && digits(most)).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Envoy 1.40.0 says of each pattern; `None` where it loads.
    #[test]
    fn refuses_what_re2_refuses_in_its_words() {
        for (pattern, error) in [
            ("a(", Some("missing ): a(")),
            (
                "(a{1,1000}){1,1001}",
                Some("invalid repetition size: {1,1001}"),
            ),
            ("(?=a)", Some("invalid perl operator: (?=")),
            ("(a)\\1", Some("invalid escape sequence: \\1")),
            ("a++", Some("bad repetition operator: ++")),
            ("a**", Some("bad repetition operator: **")),
            ("a|*", Some("no argument for repetition operator: *")),
            ("a{1001}", Some("invalid repetition size: {1001}")),
            ("a\\Z", Some("invalid escape sequence: \\Z")),
            ("(?x)a b", Some("invalid perl operator: (?x")),
            ("a)", Some("unexpected ): a)")),
            ("[a", Some("missing ]: [a")),
            ("\\C", None),
            ("(?P<n>a)", None),
            ("(?<n>a)", None),
            ("[[:alpha:]\\d]", None),
            ("(?U)a*", None),
            ("/a{b}", None),
            ("/a}", None),
            ("a{,3}", None),
            ("\\pN\\p{Greek}", None),
            ("\\_a\\-\\:", None),
        ] {
            assert_eq!(compile(pattern).err().as_deref(), error, "{pattern}");
        }
    }

    #[test]
    fn means_what_re2_means() {
        for (pattern, value, matches) in [
            ("[a&&b]+", "a&b", true),
            ("[[]x", "[x", true),
            ("[]a]+", "]a", true),
            ("[a-c-]+", "b-", true),
            ("\\<a\\>", "<a>", true),
            ("/a{b}", "/a{b}", true),
            ("a{,3}", "a{,3}", true),
            ("\\Qa.b\\E", "a.b", true),
            ("\\Qa.b\\E", "axb", false),
            ("\\d", "٣", false),
            ("[^\\d]", "x", true),
            ("\\w+", "aZ_9", true),
            ("a.c", "a\nc", false),
            ("(?s)a.c", "a\nc", true),
            ("(?i)ab", "AB", true),
            ("/v[0-9]+/.*", "/v12/x", true),
            ("a|b", "ab", false),
        ] {
            let config = RegexMatcher {
                regex: pattern.to_owned(),
                ..Default::default()
            };
            let regex = FullRegex::build(&config, &FieldPath::root()).unwrap();
            assert_eq!(
                regex.is_match(value.as_bytes()),
                matches,
                "{pattern} on {value}"
            );
        }
    }
}

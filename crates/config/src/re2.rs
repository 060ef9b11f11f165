//! Regular expressions in RE2's syntax, which Envoy's configurations are written in.
//!
//! The `regex` crate has RE2's semantics and almost its syntax. [`compile`] translates the differences (`\d` is ASCII
//! in RE2, `&&` in a class and `{` without a count are literal, `\Q…\E`, `\C`) and refuses what RE2 refuses, with its
//! messages, so that a file loads or fails in both proxies.

use crate::ConfigError;
use crate::FieldPath;
use crate::api::envoy::r#type::matcher::v3::RegexMatcher;
use regex::bytes::Regex;
use regex_syntax::ast;
use regex_syntax::ast::Ast;
use regex_syntax::ast::RepetitionKind;
use regex_syntax::ast::RepetitionRange;
use regex_syntax::hir;
use regex_syntax::hir::translate::TranslatorBuilder;

/// RE2's limit on a counted repetition, and on the product of nested ones.
const MAX_REPEAT: u64 = 1000;

/// The names in `[:name:]`.
const POSIX_CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
    "space", "upper", "word", "xdigit",
];

/// The letters of escapes for character classes.
const CLASS_ESCAPES: [char; 8] = ['d', 'D', 's', 'S', 'w', 'W', 'p', 'P'];

/// A regular expression that must match a whole value, as Envoy's matchers ask for.
#[derive(Clone, Debug)]
pub struct FullRegex {
    regex: Regex,
    /// As it is in the configuration.
    pattern: String,
}

impl FullRegex {
    /// Compiles a `RegexMatcher`. Its engine is always RE2's syntax; `max_program_size` bounds RE2's own programs.
    pub fn build(config: &RegexMatcher, path: &FieldPath) -> Result<FullRegex, ConfigError> {
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
    pub fn is_match(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }

    /// The pattern as configured.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }
}

/// Compiles `pattern` as RE2 would, to search with. Errors are RE2's.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    new_regex(&translate(pattern)?, pattern)
}

fn new_regex(translated: &str, pattern: &str) -> Result<Regex, String> {
    let tree = ast::parse::Parser::new().parse(translated);
    let tree = tree.map_err(|error| match error.kind() {
        ast::ErrorKind::ClassRangeInvalid => invalid_range(translated, error.span()),
        kind => format!("regex {pattern:?} is not valid: {kind}"),
    })?;
    repetitions(&tree, translated)?;
    let meaning = TranslatorBuilder::new()
        .utf8(false)
        .build()
        .translate(translated, &tree);
    meaning.map_err(|error| match error.kind() {
        hir::ErrorKind::UnicodePropertyNotFound | hir::ErrorKind::UnicodePropertyValueNotFound => {
            invalid_range(translated, error.span())
        }
        kind => format!("regex {pattern:?} is not valid: {kind}"),
    })?;
    Regex::new(translated).map_err(|_| "pattern too large - compile failed".to_owned())
}

fn invalid_range(translated: &str, span: &ast::Span) -> String {
    let range = translated.get(span.start.offset..span.end.offset);
    format!(
        "invalid character class range: {}",
        range.unwrap_or_default()
    )
}

/// How often `tree` repeats its innermost part by counted repetitions. RE2 refuses more than [`MAX_REPEAT`] times.
fn repetitions(tree: &Ast, translated: &str) -> Result<u64, String> {
    let most = |trees: &[Ast]| {
        trees
            .iter()
            .try_fold(1, |most, tree| Ok(repetitions(tree, translated)?.max(most)))
    };
    match tree {
        Ast::Group(group) => repetitions(&group.ast, translated),
        Ast::Alternation(alternation) => most(&alternation.asts),
        Ast::Concat(concat) => most(&concat.asts),
        Ast::Repetition(repetition) => {
            let inner = repetitions(&repetition.ast, translated)?;
            let count = match &repetition.op.kind {
                RepetitionKind::Range(
                    RepetitionRange::Exactly(count) | RepetitionRange::AtLeast(count),
                ) => *count,
                RepetitionKind::Range(RepetitionRange::Bounded(_, count)) => *count,
                _ => 1,
            };
            let total = inner * u64::from(count.max(1));
            if total <= MAX_REPEAT {
                return Ok(total);
            }
            let span = repetition.op.span;
            let operator = translated.get(span.start.offset..span.end.offset);
            Err(format!(
                "invalid repetition size: {}",
                operator.unwrap_or_default()
            ))
        }
        _ => Ok(1),
    }
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

    /// Copies `length` bytes.
    fn copy(&mut self, length: usize) {
        self.out.push_str(&self.pattern[self.at..self.at + length]);
        self.at += length;
    }

    /// Copies `length` bytes as one item that may be repeated.
    fn item(&mut self, length: usize) {
        self.copy(length);
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
        if let Some(name) = options.strip_prefix("P<").or(options.strip_prefix('<')) {
            return self.open_named(options.len() - name.len());
        }
        let end = options
            .find(|c: char| !matches!(c, 'i' | 'm' | 's' | 'U' | '-'))
            .ok_or_else(|| format!("missing ): {}", self.pattern))?;
        let flags = &options[..end];
        let after = options[end..].chars().next().map_or(0, char::len_utf8);
        if !options[end..].starts_with([':', ')']) || flags.ends_with('-') {
            return Err(format!(
                "invalid perl operator: (?{}",
                &options[..end + after]
            ));
        }
        let length = end + 1;
        if !options[..length].ends_with(')') {
            self.depth += 1;
        }
        self.item(2 + length);
        self.repeatable = false;
        Ok(())
    }

    /// A named group, whose name begins `start` bytes after the `(?`. The name is checked and left out: nothing refers to
    /// groups by name, and RE2 allows names that the `regex` crate refuses.
    fn open_named(&mut self, start: usize) -> Result<(), String> {
        let rest = self.rest();
        let name_on = &rest[2 + start..];
        let end = name_on
            .find('>')
            .ok_or_else(|| format!("invalid named capture group: {rest}"))?;
        let name = &name_on[..end];
        let length = 2 + start + end + 1;
        if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || c == '_') {
            return Err(format!("invalid named capture group: {}", &rest[..length]));
        }
        self.literal("(", length);
        self.depth += 1;
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

    /// A bracket expression: single characters, ranges, escaped classes and `[:name:]`. All else is literal in RE2, where
    /// the `regex` crate knows nested classes and `&&`, `--` and `~~`.
    fn class(&mut self) -> Result<(), String> {
        let start = self.at;
        self.copy(1);
        if self.rest().starts_with('^') {
            self.copy(1);
        }
        let first = self.at;
        loop {
            let rest = self.rest();
            if rest.is_empty() {
                return Err(format!("missing ]: {}", &self.pattern[start..]));
            } else if rest.starts_with(']') && self.at > first {
                break;
            } else if let Some((name, _)) = rest.strip_prefix("[:").and_then(|r| r.split_once(":]"))
            {
                let length = name.len() + 4;
                if !POSIX_CLASSES.contains(&name.trim_start_matches('^')) {
                    let class = &rest[..length];
                    return Err(format!("invalid character class range: {class}"));
                }
                self.copy(length);
            } else if rest.starts_with('\\') && rest[1..].starts_with(CLASS_ESCAPES) {
                self.escape()?;
            } else {
                self.class_character()?;
                let rest = self.rest();
                if rest.len() > 1 && rest.starts_with('-') && !rest.starts_with("-]") {
                    self.copy(1);
                    self.class_character()?;
                }
            }
        }
        self.copy(1);
        self.done_item();
        Ok(())
    }

    /// A character of a class, or an end of a range in it. Only escapes that stand for one character are valid there.
    fn class_character(&mut self) -> Result<(), String> {
        let rest = self.rest();
        match rest.chars().next() {
            Some('\\')
                if rest[1..].starts_with(CLASS_ESCAPES)
                    || rest[1..].starts_with(['b', 'B', 'A', 'z', 'C', 'Q']) =>
            {
                Err(format!("invalid escape sequence: {}", &rest[..2]))
            }
            Some('\\') => self.escape(),
            Some(next) => {
                if matches!(next, '[' | ']' | '&' | '~' | '-' | '^') {
                    self.out.push('\\');
                }
                self.copy(next.len_utf8());
                Ok(())
            }
            None => Ok(()),
        }
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
                let braced = rest[2..].strip_prefix('{').and_then(|r| r.split_once('}'));
                let (digits, length) = match braced {
                    Some((digits, _)) => (digits, digits.len() + 4),
                    None => (rest.get(2..4).unwrap_or_default(), 4),
                };
                let code = u32::from_str_radix(digits, 16)
                    .ok()
                    .and_then(char::from_u32);
                if code.is_none() || digits.starts_with('+') {
                    let shown = rest
                        .char_indices()
                        .nth(4)
                        .map_or(rest, |(end, _)| &rest[..end.max(length.min(rest.len()))]);
                    return Err(format!("invalid escape sequence: {shown}"));
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

    /// The error of Envoy 1.40.0 for each pattern; `None` if it loads.
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
            ("(a{500}){500}", Some("invalid repetition size: {500}")),
            ("(a{10}){101}", Some("invalid repetition size: {101}")),
            ("(a{2,}){501}", Some("invalid repetition size: {501}")),
            ("[b-a]", Some("invalid character class range: b-a")),
            ("[+-\\d]", Some("invalid escape sequence: \\d")),
            ("[a-b-\\d]", None),
            ("[\\b]", Some("invalid escape sequence: \\b")),
            ("\\p{Foo}", Some("invalid character class range: \\p{Foo}")),
            ("\\pX", Some("invalid character class range: \\pX")),
            ("[[:foo:]]", Some("invalid character class range: [:foo:]")),
            ("[[:alpha:]", Some("missing ]: [[:alpha:]")),
            ("\\xZZ", Some("invalid escape sequence: \\xZZ")),
            ("\\x4", Some("invalid escape sequence: \\x4")),
            ("(?i-)a", Some("invalid perl operator: (?i-)")),
            ("(?P<a.b>c)", Some("invalid named capture group: (?P<a.b>")),
            ("(?P<1a>b)(?P<1a>c)", None),
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

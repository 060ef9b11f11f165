//! Regular expressions in RE2's syntax, which Envoy's configurations are written in.
//!
//! RE2 reads an expression into a tree (`parse`), and so does this module, with RE2's errors, so that one file loads or
//! fails in both proxies. From the tree, the same expression is written for the `regex` crate ([`write`]), which matches
//! as RE2 does. The tree also gives the size of RE2's program (`program`), which Envoy limits.

mod factor;
mod limits;
mod parse;
mod program;
mod regexp;
mod simplify;
mod write;

use regex::bytes::Regex;
use regex::bytes::RegexBuilder;

use write::Letters;

use crate::ConfigError;
use crate::FieldPath;
use crate::api::envoy::r#type::matcher::v3::RegexMatcher;
use crate::api::envoy::r#type::matcher::v3::regex_matcher::EngineType;

pub use limits::SizeLimits;

/// A regular expression that must match a whole value, as Envoy's matchers ask for.
#[derive(Clone, Debug)]
pub struct FullRegex {
    regex: Regex,
    /// As it is in the configuration.
    pattern: String,
}

impl FullRegex {
    /// Compiles a `RegexMatcher`.
    ///
    /// # Errors
    /// What is wrong with its expression, in RE2's words, or that its program is too large: see [`SizeLimits`].
    pub fn build(config: &RegexMatcher, path: &FieldPath) -> Result<FullRegex, ConfigError> {
        FullRegex::compile(config).map_err(|error| ConfigError::new(&path.field("regex"), error))
    }

    /// Compiles a `RegexMatcher` that is not part of a configuration.
    ///
    /// # Errors
    /// As [`FullRegex::build`].
    pub fn compile(config: &RegexMatcher) -> Result<FullRegex, String> {
        let regex = compile_in(config, |pattern| format!(r"\A(?:{pattern})\z"))?;
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

/// Compiles a `RegexMatcher` to search with.
///
/// # Errors
/// Those of [`FullRegex::build`].
pub fn compile(config: &RegexMatcher) -> Result<Regex, String> {
    compile_in(config, |pattern| pattern)
}

/// Compiles `pattern` to search in UTF-8 text, without a limit on its size: as RE2 does by default, in contrast to the
/// expressions of a configuration.
///
/// # Errors
/// What is wrong with it, in RE2's words.
pub fn search(pattern: &str) -> Result<Regex, String> {
    let beyond_latin1 = |error: &str| error.starts_with(r"invalid escape sequence: \x{");
    let written = match parse::parse(pattern) {
        Ok(tree) if pattern.is_ascii() => write::write(&tree, Letters::CodePoints),
        Err(error) if !beyond_latin1(&error) => return Err(error),
        _ => pattern.to_owned(),
    };
    Regex::new(&written).map_err(|_| "pattern too large - compile failed".to_owned())
}

#[expect(deprecated, reason = "Envoy still obeys max_program_size")]
fn compile_in(config: &RegexMatcher, around: fn(String) -> String) -> Result<Regex, String> {
    let pattern = &config.regex;
    let tree = parse::parse(pattern)?;
    let EngineType::GoogleRe2(own) = config
        .engine_type
        .unwrap_or(EngineType::GoogleRe2(Default::default()));
    limits::check(pattern, program::size(&tree), own.max_program_size)?;
    RegexBuilder::new(&around(write::write(&tree, Letters::Bytes)))
        .unicode(false)
        .build()
        .map_err(|_| "pattern too large - compile failed".to_owned())
}

#[cfg(test)]
#[expect(deprecated, reason = "Envoy still obeys max_program_size")]
mod tests {
    use super::*;
    use crate::api::envoy::r#type::matcher::v3::regex_matcher::GoogleRe2;

    fn matcher(pattern: &str) -> RegexMatcher {
        RegexMatcher {
            regex: pattern.to_owned(),
            ..Default::default()
        }
    }

    /// What Envoy 1.40.0 says of each pattern; `None` where it loads.
    #[test]
    fn refuses_what_re2_refuses_in_its_words() {
        for (pattern, error) in [
            ("a(", Some("missing ): a(")),
            ("a\\", Some("trailing \\")),
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
            ("\\x{100}", Some("invalid escape sequence: \\x{100")),
            ("\\400", Some("invalid escape sequence: \\400")),
            ("a{01}", None),
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
            let config = matcher(pattern);
            assert_eq!(compile(&config).err().as_deref(), error, "{pattern}");
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
            ("(?i)straße-k+", "STRAßE-Kk", true),
            ("(?i)k", "\u{212a}", false),
            ("é", "é", true),
            ("é?", "\u{e9}", true),
            ("[é]{2}", "é", true),
            (".", "é", false),
            ("\\pN", "²", false),
            ("a|ab|abc", "abc", true),
            ("(?m)^a$\n^b$", "a\nb", true),
            ("[^\\x00-\\xff]|x", "x", true),
            ("(?U)a+?b{2,}c{0}", "aabbb", true),
            ("a(?i)*", "aaa", true),
        ] {
            let regex = FullRegex::build(&matcher(pattern), &FieldPath::root()).unwrap();
            assert_eq!(
                regex.is_match(value.as_bytes()),
                matches,
                "{pattern} on {value}"
            );
        }
    }

    /// `sizes.tsv` is recorded from RE2 by `conformance/regex_sizes.py`.
    #[test]
    fn programs_are_as_large_as_re2s() {
        let mut wrong = Vec::new();
        for line in include_str!("sizes.tsv").lines() {
            let (size, pattern) = line.split_once('\t').unwrap();
            let size: usize = size.parse().unwrap();
            match parse::parse(pattern) {
                Ok(tree) if program::size(&tree) == size => {}
                Ok(tree) => wrong.push(format!("{pattern}: {} for {size}", program::size(&tree))),
                Err(error) => wrong.push(format!("{pattern}: {error}")),
            }
        }
        assert!(
            wrong.is_empty(),
            "{} wrong:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
    }

    #[test]
    fn larger_programs_are_refused() {
        let refusal = |pattern: &str, own: Option<u32>| {
            let mut config = matcher(pattern);
            config.engine_type = own.map(|own| {
                EngineType::GoogleRe2(GoogleRe2 {
                    max_program_size: Some(own),
                })
            });
            compile(&config).err()
        };
        assert_eq!(refusal("a{96}", None), None);
        assert_eq!(
            refusal("a{97}", None).as_deref(),
            Some(
                "regex 'a{97}' RE2 program size of 101 > max program size of 100 set for the error level threshold. \
                  Increase configured max program size if necessary."
            )
        );
        assert_eq!(refusal("a{97}", Some(101)), None);
        assert_eq!(
            refusal("abc", Some(6)).as_deref(),
            Some(
                "regex 'abc' RE2 program size of 7 > max program size of 6. \
                  Increase configured max program size if necessary."
            )
        );
        let limits = SizeLimits {
            error: 200,
            ..SizeLimits::default()
        };
        limits.apply();
        assert_eq!(refusal("a{97}", None), None);
        SizeLimits::default().apply();
    }

    /// Recorded with `/clusters?filter=` and `/stats?filter=`.
    #[test]
    fn a_search_reads_utf_8() {
        for (pattern, text, want) in [
            ("^.$", "\u{e9}", true),
            ("^[^a]$", "\u{20ac}", true),
            ("^\\xe9$", "\u{e9}", true),
            ("\u{e9}$", "\u{e9}", true),
            ("\\x{100}", "\u{100}", true),
            ("[[:^lower:]]{2}", "A\u{e9}", true),
            ("\\bb\\B", "a.bc", true),
            ("(?P<n>a)(?P<m>b)", "ab", true),
            ("(?i)ka", "KA", true),
            ("^\\C$", "a", true),
            ("[a&&b]", "&", true),
        ] {
            let regex = search(pattern).unwrap();
            assert_eq!(regex.is_match(text.as_bytes()), want, "{pattern}");
        }
        assert_eq!(search("a**").unwrap_err(), "bad repetition operator: **");
        assert!(search(&"x".repeat(300)).is_ok());
    }
}

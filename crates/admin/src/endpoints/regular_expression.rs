//! Regular expressions in queries, with RE2's error messages.

use regex::Regex;

/// Compiles `pattern`.
///
/// # Errors
/// With RE2's message for common mistakes, otherwise with the pattern.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|error| explain(pattern, &error.to_string()))
}

fn explain(pattern: &str, error: &str) -> String {
    let from = |letter: char| pattern.rfind(letter).map_or(pattern, |at| &pattern[at..]);
    let says = |kind: &str| error.contains(kind);
    if says("unclosed character class") {
        format!("missing ]: {}", from('['))
    } else if says("unclosed group") {
        format!("missing ): {pattern}")
    } else if says("unopened group") {
        format!("unexpected ): {pattern}")
    } else if says("repetition operator missing expression") {
        let operator = pattern.chars().find(|c| "*+?".contains(*c));
        let operator = operator.map(String::from).unwrap_or_default();
        format!("no argument for repetition operator: {operator}")
    } else {
        pattern.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded with Envoy 1.40.
    #[test]
    fn errors_are_those_of_re2() {
        for (pattern, want) in [
            ("(", "missing ): ("),
            ("[", "missing ]: ["),
            ("a[b", "missing ]: [b"),
            (")", "unexpected ): )"),
            ("*a", "no argument for repetition operator: *"),
        ] {
            assert_eq!(compile(pattern).unwrap_err(), want);
        }
        assert!(compile("a.*b").is_ok());
    }
}

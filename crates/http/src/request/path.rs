//! Path normalisation: `normalize_path`, `merge_slashes` and `path_with_escaped_slashes_action`.
//!
//! Routes and upstreams must agree on the meaning of a path, so it is rewritten before routes are matched. The rules
//! are those of the URL standard as Envoy's library implements them; the table in the tests was recorded with Envoy.

use outrider_codec::Target;

/// `HttpConnectionManager.PathWithEscapedSlashesAction`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum EscapedSlashes {
    /// Escaped slashes are kept.
    #[default]
    Keep,
    /// Answers 400.
    Reject,
    /// Answers 307 with the path with its slashes unescaped.
    Redirect,
    /// Slashes are unescaped.
    Forward,
}

/// The options for paths.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PathOptions {
    /// `normalize_path`
    pub(crate) normalize: bool,
    /// `merge_slashes`
    pub(crate) merge_slashes: bool,
    /// `path_with_escaped_slashes_action`
    pub(crate) escaped_slashes: EscapedSlashes,
}

/// The result of normalising a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Normalized {
    /// The path does not change.
    Unchanged,
    /// The new path.
    Changed(Target),
    /// The client is redirected to this path.
    Redirect(Target),
    /// The path is refused; with the path up to that step, if it has changed.
    Rejected(Option<Target>),
}

impl PathOptions {
    /// Applies the options to `path`.
    pub(crate) fn apply(self, path: &Target) -> Normalized {
        if !(self.normalize || self.merge_slashes || self.escaped_slashes != EscapedSlashes::Keep) {
            return Normalized::Unchanged;
        }
        let (before, query) = split_query(path.as_str());
        let mut redirect = false;
        let mut text = before.to_owned();
        if self.escaped_slashes != EscapedSlashes::Keep
            && let Some(unescaped) = unescape_slashes(&text)
        {
            if self.escaped_slashes == EscapedSlashes::Reject {
                return Normalized::Rejected(Target::try_from(unescaped + query).ok());
            }
            redirect = self.escaped_slashes == EscapedSlashes::Redirect;
            text = unescaped;
        }
        if self.normalize {
            match normalize(&text) {
                Some(normal) => text = normal,
                None => return Normalized::Rejected(None),
            }
        }
        if self.merge_slashes && text.contains("//") {
            text = merge_slashes(&text);
        }
        if text == before {
            return Normalized::Unchanged;
        }
        text.push_str(query);
        match Target::try_from(text) {
            Ok(path) if redirect => Normalized::Redirect(path),
            Ok(path) => Normalized::Changed(path),
            Err(_) => Normalized::Rejected(None),
        }
    }
}

/// Applies `normalize_path` and `merge_slashes` to `path`, which has no query. `None` if it cannot be normalised.
#[must_use]
pub fn normalize_and_merge(path: &str) -> Option<String> {
    normalize(path).map(|path| match path.contains("//") {
        true => merge_slashes(&path),
        false => path,
    })
}

/// Splits a path from its query, which keeps the question mark.
fn split_query(path: &str) -> (&str, &str) {
    path.split_at(path.find('?').unwrap_or(path.len()))
}

/// `path` with `%2f` and `%5c` decoded, if it has any.
fn unescape_slashes(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let decoded = match escape.get(1..3) {
            Some("2f" | "2F") => '/',
            Some("5c" | "5C") => '\\',
            _ => {
                out.push('%');
                rest = &escape[1..];
                continue;
            }
        };
        out.push(decoded);
        rest = &escape[3..];
    }
    out.push_str(rest);
    (out.len() != path.len()).then_some(out)
}

/// Resolves `.` and `..`, turns `\` into `/`, decodes what needs no escape and escapes what does. `None` for `%00`.
fn normalize(path: &str) -> Option<String> {
    let mut out: Vec<String> = Vec::new();
    let mut segments = path
        .strip_prefix(['/', '\\'])?
        .split(['/', '\\'])
        .peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        let text = match segment.split_once(';') {
            // Some servers take `..;x` for `..` with a parameter.
            Some((dots @ ("." | ".."), _)) => dots.to_owned(),
            _ => normalize_segment(segment)?,
        };
        match text.as_str() {
            "." => {}
            ".." => {
                out.pop();
            }
            _ => {
                out.push(text);
                continue;
            }
        }
        if last {
            out.push(String::new()); // `/a/.` ends in a slash
        }
    }
    let mut text = String::with_capacity(path.len());
    for segment in &out {
        text.push('/');
        text.push_str(segment);
    }
    Some(if text.is_empty() {
        "/".to_owned()
    } else {
        text
    })
}

fn normalize_segment(segment: &str) -> Option<String> {
    let mut out = String::with_capacity(segment.len());
    let mut chars = segment.char_indices();
    while let Some((at, char)) = chars.next() {
        if char != '%' {
            if matches!(
                char,
                '\0'..=' ' | '"' | '<' | '>' | '^' | '`' | '{' | '|' | '}' | '\x7f'
            ) {
                out.push_str(&format!("%{:02X}", u32::from(char)));
            } else {
                out.push(char);
            }
            continue;
        }
        let digits = segment.get(at + 1..at + 3);
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(0) => return None,
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                out.push(char::from(byte));
                chars.nth(1);
            }
            _ => out.push('%'),
        }
    }
    Some(out)
}

/// Envoy joins the segments between slashes and keeps one slash at each end, so that `///` becomes `//`.
fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    if path.starts_with('/') {
        out.push('/');
    }
    for (at, part) in path.split('/').filter(|part| !part.is_empty()).enumerate() {
        if at > 0 {
            out.push('/');
        }
        out.push_str(part);
    }
    if path.ends_with('/') {
        out.push('/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(path: &str, options: PathOptions) -> String {
        let path = Target::try_from(path).unwrap();
        match options.apply(&path) {
            Normalized::Unchanged => path.to_string(),
            Normalized::Changed(path) => path.to_string(),
            Normalized::Redirect(path) => format!("redirect {path}"),
            Normalized::Rejected(_) => "rejected".to_owned(),
        }
    }

    /// Each line was recorded with Envoy 1.40.
    #[test]
    fn normalizes_as_envoy_does() {
        let options = PathOptions {
            normalize: true,
            merge_slashes: false,
            escaped_slashes: EscapedSlashes::Reject,
        };
        for (path, want) in [
            ("/c1/../dr/", "/dr/"),
            ("/c1//a", "/c1//a"),
            ("/c1/%2e%2e/dr/", "/dr/"),
            ("/c1/a%2Fb", "rejected"),
            ("/c1/%61", "/c1/a"),
            ("/c1/a%00", "rejected"),
            ("/c1/%zz", "/c1/%zz"),
            ("/c1/a\\b", "/c1/a/b"),
            ("/../../x", "/x"),
            ("/dr/?a=/../b", "/dr/?a=/../b"),
            ("/c1/./a/.", "/c1/a/"),
            ("/c1/..;/x", "/x"),
            ("/a/..;b/c", "/c"),
            ("/a/.;b/c", "/a/c"),
            ("/a/..;", "/"),
            ("/a/b;c/d", "/a/b;c/d"),
            ("/a/%2e;/b", "/a/.;/b"),
            ("/a/...;/b", "/a/...;/b"),
            ("/a/b/..", "/a/"),
            ("/a/\\..\\b", "/a/b"),
            ("/a/%ff%0a%7f%20%", "/a/%ff%0a%7f%20%"),
            ("/a/%E3%81%82/..", "/a/"),
            ("/a/.%2e/b", "/b"),
            ("/a/b//..//c", "/a/b//c"),
            ("/a/%25%32%65", "/a/%252e"),
            ("/c1/^\"{}|", "/c1/%5E%22%7B%7D%7C"),
        ] {
            assert_eq!(apply(path, options), want, "{path}");
        }
    }

    #[test]
    fn merges_and_redirects() {
        let options = PathOptions {
            normalize: true,
            merge_slashes: true,
            escaped_slashes: EscapedSlashes::Redirect,
        };
        for (path, want) in [
            ("//a", "/a"),
            ("///", "//"),
            ("/a/b//..//c", "/a/b/c"),
            ("/c1/a%2fb?x=%2f", "redirect /c1/a/b?x=%2f"),
            ("/c1/%5Cb", "redirect /c1/b"),
            ("/a/..%2f", "redirect /"),
            ("/a/%2f..", "redirect /a/"),
        ] {
            assert_eq!(apply(path, options), want, "{path}");
        }
    }

    #[test]
    fn unescapes_without_normalizing() {
        let options = PathOptions {
            escaped_slashes: EscapedSlashes::Forward,
            ..PathOptions::default()
        };
        assert_eq!(apply("/a%5c..%5cb", options), "/a\\..\\b");
        assert_eq!(apply("/a%2f/%2e", options), "/a//%2e");
        assert_eq!(apply("/a%2f?%2f", options), "/a/?%2f");
    }
}

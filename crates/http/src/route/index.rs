//! Finds the first route that matches without trying each route in turn.
//!
//! Routes are tried in the order of the configuration, as in Envoy, but only routes whose path can match. Exact paths
//! are found by a hash lookup. Prefixes, and the literal texts that regular expressions begin with, are found by one
//! binary search in a sorted list, in which each text refers to the longest other text that it begins with.

use std::collections::BTreeMap;
use std::collections::HashMap;

use http::Method;
use smallvec::SmallVec;

use crate::route::RequestView;
use crate::route::route_match::PathMatch;
use crate::route::route_match::RouteMatch;

/// An index of the routes of a virtual host by path.
#[derive(Debug, Default)]
pub(crate) struct RouteIndex {
    case_sensitive: PathIndex,
    /// Routes with `case_sensitive: false`, to be looked up with a lower-case path.
    ignore_case: PathIndex,
    connect: Vec<usize>,
}

/// Positions of routes, by the text that a path must equal or begin with.
#[derive(Debug, Default)]
struct PathIndex {
    exact: HashMap<Box<str>, Vec<usize>>,
    /// Sorted by text.
    prefixes: Vec<IndexedPrefix>,
}

#[derive(Debug)]
struct IndexedPrefix {
    text: Box<str>,
    routes: Vec<usize>,
    /// The longest other text that this one begins with.
    parent: Option<usize>,
}

/// Lists of the positions of candidates, each in rising order.
type Candidates<'i> = SmallVec<[&'i [usize]; 8]>;

impl RouteIndex {
    pub(crate) fn new<'m>(matches: impl Iterator<Item = &'m RouteMatch>) -> RouteIndex {
        let mut index = RouteIndex::default();
        let mut prefixes = BTreeMap::new();
        let mut folded_prefixes = BTreeMap::new();
        for (at, route) in matches.enumerate() {
            match &route.path {
                PathMatch::Connect => index.connect.push(at),
                PathMatch::IgnoreCase(path) => {
                    index.ignore_case.add(path, at, &mut folded_prefixes);
                }
                path => index.case_sensitive.add(path, at, &mut prefixes),
            }
        }
        index.case_sensitive.prefixes = link(prefixes);
        index.ignore_case.prefixes = link(folded_prefixes);
        index
    }

    /// The position of the first route for which `matches` returns true, among the routes whose path can match.
    pub(crate) fn first(
        &self,
        request: &RequestView<'_>,
        path: &str,
        matches: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let mut candidates = Candidates::new();
        if request.head.method == Method::CONNECT {
            candidates.push(&self.connect);
        }
        // A CONNECT without a path matches no route with a path.
        if request.head.path.is_some() {
            self.case_sensitive.candidates(path, &mut candidates);
            if !self.ignore_case.is_empty() {
                let mut lower = SmallVec::<[u8; 256]>::from_slice(path.as_bytes());
                lower.make_ascii_lowercase();
                let lower = std::str::from_utf8(&lower).unwrap_or(path);
                self.ignore_case.candidates(lower, &mut candidates);
            }
        }
        first_of(candidates, matches)
    }
}

/// Tries the positions in rising order until one matches.
fn first_of(mut candidates: Candidates<'_>, matches: impl Fn(usize) -> bool) -> Option<usize> {
    loop {
        let list = candidates
            .iter_mut()
            .filter(|list| !list.is_empty())
            .min_by_key(|list| list[0])?;
        let (first, rest) = list.split_first()?;
        if matches(*first) {
            return Some(*first);
        }
        *list = rest;
    }
}

impl PathIndex {
    fn add(&mut self, path: &PathMatch, at: usize, prefixes: &mut BTreeMap<Box<str>, Vec<usize>>) {
        match path {
            PathMatch::Exact(text) => self.exact.entry(text.clone()).or_default().push(at),
            PathMatch::Prefix(text) | PathMatch::SeparatedPrefix(text) => {
                prefixes.entry(text.clone()).or_default().push(at);
            }
            PathMatch::Regex(regex) => {
                let text = literal_prefix(regex.pattern());
                prefixes.entry(text.into()).or_default().push(at);
            }
            PathMatch::Connect | PathMatch::IgnoreCase(_) => {}
        }
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty()
    }

    fn candidates<'i>(&'i self, path: &str, candidates: &mut Candidates<'i>) {
        candidates.extend(self.exact.get(path).map(Vec::as_slice));
        // The longest text that `path` begins with is the last one sorted before it, or a prefix of that one.
        let after = self
            .prefixes
            .partition_point(|prefix| &*prefix.text <= path);
        let mut next = after.checked_sub(1);
        while let Some(prefix) = next.and_then(|at| self.prefixes.get(at)) {
            if path.starts_with(&*prefix.text) {
                candidates.push(&prefix.routes);
            }
            next = prefix.parent;
        }
    }
}

/// Makes the sorted list. The parent of each text is among the texts before it.
fn link(prefixes: BTreeMap<Box<str>, Vec<usize>>) -> Vec<IndexedPrefix> {
    let mut list: Vec<IndexedPrefix> = Vec::with_capacity(prefixes.len());
    for (text, routes) in prefixes {
        let mut parent = list.len().checked_sub(1);
        while let Some(at) = parent
            && !text.starts_with(&*list[at].text)
        {
            parent = list[at].parent;
        }
        list.push(IndexedPrefix {
            text,
            routes,
            parent,
        });
    }
    list
}

/// A text that every match of an expression begins with. It may be shorter than possible, but it is never wrong.
fn literal_prefix(pattern: &str) -> String {
    let mut text = String::new();
    let mut depth = 0_u32;
    // With an alternative outside of all groups, matches have no common beginning.
    let mut escaped = false;
    for byte in pattern.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b'|' if depth == 0 => return text,
            _ => {}
        }
    }
    let mut rest = pattern.trim_start_matches('^').chars().peekable();
    while let Some(next) = rest.next() {
        let literal = match next {
            '\\' if rest.peek().is_some_and(char::is_ascii_punctuation) => rest.next(),
            '\\' | '.' | '[' | ']' | '(' | ')' | '{' | '}' | '*' | '+' | '?' | '|' | '^' | '$' => {
                None
            }
            other => Some(other),
        };
        let Some(literal) = literal else { break };
        // A repeated character may be absent.
        if matches!(rest.peek(), Some('*' | '?' | '{')) {
            break;
        }
        text.push(literal);
    }
    text
}

#[cfg(test)]
mod tests {
    use outrider_config::FieldPath;
    use outrider_config::api::envoy::config::route::v3 as api;
    use outrider_config::api::envoy::r#type::matcher::v3::RegexMatcher;

    use super::*;
    use crate::route::tests::head;
    use crate::route::tests::view;

    #[test]
    fn literal_prefixes_are_never_too_long() {
        for (pattern, prefix) in [
            ("/a/b.*", "/a/b"),
            ("^/a", "/a"),
            ("/ab?c", "/a"),
            ("/ab*", "/a"),
            ("/ab+", "/ab"),
            ("/ab{0,2}", "/a"),
            ("/a\\.b", "/a.b"),
            ("/a\\db", "/a"),
            ("/a|/b", ""),
            ("/x(a|b)", "/x"),
            ("(?i)/a", ""),
            ("/a\\|b", "/a|b"),
            (".*", ""),
        ] {
            assert_eq!(literal_prefix(pattern), prefix, "{pattern}");
        }
    }

    /// A path from a small alphabet, so that texts share prefixes and matches are common.
    fn random_text(random: &mut fastrand::Rng) -> String {
        let length = random.usize(0..6);
        let letters = std::iter::repeat_with(|| ['/', 'a', 'b', 'A'][random.usize(0..4)]);
        format!("/{}", letters.take(length).collect::<String>())
    }

    fn random_match(random: &mut fastrand::Rng) -> RouteMatch {
        use api::route_match::PathSpecifier;
        let text = random_text(random);
        let separated = format!("/x{}", text.trim_end_matches('/'));
        let path_specifier = match random.u8(0..6) {
            0 | 1 => PathSpecifier::Prefix(text),
            2 => PathSpecifier::Path(text),
            3 => PathSpecifier::PathSeparatedPrefix(separated),
            4 => PathSpecifier::SafeRegex(RegexMatcher {
                regex: format!(
                    "{text}{}",
                    ["", ".*", "?", "[ab]+", "|/b"][random.usize(0..5)]
                ),
                ..Default::default()
            }),
            _ => PathSpecifier::ConnectMatcher(api::route_match::ConnectMatcher {}),
        };
        let config = api::RouteMatch {
            path_specifier: Some(path_specifier),
            case_sensitive: Some(random.u8(0..4) > 0),
            ..Default::default()
        };
        RouteMatch::build(&config, &FieldPath::root()).unwrap()
    }

    #[test]
    fn finds_what_a_scan_in_order_finds() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut found = 0;
        for _ in 0..400 {
            let count = random.usize(0..40);
            let routes: Vec<_> = (0..count).map(|_| random_match(&mut random)).collect();
            let index = RouteIndex::new(routes.iter());
            for _ in 0..50 {
                let method = if random.u8(0..8) == 0 {
                    "CONNECT"
                } else {
                    "GET"
                };
                let mut path = random_text(&mut random);
                if random.bool() {
                    path = format!("/x{path}");
                }
                let head = head(method, "h", &path, &[]);
                let view = view(&head);
                let scanned = routes.iter().position(|route| route.matches(&view, &path));
                let indexed = index.first(&view, &path, |at| routes[at].matches(&view, &path));
                assert_eq!(indexed, scanned, "{method} {path} in {routes:?}");
                found += usize::from(scanned.is_some());
            }
        }
        assert!(found > 1000, "too few requests matched: {found}");
    }

    #[test]
    fn a_connect_without_a_path_takes_only_connect_routes() {
        let prefix = api::RouteMatch {
            path_specifier: Some(api::route_match::PathSpecifier::Prefix(String::new())),
            ..Default::default()
        };
        let prefix = RouteMatch::build(&prefix, &FieldPath::root()).unwrap();
        let index = RouteIndex::new(std::iter::once(&prefix));
        let mut head = head("CONNECT", "h", "/", &[]);
        head.path = None;
        assert_eq!(index.first(&view(&head), "", |_| true), None);
    }
}

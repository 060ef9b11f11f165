//! Finds the virtual host for an `:authority`.
//!
//! The order is Envoy's: the exact domain, then the longest `*.suffix`, then the longest `prefix.*`, then `*`. Each `*`
//! matches at least one character. A lookup hashes one text for each distinct length of a wildcard domain, and
//! allocates nothing.

use std::collections::HashMap;

use smallvec::SmallVec;

/// Domains, each with the index of its virtual host.
#[derive(Debug, Default)]
pub(crate) struct Domains {
    exact: HashMap<Box<str>, usize>,
    /// By the length of the text after the `*`, longest first.
    suffixes: Vec<(usize, HashMap<Box<str>, usize>)>,
    /// By the length of the text before the `*`, longest first.
    prefixes: Vec<(usize, HashMap<Box<str>, usize>)>,
    any: Option<usize>,
    ignore_port: bool,
}

/// Why a domain cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duplicate {
    Domain,
    Wildcard,
}

impl Domains {
    /// `ignore_port`: `RouteConfiguration.ignore_port_in_host_matching`.
    pub(crate) fn new(ignore_port: bool) -> Domains {
        Domains {
            ignore_port,
            ..Domains::default()
        }
    }

    /// Adds `domain`, as it is written in `VirtualHost.domains`.
    pub(crate) fn add(&mut self, domain: &str, host: usize) -> Result<(), Duplicate> {
        let domain = domain.to_ascii_lowercase();
        if domain == "*" {
            return match self.any.replace(host) {
                None => Ok(()),
                Some(_) => Err(Duplicate::Wildcard),
            };
        }
        let (texts, text) = if let Some(suffix) = domain.strip_prefix('*') {
            (of_length(&mut self.suffixes, suffix.len()), suffix)
        } else if let Some(prefix) = domain.strip_suffix('*') {
            (of_length(&mut self.prefixes, prefix.len()), prefix)
        } else {
            (&mut self.exact, domain.as_str())
        };
        match texts.insert(text.into(), host) {
            None => Ok(()),
            Some(_) => Err(Duplicate::Domain),
        }
    }

    /// The virtual host for `authority`.
    pub(crate) fn find(&self, authority: &[u8]) -> Option<usize> {
        if self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty() {
            return self.any;
        }
        let mut lower = SmallVec::<[u8; 256]>::new();
        let authority = if authority.iter().any(u8::is_ascii_uppercase) {
            lower.extend(authority.iter().map(u8::to_ascii_lowercase));
            &lower
        } else {
            authority
        };
        // A domain in the configuration is UTF-8; other bytes cannot match it.
        let host = std::str::from_utf8(authority).unwrap_or_default();
        let host = if self.ignore_port {
            without_port(host)
        } else {
            host
        };
        if host.is_empty() {
            return self.any;
        }
        self.exact
            .get(host)
            .or_else(|| longest(&self.suffixes, host, |n| host.get(host.len() - n..)))
            .or_else(|| longest(&self.prefixes, host, |n| host.get(..n)))
            .copied()
            .or(self.any)
    }
}

/// The texts of this length, in a list that is sorted from the longest to the shortest.
fn of_length(
    lists: &mut Vec<(usize, HashMap<Box<str>, usize>)>,
    length: usize,
) -> &mut HashMap<Box<str>, usize> {
    let at = match lists.binary_search_by(|(other, _)| length.cmp(other)) {
        Ok(at) => at,
        Err(at) => {
            lists.insert(at, (length, HashMap::new()));
            at
        }
    };
    &mut lists[at].1
}

fn longest<'d, 'h>(
    lists: &'d [(usize, HashMap<Box<str>, usize>)],
    host: &str,
    part: impl Fn(usize) -> Option<&'h str>,
) -> Option<&'d usize> {
    lists
        .iter()
        .filter(|(length, _)| *length < host.len())
        .find_map(|(length, texts)| texts.get(part(*length)?))
}

/// `host` without `:port`; the brackets of an IPv6 address stay.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => {
            let bare_ipv6 = host.starts_with('[') && !name.ends_with(']');
            if bare_ipv6 { host } else { name }
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAINS: [(&str, &str); 11] = [
        ("foo.com", "exact"),
        ("*.foo.com", "suf"),
        ("*.a.foo.com", "suf2"),
        ("*-x.foo.com", "dash"),
        ("foo.*", "pre"),
        ("foo.n*", "pre2"),
        ("x.port:77", "port"),
        ("*.port:77", "sufport"),
        ("bar*", "bare"),
        ("[::1]", "v6"),
        ("*a", "sufbare"),
    ];

    /// Recorded with Envoy 1.40.0: (authority, virtual host, virtual host if ports are ignored).
    const FOUND: [(&str, &str, &str); 24] = [
        ("foo.com", "exact", "exact"),
        ("FOO.com", "exact", "exact"),
        ("foo.com:80", "pre", "exact"),
        ("foo.com:8080", "pre", "exact"),
        ("a.foo.com", "suf", "suf"),
        ("b.a.foo.com", "suf2", "suf2"),
        (".foo.com", "", ""),
        ("xfoo.com", "", ""),
        ("foo.net", "pre2", "pre2"),
        ("foo.org", "pre", "pre"),
        ("foo.", "", ""),
        ("bar", "", ""),
        ("bar:1", "bare", ""),
        ("baz", "", ""),
        ("", "", ""),
        ("-x.foo.com", "suf", "suf"),
        ("foo.com.", "pre", "pre"),
        ("a.foo.com:99", "", "suf"),
        ("x.port", "", ""),
        ("x.port:77", "port", ""),
        ("y.port:77", "sufport", ""),
        ("[::1]:80", "", "v6"),
        ("[::1]", "v6", "v6"),
        ("ends-a", "sufbare", "sufbare"),
    ];

    #[test]
    fn finds_the_same_host_as_envoy() {
        for ignore_port in [false, true] {
            for star in [false, true] {
                let mut domains = Domains::new(ignore_port);
                for (at, (domain, _)) in DOMAINS.iter().enumerate() {
                    domains.add(domain, at).unwrap();
                }
                if star {
                    domains.add("*", DOMAINS.len()).unwrap();
                }
                for (authority, with_port, without_port) in FOUND {
                    let name = if ignore_port { without_port } else { with_port };
                    let expected = DOMAINS.iter().position(|(_, host)| *host == name);
                    let expected = expected.or(star.then_some(DOMAINS.len()));
                    assert_eq!(domains.find(authority.as_bytes()), expected, "{authority}");
                }
            }
        }
    }

    #[test]
    fn only_a_star_at_the_start_or_end_is_a_wildcard() {
        let mut domains = Domains::new(false);
        for (at, domain) in ["a.*.b", "**", "*s*", ""].into_iter().enumerate() {
            domains.add(domain, at).unwrap();
        }
        for (authority, expected) in [
            ("a.*.b", Some(0)),
            ("a.x.b", None),
            ("xs*", Some(2)),
            ("x*", Some(1)),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(domains.find(authority.as_bytes()), expected, "{authority}");
        }
    }

    #[test]
    fn a_suffix_goes_before_a_prefix() {
        let mut domains = Domains::new(false);
        domains.add("*.com", 0).unwrap();
        domains.add("foo.lo*", 1).unwrap();
        assert_eq!(domains.find(b"foo.long.com"), Some(0));
    }

    #[test]
    fn a_domain_belongs_to_one_host() {
        for domain in ["a", "*.a", "a.*"] {
            let mut domains = Domains::new(false);
            domains.add(domain, 0).unwrap();
            let again = domains.add(&domain.to_ascii_uppercase(), 1);
            assert_eq!(again, Err(Duplicate::Domain), "{domain}");
        }
        let mut domains = Domains::new(false);
        domains.add("*", 0).unwrap();
        assert_eq!(domains.add("*", 1), Err(Duplicate::Wildcard));
    }
}

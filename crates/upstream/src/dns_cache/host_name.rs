//! The names of hosts as keys of a DNS cache.

use std::fmt;
use std::net::Ipv6Addr;
use std::sync::Arc;

/// A name with a port, as requests give it: `example.com:443`. It is not resolved yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostName {
    text: Arc<str>,
    /// The port that applies if the text has no valid one.
    default_port: u16,
}

impl HostName {
    /// The host of a request: with its own port, or else `default_port`.
    #[must_use]
    pub fn new(host: &str, default_port: u16) -> HostName {
        let text = match has_port(host) {
            true => host.into(),
            false => format!("{host}:{default_port}").into(),
        };
        HostName { text, default_port }
    }

    /// `name:port`
    #[must_use]
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// The name to resolve, and the port. As in Envoy, a port that is no port makes the whole text the name.
    pub(super) fn parts(&self) -> (&str, u16) {
        let text = &*self.text;
        let parts = text.rsplit_once(':').and_then(|(name, port)| {
            let port = port.parse().ok()?;
            let bare = name
                .strip_prefix('[')
                .and_then(|name| name.strip_suffix(']'));
            Some((
                bare.filter(|bare| bare.parse::<Ipv6Addr>().is_ok())
                    .unwrap_or(name),
                port,
            ))
        });
        parts.unwrap_or((text, self.default_port))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether there is a colon outside of brackets. Envoy does not look at what follows it.
fn has_port(host: &str) -> bool {
    match host.rsplit_once(':') {
        Some((_, port)) => !port.contains(']'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_added_and_taken_off() {
        for (host, text, name, port) in [
            ("a.test", "a.test:80", "a.test", 80),
            ("a.test:443", "a.test:443", "a.test", 443),
            ("a.test:99999", "a.test:99999", "a.test:99999", 80),
            ("a.test:", "a.test:", "a.test:", 80),
            ("[::1]", "[::1]:80", "::1", 80),
            ("[::1]:443", "[::1]:443", "::1", 443),
            ("[a]:1", "[a]:1", "[a]", 1),
            ("", ":80", "", 80),
        ] {
            let made = HostName::new(host, 80);
            assert_eq!(made.to_string(), text);
            assert_eq!(made.parts(), (name, port), "{host}");
        }
    }
}

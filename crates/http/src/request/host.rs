//! `strip_matching_host_port`, `strip_any_host_port` and `strip_trailing_host_dot`.

use outrider_codec::HeaderValue;

/// Which port is stripped off the host (`HttpConnectionManager.strip_port_mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum StripPort {
    /// No port.
    #[default]
    Never,
    /// The port that the client connected to.
    Matching,
    /// Any port.
    Any,
}

/// The options for hosts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HostOptions {
    /// `strip_matching_host_port` and `strip_any_host_port`
    pub(crate) strip_port: StripPort,
    /// `strip_trailing_host_dot`
    pub(crate) strip_trailing_dot: bool,
}

impl HostOptions {
    /// The host as the options change it; `None` if it does not change.
    pub(crate) fn apply(self, host: &HeaderValue, local_port: Option<u16>) -> Option<HeaderValue> {
        if self.strip_port == StripPort::Never && !self.strip_trailing_dot {
            return None;
        }
        let text = host.as_str()?;
        let (mut name, mut port) = split_port(text);
        if self.strip_trailing_dot {
            name = name.strip_suffix('.').unwrap_or(name);
        }
        let number = port.and_then(|port| port.parse::<u32>().ok());
        let strip = match self.strip_port {
            StripPort::Never => false,
            StripPort::Matching => number.is_some() && number == local_port.map(u32::from),
            StripPort::Any => number.is_some(),
        };
        if strip {
            port = None;
        }
        let stripped = match port {
            Some(port) => format!("{name}:{port}"),
            None => name.to_owned(),
        };
        (stripped != text)
            .then(|| HeaderValue::try_from(stripped).ok())
            .flatten()
    }
}

/// The port in `host`, if it is a number.
pub(crate) fn port(host: &HeaderValue) -> Option<u16> {
    split_port(host.as_str()?).1?.parse().ok()
}

/// The name, and the text after the colon, if any. The colons inside `[::1]` do not count.
fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_as_envoy_does() {
        let matching = HostOptions {
            strip_port: StripPort::Matching,
            strip_trailing_dot: true,
        };
        let any = HostOptions {
            strip_port: StripPort::Any,
            strip_trailing_dot: false,
        };
        for (options, host, want) in [
            (matching, "h.test:80", "h.test:80"),
            (matching, "h.test.", "h.test"),
            (matching, "h.test.:80", "h.test:80"),
            (matching, "h.test:8080", "h.test"),
            (matching, "[::1]:8080", "[::1]"),
            (matching, "[::1]", "[::1]"),
            (matching, "h.test:", "h.test:"),
            (any, "h.test:443", "h.test"),
            (any, "h.test.:80", "h.test."),
            (any, "h.test:", "h.test:"),
            (any, "h.test:x", "h.test:x"),
        ] {
            let value = HeaderValue::from_static(host);
            let got = options.apply(&value, Some(8080)).unwrap_or(value);
            assert_eq!(got, want, "{host}");
        }
    }
}

//! The names that a request requires of its connection: `auto_sni` and `auto_san_validation`
//! (`envoy.config.core.v3.UpstreamHttpProtocolOptions`).

use std::net::IpAddr;
use std::rc::Rc;

use outrider_codec::HeaderName;
use outrider_codec::RequestHead;
use outrider_config::ConfigError;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::UpstreamHttpProtocolOptions;

use crate::proxy_protocol::AnnouncedClient;

/// How the names follow from a request.
#[derive(Clone, Debug)]
pub struct NamesFromRequest {
    /// `auto_sni`
    sni: bool,
    /// `auto_san_validation`
    san: bool,
    /// `override_auto_sni_header`; the host if it is unset, or absent from the request.
    header: Option<HeaderName>,
}

/// The names that a connection is made with. Requests with different names do not share connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionNames {
    /// The TLS server name to ask for, instead of the configured one.
    pub(crate) server_name: Option<Box<str>>,
    /// A subject alternative name that the host's certificate must have.
    pub(crate) required_name: Option<Box<str>>,
    /// The client that the connection is for, if the host is told.
    pub(crate) client: Option<AnnouncedClient>,
}

impl NamesFromRequest {
    /// Reads the options found at `path`; `None` if they ask for nothing.
    pub(crate) fn build(
        config: Option<&UpstreamHttpProtocolOptions>,
        path: &FieldPath,
    ) -> Result<Option<NamesFromRequest>, ConfigError> {
        let Some(config) = config else {
            return Ok(None);
        };
        let header = match config.override_auto_sni_header.as_str() {
            "" | ":authority" => None,
            name => Some(HeaderName::try_from(name).map_err(|_| {
                let path = path.field("override_auto_sni_header");
                ConfigError::new(&path, format!("{name:?} is no header name"))
            })?),
        };
        let names = NamesFromRequest {
            sni: config.auto_sni,
            san: config.auto_san_validation,
            header,
        };
        Ok(Some(names).filter(|names| names.sni || names.san))
    }

    /// Whether connections are both asked for the name and checked for it.
    pub(crate) fn are_complete(&self) -> bool {
        self.sni && self.san
    }

    /// The names for a request whose head is as the route's rewrites and header mutations have left it.
    #[must_use]
    pub fn of_request(&self, head: &RequestHead) -> Rc<ConnectionNames> {
        let header = self.header.as_ref().and_then(|name| head.headers.get(name));
        let header = header.and_then(|value| value.as_str());
        let authority = header.filter(|value| !value.is_empty());
        let host = host(authority.unwrap_or_else(|| head.host()));
        let is_address = host.parse::<IpAddr>().is_ok();
        Rc::new(ConnectionNames {
            server_name: (self.sni && !is_address).then(|| host.into()),
            required_name: (self.san && !host.is_empty()).then(|| host.into()),
            client: None,
        })
    }
}

/// An authority without its port, and an IPv6 address without its brackets.
fn host(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[')
        && let Some((address, _)) = rest.split_once(']')
    {
        return address;
    }
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn ports_and_brackets_are_no_part_of_a_host() {
        for (authority, expected) in [
            ("a.test", "a.test"),
            ("a.test:80", "a.test"),
            ("a.test:", "a.test"),
            ("a.test:http", "a.test:http"),
            ("[::1]:80", "::1"),
            ("[::1]", "::1"),
            ("[::1", "[:"),
            ("", ""),
        ] {
            assert_eq!(host(authority), expected, "{authority}");
        }
    }
}

//! The conditions that permissions and principals consist of.

use std::net::IpAddr;
use std::ops::Range;

use outrider_config::address_prefix::AddressPrefix;
use outrider_config::string_matcher::StringMatcher;
use outrider_net::Address;
use outrider_net::SanMatcher;
use outrider_net::TlsInfo;

use crate::FilterStateMatcher;
use crate::HeaderMatcher;
use crate::MetadataMatcher;

use super::Subject;

/// A condition on a subject.
#[derive(Clone, Debug)]
pub(super) enum Condition {
    Any,
    All(Box<[Condition]>),
    OneOf(Box<[Condition]>),
    Not(Box<Condition>),
    Header(HeaderMatcher),
    /// On the path without its query.
    Path(StringMatcher),
    /// The address that the client connected to.
    DestinationIp(AddressPrefix),
    DestinationPort(Range<u32>),
    /// The peer of the connection's socket.
    DirectRemoteIp(AddressPrefix),
    /// The client's address on the connection, possibly as a listener filter found it.
    ConnectionRemoteIp(AddressPrefix),
    RemoteIp(AddressPrefix),
    ServerName(StringMatcher),
    DynamicMetadata(MetadataMatcher),
    RouteMetadata(MetadataMatcher),
    FilterState(FilterStateMatcher),
    /// The client uses TLS, and one of its names matches.
    Authenticated(Option<StringMatcher>),
    /// The client's certificate was checked, and one of its names matches.
    MutualTls(Option<SanMatcher>),
}

impl Condition {
    /// Whether the subject meets the condition.
    pub(super) fn holds(&self, subject: &Subject<'_>) -> bool {
        let connection = subject.connection;
        match self {
            Condition::Any => true,
            Condition::All(all) => all.iter().all(|condition| condition.holds(subject)),
            Condition::OneOf(any) => any.iter().any(|condition| condition.holds(subject)),
            Condition::Not(condition) => !condition.holds(subject),
            Condition::Header(matcher) => subject
                .request
                .is_some_and(|request| matcher.matches(request)),
            Condition::Path(matcher) => {
                let path = subject.request.and_then(|request| request.path.as_ref());
                path.is_some_and(|path| matcher.matches(without_query(path.as_bytes())))
            }
            Condition::DestinationIp(range) => is_in(&connection.local, range),
            Condition::DestinationPort(ports) => {
                let address = connection.local.ip();
                address.is_some_and(|address| ports.contains(&address.port().into()))
            }
            Condition::DirectRemoteIp(range) => is_in(connection.direct_remote(), range),
            Condition::ConnectionRemoteIp(range) => is_in(&connection.remote, range),
            Condition::RemoteIp(range) => is_in(subject.remote, range),
            Condition::ServerName(matcher) => matcher.matches(connection.server_name.as_bytes()),
            Condition::DynamicMetadata(matcher) => matcher.matches(subject.dynamic_metadata),
            Condition::RouteMetadata(matcher) => matcher.matches(subject.route_metadata),
            Condition::FilterState(matcher) => matcher.matches(subject.filter_state),
            Condition::Authenticated(matcher) => {
                let tls = connection.tls.as_deref();
                tls.is_some_and(|tls| {
                    matcher
                        .as_ref()
                        .is_none_or(|matcher| is_named(tls, matcher))
                })
            }
            Condition::MutualTls(matcher) => {
                let tls = connection.tls.as_deref().filter(|tls| tls.validated);
                let peer = tls.and_then(|tls| tls.peer.as_deref());
                peer.is_some_and(|peer| matcher.as_ref().is_none_or(|names| names.matches(peer)))
            }
        }
    }
}

fn is_in(address: &Address, range: &AddressPrefix) -> bool {
    let ip: Option<IpAddr> = address.ip().map(|address| address.ip());
    ip.is_some_and(|ip| range.contains(ip))
}

fn without_query(path: &[u8]) -> &[u8] {
    let end = path.iter().position(|byte| matches!(byte, b'?' | b'#'));
    path.get(..end.unwrap_or(path.len())).unwrap_or(path)
}

/// Whether one of the peer's URIs, one of its DNS names or its subject matches.
fn is_named(tls: &TlsInfo, matcher: &StringMatcher) -> bool {
    let Some(peer) = tls.peer.as_deref() else {
        return matcher.matches(b"");
    };
    let mut names = peer.uris.iter().chain(&peer.dns_names);
    names.any(|name| matcher.matches(name.as_bytes())) || matcher.matches(peer.subject.as_bytes())
}

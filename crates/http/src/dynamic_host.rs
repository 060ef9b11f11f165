//! The host that a request names, for clusters whose hosts are named by requests.

use outrider_upstream::DynamicHosts;
use outrider_upstream::HostName;

use crate::Stream;

/// The filter state with the name of the host, instead of the authority.
const HOST: &str = "envoy.upstream.dynamic_host";
/// The filter state with the port of names without one.
const PORT: &str = "envoy.upstream.dynamic_port";

/// The host that `stream` names, by the authority of its request, or by the filter state if `reads_state`. It is empty if
/// the name is.
pub(crate) fn of_request(stream: &Stream, hosts: &DynamicHosts, reads_state: bool) -> HostName {
    let state = |name| {
        let object = stream.filter_state.get(name).filter(|_| reads_state);
        object.and_then(|object| object.text())
    };
    let port = state(PORT).and_then(|port| port.parse().ok().filter(|port| *port > 0));
    let port = port.unwrap_or(hosts.default_port);
    match state(HOST) {
        Some(host) => HostName::new(&host, port),
        None => HostName::new(stream.request.host(), port),
    }
}

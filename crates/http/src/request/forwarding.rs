//! Who the client is, and what the upstream is told about it: `x-forwarded-*`, `x-envoy-*`, `x-request-id`, `via`.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use http::uri::Scheme;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_net::Address;
use outrider_net::ConnectionInfo;

use crate::RequestHead;
use crate::names;

/// What the config says about it (`envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`).
#[derive(Debug)]
pub(crate) struct Forwarding {
    /// `use_remote_address`
    pub(crate) use_remote_address: bool,
    /// `xff_num_trusted_hops`
    pub(crate) xff_num_trusted_hops: u32,
    /// `skip_xff_append`
    pub(crate) skip_xff_append: bool,
    /// `append_x_forwarded_port`
    pub(crate) append_port: bool,
    /// `internal_address_config`
    pub(crate) internal: InternalAddresses,
    /// `via`
    pub(crate) via: Option<HeaderValue>,
    /// `generate_request_id`
    pub(crate) generate_request_id: bool,
    /// `preserve_external_request_id`
    pub(crate) preserve_external_request_id: bool,
    /// `add_user_agent`: the node's cluster and id.
    pub(crate) user_agent: Option<UserAgent>,
    /// `forward_client_cert_details` is `ALWAYS_FORWARD_ONLY`; without TLS all else removes the header.
    pub(crate) keep_client_cert: bool,
    /// `scheme_header_transformation`
    pub(crate) scheme: Option<Scheme>,
    /// What stands in `x-forwarded-for` for clients on the loopback: an address of this machine.
    pub(crate) local_address: IpAddr,
}

/// What `add_user_agent` tells the upstream.
#[derive(Debug)]
pub(crate) struct UserAgent {
    pub(crate) cluster: HeaderValue,
    pub(crate) node: Option<HeaderValue>,
}

/// `HttpConnectionManager.InternalAddressConfig`. Without it nobody is internal, not even the loopback.
#[derive(Debug, Default)]
pub(crate) struct InternalAddresses {
    pub(crate) unix_sockets: bool,
    pub(crate) ranges: Vec<(IpAddr, u32)>,
}

/// Where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// From inside, by `internal_address_config`.
    Internal,
    /// From outside, through a trusted proxy.
    External,
    /// From outside, straight to us.
    Edge,
}

impl Forwarding {
    /// As on Envoy's admin port: every client is at the edge, and no request gets an id.
    pub(crate) fn of_admin_server(local_address: IpAddr) -> Forwarding {
        Forwarding {
            use_remote_address: true,
            xff_num_trusted_hops: 0,
            skip_xff_append: false,
            append_port: false,
            internal: InternalAddresses::default(),
            via: None,
            generate_request_id: false,
            preserve_external_request_id: false,
            user_agent: None,
            keep_client_cert: false,
            scheme: None,
            local_address,
        }
    }

    /// Makes the head fit for the upstream, and tells where the request came from and from whom.
    ///
    /// `is_upgrade`: hop-by-hop headers are to pass. `id` gives random bits for the request's id.
    pub(crate) fn apply(
        &self,
        head: &mut RequestHead,
        is_upgrade: bool,
        connection: &ConnectionInfo,
        id: impl FnOnce() -> (u64, u64),
    ) -> (Origin, Address) {
        remove_hop_by_hop(&mut head.headers, is_upgrade);
        let headers = &mut head.headers;
        let (trusted, single) = self.client(headers, connection);
        self.forward(headers, connection);
        self.set_scheme(head);
        let headers = &mut head.headers;

        let internal = single
            && trusted
                .as_ref()
                .is_some_and(|address| self.internal.contains(address));
        let origin = match (internal, self.use_remote_address) {
            (true, _) => Origin::Internal,
            (false, true) => Origin::Edge,
            (false, false) => Origin::External,
        };
        let remote = trusted.unwrap_or_else(|| connection.remote.clone());
        self.sanitize(headers, origin);
        if origin == Origin::Internal {
            headers.insert(&header::X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
        }
        self.set_user_agent_and_via(headers);
        if origin == Origin::Edge
            && let Some(address) = remote.ip()
            && let Ok(value) = HeaderValue::try_from(address.ip().to_string())
        {
            headers.insert(&header::X_ENVOY_EXTERNAL_ADDRESS, value);
        }
        self.set_request_id(headers, origin, id);
        if !self.keep_client_cert {
            headers.remove(&header::X_FORWARDED_CLIENT_CERT);
        }
        (origin, remote)
    }

    /// The client's address if it can be told, and whether it stands alone in `x-forwarded-for`.
    fn client(&self, headers: &HeaderMap, connection: &ConnectionInfo) -> (Option<Address>, bool) {
        let forwarded = headers.contains_key(&header::X_FORWARDED_FOR);
        let list = forwarded.then_some(headers);
        if !self.use_remote_address {
            return list.map_or((None, false), |headers| {
                address_in(headers, self.xff_num_trusted_hops)
            });
        }
        let single = !forwarded;
        let trusted = match (list, self.xff_num_trusted_hops) {
            (None, _) | (_, 0) => None,
            (Some(headers), hops) => address_in(headers, hops - 1).0,
        };
        (
            Some(trusted.unwrap_or_else(|| connection.remote.clone())),
            single,
        )
    }

    /// `x-forwarded-for`, `-proto` and `-port`.
    fn forward(&self, headers: &mut HeaderMap, connection: &ConnectionInfo) {
        let first_hop = self.xff_num_trusted_hops == 0;
        // A client on a UNIX socket has no address to forward.
        if self.use_remote_address
            && !self.skip_xff_append
            && let Some(address) = connection.remote.ip()
        {
            let address = match address.ip() {
                // Of all 127.0.0.0/8, Envoy takes only the first address for loopback.
                ip if ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST => {
                    self.local_address.to_string()
                }
                ip => ip.to_string(),
            };
            append(headers, &header::X_FORWARDED_FOR, address.as_bytes(), ",");
        }
        if self.use_remote_address && first_hop || !headers.contains_key(&header::X_FORWARDED_PROTO)
        {
            headers.insert(&header::X_FORWARDED_PROTO, HeaderValue::from_static("http"));
        }
        if self.append_port
            && (self.use_remote_address && first_hop
                || !headers.contains_key(&header::X_FORWARDED_PORT))
            && let Some(local) = connection.local.ip()
        {
            headers.insert(&header::X_FORWARDED_PORT, HeaderValue::from(local.port()));
        }
    }

    fn set_scheme(&self, head: &mut RequestHead) {
        if let Some(scheme) = &self.scheme {
            head.scheme = Some(scheme.clone());
            if let Ok(value) = HeaderValue::try_from(scheme.as_str()) {
                head.headers.insert(&header::X_FORWARDED_PROTO, value);
            }
        } else if head.scheme.is_none() {
            // Where the client said nothing, we have just said `http`.
            let proto = head.headers.get(&header::X_FORWARDED_PROTO);
            let https = proto.is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"));
            head.scheme = Some(if https { Scheme::HTTPS } else { Scheme::HTTP });
        }
    }

    /// Takes away what a client may not say.
    fn sanitize(&self, headers: &mut HeaderMap, origin: Origin) {
        headers.remove(&header::X_ENVOY_INTERNAL);
        if origin == Origin::Internal {
            return;
        }
        if origin == Origin::Edge {
            headers.remove_any(names::REMOVED_AT_EDGE);
        }
        headers.remove_any(names::INTERNAL_ONLY);
    }

    /// `add_user_agent` and `via`.
    fn set_user_agent_and_via(&self, headers: &mut HeaderMap) {
        if let Some(agent) = &self.user_agent {
            headers.insert(
                &header::X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER,
                agent.cluster.clone(),
            );
            if headers
                .get(&header::USER_AGENT)
                .is_none_or(HeaderValue::is_empty)
            {
                headers.insert(&header::USER_AGENT, agent.cluster.clone());
            }
            if let Some(node) = &agent.node {
                headers.insert(&header::X_ENVOY_DOWNSTREAM_SERVICE_NODE, node.clone());
            }
        }
        if let Some(via) = &self.via {
            append_value(headers, &header::VIA, via);
        }
    }

    fn set_request_id(
        &self,
        headers: &mut HeaderMap,
        origin: Origin,
        id: impl FnOnce() -> (u64, u64),
    ) {
        if !self.generate_request_id {
            return;
        }
        let replace = origin == Origin::Edge && !self.preserve_external_request_id;
        if replace || (headers.get_all(&header::X_REQUEST_ID)).all(HeaderValue::is_empty) {
            let (high, low) = id();
            headers.insert(&header::X_REQUEST_ID, super::id::uuid(high, low));
        }
    }
}

impl InternalAddresses {
    fn contains(&self, address: &Address) -> bool {
        match address.ip() {
            None => self.unix_sockets,
            Some(address) => self
                .ranges
                .iter()
                .any(|&(prefix, length)| covers(prefix, length, address.ip())),
        }
    }
}

/// Whether `address` is in `prefix/length`.
fn covers(prefix: IpAddr, length: u32, address: IpAddr) -> bool {
    match (prefix, address) {
        (IpAddr::V4(prefix), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - length.min(32)).unwrap_or(0);
            prefix.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(prefix), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - length.min(128)).unwrap_or(0);
            prefix.to_bits() & mask == address.to_bits() & mask
        }
        _ => false,
    }
}

/// The address before the last `skip` ones of `x-forwarded-for`, and whether it is the only one there.
fn address_in(headers: &HeaderMap, skip: u32) -> (Option<Address>, bool) {
    let mut values = headers.get_all(&header::X_FORWARDED_FOR).rev();
    let Some(last) = values.next() else {
        return (None, false);
    };
    let mut count = 0;
    for value in std::iter::once(last).chain(values) {
        for text in value.as_bytes().rsplit(|byte| *byte == b',') {
            if count < skip {
                count += 1;
                continue;
            }
            let single = skip == 0
                && headers.get_all(&header::X_FORWARDED_FOR).nth(1).is_none()
                && !value.as_bytes().contains(&b',');
            let address = std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.trim().parse::<IpAddr>().ok());
            return match address {
                Some(address) => (
                    // As it stands there: a mapped IPv4 address is one of IPv6 here.
                    Some(Address::Ip(SocketAddr::new(address, 0))),
                    single,
                ),
                None => (None, false),
            };
        }
    }
    (None, false)
}

/// Removes what belongs to one hop only. An upgrade keeps what it consists of.
fn remove_hop_by_hop(headers: &mut HeaderMap, is_upgrade: bool) {
    if is_upgrade {
        return headers.remove_any(names::HOP_BY_HOP_EXCEPT_UPGRADE);
    }
    headers.remove_any(names::HOP_BY_HOP);
    // Every gRPC request has `te: trailers`, and it stays.
    if let Some(te) = headers.get(&header::TE)
        && te != "trailers"
        && !te.is_empty()
    {
        let mut codings = te.as_bytes().split(|byte| *byte == b',');
        if codings.any(|coding| coding.trim_ascii() == b"trailers") {
            headers.insert(&header::TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(&header::TE);
        }
    }
}

/// Appends `value` to the list in `name`: Envoy keeps such lists in one header, however many came in.
pub(crate) fn append(headers: &mut HeaderMap, name: &HeaderName, value: &[u8], separator: &str) {
    let mut list: Vec<u8> = Vec::new();
    for old in headers.get_all(name) {
        if !list.is_empty() {
            list.extend_from_slice(separator.as_bytes());
        }
        list.extend_from_slice(old.as_bytes());
    }
    if !list.is_empty() {
        list.extend_from_slice(separator.as_bytes());
    }
    list.extend_from_slice(value);
    if let Ok(list) = HeaderValue::from_bytes(&list) {
        headers.insert(name, list);
    }
}

/// Appends a prebuilt value to the list in `name`, as `via` has them: with a comma and a space.
pub(crate) fn append_value(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) {
    if headers.contains_key(name) {
        append(headers, name, value.as_bytes(), ", ");
    } else {
        headers.insert(name, value.clone());
    }
}

#[cfg(test)]
#[path = "forwarding_tests.rs"]
mod tests;

//! Determines who the client is, and sets the headers that tell the upstream: `x-forwarded-*`, `x-envoy-*`,
//! `x-request-id`, `via`.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use http::StatusCode;
use http::uri::Scheme;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_net::Address;
use outrider_net::DownstreamConnectionInfo;

use super::client_cert::ClientCert;
use super::original_ip::DetectOriginalIp;
use super::original_ip::DetectedIp;
use crate::RequestHead;
use crate::names;

/// The options for these headers (`envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`).
#[derive(Debug)]
pub(crate) struct Forwarding {
    /// `use_remote_address`
    pub(crate) use_remote_address: bool,
    /// `xff_num_trusted_hops`
    pub(crate) xff_num_trusted_hops: u32,
    /// `original_ip_detection_extensions`
    pub(crate) detectors: Box<[Box<dyn DetectOriginalIp>]>,
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
    /// `forward_client_cert_details`
    pub(crate) client_cert: ClientCert,
    /// `scheme_header_transformation`
    pub(crate) scheme: Option<Scheme>,
    /// The address of this machine that `x-forwarded-for` gets for loopback clients.
    pub(crate) local_address: IpAddr,
}

/// The values that `add_user_agent` adds.
#[derive(Debug)]
pub(crate) struct UserAgent {
    pub(crate) cluster: HeaderValue,
    pub(crate) node: Option<HeaderValue>,
}

/// `HttpConnectionManager.InternalAddressConfig`. Without it no address is internal, not even the loopback address.
#[derive(Debug, Default)]
pub(crate) struct InternalAddresses {
    pub(crate) unix_sockets: bool,
    pub(crate) ranges: Vec<(IpAddr, u32)>,
}

/// Where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// From an internal address, by `internal_address_config`.
    Internal,
    /// From an external address, through a trusted proxy.
    External,
    /// From an external address, directly to this proxy.
    Edge,
}

impl Forwarding {
    /// The options of Envoy's admin port: every client is at the edge, and no request gets an id.
    pub(crate) fn of_admin_server(local_address: IpAddr) -> Forwarding {
        Forwarding {
            use_remote_address: true,
            xff_num_trusted_hops: 0,
            detectors: Box::default(),
            skip_xff_append: false,
            append_port: false,
            internal: InternalAddresses::default(),
            via: None,
            generate_request_id: false,
            preserve_external_request_id: false,
            user_agent: None,
            client_cert: ClientCert::SANITIZE,
            scheme: None,
            local_address,
        }
    }

    /// Prepares the head for the upstream. Returns where the request came from, and the client's address.
    ///
    /// # Errors
    /// The status to refuse the request with, because its client's address was not found.
    ///
    /// `is_upgrade`: hop-by-hop headers are kept. `id` returns random bits for the request's id.
    pub(crate) fn apply(
        &self,
        head: &mut RequestHead,
        is_upgrade: bool,
        connection: &DownstreamConnectionInfo,
        id: impl FnOnce() -> (u64, u64),
    ) -> Result<(Origin, Address), StatusCode> {
        remove_hop_by_hop(&mut head.headers, is_upgrade);
        let headers = &mut head.headers;
        let (trusted, single) = self.client(headers, connection)?;
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
        self.client_cert.apply(headers, connection.tls.as_deref());
        Ok((origin, remote))
    }

    /// The client's address if it is known, and whether it may be an internal one: nobody but the client has added to
    /// `x-forwarded-for`.
    fn client(
        &self,
        headers: &mut HeaderMap,
        connection: &DownstreamConnectionInfo,
    ) -> Result<(Option<Address>, bool), StatusCode> {
        if !self.detectors.is_empty() {
            return self.detect_client(headers, connection);
        }
        let forwarded = headers.contains_key(&header::X_FORWARDED_FOR);
        let list = forwarded.then_some(headers);
        if !self.use_remote_address {
            return Ok(list.map_or((None, false), |headers| {
                address_in(headers, self.xff_num_trusted_hops)
            }));
        }
        let single = !forwarded;
        let trusted = match (list, self.xff_num_trusted_hops) {
            (None, _) | (_, 0) => None,
            (Some(headers), hops) => address_in(headers, hops - 1).0,
        };
        let trusted = trusted.unwrap_or_else(|| connection.remote.clone());
        Ok((Some(trusted), single))
    }

    /// The first address that a detector finds, and whether it may be an internal one.
    fn detect_client(
        &self,
        headers: &mut HeaderMap,
        connection: &DownstreamConnectionInfo,
    ) -> Result<(Option<Address>, bool), StatusCode> {
        let mut detected = DetectedIp::default();
        for detector in &self.detectors {
            detected = detector.detect(headers, &connection.remote);
            if let Some(refused) = detected.refused {
                return Err(refused);
            }
            if detected.address.is_some() {
                break;
            }
        }
        if detected.appends_connection {
            self.append_forwarded_for(headers, connection);
        }
        Ok((detected.address, detected.may_be_internal))
    }

    /// Sets `x-forwarded-for`, `x-forwarded-proto` and `x-forwarded-port`.
    fn forward(&self, headers: &mut HeaderMap, connection: &DownstreamConnectionInfo) {
        let first_hop = self.xff_num_trusted_hops == 0;
        if self.use_remote_address && !self.skip_xff_append {
            self.append_forwarded_for(headers, connection);
        }
        if self.use_remote_address && first_hop || !headers.contains_key(&header::X_FORWARDED_PROTO)
        {
            let proto = match connection.tls {
                Some(_) => HeaderValue::from_static("https"),
                None => HeaderValue::from_static("http"),
            };
            headers.insert(&header::X_FORWARDED_PROTO, proto);
        }
        if self.append_port
            && (self.use_remote_address && first_hop
                || !headers.contains_key(&header::X_FORWARDED_PORT))
            && let Some(local) = connection.local.ip()
        {
            headers.insert(&header::X_FORWARDED_PORT, HeaderValue::from(local.port()));
        }
    }

    /// Appends the address of the connection to `x-forwarded-for`. A client on a UNIX socket has none.
    fn append_forwarded_for(&self, headers: &mut HeaderMap, connection: &DownstreamConnectionInfo) {
        let Some(address) = connection.remote.ip() else {
            return;
        };
        let address = match address.ip() {
            // Envoy takes only 127.0.0.1 for a loopback address, not all of 127.0.0.0/8.
            ip if ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST => {
                self.local_address.to_string()
            }
            ip => ip.to_string(),
        };
        append(headers, &header::X_FORWARDED_FOR, address.as_bytes(), ",");
    }

    fn set_scheme(&self, head: &mut RequestHead) {
        if let Some(scheme) = &self.scheme {
            head.scheme = Some(scheme.clone());
            if let Ok(value) = HeaderValue::try_from(scheme.as_str()) {
                head.headers.insert(&header::X_FORWARDED_PROTO, value);
            }
        } else if head.scheme.is_none() {
            // If the client sent no `x-forwarded-proto`, it was set just before.
            let proto = head.headers.get(&header::X_FORWARDED_PROTO);
            let https = proto.is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"));
            head.scheme = Some(if https { Scheme::HTTPS } else { Scheme::HTTP });
        }
    }

    /// Removes headers that the client may not send.
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

    /// Applies `add_user_agent` and `via`.
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

/// The address in `x-forwarded-for` before the last `skip` ones, and whether it is the only one.
pub(super) fn address_in(headers: &HeaderMap, skip: u32) -> (Option<Address>, bool) {
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
                    // Not normalised: a mapped IPv4 address counts as an IPv6 address here.
                    Some(Address::Ip(SocketAddr::new(address, 0))),
                    single,
                ),
                None => (None, false),
            };
        }
    }
    (None, false)
}

/// Removes hop-by-hop headers. An upgrade keeps the ones that it consists of.
fn remove_hop_by_hop(headers: &mut HeaderMap, is_upgrade: bool) {
    if is_upgrade {
        return headers.remove_any(names::HOP_BY_HOP_EXCEPT_UPGRADE);
    }
    headers.remove_any(names::HOP_BY_HOP);
    // `te: trailers` is kept: every gRPC request has it.
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

/// Appends `value` to the list in the header `name`. As in Envoy, the list ends up in one header, even if it came in
/// several.
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

/// Appends a prebuilt value to the list in the header `name`, after a comma and a space, as for `via`.
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

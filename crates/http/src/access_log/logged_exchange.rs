//! Log lines for requests that no connection manager served, such as those to the admin server.

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use http::Method;
use http::StatusCode;
use http::Version;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::ResponseHead;
use outrider_net::Address;
use outrider_net::DownstreamConnectionInfo;
use outrider_runtime::Snapshot;
use tokio::time::Instant;

use crate::RequestHead;
use crate::ResponseFlag;
use crate::Stream;
use crate::request::Forwarding;

/// The parts of a request and its response that log lines print.
#[derive(Clone, Copy, Debug)]
pub struct LoggedExchange<'a> {
    /// When the request began.
    pub started: SystemTime,
    /// How long it took until the end of the response.
    pub duration: Duration,
    /// The protocol.
    pub protocol: Version,
    /// The method; empty if none could be read.
    pub method: &'a str,
    /// The path and query.
    pub target: &'a str,
    /// The request's headers: names in lower case, and values.
    pub headers: &'a [(String, String)],
    /// The address to write into `x-forwarded-for` for loopback clients; `None` adds no headers about the client.
    pub local_address: Option<IpAddr>,
    /// The response's status; 0 if there was no response.
    pub status: u16,
    /// `%RESPONSE_CODE_DETAILS%`
    pub details: &'static str,
    /// The response flag.
    pub flag: Option<ResponseFlag>,
    /// The response's headers: names in lower case, and values.
    pub response_headers: &'a [(String, String)],
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
    /// The server's address.
    pub local: &'a Address,
    /// The client's address.
    pub remote: &'a Address,
    /// The runtime values for the log's filters.
    pub runtime: &'a Arc<Snapshot>,
}

impl LoggedExchange<'_> {
    /// A stream with these values, as a connection manager would have made it.
    pub(crate) fn stream(&self) -> Stream {
        let now = Instant::now();
        let (local, remote) = (self.local.clone(), self.remote.clone());
        let connection = DownstreamConnectionInfo::new(0, local, remote);
        let mut head = self.head();
        if let Some(address) = self.local_address {
            let forwarding = Forwarding::of_admin_server(address);
            // Without detectors, no request is refused.
            let _ = forwarding.apply(&mut head, false, &connection, || (0, 0));
        }
        let mut stream = Stream::new(Rc::new(connection), head, self.protocol, 0);
        stream.start_time = self.started;
        stream.started = now.checked_sub(self.duration).unwrap_or(now);
        stream.ended = Some(now);
        stream.details = Some(Cow::Borrowed(self.details));
        if let Some(flag) = self.flag {
            stream.flags.set(flag);
        }
        stream.runtime = Some(Rc::new(self.runtime.clone()));
        stream.traffic.body_received = self.received;
        stream.traffic.body_sent = self.sent;
        if let Ok(status) = StatusCode::from_u16(self.status) {
            let mut headers = HeaderMap::new();
            for (name, value) in parsed(self.response_headers) {
                headers.append(name, value);
            }
            stream.response = Some(ResponseHead { status, headers });
        }
        stream
    }

    fn head(&self) -> RequestHead {
        let hosts = self.headers.iter().filter(|(name, _)| name == "host");
        let hosts: Vec<_> = hosts.map(|(_, value)| value.as_str()).collect();
        let mut headers = HeaderMap::new();
        for (name, value) in parsed(self.headers) {
            if name != outrider_codec::header::HOST {
                headers.append(name, value);
            }
        }
        let method = match self.method {
            // Without a method, the log prints `-`.
            "" => "-",
            method => method,
        };
        RequestHead {
            method: Method::from_bytes(method.as_bytes()).unwrap_or_default(),
            scheme: None,
            authority: HeaderValue::try_from(hosts.join(",").as_str()).ok(),
            path: self.target.try_into().ok(),
            headers,
        }
    }
}

/// Received and sent headers are valid; others are left out.
fn parsed(headers: &[(String, String)]) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    headers.iter().filter_map(|(name, value)| {
        let value = HeaderValue::try_from(value.as_str());
        name.parse().ok().zip(value.ok())
    })
}

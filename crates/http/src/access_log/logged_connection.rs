//! Log lines for TCP connections. To formats and filters they are streams without HTTP.

use std::rc::Rc;
use std::time::SystemTime;

use http::Method;
use outrider_codec::HeaderMap;
use outrider_config::api::envoy::data::accesslog::v3::AccessLogType;
use outrider_net::DownstreamConnectionInfo;
use outrider_net::clock;
use outrider_runtime::LocalSnapshot;
use tokio::time::Instant;

use crate::RequestHead;
use crate::ResponseFlags;
use crate::Stream;
use crate::UpstreamInfo;

/// The parts of a TCP connection that log lines print.
#[derive(Debug)]
pub struct LoggedConnection<'a> {
    /// The client's connection.
    pub connection: &'a Rc<DownstreamConnectionInfo>,
    /// A random number for the connection; `%STREAM_ID%` prints a UUID of it.
    pub id: u64,
    /// Why it is logged.
    pub log_type: AccessLogType,
    /// When it began, by the wall clock.
    pub start_time: SystemTime,
    /// When it ended; `None` while it is open.
    pub ended: Option<Instant>,
    /// Why it ended as it did.
    pub flags: &'a ResponseFlags,
    /// Bytes from the client.
    pub received: u64,
    /// Bytes to the client.
    pub sent: u64,
    /// The upstream side, once a cluster was chosen.
    pub upstream: Option<UpstreamInfo>,
    /// The runtime values for the log's filters.
    pub runtime: Option<LocalSnapshot>,
}

impl LoggedConnection<'_> {
    /// The stream that formats and filters see.
    #[must_use]
    pub fn stream(self) -> Stream {
        let head = RequestHead {
            method: Method::default(),
            scheme: None,
            authority: None,
            path: None,
            headers: HeaderMap::new(),
        };
        let mut stream = Stream::new(self.connection.clone(), head, Stream::NOT_HTTP, self.id);
        stream.dynamic_metadata = self.connection.metadata.clone();
        stream.log_type = self.log_type;
        stream.start_time = self.start_time;
        stream.started = self.connection.started;
        stream.ended = self.ended.or_else(|| Some(clock::now()));
        stream.flags = self.flags.clone();
        stream.traffic.body_received = self.received;
        stream.traffic.body_sent = self.sent;
        stream.traffic.wire_received = self.received;
        stream.traffic.wire_sent = self.sent;
        stream.upstream = self.upstream.map(Box::new);
        stream.runtime = self.runtime;
        stream
    }
}

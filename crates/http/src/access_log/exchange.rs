//! Requests that no connection manager served, such as those to the admin server.

use std::rc::Rc;
use std::time::Duration;
use std::time::SystemTime;

use http::StatusCode;
use http::Version;
use http::uri::Scheme;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::ResponseHead;
use outrider_net::Address;
use outrider_net::ConnectionInfo;
use tokio::time::Instant;

use crate::RequestHead;
use crate::Stream;

/// An HTTP/1.1 request and its response, as far as a log line tells of them.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// When the request began.
    pub started: SystemTime,
    /// From then to the end of the response.
    pub duration: Duration,
    /// The method.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Names in lower case and values.
    pub headers: &'a [(String, String)],
    /// The response's status.
    pub status: u16,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
    /// The server's address.
    pub local: &'a Address,
    /// The client's.
    pub remote: &'a Address,
}

impl Exchange<'_> {
    /// The stream that a connection manager would have made of it.
    pub(crate) fn stream(&self) -> Stream {
        let now = Instant::now();
        let connection = ConnectionInfo {
            id: 0,
            local: self.local.clone(),
            remote: self.remote.clone(),
            started: now,
            listener: "".into(),
            filter_chain: "".into(),
        };
        let mut stream = Stream::new(Rc::new(connection), self.head(), Version::HTTP_11, 0);
        stream.start_time = self.started;
        stream.started = now.checked_sub(self.duration).unwrap_or(now);
        stream.ended = Some(now);
        stream.traffic.body_received = self.received;
        stream.traffic.body_sent = self.sent;
        stream.response = Some(ResponseHead {
            status: StatusCode::from_u16(self.status).unwrap_or_default(),
            headers: HeaderMap::new(),
        });
        stream
    }

    fn head(&self) -> RequestHead {
        let mut authority = None;
        let mut headers = HeaderMap::new();
        for (name, value) in self.headers {
            // What was received is legal; a line does without what is not.
            let name = name.parse::<HeaderName>();
            if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value.as_str())) {
                if name == outrider_codec::header::HOST {
                    authority = Some(value);
                } else {
                    headers.append(name, value);
                }
            }
        }
        RequestHead {
            method: self.method.parse().unwrap_or_default(),
            scheme: Some(Scheme::HTTP),
            authority,
            path: self.target.try_into().ok(),
            headers,
        }
    }
}

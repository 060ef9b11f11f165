//! Handles one request, from its head to the end of its response.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::SystemTime;

use hyper::HeaderMap;
use hyper::Method;
use hyper::Version;
use hyper::body::Body as _;
use hyper::body::Bytes;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::body::SizeHint;
use hyper::header;
use hyper::header::HeaderName;
use hyper::header::HeaderValue;
use hyper::http::request::Parts;

use crate::AdminRequest;
use crate::AdminRequestHead;
use crate::RequestFailure;
use crate::connection::ClientConnection;
use crate::endpoints;
use crate::refusal;
use crate::refusal::Refusal;
use crate::request::Request;
use crate::request_body::BodyError;
use crate::request_body::RequestBody;
use crate::response::AdminResponse;
use crate::response::AdminResponseBody;
use crate::response::empty;
use crate::response::whole;
use crate::stats::OpenRequest;

/// Answers a request.
pub(crate) async fn answer(
    request: hyper::Request<Incoming>,
    connection: Rc<ClientConnection>,
) -> Result<hyper::Response<AnswerBody>, Infallible> {
    let (parts, body) = request.into_parts();
    let mut exchange = AdminExchange::new(&parts, connection);
    let answered = match refusal::check(&parts, &*exchange.connection.admin.control) {
        Err(refusal) => Err(refusal),
        Ok(target) => exchange.ask_endpoint(target, &parts, body).await,
    };
    Ok(match answered {
        Ok(response) => exchange.send(response, &parts),
        Err(refusal) => exchange.refuse(refusal, &parts),
    })
}

/// A request that is being handled. It is counted, and dropping it writes it to the access log.
struct AdminExchange {
    connection: Rc<ClientConnection>,
    started: SystemTime,
    counted: OpenRequest,
    version: Version,
    head: AdminRequestHead,
    /// The reason if the request did not reach an endpoint, or its response was not completed.
    refusal: Option<Refusal>,
    status: u16,
    response_headers: Vec<(String, String)>,
    received: Rc<Cell<u64>>,
    sent: u64,
    is_complete: bool,
    quits: bool,
}

impl AdminExchange {
    fn new(parts: &Parts, connection: Rc<ClientConnection>) -> Self {
        connection.stats.protocol(parts.version);
        let counted = connection.stats.request(parts.version);
        let mut headers = listed(&parts.headers);
        // HTTP/2 has the host in `:authority`.
        if let Some(authority) = parts.uri.authority().filter(|_| is_http2(parts))
            && !parts.headers.contains_key(header::HOST)
        {
            headers.push(("host".to_owned(), authority.to_string()));
        }
        Self {
            connection,
            started: SystemTime::now(),
            counted,
            version: parts.version,
            head: AdminRequestHead {
                method: parts.method.to_string(),
                target: parts.uri.to_string(),
                headers,
            },
            refusal: None,
            status: 0,
            response_headers: Vec::new(),
            received: Rc::default(),
            sent: 0,
            is_complete: false,
            quits: false,
        }
    }

    async fn ask_endpoint(
        &mut self,
        target: String,
        parts: &Parts,
        body: Incoming,
    ) -> Result<AdminResponse, Refusal> {
        self.head.target.clone_from(&target);
        let request = Request {
            method: parts.method.to_string(),
            target,
            headers: parts.headers.clone(),
        };
        let body = RequestBody::new(body, self.received.clone());
        let admin = self.connection.admin.clone();
        let answered = endpoints::answer(request, body, admin).await;
        answered.map_err(|error| match error {
            BodyError::TooLarge => refusal::BODY_TOO_LARGE,
            BodyError::Malformed => refusal::MALFORMED_BODY,
            BodyError::TimedOut => refusal::BODY_TIMED_OUT,
            BodyError::Disconnected => refusal::DISCONNECTED,
        })
    }

    fn send(mut self, response: AdminResponse, parts: &Parts) -> hyper::Response<AnswerBody> {
        self.quits = response.quits;
        let mut headers = HeaderMap::new();
        let content_type = HeaderValue::from_static(response.content_type);
        headers.append(header::CONTENT_TYPE, content_type);
        if response.has_double_nosniff {
            headers.append(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
        }
        headers.append(header::CACHE_CONTROL, NO_CACHE);
        headers.append(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
        date_and_server(&mut headers);
        if !is_http2(parts) && asks_to_close(&parts.headers) {
            headers.append(header::CONNECTION, CLOSE);
            self.connection.stats.closes_locally();
        }
        self.begin(response.status, headers, response.body)
    }

    fn refuse(mut self, refusal: Refusal, parts: &Parts) -> hyper::Response<AnswerBody> {
        let Refusal { status, body, .. } = refusal;
        let mut headers = HeaderMap::new();
        if !body.is_empty() {
            headers.append(header::CONTENT_LENGTH, body.len().into());
            headers.append(header::CONTENT_TYPE, PLAIN);
        }
        date_and_server(&mut headers);
        if !is_http2(parts) && (refusal.closes || asks_to_close(&parts.headers)) {
            headers.append(header::CONNECTION, CLOSE);
            self.connection.stats.closes_locally();
        }
        self.connection.stats.refused_request(&refusal);
        self.refusal = Some(refusal);
        match body {
            "" => self.begin(status, headers, empty()),
            _ => self.begin(status, headers, whole(body)),
        }
    }

    /// Builds the response, whose body owns this exchange.
    fn begin(
        mut self,
        status: u16,
        headers: HeaderMap,
        body: AdminResponseBody,
    ) -> hyper::Response<AnswerBody> {
        let is_sent = self.refusal != Some(refusal::DISCONNECTED);
        if is_sent {
            self.status = status;
            self.counted.answered(status);
        }
        self.response_headers = listed(&headers);
        let body = match self.head.method == Method::HEAD.as_str() {
            true => empty(),
            false => body,
        };
        let version = self.version;
        let mut response = hyper::Response::new(AnswerBody {
            // hyper does not poll an empty body.
            is_complete: body.is_end_stream(),
            body,
            exchange: Some(self),
        });
        // With HTTP/1.0 as the version, hyper would add `keep-alive`.
        *response.version_mut() = version;
        // All statuses given here are valid.
        *response.status_mut() = status.try_into().unwrap_or_default();
        *response.headers_mut() = headers;
        response
    }
}

impl Drop for AdminExchange {
    fn drop(&mut self) {
        let (mut details, mut failure) = match &self.refusal {
            Some(refusal) => (refusal.details, refusal.failure),
            None => ("admin_filter_response", None),
        };
        let mut status = self.status;
        if !self.is_complete || failure == Some(RequestFailure::Disconnect) {
            (details, failure) = (
                refusal::DISCONNECTED.details,
                Some(RequestFailure::Disconnect),
            );
            if self.sent == 0 {
                status = 0;
                self.response_headers.clear();
            }
            self.connection.stats.request_reset();
        }
        let hides_head = self.refusal.as_ref().is_some_and(|r| r.hides_head);
        (self.connection.admin.access_log)(&AdminRequest {
            started: self.started,
            duration: self.counted.age(),
            protocol: match self.version {
                Version::HTTP_2 => Version::HTTP_2,
                // Envoy refuses earlier versions, and logs them as HTTP/1.1.
                _ => Version::HTTP_11,
            },
            head: (!hides_head).then(|| std::mem::take(&mut self.head)),
            is_refused: self.refusal.as_ref().is_some_and(|r| r.is_early),
            status,
            details,
            failure,
            response_headers: std::mem::take(&mut self.response_headers),
            received: self.received.get(),
            sent: self.sent,
            local: self.connection.local.clone(),
            remote: self.connection.remote.clone(),
        });
        if self.quits {
            self.connection.quit_when_flushed();
        }
    }
}

/// The body of a response. It owns the exchange, which ends with it.
pub(crate) struct AnswerBody {
    body: AdminResponseBody,
    is_complete: bool,
    exchange: Option<AdminExchange>,
}

impl hyper::body::Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = ready!(self.body.as_mut().poll_frame(cx));
        let Some(Ok(frame)) = frame else {
            self.is_complete = true;
            self.end();
            return Poll::Ready(None);
        };
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        if let Some(exchange) = &mut self.exchange {
            exchange.sent += bytes as u64;
        }
        self.is_complete = self.body.is_end_stream();
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl AnswerBody {
    fn end(&mut self) {
        if let Some(exchange) = &mut self.exchange {
            exchange.is_complete = self.is_complete;
        }
        self.exchange = None;
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.end();
    }
}

const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache, max-age=0");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const CLOSE: HeaderValue = HeaderValue::from_static("close");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

fn date_and_server(headers: &mut HeaderMap) {
    let date = httpdate::fmt_http_date(SystemTime::now());
    // A date is a valid header value.
    if let Ok(date) = HeaderValue::try_from(date) {
        headers.append(header::DATE, date);
    }
    headers.append(header::SERVER, HeaderValue::from_static("envoy"));
}

fn is_http2(parts: &Parts) -> bool {
    parts.version == Version::HTTP_2
}

fn asks_to_close(headers: &HeaderMap) -> bool {
    let named = [header::CONNECTION, PROXY_CONNECTION];
    let values = named.iter().flat_map(|name| headers.get_all(name));
    let mut options = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// Names and values as text.
fn listed(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = headers.iter();
    headers
        .map(|(name, value)| (name.to_string(), text(value)))
        .collect()
}

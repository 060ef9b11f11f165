//! HTTP calls through a cluster.

use std::future::Future;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use bytes::BytesMut;
use http::Version;
use outrider_codec::Body;
use outrider_codec::Frame;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::RequestHead;
use outrider_codec::ResponseHead;
use outrider_codec::UpstreamExchange;
use outrider_codec::header;
use outrider_net::Timer;
use outrider_net::WorkerCx;
use outrider_net::clock;
use outrider_stats::Scope;
use outrider_stats::http::RouterStats;
use outrider_upstream::Cluster;
use outrider_upstream::Clusters;
use outrider_upstream::PickRequest;
use outrider_upstream::RoutingPriority;
use tokio::time::Instant;

use crate::CallFailure;
use crate::RequestEnd;
use crate::counts::CallCounts;
use crate::counts::count_status;
use crate::grpc;

static X_ENVOY_INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");

/// The most bytes of a response that is read as a whole, if the runtime does not set `http.async_response_buffer_limit`.
const RESPONSE_LIMIT: u64 = 32 << 20;

/// Makes the proxy's own calls on one worker.
#[derive(Debug)]
pub struct InternalClient {
    clusters: Rc<Clusters>,
    worker: Rc<WorkerCx>,
    /// The proxy's own address.
    local_address: HeaderValue,
    /// `http.async-client.*`
    stats: Arc<RouterStats>,
}

/// How a call is made.
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    /// From the request's end to the response's; `None` for no limit.
    pub timeout: Option<Duration>,
    /// The end of the request, if it takes time to arrive; `None` if the call begins with the whole request.
    pub request_end: Option<RequestEnd>,
    /// Whether to send `x-envoy-internal`, and to count the call as internal.
    pub is_internal: bool,
    /// Whether to send the proxy's own address in `x-forwarded-for`.
    pub forwarded_for: bool,
}

/// A complete response.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// The head.
    pub head: ResponseHead,
    /// The body.
    pub body: Bytes,
}

/// A call whose response has not begun. Dropping it cancels the call.
#[derive(Debug)]
pub struct PendingResponse {
    exchange: UpstreamExchange,
    deadline: Deadline,
    counts: CallCounts,
}

/// The body of a response, under the deadline of its call. Dropping it before its end cancels the call.
#[derive(Debug)]
pub struct ResponseBody {
    body: Body,
    deadline: Deadline,
    counts: CallCounts,
}

impl InternalClient {
    /// A client that calls through these clusters. `local_address` is the proxy's own address, for `x-forwarded-for`.
    #[must_use]
    pub fn new(clusters: &Rc<Clusters>, local_address: IpAddr) -> InternalClient {
        let local_address = HeaderValue::try_from(local_address.to_string());
        let local_address = local_address.unwrap_or_else(|_| HeaderValue::from_static("")); // an IP address is valid
        let worker = clusters.worker().clone();
        let stats = worker.store.register(stats_scope());
        InternalClient {
            clusters: clusters.clone(),
            worker,
            local_address,
            stats,
        }
    }

    /// Makes a call and reads the whole response.
    ///
    /// # Errors
    /// If no complete response arrives in time, or the body is longer than `http.async_response_buffer_limit`.
    pub async fn request(
        &self,
        cluster: &str,
        head: RequestHead,
        body: Body,
        options: &CallOptions,
    ) -> Result<Response, CallFailure> {
        let (head, mut body) = self.start(cluster, head, body, options).await?;
        let runtime = self.worker.runtime();
        let limit = runtime.and_then(|values| values.number("http.async_response_buffer_limit"));
        let limit = usize::try_from(limit.unwrap_or(RESPONSE_LIMIT)).unwrap_or(usize::MAX);
        let body = body.read_all(limit).await?;
        Ok(Response { head, body })
    }

    /// Makes a call and waits for the head of the response.
    ///
    /// # Errors
    /// If no response begins in time.
    pub async fn start(
        &self,
        cluster: &str,
        head: RequestHead,
        body: Body,
        options: &CallOptions,
    ) -> Result<(ResponseHead, ResponseBody), CallFailure> {
        let mut pending = self.send(cluster, head, body, options).await?;
        let head = pending.head().await?;
        Ok((head, pending.into_body()))
    }

    /// Sends a request, as soon as there is a connection for it.
    ///
    /// # Errors
    /// If there is no connection in time.
    pub async fn send(
        &self,
        cluster: &str,
        mut head: RequestHead,
        body: Body,
        options: &CallOptions,
    ) -> Result<PendingResponse, CallFailure> {
        let cluster = self.clusters.get(cluster);
        let cluster = cluster.ok_or(CallFailure::UnknownCluster)?;
        if options.is_internal {
            head.headers
                .insert(&X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
        }
        if options.forwarded_for {
            append_forwarded_for(&mut head.headers, &self.local_address);
        }
        if let Some(timeout) = options.timeout {
            let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            let name = &header::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS;
            head.headers.insert(name, HeaderValue::from(millis));
        }
        self.stats.rq_total.inc();
        let counts = self.pick(&cluster, options.is_internal, &head)?;
        let mut deadline = Deadline::new(&self.worker, options);
        let exchange = open(&mut deadline, &counts, &head, body).await?;
        Ok(PendingResponse {
            exchange,
            deadline,
            counts,
        })
    }

    /// Picks a host for the call.
    fn pick(
        &self,
        cluster: &Rc<Cluster>,
        internal: bool,
        head: &RequestHead,
    ) -> Result<CallCounts, CallFailure> {
        let runtime = self.worker.runtime();
        let percent = runtime.and_then(|values| values.number(&cluster.info().maintenance_key));
        if percent.is_some_and(|percent| self.worker.random() % 100 < percent) {
            cluster.stats().upstream_rq_maintenance_mode.inc();
            count_status(cluster, internal, 503);
            return Err(CallFailure::maintenance());
        }
        let Ok(pick) = cluster.pick(PickRequest::default()) else {
            count_status(cluster, internal, 503);
            return Err(CallFailure::no_healthy_upstream());
        };
        let is_grpc = grpc::is_request(&head.headers);
        Ok(CallCounts::new(cluster.clone(), pick, internal, is_grpc))
    }
}

/// `http.async-client`, the scope of what the router counts of the proxy's own calls.
fn stats_scope() -> Scope {
    Scope::new("http").name("async-client")
}

/// Gets a connection to the host and sends the request on it.
async fn open(
    deadline: &mut Deadline,
    counts: &CallCounts,
    head: &RequestHead,
    body: Body,
) -> Result<UpstreamExchange, CallFailure> {
    let pick = counts.pick();
    // As in Envoy, a call is like a proxied HTTP/1 request where that makes a difference.
    let (priority, downstream) = (RoutingPriority::Default, Version::HTTP_11);
    let opened = match pick.open_at_once(priority, downstream) {
        Some(opened) => opened,
        None => until(deadline, pick.open(priority, downstream))
            .await
            .map_err(|Expired| deadline.expired(counts))?,
    };
    let stream = opened.map_err(|failure| counts.fail_in_pool(&failure))?;
    counts.sent(stream.connection().protocol == Version::HTTP_2);
    deadline.limit(counts.max_stream_duration());
    stream.send(head, body).map_err(|error| counts.fail(&error))
}

impl PendingResponse {
    /// Waits for the head of the response. Polling also sends the request's body. Dropping the future loses nothing.
    ///
    /// # Errors
    /// If no response begins in time.
    pub async fn head(&mut self) -> Result<ResponseHead, CallFailure> {
        let exchange = &mut self.exchange;
        let response = poll_fn(|cx| exchange.poll_response(cx));
        let head = until(&mut self.deadline, response).await;
        let head = head.map_err(|Expired| self.deadline.expired(&self.counts))?;
        let mut head = head.map_err(|error| self.counts.fail(&error))?;
        let millis = self.counts.head(&head);
        let name = &header::X_ENVOY_UPSTREAM_SERVICE_TIME;
        head.headers.insert(name, HeaderValue::from(millis));
        Ok(head)
    }

    /// The body of the response. Call this after the head has arrived.
    #[must_use]
    pub fn into_body(self) -> ResponseBody {
        let body = ResponseBody {
            body: self.exchange.into_body(),
            deadline: self.deadline,
            counts: self.counts,
        };
        if body.is_end_stream() {
            body.counts.end(None);
        }
        body
    }
}

impl ResponseBody {
    /// Whether the response is known to have ended.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    /// The next frame, `None` after the last. Polling also sends the request's body.
    ///
    /// # Errors
    /// [`CallFailure::Reset`] if the response breaks off, or the call's time is over.
    pub async fn frame(&mut self) -> Result<Option<Frame>, CallFailure> {
        let frame = until(&mut self.deadline, self.body.frame()).await;
        let frame = frame.map_err(|Expired| self.deadline.expired(&self.counts))?;
        match frame {
            Some(Ok(Frame::Data(data))) => {
                if self.body.is_end_stream() {
                    self.counts.end(None);
                }
                Ok(Some(Frame::Data(data)))
            }
            Some(Ok(Frame::Trailers(trailers))) => {
                self.counts.end(Some(&trailers));
                Ok(Some(Frame::Trailers(trailers)))
            }
            Some(Err(error)) => Err(self.counts.fail(&error)),
            None => {
                self.counts.end(None);
                Ok(None)
            }
        }
    }

    /// The whole body; trailers are dropped.
    ///
    /// # Errors
    /// As [`ResponseBody::frame`], and [`CallFailure::TooLarge`] above `limit` bytes.
    pub async fn read_all(&mut self, limit: usize) -> Result<Bytes, CallFailure> {
        let mut whole = BytesMut::new();
        while let Some(frame) = self.frame().await? {
            if let Frame::Data(data) = frame {
                if whole.len() + data.len() > limit {
                    return Err(CallFailure::TooLarge);
                }
                whole.extend_from_slice(&data);
            }
        }
        Ok(whole.freeze())
    }
}

/// When a call has to end.
#[derive(Debug)]
struct Deadline {
    timer: Timer,
    at: Option<Instant>,
    /// The timeout that starts when the request has ended.
    after_request: Option<(RequestEnd, Duration)>,
    /// Whether the limit is the cluster's `max_stream_duration`, not the call's timeout.
    by_cluster: bool,
}

impl Deadline {
    fn new(worker: &WorkerCx, options: &CallOptions) -> Deadline {
        let mut timer = worker.timers.timer();
        let after_request = options.request_end.clone().zip(options.timeout);
        let at = match after_request {
            Some(_) => None,
            None => options.timeout.map(|after| worker.timers.now() + after),
        };
        timer.set(at);
        Deadline {
            timer,
            at,
            after_request,
            by_cluster: false,
        }
    }

    fn poll_elapsed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some((end, timeout)) = &self.after_request
            && end.poll(cx).is_ready()
        {
            let at = clock::now() + *timeout;
            self.after_request = None;
            if self.at.is_none_or(|limit| at < limit) {
                self.at = Some(at);
                self.by_cluster = false;
                self.timer.set(Some(at));
            }
        }
        self.timer.poll_elapsed(cx)
    }

    /// Limits the rest of the call to `duration`.
    fn limit(&mut self, duration: Option<Duration>) {
        let limit = duration.map(|duration| clock::now() + duration);
        if let Some(limit) = limit
            && self.at.is_none_or(|at| limit < at)
        {
            self.at = Some(limit);
            self.by_cluster = true;
            self.timer.set(Some(limit));
        }
    }

    /// Counts the end of the call's time. Returns the failure of the call.
    fn expired(&self, counts: &CallCounts) -> CallFailure {
        match self.by_cluster {
            true => counts.max_duration_reached(),
            false => counts.expired(),
        }
    }
}

/// The time of a call is over.
struct Expired;

/// The output of `future`, unless the deadline comes first.
async fn until<T>(deadline: &mut Deadline, future: impl Future<Output = T>) -> Result<T, Expired> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Ok(output)),
        Poll::Pending => deadline.poll_elapsed(cx).map(|()| Err(Expired)),
    })
    .await
}

/// Adds the proxy's own address to `x-forwarded-for`, as Envoy does in its own calls.
fn append_forwarded_for(headers: &mut HeaderMap, address: &HeaderValue) {
    let joined = headers.get(&header::X_FORWARDED_FOR).and_then(|value| {
        let joined = [value.as_bytes(), b",", address.as_bytes()].concat();
        HeaderValue::from_bytes(&joined).ok()
    });
    let value = joined.unwrap_or_else(|| address.clone());
    headers.insert(&header::X_FORWARDED_FOR, value);
}

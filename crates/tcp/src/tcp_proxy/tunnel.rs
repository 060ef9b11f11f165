//! `tunneling_config`: the client's bytes travel in an HTTP request to the host, and the host's in its response.
//!
//! To the rest of the proxy such a tunnel is a connection to the host: one end of a connection within the process, whose
//! other end [`carry`] joins with the request.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Buf as _;
use bytes::Bytes;
use http::Method;
use http::Version;
use http::uri::Scheme;
use outrider_codec::Body;
use outrider_codec::BodyStream;
use outrider_codec::Frame;
use outrider_codec::HeaderValue;
use outrider_codec::RequestHead;
use outrider_codec::ResponseHead;
use outrider_codec::StreamError;
use outrider_codec::Target;
use outrider_codec::UpstreamExchange;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::HeaderValueOption;
use outrider_config::api::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::TunnelingConfig;
use outrider_http::Stream;
use outrider_http::format::Formatter;
use outrider_http::route::HeaderMutations;
use outrider_net::InternalStream;
use outrider_net::NetworkStream;
use outrider_upstream::Cluster;
use outrider_upstream::Pick;
use outrider_upstream::PoolFailure;
use outrider_upstream::RoutingPriority;
use tokio::task::spawn_local;

use super::connect::ConnectedHost;

/// `TcpProxy.TunnelingConfig`
#[derive(Debug)]
pub(super) struct Tunneling {
    /// `hostname`
    host: Formatter,
    /// `post_path`, with `use_post`; `None` for CONNECT.
    post_path: Option<Target>,
    /// `headers_to_add`
    headers: Vec<HeaderMutations>,
}

impl Tunneling {
    /// Reads the message found at `path`.
    pub(super) fn build(
        message: &TunnelingConfig,
        path: &FieldPath,
    ) -> Result<Tunneling, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let host = errors.collect(Formatter::compile(
            &message.hostname,
            &path.field("hostname"),
        ));
        let post_path = errors.collect(post_path(message, &path.field("post_path")));
        let headers = headers(&message.headers_to_add, &path.field("headers_to_add"));
        let headers = errors.collect(headers);
        match (host, post_path, headers) {
            (Some(host), Some(post_path), Some(headers)) => errors.finish(Tunneling {
                host,
                post_path,
                headers,
            }),
            _ => Err(errors),
        }
    }

    /// The request for a client's connection, which `stream` describes. `None` if the host's name is not valid.
    fn request(&self, mut stream: Stream, is_tls: bool) -> Option<RequestHead> {
        let mut host = Vec::new();
        self.host.write(&stream, &mut host);
        stream.request.authority = Some(HeaderValue::from_bytes(&host).ok()?);
        if let Some(path) = &self.post_path {
            stream.request.method = Method::POST;
            stream.request.path = Some(path.clone());
            stream.request.scheme = Some(match is_tls {
                true => Scheme::HTTPS,
                false => Scheme::HTTP,
            });
        } else {
            stream.request.method = Method::CONNECT;
        }
        for header in &self.headers {
            header.apply_to_request(&mut stream);
        }
        Some(stream.request)
    }

    /// Opens a tunnel through the host of `pick`.
    pub(super) async fn open(
        &self,
        pick: &Pick,
        cluster: Rc<Cluster>,
        stream: Stream,
    ) -> Result<ConnectedHost, PoolFailure> {
        // A client over TCP is like one of HTTP/1 where the cluster lets the client decide the protocol.
        let (priority, downstream) = (RoutingPriority::Default, Version::HTTP_11);
        let opened = match pick.open_at_once(priority, downstream) {
            Some(opened) => opened?,
            None => pick.open(priority, downstream).await?,
        };
        let connection = opened.connection().clone();
        let is_http1 = connection.protocol != Version::HTTP_2;
        let head = self.request(stream, connection.tls.is_some());
        let head = head.ok_or_else(|| failed("invalid hostname"))?;
        let limit = cluster.info().per_connection_buffer_limit_bytes;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let (near, far) = InternalStream::pair(limit);
        let far = Rc::new(far);
        let upload = Body::wrap(TunnelUpload(far.clone()));
        let mut exchange = opened.send(&head, upload).map_err(|_| failed(""))?;
        let response = poll_fn(|cx| exchange.poll_response(cx)).await;
        let response = response.map_err(|_| failed(""))?;
        if !accepts(&response, is_http1) {
            if !is_http1 {
                cluster.stats().upstream_rq_tx_reset.inc();
            }
            let status = response.status.as_u16();
            return Err(failed(&format!("tunnel response:{status}")));
        }
        drop(spawn_local(carry(exchange, far, is_http1, cluster.clone())));
        Ok(ConnectedHost {
            stream: NetworkStream::Internal(near),
            id: connection.id,
            local: connection.local.clone(),
            tls: connection.tls.clone(),
            lease: None,
            cluster,
        })
    }
}

fn post_path(message: &TunnelingConfig, path: &FieldPath) -> Result<Option<Target>, ConfigError> {
    match (message.use_post, message.post_path.as_str()) {
        (false, "") => Ok(None),
        (false, _) => Err(ConfigError::new(
            path,
            "Can't set a post path when POST method isn't used",
        )),
        (true, "") => Ok(Some(Target::root())),
        (true, text) => {
            let target = Target::try_from(text);
            let message = || ConfigError::new(path, format!("{text:?} is not a path"));
            target.map(Some).map_err(|_| message())
        }
    }
}

fn headers(
    options: &[HeaderValueOption],
    path: &FieldPath,
) -> Result<Vec<HeaderMutations>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let options = options.iter().enumerate();
    let headers = options.filter_map(|(index, option)| {
        errors.collect(HeaderMutations::of(option, &path.index(index)))
    });
    let headers = headers.collect();
    errors.finish(headers)
}

/// Whether the host accepts the tunnel. Over HTTP/2, Envoy wants exactly 200.
fn accepts(response: &ResponseHead, is_http1: bool) -> bool {
    match is_http1 {
        true => response.status.is_success(),
        false => response.status == http::StatusCode::OK,
    }
}

fn failed(why: &str) -> PoolFailure {
    PoolFailure::RemoteConnectionFailure(why.into())
}

/// The request's body: what the client sends.
struct TunnelUpload(Rc<InternalStream>);

impl BodyStream for TunnelUpload {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        Poll::Ready(match ready!(self.0.poll_take(cx)) {
            Ok(bytes) if bytes.is_empty() => None,
            Ok(bytes) => Some(Ok(Frame::Data(bytes))),
            Err(_) => Some(Err(StreamError::LocalReset)),
        })
    }

    fn is_end_stream(&self) -> bool {
        false
    }
}

/// How a tunnel ended.
enum TunnelEnd {
    /// Both sides have ended.
    Finished,
    /// The client's side is gone.
    ClientGone,
    /// The host, or the connection to it, broke the tunnel off.
    Broken(StreamError),
}

/// Carries the bytes of a tunnel until it ends. `far` is the proxy's own end of the connection that stands for it.
async fn carry(
    exchange: UpstreamExchange,
    far: Rc<InternalStream>,
    is_http1: bool,
    cluster: Rc<Cluster>,
) {
    let mut carrier = Carrier {
        body: exchange.into_body(),
        pending: Bytes::new(),
        ended: false,
    };
    let end = poll_fn(|cx| carrier.poll(&far, is_http1, cx)).await;
    let stats = cluster.stats();
    match end {
        TunnelEnd::Finished => {}
        TunnelEnd::ClientGone if is_http1 => {}
        TunnelEnd::ClientGone => stats.upstream_rq_tx_reset.inc(),
        TunnelEnd::Broken(StreamError::RemoteReset(_)) => {
            stats.upstream_rq_rx_reset.inc();
            far.abort(io::ErrorKind::ConnectionReset);
        }
        TunnelEnd::Broken(_) => far.abort(io::ErrorKind::ConnectionAborted),
    }
}

/// The response of a tunnel on its way to the client.
struct Carrier {
    body: Body,
    /// Bytes that the client's side has not taken.
    pending: Bytes,
    /// The response has ended.
    ended: bool,
}

impl Carrier {
    fn poll_request_written(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.body {
            Body::Exchange(exchange) => exchange.poll_request_written(cx),
            _ => Poll::Ready(()),
        }
    }

    /// As in Envoy, a tunnel over HTTP/1 ends with either of its sides.
    fn poll(
        &mut self,
        far: &InternalStream,
        is_http1: bool,
        cx: &mut Context<'_>,
    ) -> Poll<TunnelEnd> {
        loop {
            if !self.pending.is_empty() {
                match far.poll_write(cx, &[io::IoSlice::new(&self.pending)]) {
                    Poll::Ready(Ok(count)) => self.pending.advance(count),
                    Poll::Ready(Err(_)) => return Poll::Ready(TunnelEnd::ClientGone),
                    Poll::Pending => return Poll::Pending,
                }
                continue;
            }
            // Also sends the client's bytes, after the response as before it.
            match self.body.poll_frame(cx) {
                Poll::Ready(Some(Ok(Frame::Data(bytes)))) => self.pending = bytes,
                Poll::Ready(Some(Ok(Frame::Trailers(_))) | None) => {
                    if is_http1 {
                        return Poll::Ready(TunnelEnd::Broken(StreamError::ConnectionTermination));
                    }
                    if !std::mem::replace(&mut self.ended, true) {
                        far.shutdown();
                    }
                    return self.poll_request_written(cx).map(|()| TunnelEnd::Finished);
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(TunnelEnd::Broken(error)),
                Poll::Pending => {
                    if is_http1 && self.poll_request_written(cx).is_ready() {
                        return Poll::Ready(TunnelEnd::Broken(StreamError::ConnectionTermination));
                    }
                    return far.poll_gone(cx).map(|()| TunnelEnd::ClientGone);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(message: TunnelingConfig) -> Result<Tunneling, ConfigErrors> {
        Tunneling::build(&message, &FieldPath::root())
    }

    #[test]
    fn a_path_needs_post() {
        let config = |use_post, post_path: &str| TunnelingConfig {
            hostname: "h:1".to_owned(),
            use_post,
            post_path: post_path.to_owned(),
            ..TunnelingConfig::default()
        };
        let path = |built: Result<Tunneling, _>| built.unwrap().post_path;
        assert_eq!(path(build(config(true, ""))), Some(Target::root()));
        assert_eq!(path(build(config(false, ""))), None);
        assert!(build(config(false, "/p")).is_err());
        assert!(build(config(true, "/a b")).is_err());
    }

    #[test]
    fn over_http2_only_200_accepts() {
        for (status, http1, http2) in [(200, true, true), (204, true, false), (403, false, false)] {
            let head = ResponseHead::from(http::StatusCode::from_u16(status).unwrap());
            assert_eq!(
                (accepts(&head, true), accepts(&head, false)),
                (http1, http2)
            );
        }
    }
}

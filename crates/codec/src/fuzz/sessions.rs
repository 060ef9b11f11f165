//! HTTP/2 connections in both roles, with a peer that sends any bytes.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Version;
use outrider_net::DrainSignal;
use outrider_net::NetworkStream;
use outrider_net::Timers;
use tokio::net::UnixStream;
use tokio::task::LocalSet;
use tokio::task::spawn_local;

use crate::AbortConnection;
use crate::Body;
use crate::ClientOptions;
use crate::Handler;
use crate::HeaderValue;
use crate::MalformedRequest;
use crate::Meter;
use crate::RequestHead;
use crate::RequestHeadError;
use crate::Responder;
use crate::ResponseHead;
use crate::ServerOptions;
use crate::stats::ConnectionStats;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// A connection that has not ended this long after its peer has is stuck.
const STUCK: Duration = Duration::from_secs(10);

/// Answers each request with its own body.
struct Echo;

impl Handler for Echo {
    async fn serve(self: Rc<Self>, _: RequestHead, body: Body, mut respond: Responder) {
        drop(respond.send(ResponseHead::default(), body).await);
    }

    fn head_failed(
        self: Rc<Self>,
        _: RequestHeadError,
        _: Version,
        _: Rc<Meter>,
        _: &AbortConnection<'_>,
    ) {
    }

    async fn malformed(self: Rc<Self>, error: MalformedRequest, mut respond: Responder) {
        drop(respond.send(error.status.into(), Body::Empty).await);
    }
}

/// Runs a connection as on a worker.
fn on_worker<F: Future<Output = ()>>(connection: impl FnOnce(Timers) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the process may have another descriptor");
    let local = LocalSet::new();
    let timers = Timers::new();
    local.spawn_local(timers.clone().run());
    let ended = local.run_until(async {
        let connection = connection(timers);
        tokio::time::timeout(STUCK, connection).await
    });
    runtime.block_on(ended).expect("the connection ends");
}

/// Sends `data`, in two parts, reads what comes, and closes.
async fn play(peer: UnixStream, first: &[u8], data: &[u8]) {
    let (at, data) = super::split_position(data).unwrap_or((0, &[]));
    let (start, rest) = data.split_at(at);
    for part in [first, start, rest] {
        let mut left = part;
        for _ in 0..100 {
            let mut waste = [0; 4096];
            while matches!(peer.try_read(&mut waste), Ok(1..)) {}
            match peer.try_write(left) {
                Ok(count) => left = &left[count..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
            tokio::task::yield_now().await;
            if left.is_empty() {
                break;
            }
        }
    }
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// A server whose client sends any bytes after its preface.
pub(super) fn server(data: &[u8]) {
    on_worker(|timers| async move {
        let mut options = ServerOptions::new(timers, DrainSignal::new());
        options.delayed_close_timeout = None;
        options.http2.stream_error_on_invalid_message = data.first().is_some_and(|at| at % 2 == 1);
        let stats = options.http2_stats.clone();
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let served = crate::serve(NetworkStream::Unix(ours), Rc::new(options), Rc::new(Echo));
        let served = spawn_local(served);
        play(theirs, &[PREFACE, SETTINGS].concat(), data).await;
        assert!(served.await.is_ok(), "the connection panicked");
        while stats.streams_active.value() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(stats.outbound_frames_active.value(), 0);
        assert_eq!(stats.outbound_control_frames_active.value(), 0);
    });
}

/// A client whose server sends any bytes.
pub(super) fn client(data: &[u8]) {
    on_worker(|timers| async move {
        let options = ClientOptions::new(timers, Arc::new(ConnectionStats::default()));
        let stats = options.http2_stats.clone();
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let (client, run) =
            crate::connect_http2(NetworkStream::Unix(ours), Rc::new(options), Rc::new(|| {}));
        let driven = spawn_local(run);
        let head = RequestHead {
            authority: Some(HeaderValue::from_static("a")),
            ..RequestHead::default()
        };
        for _ in 0..3 {
            let Ok(mut exchange) = client.send(&head, Body::full("body")) else {
                continue;
            };
            spawn_local(async move {
                if poll_fn(|cx| exchange.poll_response(cx)).await.is_ok() {
                    let mut body = exchange.into_body();
                    while let Some(Ok(_)) = body.frame().await {}
                }
            });
        }
        play(theirs, SETTINGS, data).await;
        assert!(driven.await.is_ok(), "the connection panicked");
        while client.active() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(stats.outbound_frames_active.value(), 0);
    });
}

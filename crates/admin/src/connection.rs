//! One connection to the admin server, HTTP/1.1 or HTTP/2 by its first bytes.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::SystemTime;

use hyper::Version;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use hyper_util::server::conn::auto;
use outrider_net::Address;
use outrider_net::NetworkStream;
use tokio::time::timeout;

use crate::Admin;
use crate::AdminRequest;
use crate::RequestFailure;
use crate::exchange;
use crate::refusal::MAX_HEAD;
use crate::socket::IDLE_TIMEOUT;
use crate::socket::TimedSocket;
use crate::stats::OpenConnection;

/// The size at which hyper refuses a head by itself. It is larger than the limit of this server, so that requests
/// slightly over that limit get the same response as from Envoy.
const PARSER_LIMIT: usize = MAX_HEAD as usize + 4 * 1024;
const PARSER_HEADERS: usize = 200;
/// The maximum number of concurrent HTTP/2 streams on one connection.
const MAX_STREAMS: u32 = 100;
/// How many bytes of a response are buffered for an HTTP/2 client that does not read.
const MAX_UNSENT: usize = 64 * 1024;

/// A client's connection, shared by its requests.
pub(crate) struct ClientConnection {
    pub(crate) admin: Rc<Admin>,
    pub(crate) local: Address,
    pub(crate) remote: Address,
    pub(crate) stats: OpenConnection,
    /// Whether the response to `/quitquitquit` has been made but not been sent yet.
    quits: Cell<bool>,
}

impl ClientConnection {
    /// Ends the process once the responses have been sent, or cannot be sent.
    pub(crate) fn quit_when_flushed(&self) {
        self.quits.set(true);
    }

    /// Notes that all responses have been sent.
    pub(crate) fn flushed(&self) {
        if self.quits.take() {
            self.admin.control.quit();
        }
    }

    /// Logs a request that hyper answered or gave up by itself.
    fn failed(&self, error: &hyper::Error) {
        let (status, details, failure) = if error.is_parse_too_large() {
            (431, "http1.headers_too_large", RequestFailure::Protocol)
        } else if error.is_parse() {
            (400, "http1.codec_error", RequestFailure::Protocol)
        } else if error.is_incomplete_message() && self.stats.had_no_reset() {
            (
                0,
                "downstream_remote_disconnect",
                RequestFailure::Disconnect,
            )
        } else {
            return;
        };
        self.stats.protocol(Version::HTTP_11);
        let counted = self.stats.request(Version::HTTP_11);
        if failure == RequestFailure::Protocol {
            counted.answered(status);
            self.stats.protocol_error();
            self.stats.closes_locally();
        }
        (self.admin.access_log)(&AdminRequest {
            started: SystemTime::now(),
            duration: counted.age(),
            protocol: Version::HTTP_11,
            head: None,
            is_refused: true,
            status,
            details,
            failure: Some(failure),
            response_headers: Vec::new(),
            received: 0,
            sent: 0,
            local: self.local.clone(),
            remote: self.remote.clone(),
        });
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        self.flushed();
    }
}

/// Serves requests until the client, an error or a timeout ends the connection. `ends` are the local and the remote
/// address.
pub(crate) async fn serve(mut stream: NetworkStream, ends: [Address; 2], admin: Rc<Admin>) {
    let [local, remote] = ends;
    let connection = Rc::new(ClientConnection {
        stats: admin.stats.open(),
        local,
        remote,
        quits: Cell::new(false),
        admin,
    });
    // Waits without buffers until the client sends something, so that idle connections cost little memory.
    let speaks = timeout(IDLE_TIMEOUT, poll_fn(|cx| stream.poll_read_ready(cx))).await;
    if !matches!(speaks, Ok(Ok(()))) {
        return connection.stats.closes_locally();
    }
    let socket = TokioIo::new(TimedSocket::new(stream, connection.clone()));
    let requests = connection.clone();
    let service = service_fn(move |request| exchange::answer(request, requests.clone()));
    let served = builder().serve_connection(socket, service).await;
    let Err(error) = served else { return };
    log::debug!(target: "admin", "connection ended: {error}");
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        connection.failed(error);
    }
}

fn builder() -> auto::Builder<LocalExecutor> {
    let mut builder = auto::Builder::new(LocalExecutor);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .max_headers(PARSER_HEADERS)
        .max_buf_size(PARSER_LIMIT);
    builder
        .http2()
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD.into())
        .max_send_buf_size(MAX_UNSENT);
    builder
}

/// Runs HTTP/2 requests on this thread.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

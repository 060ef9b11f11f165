//! Tests that compare the bytes sent to a server connection and back, and tests of the client against that server.

use std::cell::Cell;
use std::future::Future;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Context;
use std::task::Waker;
use std::time::Duration;

use http::Version;
use outrider_net::DrainSignal;
use outrider_net::NetworkStream;
use outrider_net::Timers;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::task::LocalSet;
use tokio::task::spawn_local;

use crate::AbortConnection;
use crate::Body;
use crate::ClientOptions;
use crate::CodecType;
use crate::ConnectionEnd;
use crate::EndCause;
use crate::Frame;
use crate::Handler;
use crate::HeaderValue;
use crate::MalformedRequest;
use crate::Meter;
use crate::RequestHead;
use crate::RequestHeadError;
use crate::Responder;
use crate::ResponseHead;
use crate::ServerOptions;
use crate::StreamError;
use crate::Target;
use crate::connect_http1;
use crate::header;
use crate::serve;
use crate::stats::ConnectionStats;

use super::client::connect;
use super::transport::Transport;

/// Responds to `/echo` with the request's body after receiving all of it, to `/stream` while receiving it, to `/early`
/// without reading it, to `/cut` with less than it announces, and to `/never` not at all.
struct Echo;

impl Handler for Echo {
    async fn serve(self: Rc<Self>, head: RequestHead, mut body: Body, mut respond: Responder) {
        let mut answer = ResponseHead::default();
        let body = match head.path() {
            "/echo" => match read_all(&mut body).await {
                Ok(bytes) => Body::full(bytes),
                Err(error) => match respond.malformed_body() {
                    Some(malformed) => return self.malformed(malformed, respond).await,
                    None => Body::full(error.to_string()),
                },
            },
            "/stream" => body,
            path @ ("/early" | "/cut") => {
                let length = if path == "/cut" { 9_u64 } else { 2 };
                let headers = &mut answer.headers;
                headers.insert(&header::CONTENT_LENGTH, HeaderValue::from(length));
                Body::full("ok")
            }
            "/never" => {
                poll_fn(|cx| respond.poll_reset(cx)).await;
                return;
            }
            other => Body::full(format!("{other} for {:?}", head.authority)),
        };
        drop(respond.send(answer, body).await);
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
        let mut head = ResponseHead::from(error.status);
        let length = HeaderValue::from(error.body.len());
        head.headers.insert(&header::CONTENT_LENGTH, length);
        let body = Body::full(error.body.into_owned());
        drop(respond.send(head, body).await);
    }
}

async fn read_all(body: &mut Body) -> Result<Vec<u8>, StreamError> {
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Frame::Data(bytes) = frame? {
            all.extend_from_slice(&bytes);
        }
    }
    Ok(all)
}

fn options(timers: &Timers) -> ServerOptions {
    let mut options = ServerOptions::new(timers.clone(), DrainSignal::new());
    options.codec = CodecType::Http1;
    options.delayed_close_timeout = None;
    options
}

async fn local<F: Future<Output = ()> + 'static>(test: impl FnOnce(Timers) -> F) {
    let timers = Timers::new();
    let set = LocalSet::new();
    set.spawn_local(timers.clone().run());
    set.run_until(test(timers)).await;
}

/// Sends `parts` one after the other and closes. Returns everything received until the server closed, and how its
/// connection ended.
async fn transcript(timers: Timers, parts: Vec<Vec<u8>>) -> (String, ConnectionEnd) {
    let (mut client, server) = UnixStream::pair().unwrap();
    let served = spawn_local(serve(
        NetworkStream::Unix(server),
        Rc::new(options(&timers)),
        Rc::new(Echo),
    ));
    for part in parts {
        client.write_all(&part).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    (String::from_utf8(answer).unwrap(), served.await.unwrap())
}

#[tokio::test]
async fn serves_one_request_after_the_other() {
    local(|timers| async move {
        let text = b"GET /echo HTTP/1.1\r\nHost: h\r\n\r\n\
            POST /echo HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc\
            POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        let chunked = |body: &str| format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let ok = "HTTP/1.1 200 OK\r\n";
        let expected = format!("{ok}content-length: 0\r\n\r\n{ok}{}{ok}connection: close\r\n{}", chunked("abc"), chunked("abcde"));
        assert_eq!(transcript(timers.clone(), vec![text.to_vec()]).await.0, expected);
        let single = text.iter().map(|byte| vec![*byte]).collect();
        assert_eq!(transcript(timers, single).await.0, expected);
    })
    .await;
}

#[tokio::test]
async fn a_response_before_the_end_of_its_request_closes_the_connection() {
    local(|timers| async move {
        let request = b"POST /stream HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n".to_vec();
        let (text, _) = transcript(timers, vec![request]).await;
        let expected = "HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        assert_eq!(text, expected);
    })
    .await;
}

#[tokio::test]
async fn a_malformed_request_is_answered_and_closes_the_connection() {
    local(|timers| async move {
        let (text, end) = transcript(
            timers,
            vec![b"garbage\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_vec()],
        )
        .await;
        assert_eq!(
            text,
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 11\r\nconnection: close\r\n\r\nBad Request"
        );
        assert_eq!(
            end.cause,
            crate::EndCause::ProtocolError("http1.codec_error")
        );
    })
    .await;
}

#[tokio::test]
async fn a_malformed_body_is_answered_if_no_response_was_begun() {
    local(|timers| async move {
        let request = b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n";
        let (text, end) = transcript(timers, vec![request.to_vec()]).await;
        assert!(text.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{text}");
        assert!(text.ends_with("Bad Request"), "{text}");
        assert_eq!(
            end.cause,
            crate::EndCause::ProtocolError("http1.codec_error")
        );
    })
    .await;
}

#[tokio::test]
async fn an_answer_before_the_request_is_complete_closes() {
    local(|timers| async move {
        let request = b"POST /early HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc".to_vec();
        let (text, _) = transcript(timers, vec![request]).await;
        assert_eq!(
            text,
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
        );
    })
    .await;
}

#[tokio::test]
async fn a_short_response_closes_the_connection() {
    local(|timers| async move {
        let request = b"GET /cut HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_vec();
        let (text, _) = transcript(timers, vec![request]).await;
        assert_eq!(text, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok");
    })
    .await;
}

#[tokio::test]
async fn a_client_that_closes_is_noticed() {
    local(|timers| async move {
        let (mut client, server) = UnixStream::pair().unwrap();
        let served = spawn_local(serve(
            NetworkStream::Unix(server),
            Rc::new(options(&timers)),
            Rc::new(Echo),
        ));
        client
            .write_all(b"GET /never HTTP/1.1\r\n\r\n")
            .await
            .unwrap();
        tokio::task::yield_now().await;
        drop(client);
        assert_eq!(served.await.unwrap().active_streams, 1);
    })
    .await;
}

#[tokio::test]
async fn a_draining_server_closes_after_the_next_response() {
    local(|timers| async move {
        let options = Rc::new(options(&timers));
        options.drain.begin();
        let (mut client, server) = UnixStream::pair().unwrap();
        spawn_local(serve(
            NetworkStream::Unix(server),
            options.clone(),
            Rc::new(Echo),
        ));
        let request = b"GET /echo HTTP/1.1\r\nHost: h\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert_eq!(options.stats.downstream_cx_drain_close.value(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn slow_heads_and_idle_connections_time_out() {
    local(|timers| async move {
        let mut options = options(&timers);
        options.request_headers_timeout = Some(Duration::from_secs(2));
        options.idle_timeout = Some(Duration::from_secs(5));
        let options = Rc::new(options);
        let (mut client, server) = UnixStream::pair().unwrap();
        let served = spawn_local(serve(
            NetworkStream::Unix(server),
            options.clone(),
            Rc::new(Echo),
        ));
        client.write_all(b"GET / HT").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
            "{answer}"
        );
        served.await.unwrap();
        // No request was begun.
        let (_client, server) = UnixStream::pair().unwrap();
        serve(NetworkStream::Unix(server), options.clone(), Rc::new(Echo)).await;
        assert_eq!(options.stats.downstream_cx_idle_timeout.value(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_restarts_the_idle_timeout() {
    local(|timers| async move {
        let mut options = options(&timers);
        options.idle_timeout = Some(Duration::from_secs(5));
        let started = tokio::time::Instant::now();
        let (mut client, server) = UnixStream::pair().unwrap();
        let served = spawn_local(serve(
            NetworkStream::Unix(server),
            Rc::new(options),
            Rc::new(Echo),
        ));
        timers.sleep(Duration::from_secs(4)).await;
        client
            .write_all(b"GET /echo HTTP/1.1\r\nHost: h\r\n\r\n")
            .await
            .unwrap();
        served.await.unwrap();
        assert!(started.elapsed() >= Duration::from_secs(9));
    })
    .await;
}

/// Requests an echo of this many bytes and never reads the response.
async fn unread(
    timers: &Timers,
    fields: &str,
    size: usize,
) -> (UnixStream, JoinHandle<ConnectionEnd>, Rc<ServerOptions>) {
    let mut options = options(timers);
    options.idle_timeout = Some(Duration::from_secs(5));
    options.delayed_close_timeout = Some(Duration::from_secs(1));
    let options = Rc::new(options);
    let (mut client, server) = UnixStream::pair().unwrap();
    let served = spawn_local(serve(
        NetworkStream::Unix(server),
        options.clone(),
        Rc::new(Echo),
    ));
    let head = format!("POST /echo HTTP/1.1\r\nHost: h\r\n{fields}content-length: {size}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(&vec![b'x'; size]).await.unwrap();
    (client, served, options)
}

#[tokio::test(start_paused = true)]
async fn an_unread_last_response_is_abandoned() {
    local(|timers| async move {
        let started = tokio::time::Instant::now();
        let (_client, served, options) = unread(&timers, "connection: close\r\n", 900_000).await;
        assert_eq!(served.await.unwrap().cause, EndCause::Local);
        assert_eq!(options.stats.downstream_cx_delayed_close_timeout.value(), 1);
        assert!(started.elapsed() < Duration::from_secs(2));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_unread_response_leaves_its_connection_idle() {
    local(|timers| async move {
        let (_client, served, options) = unread(&timers, "", 900_000).await;
        assert_eq!(served.await.unwrap().cause, EndCause::Local);
        assert_eq!(options.stats.downstream_cx_idle_timeout.value(), 1);
        assert_eq!(options.stats.downstream_cx_delayed_close_timeout.value(), 1);
    })
    .await;
}

/// Responds to everything at once, and counts requests.
#[derive(Debug, Default)]
struct Eager(Cell<usize>);

impl Handler for Eager {
    async fn serve(self: Rc<Self>, _head: RequestHead, _body: Body, mut respond: Responder) {
        self.0.set(self.0.get() + 1);
        drop(
            respond
                .send(ResponseHead::default(), Body::full("y".repeat(1000)))
                .await,
        );
    }

    fn head_failed(
        self: Rc<Self>,
        _: RequestHeadError,
        _: Version,
        _: Rc<Meter>,
        _: &AbortConnection<'_>,
    ) {
    }

    async fn malformed(self: Rc<Self>, _error: MalformedRequest, _respond: Responder) {}
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_gets_no_further_responses() {
    local(|timers| async move {
        let served = Rc::new(Eager::default());
        let (mut client, server) = UnixStream::pair().unwrap();
        let options = Rc::new(options(&timers));
        spawn_local(serve(NetworkStream::Unix(server), options, served.clone()));
        let all = 20_000;
        let requests = "GET / HTTP/1.1\r\nHost: h\r\n\r\n".repeat(all);
        let written = client.write_all(requests.as_bytes());
        let stuck = tokio::time::timeout(Duration::from_secs(1), written).await;
        // Little more than what the socket buffers: one read alone contains 600 requests.
        assert!(stuck.is_err() && served.0.get() < 300, "{served:?}");
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_gets_all_responses() {
    local(|timers| async move {
        let size = 900_000;
        let (mut client, served, _) = unread(&timers, "", size).await;
        let next = b"GET /early HTTP/1.1\r\nHost: h\r\nconnection: close\r\n\r\n";
        client.write_all(next).await.unwrap();
        let mut answers = Vec::new();
        client.read_to_end(&mut answers).await.unwrap();
        served.await.unwrap();
        let answers = String::from_utf8(answers).unwrap();
        assert!(answers.contains(&"x".repeat(size)));
        assert!(answers.ends_with("\r\n\r\nok"));
    })
    .await;
}

/// A client connection to an [`Echo`] server.
fn client_of(timers: &Timers) -> crate::Client {
    let (near, far) = UnixStream::pair().unwrap();
    spawn_local(serve(
        NetworkStream::Unix(far),
        Rc::new(options(timers)),
        Rc::new(Echo),
    ));
    let bytes = std::sync::Arc::new(ConnectionStats::default());
    let client_options = Rc::new(ClientOptions::new(timers.clone(), bytes));
    let (client, run) = connect_http1(NetworkStream::Unix(near), client_options, Rc::new(|| ()));
    spawn_local(run);
    client
}

async fn call(
    client: &crate::Client,
    path: &str,
    body: Body,
) -> Result<(u16, String), StreamError> {
    let head = RequestHead {
        method: http::Method::POST,
        path: Target::try_from(path).ok(),
        ..RequestHead::default()
    };
    let mut exchange = client.send(&head, body)?;
    let head = poll_fn(|cx| exchange.poll_response(cx)).await?;
    let text = read_all(&mut exchange.into_body()).await?;
    Ok((head.status.as_u16(), String::from_utf8(text).unwrap()))
}

#[tokio::test]
async fn a_client_connection_is_reused() {
    local(|timers| async move {
        let client = client_of(&timers);
        for _ in 0..3 {
            assert_eq!(client.capacity(), 1);
            let (status, text) = call(&client, "/x", Body::Empty).await.unwrap();
            assert_eq!((status, text.as_str()), (200, "/x for Some(\"\")"));
        }
    })
    .await;
}

#[tokio::test]
async fn large_bodies_pass_both_ways_and_the_last_response_closes_the_connection() {
    local(|timers| async move {
        let client = client_of(&timers);
        let large = "0123456789".repeat(500_000);
        let (status, text) = call(&client, "/stream", Body::full(large.clone()))
            .await
            .unwrap();
        assert_eq!((status, text == large), (200, true));
        assert!(client.is_draining());
    })
    .await;
}

#[tokio::test]
async fn an_incomplete_response_is_an_error_and_closes_the_connection() {
    local(|timers| async move {
        let client = client_of(&timers);
        let error = call(&client, "/cut", Body::Empty).await.unwrap_err();
        assert_eq!(error, StreamError::ProtocolError("http1.codec_error"));
        assert_eq!((client.capacity(), client.is_draining()), (0, true));
    })
    .await;
}

#[tokio::test]
async fn a_host_that_responds_early_gets_the_rest_of_the_request() {
    local(|timers| async move {
        let (near, mut far) = UnixStream::pair().unwrap();
        let bytes = std::sync::Arc::new(ConnectionStats::default());
        let options = Rc::new(ClientOptions::new(timers, bytes));
        let (client, run) = connect_http1(NetworkStream::Unix(near), options, Rc::new(|| ()));
        spawn_local(run);
        let size = 900_000;
        let host = spawn_local(async move {
            far.read_exact(&mut [0]).await.unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            far.write_all(answer).await.unwrap();
            far
        });
        let (status, text) = call(&client, "/x", Body::full("x".repeat(size)))
            .await
            .unwrap();
        assert_eq!((status, text.as_str()), (200, "ok"));
        let mut host = host.await.unwrap();
        let mut rest = Vec::new();
        while !rest.ends_with(b"x\r\n0\r\n\r\n") {
            let read = host.read_buf(&mut rest).await.unwrap();
            assert_ne!(read, 0, "the connection was closed after {}", rest.len());
        }
        assert!(rest.len() > size);
        assert_eq!(client.capacity(), 1);
    })
    .await;
}

#[tokio::test]
async fn the_watching_task_sends_what_is_unsent() {
    let (near, _far) = UnixStream::pair().unwrap();
    let bytes = std::sync::Arc::new(ConnectionStats::default());
    let mut transport = Transport::new(NetworkStream::Unix(near), bytes, 1 << 20, &[]);
    let mut cx = Context::from_waker(Waker::noop());
    transport.write(|out| out.push(b'a'));
    assert!(transport.defer_write(&mut cx) && !transport.defer_write(&mut cx));
    transport.cancel_deferred_write();
    assert!(transport.defer_write(&mut cx));
    transport.write_deferred();
    assert_eq!(transport.queued(), 0);
}

#[tokio::test]
async fn an_idle_client_connection_owns_no_buffer() {
    local(|timers| async move {
        let (near, mut far) = UnixStream::pair().unwrap();
        let bytes = std::sync::Arc::new(ConnectionStats::default());
        let options = Rc::new(ClientOptions::new(timers, bytes));
        let (connection, run) = connect(NetworkStream::Unix(near), options, Rc::new(|| ()));
        spawn_local(run);
        // A read that filled its buffer is followed by one with more room than a small response needs.
        let large = format!(
            "200 OK\r\ncontent-length: 60000\r\n\r\n{}",
            "x".repeat(60_000)
        );
        for answer in [&large, "204 No Content\r\n\r\n"] {
            let head = RequestHead {
                path: Some(Target::root()),
                ..RequestHead::default()
            };
            let mut exchange = connection.send(&head, Body::Empty).unwrap();
            far.write_all(format!("HTTP/1.1 {answer}").as_bytes())
                .await
                .unwrap();
            poll_fn(|cx| exchange.poll_head(cx)).await.unwrap();
            while poll_fn(|cx| exchange.poll_frame(cx)).await.is_some() {}
            assert_eq!(connection.capacity(), 1);
            assert_eq!(connection.transport.borrow().input.capacity(), 0);
        }
    })
    .await;
}

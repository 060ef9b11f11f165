//! Tests of HTTP/2: our client against our server, and each of them against raw frames.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use outrider_codec::Body;
use outrider_codec::CodecType;
use outrider_codec::EndCause;
use outrider_codec::Keepalive;
use outrider_codec::Reason;
use outrider_codec::StreamError;
use support::PathHandler;
use support::WithTrailers;
use support::client_options;
use support::collect;
use support::on_worker;
use support::raw::DATA;
use support::raw::END_HEADERS;
use support::raw::END_STREAM;
use support::raw::GOAWAY;
use support::raw::HEADERS;
use support::raw::PING;
use support::raw::RST_STREAM;
use support::raw::RawPeer;
use support::raw::SETTINGS;
use support::raw::WINDOW_UPDATE;
use support::raw::connected;
use support::raw::head;
use support::raw::raw_client;
use support::raw::raw_server;
use support::request;
use support::run_ready_tasks;
use support::server_options;
use support::sockets;
use tokio::io::AsyncWriteExt;
use tokio::task::spawn_local;

#[tokio::test]
async fn body_and_trailers_pass_both_ways() {
    on_worker(|timers| async move {
        let (client, _) = connected(&timers, server_options(&timers)).await;
        let body = WithTrailers::body("ping", "x-end", "1");
        let mut exchange = client.send(&request("/echo"), body).unwrap();
        let response = poll_fn(|cx| exchange.poll_response(cx)).await.unwrap();
        assert_eq!(response.headers["x-authority"], "a.example");
        let meter = exchange.meter().clone();
        let (bytes, trailers) = collect(exchange.into_body()).await.unwrap();
        assert_eq!(bytes, b"ping");
        assert_eq!(trailers.unwrap()["x-end"], "1");
        assert_eq!(
            (meter.body_bytes_sent(), meter.body_bytes_received()),
            (4, 4)
        );
        assert!(meter.receive_ended().is_some() && meter.send_ended().is_some());
        assert_eq!(client.active(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_stops_pauses_the_writer() {
    on_worker(|timers| async move {
        let (client, script) = connected(&timers, server_options(&timers)).await;
        let mut exchange = client.send(&request("/large"), Body::Empty).unwrap();
        poll_fn(|cx| exchange.poll_response(cx)).await.unwrap();
        run_ready_tasks().await;
        let (bytes, _) = collect(exchange.into_body()).await.unwrap();
        assert_eq!((bytes.len(), script.produced.get()), (8 << 20, 8 << 20));

        let (mut raw, script, _served) = raw_client(server_options(&timers)).await;
        raw.send(HEADERS, END_STREAM | END_HEADERS, 1, &head("/large", &[]))
            .await;
        run_ready_tasks().await;
        let limit = 65_535 + 256 * 1024 + 2 * 16 * 1024;
        assert!(script.produced.get() <= limit, "{}", script.produced.get());
    })
    .await;
}

#[tokio::test]
async fn a_dropped_exchange_resets_the_stream() {
    on_worker(|timers| async move {
        let (client, script) = connected(&timers, server_options(&timers)).await;
        let mut exchange = client.send(&request("/hang"), Body::Empty).unwrap();
        assert_eq!(client.active(), 1);
        let answer = poll_fn(|cx| Poll::Ready(exchange.poll_response(cx))).await;
        assert!(answer.is_pending());
        run_ready_tasks().await;
        drop(exchange);
        run_ready_tasks().await;
        assert_eq!(client.active(), 0);
        assert_eq!(
            *script.resets.borrow(),
            [StreamError::RemoteReset(Reason::INTERNAL_ERROR)]
        );
    })
    .await;
}

#[tokio::test]
async fn draining_lets_open_streams_finish_and_takes_no_new_ones() {
    on_worker(|timers| async move {
        let options = server_options(&timers);
        let (drain, stats) = (options.drain.clone(), options.stats.clone());
        let (client, _) = connected(&timers, options).await;
        let mut exchange = client.send(&request("/large"), Body::Empty).unwrap();
        poll_fn(|cx| exchange.poll_response(cx)).await.unwrap();
        drain.begin();
        run_ready_tasks().await;
        assert_eq!(stats.downstream_cx_drain_close.value(), 0);
        // The next response announces the drain to the client.
        let mut next = client.send(&request("/large"), Body::Empty).unwrap();
        poll_fn(|cx| next.poll_response(cx)).await.unwrap();
        drop(next);
        run_ready_tasks().await;
        assert_eq!(stats.downstream_cx_drain_close.value(), 1);
        assert!(client.is_draining());
        assert_eq!(client.capacity(), 0);
        let (bytes, _) = collect(exchange.into_body()).await.unwrap();
        assert_eq!(bytes.len(), 8 << 20);
    })
    .await;
}

#[tokio::test]
async fn the_servers_settings_are_envoys() {
    on_worker(|timers| async move {
        let (mut raw, _, _served) = raw_client(server_options(&timers)).await;
        let settings = raw.any().await.unwrap();
        let expected = [
            [0, 1, 0, 0, 16, 0],
            [0, 8, 0, 0, 0, 0],
            [0, 3, 0, 0, 4, 0],
            [0, 4, 1, 0, 0, 0],
        ]
        .concat();
        assert_eq!((settings.kind, settings.payload), (SETTINGS, expected));
        let update = loop {
            let frame = raw.any().await.unwrap();
            if frame.kind == WINDOW_UPDATE {
                break frame;
            }
        };
        assert_eq!(update.payload, [0x01, 0x7f, 0x00, 0x01]);
    })
    .await;
}

#[tokio::test]
async fn too_many_headers_reset_the_stream_with_internal_error() {
    on_worker(|timers| async move {
        let (mut raw, _, _served) = raw_client(server_options(&timers)).await;
        let fields = [("a", "b"); 101];
        raw.send(HEADERS, END_STREAM | END_HEADERS, 1, &head("/", &fields))
            .await;
        let reset = raw.next().await.unwrap();
        assert_eq!((reset.kind, reset.payload), (RST_STREAM, vec![0, 0, 0, 2]));
    })
    .await;
}

#[tokio::test]
async fn a_malformed_message_ends_the_connection_or_its_stream_as_configured() {
    on_worker(|timers| async move {
        for stream_error in [false, true] {
            let mut options = server_options(&timers);
            options.http2.stream_error_on_invalid_message = stream_error;
            let (stats, connections) = (options.http2_stats.clone(), options.stats.clone());
            let (mut raw, _, served) = raw_client(options).await;
            raw.send(
                HEADERS,
                END_STREAM | END_HEADERS,
                1,
                &head("/", &[("connection", "close")]),
            )
            .await;
            run_ready_tasks().await;
            assert_eq!(stats.rx_messaging_error.value(), 1);
            if stream_error {
                assert_eq!(raw.next().await.unwrap().kind, RST_STREAM);
                assert!(!served.is_finished());
            } else {
                drop(raw);
                let details = "codec_error:The_user_callback_function_failed";
                assert_eq!(
                    served.await.unwrap().cause,
                    EndCause::ProtocolError(details)
                );
                assert_eq!(connections.downstream_cx_protocol_error.value(), 1);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_empty_frames_ends_the_connection() {
    on_worker(|timers| async move {
        let options = server_options(&timers);
        let stats = options.http2_stats.clone();
        let (mut raw, script, served) = raw_client(options).await;
        raw.send(HEADERS, END_HEADERS, 1, &head("/hang", &[])).await;
        run_ready_tasks().await;
        for _ in 0..2 {
            raw.send(DATA, 0, 1, &[]).await;
        }
        run_ready_tasks().await;
        assert_eq!(stats.inbound_empty_frames_flood.value(), 1);
        let details = "codec_error:Too_many_consecutive_frames_with_an_empty_payload";
        assert_eq!(
            *script.resets.borrow(),
            [StreamError::ProtocolError(details)]
        );
        drop(raw);
        // Envoy does not count a flood as a protocol error.
        assert_eq!(served.await.unwrap().cause, EndCause::Local);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_ping_ends_the_connection() {
    on_worker(|timers| async move {
        let mut options = server_options(&timers);
        options.http2.keepalive = Some(Keepalive {
            interval: Some(Duration::from_secs(10)),
            timeout: Duration::from_secs(2),
            interval_jitter_percent: 0.0,
            connection_idle_interval: None,
        });
        let stats = options.http2_stats.clone();
        let (mut raw, _, served) = raw_client(options).await;
        let ping = raw.next().await.unwrap();
        assert_eq!(ping.kind, PING);
        raw.send(PING, 1, 0, &ping.payload).await;
        assert_eq!(raw.next().await.unwrap().kind, PING);
        assert_eq!(raw.next().await, None);
        drop(raw);
        assert_eq!(served.await.unwrap().cause, EndCause::KeepaliveTimeout);
        assert_eq!(stats.keepalive_timeout.value(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_gets_a_goaway() {
    on_worker(|timers| async move {
        let options = server_options(&timers);
        let stats = options.stats.clone();
        let (mut raw, _, served) = raw_client(options).await;
        let goaway = raw.next().await.unwrap();
        assert_eq!(
            (goaway.kind, &goaway.payload[..4]),
            (GOAWAY, &[0x7f, 0xff, 0xff, 0xff][..])
        );
        let goaway = raw.next().await.unwrap();
        assert_eq!(
            (goaway.kind, &goaway.payload[..4]),
            (GOAWAY, &[0, 0, 0, 0][..])
        );
        assert_eq!(raw.next().await, None);
        drop(raw);
        assert_eq!(served.await.unwrap().cause, EndCause::Local);
        assert_eq!(stats.downstream_cx_idle_timeout.value(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_closed_after_the_drain_timeout() {
    on_worker(|timers| async move {
        let options = server_options(&timers);
        let drain = options.drain.clone();
        let (mut raw, _, served) = raw_client(options).await;
        run_ready_tasks().await;
        drain.begin();
        let begun = tokio::time::Instant::now();
        raw.send(HEADERS, END_HEADERS | END_STREAM, 1, &head("/", &[]))
            .await;
        for _ in 0..2 {
            while raw.next().await.unwrap().kind != GOAWAY {}
        }
        assert!(begun.elapsed() >= Duration::from_secs(5));
        assert_eq!(raw.next().await, None);
        drop(raw);
        assert_eq!(served.await.unwrap().cause, EndCause::Local);
    })
    .await;
}

#[tokio::test]
async fn streams_beyond_a_goaway_are_refused_and_the_others_finish() {
    on_worker(|timers| async move {
        let (client, mut raw, _driven) = raw_server(&timers).await;
        let mut first = client.send(&request("/"), Body::Empty).unwrap();
        let mut second = client.send(&request("/"), Body::Empty).unwrap();
        while raw.next().await.unwrap().stream != 3 {}
        raw.send(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]).await;
        let refused = poll_fn(|cx| second.poll_response(cx)).await;
        assert_eq!(refused.unwrap_err(), StreamError::RemoteRefused);
        assert!(client.is_draining());
        raw.send(HEADERS, END_STREAM | END_HEADERS, 1, &[0x88])
            .await;
        assert_eq!(
            poll_fn(|cx| first.poll_response(cx)).await.unwrap().status,
            200
        );
    })
    .await;
}

#[tokio::test]
async fn resets_and_a_lost_connection_are_distinguished() {
    on_worker(|timers| async move {
        let cases: [(Option<u8>, StreamError); 3] = [
            (Some(7), StreamError::RemoteRefused),
            (Some(2), StreamError::RemoteReset(Reason::INTERNAL_ERROR)),
            (None, StreamError::ConnectionTermination),
        ];
        for (code, expected) in cases {
            let (client, mut raw, _driven) = raw_server(&timers).await;
            let mut exchange = client.send(&request("/"), Body::Empty).unwrap();
            while raw.next().await.unwrap().kind != HEADERS {}
            match code {
                Some(code) => raw.send(RST_STREAM, 0, 1, &[0, 0, 0, code]).await,
                None => drop(raw),
            }
            let error = poll_fn(|cx| exchange.poll_response(cx)).await.unwrap_err();
            assert_eq!(error, expected);
        }
    })
    .await;
}

#[tokio::test]
async fn the_peers_stream_limit_is_the_capacity() {
    on_worker(|timers| async move {
        let (ours, theirs) = sockets();
        let changes = Rc::new(Cell::new(0));
        let counter = changes.clone();
        let on_change = Rc::new(move || counter.set(counter.get() + 1));
        let options = Rc::new(client_options(&timers));
        let (client, run) = outrider_codec::connect_http2(ours, options, on_change);
        spawn_local(run);
        assert_eq!(client.capacity(), 1024);
        let mut raw = RawPeer(theirs);
        raw.send(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 2]).await;
        run_ready_tasks().await;
        assert_eq!((client.capacity(), changes.get()), (2, 1));
        let first = client.send(&request("/"), Body::Empty).unwrap();
        let second = client.send(&request("/"), Body::Empty).unwrap();
        let third = client.send(&request("/"), Body::Empty);
        assert_eq!(third.unwrap_err(), StreamError::Overflow);
        drop((first, second));
        assert_eq!((client.capacity(), changes.get()), (2, 3));
    })
    .await;
}

#[tokio::test]
async fn a_client_of_another_protocol_is_told_so() {
    on_worker(|timers| async move {
        let cases = [
            (CodecType::Http2, &b"GET / HTTP/1.1\r\n\r\n"[..]),
            (CodecType::Auto, b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"),
        ];
        for (codec, bytes) in cases {
            let mut options = server_options(&timers);
            options.codec = codec;
            let (socket, client) = sockets();
            let served = spawn_local(outrider_codec::serve(
                socket,
                Rc::new(options),
                Rc::new(PathHandler::default()),
            ));
            let mut raw = RawPeer(client);
            raw.0.write_all(bytes).await.unwrap();
            let goaway = raw.next().await.unwrap();
            assert_eq!(
                (goaway.kind, &goaway.payload[4..]),
                (GOAWAY, &[0, 0, 0, 1][..])
            );
            drop(raw);
            assert!(served.await.unwrap().cause.is_protocol_error());
        }
    })
    .await;
}

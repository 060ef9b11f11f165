//! Tests of HTTP/2 with peers that do not read, stop half-way, or never stop sending.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::future::poll_fn;
use std::time::Duration;

use outrider_codec::Body;
use outrider_codec::EndCause;
use outrider_codec::StreamError;
use support::on_worker;
use support::raw::DATA;
use support::raw::END_HEADERS;
use support::raw::END_STREAM;
use support::raw::GOAWAY;
use support::raw::HEADERS;
use support::raw::PING;
use support::raw::PREFACE;
use support::raw::RST_STREAM;
use support::raw::SETTINGS;
use support::raw::WINDOW_UPDATE;
use support::raw::head;
use support::raw::raw_client;
use support::raw::raw_server;
use support::raw::serve;
use support::request;
use support::run_ready_tasks;
use support::server_options;
use tokio::io::AsyncWriteExt;

/// SETTINGS_INITIAL_WINDOW_SIZE of 16 MiB.
const LARGE_WINDOWS: [u8; 6] = [0, 4, 1, 0, 0, 0];

#[tokio::test]
async fn streams_share_the_connection_fairly() {
    on_worker(|timers| async move {
        let (mut raw, _, _served) = raw_client(server_options(&timers)).await;
        raw.send(SETTINGS, 0, 0, &LARGE_WINDOWS).await;
        raw.send(WINDOW_UPDATE, 0, 0, &[1, 0, 0, 0]).await;
        for stream in [1, 3, 5] {
            let end = END_STREAM | END_HEADERS;
            raw.send(HEADERS, end, stream, &head("/large", &[])).await;
        }
        let mut received = [0; 6];
        while received.iter().sum::<usize>() < 6 << 20 {
            let frame = raw.next().await.unwrap();
            received[frame.stream as usize] += frame.payload.len();
        }
        let least = [1, 3, 5].map(|stream| received[stream]).into_iter().min();
        assert!(least.unwrap() > 1 << 20, "{received:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_acknowledgements_is_closed_at_once() {
    on_worker(|timers| async move {
        let mut options = server_options(&timers);
        options.http2.max_outbound_control_frames = 20;
        let stats = options.http2_stats.clone();
        let begun = tokio::time::Instant::now();
        let (mut raw, _, served) = raw_client(options).await;
        // Nobody reads the acknowledgements: once the socket is full, they are queued.
        let ping = [&[0, 0, 8, PING, 0, 0, 0, 0, 0][..], b"12345678"].concat();
        while !served.is_finished() && raw.0.write_all(&ping).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert_eq!(served.await.unwrap().cause, EndCause::Local);
        assert_eq!(stats.outbound_control_flood.value(), 1);
        assert_eq!(begun.elapsed(), Duration::ZERO, "no delayed_close_timeout");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_client_reads_nothing_is_closed() {
    on_worker(|timers| async move {
        let options = server_options(&timers);
        let (drain, stats) = (options.drain.clone(), options.stats.clone());
        drain.begin();
        let (mut raw, _, served) = raw_client(options).await;
        raw.send(WINDOW_UPDATE, 0, 0, &[1, 0, 0, 0]).await;
        let streams = || (1..120).step_by(2);
        for stream in streams() {
            raw.send(HEADERS, END_HEADERS, stream, &head("/echo", &[]))
                .await;
            raw.send(DATA, END_STREAM, stream, &[b'x'; 8000]).await;
            run_ready_tasks().await;
        }
        assert!(stats.downstream_cx_tx_bytes_buffered.value() > 0);
        for stream in streams() {
            raw.send(RST_STREAM, 0, stream, &[0, 0, 0, 8]).await;
        }
        run_ready_tasks().await;
        let ended = tokio::time::timeout(Duration::from_secs(60), served).await;
        assert_eq!(ended.unwrap().unwrap().cause, EndCause::Local);
        assert_eq!(stats.downstream_cx_delayed_close_timeout.value(), 1);
        assert_eq!(stats.downstream_cx_tx_bytes_buffered.value(), 0);
    })
    .await;
}

#[tokio::test]
async fn an_ended_connection_is_closed_even_if_stream_handles_exist() {
    on_worker(|timers| async move {
        let (client, mut raw, driven) = raw_server(&timers).await;
        let mut exchange = client.send(&request("/"), Body::Empty).unwrap();
        raw.send(HEADERS, END_HEADERS, 1, &[0x88]).await;
        raw.send(DATA, END_STREAM, 1, b"read later").await;
        poll_fn(|cx| exchange.poll_response(cx)).await.unwrap();
        run_ready_tasks().await;
        // DATA on a stream that was never opened.
        raw.send(DATA, 0, 77, b"x").await;
        driven.await.unwrap();
        let mut last = None;
        let received = async {
            while let Some(frame) = raw.next().await {
                last = Some(frame.kind);
            }
        };
        tokio::time::timeout(Duration::from_secs(5), received)
            .await
            .unwrap();
        assert_eq!(last, Some(GOAWAY));
        let mut body = exchange.into_body();
        let frame = body.frame().await.unwrap().unwrap();
        assert!(format!("{frame:?}").contains("read later"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_endless_head_is_answered_after_the_timeout() {
    on_worker(|timers| async move {
        let mut options = server_options(&timers);
        options.request_headers_timeout = Some(Duration::from_secs(2));
        let (mut raw, script, served) = raw_client(options).await;
        raw.send(HEADERS, 0, 1, &head("/", &[])).await;
        run_ready_tasks().await;
        assert!(script.malformed.borrow().is_empty());
        let frames = [HEADERS, DATA, RST_STREAM].map(Some);
        for kind in frames {
            let frame = raw.next().await;
            assert_eq!(frame.as_ref().map(|frame| frame.kind), kind);
            assert_eq!(frame.unwrap().stream, 1);
        }
        assert_eq!(
            script.malformed.borrow()[0].details,
            "request_header_timeout"
        );
        // A CONTINUATION frame that comes too late. The connection stays open.
        raw.send(9, END_HEADERS, 1, &[]).await;
        raw.send(HEADERS, END_HEADERS | END_STREAM, 3, &head("/", &[]))
            .await;
        assert_eq!(raw.next().await.unwrap().stream, 3);
        assert_eq!(raw.next().await.unwrap().kind, DATA);
        // Any other frame is a protocol error, even after the response.
        raw.send(HEADERS, 0, 5, &head("/", &[])).await;
        for kind in frames {
            assert_eq!(raw.next().await.map(|frame| frame.kind), kind);
        }
        raw.send(DATA, 0, 5, &[]).await;
        assert_eq!(raw.next().await.unwrap().kind, GOAWAY);
        drop(raw);
        let cause = served.await.unwrap().cause;
        assert!(cause.is_protocol_error(), "{cause:?}");
        assert!(script.refusals.borrow().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_slow_head_within_the_timeout_is_served() {
    on_worker(|timers| async move {
        let mut options = server_options(&timers);
        options.request_headers_timeout = Some(Duration::from_millis(1));
        let (mut raw, script, _served) = raw_client(options).await;
        for stream in [1, 3] {
            raw.send(HEADERS, END_STREAM, stream, &head("/", &[])).await;
            raw.send(9, END_HEADERS, stream, &[]).await;
            assert_eq!(raw.next().await.unwrap().kind, HEADERS);
            assert_eq!(raw.next().await.unwrap().kind, DATA);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(script.malformed.borrow().is_empty());
    })
    .await;
}

#[tokio::test]
async fn an_incomplete_request_is_counted_whichever_read_it_arrives_in() {
    on_worker(|timers| async move {
        for at_once in [true, false] {
            let (mut socket, script, served) = serve(server_options(&timers));
            let settings = [0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];
            // An index that does not exist in the table.
            let request = [0, 0, 1, HEADERS, END_HEADERS, 0, 0, 0, 1, 0xfe];
            if at_once {
                let all = [PREFACE, &settings, &request].concat();
                socket.write_all(&all).await.unwrap();
            } else {
                socket
                    .write_all(&[PREFACE, &settings].concat())
                    .await
                    .unwrap();
                run_ready_tasks().await;
                socket.write_all(&request).await.unwrap();
            }
            run_ready_tasks().await;
            assert_eq!(script.refusals.borrow().len(), 1);
            drop(socket);
            assert_eq!(served.await.unwrap().active_streams, 1);
        }
    })
    .await;
}

#[tokio::test]
async fn no_frame_follows_the_last_goaway() {
    on_worker(|timers| async move {
        let mut options = server_options(&timers);
        options.http2.initial_connection_window_size = 65_535;
        let (mut raw, script, _served) = raw_client(options).await;
        raw.send(HEADERS, END_HEADERS, 1, &head("/hang", &[])).await;
        for _ in 0..3 {
            raw.send(DATA, 0, 1, &[0; 16_000]).await;
        }
        raw.send(DATA, 0, 77, b"x").await;
        let mut last = None;
        while let Some(frame) = {
            run_ready_tasks().await;
            let received = tokio::time::timeout(Duration::from_millis(20), raw.any()).await;
            received.ok().flatten()
        } {
            last = Some(frame.kind);
        }
        assert_eq!(last, Some(GOAWAY));
        assert!(matches!(
            script.resets.borrow()[..],
            [StreamError::ProtocolError(_)]
        ));
    })
    .await;
}

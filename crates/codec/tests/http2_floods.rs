//! Tests of HTTP/2 with clients that send what costs them little and the server much. Each such attack ends at a bound,
//! and takes no time from other connections.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use outrider_codec::StreamError;
use support::on_worker;
use support::raw::ACK;
use support::raw::DATA;
use support::raw::END_HEADERS;
use support::raw::END_STREAM;
use support::raw::GOAWAY;
use support::raw::HEADERS;
use support::raw::PING;
use support::raw::RST_STREAM;
use support::raw::SETTINGS;
use support::raw::WINDOW_UPDATE;
use support::raw::frame;
use support::raw::head;
use support::raw::raw_client;
use support::run_ready_tasks;
use support::server_options;
use tokio::io::AsyncWriteExt;
use tokio::task::spawn_local;

const ENHANCE_YOUR_CALM: [u8; 4] = [0, 0, 0, 11];
const REQUEST: u8 = END_HEADERS | END_STREAM;

/// Frames that open streams, each of which makes the server reset it.
fn streams_to_reset(count: u32, broken: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..count)
        .flat_map(|number| broken(2 * number + 1))
        .collect()
}

#[tokio::test]
async fn resets_that_the_client_causes_are_limited() {
    let open = |stream, fields: &[_]| frame(HEADERS, END_HEADERS, stream, &head("/hang", fields));
    let too_large = |stream| {
        let update = frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]);
        [open(stream, &[]), update].concat()
    };
    let zero = |stream| [open(stream, &[]), frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat();
    let too_long = |stream| {
        let data = frame(DATA, 0, stream, b"x");
        [open(stream, &[("content-length", "0")]), data].concat()
    };
    let after_end = |stream| {
        let ended = frame(HEADERS, REQUEST, stream, &head("/hang", &[]));
        [ended, frame(DATA, 0, stream, b"x")].concat()
    };
    let too_many = |stream| frame(HEADERS, REQUEST, stream, &head("/", &[("a", "b"); 101]));
    let self_dependent = |stream| {
        let priority = frame(2, 0, stream, &[&stream.to_be_bytes()[..], &[1]].concat());
        [open(stream, &[]), priority].concat()
    };
    let attacks: [(&str, Vec<u8>); 6] = [
        ("window overflow", streams_to_reset(1200, too_large)),
        ("increment of zero", streams_to_reset(1200, zero)),
        (
            "body beyond content-length",
            streams_to_reset(1200, too_long),
        ),
        ("DATA after the end", streams_to_reset(1200, after_end)),
        ("too many fields", streams_to_reset(1200, too_many)),
        (
            "dependency on itself",
            streams_to_reset(1200, self_dependent),
        ),
    ];
    on_worker(|timers| async move {
        for (what, frames) in attacks {
            let mut options = server_options(&timers);
            options
                .http2
                .max_inbound_window_update_frames_per_data_frame_sent = 1000;
            options.http2.stream_reset_rate = 0;
            let (mut raw, _, served) = raw_client(options).await;
            let answers = raw.exchange(&frames, |_| false).await;
            let resets = answers.iter().filter(|answer| answer.kind == RST_STREAM);
            assert!((900..=1001).contains(&resets.count()), "{what}");
            let last = answers.last().unwrap();
            assert_eq!(
                (last.kind, &last.payload[4..]),
                (GOAWAY, &ENHANCE_YOUR_CALM[..]),
                "{what}"
            );
            drop(raw);
            assert!(served.await.unwrap().cause.is_protocol_error());
        }
    })
    .await;
}

#[tokio::test]
async fn useless_frames_are_limited() {
    // Stream 1 is open, stream 3 was reset by the server.
    let start = [
        frame(HEADERS, END_HEADERS, 1, &head("/hang", &[])),
        frame(
            HEADERS,
            END_HEADERS,
            3,
            &head("/hang", &[("content-length", "0")]),
        ),
        frame(DATA, 0, 3, b"x"),
    ]
    .concat();
    let attacks = [
        ("an unknown type", frame(77, 0, 0, &[])),
        ("PING acknowledgements", frame(PING, ACK, 0, &[0; 8])),
        ("GOAWAY", frame(GOAWAY, 0, 0, &[0; 8])),
        ("DATA with one byte", frame(DATA, 0, 1, b"x")),
        (
            "DATA of which all but one byte is padding",
            frame(DATA, 8, 1, b"\x07x\0\0\0\0\0\0\0"),
        ),
        ("DATA on a closed stream", frame(DATA, 0, 3, b"12345")),
        (
            "HEADERS on a closed stream",
            frame(HEADERS, REQUEST, 3, &[0x82]),
        ),
        (
            "one and no byte in turn",
            [frame(DATA, 0, 1, b"x"), frame(DATA, 0, 1, b"")].concat(),
        ),
    ];
    on_worker(|timers| async move {
        for (what, attack) in attacks {
            let (mut raw, script, _served) = raw_client(server_options(&timers)).await;
            let frames = [start.clone(), attack.repeat(40_000)].concat();
            let answers = raw.exchange(&frames, |_| false).await;
            let last = answers.last().unwrap();
            assert_eq!(
                (last.kind, &last.payload[4..]),
                (GOAWAY, &ENHANCE_YOUR_CALM[..]),
                "{what}"
            );
            run_ready_tasks().await;
            assert!(
                script
                    .resets
                    .borrow()
                    .iter()
                    .all(|error| matches!(error, StreamError::ProtocolError(_)))
            );
        }
    })
    .await;
}

#[tokio::test]
async fn what_brings_something_is_no_flood() {
    on_worker(|timers| async move {
        let (mut raw, _, _served) = raw_client(server_options(&timers)).await;
        let mut frames = frame(HEADERS, END_HEADERS, 1, &head("/hang", &[]));
        for _ in 0..5_000 {
            frames.extend(frame(DATA, 0, 1, b"hello"));
            frames.extend(frame(PING, ACK, 0, &[0; 8]).repeat(8));
        }
        frames.extend(frame(PING, 0, 0, b"the last"));
        let answers = raw.exchange(&frames, |answer| answer.kind == PING).await;
        assert_eq!(answers.last().unwrap().payload, b"the last");
    })
    .await;
}

#[tokio::test]
async fn a_turn_starts_a_bounded_number_of_requests() {
    on_worker(|timers| async move {
        let options = server_options(&timers);
        let active = options.http2_stats.clone();
        let (mut raw, script, _served) = raw_client(options).await;
        // Each stream ends as soon as its task runs; what has not run yet is counted as active.
        let open = |stream| {
            let ended = frame(HEADERS, REQUEST, stream, &head("/hang", &[]));
            [ended, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
        };
        raw.0.write_all(&streams_to_reset(900, open)).await.unwrap();
        let mut most = 0;
        while script.resets.borrow().len() < 900 {
            most = most.max(active.streams_active.value());
            tokio::task::yield_now().await;
        }
        assert!((1..=2 * 64).contains(&most), "{most}");
    })
    .await;
}

#[tokio::test]
async fn only_the_last_value_of_a_setting_is_applied() {
    on_worker(|timers| async move {
        let (mut raw, _, _served) = raw_client(server_options(&timers)).await;
        raw.send(HEADERS, END_HEADERS, 1, &head("/hang", &[])).await;
        raw.send(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]).await;
        // With the first value the stream's window would be too large.
        let mut values = [[0, 4, 0x7f, 0xff, 0xff, 0xff], [0, 4, 0, 0, 0, 9]]
            .concat()
            .repeat(1_000);
        raw.send(SETTINGS, 0, 0, &values).await;
        raw.send(HEADERS, REQUEST, 3, &head("/large", &[])).await;
        assert_eq!(raw.next().await.unwrap().kind, HEADERS);
        let data = raw.next().await.unwrap();
        assert_eq!((data.kind, data.payload.len()), (DATA, 9));
        // Another stream's window is above the limit only together with the last value.
        values.truncate(6);
        raw.send(SETTINGS, 0, 0, &values).await;
        let reset = loop {
            let frame = raw.next().await.unwrap();
            if frame.kind == RST_STREAM {
                break frame;
            }
        };
        assert_eq!((reset.stream, reset.payload), (1, vec![0, 0, 0, 3]));
    })
    .await;
}

#[tokio::test]
async fn a_turn_of_one_connection_is_bounded() {
    on_worker(|timers| async move {
        // Its frames bring something, so that it is never ended.
        let flood = server_options(&timers);
        let received = flood.stats.clone();
        let (raw, _, _served) = raw_client(flood).await;
        let (mut reader, mut writer) = raw.0.into_split();
        spawn_local(async move { while support::raw::read_frame(&mut reader).await.is_some() {} });
        spawn_local(async move {
            let open = frame(HEADERS, END_HEADERS, 1, &head("/echo", &[]));
            writer.write_all(&open).await.unwrap();
            let data = frame(DATA, 0, 1, b"12345").repeat(10_000);
            while writer.write_all(&data).await.is_ok() {}
        });
        run_ready_tasks().await;
        let (mut other, _, _other_served) = raw_client(server_options(&timers)).await;
        let before = received.downstream_cx_rx_bytes_total.value();
        for stream in [1, 3, 5, 7, 9] {
            other.send(HEADERS, REQUEST, stream, &head("/", &[])).await;
            assert_eq!(other.next().await.unwrap().kind, HEADERS);
            assert_eq!(other.next().await.unwrap().kind, DATA);
        }
        let meanwhile = received.downstream_cx_rx_bytes_total.value() - before;
        assert!(meanwhile < 5 * 16 * 64 * 1024, "{meanwhile} bytes");
    })
    .await;
}

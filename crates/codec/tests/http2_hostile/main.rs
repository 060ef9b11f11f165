//! Tests HTTP/2 against hostile and broken peers: seeded random sequences of frames, some of them mutated or truncated.
//!
//! Checks that nothing panics, queues stay small, flow control is obeyed and credit returned, every stream ends with
//! its connection, and gauges return to zero. The environment variables `HOSTILE_SEED` and `HOSTILE_ROUNDS` choose
//! other seeds and more rounds.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod frames;
mod random_peer;
mod received;
#[path = "../support/mod.rs"]
mod support;

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fastrand::Rng;
use http::Method;
use outrider_codec::Http2Options;
use outrider_codec::stats::ConnectionStats;
use outrider_codec::stats::Http2Stats;
use outrider_net::Timers;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::task::spawn_local;

use frames::HostileFrames;
use frames::MessagePart;
use random_peer::RandomPeer;
use received::ReceivedFrames;
use support::client_options;
use support::on_worker;
use support::request;
use support::server_options;
use support::sockets;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The maximum number of bytes queued for a peer that does not read: twice the high watermark, plus control frames and
/// heads.
const MAX_QUEUED: i64 = 512 * 1024;
/// The maximum time to wait for other tasks.
const MAX_WAIT: Duration = Duration::from_secs(20);

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Counts panics, because those in detached tasks would go unnoticed.
fn count_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        usual(info);
    }));
}

fn environment(name: &str, otherwise: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(otherwise, |value| value.parse().unwrap())
}

/// Runs `round` with consecutive seeds.
async fn rounds<F: Future<Output = ()>>(usual: u64, round: impl Fn(Rng, Timers) -> F) {
    count_panics();
    let first = environment("HOSTILE_SEED", 1);
    let count = environment("HOSTILE_ROUNDS", usual);
    on_worker(|timers| async move {
        for seed in first..first + count {
            let ended = tokio::time::timeout(MAX_WAIT, round(Rng::with_seed(seed), timers.clone()));
            assert!(ended.await.is_ok(), "seed {seed} does not end");
            let panics = PANICS.load(Ordering::Relaxed);
            assert_eq!(panics, 0, "seed {seed} panics");
        }
    })
    .await;
}

/// Writes `bytes` in pieces. Returns false if the peer no longer reads.
async fn write(socket: &mut UnixStream, mut bytes: Vec<u8>, rng: &mut Rng) -> bool {
    while !bytes.is_empty() {
        let cut = rng.usize(1..=bytes.len());
        let piece: Vec<u8> = bytes.drain(..cut).collect();
        let written = tokio::time::timeout(Duration::from_millis(20), socket.write_all(&piece));
        if !matches!(written.await, Ok(Ok(()))) {
            return false;
        }
        for _ in 0..rng.u8(..4) {
            tokio::task::yield_now().await;
        }
    }
    true
}

/// Sends random frames to `socket`, and reads the responses or does not. If the connection survives, resets all streams
/// and checks that the codec has returned the credit of its `window`.
async fn send_random_frames(
    mut socket: UnixStream,
    mut frames: HostileFrames,
    window: u64,
    stats: &ConnectionStats,
    running: &Cell<usize>,
) {
    let hears = frames.rng.u8(..3) > 0;
    let mut received = ReceivedFrames::default();
    for _ in 0..frames.rng.usize(1..60) {
        for _ in 0..=frames.rng.u8(..8) {
            frames.next();
        }
        if frames.breaks_rules() {
            frames.mutate();
        }
        let bytes = std::mem::take(&mut frames.out);
        if !write(&mut socket, bytes, &mut frames.rng).await {
            return;
        }
        let waiting = stats.downstream_cx_tx_bytes_buffered.value();
        assert!(waiting < MAX_QUEUED, "{waiting} bytes wait");
        if hears && !received.read(&socket) {
            return;
        }
    }
    if frames.invalid_per_mille > 0 || frames.rng.u8(..4) == 0 {
        return;
    }
    for stream in (1..frames.next).step_by(2) {
        frames.push(3, 0, stream, &[0, 0, 0, 8]);
    }
    let bytes = std::mem::take(&mut frames.out);
    let written = write(&mut socket, bytes, &mut frames.rng).await;
    if written && received.read_all(&socket, running).await {
        received.check(&frames, window);
    }
}

fn options(rng: &mut Rng) -> Http2Options {
    Http2Options {
        max_concurrent_streams: rng.u32(1..200).max(rng.u32(1..500)),
        initial_stream_window_size: 65_535 + rng.u32(..100_000),
        initial_connection_window_size: 65_535 + rng.u32(..100_000),
        hpack_table_size: 4096 * rng.u32(1..3),
        stream_error_on_invalid_message: rng.u8(..4) > 0,
        max_consecutive_inbound_frames_with_empty_payload: 100,
        max_inbound_window_update_frames_per_data_frame_sent: 1000,
        ..Http2Options::default()
    }
}

/// Lets tasks run until `count` is zero.
async fn until_zero(what: &str, count: impl Fn() -> i64) {
    for _ in 0..1000 {
        if count() == 0 {
            return;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(count(), 0, "{what} when the connection has ended");
}

async fn check_gauges(random_peer: &RandomPeer, http2: &Http2Stats, connection: &ConnectionStats) {
    until_zero("tasks that run", || {
        i64::try_from(random_peer.running.get()).unwrap()
    })
    .await;
    until_zero("streams_active", || http2.streams_active.value()).await;
    until_zero("outbound_frames_active", || {
        http2.outbound_frames_active.value()
    })
    .await;
    until_zero("outbound_control_frames_active", || {
        http2.outbound_control_frames_active.value()
    })
    .await;
    until_zero("bytes that wait", || {
        connection.downstream_cx_tx_bytes_buffered.value()
    })
    .await;
}

async fn attack_server(mut rng: Rng, timers: Timers) {
    let mut server = server_options(&timers);
    server.http2 = options(&mut rng);
    server.max_request_headers_kb = 1;
    server.delayed_close_timeout = None;
    let window = server.http2.initial_connection_window_size.into();
    let (stats, http2) = (server.stats.clone(), server.http2_stats.clone());
    let (ours, theirs) = sockets();
    let random_peer = Rc::new(RandomPeer::new(&mut rng));
    let served = outrider_codec::serve(ours, Rc::new(server), random_peer.clone());
    let served = spawn_local(served);
    let mut frames = HostileFrames::new(rng, true);
    frames.out.extend_from_slice(PREFACE);
    frames.push(4, 0, 0, &[]);
    if frames.rng.bool() {
        frames.push(4, 1, 0, &[]);
    }
    send_random_frames(theirs, frames, window, &stats, &random_peer.running).await;
    served.await.unwrap();
    check_gauges(&random_peer, &http2, &stats).await;
}

async fn attack_client(mut rng: Rng, timers: Timers) {
    let mut client = client_options(&timers);
    let stats = Arc::new(ConnectionStats::default());
    client.bytes = stats.clone();
    client.http2 = options(&mut rng);
    client.max_response_headers_kb = Some(1);
    let window = client.http2.initial_connection_window_size.into();
    let http2 = client.http2_stats.clone();
    let (ours, theirs) = sockets();
    let (client, run) = outrider_codec::connect_http2(ours, Rc::new(client), Rc::new(|| {}));
    let driven = spawn_local(run);
    let random_peer = RandomPeer::new(&mut rng);
    let mut opened = 0;
    for _ in 0..rng.u8(1..20) {
        let mut head = request("/");
        if rng.u8(..6) == 0 {
            head.method = Method::HEAD;
        }
        if let Ok(exchange) = client.send(&head, random_peer.body()) {
            opened += 1;
            spawn_local(random_peer.clone().exchange(exchange));
        }
    }
    let mut frames = HostileFrames::new(rng, false);
    frames.next = 1 + 2 * opened;
    frames.open = (0..opened)
        .map(|i| (1 + 2 * i, MessagePart::Head))
        .collect();
    frames.push(4, 0, 0, &[]);
    send_random_frames(theirs, frames, window, &stats, &random_peer.running).await;
    driven.await.unwrap();
    until_zero("active streams", || i64::try_from(client.active()).unwrap()).await;
    drop(client);
    check_gauges(&random_peer, &http2, &stats).await;
}

#[tokio::test]
async fn hostile_clients_cause_no_harm() {
    rounds(150, attack_server).await;
}

#[tokio::test]
async fn hostile_servers_cause_no_harm() {
    rounds(150, attack_client).await;
}

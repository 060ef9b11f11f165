//! The task of one connection: establishes it, drives it, closes it in time, and updates its counts.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::rc::Weak;
use std::task::Context;
use std::task::Poll;

use http::Version;
use outrider_codec::Client;
use outrider_codec::ConnectionEnd;
use outrider_codec::EndCause;
use outrider_codec::connect_http1;
use outrider_codec::connect_http2;
use outrider_net::NetworkStream;
use outrider_net::Timer;
use tokio::sync::Notify;

use super::Pool;
use super::PoolCx;
use super::PoolFailure;
use super::PoolProtocol;
use super::connect;
use super::connect::Connected;
use super::connection::PoolConnection;
use super::connection::UpstreamConnectionInfo;
use super::counts::ConnectionCounts;
use crate::Permit;
use crate::connection_names::ConnectionNames;
use crate::transport::PoolTls;

/// A connection that is being established.
#[derive(Debug, Default)]
pub(super) struct ConnectAttempt {
    cancelled: Notify,
}

impl ConnectAttempt {
    /// Cancels the attempt.
    pub(super) fn cancel(&self) {
        self.cancelled.notify_one();
    }
}

/// Starts the task. It ends with the connection, which is closed when its pool is dropped, at the latest.
pub(super) fn spawn(pool: &Pool, attempt: Rc<ConnectAttempt>, permit: Permit) {
    let counts = ConnectionCounts::new(pool.cx().clone(), pool.host().clone(), permit);
    // Also for a connection that will fail: the codec's stats are listed from the first attempt on.
    match pool.protocol() {
        PoolProtocol::Http1 => count_protocol(&counts.cx, false),
        PoolProtocol::Http2 => count_protocol(&counts.cx, true),
        PoolProtocol::Negotiated => {}
    }
    drop(tokio::task::spawn_local(run(
        pool.this(),
        counts,
        attempt,
        (pool.tls().cloned(), pool.names().cloned()),
        pool.protocol(),
    )));
}

async fn run(
    pool: Weak<Pool>,
    counts: ConnectionCounts,
    attempt: Rc<ConnectAttempt>,
    (tls, names): (Option<Rc<PoolTls>>, Option<Rc<ConnectionNames>>),
    protocol: PoolProtocol,
) {
    let with = (tls.as_deref(), names.as_deref());
    let made = make(&counts, &attempt, with, protocol).await;
    drop((tls, names));
    let (connected, client, driver) = match made {
        Ok(made) => made,
        Err(failure) => {
            counts.end_unmade(&failure);
            if let Some(pool) = pool.upgrade() {
                pool.on_connect_failed(&attempt, &failure);
            }
            return;
        }
    };
    let connect_time = counts.started.elapsed();
    let stats = &counts.cx.stats;
    stats
        .upstream_cx_connect_ms
        .record(u64::try_from(connect_time.as_millis()).unwrap_or(u64::MAX));
    let info = UpstreamConnectionInfo {
        id: counts.cx.connection_id(),
        local: connected.local,
        remote: connected.remote,
        protocol: client.protocol(),
        connect_time,
        tls: connected.tls,
    };
    let connection = PoolConnection::new(counts.cx.clone(), client, info);
    match pool.upgrade() {
        Some(pool) => pool.on_connected(&attempt, &connection),
        None => connection.close(),
    }
    let end = drive(&pool, &counts, &connection, driver).await;
    end_connection(&counts, &connection, &end);
    connection.close();
    if let Some(pool) = pool.upgrade() {
        pool.on_closed(&connection);
    }
}

/// The codec's future, which drives the connection.
type CodecFuture = Pin<Box<dyn Future<Output = ConnectionEnd>>>;

/// Connects within `connect_timeout`.
async fn make(
    counts: &ConnectionCounts,
    attempt: &ConnectAttempt,
    (tls, names): (Option<&PoolTls>, Option<&ConnectionNames>),
    protocol: PoolProtocol,
) -> Result<(Connected, Client, CodecFuture), PoolFailure> {
    let cx = &counts.cx;
    let connected = tokio::select! {
        biased;
        connected = connect::connect(&counts.host, cx, tls, (Some(protocol), names)) => connected?,
        () = attempt.cancelled.notified() => {
            return Err(PoolFailure::LocalConnectionFailure("".into()));
        }
        () = cx.worker.timers.sleep(cx.info.connect_timeout) => {
            cx.stats.upstream_cx_connect_timeout.inc();
            return Err(PoolFailure::Timeout);
        }
    };
    let (connected, socket) = connected;
    let http2 = match protocol {
        PoolProtocol::Http1 => false,
        PoolProtocol::Http2 => true,
        PoolProtocol::Negotiated => {
            let http2 = connected.tls.as_ref().is_some_and(|tls| tls.alpn == b"h2");
            count_protocol(cx, http2);
            http2
        }
    };
    let (client, driver) = speak(socket, cx, http2);
    Ok((connected, client, driver))
}

/// Starts the codec on a connected socket.
fn speak(socket: NetworkStream, cx: &PoolCx, http2: bool) -> (Client, CodecFuture) {
    let options = cx.client_options(http2).clone();
    // State changes only while this task polls the driver or while a request releases its stream. The pool checks the
    // codec after both.
    let on_change = Rc::new(|| ());
    if !http2 {
        let (client, driver) = connect_http1(socket, options, on_change);
        return (client, Box::pin(driver));
    }
    let (client, driver) = connect_http2(socket, options, on_change);
    (client, Box::pin(driver))
}

/// Drives the connection until it ends.
async fn drive(
    pool: &Weak<Pool>,
    counts: &ConnectionCounts,
    connection: &Rc<PoolConnection>,
    mut driver: CodecFuture,
) -> ConnectionEnd {
    let mut connection_timers = ConnectionTimers::new(counts);
    let mut noticed = false;
    poll_fn(|cx| {
        if let Poll::Ready(end) = driver.as_mut().poll(cx) {
            return Poll::Ready(end);
        }
        connection_timers.poll(counts, connection, cx);
        if connection.poll_closed(cx).is_ready() {
            return Poll::Ready(ConnectionEnd {
                cause: EndCause::Local,
                active_streams: connection.active(),
            });
        }
        let draining = connection.client.is_draining();
        if draining && connection.is_open() {
            counts.cx.stats.upstream_cx_close_notify.inc();
            connection.drain();
        }
        let gained = connection.has_place() && !connection.in_ready.get();
        let changed = gained || draining != noticed;
        noticed = draining;
        if changed && let Some(pool) = pool.upgrade() {
            pool.on_change(connection);
        }
        Poll::Pending
    })
    .await
}

/// The timers that end a connection: its maximum idle time and its maximum age.
struct ConnectionTimers {
    idle: Timer,
    age: Timer,
}

impl ConnectionTimers {
    fn new(counts: &ConnectionCounts) -> ConnectionTimers {
        let timers = &counts.cx.worker.timers;
        let options = &counts.cx.info.http;
        let (mut idle, mut age) = (timers.timer(), timers.timer());
        idle.set(options.idle_timeout.map(|limit| timers.now() + limit));
        let jitter = options.max_connection_duration_jitter / 100.0 * fastrand::f64();
        let oldest = options.max_connection_duration;
        age.set(oldest.map(|limit| timers.now() + limit + limit.mul_f64(jitter)));
        ConnectionTimers { idle, age }
    }

    /// Closes or drains the connection when its time has come. Requests do not move the idle timer. When it fires, it
    /// is set again to the time at which the connection will have been idle for long enough.
    fn poll(
        &mut self,
        counts: &ConnectionCounts,
        connection: &PoolConnection,
        cx: &mut Context<'_>,
    ) {
        let stats = &counts.cx.stats;
        while self.idle.poll_elapsed(cx).is_ready() {
            let now = counts.cx.worker.timers.now();
            match connection.idle_deadline(now) {
                Some(deadline) if deadline > now => self.idle.set(Some(deadline)),
                _ => {
                    self.idle.set(None);
                    stats.upstream_cx_idle_timeout.inc();
                    connection.close();
                }
            }
        }
        while self.age.poll_elapsed(cx).is_ready() {
            self.age.set(None);
            stats.upstream_cx_max_duration_reached.inc();
            connection.drain();
            if connection.is_finished() {
                connection.close();
            }
        }
    }
}

/// Counts a connection by its protocol.
fn count_protocol(cx: &PoolCx, http2: bool) {
    let codec = cx.client_options(http2);
    if http2 {
        codec.http2_stats.nghttp2_upstream_connections.inc();
        cx.stats.upstream_cx_http2_total.inc();
    } else {
        cx.stats.upstream_cx_http1_total.inc();
    }
}

/// Counts the end of an established connection.
fn end_connection(counts: &ConnectionCounts, connection: &PoolConnection, end: &ConnectionEnd) {
    let stats = &counts.cx.stats;
    stats.upstream_rq_per_cx.record(connection.requests());
    // The peer announced it by `connection: close` or GOAWAY; this side did not ask for the end.
    if connection.is_open() && end.cause == EndCause::Local && end.active_streams == 0 {
        stats.upstream_cx_close_notify.inc();
    }
    if end.cause.is_protocol_error() {
        stats.upstream_cx_protocol_error.inc();
    }
    count_cut_off(counts, connection, end);
    counts.destroyed(end.cause.is_local());
}

/// Counts the requests that were cut off.
fn count_cut_off(counts: &ConnectionCounts, connection: &PoolConnection, end: &ConnectionEnd) {
    if end.active_streams == 0 {
        return;
    }
    if connection.info.protocol == Version::HTTP_2 {
        if matches!(end.cause, EndCause::ProtocolError(_)) {
            // Envoy resets the streams first and then closes a connection without streams.
            return;
        }
        let stats = &counts.cx.stats;
        stats
            .upstream_rq_pending_failure_eject
            .add(end.active_streams as u64);
    }
    counts.destroyed_with_requests(end.cause.is_local());
}

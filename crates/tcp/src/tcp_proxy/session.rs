//! One connection of a TCP proxy: what is known about it, and its course.

use std::cell::Cell;
use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::SystemTime;

use outrider_config::api::envoy::data::accesslog::v3::AccessLogType;
use outrider_http::ResponseFlag;
use outrider_http::ResponseFlags;
use outrider_http::Stream;
use outrider_http::UpstreamInfo;
use outrider_http::access_log::LoggedConnection;
use outrider_net::AcceptedConnection;
use outrider_net::ConnectionActivity;
use outrider_net::DownstreamConnectionInfo;
use outrider_net::clock;
use tokio::time::Instant;

use super::TcpProxy;
use super::config::ConnectMoment;
use super::connect::ConnectedHost;
use super::relay::Relay;
use super::timers::SessionTimers;

/// What is known about a connection. Dropping it logs the connection.
pub(super) struct Session {
    pub(super) proxy: Rc<TcpProxy>,
    pub(super) connection: RefCell<Rc<DownstreamConnectionInfo>>,
    /// The cluster that another filter has chosen.
    pub(super) cluster: Option<Rc<str>>,
    id: u64,
    start_time: SystemTime,
    flags: RefCell<ResponseFlags>,
    /// The upstream side, once a cluster was chosen.
    pub(super) upstream: RefCell<Option<Box<UpstreamInfo>>>,
    /// Bytes from the client.
    pub(super) received: Cell<u64>,
    /// Bytes to the client.
    pub(super) sent: Cell<u64>,
    last_activity: Cell<Instant>,
    ended: Cell<Option<Instant>>,
    /// An open connection counts as a request under way.
    _activity: ConnectionActivity,
}

/// The connection has ended, and its session knows why.
#[derive(Debug)]
pub(super) struct Ended;

/// Serves a connection to its end.
pub(super) async fn serve(
    proxy: Rc<TcpProxy>,
    mut connection: AcceptedConnection,
    cluster: Option<Rc<str>>,
) {
    let session = Session::new(proxy, connection.info.clone(), cluster);
    let mut timers = SessionTimers::new(&session);
    if session.proxy.config.log_moments.start {
        session.log(AccessLogType::TcpConnectionStart);
    }
    // Boxed, so that what is only needed to connect is freed afterwards.
    let host = Box::pin(establish(&session, &mut timers, &mut connection)).await;
    let Ok(host) = host else {
        return;
    };
    let relay = Relay::new(connection.stream, host, &session);
    relay.run(session, timers).await;
}

/// Does the TLS handshake with the client, and connects to a host at the moment that the config says.
async fn establish(
    session: &Session,
    timers: &mut SessionTimers,
    connection: &mut AcceptedConnection,
) -> Result<ConnectedHost, Ended> {
    let established = async {
        match session.proxy.config.connect_moment {
            ConnectMoment::Accepted => {
                let both = tokio::try_join!(session.connect(), session.secure(connection));
                both.map(|(host, ())| host)
            }
            ConnectMoment::Handshake => {
                session.secure(connection).await?;
                session.connect().await
            }
            ConnectMoment::FirstBytes => {
                session.secure(connection).await?;
                // The bytes stay in the socket. That it has failed shows when they are read.
                poll_fn(|cx| connection.stream.poll_first_bytes(cx)).await;
                session.proxy.stats.early_data_received_count_total.inc();
                session.connect().await
            }
        }
    };
    tokio::select! {
        biased;
        established = established => established,
        () = poll_fn(|cx| timers.poll(session, cx)) => Err(Ended),
    }
}

impl Session {
    /// A connection that begins now. `cluster` replaces that of the config.
    pub(super) fn new(
        proxy: Rc<TcpProxy>,
        connection: Rc<DownstreamConnectionInfo>,
        cluster: Option<Rc<str>>,
    ) -> Session {
        proxy.stats.downstream_cx_total.inc();
        proxy.stats.downstream_cx_rx_bytes_buffered.mark_used();
        proxy.stats.downstream_cx_tx_bytes_buffered.mark_used();
        let activity = proxy.worker.activity.connection();
        activity.set(true);
        Session {
            cluster,
            id: proxy.worker.random(),
            start_time: clock::wall(),
            connection: RefCell::new(connection),
            flags: RefCell::default(),
            upstream: RefCell::default(),
            received: Cell::new(0),
            sent: Cell::new(0),
            last_activity: Cell::new(clock::now()),
            ended: Cell::new(None),
            _activity: activity,
            proxy,
        }
    }

    /// Does the TLS handshake with the client, if there is TLS.
    async fn secure(&self, connection: &mut AcceptedConnection) -> Result<(), Ended> {
        if connection.is_tls() {
            connection.secure().await.map_err(|_| Ended)?;
            *self.connection.borrow_mut() = connection.info.clone();
        }
        Ok(())
    }

    /// Sets a response flag.
    pub(super) fn flag(&self, flag: ResponseFlag) {
        self.flags.borrow_mut().set(flag);
    }

    /// Changes what is known about the upstream side, if a cluster was chosen.
    pub(super) fn note_upstream(&self, note: impl FnOnce(&mut UpstreamInfo)) {
        if let Some(upstream) = &mut *self.upstream.borrow_mut() {
            note(upstream);
        }
    }

    /// When bytes were last moved.
    pub(super) fn last_activity(&self) -> Instant {
        self.last_activity.get()
    }

    /// Notes that bytes were moved now.
    pub(super) fn touch(&self) {
        self.last_activity.set(clock::now());
    }

    /// Writes the connection to the access logs.
    pub(super) fn log(&self, log_type: AccessLogType) {
        for log in &self.proxy.access_logs {
            log.log(&self.as_stream(log_type));
        }
    }

    /// The connection as a stream without HTTP, for formats.
    pub(super) fn as_stream(&self, log_type: AccessLogType) -> Stream {
        let mut upstream = self.upstream.borrow().as_deref().cloned();
        if let Some(upstream) = &mut upstream {
            // As in Envoy, these are the bytes of the client's side.
            upstream.traffic.wire_received = self.sent.get();
            upstream.traffic.wire_sent = self.received.get();
        }
        LoggedConnection {
            connection: &self.connection.borrow(),
            id: self.id,
            log_type,
            start_time: self.start_time,
            ended: self.ended.get(),
            flags: &self.flags.borrow(),
            received: self.received.get(),
            sent: self.sent.get(),
            upstream,
            runtime: self.proxy.worker.runtime(),
        }
        .stream()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.ended.set(Some(clock::now()));
        self.log(AccessLogType::TcpConnectionEnd);
    }
}

//! Asks one question: tries one server after the other, several times, until one answers.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use hickory_proto::rr::RecordType;
use tokio::time::Instant;

use super::Settings;
use super::cookie::Cookie;
use super::message::Packet;
use super::message::Question;
use super::message::Reply;
use super::servers::Servers;
use super::transport::NameServerConnection;

/// How many times a server may reject the cookie that it sent itself. After that, TCP is used.
const MAX_REJECTED_COOKIES: u32 = 3;

/// Why a name could not be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ResolveErrorKind {
    /// The last server that was asked did not answer in time.
    Timeout,
    /// The last server could not be reached.
    Unreachable(String),
    /// The server answered with an error code.
    Server(ResponseCode),
    /// The reply, or the question, is malformed.
    Malformed(String),
}

/// Why a lookup failed, and how many servers timed out during it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResolveError {
    pub(crate) kind: ResolveErrorKind,
    pub(crate) timeouts: u64,
}

impl From<ResolveErrorKind> for ResolveError {
    fn from(kind: ResolveErrorKind) -> ResolveError {
        ResolveError { kind, timeouts: 0 }
    }
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ResolveErrorKind::Timeout => f.write_str("no server answered in time"),
            ResolveErrorKind::Unreachable(reason) => {
                write!(f, "no server can be reached: {reason}")
            }
            ResolveErrorKind::Server(code) => write!(f, "the server answered: {code}"),
            ResolveErrorKind::Malformed(reason) => f.write_str(reason),
        }
    }
}

/// The servers to ask, and the settings for asking.
#[derive(Debug)]
pub(super) struct NameQuery<'a> {
    pub(super) settings: &'a Settings,
    pub(super) servers: &'a Arc<Servers>,
    /// Set when an answer for the other address family makes this one optional: the current attempt is the last.
    pub(super) last_attempt: &'a AtomicBool,
}

impl NameQuery<'_> {
    /// Returns the first usable answer of a server.
    pub(super) async fn ask(&self, name: Name, kind: RecordType) -> Result<Reply, ResolveError> {
        let NameQuery {
            settings, servers, ..
        } = self;
        let edns = settings.edns.map(u16::try_from).transpose().map_err(|_| {
            let message = "edns0_max_payload_size is more than 65535".to_owned();
            ResolveError::from(ResolveErrorKind::Malformed(message))
        })?;
        let mut question = Question::new(name, kind, edns);
        let max_attempts = servers.addresses().len() as u64 * u64::from(settings.tries);
        let mut tcp = settings.tcp_only;
        let (mut attempts, mut timeouts) = (0, 0);
        let mut connection: Option<(usize, NameServerConnection)> = None;
        let mut same_server = None;
        let mut rejected_cookies = 0;
        loop {
            let server = same_server.take().unwrap_or_else(|| servers.choose());
            connection =
                connection.filter(|(of, connection)| *of == server && connection.is_tcp() == tcp);
            let limit = servers.timeout(server, settings.timeout, attempts);
            if attempts == 0 {
                self.probe(server, &question);
            }
            let started = Instant::now();
            let exchange = exchange(servers, (server, tcp), &mut connection, &question);
            let error = match tokio::time::timeout(limit, exchange).await {
                Err(_) => {
                    timeouts += 1;
                    ResolveErrorKind::Timeout
                }
                Ok(Err(error)) => {
                    connection = None;
                    error
                }
                Ok(Ok((reply, with_cookie))) => match reply.code {
                    // The server does not support EDNS, or cookies.
                    ResponseCode::FormErr
                        if question.edns.is_some() && (with_cookie || !reply.edns) =>
                    {
                        question.edns = None;
                        same_server = Some(server);
                        continue;
                    }
                    ResponseCode::BADCOOKIE if with_cookie => {
                        rejected_cookies += 1;
                        // The server's new cookie is known now. If it rejects that, too, TCP is used.
                        tcp = rejected_cookies > MAX_REJECTED_COOKIES;
                        same_server = Some(server);
                        continue;
                    }
                    _ if reply.truncated && !tcp => {
                        tcp = true;
                        continue;
                    }
                    ResponseCode::ServFail | ResponseCode::NotImp | ResponseCode::Refused => {
                        ResolveErrorKind::Server(reply.code)
                    }
                    code => {
                        let timely = matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
                        servers.answered(server, timely.then(|| started.elapsed()));
                        return Ok(*reply);
                    }
                },
            };
            servers.failed(server);
            attempts += 1;
            if attempts >= max_attempts || self.last_attempt.load(Ordering::Relaxed) {
                return Err(ResolveError {
                    kind: error,
                    timeouts,
                });
            }
        }
    }

    /// Occasionally sends a copy of a question to a server that failed, to notice when it recovers.
    fn probe(&self, server: usize, question: &Question) {
        let Some(failed) = self.servers.to_probe(server) else {
            return;
        };
        let (servers, question) = (self.servers.clone(), question.clone());
        let (limit, tcp) = (self.settings.timeout, self.settings.tcp_only);
        tokio::task::spawn_local(async move {
            let mut connection = None;
            let exchange = exchange(&servers, (failed, tcp), &mut connection, &question);
            let reply = tokio::time::timeout(limit, exchange).await;
            let bad = |code| {
                use ResponseCode as Code;
                matches!(code, Code::ServFail | Code::NotImp | Code::Refused)
            };
            let answered = matches!(reply, Ok(Ok((reply, _))) if !bad(reply.code));
            servers.probed(failed, answered);
        });
    }
}

/// Sends a question to `server` and waits for the reply. Uses the connection of an earlier attempt if there is one,
/// whose late reply is accepted, too. Also returns whether the question had a cookie.
async fn exchange(
    servers: &Servers,
    (server, tcp): (usize, bool),
    connection: &mut Option<(usize, NameServerConnection)>,
    question: &Question,
) -> Result<(Box<Reply>, bool), ResolveErrorKind> {
    let unreachable = |error: io::Error| ResolveErrorKind::Unreachable(error.to_string());
    let Some(address) = servers.addresses().get(server) else {
        return Err(ResolveErrorKind::Unreachable(
            "no name server is known".to_owned(),
        ));
    };
    let cookie = match question.edns {
        Some(_) if !tcp => servers.cookie(server, Cookie::for_query).flatten(),
        _ => None,
    };
    let packet = question.encode(cookie.as_deref());
    let packet = packet.map_err(|error| ResolveErrorKind::Malformed(error.to_string()))?;
    let connection = match connection {
        Some((_, connection)) => connection,
        None => {
            let opened = NameServerConnection::open(*address, tcp)
                .await
                .map_err(unreachable)?;
            &mut connection.insert((server, opened)).1
        }
    };
    connection.send(&packet).await.map_err(unreachable)?;
    loop {
        let packet = connection.receive().await.map_err(unreachable)?;
        match question.read(&packet) {
            Packet::Malformed(reason) => return Err(ResolveErrorKind::Malformed(reason)),
            Packet::Other => {}
            Packet::Reply(reply) => {
                let (sent, received) = (cookie.as_deref(), reply.cookie.as_deref());
                let genuine = servers.cookie(server, |cookie| cookie.accept(sent, received));
                if genuine != Some(false) {
                    return Ok((reply, sent.is_some()));
                }
            }
        }
    }
}

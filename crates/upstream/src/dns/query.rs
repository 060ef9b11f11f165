//! One question, asked of one server after the other and round again until one answers.

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
use super::transport::Connection;

/// How often a server may refuse its own cookie before it is asked by TCP.
const COOKIES: u32 = 3;

/// Why a name could not be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The last server asked did not answer in time.
    Timeout,
    /// It could not be reached.
    Unreachable(String),
    /// It said that it cannot answer.
    Server(ResponseCode),
    /// What it said makes no sense, or the question does not.
    Senseless(String),
}

/// A failure, and how many servers did not answer in time on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) why: Failure,
    pub(crate) timeouts: u64,
}

impl From<Failure> for Failed {
    fn from(why: Failure) -> Failed {
        Failed { why, timeouts: 0 }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Failure::Timeout => f.write_str("no server answered in time"),
            Failure::Unreachable(why) => write!(f, "no server can be reached: {why}"),
            Failure::Server(code) => write!(f, "the server answered: {code}"),
            Failure::Senseless(why) => f.write_str(why),
        }
    }
}

/// Who is asked, and how.
#[derive(Debug)]
pub(super) struct Asking<'a> {
    pub(super) settings: &'a Settings,
    pub(super) servers: &'a Arc<Servers>,
    /// Set once an answer of the other kind makes this one dispensable: the attempt under way is the last.
    pub(super) last_attempt: &'a AtomicBool,
}

impl Asking<'_> {
    /// What the first server that can answer says.
    pub(super) async fn ask(&self, name: Name, kind: RecordType) -> Result<Reply, Failed> {
        let Asking {
            settings, servers, ..
        } = self;
        let edns = settings.edns.map(u16::try_from).transpose().map_err(|_| {
            let message = "edns0_max_payload_size is more than 65535".to_owned();
            Failed::from(Failure::Senseless(message))
        })?;
        let mut question = Question::new(name, kind, edns);
        let most = servers.addresses().len() as u64 * u64::from(settings.tries);
        let mut tcp = settings.tcp_only;
        let (mut attempts, mut timeouts) = (0, 0);
        let mut line: Option<(usize, Connection)> = None;
        let mut same = None;
        let mut cookies_refused = 0;
        loop {
            let server = same.take().unwrap_or_else(|| servers.choose());
            line = line.filter(|(of, line)| *of == server && line.is_tcp() == tcp);
            let limit = servers.timeout(server, settings.timeout, attempts);
            if attempts == 0 {
                self.probe(server, &question);
            }
            let started = Instant::now();
            let exchange = exchange(servers, (server, tcp), &mut line, &question);
            let why = match tokio::time::timeout(limit, exchange).await {
                Err(_) => {
                    timeouts += 1;
                    Failure::Timeout
                }
                Ok(Err(why)) => {
                    line = None;
                    why
                }
                Ok(Ok((reply, with_cookie))) => match reply.code {
                    // A server that does not know EDNS, or cookies.
                    ResponseCode::FormErr
                        if question.edns.is_some() && (with_cookie || !reply.edns) =>
                    {
                        question.edns = None;
                        same = Some(server);
                        continue;
                    }
                    ResponseCode::BADCOOKIE if with_cookie => {
                        cookies_refused += 1;
                        // Its new cookie is known now; if it takes that no more than the old one, there is TCP.
                        tcp = cookies_refused > COOKIES;
                        same = Some(server);
                        continue;
                    }
                    _ if reply.truncated && !tcp => {
                        tcp = true;
                        continue;
                    }
                    ResponseCode::ServFail | ResponseCode::NotImp | ResponseCode::Refused => {
                        Failure::Server(reply.code)
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
            if attempts >= most || self.last_attempt.load(Ordering::Relaxed) {
                return Err(Failed { why, timeouts });
            }
        }
    }

    /// Now and then sends a copy of a question to a server that failed, to see whether it answers again.
    fn probe(&self, server: usize, question: &Question) {
        let Some(failed) = self.servers.to_probe(server) else {
            return;
        };
        let (servers, question) = (self.servers.clone(), question.clone());
        let (limit, tcp) = (self.settings.timeout, self.settings.tcp_only);
        tokio::task::spawn_local(async move {
            let mut line = None;
            let exchange = exchange(&servers, (failed, tcp), &mut line, &question);
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

/// Sends a question to `server` and waits for its reply, on the connection of an earlier attempt if there is one: that one's
/// reply is welcome, too. Says whether a cookie went with the question.
async fn exchange(
    servers: &Servers,
    (server, tcp): (usize, bool),
    line: &mut Option<(usize, Connection)>,
    question: &Question,
) -> Result<(Box<Reply>, bool), Failure> {
    let unreachable = |error: io::Error| Failure::Unreachable(error.to_string());
    let Some(address) = servers.addresses().get(server) else {
        return Err(Failure::Unreachable("there is no server".to_owned()));
    };
    let cookie = match question.edns {
        Some(_) if !tcp => servers.cookie(server, Cookie::for_query).flatten(),
        _ => None,
    };
    let packet = question.encode(cookie.as_deref());
    let packet = packet.map_err(|error| Failure::Senseless(error.to_string()))?;
    let connection = match line {
        Some((_, connection)) => connection,
        None => {
            let opened = Connection::open(*address, tcp).await.map_err(unreachable)?;
            &mut line.insert((server, opened)).1
        }
    };
    connection.send(&packet).await.map_err(unreachable)?;
    loop {
        let packet = connection.receive().await.map_err(unreachable)?;
        match question.read(&packet) {
            Packet::Malformed(why) => return Err(Failure::Senseless(why)),
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

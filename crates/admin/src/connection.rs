//! One client of the admin server: HTTP/1.1 requests, one after another.

use std::io;
use std::rc::Rc;
use std::time::Duration;
use std::time::SystemTime;

use outrider_net::Address;
use outrider_net::Stream;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;
use tokio::time::timeout;

use crate::Admin;
use crate::AdminRequest;
use crate::endpoints;
use crate::head;
use crate::head::Framing;
use crate::head::Head;
use crate::head::Refusal;
use crate::request::Request;
use crate::response::Response;
use crate::stats::OpenConnection;

/// Between requests: Envoy's `idle_timeout` default.
const IDLE: Duration = Duration::from_secs(3600);
/// Within one: Envoy's `stream_idle_timeout` default.
const STALLED: Duration = Duration::from_secs(300);
/// Bodies are forms of `/runtime_modify`.
const MAX_BODY: usize = 1024 * 1024;

/// Serves requests until the client, an error or a timeout ends it. `ends` are the local and the remote address.
pub(crate) async fn serve(stream: Stream, ends: [Address; 2], admin: Rc<Admin>) {
    let mut connection = Connection {
        stats: admin.stats.open(),
        stream,
        buffer: Vec::new(),
        ends,
        admin,
    };
    match connection.run().await {
        Ok(End::Remote) => {}
        Ok(End::Local) => connection.stats.closed_locally(),
        Err(error) => log::debug!(target: "admin", "connection ended: {error}"),
    }
}

struct Connection {
    stream: Stream,
    /// What was read and not used.
    buffer: Vec<u8>,
    ends: [Address; 2],
    admin: Rc<Admin>,
    stats: OpenConnection,
}

/// Who ended the connection.
enum End {
    Local,
    Remote,
}

impl Connection {
    async fn run(&mut self) -> io::Result<End> {
        loop {
            let head = match self.read_head().await? {
                Ok(Some(head)) => head,
                Ok(None) => return Ok(End::Remote),
                Err(refusal) => {
                    self.refuse(refusal).await?;
                    return Ok(End::Local);
                }
            };
            let closes = head.closes;
            if self.answer(head).await?.is_break() || closes {
                return Ok(End::Local);
            }
        }
    }

    async fn read_head(&mut self) -> io::Result<Result<Option<Head>, Refusal>> {
        loop {
            match head::take(&mut self.buffer) {
                Ok(None) => {}
                done => return Ok(done),
            }
            if self.read(IDLE).await? == 0 {
                return Ok(Ok(None));
            }
        }
    }

    async fn answer(&mut self, head: Head) -> io::Result<std::ops::ControlFlow<()>> {
        let Head {
            mut request,
            framing,
            closes,
            expects_continue,
        } = head;
        let started = (SystemTime::now(), Instant::now());
        let stats = self.stats.request();
        if expects_continue {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        match self.read_body(framing).await? {
            Ok(body) => request.body = body,
            Err(refusal) => {
                self.refuse(refusal).await?;
                return Ok(std::ops::ControlFlow::Break(()));
            }
        }
        let response = match self.admin.config.allows(&request.target) {
            true => endpoints::answer(&request, &self.admin),
            false => Response::error(
                403,
                format!("request to path {} not allowed", request.target),
            ),
        };
        stats.answered(response.status);
        let status = response.status;
        let quits = response.quits;
        let sent = self.send(&request, response, closes).await?;
        let [local, remote] = self.ends.clone();
        (self.admin.access_log)(&AdminRequest {
            started: started.0,
            duration: started.1.elapsed(),
            method: request.method,
            target: request.target,
            headers: request.headers,
            status,
            received: request.body.len() as u64,
            sent,
            local,
            remote,
        });
        if quits {
            self.admin.control.quit();
        }
        Ok(std::ops::ControlFlow::Continue(()))
    }

    /// Sends `response` piece by piece, as the client takes it, and returns the bytes of its body.
    async fn send(
        &mut self,
        request: &Request,
        response: Response,
        closes: bool,
    ) -> io::Result<u64> {
        let mut bytes = status_line(response.status);
        bytes += &format!(
            "content-type: {}\r\ncache-control: no-cache, max-age=0\r\nx-content-type-options: nosniff\r\n",
            response.content_type
        );
        bytes += &date_and_server();
        if closes {
            bytes += "connection: close\r\n";
        }
        bytes += "transfer-encoding: chunked\r\n\r\n";
        let mut sent = 0;
        if request.method != "HEAD" {
            for piece in response.body.filter(|piece| !piece.is_empty()) {
                bytes += &format!("{:x}\r\n{piece}\r\n", piece.len());
                sent += piece.len() as u64;
                if bytes.len() >= 16 * 1024 {
                    self.write(bytes.as_bytes()).await?;
                    bytes.clear();
                    // Others on the main thread must not wait for all of a large answer.
                    tokio::task::yield_now().await;
                }
            }
            bytes += "0\r\n\r\n";
        }
        self.write(bytes.as_bytes()).await?;
        Ok(sent)
    }

    /// Answers what is no request for an endpoint; the connection closes after it.
    async fn refuse(&mut self, refusal: Refusal) -> io::Result<()> {
        self.stats.request().answered(refusal.status);
        let Refusal { status, body } = refusal;
        let length = format!("content-length: {}\r\n", body.len());
        let tail = format!("{}connection: close\r\n", date_and_server());
        let line = status_line(status);
        let answer = match body {
            "" => format!("{line}{tail}{length}\r\n"),
            _ => format!("{line}{length}content-type: text/plain\r\n{tail}\r\n{body}"),
        };
        self.write(answer.as_bytes()).await
    }

    async fn read_body(&mut self, framing: Framing) -> io::Result<Result<Vec<u8>, Refusal>> {
        const TOO_LARGE: Refusal = Refusal {
            status: 413,
            body: "Payload Too Large",
        };
        match framing {
            Framing::Length(length) if length > MAX_BODY => Ok(Err(TOO_LARGE)),
            Framing::Length(length) => Ok(Ok(self.take(length).await?)),
            Framing::Chunked => {
                let mut body = Vec::new();
                loop {
                    let size = self.take_line().await?;
                    let digits = size.split(';').next().unwrap_or_default().trim();
                    let size = usize::from_str_radix(digits, 16).map_err(io::Error::other)?;
                    if size == 0 {
                        while !self.take_line().await?.is_empty() {}
                        return Ok(Ok(body));
                    }
                    if body.len().saturating_add(size) > MAX_BODY {
                        return Ok(Err(TOO_LARGE));
                    }
                    body.extend(self.take(size).await?);
                    self.take_line().await?;
                }
            }
        }
    }

    async fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            if self.read(STALLED).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// A line of a chunked body, without its end.
    async fn take_line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.take(end + 2).await?;
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.buffer.len() > head::MAX_HEAD || self.read(STALLED).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn read(&mut self, patience: Duration) -> io::Result<usize> {
        let mut bytes = [0; 4096];
        let read = timeout(patience, self.stream.read(&mut bytes)).await??;
        self.buffer.extend_from_slice(&bytes[..read]);
        self.stats.received(read);
        Ok(read)
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(STALLED, self.stream.write_all(bytes)).await??;
        self.stats.sent(bytes.len());
        Ok(())
    }
}

fn date_and_server() -> String {
    let date = httpdate::fmt_http_date(SystemTime::now());
    format!("date: {date}\r\nserver: envoy\r\n")
}

fn status_line(status: u16) -> String {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Payload Too Large",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        _ => "",
    };
    format!("HTTP/1.1 {status} {reason}\r\n")
}

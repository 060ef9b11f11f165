//! SIGTERM and SIGINT lose no request: open requests and those that come meanwhile are served, then the process ends.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::support::Folder;
use crate::support::Server;
use crate::support::request;

/// A proxy whose cluster is the one address `backend`.
fn config(folder: &Folder, backend: &str) -> String {
    let (ip, port) = backend.rsplit_once(':').unwrap();
    let text = format!(
        r#"
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
static_resources:
  listeners:
  - name: in
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - {{match: {{path: /direct}}, direct_response: {{status: 200, body: {{inline_string: direct}}}}}}
              - {{match: {{prefix: /}}, route: {{cluster: backend, timeout: 0s}}}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: backend
    load_assignment:
      cluster_name: backend
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {ip}, port_value: {port}}}}}}}}}]}}]
"#
    );
    folder.file("envoy.yaml", &text)
}

/// A backend that answers each request once it is released.
struct Backend {
    address: String,
    requests: Arc<AtomicUsize>,
    released: Arc<AtomicBool>,
}

impl Backend {
    fn start() -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let backend = Backend {
            address: listener.local_addr().unwrap().to_string(),
            requests: Arc::default(),
            released: Arc::default(),
        };
        let (requests, released) = (backend.requests.clone(), backend.released.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (requests, released) = (requests.clone(), released.clone());
                thread::spawn(move || answer_all(stream, &requests, &released));
            }
        });
        backend
    }

    fn release(&self) {
        self.released.store(true, SeqCst);
    }
}

fn answer_all(mut stream: TcpStream, requests: &AtomicUsize, released: &AtomicBool) {
    while read_head(&mut stream).is_some() {
        requests.fetch_add(1, SeqCst);
        while !released.load(SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate";
        if stream.write_all(answer).is_err() {
            return;
        }
    }
}

fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

fn listener(server: &Server) -> String {
    let (_, listeners) = server.get("/listeners");
    let (_, address) = listeners.trim().split_once("::").unwrap();
    address.to_owned()
}

fn in_background(address: &str, path: &'static str) -> thread::JoinHandle<(u16, String)> {
    let address = address.to_owned();
    thread::spawn(move || request(&address, "GET", path))
}

#[test]
fn an_open_request_is_finished_and_new_ones_are_served_meanwhile() {
    for signal in ["TERM", "INT"] {
        let folder = Folder::new(&format!("finishes-{signal}"));
        let backend = Backend::start();
        let mut server = Server::start(&folder, &["-c", &config(&folder, &backend.address)]);
        let address = listener(&server);
        let held = in_background(&address, "/held");
        server.wait_until(|| backend.requests.load(SeqCst) == 1);
        let mut kept = TcpStream::connect(&address).unwrap();
        server.signal(signal);
        server.wait_until(|| server.get("/ready") == (503, "DRAINING\n".to_owned()));
        // New connections are served as before, and those that are kept are asked to close.
        assert_eq!(
            request(&address, "GET", "/direct"),
            (200, "direct".to_owned())
        );
        let get = b"GET /direct HTTP/1.1\r\nhost: test\r\n\r\n";
        kept.write_all(get).unwrap();
        let head = read_head(&mut kept).unwrap();
        assert!(head.contains("connection: close\r\n"), "{head}");
        // `/healthcheck/ok` does not cancel this drain.
        assert_eq!(server.post("/healthcheck/ok").0, 200);
        assert_eq!(server.get("/ready").0, 503);
        backend.release();
        assert_eq!(held.join().unwrap(), (200, "late".to_owned()));
        assert!(server.wait().success());
    }
}

#[test]
fn an_idle_process_ends_at_once() {
    let folder = Folder::new("idle");
    let mut server = Server::start(
        &folder,
        &[
            "-c",
            &config(&folder, "127.0.0.1:1"),
            "--drain-time-s",
            "1000",
        ],
    );
    // Idle connections do not delay the end.
    let _unused = TcpStream::connect(listener(&server)).unwrap();
    server.signal("TERM");
    assert!(server.wait().success());
    assert!(!server.log().contains("cutting"), "{}", server.log());
}

#[test]
fn a_second_signal_resets_open_requests() {
    for second in ["TERM", "INT", "quit"] {
        let folder = Folder::new(&format!("second-{second}"));
        let backend = Backend::start();
        let mut server = Server::start(&folder, &["-c", &config(&folder, &backend.address)]);
        let mut held = TcpStream::connect(listener(&server)).unwrap();
        held.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
            .unwrap();
        server.wait_until(|| backend.requests.load(SeqCst) == 1);
        server.signal("TERM");
        server.wait_until(|| server.get("/ready").0 == 503);
        match second {
            "quit" => assert_eq!(server.post("/quitquitquit").0, 200),
            signal => server.signal(signal),
        }
        assert!(server.wait().success());
        assert_eq!(read_head(&mut held), None);
    }
}

#[test]
fn the_process_waits_no_longer_than_the_drain_time() {
    let folder = Folder::new("drain-time");
    let backend = Backend::start();
    let config = config(&folder, &backend.address);
    let mut server = Server::start(&folder, &["-c", &config, "--drain-time-s", "1"]);
    let mut held = TcpStream::connect(listener(&server)).unwrap();
    held.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        .unwrap();
    server.wait_until(|| backend.requests.load(SeqCst) == 1);
    let began = Instant::now();
    server.signal("TERM");
    assert!(server.wait().success());
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(read_head(&mut held), None);
    let log = server.log();
    assert!(log.contains("not drained after 1 s: cutting 1 "), "{log}");
}

#[test]
fn the_process_ends_only_after_drain_idle_time_without_requests() {
    let folder = Folder::new("idle-time");
    let config = config(&folder, "127.0.0.1:1");
    let mut server = Server::start(&folder, &["-c", &config, "--drain-idle-time", "1500ms"]);
    let address = listener(&server);
    let direct = (200, "direct".to_owned());
    assert_eq!(request(&address, "GET", "/direct"), direct);
    server.signal("TERM");
    server.wait_until(|| server.get("/ready").0 == 503);
    let last = Instant::now();
    assert_eq!(request(&address, "GET", "/direct"), direct);
    assert!(server.wait().success());
    assert!(last.elapsed() >= Duration::from_millis(1500));
}

#[test]
fn a_flag_ends_the_process_at_once_as_envoy_does() {
    let folder = Folder::new("at-once");
    let backend = Backend::start();
    let config = config(&folder, &backend.address);
    let mut server = Server::start(&folder, &["-c", &config, "--exit-on-sigterm-immediately"]);
    let mut held = TcpStream::connect(listener(&server)).unwrap();
    held.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        .unwrap();
    server.wait_until(|| backend.requests.load(SeqCst) == 1);
    server.signal("TERM");
    assert!(server.wait().success());
    assert_eq!(read_head(&mut held), None);
}

/// How a client's last request ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// The connection was refused, or a kept connection was closed before the proxy read the request.
    Refused,
    Lost(String),
}

/// Sends one request after the other, on connections that it keeps or on new ones, until it is refused.
fn load(address: &str, keep: bool, answered: &AtomicUsize) -> Ended {
    let mut kept: Option<TcpStream> = None;
    loop {
        let reused = kept.is_some();
        let Ok(mut stream) = kept.take().map_or_else(|| TcpStream::connect(address), Ok) else {
            return Ended::Refused;
        };
        let sent = stream.write_all(b"GET /x HTTP/1.1\r\nhost: test\r\n\r\n");
        match sent.ok().and_then(|()| read_head(&mut stream)) {
            // A client must expect this of a connection that it keeps (RFC 9112, 9.3.1), and asks again on another.
            None if reused => continue,
            None => return Ended::Lost("no answer on a new connection".to_owned()),
            Some(head) => {
                let mut body = [0; 4];
                let read = stream.read_exact(&mut body);
                if !head.starts_with("HTTP/1.1 200 ") || read.is_err() || &body != b"late" {
                    return Ended::Lost(head);
                }
                answered.fetch_add(1, SeqCst);
                if keep && !head.contains("connection: close") {
                    kept = Some(stream);
                }
            }
        }
    }
}

#[test]
fn no_request_is_lost_under_load() {
    let folder = Folder::new("load");
    let backend = Backend::start();
    backend.release();
    let config = config(&folder, &backend.address);
    let mut server = Server::start(&folder, &["-c", &config, "--drain-time-s", "2"]);
    let address = listener(&server);
    let answered = Arc::new(AtomicUsize::new(0));
    let clients = (0..8).map(|client| {
        let (address, answered) = (address.clone(), answered.clone());
        thread::spawn(move || load(&address, client % 2 == 0, &answered))
    });
    let clients: Vec<_> = clients.collect();
    server.wait_until(|| answered.load(SeqCst) > 200);
    server.signal("TERM");
    assert!(server.wait().success());
    for client in clients {
        assert_eq!(client.join().unwrap(), Ended::Refused, "{}", server.log());
    }
}

#[test]
fn connections_in_the_accept_queue_are_served() {
    let folder = Folder::new("queue");
    let mut server = Server::start(&folder, &["-c", &config(&folder, "127.0.0.1:1")]);
    let address = listener(&server);
    let mut streams: Vec<TcpStream> = Vec::new();
    server.signal("TERM");
    loop {
        match TcpStream::connect(&address) {
            Ok(mut stream) => {
                let get = b"GET /direct HTTP/1.1\r\nhost: test\r\n\r\n";
                stream.write_all(get).unwrap();
                streams.push(stream);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
                break;
            }
        }
    }
    for mut stream in streams {
        assert!(read_head(&mut stream).is_some_and(|head| head.contains(" 200 ")));
    }
    assert!(server.wait().success());
}

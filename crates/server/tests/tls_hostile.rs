//! Clients that begin a TLS handshake and do not go on: their connections end in time, and others are served meanwhile.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

use crate::support::Folder;
use crate::support::Server;
use crate::support::config::address_of;
use crate::support::config::bootstrap;
use crate::support::config::listener;

/// Connections of a hostile client, on either listener.
const CONNECTIONS: usize = 2_000;
/// The memory that each of them may take while it is open, in KB.
const KB_EACH: u64 = 40;
/// How long another client may have to wait, although the machine is busy with the tests.
const PATIENCE: Duration = Duration::from_secs(5);

const CERTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../conformance/certs");

/// A ClientHello of TLS 1.2 for one cipher suite and curve.
fn client_hello() -> Vec<u8> {
    let extensions: &[u8] = &[
        0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 4, 0, 2, 4, 3,
    ];
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0, 0, 22]);
    body.extend(extensions);
    let mut message = vec![1, 0, 0, u8::try_from(body.len()).unwrap()];
    message.extend(body);
    let mut record = vec![22, 3, 1, 0, u8::try_from(message.len()).unwrap()];
    record.extend(message);
    record
}

/// A listener with TLS and these additional fields.
fn secure(name: &str, fields: &str) -> String {
    let socket = format!(
        "    - transport_socket: {{name: tls, typed_config: {{'@type': \
         type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: \
         {{tls_certificates: [{{certificate_chain: {{filename: {CERTS}/server.pem}}, private_key: {{filename: \
         {CERTS}/server.key}}}}]}}}}}}\n"
    );
    let plain = listener(name, "hello", "");
    let (before, after) = plain
        .split_once("    filter_chains:\n    - filters")
        .unwrap();
    format!("{before}    {fields}\n    filter_chains:\n{socket}      filters{after}")
}

/// Lets this process, and the servers that it starts, open as many files as they may.
fn raise_file_limit() {
    use rustix::process::Resource;
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    rustix::process::setrlimit(Resource::Nofile, raised).unwrap();
}

/// Opens connections that stop after these bytes, and returns once a new client has got its ServerHello.
fn attack(server: &Server, address: &str, bytes: &[u8]) -> Vec<TcpStream> {
    let before = server.resident_kb();
    let connections: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(bytes).unwrap();
            stream
        })
        .collect();
    let began = Instant::now();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&client_hello()).unwrap();
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[0], 22, "{answer:?}");
    assert_eq!(answer[5], 2, "{answer:?}");
    assert!(began.elapsed() < PATIENCE);
    let grown = server.resident_kb().saturating_sub(before);
    assert!(grown < KB_EACH * CONNECTIONS as u64, "{grown} KB");
    connections
}

/// The sum of the counters whose names end like this.
fn counted(server: &Server, name: &str) -> u64 {
    let (_, text) = server.get(&format!("/stats?filter={name}$"));
    let values = text.lines().filter_map(|line| line.split_once(": "));
    values
        .filter_map(|(_, value)| value.trim().parse::<u64>().ok())
        .sum()
}

#[test]
fn handshakes_that_stop_end_in_time() {
    raise_file_limit();
    let folder = Folder::new("tls-hostile-handshakes");
    let config = bootstrap(&[secure("secure", "")], "");
    let config = config.replace(
        "    - transport_socket:",
        "    - transport_socket_connect_timeout: 8s\n      transport_socket:",
    );
    let path = folder.file("envoy.yaml", &config);
    let server = Server::start(&folder, &["-c", &path]);
    let address = address_of(&server, "secure");
    let hello = client_hello();
    let connections = attack(&server, &address, hello.get(..40).unwrap());
    let timeouts = "downstream_cx_transport_socket_connect_timeout";
    server.wait_until(|| counted(&server, timeouts) >= CONNECTIONS as u64);
    for mut stream in connections {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        // Whether the end is orderly or a reset, it is the end.
        drop(stream.read_to_end(&mut rest));
        assert!(rest.is_empty());
    }
}

#[test]
fn hellos_that_stop_end_in_time() {
    raise_file_limit();
    let folder = Folder::new("tls-hostile-hellos");
    let fields = "listener_filters_timeout: 8s\n    listener_filters: [{name: i, typed_config: {'@type': \
                  type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}]";
    let path = folder.file("envoy.yaml", &bootstrap(&[secure("secure", fields)], ""));
    let server = Server::start(&folder, &["-c", &path]);
    let address = address_of(&server, "secure");
    let hello = client_hello();
    let connections = attack(&server, &address, hello.get(..40).unwrap());
    server.wait_until(|| counted(&server, "downstream_pre_cx_timeout") >= CONNECTIONS as u64);
    server.wait_until(|| counted(&server, "downstream_pre_cx_active") == 0);
    drop(connections);
}

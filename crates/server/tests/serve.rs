//! The binary serves requests and drains; the sidecar demo runs.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::path::Path;
use std::process::Command;

use crate::support::Folder;
use crate::support::Server;
use crate::support::request;

/// A proxy that answers all requests with a direct response, on a port that the kernel chooses.
fn direct_response(folder: &Folder) -> String {
    let example = include_str!("../../../examples/direct_response/envoy.yaml");
    let adapted = example
        .replace("port_value: 9901", "port_value: 0")
        .replace("port_value: 10000", "port_value: 0")
        .replace("0.0.0.0", "127.0.0.1");
    folder.file("envoy.yaml", &adapted)
}

fn listener(server: &Server) -> String {
    let (_, listeners) = server.get("/listeners");
    let (name, address) = listeners.trim().split_once("::").unwrap();
    assert_eq!(name, "hello");
    address.to_owned()
}

#[test]
fn requests_are_answered_and_counted() {
    let folder = Folder::new("answers");
    let server = Server::start(&folder, &["-c", &direct_response(&folder)]);
    let address = listener(&server);
    assert_eq!(
        request(&address, "GET", "/"),
        (200, "hello from outrider\n".to_owned())
    );
    let (_, stats) = server.get("/stats?filter=hello.downstream_rq_2xx");
    assert!(
        stats.contains("http.hello.downstream_rq_2xx: 1\n"),
        "{stats}"
    );
}

#[test]
fn draining_stops_the_listener_but_not_the_process() {
    for how in ["", "?graceful"] {
        let folder = Folder::new(&format!("drains{}", how.len()));
        let server = Server::start(
            &folder,
            &["-c", &direct_response(&folder), "--drain-time-s", "1"],
        );
        let address = listener(&server);
        assert_eq!(server.post(&format!("/drain_listeners{how}")).0, 200);
        if how == "?graceful" {
            assert_eq!(request(&address, "GET", "/").0, 200);
        }
        server.wait_until(|| std::net::TcpStream::connect(&address).is_err());
        assert_eq!(server.get("/ready").0, 200);
        let (_, stats) = server.get("/stats?filter=listener_stopped");
        assert_eq!(stats, "listener_manager.listener_stopped: 1\n");
    }
}

#[test]
fn the_sidecar_demo_succeeds() {
    let demo = Path::new(env!("CARGO_BIN_EXE_outrider"))
        .with_file_name("examples")
        .join("sidecar");
    // Cargo builds examples when all tests run, but not when one test is chosen by name.
    if !demo.exists() {
        return;
    }
    let output = Command::new(demo).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("VERDICT: passed"),
        "{said}"
    );
}

//! The commands `wait`, `probe` and `run` with a running proxy.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::support::Folder;
use crate::support::Server;
use crate::support::outrider;

const ADMIN: &str = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}";

fn server(folder: &Folder) -> (Server, String) {
    let server = Server::start(folder, &["-c", &folder.file("envoy.yaml", ADMIN)]);
    let admin = folder.path("admin").to_str().unwrap().to_owned();
    (server, admin)
}

fn code(arguments: &[&str]) -> Option<i32> {
    outrider(arguments).status.code()
}

/// Writes a shell script.
fn script(folder: &Folder, name: &str, lines: &str) -> String {
    let path = folder.file(name, &format!("#!/bin/sh\n{lines}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn start(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_outrider"))
        .args(arguments)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(20), "too slow");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn probe_exits_with_0_only_if_the_proxy_is_ready() {
    let folder = Folder::new("probe");
    let (server, admin) = server(&folder);
    let address = fs::read_to_string(&admin).unwrap();
    assert_eq!(code(&["probe", "--admin-address", &address]), Some(0));
    assert_eq!(code(&["probe", "--admin-address-path", &admin]), Some(0));
    let (_, port) = address.rsplit_once(':').unwrap();
    let fixed = ADMIN.replace("port_value: 0", &format!("port_value: {port}"));
    let config = folder.file("fixed.yaml", &fixed);
    assert_eq!(code(&["probe", "-c", &config]), Some(0));
    assert_eq!(server.post("/healthcheck/fail").0, 200);
    let output = outrider(&["probe", "--admin-address", &address]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("503") && said.contains("DRAINING"), "{said}");
    let other = ["probe", "--admin-address", &address, "--path", "/stats"];
    assert_eq!(code(&other), Some(0));
}

#[test]
fn wait_ends_when_the_proxy_is_ready_or_at_the_timeout() {
    let folder = Folder::new("wait");
    let admin = folder.path("admin").to_str().unwrap().to_owned();
    let mut waiting = start(&["wait", "--ready", "--admin-address-path", &admin]);
    let (_server, _) = server(&folder);
    wait_until(|| waiting.try_wait().unwrap().is_some());
    assert!(waiting.wait().unwrap().success());
    // Bound, but never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let flags = ["wait", "--ready", "--admin-address", &address, "--timeout"];
    assert_eq!(code(&[&flags[..], &["100ms"]].concat()), Some(1));
}

#[test]
fn run_starts_the_application_once_ready_and_exits_with_its_code() {
    let folder = Folder::new("run");
    let admin = folder.path("admin").to_str().unwrap().to_owned();
    let app = script(&folder, "app", "echo \"$*\" > \"$0.says\"; exit 7");
    let run = ["run", "--admin-address-path", &admin, "--"];
    let mut running = start(&[&run[..], &[&app, "--flag", "--", "x"]].concat());
    assert!(!folder.path("app.says").exists());
    let (mut server, _) = server(&folder);
    wait_until(|| running.try_wait().unwrap().is_some());
    assert_eq!(running.wait().unwrap().code(), Some(7));
    let says = fs::read_to_string(folder.path("app.says")).unwrap();
    assert_eq!(says, "--flag -- x\n");
    assert_eq!(server.get("/ready").0, 200);
    assert_eq!(code(&[&run[..], &["/nonexistent/app"]].concat()), Some(127));
    let quits = ["run", "--admin-address-path", &admin, "--quit-proxy", "--"];
    assert_eq!(code(&[&quits[..], &["true"]].concat()), Some(0));
    assert!(server.wait().success());
}

#[test]
fn run_passes_signals_on_to_the_application() {
    let folder = Folder::new("passes");
    let (_server, admin) = server(&folder);
    let lines = "trap 'exit 9' TERM\necho > \"$0.runs\"\nwhile :; do sleep 0.01; done";
    let caught = script(&folder, "catches", lines);
    let dies = script(&folder, "dies", "echo > \"$0.runs\"\nexec sleep 60");
    for (app, name, expected) in [(&caught, "catches", 9), (&dies, "dies", 128 + 15)] {
        let mut running = start(&["run", "--admin-address-path", &admin, "--", app]);
        wait_until(|| folder.path(&format!("{name}.runs")).exists());
        let pid = running.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.unwrap().success());
        assert_eq!(running.wait().unwrap().code(), Some(expected), "{name}");
    }
}

#[test]
fn run_does_not_start_the_application_without_a_ready_proxy() {
    let folder = Folder::new("never");
    let app = script(&folder, "app", "echo > \"$0.runs\"");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    drop(silent);
    let run = ["run", "--admin-address", &address];
    let late = [&run[..], &["--timeout", "100ms", "--", &app]].concat();
    assert_eq!(code(&late), Some(1));
    assert!(!folder.path("app.runs").exists());
}

#[test]
fn usage_errors_name_the_flag() {
    let output = outrider(&["probe", "--ready"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("'--ready' is not known"), "{said}");
    let output = outrider(&["run", "--help"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("--quit-proxy"));
}

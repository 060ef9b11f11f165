//! Reload of the config while the proxy serves.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::io::Read;
use std::io::Write;
use std::net::TcpStream;

use serde_json::Value;

use crate::support::Folder;
use crate::support::Server;
use crate::support::config::address_of;
use crate::support::config::bootstrap;
use crate::support::config::dynamic;
use crate::support::config::listener;
use crate::support::config::reload;
use crate::support::config::resources;
use crate::support::request;

/// One request on a connection that stays open.
fn ask(stream: &mut TcpStream) -> String {
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            if body.len() == length.unwrap().parse::<usize>().unwrap() {
                return text;
            }
        }
        let count = stream.read(&mut buffer).unwrap();
        assert_ne!(count, 0, "closed after {text:?}");
        answer.extend_from_slice(&buffer[..count]);
    }
}

#[test]
fn routes_change_under_open_connections() {
    let folder = Folder::new("reload-routes");
    let path = folder.file("e.yaml", &bootstrap(&[listener("l", "one", "")], ""));
    let server = Server::start(&folder, &["-c", &path]);
    let address = address_of(&server, "l");
    let mut stream = TcpStream::connect(&address).unwrap();
    assert!(ask(&mut stream).ends_with("one"));
    folder.file("e.yaml", &bootstrap(&[listener("l", "two", "")], ""));
    let (status, outcome) = reload(&server);
    assert_eq!(
        (status, &outcome["outcome"]),
        (200, &Value::from("applied")),
        "{outcome}"
    );
    assert_eq!(outcome["routes_changed"], serde_json::json!(["l"]));
    let answer = ask(&mut stream);
    assert!(
        answer.ends_with("two") && !answer.contains("connection: close"),
        "{answer}"
    );
    assert_eq!(address_of(&server, "l"), address);
    let (_, outcome) = reload(&server);
    assert_eq!(outcome["outcome"], "unchanged");
}

#[test]
fn a_changed_filter_chain_drains_and_its_socket_stays_open() {
    let folder = Folder::new("reload-chain");
    let path = folder.file("e.yaml", &bootstrap(&[listener("l", "one", "")], ""));
    let arguments = ["-c", &path, "--drain-strategy", "immediate"];
    let server = Server::start(&folder, &arguments);
    let address = address_of(&server, "l");
    let mut stream = TcpStream::connect(&address).unwrap();
    ask(&mut stream);
    let changed = listener("l", "two", "server_name: changed");
    folder.file("e.yaml", &bootstrap(&[changed], ""));
    let (_, outcome) = reload(&server);
    assert_eq!(
        outcome["filter_chains_changed"],
        serde_json::json!(["l"]),
        "{outcome}"
    );
    assert!(ask(&mut stream).contains("connection: close"));
    assert_eq!(request(&address, "GET", "/"), (200, "two".to_owned()));
    let (_, stats) = server.get("/stats?filter=listener_manager.listener_(in_place|modified)");
    assert_eq!(
        stats,
        "listener_manager.listener_in_place_updated: 1\nlistener_manager.listener_modified: 1\n"
    );
}

#[test]
fn sighup_adds_and_removes_listeners() {
    let folder = Folder::new("reload-listeners");
    let path = folder.file("e.yaml", &bootstrap(&[listener("old", "one", "")], ""));
    let server = Server::start(&folder, &["-c", &path]);
    let old = address_of(&server, "old");
    folder.file("e.yaml", &bootstrap(&[listener("new", "two", "")], ""));
    server.signal("HUP");
    server.wait_until(|| server.get("/listeners").1.starts_with("new::"));
    let new = address_of(&server, "new");
    assert_eq!(request(&new, "GET", "/").1, "two");
    server.wait_until(|| TcpStream::connect(&old).is_err());
    let (_, stats) = server.get("/stats?filter=listener_manager.listener_(added|removed)$");
    assert_eq!(
        stats,
        "listener_manager.listener_added: 2\nlistener_manager.listener_removed: 1\n"
    );
}

#[test]
fn an_invalid_config_changes_nothing_and_all_its_errors_are_reported() {
    let folder = Folder::new("reload-bad");
    let path = folder.file("e.yaml", &bootstrap(&[listener("l", "one", "")], ""));
    let server = Server::start(&folder, &["-c", &path]);
    let address = address_of(&server, "l");
    let bad = bootstrap(
        &[listener(
            "l",
            "two",
            "stat_prefixx: x\n          request_timeout: long",
        )],
        "",
    );
    folder.file("e.yaml", &bad);
    let (status, outcome) = reload(&server);
    assert_eq!(
        (status, &outcome["outcome"]),
        (400, &Value::from("rejected"))
    );
    let errors = outcome["errors"].to_string();
    assert!(
        errors.contains("e.yaml:13:11") && errors.contains("did you mean stat_prefix?"),
        "{errors}"
    );
    assert!(errors.contains("request_timeout"), "{errors}");
    assert_eq!(request(&address, "GET", "/").1, "one");
    assert!(server.log().contains("stat_prefixx"), "{}", server.log());
    let (_, reloads) = server.get("/reload");
    assert!(reloads.contains("rejected"), "{reloads}");
    let (_, stats) = server.get("/stats?filter=^reload");
    assert_eq!(
        stats,
        "reload.update_attempt: 1\nreload.update_rejected: 1\nreload.update_success: 0\n"
    );
}

#[test]
fn a_reload_is_refused_if_it_changes_fields_that_need_a_restart() {
    let folder = Folder::new("reload-fixed");
    let path = folder.file("e.yaml", &bootstrap(&[listener("l", "one", "")], ""));
    let server = Server::start(&folder, &["-c", &path]);
    let address = address_of(&server, "l");
    let more = "stats_flush_interval: 7s\nnode: {id: another}";
    folder.file("e.yaml", &bootstrap(&[listener("l", "two", "")], more));
    let (status, outcome) = reload(&server);
    let errors = outcome["errors"].to_string();
    assert_eq!(status, 400);
    for named in ["node", "stats_flush_interval"] {
        let text = format!("{named}: cannot change while the proxy runs");
        assert!(errors.contains(&text), "{errors}");
    }
    assert_eq!(request(&address, "GET", "/").1, "one");
}

#[test]
fn a_port_in_use_changes_nothing() {
    let folder = Folder::new("reload-port");
    let path = folder.file("e.yaml", &bootstrap(&[listener("l", "one", "")], ""));
    let server = Server::start(&folder, &["-c", &path]);
    let address = address_of(&server, "l");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("port_value: {}", taken.local_addr().unwrap().port());
    let second = listener("m", "two", "").replace("port_value: 0", &port);
    folder.file(
        "e.yaml",
        &bootstrap(&[listener("l", "two", ""), second], ""),
    );
    let (status, outcome) = reload(&server);
    assert_eq!(status, 400);
    assert!(
        outcome["errors"]
            .to_string()
            .contains("Address already in use"),
        "{outcome}"
    );
    assert_eq!(request(&address, "GET", "/").1, "one");
    assert_eq!(server.get("/listeners").1.lines().count(), 1);
}

#[test]
fn a_watched_config_is_reloaded_through_the_links_of_a_config_map() {
    let folder = Folder::new("reload-watch");
    for (version, body) in [("v1", "one"), ("v2", "two")] {
        std::fs::create_dir_all(folder.path(version)).unwrap();
        folder.file(
            &format!("{version}/e.yaml"),
            &bootstrap(&[listener("l", body, "")], ""),
        );
    }
    std::os::unix::fs::symlink("v1", folder.path("..data")).unwrap();
    std::os::unix::fs::symlink("..data/e.yaml", folder.path("e.yaml")).unwrap();
    let path = folder.path("e.yaml");
    let server = Server::start(&folder, &["-c", path.to_str().unwrap(), "--watch-config"]);
    let address = address_of(&server, "l");
    assert_eq!(request(&address, "GET", "/").1, "one");
    std::os::unix::fs::symlink("v2", folder.path("..new")).unwrap();
    std::fs::rename(folder.path("..new"), folder.path("..data")).unwrap();
    server.wait_until(|| request(&address, "GET", "/").1 == "two");
    let (_, reloads) = server.get("/reload");
    assert!(reloads.contains("--watch-config"), "{reloads}");
}

#[test]
fn listeners_without_names_are_told_apart() {
    let folder = Folder::new("reload-nameless");
    let nameless = |body| listener("l", body, "").replace("- name: l\n    address", "- address");
    let config = |one, two| bootstrap(&[nameless(one), nameless(two)], "");
    let path = folder.file("e.yaml", &config("one", "two"));
    let server = Server::start(&folder, &["-c", &path]);
    let before = server.get("/listeners");
    folder.file("e.yaml", &config("three", "four"));
    let (_, outcome) = reload(&server);
    assert_eq!(
        outcome["routes_changed"].as_array().map(Vec::len),
        Some(2),
        "{outcome}"
    );
    assert_eq!(server.get("/listeners"), before);
    let bodies = before.1.lines().filter_map(|line| line.split_once("::"));
    let bodies: Vec<String> = bodies
        .map(|(_, address)| request(address, "GET", "/").1)
        .collect();
    assert_eq!(bodies, ["three", "four"]);
}

#[test]
fn a_unix_socket_accepts_while_another_takes_its_path() {
    let folder = Folder::new("reload-unix");
    let socket = folder.path("s").to_str().unwrap().to_owned();
    let config = |mode| {
        let address = "{socket_address: {address: 127.0.0.1, port_value: 0}}";
        let pipe = format!("{{pipe: {{path: {socket}, mode: {mode}}}}}");
        bootstrap(&[listener("l", "one", "").replace(address, &pipe)], "")
    };
    let path = folder.file("e.yaml", &config(0o600));
    let server = Server::start(&folder, &["-c", &path]);
    let ends = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            while !ends.load(std::sync::atomic::Ordering::Relaxed) {
                let mut client = std::os::unix::net::UnixStream::connect(&socket).unwrap();
                let head = b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
                client.write_all(head).unwrap();
                let mut answer = String::new();
                client.read_to_string(&mut answer).unwrap();
                assert!(answer.ends_with("one"), "{answer}");
            }
        });
        for mode in [0o666, 0o600, 0o660] {
            folder.file("e.yaml", &config(mode));
            let (status, outcome) = reload(&server);
            assert_eq!(status, 200, "{outcome}");
        }
        ends.store(true, std::sync::atomic::Ordering::Relaxed);
        clients.join().unwrap();
    });
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&socket).unwrap());
    assert_eq!(mode & 0o777, 0o660);
}

#[test]
fn what_is_built_for_a_refused_config_leaves_the_gauges() {
    let folder = Folder::new("reload-gauges");
    let cluster = |most| {
        format!(
            "  clusters:\n  - {{name: c, type: STATIC, circuit_breakers: {{thresholds: [{{track_remaining: true, max_connections: {most}}}]}}}}\n"
        )
    };
    let path = folder.file(
        "e.yaml",
        &bootstrap(&[cluster(5)], "").replace("  listeners:\n", ""),
    );
    let server = Server::start(&folder, &["-c", &path]);
    let twice = [cluster(9), cluster(9).replace("  clusters:\n", "")];
    folder.file(
        "e.yaml",
        &bootstrap(&twice, "").replace("  listeners:\n", ""),
    );
    assert_eq!(reload(&server).0, 400);
    let remaining = "/stats?filter=default.remaining_cx$";
    let name = "cluster.c.circuit_breakers.default.remaining_cx";
    assert_eq!(server.get(remaining).1, format!("{name}: 5\n"));
    folder.file(
        "e.yaml",
        &bootstrap(&[cluster(9)], "").replace("  listeners:\n", ""),
    );
    assert_eq!(reload(&server).0, 200);
    assert_eq!(server.get(remaining).1, format!("{name}: 9\n"));
}

#[test]
fn stopped_listeners_stay_stopped() {
    let folder = Folder::new("reload-stopped");
    let path = folder.file("e.yaml", &bootstrap(&[listener("l", "one", "")], ""));
    let server = Server::start(&folder, &["-c", &path]);
    assert_eq!(server.post("/drain_listeners").0, 200);
    let both = [listener("l", "one", ""), listener("m", "two", "")];
    folder.file("e.yaml", &bootstrap(&both, ""));
    let (status, outcome) = reload(&server);
    assert_eq!(status, 400, "{outcome}");
    let errors = outcome["errors"].to_string();
    assert!(errors.contains("'m' cannot change"), "{errors}");
}

#[test]
fn the_bootstrap_and_files_may_take_over_names_from_each_other() {
    let folder = Folder::new("reload-both");
    let (lds, cds) = ("listener.v3.Listener", "cluster.v3.Cluster");
    let of_file = listener("l", "file", "")
        .replacen("  - name", "  name", 1)
        .replace("\n    ", "\n  ");
    let clusters = resources(&folder, "cds.yaml", cds, &["  name: c\n"]);
    let listeners = resources(&folder, "lds.yaml", lds, &[&of_file]);
    let more = dynamic(&listeners, &clusters);
    let fixed = "  clusters: [{name: c, connect_timeout: 1s, type: STATIC}]\n";
    let nothing = bootstrap(&[], &more).replace("  listeners:\n", "  listeners: []\n");
    let all = bootstrap(&[listener("l", "bootstrap", ""), fixed.to_owned()], &more);
    let path = folder.file("e.yaml", &nothing);
    let server = Server::start(&folder, &["-c", &path]);
    let body = || request(&address_of(&server, "l"), "GET", "/").1;
    let added_by_api = |yes| {
        let text = format!("c::added_via_api::{yes}");
        server.get("/clusters").1.contains(&text)
    };
    assert_eq!(body(), "file");
    assert!(added_by_api(true));

    folder.file("e.yaml", &all);
    let (status, outcome) = reload(&server);
    assert_eq!(status, 200, "{outcome}");
    assert_eq!(body(), "bootstrap");
    assert!(added_by_api(false));

    folder.file("e.yaml", &nothing);
    let (status, outcome) = reload(&server);
    assert_eq!(status, 200, "{outcome}");
    server.wait_until(|| server.get("/listeners").1.starts_with("l::") && body() == "file");
    server.wait_until(|| added_by_api(true));

    folder.file("e.yaml", &all);
    assert_eq!(reload(&server).0, 200);
    resources(&folder, "lds.yaml", lds, &[]);
    let updated = "listener_manager.lds.update_success: 3\n";
    server.wait_until(|| server.get("/stats?filter=lds.update_success").1 == updated);
    assert_eq!(body(), "bootstrap");
}

#[test]
fn an_address_of_a_file_s_listener_is_refused() {
    let folder = Folder::new("reload-address");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("port_value: {}", taken.local_addr().unwrap().port());
    drop(taken);
    let of_file = listener("l", "file", "")
        .replace("port_value: 0", &port)
        .replacen("  - name", "  name", 1)
        .replace("\n    ", "\n  ");
    let clusters = resources(&folder, "cds.yaml", "cluster.v3.Cluster", &[]);
    let listeners = resources(&folder, "lds.yaml", "listener.v3.Listener", &[&of_file]);
    let more = dynamic(&listeners, &clusters);
    let nothing = bootstrap(&[], &more).replace("  listeners:\n", "  listeners: []\n");
    let path = folder.file("e.yaml", &nothing);
    let server = Server::start(&folder, &["-c", &path]);
    let other = listener("m", "bootstrap", "").replace("port_value: 0", &port);
    folder.file("e.yaml", &bootstrap(&[other], &more));
    let (status, outcome) = reload(&server);
    assert_eq!(status, 400, "{outcome}");
    let errors = outcome["errors"].to_string();
    assert!(errors.contains("has duplicate address"), "{errors}");
    assert_eq!(request(&address_of(&server, "l"), "GET", "/").1, "file");
}

//! Reload of the config while the proxy serves.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::io::Read;
use std::io::Write;
use std::net::TcpStream;

use serde_json::Value;

use crate::support::Folder;
use crate::support::Server;
use crate::support::request;

/// A bootstrap whose listeners answer everything themselves.
fn bootstrap(listeners: &[String], more: &str) -> String {
    format!(
        "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}\n{more}\n\
         static_resources:\n  listeners:\n{}",
        listeners.concat()
    )
}

/// A listener that answers with `body`; `manager` are more fields of its connection manager.
fn listener(name: &str, body: &str, manager: &str) -> String {
    format!(
        "  - name: {name}\n    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}\n    filter_chains:\n    \
         - filters:\n      - name: hcm\n        typed_config:\n          \
         '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          \
         stat_prefix: {name}\n          {manager}\n          route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: \
         {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: {body}}}}}}}]}}]}}\n          \
         http_filters: [{{name: router, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]\n"
    )
}

fn address_of(server: &Server, name: &str) -> String {
    let (_, listeners) = server.get("/listeners");
    let mut lines = listeners.lines().filter_map(|line| line.split_once("::"));
    lines
        .find(|(found, _)| *found == name)
        .unwrap()
        .1
        .to_owned()
}

fn reload(server: &Server) -> (u16, Value) {
    let (status, text) = server.post("/reload");
    (status, serde_json::from_str(&text).unwrap())
}

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
fn a_filter_chain_that_changes_drains_and_its_socket_stays() {
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
fn listeners_come_and_go_by_signal() {
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
fn a_bad_config_changes_nothing_and_says_all_that_is_wrong() {
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
fn what_cannot_change_is_named_and_the_rest_is_not_applied() {
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

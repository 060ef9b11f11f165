//! Files that cannot replace the running configuration: each is refused by an error that names it, and what runs stays.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::support::Folder;
use crate::support::Server;
use crate::support::config::address_of;
use crate::support::config::bootstrap;
use crate::support::config::dynamic;
use crate::support::config::listener;
use crate::support::config::reload;
use crate::support::config::resources;
use crate::support::request;

/// The value of a counter or gauge.
fn stat(server: &Server, name: &str) -> u64 {
    let (_, text) = server.get(&format!("/stats?filter=^{}$", name.replace('.', "\\.")));
    let value = text.split_once(": ").map(|(_, value)| value.trim());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// What a test puts at a path, where a file is expected.
type PathChange = fn(&str);

/// Things other than files at the path, each with a part of the expected error.
const NOT_FILES: [(&str, PathChange, &str); 4] = [
    (
        "a directory",
        |path| fs::create_dir(path).unwrap(),
        "is a directory: expected a regular file",
    ),
    ("a pipe", make_pipe, "is a pipe: expected a regular file"),
    ("links in a circle", link_to_itself, "cannot be opened"),
    (
        "a device",
        |path| symlink("/dev/zero", path).unwrap(),
        "is a device: expected a regular file",
    ),
];

fn make_pipe(path: &str) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn link_to_itself(path: &str) {
    symlink(path, path).unwrap();
}

/// Removes whatever is at `path`.
fn clear(path: &str) {
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        fs::remove_dir(path).unwrap();
    } else {
        let _ = fs::remove_file(path);
    }
}

fn cluster(name: &str, more: &str) -> String {
    format!("  clusters: [{{name: {name}, connect_timeout: 1s, type: STATIC{more}}}]\n")
}

fn whole(listeners: &[String]) -> String {
    bootstrap(listeners, "")
}

/// Texts that are no bootstrap, with what the error says.
fn bad_texts() -> Vec<(String, &'static str)> {
    let good = whole(&[listener("l", "two", "")]);
    vec![
        (String::new(), "empty"),
        ("# nothing\n".to_owned(), "empty"),
        ("- a\n- b\n".to_owned(), "e.yaml:1"),
        ("just words".to_owned(), "e.yaml:1"),
        ("a: \u{0}".to_owned(), "e.yaml:1"),
        ("a:\n\tb: 1\n".to_owned(), "e.yaml:2"),
        ("[".repeat(10_000), "e.yaml:1"),
        (
            "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned()
                + &(0..20)
                    .map(|i| format!("a{i}: &a{i} [*a, *a, *a, *a]\n"))
                    .collect::<String>(),
            "e.yaml",
        ),
        (
            good.replace("static_resources", "static_resource"),
            "did you mean static_resources",
        ),
        (good[..good.len() / 2].to_owned(), "e.yaml"),
    ]
}

/// Bootstraps that cannot be loaded, with what the error says.
fn bad_bootstraps(taken_port: u16) -> Vec<(String, &'static str)> {
    let l = || listener("l", "two", "");
    let with_port =
        |port: &str| whole(&[l().replace("port_value: 0", &format!("port_value: {port}"))]);
    let route = |route: &str| {
        let answer = "direct_response: {status: 200, body: {inline_string: two}}";
        whole(&[l().replace(answer, route)])
    };
    let more = |text: &str| bootstrap(&[l()], text);
    vec![
        (
            more("node: {id: other}"),
            "node: cannot change while the proxy runs",
        ),
        (
            more("layered_runtime: {layers: [{name: x, admin_layer: {}}]}"),
            "layered_runtime: cannot change",
        ),
        (
            more("").replace("port_value: 0}}}\n", "port_value: 1}}}\n"),
            "admin: cannot change while the proxy runs",
        ),
        (with_port("70000"), "port_value"),
        (with_port(&taken_port.to_string()), "Address already in use"),
        (
            whole(&[l().replace(
                "filter_chains:",
                "enable_reuse_port: false\n    filter_chains:",
            )]),
            "Listener l: reuse port cannot be changed during an update",
        ),
        (route("route: {cluster: nobody}"), "nobody"),
        (route("route: {cluster: l, timeout: -1s}"), "timeout"),
        (route("direct_response: {status: 20000}"), "status"),
        (
            whole(&[l().replace("{prefix: /}", "{safe_regex: {regex: '('}}")]),
            "regex",
        ),
        (
            whole(&[l().replace("domains: ['*']", "domains: []")]),
            "domains",
        ),
        (
            whole(&[l().replace("name: router,", "name: router, typo: 1,")]),
            "typo",
        ),
        (whole(&[l().replace("v3.Router", "v3.Rooter")]), "Rooter"),
        (
            whole(&[l().replace("inline_string: two", "filename: /nowhere/at/all")]),
            "/nowhere/at/all",
        ),
        (
            whole(&[l(), cluster("c", ", lb_policy: BEST")]),
            "lb_policy",
        ),
        (
            whole(&[
                l(),
                cluster("c", "").replace("}]", "}, {name: c, connect_timeout: 1s}]"),
            ]),
            "duplicate cluster 'c'",
        ),
        (
            whole(&[l(), cluster("c", ", connect_timeout: 0s")]),
            "connect_timeout",
        ),
    ]
}

#[test]
fn bad_bootstraps_are_refused_by_name() {
    let folder = Folder::new("hostile-bootstrap");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    let path = folder.file("e.yaml", &whole(&[listener("l", "one", "")]));
    let server = Server::start(&folder, &["-c", &path]);
    let address = address_of(&server, "l");
    let all = [bad_texts(), bad_bootstraps(taken_port)].concat();
    for (index, (content, named)) in all.iter().enumerate() {
        folder.file("e.yaml", content);
        let (status, outcome) = reload(&server);
        let errors = outcome["errors"].to_string();
        assert_eq!(status, 400, "{named}: {outcome}");
        assert!(errors.contains(named), "{named}: {errors}");
        assert_eq!(stat(&server, "reload.update_rejected"), index as u64 + 1);
        assert_eq!(request(&address, "GET", "/").1, "one", "{named}");
    }
    fs::write(&path, [b'a', b':', 0xff]).unwrap();
    assert!(
        reload(&server).1["errors"]
            .to_string()
            .contains("not UTF-8")
    );
    let secret = "  secrets: [{name: s, generic_secret: {secret: {inline_string: x}}}]\n";
    folder.file(
        "e.yaml",
        &whole(&[listener("l", "one", ""), secret.to_owned()]),
    );
    assert_ne!(
        reload(&server).1["outcome"],
        "unchanged",
        "secrets are not ignored"
    );
    assert_eq!(server.get("/listeners").1.lines().count(), 1);
}

#[test]
fn anything_but_a_file_is_refused_in_place_of_the_bootstrap() {
    let folder = Folder::new("hostile-no-file");
    let good = whole(&[listener("l", "one", "")]);
    let path = folder.file("e.yaml", &good);
    let server = Server::start(&folder, &["-c", &path]);
    let address = address_of(&server, "l");
    let refused = |named: &str| {
        let (status, outcome) = reload(&server);
        let errors = outcome["errors"].to_string();
        assert!(
            status == 400 && errors.contains(named),
            "{named}: {outcome}"
        );
        assert!(errors.contains("e.yaml"), "{errors}");
        assert_eq!(request(&address, "GET", "/").1, "one", "{named}");
    };
    for (_, change, named) in NOT_FILES {
        clear(&path);
        change(&path);
        refused(named);
    }
    clear(&path);
    refused("cannot be opened");
    fs::File::create(&path)
        .unwrap()
        .set_len((64 << 20) + 1)
        .unwrap();
    refused("larger than 64 MiB");
    folder.file("e.yaml", &good);
    assert_eq!(reload(&server).1["outcome"], "unchanged");
}

#[test]
fn a_watched_file_that_becomes_something_else_is_reported() {
    let folder = Folder::new("hostile-watched");
    let path = folder.file("e.yaml", &whole(&[listener("l", "one", "")]));
    let server = Server::start(&folder, &["-c", &path, "--watch-config"]);
    let address = address_of(&server, "l");
    for (index, (what, change, named)) in NOT_FILES.iter().enumerate() {
        clear(&path);
        change(&path);
        // Only a rename is noticed: the watch sees no other change of something that is not a file.
        fs::rename(&path, folder.path("aside")).unwrap();
        fs::rename(folder.path("aside"), &path).unwrap();
        let rejected = || stat(&server, "reload.update_rejected");
        server.wait_until(|| rejected() == index as u64 + 1);
        assert!(server.get("/reload").1.contains(named), "{what}");
    }
    clear(&path);
    folder.file("new", &whole(&[listener("l", "two", "")]));
    fs::rename(folder.path("new"), &path).unwrap();
    server.wait_until(|| request(&address, "GET", "/").1 == "two");
}

#[test]
fn anything_but_a_file_is_refused_in_place_of_resources() {
    let folder = Folder::new("hostile-resources");
    let of_file = listener("l", "file", "")
        .replacen("  - name", "  name", 1)
        .replace("\n    ", "\n  ");
    let clusters = resources(&folder, "cds.yaml", "cluster.v3.Cluster", &["  name: c\n"]);
    let listeners = resources(&folder, "lds.yaml", "listener.v3.Listener", &[&of_file]);
    let more = dynamic(&listeners, &clusters);
    let nothing = bootstrap(&[], &more).replace("  listeners:\n", "  listeners: []\n");
    let path = folder.file("e.yaml", &nothing);
    let server = Server::start(&folder, &["-c", &path]);
    let made = folder.path("made").to_str().unwrap().to_owned();
    for (file, scope) in [
        ("lds.yaml", "listener_manager.lds"),
        ("cds.yaml", "cluster_manager.cds"),
    ] {
        let target = folder.path(file);
        let mut failures = 0;
        for (_, change, named) in NOT_FILES {
            clear(target.to_str().unwrap());
            change(target.to_str().unwrap());
            fs::rename(&target, &made).unwrap();
            fs::rename(&made, &target).unwrap();
            failures += 1;
            server.wait_until(|| stat(&server, &format!("{scope}.update_failure")) == failures);
            let log = server.log();
            assert!(log.contains(named) && log.contains(file), "{named}: {log}");
        }
        clear(target.to_str().unwrap());
        fs::File::create(&made)
            .unwrap()
            .set_len((64 << 20) + 1)
            .unwrap();
        fs::rename(&made, &target).unwrap();
        server.wait_until(|| stat(&server, &format!("{scope}.update_failure")) == failures + 1);
    }
    assert_eq!(request(&address_of(&server, "l"), "GET", "/").1, "file");
    assert!(server.get("/clusters").1.contains("c::added_via_api::true"));
}

/// A server with a disk layer, in which the key `good` is 5, and an admin layer; and the address of its listener.
fn with_runtime(folder: &Folder) -> (Server, String) {
    fs::create_dir_all(folder.path("v1/envoy")).unwrap();
    fs::write(folder.path("v1/envoy/good"), "5").unwrap();
    symlink("v1", folder.path("root")).unwrap();
    let root = folder.path("root").to_str().unwrap().to_owned();
    let layers = format!(
        "layered_runtime: {{layers: [{{name: disk, disk_layer: {{symlink_root: {root}, subdirectory: envoy}}}}, {{name: admin, admin_layer: {{}}}}]}}"
    );
    let path = folder.file("e.yaml", &bootstrap(&[listener("l", "one", "")], &layers));
    let server = Server::start(folder, &["-c", &path]);
    let address = address_of(&server, "l");
    assert_eq!(stat(&server, "runtime.num_keys"), 1);
    (server, address)
}

#[test]
fn a_runtime_layer_that_cannot_be_read_stays_as_it_was() {
    let folder = Folder::new("hostile-layer");
    let (server, address) = with_runtime(&folder);
    let bad: [(&str, PathChange, &str); 5] = [
        ("malformed", |at| fs::write(at, "{").unwrap(), "(key bad)"),
        ("links in a circle", link_to_itself, "bad"),
        (
            "huge",
            |at| fs::File::create(at).unwrap().set_len(2 << 20).unwrap(),
            "larger than",
        ),
        (
            "nested",
            |at| fs::create_dir_all(format!("{at}{}", "/d".repeat(20))).unwrap(),
            "directories",
        ),
        (
            "not UTF-8, which is kept as text",
            |at| fs::write(at, [0xff, 0xfe]).unwrap(),
            "",
        ),
    ];
    for (index, (what, change, named)) in bad.into_iter().enumerate() {
        let version = format!("v{}", index + 2);
        fs::create_dir_all(folder.path(&format!("{version}/envoy"))).unwrap();
        let at = folder.path(&format!("{version}/envoy/bad"));
        change(at.to_str().unwrap());
        symlink(&version, folder.path("next")).unwrap();
        let loads = || stat(&server, "runtime.load_error") + stat(&server, "runtime.load_success");
        let before = loads();
        fs::rename(folder.path("next"), folder.path("root")).unwrap();
        server.wait_until(|| loads() > before);
        if !named.is_empty() {
            assert_eq!(
                stat(&server, "runtime.load_error"),
                index as u64 + 1,
                "{what}"
            );
            assert!(server.log().contains(named), "{what}: {}", server.log());
            assert!(server.get("/runtime").1.contains("good"), "{what}");
        }
        assert_eq!(request(&address, "GET", "/").1, "one", "{what}");
    }
}

#[test]
fn odd_runtime_values_are_refused_or_change_nothing() {
    let folder = Folder::new("hostile-runtime");
    let (server, address) = with_runtime(&folder);
    // As in Envoy, a pipe in a layer is ignored.
    fs::create_dir_all(folder.path("pipe/envoy")).unwrap();
    make_pipe(folder.path("pipe/envoy/p").to_str().unwrap());
    fs::write(folder.path("pipe/envoy/good"), "7").unwrap();
    symlink("pipe", folder.path("next")).unwrap();
    fs::rename(folder.path("next"), folder.path("root")).unwrap();
    server.wait_until(|| server.get("/runtime").1.contains("\"final_value\": \"7\""));
    for (query, status) in [
        ("?a=%7B", 503),
        ("?a=1&b=%5B", 503),
        ("", 400),
        ("?%ff=1", 200),
        ("?b=%00", 503),
    ] {
        let (got, text) = server.post(&format!("/runtime_modify{query}"));
        assert_eq!(got, status, "{query}: {text}");
        assert!(
            !server.get("/runtime").1.contains("\"a\""),
            "{query}: no value is set"
        );
    }
    assert!(
        server.get("/reload").1.contains("\"reloads\": []"),
        "only POST reloads"
    );
    assert_eq!(request(&address, "GET", "/").1, "one");
}

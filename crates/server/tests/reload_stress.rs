//! Many changes at once, and many after one another: no request is lost, no change is forgotten, nothing grows.
//!
//! `OUTRIDER_STRESS=10 cargo test -p outrider --test reload_stress` does ten times as much.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::fmt::Write as _;
use std::fs;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use crate::support::Folder;
use crate::support::Server;
use crate::support::config::address_of;
use crate::support::config::bootstrap;
use crate::support::config::dynamic;
use crate::support::config::listener;
use crate::support::config::reload;
use crate::support::config::resources;
use crate::support::request;

/// How many times as much as in CI.
fn times() -> usize {
    let wanted = std::env::var("OUTRIDER_STRESS");
    wanted.map_or(1, |times| times.parse().unwrap())
}

/// The value of a counter or gauge.
fn stat(server: &Server, name: &str) -> usize {
    let (_, text) = server.get(&format!("/stats?filter=^{}$", name.replace('.', "\\.")));
    let value = text.split_once(": ").map(|(_, value)| value.trim());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// Asks `address` all the time while `meanwhile` runs; every answer is 200 with one of the `bodies`.
fn ask_during(address: &str, bodies: &[&str], meanwhile: impl FnOnce()) {
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut asked = 0;
            while !ends.load(SeqCst) || asked == 0 {
                let (status, body) = request(address, "GET", "/");
                assert!(
                    status == 200 && bodies.contains(&body.as_str()),
                    "{status} {body}"
                );
                asked += 1;
            }
        });
        meanwhile();
        ends.store(true, SeqCst);
        client.join().unwrap();
    });
}

#[test]
fn a_thousand_clusters_change_by_one_file() {
    let count = 1000 * times();
    let folder = Folder::new("stress-clusters");
    let kind = "cluster.v3.Cluster";
    let list = |timeout: &str| -> Vec<String> {
        (0..count)
            .map(|i| format!("  name: c{i}\n  connect_timeout: {timeout}\n"))
            .collect()
    };
    let put = |list: &[String]| {
        let list: Vec<&str> = list.iter().map(String::as_str).collect();
        resources(&folder, "cds.yaml", kind, &list)
    };
    let clusters = put(&list("1s"));
    let listeners = resources(&folder, "lds.yaml", "listener.v3.Listener", &[]);
    let more = dynamic(&listeners, &clusters);
    let path = folder.file("e.yaml", &bootstrap(&[listener("l", "one", "")], &more));
    let server = Server::start(&folder, &["-c", &path]);
    let address = address_of(&server, "l");
    assert_eq!(stat(&server, "cluster_manager.active_clusters"), count);
    ask_during(&address, &["one"], || {
        put(&list("2s"));
        server.wait_until(|| stat(&server, "cluster_manager.cluster_modified") == count);
        put(&list("2s")[..count / 2]);
        server.wait_until(|| stat(&server, "cluster_manager.cluster_removed") == count / 2);
        put(&[]);
        server.wait_until(|| stat(&server, "cluster_manager.active_clusters") == 0);
    });
    assert_eq!(stat(&server, "cluster_manager.warming_clusters"), 0);
    assert_eq!(stat(&server, "cluster_manager.cluster_added"), count);
    assert_eq!(stat(&server, "cluster_manager.cds.update_rejected"), 0);
}

#[test]
fn a_thousand_routes_change_by_one_reload() {
    let count = 1000 * times();
    let folder = Folder::new("stress-routes");
    let config = |body: &str| {
        let mut routes = String::new();
        for i in 0..count {
            let answer =
                format!("direct_response: {{status: 200, body: {{inline_string: {body}{i}}}}}");
            write!(routes, "{{match: {{path: /r{i}}}, {answer}}}, ").unwrap();
        }
        let first = "routes: [";
        bootstrap(
            &[listener("l", body, "").replace(first, &format!("{first}{routes}"))],
            "",
        )
    };
    let path = folder.file("e.yaml", &config("one"));
    let server = Server::start(&folder, &["-c", &path]);
    let address = address_of(&server, "l");
    ask_during(&address, &["one", "two"], || {
        for body in ["two", "one", "two"] {
            folder.file("e.yaml", &config(body));
            assert_eq!(reload(&server).0, 200);
            let last = count - 1;
            let (_, text) = request(&address, "GET", &format!("/r{last}"));
            assert_eq!(text, format!("{body}{last}"));
        }
    });
}

#[test]
fn many_reloads_at_once_lose_nothing() {
    let folder = Folder::new("stress-storm");
    let config = |body: &str| bootstrap(&[listener("l", body, "")], "");
    let path = folder.file("e.yaml", &config("one"));
    let server = Server::start(&folder, &["-c", &path]);
    let address = address_of(&server, "l");
    let bodies = ["one", "two", "three"];
    ask_during(&address, &bodies, || {
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..10 * times()).for_each(|_| server.signal("HUP")));
                scope.spawn(|| (0..10 * times()).for_each(|_| assert_eq!(reload(&server).0, 200)));
            }
            for body in bodies.iter().cycle().take(30 * times()) {
                folder.file("new", &config(body));
                fs::rename(folder.path("new"), &path).unwrap();
            }
        });
    });
    folder.file("e.yaml", &config("last"));
    server.signal("HUP");
    server.wait_until(|| request(&address, "GET", "/").1 == "last");
    let counted = |name: &str| stat(&server, &format!("reload.{name}"));
    server.wait_until(|| counted("update_attempt") == counted("update_success"));
    let (_, reloads) = server.get("/reload");
    assert!(reloads.matches("\"outcome\"").count() <= 20, "{reloads}");
    assert_eq!(
        stat(&server, "listener_manager.total_listeners_draining"),
        0
    );
}

#[test]
fn half_of_a_file_is_refused_and_the_whole_is_applied() {
    let folder = Folder::new("stress-half");
    let config = |body: &str| bootstrap(&[listener("l", body, "")], "");
    let path = folder.file("e.yaml", &config("one"));
    let server = Server::start(&folder, &["-c", &path, "--watch-config"]);
    let address = address_of(&server, "l");
    let two = config("two");
    ask_during(&address, &["one"], || {
        for share in 1..10 * times() {
            // The last line that matters stays behind in each of them.
            let half = &two[..two.len() * share / (15 * times())];
            fs::write(&path, half).unwrap();
            assert_eq!(reload(&server).0, 400, "{half}");
        }
    });
    fs::write(&path, &two).unwrap();
    server.wait_until(|| request(&address, "GET", "/").1 == "two");
}

#[test]
fn reloads_leave_no_memory_behind() {
    let folder = Folder::new("stress-memory");
    let config = |body: &str, port: usize| {
        let moving = listener("m", body, &format!("stream_idle_timeout: {port}s"));
        let cluster =
            format!("  clusters: [{{name: c{port}, connect_timeout: {port}s, type: STATIC}}]\n");
        bootstrap(&[listener("l", body, ""), moving, cluster], "")
    };
    let path = folder.file("e.yaml", &config("one", 1));
    let server = Server::start(&folder, &["-c", &path, "--drain-time-s", "1"]);
    let reload_times = |count: usize| {
        for i in 0..count {
            folder.file("e.yaml", &config(["one", "two"][i % 2], i % 7 + 1));
            assert_eq!(reload(&server).0, 200);
        }
        server.wait_until(|| stat(&server, "listener_manager.total_filter_chains_draining") == 0);
        server.wait_until(|| stat(&server, "cluster_manager.active_clusters") == 1);
        server.resident_kb()
    };
    reload_times(30);
    let before = reload_times(20);
    let after = reload_times(60 * times());
    assert!(after < before + 4096, "{before} KB, then {after} KB");
}

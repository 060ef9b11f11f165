//! The binary as a child process: exit codes and messages of start-up, the admin server, signals.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::Folder;
use crate::support::Server;
use crate::support::outrider;

const ADMIN: &str = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}";

#[test]
fn validate_accepts_a_valid_file_and_binds_nothing() {
    let folder = Folder::new("validate");
    // The address is in use, which must not matter to `--mode validate`.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let file = folder.file(
        "envoy.yaml",
        &ADMIN.replace("port_value: 0", &format!("port_value: {port}")),
    );
    let output = outrider(&["-c", &file, "--mode", "validate"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("configuration '{file}' OK\n")
    );
    assert!(output.status.success());
}

#[test]
fn errors_end_start_up_with_a_message_and_code_1() {
    let folder = Folder::new("wrong");
    let good = folder.file("good.yaml", ADMIN);
    let bad = folder.file("bad.yaml", "admin:\n  adress: {}\n");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let busy = folder.file(
        "busy.yaml",
        &ADMIN.replace("port_value: 0", &format!("port_value: {port}")),
    );
    for (arguments, message) in [
        (
            &["-c", "/nonexistent/envoy.yaml"][..],
            "/nonexistent/envoy.yaml: cannot be opened",
        ),
        (&["-c", &bad], "bad.yaml:2:3: admin"),
        (&["-c", &bad, "--mode", "validate"], "did you mean address"),
        (&[], "give --config-path"),
        (
            &["-c", &good, "--log-path", "/nonexistent/log"],
            "failed to open log file '/nonexistent/log'",
        ),
        (&["-c", &busy], "Address already in use"),
        (
            &["-c", &good, "--no-such-flag"],
            "Couldn't find match for argument",
        ),
    ] {
        let output = outrider(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains(message), "{arguments:?}: {stderr}");
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    for argument in ["--help", "-h", "--version"] {
        let output = outrider(&[argument]);
        assert!(output.status.success());
        assert!(
            !output.stdout.is_empty() && output.stderr.is_empty(),
            "{argument}"
        );
    }
}

#[test]
fn init_only_exits_after_initialization() {
    let folder = Folder::new("init");
    let output = outrider(&[
        "-c",
        &folder.file("envoy.yaml", ADMIN),
        "--mode",
        "init_only",
    ]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn it_gets_ready_and_ends_with_0_on_term_int_and_quitquitquit() {
    let folder = Folder::new("ends");
    let file = folder.file("envoy.yaml", ADMIN);
    for end in ["TERM", "INT", "quit"] {
        let mut server = Server::start(&folder, &["-c", &file]);
        assert_eq!(server.get("/ready"), (200, "LIVE\n".to_owned()));
        match end {
            "quit" => assert_eq!(server.post("/quitquitquit").0, 200),
            signal => server.signal(signal),
        }
        assert!(server.wait().success(), "{end}");
        let log = server.log();
        assert!(
            log.contains("[info][main] ") && log.contains("] exiting"),
            "{log}"
        );
    }
}

#[test]
fn sighup_does_not_end_the_process_and_sigusr1_reopens_the_log() {
    let folder = Folder::new("signals");
    let file = folder.file("envoy.yaml", ADMIN);
    let server = Server::start(&folder, &["-c", &file]);
    let (log, moved) = (folder.path("log"), folder.path("log.1"));
    fs::rename(&log, &moved).unwrap();
    server.signal("HUP");
    server.wait_until(|| {
        fs::read_to_string(&moved)
            .unwrap()
            .contains("caught SIGHUP")
    });
    server.signal("USR1");
    server.wait_until(|| log.exists());
    assert_eq!(server.post("/logging?level=debug").0, 200);
    assert_eq!(server.get("/ready").0, 200);
}

#[test]
fn health_checks_can_be_failed_and_recover() {
    let folder = Folder::new("health");
    let server = Server::start(&folder, &["-c", &folder.file("envoy.yaml", ADMIN)]);
    assert_eq!(server.post("/healthcheck/fail"), (200, "OK\n".to_owned()));
    assert_eq!(server.get("/ready"), (503, "DRAINING\n".to_owned()));
    assert_eq!(server.post("/healthcheck/ok").0, 200);
    assert_eq!(server.get("/ready").0, 200);
}

#[test]
fn a_runtime_layer_is_shown_and_overridden() {
    let folder = Folder::new("runtime");
    let layers = "layered_runtime: {layers: [{name: base, static_layer: {re2: {max_program_size.warn_level: 1}, re2.max_program_size.error_level: 9}}, {name: top, admin_layer: {}}]}";
    let server = Server::start(
        &folder,
        &[
            "-c",
            &folder.file("envoy.yaml", &format!("{ADMIN}\n{layers}\n")),
        ],
    );
    assert_eq!(
        server
            .post("/runtime_modify?re2.max_program_size.warn_level=2")
            .0,
        200
    );
    let runtime: serde_json::Value = serde_json::from_str(&server.get("/runtime").1).unwrap();
    assert_eq!(runtime["layers"], serde_json::json!(["base", "top"]));
    assert_eq!(
        runtime["entries"]["re2.max_program_size.warn_level"]["final_value"],
        "2"
    );
    assert_eq!(
        runtime["entries"]["re2.max_program_size.error_level"]["layer_values"],
        serde_json::json!(["9", ""])
    );
}

/// The text is Envoy's.
#[test]
fn a_regular_expression_above_the_warn_level_is_logged() {
    let folder = Folder::new("regex-size");
    let config = format!(
        "{ADMIN}
layered_runtime: {{layers: [{{name: base, static_layer: {{re2.max_program_size.warn_level: 10}}}}]}}
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          http_filters: [{{name: router, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]
          route_config: {{virtual_hosts: [{{name: all, domains: [\"*\"], routes: [
            {{match: {{safe_regex: {{regex: /abc}}}}, direct_response: {{status: 200}}}},
            {{match: {{safe_regex: {{regex: \"/a{{40}}\"}}}}, direct_response: {{status: 200}}}}]}}]}}
"
    );
    let server = Server::start(&folder, &["-c", &folder.file("envoy.yaml", &config)]);
    let log = server.log();
    let lines: Vec<_> = log.lines().filter(|l| l.contains("program size")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(
        lines[0].contains("[warning][misc]")
            && lines[0].ends_with(
                "regex '/a{40}' RE2 program size of 45 > max program size of 10 set for the warn level threshold. \
                 Increase configured max program size if necessary."
            ),
        "{log}"
    );
}

#[test]
fn a_json_log_has_its_fields() {
    let folder = Folder::new("json-log");
    let format = "application_log_config: {log_format: {json_format: {Level: '%l', Message: '%j', Version: 3}}}";
    let mut server = Server::start(
        &folder,
        &[
            "-c",
            &folder.file("envoy.yaml", &format!("{ADMIN}\n{format}\n")),
        ],
    );
    server.signal("TERM");
    assert!(server.wait().success());
    let log = server.log();
    let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(
        last,
        serde_json::json!({"Level": "info", "Message": "exiting", "Version": 3})
    );
}

#[test]
fn every_example_is_a_valid_config() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
    let mut files = 0;
    for entry in fs::read_dir(examples).unwrap() {
        let file = entry.unwrap().path().join("envoy.yaml");
        if file.exists() {
            let output = outrider(&["-c", file.to_str().unwrap(), "--mode", "validate"]);
            assert!(
                output.status.success(),
                "{}: {}",
                file.display(),
                String::from_utf8_lossy(&output.stderr)
            );
            files += 1;
        }
    }
    assert!(files >= 4);
}

#[test]
fn the_manifest_contains_the_example_config() {
    let file = include_str!("../../../examples/sidecar/envoy.yaml");
    let manifest = include_str!("../../../examples/sidecar/kubernetes.yaml");
    let indented = |line: &str| {
        if line.is_empty() {
            "\n".to_owned()
        } else {
            format!("    {line}\n")
        }
    };
    let embedded: String = file.lines().map(indented).collect();
    assert!(
        manifest.contains(&embedded),
        "kubernetes.yaml and envoy.yaml say different things"
    );
}

#[test]
fn ci_is_an_executable() {
    let mode = fs::metadata(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.ci/run"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o111, 0o111);
}

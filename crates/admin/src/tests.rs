//! Tests an admin server in this process over a socket; the expected responses are those of Envoy 1.40.

use std::cell::Cell;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use std::time::SystemTime;

use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3 as api;
use outrider_config::api::envoy::r#type::matcher::v3::StringMatcher;
use outrider_config::api::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use outrider_net::Address;
use outrider_upstream::ClusterView;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use super::*;

mod pipe;
mod time_limits;

#[derive(Default)]
struct Fake {
    state: Cell<Option<ServerState>>,
    calls: RefCell<Vec<String>>,
    admin_layer: bool,
}

impl Fake {
    fn note(&self, call: impl Into<String>) {
        self.calls.borrow_mut().push(call.into());
    }
}

impl ServerControl for Fake {
    fn reload(&self) -> Pin<Box<dyn Future<Output = crate::ReloadResponse>>> {
        Box::pin(std::future::ready(crate::ReloadResponse {
            is_applied: false,
            report: serde_json::json!({ "outcome": "rejected" }),
        }))
    }

    fn reloads(&self) -> serde_json::Value {
        serde_json::json!({ "reloads": [] })
    }

    fn state(&self) -> ServerState {
        self.state.get().unwrap_or(ServerState::Live)
    }

    fn info(&self) -> ServerInfo {
        ServerInfo {
            version: "v".into(),
            uptime: Duration::from_millis(5_900),
            command_line_options: json!({ "concurrency": 2 }),
            node: json!({ "id": "" }),
        }
    }

    fn listeners(&self) -> Vec<ListenerView> {
        let ip = |address: &str| Address::from(address.parse::<std::net::SocketAddr>().unwrap());
        vec![
            ListenerView {
                name: "p".into(),
                addresses: vec![Address::pipe("/tmp/u.sock", 0)],
            },
            ListenerView {
                name: "multi".into(),
                addresses: vec![ip("127.0.0.1:18381"), ip("[::1]:18382")],
            },
        ]
    }

    fn clusters(&self) -> Vec<ClusterView> {
        Vec::new()
    }

    fn certificates(&self) -> Vec<outrider_tls::ContextCertificates> {
        Vec::new()
    }

    fn config_dump(&self) -> ConfigDump {
        let dumped = |message| DumpedMessage {
            message,
            last_updated: SystemTime::UNIX_EPOCH,
        };
        ConfigDump {
            bootstrap: dumped(json!({ "node": {} })),
            clusters: vec![
                dumped(json!({ "name": "a", "type": "STATIC" })),
                dumped(json!({ "name": "grpc_b" })),
            ],
            listeners: Vec::new(),
            routes: Vec::new(),
            dynamic: Default::default(),
        }
    }

    fn normalize_path(&self, path: &str) -> Option<String> {
        Some(path.replace("//", "/"))
    }

    fn unready_targets(&self) -> Vec<UnreadyTargets> {
        Vec::new()
    }

    fn loggers(&self) -> Vec<(&'static str, &'static str)> {
        vec![("admin", "info"), ("http", "debug")]
    }

    fn set_log_level(&self, logger: Option<&str>, level: &str) {
        self.note(format!("{}={level}", logger.unwrap_or("*")));
    }

    fn reopen_logs(&self) {
        self.note("reopen");
    }

    fn runtime(&self) -> RuntimeView {
        RuntimeView {
            layers: vec!["static".into(), "admin".into()],
            entries: vec![
                ("foo".into(), vec!["true".into(), "baz".into()]),
                ("bar".into(), vec!["1".into(), String::new()]),
            ],
        }
    }

    fn modify_runtime(&self, values: &[(String, String)]) -> Result<(), String> {
        self.note(format!("{values:?}"));
        let error = || "No admin layer specified".to_owned();
        self.admin_layer.then_some(()).ok_or_else(error)
    }

    fn fail_health_checks(&self, fail: bool) {
        self.state.set(fail.then_some(ServerState::Draining));
    }

    fn drain_listeners(&self, drain: DrainListeners) {
        self.note(format!("{drain:?}"));
    }

    fn quit(&self) {
        self.note("quit");
    }
}

/// Runs `test` against an admin server.
fn with<F: Future<Output = ()>>(admin: Admin, test: impl FnOnce(Address) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let any = Address::from("127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap());
        let listener = AdminListener::bind(&any).await.unwrap();
        let address = listener.address().clone();
        let server = tokio::task::spawn_local(serve(listener, Rc::new(admin)));
        test(address).await;
        server.abort();
    });
}

fn admin(fake: &Rc<Fake>) -> Admin {
    Admin::new(AdminConfig::default(), Store::new(), fake.clone())
}

/// Sends `request`, and returns all bytes until the server closes the connection.
async fn raw(address: &Address, request: &str) -> String {
    let mut stream = TcpStream::connect(address.ip().unwrap()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// The status and body of the response to `METHOD /target`.
async fn ask(address: &Address, request: &str) -> (u16, String) {
    let head = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let answer = raw(address, &head).await;
    let (head, mut rest) = answer.split_once("\r\n\r\n").unwrap();
    let mut body = String::new();
    while let Some((size, tail)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        body += &tail[..size];
        rest = tail[size..].strip_prefix("\r\n").unwrap();
    }
    (head[9..12].parse().unwrap(), body)
}

#[test]
fn headers_are_envoys() {
    with(admin(&Rc::default()), async |address| {
        let answer = raw(
            &address,
            "GET /ready HTTP/1.1\r\nHost: x\r\n\r\nHEAD /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        )
        .await;
        let lines: Vec<_> = answer
            .split("\r\n")
            .map(|l| l.split_once("date: ").map_or(l, |_| "date"))
            .collect();
        let head = [
            "HTTP/1.1 200 OK",
            "content-type: text/plain; charset=UTF-8",
            "cache-control: no-cache, max-age=0",
            "x-content-type-options: nosniff",
            "date",
            "server: envoy",
        ];
        let mut want = head.to_vec();
        want.extend(["transfer-encoding: chunked", "", "5", "LIVE\n", "0", ""]);
        want.extend(head);
        want.extend(["connection: close", "", ""]);
        assert_eq!(lines, want);
    });
}

#[test]
fn malformed_requests_are_refused() {
    with(admin(&Rc::default()), async |address| {
        let answer = raw(&address, "GET /ready HTTP/1.0\r\n\r\n").await;
        let lines: Vec<_> = answer
            .split("\r\n")
            .filter(|l| !l.starts_with("date"))
            .collect();
        let want = [
            "HTTP/1.0 426 Upgrade Required",
            "content-length: 16",
            "content-type: text/plain",
            "server: envoy",
            "connection: close",
            "",
            "Upgrade Required",
        ];
        assert_eq!(lines, want);
    });
}

#[test]
fn ready_follows_the_state() {
    let fake = Rc::new(Fake::default());
    with(admin(&fake), async |address| {
        assert_eq!(ask(&address, "PUT /ready").await, (200, "LIVE\n".into()));
        assert_eq!(
            ask(&address, "POST /healthcheck/fail").await,
            (200, "OK\n".into())
        );
        assert_eq!(
            ask(&address, "GET /ready").await,
            (503, "DRAINING\n".into())
        );
        assert_eq!(
            ask(&address, "POST /healthcheck/ok").await,
            (200, "OK\n".into())
        );
        assert_eq!(ask(&address, "GET /ready").await, (200, "LIVE\n".into()));
        for state in [ServerState::PreInitializing, ServerState::Initializing] {
            fake.state.set(Some(state));
            let want = (503, format!("{}\n", state.name()));
            assert_eq!(ask(&address, "GET /ready").await, want);
        }
    });
}

#[test]
fn endpoints_that_change_something_require_post() {
    let fake = Rc::new(Fake::default());
    with(admin(&fake), async |address| {
        for endpoint in endpoints::ENDPOINTS.iter().filter(|e| e.mutates) {
            let want = (405, "Method GET not allowed, POST required.".to_owned());
            assert_eq!(ask(&address, &format!("GET {}", endpoint.path)).await, want);
        }
        assert!(fake.calls.borrow().is_empty());
    });
}

#[test]
fn commands_reach_the_server() {
    let fake = Rc::new(Fake::default());
    with(admin(&fake), async |address| {
        for (request, status, call) in [
            ("/quitquitquit", 200, "quit"),
            ("/reopen_logs", 200, "reopen"),
            ("/logging?level=trace", 200, "*=trace"),
            ("/logging?http=off", 200, "http=off"),
            ("/runtime_modify?a=1", 503, r#"[("a", "1")]"#),
            (
                "/drain_listeners?graceful&inboundonly",
                200,
                "DrainListeners { graceful: true, skip_exit: false, inbound_only: true }",
            ),
        ] {
            let (got, _) = ask(&address, &format!("POST {request}")).await;
            assert_eq!(got, status, "{request}");
            assert_eq!(fake.calls.take(), [call], "{request}");
        }
        let (_, _) = ask(&address, "POST /logging?paths=http:info,admin:error").await;
        assert_eq!(fake.calls.take(), ["http=info", "admin=error"]);
    });
}

/// A request, and the status and the start of the body of its response.
const EXPLAINED: &[(&str, u16, &str)] = &[
    (
        "GET /nope",
        404,
        "invalid path. admin commands are:\n  /: Admin home page\n  /allocprofiler (POST): ",
    ),
    (
        "POST /logging?level=x",
        400,
        "error: unknown logger level\n\nusage: /logging?<name>=<level> ",
    ),
    (
        "POST /logging?x=info",
        400,
        "error: unknown logger name\n\n",
    ),
    (
        "POST /logging?http=info&admin=info",
        400,
        "error: invalid number of parameters\n\n",
    ),
    (
        "POST /logging?paths=http",
        400,
        "error: empty logger name or empty logger level\n\n",
    ),
    (
        "POST /logging?paths=http:info,x:info",
        400,
        "error: unknown logger name\n\n",
    ),
    (
        "POST /logging?group=http:info",
        400,
        "error: group parameter requires fine-grain logging to be enabled\n\n",
    ),
    (
        "POST /logging",
        200,
        "active loggers:\n  admin: info\n  http: debug\n\n",
    ),
    (
        "POST /runtime_modify",
        400,
        "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n       or send ",
    ),
    ("GET /stats?type=x", 400, "invalid &type= param"),
    ("GET /stats?filter=(", 400, "Invalid re2 regex: "),
    (
        "GET /stats?format=x",
        400,
        "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n",
    ),
    (
        "GET /stats?hidden=x",
        400,
        "usage: /stats?hidden=(include|only|exclude)\n\n",
    ),
    (
        "GET /stats?histogram_buckets=x",
        400,
        "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)\n",
    ),
    (
        "GET /stats/prometheus?histogram_buckets=detailed",
        400,
        "unsupported prometheus histogram bucket mode",
    ),
    ("POST /cpuprofiler", 400, "?enable=<y|n>\n"),
    (
        "GET /config_dump?resource=foo",
        404,
        "foo not found in config dump",
    ),
    (
        "GET /config_dump?mask=foo",
        400,
        "FieldMask foo could not be successfully applied to any configs.",
    ),
    (
        "GET /config_dump?resource=bootstrap",
        400,
        "bootstrap is not a repeated field. Use ?mask=bootstrap to get only this field",
    ),
];

#[test]
fn invalid_parameters_are_refused_with_envoys_messages() {
    let fake = Rc::new(Fake::default());
    with(admin(&fake), async |address| {
        for (request, status, text) in EXPLAINED {
            let (got, body) = ask(&address, request).await;
            assert_eq!(got, *status, "{request}: {body}");
            assert!(body.starts_with(text), "{request}: {body}");
        }
        assert!(fake.calls.borrow().is_empty());
    });
}

#[test]
fn listeners_in_both_formats() {
    with(admin(&Rc::default()), async |address| {
        let (_, text) = ask(&address, "GET /listeners").await;
        assert_eq!(
            text,
            "p::/tmp/u.sock\nmulti::127.0.0.1:18381\nmulti::[::1]:18382\n"
        );
        let (_, shown) = ask(&address, "GET /listeners?format=json").await;
        let start = "{\n \"listener_statuses\": [\n  {\n   \"name\": \"p\",\n   \"local_address\": {\n    \"pipe\": {\n     \"path\": \"/tmp/u.sock\"\n    }\n   }\n  },\n";
        assert!(shown.starts_with(start), "{shown}");
        let end = "   \"additional_local_addresses\": [\n    {\n     \"socket_address\": {\n      \"address\": \"::1\",\n      \"port_value\": 18382\n     }\n    }\n   ]\n  }\n ]\n}\n";
        assert!(shown.ends_with(end), "{shown}");
    });
}

#[test]
fn json_answers() {
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    with(admin(&Rc::default()), async |address| {
        let (_, info) = ask(&address, "GET /server_info").await;
        let info = json(&info);
        assert_eq!(info["state"], "LIVE");
        assert_eq!(info["uptime_current_epoch"], "5s");
        let (_, runtime) = ask(&address, "GET /runtime").await;
        let runtime = json(&runtime);
        assert_eq!(runtime["entries"]["foo"]["final_value"], "baz");
        assert_eq!(runtime["entries"]["bar"]["final_value"], "1");
        assert_eq!(runtime["layers"], json!(["static", "admin"]));
        let (_, init) = ask(&address, "GET /init_dump").await;
        assert_eq!(init, "{}\n");
        let (_, memory) = ask(&address, "GET /memory").await;
        assert_ne!(json(&memory)["total_physical_bytes"], "0");
    });
}

#[test]
fn config_dump_by_resource_and_mask() {
    with(admin(&Rc::default()), async |address| {
        let dump = async |query: &str| {
            let (status, body) = ask(&address, &format!("GET /config_dump{query}")).await;
            assert_eq!(status, 200, "{query}: {body}");
            serde_json::from_str::<serde_json::Value>(&body).unwrap()
        };
        let all = dump("").await;
        let types: Vec<_> = all["configs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["@type"].as_str().unwrap())
            .collect();
        let sections = [
            "Bootstrap",
            "Clusters",
            "Listeners",
            "ScopedRoutes",
            "Routes",
            "Secrets",
        ];
        assert_eq!(
            types,
            sections.map(|s| format!("type.googleapis.com/envoy.admin.v3.{s}ConfigDump"))
        );
        let cluster = &all["configs"][1]["static_clusters"][0]["cluster"];
        assert_eq!(
            cluster["@type"],
            "type.googleapis.com/envoy.config.cluster.v3.Cluster"
        );

        let named = dump("?resource=static_clusters&name_regex=grpc.*&mask=cluster.name").await;
        let want = json!({ "configs": [{
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster",
            "cluster": { "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "grpc_b" },
        }] });
        assert_eq!(named, want);
        assert_eq!(dump("?resource=dynamic_active_clusters").await, json!({}));
        let masked = dump("?mask=bootstrap").await;
        assert_eq!(masked["configs"].as_array().unwrap().len(), 1);
    });
}

/// The stats include the request that shows them.
#[test]
fn stats_include_their_own_request() {
    with(admin(&Rc::default()), async |address| {
        let (_, text) = ask(&address, "GET /stats?filter=admin&usedonly").await;
        for line in [
            "http.admin.downstream_cx_active: 1\n",
            "http.admin.downstream_rq_2xx: 1\n",
            "http.admin.downstream_rq_active: 1\n",
            "listener.admin.http.admin.downstream_rq_completed: 1\n",
            "listener.admin.main_thread.downstream_cx_total: 1\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        let (_, text) = ask(
            &address,
            "GET /stats?filter=cx_destroy&usedonly&format=prometheus",
        )
        .await;
        let want = "# TYPE envoy_http_downstream_cx_destroy counter\nenvoy_http_downstream_cx_destroy{envoy_http_conn_manager_prefix=\"admin\"} 1\n";
        assert!(text.starts_with(want), "{text}");
    });
}

#[test]
fn allow_paths_and_the_access_log() {
    let config = api::Admin {
        allow_paths: vec![StringMatcher {
            match_pattern: Some(MatchPattern::Exact("/ready".into())),
            ignore_case: false,
        }],
        ..api::Admin::default()
    };
    let config = AdminConfig::build(&config, &FieldPath::root()).unwrap();
    let log = Rc::new(RefCell::new(Vec::new()));
    let to = log.clone();
    let admin = Admin::new(config, Store::new(), Rc::new(Fake::default())).with_access_log(
        Box::new(move |r| {
            let head = r.head.clone().unwrap_or_default();
            let line = format!("{} {} {} {}", head.method, head.target, r.status, r.sent);
            to.borrow_mut().push(line);
        }),
    );
    with(admin, async |address| {
        let want = (403, "request to path /help not allowed".to_owned());
        assert_eq!(ask(&address, "GET /help").await, want);
        assert_eq!(ask(&address, "GET /ready?x").await.0, 403);
        assert_eq!(ask(&address, "GET /ready").await.0, 200);
    });
    let want = [
        "GET /help 403 33",
        "GET /ready?x 403 36",
        "GET /ready 200 5",
    ];
    assert_eq!(*log.borrow(), want);
}

#[test]
fn a_form_in_the_body_modifies_the_runtime() {
    let fake = Rc::new(Fake {
        admin_layer: true,
        ..Fake::default()
    });
    with(admin(&fake), async |address| {
        for body in [
            "content-length: 7\r\n\r\na=1&b=2",
            "transfer-encoding: chunked\r\n\r\n3\r\na=1\r\n4;x\r\n&b=2\r\n0\r\n\r\n",
        ] {
            let head = "POST /runtime_modify HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/x-www-form-urlencoded\r\n";
            let answer = raw(&address, &format!("{head}{body}")).await;
            assert!(answer.ends_with("3\r\nOK\n\r\n0\r\n\r\n"), "{answer}");
            assert_eq!(fake.calls.take(), [r#"[("a", "1"), ("b", "2")]"#]);
        }
    });
}

/// Help lists the commands of Envoy 1.40, so that tools that read it find the same ones.
#[test]
fn the_home_page_links_every_endpoint() {
    with(admin(&Rc::default()), async |address| {
        let (_, page) = ask(&address, "GET /").await;
        for endpoint in endpoints::ENDPOINTS.iter().skip(1) {
            let name = &endpoint.path[1..];
            assert!(page.contains(&format!("='{name}'")), "{name}");
        }
        let mut paths: Vec<_> = endpoints::ENDPOINTS.iter().map(|e| e.path).collect();
        assert!(paths.is_sorted());
        paths.dedup();
        assert_eq!(paths.len(), endpoints::ENDPOINTS.len());
    });
}

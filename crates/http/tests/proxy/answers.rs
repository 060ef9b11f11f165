//! Local replies.

use crate::support::TestProxy;
use crate::support::get;
use crate::support::grpc;
use crate::support::routes;
use crate::support::run;

#[test]
fn a_direct_response_reaches_the_client() {
    run(async {
        let teapot = "{match: {prefix: /tea}, direct_response: {status: 418, body: {inline_string: teapot}}}";
        let proxy = TestProxy::start(&routes(teapot), "").await;
        let answer = proxy.h2(get("/tea")).await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (418, "teapot"));
        let names: Vec<_> = answer
            .headers
            .keys()
            .map(http::HeaderName::as_str)
            .collect();
        assert_eq!(names, ["content-length", "content-type", "date", "server"]);
        assert_eq!(proxy.stat("http.test.downstream_rq_4xx"), 1);
        assert_eq!(proxy.stat("http.test.rq_direct_response"), 1);
        assert_eq!(proxy.stat("http.test.downstream_rq_active"), 0);
        assert_eq!(
            proxy.stat("listener.test.http.test.downstream_rq_completed"),
            1
        );
    });
}

#[test]
fn a_grpc_call_without_a_route_is_unimplemented() {
    run(async {
        let proxy = TestProxy::start(&routes(""), "").await;
        let answer = proxy.h2(grpc("/a.B/C")).await.unwrap();
        assert_eq!((answer.status, answer.header("grpc-status")), (200, "12"));
        assert_eq!(answer.header("content-type"), "application/grpc");
        assert_eq!(proxy.stat("http.test.no_route"), 1);
    });
}

#[test]
fn an_http1_client_gets_local_replies_too() {
    run(async {
        let proxy = TestProxy::start(&routes(""), "").await;
        let answer = proxy
            .h1("GET /x HTTP/1.1\r\nhost: h.test\r\nconnection: close\r\n\r\n")
            .await;
        assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
    });
}

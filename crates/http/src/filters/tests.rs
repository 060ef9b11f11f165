//! In which order a chain runs its filters, and which configurations are refused.

use std::cell::RefCell;

use http::StatusCode;

use super::*;
use crate::testing;
use outrider_codec::ResponseHead;

/// The steps that a test's filters noted, in order.
type Steps = Rc<RefCell<Vec<String>>>;

/// A filter that notes each call and then does what the test wants.
#[derive(Debug)]
struct Scripted {
    name: &'static str,
    flow: fn() -> FilterStatus,
}

impl HttpFilter for Scripted {
    fn on_request(&self, stream: &mut Stream) -> FilterStatus {
        note(stream, self.name);
        (self.flow)()
    }

    fn on_response(&self, stream: &mut Stream) -> FilterStatus {
        note(stream, self.name);
        (self.flow)()
    }
}

/// The action of a scripted filter.
type Act = fn() -> FilterStatus;

fn note(stream: &mut Stream, name: &str) {
    let headers = &mut stream.request.headers;
    let steps = headers
        .get("x-steps")
        .map_or("", |steps| steps.as_str().unwrap());
    let steps = HeaderValue::try_from(format!("{steps}{name}")).unwrap();
    headers.insert(HeaderName::from_static("x-steps"), steps);
}

fn chain(filters: &[(&'static str, Act)]) -> HttpFilterChain {
    let filters = filters
        .iter()
        .map(|&(name, flow)| -> Rc<dyn HttpFilter> { Rc::new(Scripted { name, flow }) });
    HttpFilterChain(filters.collect())
}

fn wait(verdict: WaitResult) -> FilterStatus {
    FilterStatus::Wait(Box::pin(std::future::ready(verdict)))
}

fn edits() -> WaitResult {
    WaitResult::Continue(HeaderEdits {
        remove: vec![HeaderName::from_static("x-old")],
        set: vec![(
            HeaderName::from_static("x-new"),
            HeaderValue::from_static("1"),
        )],
    })
}

#[tokio::test]
async fn a_request_goes_down_and_a_response_up() {
    let chain = chain(&[
        ("a", || FilterStatus::Continue),
        ("b", || FilterStatus::Reroute),
        ("c", || wait(edits())),
    ]);
    let steps = Steps::default();
    let mut stream = testing::stream();
    let old = HeaderName::from_static("x-old");
    let headers = &mut stream.request.headers;
    headers.insert(old, HeaderValue::from_static("1"));
    let reroute = |_: &mut Stream| steps.borrow_mut().push("reroute".to_owned());
    chain
        .request(&mut stream, Body::Empty, reroute)
        .await
        .unwrap();
    assert_eq!(stream.request.headers["x-steps"], "abc");
    assert_eq!(*steps.borrow(), ["reroute"]);
    assert_eq!(stream.request.headers["x-new"], "1");
    assert!(!stream.request.headers.contains_key("x-old"));

    stream.response = Some(ResponseHead {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
    });
    chain.response(&mut stream, Body::Empty).await.unwrap();
    assert_eq!(stream.request.headers["x-steps"], "abccba");
    assert_eq!(stream.response.unwrap().headers["x-new"], "1");
}

#[tokio::test]
async fn a_reply_ends_the_chain() {
    let forbidden = || LocalReply::new(StatusCode::FORBIDDEN, "no");
    for stop in [
        (|| FilterStatus::Reply(LocalReply::new(StatusCode::FORBIDDEN, "no")))
            as fn() -> FilterStatus,
        || {
            wait(WaitResult::Reply(LocalReply::new(
                StatusCode::FORBIDDEN,
                "no",
            )))
        },
    ] {
        let chain = chain(&[
            ("a", || FilterStatus::Continue),
            ("b", stop),
            ("c", || FilterStatus::Continue),
        ]);
        let mut stream = testing::stream();
        let reply = chain
            .request(&mut stream, Body::Empty, |_| {})
            .await
            .unwrap_err();
        assert_eq!(reply.status, forbidden().status);
        assert_eq!(stream.request.headers["x-steps"], "ab");
    }
}

#[test]
fn the_router_is_last_and_others_are_refused_by_name() {
    let filter = |name: &str, message: &str| HttpFilterMessage {
        name: name.to_owned(),
        config_type: Some(ConfigType::TypedConfig(Any {
            type_url: format!("type.googleapis.com/{message}"),
            value: Vec::new(),
        })),
        ..HttpFilterMessage::default()
    };
    let router = || filter("router", "envoy.extensions.filters.http.router.v3.Router");
    let cors = || filter("cors", "envoy.extensions.filters.http.cors.v3.Cors");
    let errors = |filters: &[HttpFilterMessage]| match HttpFilterChainConfig::build(
        filters,
        &FieldPath::root().field("http_filters"),
    ) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.0.iter().map(ToString::to_string).collect(),
    };
    assert!(errors(&[router()]).is_empty());
    assert!(errors(&[]).is_empty());
    let refused = errors(&[cors(), router()]);
    assert_eq!(
        refused,
        [
            "http_filters[0].typed_config: not supported: HTTP filter envoy.extensions.filters.http.cors.v3.Cors; \
          expected one of: envoy.extensions.filters.http.grpc_stats.v3.FilterConfig, envoy.extensions.filters.http.router.v3.Router"
        ]
    );
    assert_eq!(errors(&[router(), router()]).len(), 1);
    assert_eq!(errors(&[HttpFilterMessage::default()]).len(), 1);
}

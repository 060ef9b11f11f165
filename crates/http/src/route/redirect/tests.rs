use http::uri::Scheme;
use outrider_config::api::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use outrider_config::api::envoy::r#type::matcher::v3::RegexMatcher;

use super::*;
use crate::route::tests::head;
use crate::route::tests::stream;

fn location(config: RedirectAction, host: &str, path: &str) -> String {
    let matched = PathMatch::Prefix("/a".into());
    let redirect = Redirect::build(&config, &matched, &FieldPath::root()).unwrap();
    redirect.apply(&mut stream(head("GET", host, path, &[("x-a", "v")])), true)
}

/// Responses of Envoy 1.40.0 to `http://old:8080/a/b?x=1`.
#[test]
fn locations_are_the_same_as_envoys() {
    let to = |path| RedirectAction {
        path_rewrite_specifier: Some(path),
        ..Default::default()
    };
    let scheme = |scheme| RedirectAction {
        scheme_rewrite_specifier: Some(scheme),
        ..Default::default()
    };
    let text = str::to_owned;
    let regex = |pattern: &str| {
        PathRewriteSpecifier::RegexRewrite(RegexMatchAndSubstitute {
            pattern: Some(RegexMatcher {
                regex: text(pattern),
                ..Default::default()
            }),
            substitution: text("/z\\1"),
        })
    };
    let host = RedirectAction {
        host_redirect: text("new:8"),
        ..Default::default()
    };
    let port = RedirectAction {
        port_redirect: 443,
        ..Default::default()
    };
    let strip = RedirectAction {
        strip_query: true,
        ..Default::default()
    };
    let fixed = |path: &str| to(PathRewriteSpecifier::PathRedirect(text(path)));
    let stripped = RedirectAction {
        strip_query: true,
        ..fixed("/p")
    };
    for (config, expected) in [
        (RedirectAction::default(), "http://old:8080/a/b?x=1"),
        (host, "http://new:8/a/b?x=1"),
        (port, "http://old:443/a/b?x=1"),
        (
            scheme(SchemeRewriteSpecifier::HttpsRedirect(true)),
            "https://old:8080/a/b?x=1",
        ),
        (
            scheme(SchemeRewriteSpecifier::SchemeRedirect(text("HTTPS"))),
            "HTTPS://old:8080/a/b?x=1",
        ),
        (fixed("/p"), "http://old:8080/p?x=1"),
        (fixed("/p?a=b"), "http://old:8080/p?a=b"),
        (fixed("p"), "http://old:8080/p?x=1"),
        (fixed("/p#f"), "http://old:8080/p#f?x=1"),
        (stripped, "http://old:8080/p"),
        (
            to(PathRewriteSpecifier::PrefixRewrite(text("/n"))),
            "http://old:8080/n/b?x=1",
        ),
        (strip, "http://old:8080/a/b"),
        (to(regex("/a(.*)")), "http://old:8080/z/b?x=1"),
        (to(regex("/nomatch(.*)")), "http://old:8080/a/b?x=1"),
        (
            to(PathRewriteSpecifier::PathRewrite(text("/pr/%REQ(x-a)%"))),
            "http://old:8080/pr/v?x=1",
        ),
    ] {
        assert_eq!(
            location(config.clone(), "old:8080", "/a/b?x=1"),
            expected,
            "{config:?}"
        );
    }
}

#[test]
fn a_new_scheme_removes_the_default_port() {
    let https = || RedirectAction {
        scheme_rewrite_specifier: Some(SchemeRewriteSpecifier::HttpsRedirect(true)),
        ..Default::default()
    };
    for (host, expected) in [
        ("old:80", "https://old/a"),
        ("old", "https://old/a"),
        ("[::1]:80", "https://[::1]/a"),
        ("[::1]", "https://[::1]/a"),
        ("old:443", "https://old:443/a"),
    ] {
        assert_eq!(location(https(), host, "/a"), expected);
    }
    let mut secure = stream(head("GET", "old:80", "/a", &[]));
    secure.request.scheme = Some(Scheme::HTTPS);
    let redirect = Redirect::build(&https(), &PathMatch::Connect, &FieldPath::root()).unwrap();
    assert_eq!(redirect.apply(&mut secure, true), "https://old:80/a");
}

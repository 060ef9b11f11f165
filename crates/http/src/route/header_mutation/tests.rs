use outrider_config::api::envoy::config::core::v3::HeaderValue as ApiHeaderValue;

use super::*;
use crate::route::tests::head;
use crate::route::tests::respond;
use crate::route::tests::stream;

fn option(key: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(ApiHeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            ..Default::default()
        }),
        append_action: action.into(),
        ..Default::default()
    }
}

fn append(key: &str, value: &str) -> HeaderValueOption {
    option(key, value, HeaderAppendAction::AppendIfExistsOrAdd)
}

fn build(add: &[HeaderValueOption], remove: &[&str]) -> Result<HeaderMutations, String> {
    let remove: Vec<_> = remove.iter().copied().map(str::to_owned).collect();
    HeaderMutations::build("request", add, &remove, &FieldPath::root())
        .map_err(|errors| errors.to_string())
}

fn mutated(add: &[HeaderValueOption], remove: &[&str], headers: &[(&str, &str)]) -> String {
    let mut stream = stream(head("GET", "h", "/p", headers));
    build(add, remove).unwrap().apply_to_request(&mut stream);
    let mut lines: Vec<_> = stream
        .request
        .headers
        .iter()
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap()))
        .collect();
    lines.sort();
    lines.join(" ")
}

#[test]
fn each_append_action_works_as_in_envoy() {
    use HeaderAppendAction as Action;
    for (action, absent, present) in [
        (Action::AppendIfExistsOrAdd, "x=n", "x=n x=o"),
        (Action::AddIfAbsent, "x=n", "x=o"),
        (Action::OverwriteIfExistsOrAdd, "x=n", "x=n"),
        (Action::OverwriteIfExists, "", "x=n"),
    ] {
        let add = [option("X", "n", action)];
        assert_eq!(mutated(&add, &[], &[]), absent, "{action:?}");
        assert_eq!(mutated(&add, &[], &[("x", "o")]), present, "{action:?}");
    }
}

#[test]
fn removal_comes_first_and_values_read_the_headers_before_the_level() {
    let add = [append("a", "added"), append("c", "%REQ(a)%|%REQ(b)%")];
    assert_eq!(
        mutated(&add, &["a", "B"], &[("a", "1"), ("b", "2")]),
        "a=added c=|"
    );
}

#[test]
fn empty_values_are_left_out_unless_kept() {
    let keep = HeaderValueOption {
        keep_empty_value: true,
        ..append("kept", "%REQ(no)%")
    };
    let over = option(
        "over",
        "%REQ(no)%",
        HeaderAppendAction::OverwriteIfExistsOrAdd,
    );
    let add = [
        append("e", ""),
        append("no", "%REQ(no)%"),
        append("mix", "a%REQ(no)%b"),
        append("pct", "100%%"),
        append("flags", "%RESPONSE_FLAGS%"),
        append("code", "%RESPONSE_CODE%"),
        append("old", "%PER_REQUEST_STATE(x)%"),
        over,
        keep,
    ];
    assert_eq!(
        mutated(&add, &[], &[("over", "client's")]),
        "code=0 flags=- kept= mix=ab over=client's pct=100%"
    );
}

#[test]
#[expect(deprecated, reason = "Envoy still reads append")]
fn the_deprecated_append_overwrites_when_false() {
    let add = ["1", "2"].map(|value| HeaderValueOption {
        append: Some(false),
        ..append("x", value)
    });
    assert_eq!(mutated(&add, &[], &[]), "x=2");
    let both = HeaderValueOption {
        append: Some(false),
        ..option("x", "1", HeaderAppendAction::AddIfAbsent)
    };
    assert_eq!(
        build(&[both], &[]).unwrap_err(),
        "request_headers_to_add[0].append: Both append and append_action are set and it's not allowed"
    );
}

#[test]
fn headers_of_a_local_reply_print_status_0() {
    let mut stream = stream(head("GET", "h", "/p", &[]));
    respond(&mut stream, 200, &[]);
    let mutations = build(&[append("code", "%RESPONSE_CODE%")], &[]).unwrap();
    mutations.apply_to_response(&mut stream, true);
    mutations.apply_to_response(&mut stream, false);
    let headers = &stream.response.as_ref().unwrap().headers;
    assert_eq!(headers.get_all("code").collect::<Vec<_>>(), ["0", "200"]);
}

#[test]
fn headers_that_envoy_refuses_are_refused() {
    for (key, value, message) in [
        (
            ":path",
            "x",
            "key: :-prefixed or host headers may not be modified",
        ),
        (
            "Host",
            "x",
            "key: :-prefixed or host headers may not be modified",
        ),
        (
            "a",
            "%FOO%",
            "value: Not supported field in StreamInfo: FOO",
        ),
        (
            "a",
            "100%",
            "value: Incorrect configuration: 100%. Couldn't find valid command at position 3",
        ),
    ] {
        let error = build(&[append(key, value)], &[]).unwrap_err();
        assert_eq!(error, format!("request_headers_to_add[0].header.{message}"));
    }
    for name in ["host", ":path"] {
        assert_eq!(
            build(&[], &[name]).unwrap_err(),
            "request_headers_to_remove[0]: :-prefixed or host headers may not be removed"
        );
    }
}

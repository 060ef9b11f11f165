//! What RFC 9113 and RFC 7541 ask of a server, section by section, with the cases that `h2spec` checks.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;
#[path = "../support/mod.rs"]
mod support;

use cases::Case;
use cases::Expected;
use cases::connection_errors;
use cases::good_messages;
use cases::header_errors;
use cases::hpack_errors;
use cases::stream_errors;
use cases::stream_states;
use support::on_worker;
use support::raw::ACK;
use support::raw::GOAWAY;
use support::raw::HEADERS;
use support::raw::PING;
use support::raw::RST_STREAM;
use support::raw::RawFrame;
use support::raw::frame;
use support::raw::raw_client;
use support::server_options;

/// Whether `answer` shows that the server did what is expected.
fn shows(expected: &Expected, answer: &RawFrame) -> bool {
    let code = |at: usize| {
        answer
            .payload
            .get(at..)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_be_bytes)
    };
    match expected {
        Expected::Answer(stream) => answer.kind == HEADERS && answer.stream == *stream,
        Expected::Ignored => {
            answer.kind == PING && answer.flags == ACK && answer.payload == b"thelast!"
        }
        Expected::Stream(codes) => {
            answer.kind == RST_STREAM && code(0).is_some_and(|code| codes.contains(&code))
        }
        Expected::Connection(codes) => {
            answer.kind == GOAWAY && code(4).is_some_and(|code| codes.contains(&code))
        }
        Expected::Closed => false,
    }
}

async fn check(cases: Vec<Case>) {
    on_worker(|timers| async move {
        let mut failures = Vec::new();
        for Case {
            section,
            what,
            frames,
            expected,
        } in cases
        {
            // As with Envoy's defaults, and without waiting for the client to close first.
            let mut options = server_options(&timers);
            options.delayed_close_timeout = None;
            options.http2.stream_error_on_invalid_message = true;
            let (mut raw, _, _served) = raw_client(options).await;
            let mut all = frames;
            all.extend(frame(PING, 0, 0, b"thelast!"));
            let answers = raw
                .exchange(&all, |answer| {
                    shows(&expected, answer)
                        || answer.kind == PING
                            && answer.payload == b"thelast!"
                            && !matches!(expected, Expected::Answer(_))
                })
                .await;
            let good = match (&expected, answers.last()) {
                (Expected::Closed, last) => last.is_none_or(|last| last.kind != PING),
                (expected, Some(last)) => {
                    let may_go = matches!(expected, Expected::Connection(_));
                    let is_shown = answers.iter().any(|answer| shows(expected, answer));
                    is_shown && (may_go || last.kind != GOAWAY)
                }
                (_, None) => false,
            };
            if !good {
                failures.push(format!("{section} {what}: {:?}", answers.last()));
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    })
    .await;
}

#[tokio::test]
async fn good_messages_are_answered() {
    check(good_messages()).await;
}

#[tokio::test]
async fn errors_of_streams() {
    check(stream_errors()).await;
}

#[tokio::test]
async fn errors_of_connections() {
    check(connection_errors()).await;
}

#[tokio::test]
async fn frames_in_each_state_of_a_stream() {
    check(stream_states()).await;
}

#[tokio::test]
async fn errors_of_header_fields() {
    check(header_errors()).await;
}

#[tokio::test]
async fn errors_of_header_compression() {
    check(hpack_errors()).await;
}

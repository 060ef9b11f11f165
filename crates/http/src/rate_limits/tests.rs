//! What policies say of requests, and which policies are refused.

use http::StatusCode;
use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::ResponseHead;
use outrider_config::FieldPath;
use prost_types::Struct;
use prost_types::Value;

use super::*;
use crate::testing;

const SELECTION: LimitSelection<'static> = LimitSelection {
    stage: 0,
    on_stream_done: false,
    node_cluster: "edge",
    random: 0,
};

fn generic(value: &str) -> api::Action {
    let generic = api::action::GenericKey {
        descriptor_value: value.to_owned(),
        ..Default::default()
    };
    api::Action {
        action_specifier: Some(api::action::ActionSpecifier::GenericKey(generic)),
    }
}

fn hits(number: Option<u64>, format: &str) -> Option<api::HitsAddend> {
    Some(api::HitsAddend {
        number,
        format: format.to_owned(),
        is_negative_hits: false,
    })
}

fn message(value: &str) -> Message {
    Message {
        actions: vec![generic(value)],
        ..Message::default()
    }
}

fn described(
    limits: &RateLimits,
    stream: &Stream,
    selection: LimitSelection<'_>,
) -> Vec<LimitDescriptor> {
    let mut described = Vec::new();
    limits.describe(stream, &selection, &mut described);
    let described = described.into_iter();
    described.filter_map(|one| one.counted(stream)).collect()
}

fn root() -> FieldPath {
    FieldPath::root()
}

#[test]
fn stages_and_times_select_policies() {
    let messages = [
        message("now"),
        Message {
            stage: Some(3),
            ..message("later stage")
        },
        Message {
            apply_on_stream_done: true,
            ..message("at the end")
        },
    ];
    let limits = RateLimits::of_routes(&messages, &root()).unwrap();
    assert!(limits.follow_end());
    let stream = testing::stream();
    let values = |stage, on_stream_done| {
        let selection = LimitSelection {
            stage,
            on_stream_done,
            ..SELECTION
        };
        let descriptors = described(&limits, &stream, selection);
        let values = descriptors.into_iter().flat_map(|one| one.entries);
        values.map(|(_, value)| value).collect::<Vec<_>>()
    };
    assert_eq!(values(0, false), ["now"]);
    assert_eq!(values(3, false), ["later stage"]);
    assert_eq!(values(0, true), ["at the end"]);
    assert!(values(3, true).is_empty());
}

#[test]
fn formats_give_hits_in_range_or_no_descriptor() {
    let counted = Message {
        hits_addend: hits(None, "%REQ(x-hits)%"),
        ..message("a")
    };
    let limits = RateLimits::of_filter(&[counted], &root()).unwrap();
    for (text, want) in [
        ("7", Some(7)),
        ("1.9", Some(1)),
        ("1000000000", Some(1_000_000_000)),
        ("1000000001", None),
        ("-1", None),
        ("nan", None),
        ("", None),
        ("x", None),
    ] {
        let mut stream = testing::stream();
        let name = HeaderName::from_static("x-hits");
        let value = HeaderValue::try_from(text).unwrap();
        stream.request.headers.insert(name, value);
        let found = described(&limits, &stream, SELECTION);
        assert_eq!(found.first().and_then(|one| one.hits), want, "{text:?}");
        assert_eq!(found.len(), usize::from(want.is_some()), "{text:?}");
    }
}

#[test]
fn response_headers_are_captured_for_the_end_only() {
    let counted = |on_stream_done| Message {
        hits_addend: hits(None, "%RESP(x-cost)%"),
        apply_on_stream_done: on_stream_done,
        ..message("a")
    };
    for on_stream_done in [true, false] {
        let limits = RateLimits::of_filter(&[counted(on_stream_done)], &root()).unwrap();
        let mut captures = Captures::default();
        limits.capture(&mut captures);
        let mut head = ResponseHead::from(StatusCode::OK);
        let name = HeaderName::from_static("x-cost");
        head.headers.insert(name, HeaderValue::from_static("3"));
        let captured = captures.response.from(&head.headers);
        assert_eq!(captured.len(), usize::from(on_stream_done));
    }
}

#[test]
fn an_override_in_metadata_needs_a_whole_number_and_a_unit() {
    let place = api::r#override::DynamicMetadata {
        metadata_key: Some(
            outrider_config::api::envoy::r#type::metadata::v3::MetadataKey {
                key: "limits".to_owned(),
                path: vec![
                    outrider_config::api::envoy::r#type::metadata::v3::metadata_key::PathSegment {
                        segment: Some(outrider_config::api::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment::Key("a".to_owned())),
                    },
                ],
            },
        ),
    };
    let limited = Message {
        limit: Some(api::Override {
            override_specifier: Some(api::r#override::OverrideSpecifier::DynamicMetadata(place)),
        }),
        ..message("a")
    };
    let limits = RateLimits::of_routes(&[limited], &root()).unwrap();
    for (number, unit, want) in [
        (42.0, "HOUR", Some((42, RateLimitUnit::Hour))),
        (42.5, "HOUR", None),
        (-1.0, "HOUR", None),
        (42.0, "FORTNIGHT", None),
    ] {
        let number = Value::from(number);
        let fields = [("requests_per_unit", number), ("unit", Value::from(unit))];
        let fields = fields.map(|(name, value)| (name.to_owned(), value));
        let limit = Value {
            kind: Some(Kind::StructValue(Struct {
                fields: fields.into(),
            })),
        };
        let mut stream = testing::stream();
        let fields = [("a".to_owned(), limit)].into();
        stream.dynamic_metadata.merge("limits", Struct { fields });
        let found = described(&limits, &stream, SELECTION);
        let limit = found[0].limit;
        let limit = limit.map(|limit| (limit.requests_per_unit, limit.unit));
        assert_eq!(limit, want, "{unit}");
    }
}

#[test]
fn lists_of_filters_have_no_stage_or_key() {
    let error = |message: Message| {
        let errors = RateLimits::of_filter(&[message], &root()).unwrap_err();
        errors.to_string()
    };
    let staged = Message {
        stage: Some(0),
        disable_key: "x".to_owned(),
        ..message("a")
    };
    let text = error(staged);
    for field in ["stage", "disable_key"] {
        assert!(text.contains(&format!("rate_limits[0].{field}")), "{text}");
    }
    for wrong in [
        hits(Some(1), "%REQ(a)%"),
        hits(None, ""),
        hits(None, "%REQ(a)% b"),
    ] {
        let text = error(Message {
            hits_addend: wrong,
            ..message("a")
        });
        assert!(text.contains("hits_addend"), "{text}");
    }
}

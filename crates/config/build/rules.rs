//! `validate/validate.proto`, as far as the Envoy API uses it.
//!
//! Integer rules of all widths have the same tags. They also have the same encoding, except for zigzag and fixed ones,
//! which Envoy does not use. So one message reads them all.

use prost::Message;

/// Options of a field: extensions and the few standard ones that matter.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FieldOptions {
    #[prost(bool, tag = "3")]
    pub(crate) deprecated: bool,
    #[prost(message, optional, tag = "1071")]
    pub(crate) rules: Option<FieldRules>,
    #[prost(bool, tag = "189503207")]
    pub(crate) disallowed_by_default: bool,
}

/// Options of a message.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MessageOptions {
    #[prost(bool, tag = "7")]
    pub(crate) map_entry: bool,
}

/// Options of a oneof.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OneofOptions {
    #[prost(bool, tag = "1071")]
    pub(crate) required: bool,
}

/// Options of an enum value.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EnumValueOptions {
    #[prost(bool, tag = "1")]
    pub(crate) deprecated: bool,
    #[prost(bool, tag = "70100853")]
    pub(crate) disallowed_by_default: bool,
}

/// `validate.FieldRules`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FieldRules {
    #[prost(message, optional, tag = "17")]
    pub(crate) message: Option<MessageRules>,
    #[prost(message, optional, tag = "1")]
    pub(crate) float: Option<FloatRules>,
    #[prost(message, optional, tag = "2")]
    pub(crate) double: Option<DoubleRules>,
    #[prost(message, optional, tag = "3")]
    pub(crate) int32: Option<IntegerRules>,
    #[prost(message, optional, tag = "4")]
    pub(crate) int64: Option<IntegerRules>,
    #[prost(message, optional, tag = "5")]
    pub(crate) uint32: Option<IntegerRules>,
    #[prost(message, optional, tag = "6")]
    pub(crate) uint64: Option<IntegerRules>,
    #[prost(message, optional, tag = "13")]
    pub(crate) bool: Option<BoolRules>,
    #[prost(message, optional, tag = "14")]
    pub(crate) string: Option<StringRules>,
    #[prost(message, optional, tag = "15")]
    pub(crate) bytes: Option<BytesRules>,
    #[prost(message, optional, tag = "16")]
    pub(crate) r#enum: Option<EnumRules>,
    #[prost(message, optional, tag = "18")]
    pub(crate) repeated: Option<Box<RepeatedRules>>,
    #[prost(message, optional, tag = "19")]
    pub(crate) map: Option<Box<MapRules>>,
    #[prost(message, optional, tag = "20")]
    pub(crate) any: Option<AnyRules>,
    #[prost(message, optional, tag = "21")]
    pub(crate) duration: Option<DurationRules>,
    #[prost(message, optional, tag = "22")]
    pub(crate) timestamp: Option<TimestampRules>,
}

impl FieldRules {
    /// Whether the message in the field is not to be checked.
    pub(crate) fn skips_message(&self) -> bool {
        self.message.iter().any(|rules| rules.skip)
    }
}

/// `validate.MessageRules`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MessageRules {
    #[prost(bool, tag = "1")]
    pub(crate) skip: bool,
    #[prost(bool, tag = "2")]
    pub(crate) required: bool,
}

/// `validate.FloatRules`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FloatRules {
    #[prost(float, optional, tag = "2")]
    pub(crate) lt: Option<f32>,
    #[prost(float, optional, tag = "3")]
    pub(crate) lte: Option<f32>,
    #[prost(float, optional, tag = "4")]
    pub(crate) gt: Option<f32>,
    #[prost(float, optional, tag = "5")]
    pub(crate) gte: Option<f32>,
}

/// `validate.DoubleRules`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct DoubleRules {
    #[prost(double, optional, tag = "2")]
    pub(crate) lt: Option<f64>,
    #[prost(double, optional, tag = "3")]
    pub(crate) lte: Option<f64>,
    #[prost(double, optional, tag = "4")]
    pub(crate) gt: Option<f64>,
    #[prost(double, optional, tag = "5")]
    pub(crate) gte: Option<f64>,
}

/// `validate.UInt32Rules` and its siblings.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct IntegerRules {
    #[prost(int64, optional, tag = "1")]
    pub(crate) r#const: Option<i64>,
    #[prost(int64, optional, tag = "2")]
    pub(crate) lt: Option<i64>,
    #[prost(int64, optional, tag = "3")]
    pub(crate) lte: Option<i64>,
    #[prost(int64, optional, tag = "4")]
    pub(crate) gt: Option<i64>,
    #[prost(int64, optional, tag = "5")]
    pub(crate) gte: Option<i64>,
    #[prost(int64, repeated, packed = "false", tag = "6")]
    pub(crate) r#in: Vec<i64>,
    #[prost(int64, repeated, packed = "false", tag = "7")]
    pub(crate) not_in: Vec<i64>,
    #[prost(bool, tag = "8")]
    pub(crate) ignore_empty: bool,
}

/// `validate.BoolRules`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BoolRules {
    #[prost(bool, optional, tag = "1")]
    pub(crate) r#const: Option<bool>,
}

/// `validate.StringRules`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StringRules {
    #[prost(string, optional, tag = "1")]
    pub(crate) r#const: Option<String>,
    #[prost(uint64, optional, tag = "2")]
    pub(crate) min_len: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    pub(crate) max_len: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    pub(crate) min_bytes: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    pub(crate) max_bytes: Option<u64>,
    #[prost(string, optional, tag = "6")]
    pub(crate) pattern: Option<String>,
    #[prost(string, optional, tag = "7")]
    pub(crate) prefix: Option<String>,
    #[prost(string, optional, tag = "8")]
    pub(crate) suffix: Option<String>,
    #[prost(string, optional, tag = "9")]
    pub(crate) contains: Option<String>,
    #[prost(string, repeated, tag = "10")]
    pub(crate) r#in: Vec<String>,
    #[prost(string, repeated, tag = "11")]
    pub(crate) not_in: Vec<String>,
    #[prost(bool, tag = "13")]
    pub(crate) hostname: bool,
    #[prost(bool, tag = "14")]
    pub(crate) ip: bool,
    #[prost(bool, tag = "17")]
    pub(crate) uri: bool,
    #[prost(bool, tag = "18")]
    pub(crate) uri_ref: bool,
    #[prost(uint64, optional, tag = "19")]
    pub(crate) len: Option<u64>,
    #[prost(uint64, optional, tag = "20")]
    pub(crate) len_bytes: Option<u64>,
    #[prost(bool, tag = "21")]
    pub(crate) address: bool,
    #[prost(string, optional, tag = "23")]
    pub(crate) not_contains: Option<String>,
    #[prost(int32, tag = "24")]
    pub(crate) well_known_regex: i32,
    #[prost(bool, optional, tag = "25")]
    pub(crate) strict: Option<bool>,
    #[prost(bool, tag = "26")]
    pub(crate) ignore_empty: bool,
}

/// `validate.BytesRules`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BytesRules {
    #[prost(uint64, optional, tag = "2")]
    pub(crate) min_len: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    pub(crate) max_len: Option<u64>,
    #[prost(uint64, optional, tag = "13")]
    pub(crate) len: Option<u64>,
}

/// `validate.EnumRules`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EnumRules {
    #[prost(int32, optional, tag = "1")]
    pub(crate) r#const: Option<i32>,
    #[prost(bool, tag = "2")]
    pub(crate) defined_only: bool,
    #[prost(int32, repeated, packed = "false", tag = "3")]
    pub(crate) r#in: Vec<i32>,
    #[prost(int32, repeated, packed = "false", tag = "4")]
    pub(crate) not_in: Vec<i32>,
}

/// `validate.RepeatedRules`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RepeatedRules {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) min_items: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    pub(crate) max_items: Option<u64>,
    #[prost(bool, tag = "3")]
    pub(crate) unique: bool,
    #[prost(message, optional, tag = "4")]
    pub(crate) items: Option<FieldRules>,
    #[prost(bool, tag = "5")]
    pub(crate) ignore_empty: bool,
}

/// `validate.MapRules`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MapRules {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) min_pairs: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    pub(crate) max_pairs: Option<u64>,
    #[prost(message, optional, tag = "4")]
    pub(crate) keys: Option<FieldRules>,
    #[prost(message, optional, tag = "5")]
    pub(crate) values: Option<FieldRules>,
}

/// `validate.AnyRules`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AnyRules {
    #[prost(bool, tag = "1")]
    pub(crate) required: bool,
    #[prost(string, repeated, tag = "2")]
    pub(crate) r#in: Vec<String>,
}

/// `validate.DurationRules`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct DurationRules {
    #[prost(bool, tag = "1")]
    pub(crate) required: bool,
    #[prost(message, optional, tag = "3")]
    pub(crate) lt: Option<prost_types::Duration>,
    #[prost(message, optional, tag = "4")]
    pub(crate) lte: Option<prost_types::Duration>,
    #[prost(message, optional, tag = "5")]
    pub(crate) gt: Option<prost_types::Duration>,
    #[prost(message, optional, tag = "6")]
    pub(crate) gte: Option<prost_types::Duration>,
}

/// `validate.TimestampRules`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TimestampRules {
    #[prost(bool, tag = "1")]
    pub(crate) required: bool,
}

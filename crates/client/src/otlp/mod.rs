//! The messages of the OpenTelemetry protocol (OTLP) that the proxy sends, with the field numbers of
//! <https://github.com/open-telemetry/opentelemetry-proto>. Fields that it never sets are left out.

mod trace;

pub use trace::ExportTraceServiceRequest;
pub use trace::ResourceSpans;
pub use trace::ScopeSpans;
pub use trace::SpanEvent;
pub use trace::SpanMessage;
pub use trace::SpanStatus;

/// The answer to an export. What it says is not used.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExportServiceResponse {}

/// Who telemetry is about (`opentelemetry.proto.resource.v1.Resource`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceMessage {
    /// Its attributes.
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

/// What has made the telemetry (`opentelemetry.proto.common.v1.InstrumentationScope`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct InstrumentationScope {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its version.
    #[prost(string, tag = "2")]
    pub version: String,
}

/// An attribute (`opentelemetry.proto.common.v1.KeyValue`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyValue {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

impl KeyValue {
    /// An attribute whose value is a text.
    #[must_use]
    pub fn text(key: impl Into<String>, value: impl Into<String>) -> KeyValue {
        let value = Some(AnyValueKind::StringValue(value.into()));
        KeyValue {
            key: key.into(),
            value: Some(AnyValue { value }),
        }
    }
}

/// A value (`opentelemetry.proto.common.v1.AnyValue`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct AnyValue {
    /// The value.
    #[prost(oneof = "AnyValueKind", tags = "1")]
    pub value: Option<AnyValueKind>,
}

/// The kinds of values.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum AnyValueKind {
    /// A text.
    #[prost(string, tag = "1")]
    StringValue(String),
}

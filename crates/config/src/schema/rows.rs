//! The shape of the generated tables.
//!
//! Rows refer to each other and to the text by index, not by reference. So the tables need no relocation when the
//! program starts, and parts that are never used are never loaded from the file.

#![allow(
    dead_code,
    reason = "the generated tables use the variants that the API happens to use"
)]

/// A piece of the table of names.
#[derive(Clone, Copy)]
pub(crate) struct Text {
    pub(crate) start: u32,
    pub(crate) len: u16,
}

/// A run of rows in another table.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) start: u16,
    pub(crate) len: u16,
}

pub(crate) struct MessageRow {
    pub(crate) name: Text,
    /// The last part of the name of the `.proto` file: Envoy's deprecation warnings name it.
    pub(crate) file: Text,
    pub(crate) fields: Span,
    pub(crate) oneofs: Span,
    pub(crate) well_known: WellKnown,
}

pub(crate) struct FieldRow {
    pub(crate) name: Text,
    pub(crate) json_name: Text,
    pub(crate) number: u32,
    pub(crate) kind: FieldKind,
    pub(crate) cardinality: Cardinality,
    /// The index of its oneof in the message; absent for `optional`.
    pub(crate) oneof: Option<u8>,
    pub(crate) deprecated: Deprecated,
    pub(crate) rules: Span,
    pub(crate) support: Support,
    /// The text after the status word in the support table.
    pub(crate) note: Text,
    /// The category of extensions that the field selects from, if it does.
    pub(crate) category: Text,
}

pub(crate) struct OneofRow {
    pub(crate) name: Text,
    pub(crate) required: bool,
}

pub(crate) struct EnumRow {
    pub(crate) name: Text,
    pub(crate) file: Text,
    pub(crate) values: Span,
}

pub(crate) struct EnumValueRow {
    pub(crate) name: Text,
    pub(crate) number: i32,
    pub(crate) deprecated: Deprecated,
    pub(crate) support: Support,
    pub(crate) note: Text,
}

/// A field name of older Envoys and its replacement.
pub(crate) struct RenamedFieldRow {
    pub(crate) message: Text,
    pub(crate) name: Text,
    pub(crate) note: Text,
}

pub(crate) struct ExtensionRow {
    pub(crate) category: Text,
    pub(crate) name: Text,
    pub(crate) type_name: Text,
    /// The row of its message, if it is implemented.
    pub(crate) message: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldKind {
    Bool,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Float,
    Double,
    String,
    Bytes,
    Enum(u16),
    Message(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cardinality {
    /// Without presence: the default is the same as absent.
    Implicit,
    /// With presence: messages, `optional` and members of oneofs.
    Explicit,
    Repeated,
    /// The kind is that of the entry message.
    Map,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deprecated {
    No,
    /// Works with a warning.
    Warn,
    /// Refused unless the runtime enables it.
    Disallowed,
}

/// How a field or enum value that is set is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Support {
    /// Implemented as in Envoy.
    Implemented,
    /// Accepted without effect; the note gives the reason.
    NoEffect,
    /// Accepted when it has one of the values in the note.
    Only,
    /// Refused with its name; the note may name an alternative.
    Refused,
}

/// Messages whose JSON is not an object of their fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WellKnown {
    No,
    Any,
    Duration,
    Struct,
    Value,
    ListValue,
    /// `BoolValue`, `UInt32Value` and so on.
    Wrapper,
}

/// One end of a range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Limit<T> {
    None,
    Open(T),
    Closed(T),
}

/// A constraint of the API (protoc-gen-validate).
#[derive(Clone, Copy)]
pub(crate) enum Rule {
    Required,
    /// The other rules do not apply to an empty value.
    IgnoreEmpty,
    Integer {
        above: Limit<i64>,
        below: Limit<i64>,
    },
    IntegerNotIn(i64),
    Number {
        above: Limit<f64>,
        below: Limit<f64>,
    },
    /// Nanoseconds.
    Duration {
        above: Limit<i64>,
        below: Limit<i64>,
    },
    Bool(bool),
    MinLength(u32),
    MaxLength(u32),
    MinBytes(u32),
    MaxBytes(u32),
    Pattern(Text),
    Prefix(Text),
    Suffix(Text),
    NotContains(Text),
    /// One text of a list. The texts of a list are adjacent.
    In(Text),
    HeaderName {
        strict: bool,
    },
    HeaderValue {
        strict: bool,
    },
    Uri,
    EnumDefined,
    EnumNotIn(i32),
    MinItems(u32),
    MaxItems(u32),
    Unique,
    Items(Span),
    MinPairs(u32),
    MaxPairs(u32),
    Keys(Span),
    Values(Span),
}

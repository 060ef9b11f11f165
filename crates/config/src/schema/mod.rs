//! The tables of the Envoy API: messages, fields, enums, rules, support.
//!
//! The tables are constants that the build script writes from `proto/`: nothing is parsed when the program starts.

pub(crate) use rows::Cardinality;
pub(crate) use rows::Deprecated;
pub(crate) use rows::EnumRow;
pub(crate) use rows::EnumValueRow;
pub(crate) use rows::ExtensionRow;
pub(crate) use rows::FieldKind;
pub(crate) use rows::FieldRow;
pub(crate) use rows::Limit;
pub(crate) use rows::Rule;
pub(crate) use rows::Support;
pub(crate) use rows::WellKnown;

use rows::MessageRow;
use rows::OneofRow;
use rows::RenamedFieldRow;
use rows::Span;
use rows::Text;
use tables::TEXT;

mod rows;

mod tables {
    use super::rows::Cardinality;
    use super::rows::Deprecated;
    use super::rows::EnumRow;
    use super::rows::EnumValueRow;
    use super::rows::ExtensionRow;
    use super::rows::FieldKind;
    use super::rows::FieldRow;
    use super::rows::Limit;
    use super::rows::MessageRow;
    use super::rows::OneofRow;
    use super::rows::RenamedFieldRow;
    use super::rows::Rule;
    use super::rows::Span;
    use super::rows::Support;
    use super::rows::Text;
    use super::rows::WellKnown;

    include!(concat!(env!("OUT_DIR"), "/tables.rs"));
}

/// A message type: its row in the table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct MessageType(u16);

impl MessageType {
    /// The message of this full name, if it is one that a bootstrap file can reach or that we implement.
    pub(crate) fn find(name: &str) -> Option<Self> {
        let index = tables::MESSAGES
            .binary_search_by(|row| row.name.as_str().cmp(name))
            .ok()?;
        u16::try_from(index).ok().map(Self)
    }

    pub(crate) const fn at(row: u16) -> Self {
        Self(row)
    }

    fn row(self) -> &'static MessageRow {
        &tables::MESSAGES[usize::from(self.0)]
    }

    /// The full name.
    pub(crate) fn name(self) -> &'static str {
        self.row().name.as_str()
    }

    /// The last part of the name of the `.proto` file.
    pub(crate) fn file(self) -> &'static str {
        self.row().file.as_str()
    }

    pub(crate) fn well_known(self) -> WellKnown {
        self.row().well_known
    }

    /// The fields in the order of their numbers.
    pub(crate) fn fields(self) -> &'static [FieldRow] {
        slice(&tables::FIELDS, self.row().fields)
    }

    /// The field that JSON calls `name`: both spellings do.
    pub(crate) fn field(self, name: &str) -> Option<&'static FieldRow> {
        self.fields()
            .iter()
            .find(|field| field.name() == name || field.json_name() == name)
    }

    pub(crate) fn field_by_number(self, number: u32) -> Option<&'static FieldRow> {
        self.fields().iter().find(|field| field.number == number)
    }

    pub(crate) fn oneofs(self) -> &'static [OneofRow] {
        slice(&tables::ONEOFS, self.row().oneofs)
    }

    /// The replacement of a field that older Envoys had.
    pub(crate) fn gone(self, name: &str) -> Option<&'static str> {
        let mut rows = tables::GONE.iter();
        let row = rows.find(|row: &&RenamedFieldRow| {
            row.message.as_str() == self.name() && row.name.as_str() == name
        })?;
        Some(row.note.as_str())
    }
}

impl FieldRow {
    pub(crate) fn name(&self) -> &'static str {
        self.name.as_str()
    }

    pub(crate) fn json_name(&self) -> &'static str {
        self.json_name.as_str()
    }

    pub(crate) fn rules(&self) -> &'static [Rule] {
        rules(self.rules)
    }

    pub(crate) fn note(&self) -> &'static str {
        self.note.as_str()
    }

    /// The category of extensions that the field selects from; empty when it selects none.
    pub(crate) fn category(&self) -> &'static str {
        self.category.as_str()
    }

    /// The message type of the field's values.
    pub(crate) fn message(&self) -> Option<MessageType> {
        match self.kind {
            FieldKind::Message(row) => Some(MessageType(row)),
            _ => None,
        }
    }
}

impl OneofRow {
    pub(crate) fn name(&self) -> &'static str {
        self.name.as_str()
    }

    pub(crate) fn is_required(&self) -> bool {
        self.required
    }
}

impl EnumRow {
    pub(crate) fn at(row: u16) -> &'static Self {
        &tables::ENUMS[usize::from(row)]
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name.as_str()
    }

    pub(crate) fn file(&self) -> &'static str {
        self.file.as_str()
    }

    pub(crate) fn values(&self) -> &'static [EnumValueRow] {
        slice(&tables::ENUM_VALUES, self.values)
    }

    pub(crate) fn value(&self, number: i32) -> Option<&'static EnumValueRow> {
        self.values().iter().find(|value| value.number == number)
    }
}

impl EnumValueRow {
    pub(crate) fn name(&self) -> &'static str {
        self.name.as_str()
    }

    pub(crate) fn note(&self) -> &'static str {
        self.note.as_str()
    }
}

impl ExtensionRow {
    /// Every extension of Envoy's release binary.
    pub(crate) fn all() -> &'static [Self] {
        &tables::EXTENSIONS
    }

    pub(crate) fn category(&self) -> &'static str {
        self.category.as_str()
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name.as_str()
    }

    /// The message that configures it; empty for the few that have none.
    pub(crate) fn type_name(&self) -> &'static str {
        self.type_name.as_str()
    }

    /// Whether it is implemented here.
    pub(crate) fn is_implemented(&self) -> bool {
        self.message.is_some()
    }
}

impl Text {
    pub(crate) fn as_str(self) -> &'static str {
        let start = self.start as usize;
        &TEXT[start..start + usize::from(self.len)]
    }
}

/// The rules in a span: those of a field, or those that one of its rules has for its items.
pub(crate) fn rules(span: Span) -> &'static [Rule] {
    slice(&tables::RULES, span)
}

fn slice<T>(rows: &'static [T], span: Span) -> &'static [T] {
    let start = usize::from(span.start);
    &rows[start..start + usize::from(span.len)]
}

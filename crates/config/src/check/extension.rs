//! Fields that select an extension by the type of a message.

use crate::reader::nearest;
use crate::schema::Cardinality;
use crate::schema::ExtensionRow;
use crate::schema::FieldRow;
use crate::schema::WellKnown;
use crate::value::Any;
use crate::value::Message;
use crate::value::Value;

/// The implemented extension of `category` that `any` configures, if any.
pub(super) fn find(any: &Any, category: &str) -> Option<&'static ExtensionRow> {
    of(category).find(|row| row.is_implemented() && row.type_name() == any.type_name())
}

/// Whether `any` configures an extension of `category`, implemented or not.
pub(super) fn belongs(any: &Any, category: &str) -> bool {
    of(category).any(|row| !row.type_name().is_empty() && row.type_name() == any.type_name())
}

/// Whether Envoy knows the type of `any`: the configuration of an extension, or one of protobuf's own types.
pub(super) fn is_known(any: &Any) -> bool {
    let name = any.type_name();
    name.starts_with("google.protobuf.")
        || ExtensionRow::all()
            .iter()
            .any(|row| row.type_name() == name)
}

/// Why `any` does not configure an implemented extension of `category`.
pub(super) fn refusal(any: &Any, category: &str) -> String {
    let name = any.type_name();
    if name.is_empty() {
        return format!("expected an \"@type\"; {}", supported(category));
    }
    if of(category).any(|row| row.type_name() == name) {
        return format!(
            "{name} is an Envoy extension that is not supported here; {}",
            supported(category)
        );
    }
    if let Some(row) = ExtensionRow::all()
        .iter()
        .find(|row| row.type_name() == name)
    {
        if row.category().starts_with("envoy.filters.udp") {
            return format!("{name} is for UDP listeners, which are not supported here");
        }
        return format!(
            "{name} is an extension of {}, expected one of {category}; {}",
            row.category(),
            supported(category)
        );
    }
    let mut text = format!("unknown type {name}");
    let last = name.rsplit('.').next().unwrap_or_default();
    let same_last = of(category).find(|row| row.type_name().rsplit('.').next() == Some(last));
    let near = same_last
        .map(ExtensionRow::type_name)
        .or_else(|| nearest(name, of(category).map(ExtensionRow::type_name)));
    match near {
        Some(near) if is_v2(name) => text.push_str(&format!(
            ": Envoy removed the v2 API; its v3 name is {near}"
        )),
        Some(near) => text.push_str(&format!("; did you mean {near}?")),
        None if is_v2(name) => text.push_str(": Envoy removed the v2 API"),
        None => text.push_str(&format!("; {}", supported(category))),
    }
    text
}

/// Whether `field`, which is absent from `message`, is the typed configuration that the message exists for.
pub(super) fn is_needed(message: &Message, field: &FieldRow, category: &str) -> bool {
    let is_any = field
        .message()
        .is_some_and(|message| message.well_known() == WellKnown::Any);
    let has_rival = field.oneof.is_some()
        && message
            .fields
            .iter()
            .any(|value| value.field.oneof == field.oneof);
    let category = if field.category().is_empty() {
        category
    } else {
        field.category()
    };
    let is_optional = field.note() == "optional";
    is_any
        && field.cardinality == Cardinality::Explicit
        && !has_rival
        && !category.is_empty()
        && !is_optional
}

/// What to add to `message`, whose typed configuration is missing.
pub(super) fn missing(message: &Message, field: &FieldRow, category: &str) -> String {
    let category = if field.category().is_empty() {
        category
    } else {
        field.category()
    };
    let name = match message.get("name").map(|value| &value.value) {
        Some(Value::String(name)) => name.as_str(),
        _ => "",
    };
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let row = of(category)
        .filter(|row| !row.type_name().is_empty())
        .find(|row| row.name() == name)
        .or_else(|| {
            of(category).find(|row| !row.type_name().is_empty() && last(row.name()) == last(name))
        });
    match row {
        Some(row) => {
            let unsupported = if row.is_implemented() {
                ""
            } else {
                " (which is not supported here)"
            };
            format!(
                "an extension is chosen by its type, not by its name {name}: add typed_config: {{\"@type\": \
                 type.googleapis.com/{}}}{unsupported}",
                row.type_name()
            )
        }
        None => format!("value is required; {}", supported(category)),
    }
}

fn of(category: &str) -> impl Iterator<Item = &'static ExtensionRow> {
    ExtensionRow::all()
        .iter()
        .filter(move |row| row.category() == category)
}

fn supported(category: &str) -> String {
    let names: Vec<&str> = of(category)
        .filter(|row| row.is_implemented() && configures_all(row))
        .map(ExtensionRow::type_name)
        .collect();
    if names.is_empty() {
        format!("no extension of {category} is supported")
    } else {
        format!("supported: {}", names.join(", "))
    }
}

/// Whether the message of `row` configures the extension itself, and not what is different for some routes. Of the
/// messages of one extension, that one has the shortest name, apart from those that say that they are for routes.
fn configures_all(row: &ExtensionRow) -> bool {
    let for_routes = |row: &ExtensionRow| row.type_name().contains("PerRoute");
    let mut others = of(row.category()).filter(|other| other.name() == row.name());
    let is_shortest =
        others.all(|other| for_routes(other) || other.type_name().len() >= row.type_name().len());
    is_shortest && !for_routes(row)
}

fn is_v2(name: &str) -> bool {
    name.split('.').any(|part| {
        part == "v2" || part == "v2alpha" || part.starts_with("v2alpha") || part == "v1"
    })
}

//! Metadata as Lua values, and the object that scripts read metadata from.

use std::sync::Arc;

use mlua::IntoLuaMulti as _;
use mlua::Lua;
use mlua::LuaString;
use mlua::MetaMethod;
use mlua::MultiValue;
use mlua::Table;
use mlua::UserData;
use mlua::UserDataMethods;
use outrider_config::api::envoy::config::core::v3::Metadata;
use prost_types::ListValue;
use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind;

use super::handle::add_logs;
use super::machine::fail;
use super::run::Scoped;

/// How deep a table that becomes metadata may be.
const MAX_DEPTH: usize = 64;

/// A value of metadata in Lua.
pub(super) fn to_lua(lua: &Lua, value: &Value) -> mlua::Result<mlua::Value> {
    Ok(match &value.kind {
        None | Some(Kind::NullValue(_)) => mlua::Value::Nil,
        Some(Kind::NumberValue(number)) => mlua::Value::Number(*number),
        Some(Kind::BoolValue(flag)) => mlua::Value::Boolean(*flag),
        Some(Kind::StringValue(text)) => mlua::Value::String(lua.create_string(text)?),
        Some(Kind::StructValue(fields)) => mlua::Value::Table(table(lua, fields)?),
        Some(Kind::ListValue(list)) => {
            let table = lua.create_table()?;
            for (at, value) in list.values.iter().enumerate() {
                table.raw_set(at + 1, to_lua(lua, value)?)?;
            }
            mlua::Value::Table(table)
        }
    })
}

/// The fields of metadata as a table.
pub(super) fn table(lua: &Lua, fields: &Struct) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    for (key, value) in &fields.fields {
        table.raw_set(key.as_str(), to_lua(lua, value)?)?;
    }
    Ok(table)
}

/// A Lua value as metadata.
pub(super) fn from_lua(lua: &Lua, value: &mlua::Value, depth: usize) -> mlua::Result<Value> {
    if depth > MAX_DEPTH {
        let text = format!("a table in dynamicMetadata is more than {MAX_DEPTH} levels deep");
        return Err(fail(lua, text));
    }
    let kind = match value {
        mlua::Value::Nil => Kind::NullValue(0),
        mlua::Value::Boolean(flag) => Kind::BoolValue(*flag),
        mlua::Value::Integer(number) => Kind::NumberValue(*number as f64),
        mlua::Value::Number(number) => Kind::NumberValue(*number),
        mlua::Value::String(text) => Kind::StringValue(text.to_string_lossy()),
        mlua::Value::Table(table) => match list_length(table)? {
            Some(length) => {
                let values = (1..=length).map(|at| {
                    let value: mlua::Value = table.raw_get(at)?;
                    from_lua(lua, &value, depth + 1)
                });
                let values = values.collect::<mlua::Result<_>>()?;
                Kind::ListValue(ListValue { values })
            }
            None => Kind::StructValue(fields(lua, table, depth)?),
        },
        other => {
            let text = format!("unexpected type '{}' in dynamicMetadata", other.type_name());
            return Err(fail(lua, text));
        }
    };
    Ok(Value { kind: Some(kind) })
}

fn fields(lua: &Lua, table: &Table, depth: usize) -> mlua::Result<Struct> {
    let mut fields = Struct::default();
    for pair in table.pairs::<mlua::Value, mlua::Value>() {
        let (key, value) = pair?;
        let mlua::Value::String(key) = key else {
            let kind = key.type_name();
            let kind = if kind == "integer" { "number" } else { kind };
            let text =
                format!("unexpected type {kind} in table key (only string keys are supported)");
            return Err(fail(lua, text));
        };
        let value = from_lua(lua, &value, depth + 1)?;
        fields.fields.insert(key.to_string_lossy(), value);
    }
    Ok(fields)
}

/// The length of a table whose keys are all positive whole numbers; `None` for another table.
fn list_length(table: &Table) -> mlua::Result<Option<usize>> {
    let (mut count, mut longest) = (0, 0);
    for pair in table.pairs::<mlua::Value, mlua::Value>() {
        let key = match pair?.0 {
            mlua::Value::Integer(key) => usize::try_from(key).ok(),
            mlua::Value::Number(key) if key.fract() == 0.0 && key >= 1.0 => Some(key as usize),
            _ => None,
        };
        let Some(key) = key.filter(|key| *key > 0) else {
            return Ok(None);
        };
        count += 1;
        longest = longest.max(key);
    }
    // A list with holes gets nulls in them, up to a limit.
    Ok((count > 0 && longest <= 2 * count + 16).then_some(longest))
}

/// The metadata object.
pub(super) struct Fields {
    scope: Scoped,
    source: FieldsSource,
}

/// Where the fields are.
pub(super) enum FieldsSource {
    None,
    /// A namespace of metadata.
    Metadata(Arc<Metadata>, String),
    Own(Arc<Struct>),
}

impl Fields {
    pub(super) fn new(scope: Scoped, source: FieldsSource) -> Fields {
        Fields { scope, source }
    }

    /// The fields under the first of these names that `metadata` has.
    pub(super) fn find(scope: Scoped, metadata: Option<&Arc<Metadata>>, names: &[&str]) -> Fields {
        let source = metadata.and_then(|metadata| {
            let mut names = names.iter();
            let name = names.find(|name| metadata.filter_metadata.contains_key(**name))?;
            Some(FieldsSource::Metadata(metadata.clone(), (*name).to_owned()))
        });
        Fields::new(scope, source.unwrap_or(FieldsSource::None))
    }

    fn fields(&self) -> Option<&Struct> {
        match &self.source {
            FieldsSource::None => None,
            FieldsSource::Metadata(metadata, name) => metadata.filter_metadata.get(name),
            FieldsSource::Own(fields) => Some(fields),
        }
    }
}

impl UserData for Fields {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        add_logs(methods);
        methods.add_method("get", |lua, this, key: LuaString| {
            this.scope.enter(lua)?;
            let fields = this.fields();
            let value = fields.and_then(|fields| fields.fields.get(&*key.to_string_lossy()));
            match value {
                Some(value) => to_lua(lua, value)?.into_lua_multi(lua),
                None => Ok(MultiValue::new()),
            }
        });
        methods.add_meta_method(MetaMethod::Pairs, |lua, this, ()| {
            this.scope.enter(lua)?;
            let fields = this.fields().cloned().unwrap_or_default();
            let mut fields = fields.fields.into_iter();
            lua.create_function_mut(move |lua, _: MultiValue| match fields.next() {
                Some((key, value)) => Ok((Some(key), to_lua(lua, &value)?)),
                None => Ok((None, mlua::Value::Nil)),
            })
        });
    }
}

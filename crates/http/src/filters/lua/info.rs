//! Objects that describe the stream, its connection and its route.

use std::rc::Rc;
use std::sync::Arc;

use http::Version;
use mlua::IntoLuaMulti as _;
use mlua::Lua;
use mlua::LuaString;
use mlua::MetaMethod;
use mlua::MultiValue;
use mlua::UserData;
use mlua::UserDataMethods;
use mlua::Value;
use outrider_config::api::envoy::config::core::v3::Metadata;
use prost_types::Struct;

use crate::Stream;

use super::handle::add_logs;
use super::machine::fail;
use super::run::Run;
use super::run::Scoped;
use super::tls::SslConnection;
use super::values;
use super::values::Fields;

/// Describes the stream.
pub(super) struct StreamInfo(Scoped);

impl StreamInfo {
    pub(super) fn new(run: &Rc<Run>) -> StreamInfo {
        StreamInfo(Scoped::new(run))
    }

    fn text(&self, lua: &Lua, of: impl Fn(&Stream) -> String) -> mlua::Result<String> {
        let live = self.0.enter(lua)?.live.borrow();
        Ok(of(&live.stream))
    }
}

impl UserData for StreamInfo {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        add_logs(methods);
        add_texts(methods);
        methods.add_method("dynamicMetadata", |lua, this, ()| {
            Ok(DynamicMetadata {
                scope: Scoped::new(this.0.enter(lua)?),
                is_of_stream: true,
            })
        });
        methods.add_method("dynamicTypedMetadata", |lua, this, name: LuaString| {
            let live = this.0.enter(lua)?.live.borrow();
            let all = live.stream.dynamic_metadata.get();
            typed_metadata(lua, all, &name.to_string_lossy())
        });
        methods.add_method("filterState", |lua, this, ()| {
            Ok(FilterStateObject(Scoped::new(this.0.enter(lua)?)))
        });
        methods.add_method("downstreamSslConnection", |lua, this, ()| {
            SslConnection::of(this.0.enter(lua)?)
        });
        methods.add_method("drainConnectionUponCompletion", |lua, this, ()| {
            this.0.enter(lua)?;
            let text = "drainConnectionUponCompletion() is not supported";
            Err::<(), _>(fail(lua, text))
        });
    }
}

fn add_texts<M: UserDataMethods<StreamInfo>>(methods: &mut M) {
    methods.add_method("protocol", |lua, this, ()| {
        this.text(lua, |stream| {
            let protocol = match stream.protocol {
                Version::HTTP_10 => "HTTP/1.0",
                Version::HTTP_2 => "HTTP/2",
                _ => "HTTP/1.1",
            };
            protocol.to_owned()
        })
    });
    methods.add_method("routeName", |lua, this, ()| {
        this.text(lua, |stream| {
            let route = stream.route.as_ref();
            route.map_or_else(String::new, |route| route.name.clone())
        })
    });
    methods.add_method("virtualClusterName", |lua, this, ()| {
        this.text(lua, |stream| {
            let name = stream.virtual_cluster.as_deref();
            name.unwrap_or_default().to_owned()
        })
    });
    methods.add_method("requestedServerName", |lua, this, ()| {
        this.text(lua, |stream| stream.connection.server_name.to_string())
    });
    methods.add_method("downstreamLocalAddress", |lua, this, ()| {
        this.text(lua, |stream| stream.connection.local.to_string())
    });
    methods.add_method("downstreamDirectLocalAddress", |lua, this, ()| {
        this.text(lua, |stream| stream.connection.direct_local().to_string())
    });
    methods.add_method("downstreamDirectRemoteAddress", |lua, this, ()| {
        this.text(lua, |stream| stream.connection.direct_remote().to_string())
    });
    methods.add_method("downstreamRemoteAddress", |lua, this, ()| {
        this.text(lua, |stream| stream.remote_address.to_string())
    });
}

/// Describes the connection's own stream of bytes.
pub(super) struct ConnectionInfo(Scoped);

impl ConnectionInfo {
    pub(super) fn new(run: &Rc<Run>) -> ConnectionInfo {
        ConnectionInfo(Scoped::new(run))
    }
}

impl UserData for ConnectionInfo {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        add_logs(methods);
        methods.add_method("dynamicMetadata", |lua, this, ()| {
            Ok(DynamicMetadata {
                scope: Scoped::new(this.0.enter(lua)?),
                is_of_stream: false,
            })
        });
        methods.add_method("dynamicTypedMetadata", |lua, this, name: LuaString| {
            this.0.enter(lua)?;
            typed_metadata(lua, None, &name.to_string_lossy())
        });
    }
}

/// Metadata of a type of its own.
fn typed_metadata(lua: &Lua, all: Option<&Metadata>, name: &str) -> mlua::Result<Value> {
    match all.and_then(|all| all.typed_filter_metadata.get(name)) {
        None => Ok(Value::Nil),
        Some(typed) => {
            let text = format!(
                "dynamicTypedMetadata() is not supported for {}",
                typed.type_url
            );
            Err(fail(lua, text))
        }
    }
}

/// The connection of the client.
pub(super) struct Connection(Scoped);

impl Connection {
    pub(super) fn new(run: &Rc<Run>) -> Connection {
        Connection(Scoped::new(run))
    }
}

impl UserData for Connection {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        add_logs(methods);
        methods.add_method("ssl", |lua, this, ()| SslConnection::of(this.0.enter(lua)?));
    }
}

/// A route or a virtual host.
pub(super) struct RouteObject {
    scope: Scoped,
    metadata: Option<Arc<Metadata>>,
}

impl RouteObject {
    pub(super) fn new(run: &Rc<Run>, metadata: Option<Arc<Metadata>>) -> RouteObject {
        RouteObject {
            scope: Scoped::new(run),
            metadata,
        }
    }
}

impl UserData for RouteObject {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        add_logs(methods);
        methods.add_method("metadata", |lua, this, ()| {
            let run = this.scope.enter(lua)?;
            let [name, _] = run.metadata_names();
            Ok(Fields::find(
                Scoped::new(run),
                this.metadata.as_ref(),
                &[name],
            ))
        });
    }
}

/// The dynamic metadata of the stream, or of its connection.
struct DynamicMetadata {
    scope: Scoped,
    is_of_stream: bool,
}

impl DynamicMetadata {
    fn of<'s>(&self, stream: &'s Stream) -> &'s outrider_net::DynamicMetadata {
        match self.is_of_stream {
            true => &stream.dynamic_metadata,
            false => &stream.connection.metadata,
        }
    }

    fn table(&self, lua: &Lua, namespace: &str) -> mlua::Result<MultiValue> {
        let live = self.scope.enter(lua)?.live.borrow();
        match self.of(&live.stream).namespace(namespace) {
            Some(fields) => values::table(lua, fields)?.into_lua_multi(lua),
            None => Ok(MultiValue::new()),
        }
    }

    fn set(&self, lua: &Lua, name: &str, key: &str, value: &Value) -> mlua::Result<()> {
        let run = self.scope.enter(lua)?;
        if !self.is_of_stream {
            let text = "connectionStreamInfo():dynamicMetadata():set() is not supported";
            return Err(fail(lua, text));
        }
        if run.has_continued.get() {
            let text = "dynamicMetadata():set() is not supported while the body streams";
            return Err(fail(lua, text));
        }
        let mut fields = Struct::default();
        let value = values::from_lua(lua, value, 0)?;
        fields.fields.insert(key.to_owned(), value);
        let mut live = run.live.borrow_mut();
        live.stream.dynamic_metadata.merge(name, fields);
        Ok(())
    }
}

impl UserData for DynamicMetadata {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        add_logs(methods);
        methods.add_method("get", |lua, this, name: LuaString| {
            this.table(lua, &name.to_string_lossy())
        });
        methods.add_method(
            "set",
            |lua, this, (name, key, value): (LuaString, LuaString, Value)| {
                this.set(lua, &name.to_string_lossy(), &key.to_string_lossy(), &value)
            },
        );
        methods.add_meta_method(MetaMethod::Pairs, |lua, this, ()| {
            let live = this.scope.enter(lua)?.live.borrow();
            let all = this.of(&live.stream).get();
            let all = all.map(|all| all.filter_metadata.clone());
            let mut all = all.unwrap_or_default().into_iter();
            lua.create_function_mut(move |lua, _: MultiValue| match all.next() {
                Some((name, fields)) => Ok((Some(name), Some(values::table(lua, &fields)?))),
                None => Ok((None, None)),
            })
        });
    }
}

/// The filter state of the stream.
struct FilterStateObject(Scoped);

impl UserData for FilterStateObject {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        add_logs(methods);
        methods.add_method(
            "get",
            |lua, this, (name, field): (LuaString, Option<LuaString>)| {
                let live = this.0.enter(lua)?.live.borrow();
                let object = live.stream.filter_state.get(&name.to_string_lossy());
                let text = object.and_then(|object| match &field {
                    Some(field) => object.field(&field.to_string_lossy()),
                    None => object.text(),
                });
                // As in Envoy, there is no result then, which is not the same as nil.
                match text {
                    Some(text) => text.as_ref().into_lua_multi(lua),
                    None => Ok(MultiValue::new()),
                }
            },
        );
        methods.add_method("set", |lua, this, _: MultiValue| {
            this.0.enter(lua)?;
            Err::<(), _>(fail(lua, "filterState():set() is not supported"))
        });
    }
}

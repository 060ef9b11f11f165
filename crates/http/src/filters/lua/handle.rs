//! The stream handle: the object through which a script reaches everything else.

use std::rc::Rc;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use mlua::FromLuaMulti;
use mlua::IntoLua;
use mlua::IntoLuaMulti;
use mlua::Lua;
use mlua::LuaString;
use mlua::MultiValue;
use mlua::Table;
use mlua::UserData;
use mlua::UserDataFields;
use mlua::UserDataMethods;
use mlua::UserDataRef;
use mlua::Value;
use outrider_net::clock;

use crate::local_reply::LocalReply;

use super::buffer::Buffer;
use super::call;
use super::call::Call;
use super::crypto;
use super::crypto::PublicKey;
use super::headers::Headers;
use super::headers::Part;
use super::info::Connection;
use super::info::ConnectionInfo;
use super::info::RouteObject;
use super::info::StreamInfo;
use super::machine::fail;
use super::machine::plain_error;
use super::run::Direction;
use super::run::Operation;
use super::run::Run;
use super::run::Scoped;
use super::values::Fields;
use super::values::FieldsSource;

/// The name of the chunk that completes the API in Lua.
pub(super) const PRELUDE: &str = "envoy";
/// Where a Lua state keeps the methods of the handle.
const METHODS: &str = "envoy.handle";

/// The stream handle.
pub(super) struct Handle(Rc<Run>);

type This = UserDataRef<Handle>;

impl Handle {
    pub(super) fn new(run: &Rc<Run>) -> Handle {
        Handle(run.clone())
    }
}

impl UserData for Handle {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_meta_field_with("__index", |lua| lua.named_registry_value::<Table>(METHODS));
    }
}

/// Adds the logging methods, which all objects have.
pub(super) fn add_logs<T, M: UserDataMethods<T>>(methods: &mut M) {
    for (name, level) in LOGS {
        methods.add_method(name, move |_, _, text: LuaString| {
            write_log(level, &text);
            Ok(())
        });
    }
}

const LOGS: [(&str, log::Level); 6] = [
    ("logTrace", log::Level::Trace),
    ("logDebug", log::Level::Debug),
    ("logInfo", log::Level::Info),
    ("logWarn", log::Level::Warn),
    ("logErr", log::Level::Error),
    ("logCritical", log::Level::Error),
];

fn write_log(level: log::Level, text: &LuaString) {
    log::log!(target: "lua", level, "script log: {}", text.to_string_lossy());
}

/// Makes the API known to a Lua state.
pub(super) fn install(lua: &Lua) -> mlua::Result<()> {
    let methods = lua.create_table()?;
    for (name, level) in LOGS {
        let log = move |_: &Lua, (_, text): (This, LuaString)| {
            write_log(level, &text);
            Ok(())
        };
        methods.set(name, lua.create_function(log)?)?;
    }
    add_objects(lua, &methods)?;
    add_tools(lua, &methods)?;
    add_unsupported(lua, &methods)?;
    let waiting = lua.create_table()?;
    add_waiting(lua, &waiting)?;
    let routed = lua.create_table()?;
    add_routed(lua, &routed)?;
    lua.set_named_registry_value(METHODS, &methods)?;
    let prelude = lua.load(include_str!("prelude.lua"));
    let functions = (
        methods,
        lua.create_function(body_chunks)?,
        lua.create_function(next_chunk)?,
        lua.create_function(stale_route)?,
        lua.create_function(|lua, error: Value| plain_error(lua, error))?,
    );
    let prelude = prelude.set_name(format!("={PRELUDE}"));
    prelude.call((
        functions.0,
        functions.1,
        functions.2,
        functions.3,
        functions.4,
        waiting,
        routed,
    ))
}

/// Adds a method that runs only while the script may use the handle.
fn add<A: FromLuaMulti, R: IntoLuaMulti>(
    lua: &Lua,
    methods: &Table,
    name: &str,
    method: impl Fn(&Lua, &Rc<Run>, A) -> mlua::Result<R> + 'static,
) -> mlua::Result<()> {
    let function = lua.create_function(move |lua, mut arguments: MultiValue| {
        let this = arguments.pop_front().unwrap_or(Value::Nil);
        let this: This = mlua::FromLua::from_lua(this, lua)?;
        this.0.check_running(lua)?;
        let arguments = A::from_lua_multi(arguments, lua)?;
        method(lua, &this.0, arguments)
    })?;
    methods.set(name, function)
}

fn add_objects(lua: &Lua, methods: &Table) -> mlua::Result<()> {
    add(lua, methods, "headers", |_, run, ()| {
        let part = match run.direction {
            Direction::Request => Part::Request,
            Direction::Response => Part::Response,
        };
        Ok(Headers::new(run, part))
    })?;
    add(lua, methods, "requestHeaders", |_, run, ()| {
        Ok(Headers::new(run, Part::Request))
    })?;
    add(lua, methods, "streamInfo", |_, run, ()| {
        Ok(StreamInfo::new(run))
    })?;
    add(lua, methods, "connection", |_, run, ()| {
        Ok(Connection::new(run))
    })?;
    add(lua, methods, "connectionStreamInfo", |_, run, ()| {
        Ok(ConnectionInfo::new(run))
    })?;
    add(lua, methods, "filterContext", |_, run, ()| {
        let config = &run.environment.config;
        let context = run.context.as_ref().or(config.context.as_ref());
        let source = context.map_or(FieldsSource::None, |fields| {
            FieldsSource::Own(fields.clone())
        });
        Ok(Fields::new(Scoped::new(run), source))
    })
}

/// The objects of the route, which may have to be found again first.
fn add_routed(lua: &Lua, methods: &Table) -> mlua::Result<()> {
    add(lua, methods, "metadata", |_, run, ()| {
        let live = run.live.borrow();
        let route = live.stream.route.as_ref();
        let metadata = route.and_then(|route| route.metadata.as_ref());
        Ok(Fields::find(
            Scoped::new(run),
            metadata,
            &run.metadata_names(),
        ))
    })?;
    add(lua, methods, "route", |_, run, ()| {
        let live = run.live.borrow();
        let route = live.stream.route.as_ref();
        Ok(RouteObject::new(
            run,
            route.and_then(|route| route.metadata.clone()),
        ))
    })?;
    add(lua, methods, "virtualHost", |_, run, ()| {
        let live = run.live.borrow();
        let host = live.stream.route.as_ref().map(|route| &route.virtual_host);
        Ok(RouteObject::new(
            run,
            host.and_then(|host| host.metadata.clone()),
        ))
    })
}

fn add_tools(lua: &Lua, methods: &Table) -> mlua::Result<()> {
    add(lua, methods, "clearRouteCache", |_, run, ()| {
        if run.direction == Direction::Request && !run.has_continued.get() {
            run.route_changed.set(true);
        }
        Ok(())
    })?;
    add(lua, methods, "base64Escape", |lua, _, text: LuaString| {
        lua.create_string(STANDARD.encode(&*text.as_bytes()))
    })?;
    add(lua, methods, "base64Decode", |lua, _, text: LuaString| {
        let bytes = STANDARD.decode(&*text.as_bytes()).ok();
        bytes.map(|bytes| lua.create_string(bytes)).transpose()
    })?;
    add(
        lua,
        methods,
        "timestamp",
        |lua, _, format: Option<Value>| match resolution(format) {
            Some(Resolution::Milliseconds) => Ok(since_epoch().as_millis() as f64),
            _ => Err(fail(lua, "timestamp format must be MILLISECOND.")),
        },
    )?;
    add(
        lua,
        methods,
        "timestampString",
        |lua, _, format: Option<Value>| match resolution(format) {
            Some(Resolution::Milliseconds) => Ok(since_epoch().as_millis().to_string()),
            Some(Resolution::Microseconds) => Ok(since_epoch().as_micros().to_string()),
            None => {
                let text = "timestamp format must be MILLISECOND or MICROSECOND.";
                Err(fail(lua, text))
            }
        },
    )?;
    add(
        lua,
        methods,
        "importPublicKey",
        |lua, _, (key, length): (LuaString, f64)| {
            Ok(PublicKey::new(crypto::prefix(lua, &key, length)?))
        },
    )?;
    add(lua, methods, "verifySignature", crypto::verify)
}

/// Methods that fail, and say so.
fn add_unsupported(lua: &Lua, methods: &Table) -> mlua::Result<()> {
    for name in ["setUpstreamOverrideHost", "stats"] {
        add(lua, methods, name, move |lua, _, _: MultiValue| {
            Err::<(), _>(fail(lua, format!("{name}() is not supported")))
        })?;
    }
    Ok(())
}

/// Methods that may have to wait: each returns the operation to wait for, or nil and its results.
fn add_waiting(lua: &Lua, methods: &Table) -> mlua::Result<()> {
    add(lua, methods, "body", |lua, run, always: Option<Value>| {
        let always = match always {
            None => false,
            Some(Value::Boolean(flag)) => flag,
            Some(other) => {
                let kind = other.type_name();
                let text = format!("bad argument #1 to 'body' (boolean expected, got {kind})");
                return Err(fail(lua, text));
            }
        };
        body(lua, run, always)
    })?;
    add(lua, methods, "trailers", |lua, run, ()| {
        let exist = run.live.borrow().trailers.is_some();
        match (exist, run.end_stream.get()) {
            (true, _) => results(lua, Headers::new(run, Part::Trailers)),
            (false, true) => results(lua, Value::Nil),
            (false, false) => Operation::Trailers.into_lua_multi(lua),
        }
    })?;
    add(lua, methods, "httpCall", |lua, run, arguments| {
        let (call, is_asynchronous) = Call::build(lua, run, arguments)?;
        match is_asynchronous {
            true => {
                call.make_in_background(lua, run)?;
                Ok(MultiValue::new())
            }
            false => Operation::Call(Box::new(call)).into_lua_multi(lua),
        }
    })?;
    add(lua, methods, "respond", respond)
}

/// The results of a method that need not wait.
fn results(lua: &Lua, value: impl IntoLua) -> mlua::Result<MultiValue> {
    (Value::Nil, value.into_lua(lua)?).into_lua_multi(lua)
}

fn body(lua: &Lua, run: &Rc<Run>, always: bool) -> mlua::Result<MultiValue> {
    match (run.end_stream.get(), run.saw_body.get()) {
        (true, true) if !run.is_buffered.get() => {
            let text = "cannot call body() after body has been streamed";
            Err(fail(lua, text))
        }
        (true, _) => {
            let mut live = run.live.borrow_mut();
            if live.body.is_none() && always {
                live.body = Some(Vec::new());
            }
            match live.body {
                Some(_) => results(lua, Buffer::new(run)),
                None => results(lua, Value::Nil),
            }
        }
        (false, true) => {
            let text = "cannot call body() after body streaming has started";
            Err(fail(lua, text))
        }
        (false, false) => Operation::Body { always }.into_lua_multi(lua),
    }
}

/// Checks a call of `bodyChunks()`.
fn body_chunks(lua: &Lua, this: This) -> mlua::Result<()> {
    this.0.check_running(lua)?;
    match this.0.saw_body.get() {
        true => {
            let text = "cannot call bodyChunks after body processing has begun";
            Err(fail(lua, text))
        }
        false => Ok(()),
    }
}

fn next_chunk(lua: &Lua, this: This) -> mlua::Result<Option<Operation>> {
    this.0.check_running(lua)?;
    Ok((!this.0.end_stream.get()).then_some(Operation::Chunk))
}

/// The operation to wait for before the route is used.
fn stale_route(lua: &Lua, this: This) -> mlua::Result<Option<Operation>> {
    this.0.check_running(lua)?;
    Ok(this.0.route_changed.get().then_some(Operation::Reroute))
}

fn respond(
    lua: &Lua,
    run: &Rc<Run>,
    (headers, body): (Table, Option<LuaString>),
) -> mlua::Result<MultiValue> {
    if run.has_continued.get() {
        let text = "respond() cannot be called if headers have been continued";
        return Err(fail(lua, text));
    }
    let fields = call::fields(lua, &headers)?;
    let status = fields.iter().find(|(name, _)| name == ":status");
    let status = status.and_then(|(_, value)| StatusCode::from_bytes(value).ok());
    let status = status.filter(|status| (200..600).contains(&status.as_u16()));
    let status = status.ok_or_else(|| fail(lua, ":status must be between 200-599"))?;
    if run.direction == Direction::Response {
        let text = "respond not currently supported in the response path";
        return Err(fail(lua, text));
    }
    let mut reply = LocalReply::new(status, "lua_response");
    reply.headers = call::reply_headers(lua, &fields)?;
    // A header may be there several times.
    reply.keeps_route_headers = true;
    if let Some(body) = body {
        reply = reply.body(body.as_bytes().to_vec());
    }
    run.live.borrow_mut().reply = Some(Box::new(reply));
    true.into_lua_multi(lua)
}

/// The unit of a timestamp.
enum Resolution {
    Milliseconds,
    Microseconds,
}

fn resolution(format: Option<Value>) -> Option<Resolution> {
    let number = match format {
        None | Some(Value::Nil) => 0.0,
        Some(Value::Integer(number)) => number as f64,
        Some(Value::Number(number)) => number,
        Some(_) => return None,
    };
    match number {
        0.0 => Some(Resolution::Milliseconds),
        1.0 => Some(Resolution::Microseconds),
        _ => None,
    }
}

fn since_epoch() -> std::time::Duration {
    let now: SystemTime = clock::wall();
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

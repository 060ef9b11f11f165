//! Starts scripts, carries out what they wait for, and resumes them.

use std::rc::Rc;

use bytes::Bytes;
use http::StatusCode;
use mlua::AnyUserData;
use mlua::Function;
use mlua::IntoLuaMulti;
use mlua::MultiValue;
use mlua::Thread;
use mlua::prelude::LuaThreadStatus;
use outrider_codec::Body;

use crate::Stream;
use crate::filters::FilterCx;
use crate::filters::body::BrokenBody;
use crate::local_reply::LocalReply;
use crate::read_ahead_body::ReadAheadBody;

use super::body::ScriptBody;
use super::buffer::Buffer;
use super::call::CallResult;
use super::handle::Handle;
use super::headers::Headers;
use super::headers::Part;
use super::machine::Machine;
use super::machine::message;
use super::run::Direction;
use super::run::Operation;
use super::run::Run;

/// The details of the reply in place of a response that is too large to be buffered.
const RESPONSE_TOO_LARGE: &str = "response_payload_too_large";

/// A script that runs or waits.
pub(super) struct Script {
    machine: Rc<Machine>,
    thread: Thread,
    pub(super) run: Rc<Run>,
}

/// How far a script has come.
pub(super) enum Progress {
    /// It has ended, or failed.
    Ended,
    Waits(Operation),
    /// It has replied.
    Replied(Box<LocalReply>),
}

/// What a script gets when it is resumed.
pub(super) enum Resumption {
    /// The script begins.
    Start,
    /// The wait has no result, or nothing came.
    Nothing,
    Body,
    Trailers,
    Response(CallResult),
}

impl Script {
    /// A coroutine for `function`; `None` if there is no memory for it.
    pub(super) fn new(machine: Rc<Machine>, function: Function, run: Rc<Run>) -> Option<Script> {
        match machine.lua().create_thread(function) {
            Ok(thread) => Some(Script {
                machine,
                thread,
                run,
            }),
            Err(error) => {
                log::error!(target: "lua", "script log: {}", message(&error));
                run.environment.stats.errors.inc();
                None
            }
        }
    }

    /// Runs the script until it waits for the first time.
    pub(super) fn start(&mut self, stream: &mut Stream) -> Progress {
        let run = self.run.clone();
        run.with_stream(stream, || self.resume(Resumption::Start))
    }

    /// Finds the route of the request again, if the script has changed the request.
    pub(super) fn reroute(&self, stream: &mut Stream, cx: &FilterCx<'_>) {
        if self.run.route_changed.replace(false) {
            cx.clear_route_cache(stream);
        }
    }

    /// Runs the script until it waits again, or ends. It counts and logs an error of the script.
    pub(super) fn resume(&self, with: Resumption) -> Progress {
        let result = self.machine.limited(|| {
            let values = self.values(with)?;
            self.thread.resume::<MultiValue>(values)
        });
        // However the script has stopped after that: a reply that denies a request must not get lost.
        let reply = self.run.live.borrow_mut().reply.take();
        if let Some(reply) = reply {
            return Progress::Replied(reply);
        }
        match result {
            Err(error) => self.failed(&message(&error)),
            Ok(values) if self.thread.status() == LuaThreadStatus::Resumable => {
                let operation = values.front().and_then(|value| value.as_userdata());
                match operation.map(AnyUserData::take::<Operation>) {
                    Some(Ok(operation)) => {
                        if !matches!(operation, Operation::Reroute) {
                            self.run.leave_scope();
                        }
                        Progress::Waits(operation)
                    }
                    _ => self.failed("script performed an unexpected yield"),
                }
            }
            Ok(_) => Progress::Ended,
        }
    }

    fn failed(&self, text: &str) -> Progress {
        log::error!(target: "lua", "script log: {text}");
        self.run.environment.stats.errors.inc();
        Progress::Ended
    }

    fn values(&self, with: Resumption) -> mlua::Result<MultiValue> {
        let (lua, run) = (self.machine.lua(), &self.run);
        match with {
            Resumption::Start => Handle::new(run).into_lua_multi(lua),
            Resumption::Nothing => Ok(MultiValue::new()),
            Resumption::Body => Buffer::new(run).into_lua_multi(lua),
            Resumption::Trailers => Headers::new(run, Part::Trailers).into_lua_multi(lua),
            Resumption::Response(result) => result.into_lua_multi(lua),
        }
    }
}

/// Carries out `operation`, resumes the script, and so on until the script ends, replies, or lets the headers go on.
pub(super) async fn drive(
    script: Script,
    mut operation: Operation,
    stream: &mut Stream,
    body: &mut Body,
    cx: &FilterCx<'_>,
) -> Result<(), LocalReply> {
    let run = script.run.clone();
    loop {
        let result = match operation {
            Operation::Body { always } => match buffer(&run, always, body, cx).await? {
                Some(result) => result,
                None => return Ok(()),
            },
            Operation::Chunk | Operation::Trailers => {
                run.continue_headers(stream);
                ScriptBody::wrap(script, operation, stream, body);
                return Ok(());
            }
            Operation::Call(call) => {
                let client = run.environment.client.clone();
                let call = call.make(&client);
                Resumption::Response(cx.hold_body(body, call).await)
            }
            Operation::Reroute => Resumption::Nothing,
        };
        let progress = run.with_stream(stream, || script.resume(result));
        script.reroute(stream, cx);
        match progress {
            Progress::Waits(next) => operation = next,
            Progress::Replied(reply) => return Err(*reply),
            Progress::Ended => {
                put_back(&run, body);
                return Ok(());
            }
        }
    }
}

/// Reads the whole body; `None` if it broke off.
async fn buffer(
    run: &Run,
    always: bool,
    body: &mut Body,
    cx: &FilterCx<'_>,
) -> Result<Option<Resumption>, LocalReply> {
    let buffered = match run.direction {
        Direction::Request => cx.buffer_request(body, cx.buffer_limit).await?,
        Direction::Response => match cx.buffer_body(body, cx.buffer_limit).await {
            Ok(buffered) if buffered.is_complete && buffered.data.len() <= cx.buffer_limit => {
                buffered
            }
            Ok(_) => {
                cx.stats.requests.rs_too_large.inc();
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                let reply = LocalReply::new(status, RESPONSE_TOO_LARGE);
                return Err(reply.body("Internal Server Error"));
            }
            Err(error) => {
                *body = BrokenBody::body(error);
                return Ok(None);
            }
        },
    };
    run.end_stream.set(true);
    run.is_buffered.set(true);
    run.saw_body.set(!buffered.data.is_empty());
    let mut live = run.live.borrow_mut();
    live.trailers = buffered.trailers;
    let exists = always || !buffered.data.is_empty();
    live.body = exists.then(|| buffered.data.into());
    Ok(Some(match exists {
        true => Resumption::Body,
        false => Resumption::Nothing,
    }))
}

/// Makes the body that the script has held the body of the message again.
pub(super) fn put_back(run: &Run, body: &mut Body) {
    let mut live = run.live.borrow_mut();
    if run.is_buffered.get() || live.body.is_some() {
        let data = Bytes::from(live.body.take().unwrap_or_default());
        let trailers = live.trailers.take();
        let whole = ReadAheadBody::from_parts(data, trailers, Body::Empty, true);
        *body = whole.into_body();
    }
}

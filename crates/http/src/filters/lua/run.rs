//! One run of a script: what its objects share with the filter.

use std::cell::Cell;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use http::Version;
use mlua::Lua;
use outrider_client::InternalClient;
use outrider_codec::HeaderMap;
use outrider_upstream::Clusters;
use prost_types::Struct;
use tokio::task::JoinSet;

use crate::RequestHead;
use crate::Stream;
use crate::local_reply::LocalReply;

use super::LuaStats;
use super::call::Call;
use super::config::LuaConfig;
use super::headers::PartSet;
use super::machine::fail;

/// Which message a script handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Request,
    Response,
}

/// The surroundings of all scripts of a filter on one worker.
pub(super) struct Environment {
    pub(super) client: Rc<InternalClient>,
    pub(super) clusters: Rc<Clusters>,
    pub(super) stats: Arc<LuaStats>,
    pub(super) config: Arc<LuaConfig>,
    /// The filter's name: routes have metadata under it.
    pub(super) name: Arc<str>,
    /// Calls whose answer no script waits for.
    pub(super) background: RefCell<JoinSet<()>>,
}

/// One run of a script. The objects of the script share it.
pub(super) struct Run {
    pub(super) direction: Direction,
    pub(super) environment: Rc<Environment>,
    /// `filter_context` of the route.
    pub(super) context: Option<Arc<Struct>>,
    /// Whether the script is running, and not waiting.
    is_running: Cell<bool>,
    /// How often the script has waited. Objects that were made before a wait are out of scope after it.
    pub(super) waits: Cell<u32>,
    /// Whether the headers have gone to the next filter.
    pub(super) has_continued: Cell<bool>,
    /// Whether the whole message has arrived.
    pub(super) end_stream: Cell<bool>,
    pub(super) saw_body: Cell<bool>,
    /// Whether the script has the body as a whole.
    pub(super) is_buffered: Cell<bool>,
    /// Which headers a script iterates over.
    pub(super) iterates: Cell<PartSet>,
    /// Whether the route has to be found again.
    pub(super) route_changed: Cell<bool>,
    pub(super) live: RefCell<Live>,
}

/// The message that the script handles.
pub(super) struct Live {
    /// The stream while the script runs; a placeholder otherwise.
    pub(super) stream: Stream,
    pub(super) body: Option<Vec<u8>>,
    pub(super) trailers: Option<HeaderMap>,
    /// The reply of the script, which is not resumed after it has stopped.
    pub(super) reply: Option<Box<LocalReply>>,
}

/// What a script waits for.
pub(super) enum Operation {
    /// The whole body.
    Body {
        /// Whether the script gets a body also if there is none.
        always: bool,
    },
    /// The next part of the body.
    Chunk,
    Trailers,
    Call(Box<Call>),
    /// The route, which has to be found again first.
    Reroute,
}

impl mlua::UserData for Operation {}

impl Run {
    pub(super) fn new(
        direction: Direction,
        environment: Rc<Environment>,
        context: Option<Arc<Struct>>,
        stream: &Stream,
    ) -> Rc<Run> {
        let placeholder = Stream::new(
            stream.connection.clone(),
            RequestHead::default(),
            Version::HTTP_11,
            0,
        );
        Rc::new(Run {
            direction,
            environment,
            context,
            is_running: Cell::new(false),
            waits: Cell::new(0),
            has_continued: Cell::new(false),
            end_stream: Cell::new(false),
            saw_body: Cell::new(false),
            is_buffered: Cell::new(false),
            iterates: Cell::default(),
            route_changed: Cell::new(false),
            live: RefCell::new(Live {
                stream: placeholder,
                body: None,
                trailers: None,
                reply: None,
            }),
        })
    }

    /// Runs `resume` with the stream in its place.
    pub(super) fn with_stream<T>(&self, stream: &mut Stream, resume: impl FnOnce() -> T) -> T {
        std::mem::swap(&mut self.live.borrow_mut().stream, stream);
        let output = self.running(resume);
        std::mem::swap(&mut self.live.borrow_mut().stream, stream);
        output
    }

    /// Runs `resume` while the stream is out of reach: the script sees a copy of its head.
    pub(super) fn running<T>(&self, resume: impl FnOnce() -> T) -> T {
        self.is_running.set(true);
        let output = resume();
        self.is_running.set(false);
        output
    }

    /// Lets the headers go to the next filter. The script keeps a copy to read.
    pub(super) fn continue_headers(&self, stream: &Stream) {
        self.has_continued.set(true);
        let copy = &mut self.live.borrow_mut().stream;
        copy.request = stream.request.clone();
        copy.response.clone_from(&stream.response);
        copy.protocol = stream.protocol;
        copy.remote_address = stream.remote_address.clone();
        copy.route.clone_from(&stream.route);
        copy.virtual_cluster.clone_from(&stream.virtual_cluster);
        if let Some(metadata) = stream.dynamic_metadata.get() {
            for (namespace, fields) in &metadata.filter_metadata {
                copy.dynamic_metadata.merge(namespace, fields.clone());
            }
        }
    }

    /// The script waits: its objects are out of scope from now on.
    pub(super) fn leave_scope(&self) {
        self.waits.set(self.waits.get().wrapping_add(1));
        self.iterates.set(PartSet::default());
    }

    /// Fails unless the script runs, and has not waited since `waits`.
    pub(super) fn check_scope(&self, waits: u32, lua: &Lua) -> mlua::Result<()> {
        match self.is_running.get() && self.waits.get() == waits {
            true => Ok(()),
            false => Err(fail(lua, "object used outside of proper scope")),
        }
    }

    pub(super) fn check_running(&self, lua: &Lua) -> mlua::Result<()> {
        self.check_scope(self.waits.get(), lua)
    }

    /// The names under which routes have metadata for this filter.
    pub(super) fn metadata_names(&self) -> [&str; 2] {
        [&self.environment.name, "envoy.filters.http.lua"]
    }
}

/// An object of a script that is valid until the script waits.
pub(super) struct Scoped {
    run: Rc<Run>,
    waits: u32,
}

impl Scoped {
    pub(super) fn new(run: &Rc<Run>) -> Scoped {
        Scoped {
            run: run.clone(),
            waits: run.waits.get(),
        }
    }

    /// The run, if the object may be used.
    pub(super) fn enter(&self, lua: &Lua) -> mlua::Result<&Rc<Run>> {
        self.run.check_scope(self.waits, lua)?;
        Ok(&self.run)
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Body { .. } => "Body",
            Operation::Chunk => "Chunk",
            Operation::Trailers => "Trailers",
            Operation::Call(_) => "Call",
            Operation::Reroute => "Reroute",
        })
    }
}

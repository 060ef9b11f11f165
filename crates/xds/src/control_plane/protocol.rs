//! What both protocols share: which requests a stream has to send, and when.

use std::sync::Arc;

use outrider_config::api::envoy::config::core::v3::Node;
use outrider_config::api::google::rpc::Status;

use super::client::XdsRequest;
use super::incremental::Incremental;
use super::received::Read;
use super::state_of_the_world::StateOfTheWorld;
use crate::ApiSource;
use crate::ResourceType;
use crate::api_source;

/// The gRPC status INTERNAL, with which responses are refused.
const INTERNAL: i32 = 13;
/// Longer reasons are cut.
const MAX_REASON: usize = 4096;

/// Names the proxy in requests.
#[derive(Debug)]
pub(super) struct Identity {
    node: Arc<Node>,
    once: bool,
    was_sent: bool,
}

/// The requests of one stream.
#[derive(Debug)]
pub(super) enum Protocol {
    Whole(StateOfTheWorld),
    Incremental(Incremental),
}

/// A response that was handled: what the control plane is told about it.
#[derive(Debug)]
pub(super) struct Outcome<'a> {
    pub(super) kind: &'static ResourceType,
    pub(super) version: &'a str,
    pub(super) nonce: &'a str,
    pub(super) resources: &'a [Known],
    pub(super) removed: &'a [String],
    pub(super) error: Option<String>,
}

/// A resource that was taken over: its name and version.
pub(super) type Known = (String, String);

/// The names and versions of resources.
pub(super) fn known(resources: &[Read]) -> Vec<Known> {
    let known = resources.iter();
    known
        .map(|read| (read.name.clone(), read.version.clone()))
        .collect()
}

impl Protocol {
    pub(super) fn new(source: &ApiSource, node: Arc<Node>) -> Protocol {
        let identity = Identity {
            node,
            once: source.node_on_first_message_only,
            was_sent: false,
        };
        match source.protocol {
            api_source::Protocol::StateOfTheWorld => {
                Protocol::Whole(StateOfTheWorld::new(identity))
            }
            api_source::Protocol::Incremental => Protocol::Incremental(Incremental::new(identity)),
        }
    }

    /// A subscription was added, to one resource or to all.
    pub(super) fn subscribe(&mut self, kind: &'static ResourceType, name: Option<&str>) {
        match self {
            Protocol::Whole(whole) => whole.subscribe(kind, name),
            Protocol::Incremental(incremental) => incremental.subscribe(kind, name),
        }
    }

    /// A subscription has ended.
    pub(super) fn unsubscribe(&mut self, kind: &'static ResourceType, name: Option<&str>) {
        match self {
            Protocol::Whole(whole) => whole.unsubscribe(kind, name),
            Protocol::Incremental(incremental) => incremental.unsubscribe(kind, name),
        }
    }

    /// Sends no requests for this type, or does so again.
    pub(super) fn pause(&mut self, kind: &'static ResourceType, pause: bool) {
        match self {
            Protocol::Whole(whole) => whole.pause(kind, pause),
            Protocol::Incremental(incremental) => incremental.pause(kind, pause),
        }
    }

    /// A new stream is open: the control plane knows nothing yet.
    pub(super) fn opened(&mut self) {
        match self {
            Protocol::Whole(whole) => whole.opened(),
            Protocol::Incremental(incremental) => incremental.opened(),
        }
    }

    /// Whether a request waits to be sent.
    pub(super) fn has_request(&self) -> bool {
        self.waiting() > 0
    }

    /// How many requests wait to be sent.
    pub(super) fn waiting(&self) -> usize {
        match self {
            Protocol::Whole(whole) => whole.waiting(),
            Protocol::Incremental(incremental) => incremental.waiting(),
        }
    }

    /// The next request.
    pub(super) fn next(&mut self) -> Option<XdsRequest> {
        match self {
            Protocol::Whole(whole) => whole.next().map(XdsRequest::Whole),
            Protocol::Incremental(incremental) => incremental.next().map(XdsRequest::Incremental),
        }
    }

    /// A response was handled.
    pub(super) fn finish(&mut self, outcome: Outcome<'_>) {
        match self {
            Protocol::Whole(whole) => whole.finish(outcome),
            Protocol::Incremental(incremental) => incremental.finish(outcome),
        }
    }

    /// Whether the control plane has confirmed what the proxy has: a resource of this name and version.
    pub(super) fn has(&self, kind: &ResourceType, name: &str, version: &str) -> bool {
        match self {
            Protocol::Whole(whole) => whole.has(kind, version),
            Protocol::Incremental(incremental) => incremental.has(kind, name, version),
        }
    }

    /// Resources have expired: the proxy no longer has them.
    pub(super) fn forget(&mut self, kind: &ResourceType, names: &[String]) {
        if let Protocol::Incremental(incremental) = self {
            incremental.forget(kind, names);
        }
    }
}

impl Identity {
    /// A new stream is open.
    pub(super) fn opened(&mut self) {
        self.was_sent = false;
    }

    /// The node for the next request.
    pub(super) fn next(&mut self) -> Option<Node> {
        let is_needed = !(self.once && self.was_sent);
        self.was_sent = true;
        is_needed.then(|| Node::clone(&self.node))
    }
}

/// Why a response is refused.
pub(super) fn error_detail(reason: String) -> Status {
    let mut message = reason;
    if message.len() > MAX_REASON {
        let end = (0..=MAX_REASON)
            .rev()
            .find(|end| message.is_char_boundary(*end));
        message.truncate(end.unwrap_or(0));
        message.push_str("...(truncated)");
    }
    Status {
        code: INTERNAL,
        message,
        details: Vec::new(),
    }
}

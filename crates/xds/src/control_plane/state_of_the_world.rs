//! `GRPC`: each request names all resources of a type that are wanted.

use std::collections::VecDeque;

use outrider_config::api::envoy::service::discovery::v3::DiscoveryRequest;
use outrider_config::api::google::rpc::Status;

use super::protocol::Identity;
use super::protocol::Outcome;
use super::protocol::error_detail;
use crate::ResourceType;

/// The requests of a stream of this protocol.
#[derive(Debug)]
pub(super) struct StateOfTheWorld {
    identity: Identity,
    /// In the order in which they were first subscribed to.
    types: Vec<Type>,
    /// The positions of the types for which a request waits.
    queue: VecDeque<usize>,
}

/// The resources of one type.
#[derive(Debug)]
struct Type {
    kind: &'static ResourceType,
    /// The name of each subscription, in the order of the subscriptions; `None`: all resources.
    names: Vec<Option<String>>,
    /// Of the last response that was accepted.
    version: String,
    /// Of the last response on this stream.
    nonce: String,
    error: Option<Status>,
    pauses: u32,
    /// A request is due, but the type is paused.
    is_held: bool,
}

impl StateOfTheWorld {
    pub(super) fn new(identity: Identity) -> StateOfTheWorld {
        StateOfTheWorld {
            identity,
            types: Vec::new(),
            queue: VecDeque::new(),
        }
    }

    fn find(&self, kind: &ResourceType) -> Option<usize> {
        let mut types = self.types.iter();
        types.position(|known| known.kind.name == kind.name)
    }

    fn get(&mut self, kind: &'static ResourceType) -> (usize, &mut Type) {
        let at = self.find(kind).unwrap_or_else(|| {
            self.types.push(Type {
                kind,
                names: Vec::new(),
                version: String::new(),
                nonce: String::new(),
                error: None,
                pauses: 0,
                is_held: false,
            });
            self.types.len() - 1
        });
        (at, &mut self.types[at])
    }

    /// Queues a request of the type, or holds it while the type is paused.
    fn ask(&mut self, at: usize) {
        let one = &mut self.types[at];
        if one.pauses > 0 {
            one.is_held = true;
        } else if !self.queue.contains(&at) {
            self.queue.push_back(at);
        }
    }

    pub(super) fn subscribe(&mut self, kind: &'static ResourceType, name: Option<&str>) {
        let (at, one) = self.get(kind);
        one.names.push(name.map(str::to_owned));
        self.ask(at);
    }

    pub(super) fn unsubscribe(&mut self, kind: &'static ResourceType, name: Option<&str>) {
        let (at, one) = self.get(kind);
        if let Some(known) = one.names.iter().position(|known| known.as_deref() == name) {
            one.names.remove(known);
            self.ask(at);
        }
    }

    pub(super) fn pause(&mut self, kind: &'static ResourceType, pause: bool) {
        let (at, one) = self.get(kind);
        if pause {
            one.pauses += 1;
            if self.queue.contains(&at) {
                self.queue.retain(|queued| *queued != at);
                self.types[at].is_held = true;
            }
            return;
        }
        one.pauses = one.pauses.saturating_sub(1);
        if one.pauses == 0 && std::mem::take(&mut one.is_held) {
            self.ask(at);
        }
    }

    pub(super) fn opened(&mut self) {
        self.identity.opened();
        self.queue.clear();
        for at in 0..self.types.len() {
            self.types[at].nonce.clear();
            // A request without names would ask for all resources.
            if !self.types[at].names.is_empty() {
                self.ask(at);
            }
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn next(&mut self) -> Option<DiscoveryRequest> {
        let one = &mut self.types[self.queue.pop_front()?];
        let mut names: Vec<String> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for name in one.names.iter().flatten() {
            if seen.insert(name) {
                names.push(name.clone());
            }
        }
        Some(DiscoveryRequest {
            version_info: one.version.clone(),
            node: self.identity.next(),
            resource_names: names,
            type_url: one.kind.url(),
            response_nonce: one.nonce.clone(),
            error_detail: one.error.take(),
            ..DiscoveryRequest::default()
        })
    }

    pub(super) fn finish(&mut self, outcome: Outcome<'_>) {
        let (at, one) = self.get(outcome.kind);
        one.nonce = outcome.nonce.to_owned();
        match outcome.error {
            Some(reason) => one.error = Some(error_detail(reason)),
            None => outcome.version.clone_into(&mut one.version),
        }
        self.ask(at);
    }

    pub(super) fn has(&self, kind: &ResourceType, version: &str) -> bool {
        let known = self.find(kind).map(|at| &self.types[at]);
        known.is_some_and(|known| known.version == version)
    }
}

//! `DELTA_GRPC`: each request names the resources that are wanted from now on, or no longer.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::VecDeque;

use outrider_config::api::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use outrider_config::api::google::rpc::Status;

use super::protocol::Identity;
use super::protocol::Outcome;
use super::protocol::error_detail;
use crate::ResourceType;

/// So many acknowledgements may wait; older ones are dropped.
const MAX_ACKNOWLEDGEMENTS: usize = 1000;

/// The requests of a stream of this protocol.
#[derive(Debug)]
pub(super) struct Incremental {
    identity: Identity,
    /// In the order in which they were first subscribed to.
    types: Vec<Type>,
    /// The responses that were handled and that the control plane does not know of.
    acknowledgements: VecDeque<Acknowledgement>,
}

#[derive(Debug)]
struct Acknowledgement {
    /// The position of its type.
    of: usize,
    nonce: String,
    error: Option<Status>,
}

/// The resources of one type.
#[derive(Debug)]
struct Type {
    kind: &'static ResourceType,
    /// How many subscriptions want all resources.
    wildcards: usize,
    /// How many subscriptions want each resource.
    wanted: BTreeMap<String, usize>,
    /// The versions of the resources that the proxy has.
    versions: HashMap<String, String>,
    added: BTreeSet<String>,
    removed: BTreeSet<String>,
    /// Whether the control plane knows, on this stream, of the type.
    is_known: bool,
    pauses: u32,
}

impl Type {
    fn has_news(&self) -> bool {
        let is_wanted = self.wildcards > 0 || !self.wanted.is_empty();
        match self.is_known {
            true => !self.added.is_empty() || !self.removed.is_empty(),
            false => is_wanted,
        }
    }
}

impl Incremental {
    pub(super) fn new(identity: Identity) -> Incremental {
        Incremental {
            identity,
            types: Vec::new(),
            acknowledgements: VecDeque::new(),
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
                wildcards: 0,
                wanted: BTreeMap::new(),
                versions: HashMap::new(),
                added: BTreeSet::new(),
                removed: BTreeSet::new(),
                is_known: false,
                pauses: 0,
            });
            self.types.len() - 1
        });
        (at, &mut self.types[at])
    }

    pub(super) fn subscribe(&mut self, kind: &'static ResourceType, name: Option<&str>) {
        let (_, one) = self.get(kind);
        let Some(name) = name else {
            one.wildcards += 1;
            return;
        };
        let count = one.wanted.entry(name.to_owned()).or_default();
        *count += 1;
        if *count == 1 {
            one.removed.remove(name);
            one.added.insert(name.to_owned());
        }
    }

    pub(super) fn unsubscribe(&mut self, kind: &'static ResourceType, name: Option<&str>) {
        let (_, one) = self.get(kind);
        let Some(name) = name else {
            one.wildcards = one.wildcards.saturating_sub(1);
            return;
        };
        let Some(count) = one.wanted.get_mut(name) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            one.wanted.remove(name);
            one.versions.remove(name);
            one.added.remove(name);
            one.removed.insert(name.to_owned());
        }
    }

    pub(super) fn pause(&mut self, kind: &'static ResourceType, pause: bool) {
        let (_, one) = self.get(kind);
        one.pauses = match pause {
            true => one.pauses + 1,
            false => one.pauses.saturating_sub(1),
        };
    }

    pub(super) fn opened(&mut self) {
        self.identity.opened();
        self.acknowledgements.clear();
        for one in &mut self.types {
            one.is_known = false;
            one.removed.clear();
        }
    }

    /// The first acknowledgement of a type that is not paused.
    fn next_acknowledgement(&self) -> Option<usize> {
        let mut waiting = self.acknowledgements.iter();
        waiting.position(|one| self.types[one.of].pauses == 0)
    }

    fn next_news(&self) -> Option<usize> {
        let mut types = self.types.iter();
        types.position(|one| one.pauses == 0 && one.has_news())
    }

    pub(super) fn waiting(&self) -> usize {
        let could_be = self.next_acknowledgement().is_some() || self.next_news().is_some();
        usize::from(could_be)
    }

    pub(super) fn next(&mut self) -> Option<DeltaDiscoveryRequest> {
        let acknowledgement = self.next_acknowledgement();
        let acknowledgement = acknowledgement.and_then(|at| self.acknowledgements.remove(at));
        let at = match &acknowledgement {
            Some(one) => one.of,
            None => self.next_news()?,
        };
        let one = &mut self.types[at];
        let mut request = DeltaDiscoveryRequest {
            node: self.identity.next(),
            type_url: one.kind.url(),
            ..DeltaDiscoveryRequest::default()
        };
        if !one.is_known {
            one.is_known = true;
            one.added = one.wanted.keys().cloned().collect();
            one.removed.clear();
            request.initial_resource_versions = one.versions.clone().into_iter().collect();
        }
        request.resource_names_subscribe = std::mem::take(&mut one.added).into_iter().collect();
        let removed = std::mem::take(&mut one.removed);
        request.resource_names_unsubscribe = removed.into_iter().collect();
        if let Some(one) = acknowledgement {
            request.response_nonce = one.nonce;
            request.error_detail = one.error;
        }
        Some(request)
    }

    pub(super) fn finish(&mut self, outcome: Outcome<'_>) {
        let (of, one) = self.get(outcome.kind);
        if outcome.error.is_none() {
            for (name, version) in outcome.resources {
                // What nobody wants any more is not remembered.
                if one.wildcards > 0 || one.wanted.contains_key(name) {
                    one.versions.insert(name.clone(), version.clone());
                }
            }
            for name in outcome.removed {
                one.versions.remove(name);
            }
        }
        // The type is paused, and the control plane goes on without waiting for acknowledgements.
        if self.acknowledgements.len() >= MAX_ACKNOWLEDGEMENTS {
            self.acknowledgements.pop_front();
        }
        self.acknowledgements.push_back(Acknowledgement {
            of,
            nonce: outcome.nonce.to_owned(),
            error: outcome.error.map(error_detail),
        });
    }

    pub(super) fn has(&self, kind: &ResourceType, name: &str, version: &str) -> bool {
        let known = self.find(kind).map(|at| &self.types[at]);
        known.is_some_and(|known| known.versions.get(name).is_some_and(|has| has == version))
    }

    pub(super) fn forget(&mut self, kind: &ResourceType, names: &[String]) {
        if let Some(at) = self.find(kind) {
            for name in names {
                self.types[at].versions.remove(name);
            }
        }
    }
}

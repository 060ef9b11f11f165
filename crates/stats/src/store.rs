//! The registry: who has which group under which scope.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::Group;
use crate::Scope;

/// All stats of one process. Only registration and rendering lock it; counting never does.
#[derive(Default)]
pub struct Store {
    scopes: Mutex<BTreeMap<Box<str>, Vec<Registered>>>,
}

/// One kind of group under one scope: a copy for each worker that registered it.
pub(crate) struct Registered {
    kind: TypeId,
    pub(crate) copies: Vec<Arc<dyn Group>>,
}

impl Registered {
    /// Whether some handle is still held outside the store. While one is, the other copies stay too: their counts
    /// belong to the sum.
    fn is_alive(&self) -> bool {
        self.copies.iter().any(|copy| Arc::strong_count(copy) > 1)
    }
}

impl Store {
    /// An empty store.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A new copy of `G` under `scope`, for one worker (or the main thread) to write to.
    pub fn register<G: Group + Default>(&self, scope: Scope) -> Arc<G> {
        let copy = Arc::new(G::default());
        let mut scopes = self.lock();
        let groups = scopes.entry(scope.as_str().into()).or_default();
        groups.retain(Registered::is_alive); // of a cluster that was removed and is added again
        let kind = TypeId::of::<G>();
        match groups.iter_mut().find(|group| group.kind == kind) {
            Some(group) => group.copies.push(copy.clone()),
            None => groups.push(Registered {
                kind,
                copies: vec![copy.clone()],
            }),
        }
        copy
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Vec<Registered>>> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("scopes", &self.lock().len())
            .finish()
    }
}

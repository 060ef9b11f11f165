//! The routes of a connection manager, which can be replaced while it serves requests.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;

use crate::Captures;
use crate::route::RouteTable;

/// The routes that all workers share. They are replaced as a whole: a request keeps the routes that it began with.
#[derive(Debug)]
pub(super) struct SharedRoutes {
    current: Arc<ArcSwap<RouteSnapshot>>,
    /// The headers that the access logs read after the heads were sent on.
    logs: Captures,
}

/// A route table, with the headers that it and the access logs read after the heads were sent on.
#[derive(Debug)]
struct RouteSnapshot {
    table: Arc<RouteTable>,
    captures: Captures,
}

impl SharedRoutes {
    pub(super) fn new(table: Arc<RouteTable>, logs: Captures) -> SharedRoutes {
        let config = RouteSnapshot::new(table, &logs);
        SharedRoutes {
            current: Arc::new(ArcSwap::from_pointee(config)),
            logs,
        }
    }

    /// The current table.
    pub(super) fn table(&self) -> Arc<RouteTable> {
        self.current.load().table.clone()
    }

    /// Replaces the table for requests that begin from now on. Returns what workers may still hold of the previous one.
    pub(super) fn replace(&self, table: Arc<RouteTable>) -> Arc<dyn Any + Send + Sync> {
        let config = RouteSnapshot::new(table, &self.logs);
        self.current.swap(Arc::new(config))
    }

    pub(super) fn worker(&self) -> WorkerRoutes {
        WorkerRoutes {
            shared: RefCell::new(Cache::new(self.current.clone())),
            current: RefCell::new(Rc::new(RoutesInUse::new(self.current.load_full()))),
        }
    }
}

impl RouteSnapshot {
    fn new(table: Arc<RouteTable>, logs: &Captures) -> RouteSnapshot {
        let mut captures = logs.clone();
        table.capture(&mut captures);
        RouteSnapshot { table, captures }
    }
}

/// One worker's view of the routes.
pub(super) struct WorkerRoutes {
    shared: RefCell<Cache<Arc<ArcSwap<RouteSnapshot>>, Arc<RouteSnapshot>>>,
    current: RefCell<Rc<RoutesInUse>>,
}

/// The routes that a request began with. Their reference count belongs to this worker, so that requests do not write to
/// memory that workers share.
pub(crate) struct RoutesInUse {
    config: Arc<RouteSnapshot>,
    captures: Rc<Captures>,
}

impl WorkerRoutes {
    /// The routes for a request that begins now.
    pub(super) fn current(&self) -> Rc<RoutesInUse> {
        let mut shared = self.shared.borrow_mut();
        let newest = shared.load();
        let mut current = self.current.borrow_mut();
        if !Arc::ptr_eq(newest, &current.config) {
            *current = Rc::new(RoutesInUse::new(newest.clone()));
        }
        current.clone()
    }
}

impl RoutesInUse {
    fn new(config: Arc<RouteSnapshot>) -> RoutesInUse {
        RoutesInUse {
            captures: Rc::new(config.captures.clone()),
            config,
        }
    }

    pub(crate) fn table(&self) -> &RouteTable {
        &self.config.table
    }

    pub(super) fn captures(&self) -> &Rc<Captures> {
        &self.captures
    }
}

impl fmt::Debug for RoutesInUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

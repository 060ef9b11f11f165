//! The stats that internal clients ask for (`x-envoy-upstream-alt-stat-name`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use outrider_stats::Scope;

use crate::AlternativeStats;
use crate::Host;
use crate::OriginStats;
use crate::pool::PoolCx;
use crate::shared::scope;

/// A worker's copy of `cluster.<name>.<alternative>.*`.
pub struct Alternative {
    cx: Rc<PoolCx>,
    scope: Scope,
    stats: Arc<AlternativeStats>,
    /// By the zones of hosts that have responded.
    zones: RefCell<BTreeMap<Box<str>, Arc<OriginStats>>>,
}

impl Alternative {
    pub(crate) fn new(cx: Rc<PoolCx>, name: &str) -> Rc<Alternative> {
        let scope = scope(&cx.info).verbatim(name);
        Rc::new(Alternative {
            stats: cx.worker.store.register(scope.clone()),
            cx,
            scope,
            zones: RefCell::default(),
        })
    }

    /// The stats that count all responses.
    #[must_use]
    pub fn stats(&self) -> &AlternativeStats {
        &self.stats
    }

    /// `cluster.<name>.<alternative>.zone.<from>.<to>.*`: responses by the zones of the proxy and `host`, if both are
    /// in a zone.
    #[must_use]
    pub fn zone_stats(&self, host: &Host) -> Option<Arc<OriginStats>> {
        let zone = &host.locality().zone;
        let mut zones = self.zones.borrow_mut();
        if let Some(stats) = zones.get(zone.as_str()) {
            return Some(stats.clone());
        }
        let stats = self.cx.zone_stats(self.scope.clone(), zone)?;
        zones.insert(zone.as_str().into(), stats.clone());
        Some(stats)
    }
}

impl fmt::Debug for Alternative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alternative")
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

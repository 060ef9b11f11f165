//! Selects the host that the request names.

use std::collections::HashMap;
use std::sync::Arc;

use super::LoadBalancer;
use super::PickCx;
use crate::Health;
use crate::Host;
use crate::PriorityHosts;

/// The hosts by their names.
#[derive(Debug)]
pub(super) struct ByName {
    hosts: HashMap<Arc<str>, Arc<Host>>,
}

impl ByName {
    pub(super) fn new(priorities: &[PriorityHosts]) -> ByName {
        let hosts = priorities.iter().flat_map(PriorityHosts::iter);
        ByName {
            hosts: hosts
                .map(|host| (host.hostname().clone(), host.clone()))
                .collect(),
        }
    }
}

impl LoadBalancer for ByName {
    fn pick(&self, cx: &mut PickCx<'_>) -> Option<&Arc<Host>> {
        let host = self.hosts.get(cx.request.dynamic_host?)?;
        (host.health() != Health::Unhealthy).then_some(host)
    }
}

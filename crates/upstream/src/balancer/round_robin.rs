//! `ROUND_ROBIN`: the hosts in turn, each as often as its weight says.

use std::sync::Arc;

use super::LoadBalancer;
use super::PickCx;
use super::schedule::Schedule;
use crate::Host;

#[derive(Debug)]
struct RoundRobin {
    hosts: Vec<Arc<Host>>,
    schedule: Schedule,
    slot: usize,
}

/// See [`Factory::build`](super::Factory::build).
pub(super) fn build(hosts: Vec<Arc<Host>>, slot: usize) -> Box<dyn LoadBalancer> {
    let schedule = Schedule::new(hosts.iter().map(|host| host.weight()));
    Box::new(RoundRobin {
        hosts,
        schedule,
        slot,
    })
}

impl LoadBalancer for RoundRobin {
    fn pick(&self, cx: &mut PickCx<'_>) -> Option<&Arc<Host>> {
        let index = self.schedule.at(|| cx.advance(self.slot))?;
        self.hosts.get(index)
    }
}

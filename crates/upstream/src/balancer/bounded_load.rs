//! `hash_balance_factor`: no host may exceed its share of requests by more than this factor, whatever the requests'
//! hashes.
//!
//! If the host of a request's hash is full, the request goes to another host that the hash determines, in the same
//! order as in Envoy: a shuffle of all hosts by a Mersenne Twister that is seeded with the hash.

use super::hashing::WeightedHost;
use super::mersenne_twister::MersenneTwister;
use crate::Breakers;
use crate::Host;

/// How many requests the hosts of a cluster may have at the moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct BoundedLoad {
    /// The limit for all hosts together.
    slots: u32,
}

impl BoundedLoad {
    pub(super) fn now(factor: u32, breakers: &Breakers) -> BoundedLoad {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "Envoy counts in 32 bits, and requests are far fewer"
        )]
        let active = breakers.active_requests() as u32;
        let slots = active.wrapping_add(1).wrapping_mul(factor).wrapping_add(99) / 100;
        BoundedLoad { slots }
    }

    /// Returns `chosen`, or another host if `chosen` is full. `order` is scratch space.
    pub(super) fn choose(
        self,
        hosts: &[WeightedHost],
        chosen: usize,
        hash: u64,
        order: &mut Vec<usize>,
    ) -> usize {
        let load = |index: usize| {
            let host = hosts.get(index);
            host.map_or(f64::INFINITY, |one| self.load(&one.host, one.weight))
        };
        let (mut best, mut least) = (chosen, load(chosen));
        if least <= 1.0 {
            return chosen;
        }
        order.clear();
        order.extend(0..hosts.len());
        let mut random = MersenneTwister::new(hash);
        for at in 0..hosts.len() {
            let left = u32::try_from(hosts.len() - at).unwrap_or(u32::MAX);
            order.swap(at, at + random.below(left) as usize);
            let Some(&other) = order.get(at).filter(|other| **other != chosen) else {
                continue;
            };
            let load = load(other);
            if load <= 1.0 {
                return other;
            }
            if load < least {
                (best, least) = (other, load);
            }
        }
        best
    }

    /// The load of a host: 1 if it has as many requests as its weight allows.
    fn load(self, host: &Host, weight: f64) -> f64 {
        let slots = (f64::from(self.slots) * weight).ceil().max(1.0);
        #[expect(clippy::cast_precision_loss, reason = "counts of requests are small")]
        let active = host.stats.rq_active.value() as f64;
        active / slots
    }
}

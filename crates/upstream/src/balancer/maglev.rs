//! `MAGLEV`: a table of prime size. The hosts fill it in turns, each in its own order (“Maglev: A Fast and Reliable
//! Software Network Load Balancer”, section 3.4).

use std::sync::Arc;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_config::api::envoy::config::cluster::v3::cluster::LbConfig;
use outrider_config::api::envoy::extensions::load_balancing_policies::maglev::v3::Maglev as MaglevMessage;
use outrider_config::unpack;
use prost_types::Any;
use xxhash_rust::xxh64::xxh64;

use super::config::LocalityBalancing;
use super::config::Policy;
use super::config::PolicyConfig;
use super::hashing::HashTable;
use super::hashing::HashingConfig;
use super::hashing::TablePolicy;
use super::hashing::WeightedHosts;
use crate::MembershipStats;

/// The default of `table_size`.
const SIZE: u64 = 65_537;

/// The policy as configured.
#[derive(Debug)]
struct MaglevPolicy {
    /// `table_size`
    size: u64,
}

#[derive(Debug)]
struct Maglev {
    /// The index of the host in each slot.
    hosts: Box<[u32]>,
}

/// A host while the table is being filled.
struct FillingHost {
    host: u32,
    /// The order in which it takes slots: `offset`, and from there every `skip`-th.
    next: u64,
    skip: u64,
    weight: f64,
    /// The host takes a turn once the target weight has reached this.
    target: f64,
    count: u64,
}

/// A slot without a host.
const FREE: u32 = u32::MAX;

/// See [`LoadBalancerFactory::of_cluster`](super::LoadBalancerFactory::of_cluster).
pub(super) fn of_cluster(
    cluster: &Cluster,
    path: &FieldPath,
) -> Result<PolicyConfig, ConfigErrors> {
    let size = match &cluster.lb_config {
        Some(LbConfig::MaglevLbConfig(config)) => config.table_size,
        _ => None,
    };
    let policy = MaglevPolicy::new(size, &path.field("maglev_lb_config"))?;
    Ok(PolicyConfig {
        policy: Policy::Hashing(HashingConfig::of_cluster(Arc::new(policy), cluster)),
        localities: LocalityBalancing::of_cluster(cluster),
    })
}

/// See [`LoadBalancerFactory::of_extension`](super::LoadBalancerFactory::of_extension).
pub(super) fn of_extension(
    config: &Any,
    _cluster: &Cluster,
    path: &FieldPath,
) -> Result<PolicyConfig, ConfigErrors> {
    let message: MaglevMessage = unpack(config, path)?;
    let hashing = message.consistent_hashing_lb_config.as_ref();
    Ok(PolicyConfig {
        policy: Policy::Hashing(HashingConfig {
            tables: Arc::new(MaglevPolicy::new(message.table_size, path)?),
            by_hostname: hashing.is_some_and(|hashing| hashing.use_hostname_for_hashing),
            balance_factor: hashing
                .and_then(|hashing| hashing.hash_balance_factor)
                .unwrap_or(0),
        }),
        localities: LocalityBalancing {
            weighted: message.locality_weighted_lb_config.is_some(),
            ..LocalityBalancing::default()
        },
    })
}

impl MaglevPolicy {
    fn new(size: Option<u64>, path: &FieldPath) -> Result<MaglevPolicy, ConfigError> {
        let size = size.unwrap_or(SIZE);
        if !is_prime(size) {
            return Err(ConfigError::new(
                &path.field("table_size"),
                "The table size of maglev must be prime number",
            ));
        }
        Ok(MaglevPolicy { size })
    }
}

impl TablePolicy for MaglevPolicy {
    fn table(&self, hosts: &WeightedHosts, stats: &MembershipStats) -> Box<dyn HashTable> {
        let stats = stats.maglev_lb.get();
        // As in Envoy, which reports one slot for a single host.
        if hosts.list.len() == 1 {
            stats.min_entries_per_host.set(1);
            stats.max_entries_per_host.set(1);
            return Box::new(Maglev { hosts: [0].into() });
        }
        // Sorted by key, so that the order of the hosts does not matter.
        let mut order: Vec<(usize, u32)> = (0..hosts.list.len()).zip(0..).collect();
        order.sort_by_key(|(index, _)| &hosts.list[*index].key);
        let mut filling: Vec<FillingHost> = order
            .iter()
            .map(|(index, host)| {
                let key = hosts.list[*index].key.as_bytes();
                FillingHost {
                    host: *host,
                    next: xxh64(key, 0) % self.size,
                    skip: xxh64(key, 1) % (self.size - 1) + 1,
                    weight: hosts.list[*index].weight,
                    target: 0.0,
                    count: 0,
                }
            })
            .collect();
        let places = self.fill(&mut filling, hosts.greatest);
        if !filling.is_empty() {
            let counts = || filling.iter().map(|entry| entry.count);
            stats.min_entries_per_host.set(counts().min().unwrap_or(0));
            stats.max_entries_per_host.set(counts().max().unwrap_or(0));
        }
        Box::new(Maglev { hosts: places })
    }
}

impl MaglevPolicy {
    /// The hosts take turns. In each turn a host takes its next free slot. A host with half the greatest weight has
    /// every second turn.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a table has five million places at most"
    )]
    fn fill(&self, hosts: &mut [FillingHost], greatest_weight: f64) -> Box<[u32]> {
        if hosts.is_empty() {
            return Box::default();
        }
        let mut places = vec![FREE; self.size as usize];
        let mut left = places.len();
        for turn in 1_u32.. {
            for entry in &mut *hosts {
                if left == 0 {
                    return places.into();
                }
                if f64::from(turn) * entry.weight < entry.target {
                    continue;
                }
                entry.target += greatest_weight;
                // The size is prime, so the walk reaches every slot.
                while places[entry.next as usize] != FREE {
                    entry.next = (entry.next + entry.skip) % self.size;
                }
                places[entry.next as usize] = entry.host;
                entry.count += 1;
                left -= 1;
            }
        }
        places.into()
    }
}

impl HashTable for Maglev {
    fn find(&self, hash: u64, rejected: u32) -> Option<usize> {
        // As in Envoy; without rejected hosts the hash stays what it is.
        let hash = hash ^ 0_u64.wrapping_sub(u64::from(rejected));
        let place = hash.checked_rem(self.hosts.len() as u64)?;
        let host = self.hosts.get(usize::try_from(place).ok()?)?;
        Some(*host as usize)
    }
}

fn is_prime(number: u64) -> bool {
    let mut divisors = (2..).take_while(|divisor| divisor * divisor <= number);
    number > 1 && divisors.all(|divisor| !number.is_multiple_of(divisor))
}

//! `RING_HASH`: each host has points on a ring in proportion to its weight. A request goes to the first point at or
//! after its hash.

use std::sync::Arc;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_config::api::envoy::config::cluster::v3::cluster::LbConfig;
use outrider_config::api::envoy::config::cluster::v3::cluster::ring_hash_lb_config::HashFunction as LegacyFunction;
use outrider_config::api::envoy::extensions::load_balancing_policies::ring_hash::v3::RingHash as RingHashMessage;
use outrider_config::api::envoy::extensions::load_balancing_policies::ring_hash::v3::ring_hash::HashFunction;
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
use super::murmur::murmur_hash_2;
use crate::MembershipStats;

/// The default of `minimum_ring_size`.
const MINIMUM_SIZE: u64 = 1024;
/// The default of `maximum_ring_size`, and its upper limit.
const MAXIMUM_SIZE: u64 = 1024 * 1024 * 8;

/// The policy as configured.
#[derive(Debug)]
struct RingHashPolicy {
    minimum_size: u64,
    maximum_size: u64,
    hash: fn(&[u8]) -> u64,
}

/// The points, ordered by hash.
#[derive(Debug, Default)]
struct Ring {
    hashes: Box<[u64]>,
    /// The index of the host of each point.
    hosts: Box<[u32]>,
}

/// See [`LoadBalancerFactory::of_cluster`](super::LoadBalancerFactory::of_cluster).
pub(super) fn of_cluster(
    cluster: &Cluster,
    path: &FieldPath,
) -> Result<PolicyConfig, ConfigErrors> {
    let config = match &cluster.lb_config {
        Some(LbConfig::RingHashLbConfig(config)) => *config,
        _ => Default::default(),
    };
    let policy = RingHashPolicy::new(
        config.minimum_ring_size,
        config.maximum_ring_size,
        config.hash_function() == LegacyFunction::MurmurHash2,
        &path.field("ring_hash_lb_config"),
    )?;
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
    let message: RingHashMessage = unpack(config, path)?;
    let policy = RingHashPolicy::new(
        message.minimum_ring_size,
        message.maximum_ring_size,
        message.hash_function() == HashFunction::MurmurHash2,
        path,
    )?;
    #[expect(deprecated, reason = "Envoy still obeys them")]
    let (by_hostname, balance_factor) = match &message.consistent_hashing_lb_config {
        Some(hashing) => (
            hashing.use_hostname_for_hashing,
            hashing.hash_balance_factor,
        ),
        None => (
            message.use_hostname_for_hashing,
            message.hash_balance_factor,
        ),
    };
    Ok(PolicyConfig {
        policy: Policy::Hashing(HashingConfig {
            tables: Arc::new(policy),
            by_hostname,
            balance_factor: balance_factor.unwrap_or(0),
        }),
        localities: LocalityBalancing {
            weighted: message.locality_weighted_lb_config.is_some(),
            ..LocalityBalancing::default()
        },
    })
}

impl RingHashPolicy {
    fn new(
        minimum_size: Option<u64>,
        maximum_size: Option<u64>,
        murmur: bool,
        path: &FieldPath,
    ) -> Result<RingHashPolicy, ConfigError> {
        let policy = RingHashPolicy {
            minimum_size: minimum_size.unwrap_or(MINIMUM_SIZE),
            maximum_size: maximum_size.unwrap_or(MAXIMUM_SIZE),
            hash: if murmur {
                murmur_hash_2
            } else {
                |text| xxh64(text, 0)
            },
        };
        if policy.minimum_size > policy.maximum_size {
            let message = format!(
                "ring hash: minimum_ring_size ({}) > maximum_ring_size ({})",
                policy.minimum_size, policy.maximum_size
            );
            return Err(ConfigError::new(path, message));
        }
        Ok(policy)
    }
}

impl TablePolicy for RingHashPolicy {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a ring has 2^23 places at most"
    )]
    fn table(&self, hosts: &WeightedHosts, stats: &MembershipStats) -> Box<dyn HashTable> {
        let stats = stats.ring_hash_lb.get();
        if hosts.list.is_empty() {
            return Box::<Ring>::default();
        }
        // Scaled so that the host with the smallest weight gets a whole number of points.
        let scale = ((hosts.least * self.minimum_size as f64).ceil() / hosts.least)
            .min(self.maximum_size as f64);
        let size = scale.ceil() as u64;
        let mut places: Vec<(u64, u32)> = Vec::with_capacity(scale.ceil() as usize);
        let (mut fewest, mut most, mut target) = (size, 0, 0.0);
        let mut text = Vec::new();
        for (host, number) in hosts.list.iter().zip(0..) {
            target += scale * host.weight;
            text.clear();
            text.extend_from_slice(host.key.as_bytes());
            text.push(b'_');
            let key = text.len();
            let mut count = 0;
            while (places.len() as f64) < target {
                text.truncate(key);
                text.extend_from_slice(count.to_string().as_bytes());
                places.push(((self.hash)(&text), number));
                count += 1;
            }
            fewest = fewest.min(count);
            most = most.max(count);
        }
        places.sort_by_key(|(hash, _)| *hash);
        stats.size.set(size);
        stats.min_hashes_per_host.set(fewest);
        stats.max_hashes_per_host.set(most);
        Box::new(Ring {
            hashes: places.iter().map(|(hash, _)| *hash).collect(),
            hosts: places.iter().map(|(_, host)| *host).collect(),
        })
    }
}

impl HashTable for Ring {
    fn find(&self, hash: u64, rejected: u32) -> Option<usize> {
        let place = self.hashes.partition_point(|other| *other < hash);
        // After the last point, the ring starts again.
        let place = if place < self.hosts.len() { place } else { 0 };
        let place = (place + rejected as usize).checked_rem(self.hosts.len())?;
        self.hosts.get(place).map(|host| *host as usize)
    }
}

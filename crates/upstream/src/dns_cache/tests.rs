use outrider_config::api::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheCircuitBreakers;
use outrider_runtime::Snapshot;
use tokio::task::LocalSet;

use super::*;

fn caches() -> Arc<DnsCaches> {
    let runtime = Runtime::new(Snapshot::default());
    DnsCaches::new(&Bootstrap::default(), &Store::new(), &runtime).unwrap()
}

fn config(name: &str) -> DnsCacheConfig {
    DnsCacheConfig {
        name: name.to_owned(),
        ..DnsCacheConfig::default()
    }
}

fn get(caches: &DnsCaches, config: &DnsCacheConfig) -> Result<Arc<DnsCache>, String> {
    let cache = caches.get(config, &FieldPath::root());
    cache.map_err(|errors| errors.to_string())
}

#[test]
fn a_cache_is_shared_by_name_as_long_as_it_is_used() {
    let caches = caches();
    let other = DnsCacheConfig {
        max_hosts: Some(1),
        ..config("a")
    };
    let first = get(&caches, &config("a")).unwrap();
    assert!(Arc::ptr_eq(&first, &get(&caches, &config("a")).unwrap()));
    assert!(!Arc::ptr_eq(&first, &get(&caches, &config("b")).unwrap()));
    let refused = get(&caches, &other).unwrap_err();
    assert!(refused.contains("with different settings"), "{refused}");
    drop(first);
    assert!(get(&caches, &other).is_ok());
}

#[test]
fn the_breaker_counts_those_that_wait() {
    let cache = get(
        &caches(),
        &DnsCacheConfig {
            dns_cache_circuit_breaker: Some(DnsCacheCircuitBreakers {
                max_pending_requests: Some(1),
            }),
            ..config("a")
        },
    )
    .unwrap();
    let waiting = cache.begin();
    assert!(waiting.is_some());
    assert!(cache.begin().is_none());
    assert_eq!(cache.shared.stats.dns_rq_pending_overflow.value(), 1);
    drop(waiting);
    assert!(cache.begin().is_some());
}

/// Observers hear of a host before those that asked for it, and too many hosts are refused.
#[tokio::test]
async fn observers_come_first_and_hosts_are_limited() {
    LocalSet::new()
        .run_until(async {
            let caches = caches();
            caches.start();
            let cache = get(
                &caches,
                &DnsCacheConfig {
                    max_hosts: Some(2),
                    ..config("a")
                },
            )
            .unwrap();
            let mut changes = cache.observe();
            let name = HostName::new("127.0.0.9", 80);
            let looking = tokio::task::spawn_local({
                let (cache, name) = (cache.clone(), name.clone());
                async move { cache.look_up(&name).await }
            });
            let change = changes.recv().await.unwrap();
            assert_eq!(*change.name, *"127.0.0.9:80");
            assert!(!looking.is_finished());
            assert_eq!(cache.known(&name), None);
            drop(change);
            let address: Address = Address::Ip("127.0.0.9:80".parse().unwrap());
            assert_eq!(looking.await.unwrap(), Ok(address.clone()));
            assert_eq!(cache.known(&name), Some(Ok(address)));
            drop(changes);
            let bad = HostName::new("not a name", 80);
            let failed = cache.look_up(&bad).await.unwrap_err();
            let details = "dns_resolution_failure{cares_failure:Misformatted_domain_name}";
            assert_eq!(failed, LookupFailure::Failed(details.into()));
            let third = cache.look_up(&HostName::new("127.0.0.1", 80)).await;
            assert_eq!(third, Err(LookupFailure::Overflow));
            assert_eq!(cache.shared.stats.host_overflow.value(), 1);
        })
        .await;
}

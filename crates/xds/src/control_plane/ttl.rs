//! The resources that a control plane has to confirm in time (`Resource.ttl`).

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::ResourceType;

/// A resource: the name of its type, and its own.
type Key = (&'static str, String);

/// When resources expire.
#[derive(Debug, Default)]
pub(super) struct Expiries {
    by_resource: HashMap<Key, Instant>,
    in_order: BTreeSet<(Instant, Key)>,
}

impl Expiries {
    /// Lets the resource expire after `ttl`; `None`: never.
    pub(super) fn set(&mut self, kind: &'static ResourceType, name: &str, ttl: Option<Duration>) {
        let key = (kind.name, name.to_owned());
        if let Some(at) = self.by_resource.remove(&key) {
            self.in_order.remove(&(at, key.clone()));
        }
        if let Some(at) = ttl.and_then(|ttl| Instant::now().checked_add(ttl)) {
            self.by_resource.insert(key.clone(), at);
            self.in_order.insert((at, key));
        }
    }

    /// Lets no resource of this type expire.
    pub(super) fn clear(&mut self, kind: &ResourceType) {
        self.by_resource.retain(|key, _| key.0 != kind.name);
        self.in_order.retain(|(_, key)| key.0 != kind.name);
    }

    /// When the next resource expires.
    pub(super) fn next(&self) -> Option<Instant> {
        self.in_order.first().map(|(at, _)| *at)
    }

    /// Takes the expired resources of one type.
    pub(super) fn take(&mut self) -> Option<(&'static str, Vec<String>)> {
        let now = Instant::now();
        let kind = match self.in_order.first() {
            Some((at, (kind, _))) if *at <= now => *kind,
            _ => return None,
        };
        let expired = self
            .in_order
            .extract_if(.., |(at, key)| *at <= now && key.0 == kind);
        let names: Vec<String> = expired.map(|(_, (_, name))| name).collect();
        for name in &names {
            self.by_resource.remove(&(kind, name.clone()));
        }
        Some((kind, names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_resource_expires_unless_it_is_confirmed() {
        let second = Some(Duration::from_secs(1));
        let mut expiries = Expiries::default();
        for name in ["a", "b", "c"] {
            expiries.set(&ResourceType::CLUSTER, name, second);
        }
        tokio::time::advance(Duration::from_millis(500)).await;
        expiries.set(&ResourceType::CLUSTER, "b", second);
        expiries.set(&ResourceType::CLUSTER, "c", None);
        assert_eq!(expiries.take(), None);
        tokio::time::advance(Duration::from_millis(500)).await;
        let kind = ResourceType::CLUSTER.name;
        assert_eq!(expiries.take(), Some((kind, vec!["a".to_owned()])));
        assert_eq!(expiries.take(), None);
        assert!(expiries.next().is_some());
        expiries.set(&ResourceType::LISTENER, "l", second);
        expiries.clear(&ResourceType::CLUSTER);
        tokio::time::advance(Duration::from_secs(1)).await;
        let kind = ResourceType::LISTENER.name;
        assert_eq!(expiries.take(), Some((kind, vec!["l".to_owned()])));
        assert_eq!(expiries.next(), None);
    }
}

//! EDS: endpoints from a resource outside of the cluster's config.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_config::api::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrider_config::duration;
use outrider_net::Address;
use outrider_stats::Scope;
use outrider_stats::Store;
use outrider_xds::ConfigSource;
use outrider_xds::ResourceType;
use outrider_xds::Sources;
use outrider_xds::SubscriptionTarget;
use outrider_xds::Update;
use prost::Message as _;
use tokio::time::Instant;

use super::Discovery;
use super::DiscoveryCx;
use crate::HealthFlag;
use crate::Host;
use crate::HostsPublisher;
use crate::LocalityHosts;
use crate::PriorityHosts;
use crate::endpoints;

#[derive(Debug)]
struct Eds {
    /// `service_name`, or else the cluster's name.
    service: String,
    source: ConfigSource,
    sources: Sources,
    store: Arc<Store>,
    scope: Scope,
}

pub(super) fn build(
    cluster: &Cluster,
    path: &FieldPath,
    cx: &DiscoveryCx,
) -> Result<Box<dyn Discovery>, ConfigErrors> {
    let config = cluster.eds_cluster_config.as_ref();
    let path = path.field("eds_cluster_config");
    let source = config.and_then(|config| config.eds_config.as_ref());
    let source_path = path.field("eds_config");
    let source =
        source.ok_or_else(|| ConfigError::new(&source_path, "is required for type EDS"))?;
    let source = ConfigSource::build(source, &source_path, &cx.sources)?;
    let service = config.map_or("", |config| config.service_name.as_str());
    let stat_name = match cluster.alt_stat_name.as_str() {
        "" => &cluster.name,
        alternative => alternative,
    };
    Ok(Box::new(Eds {
        service: match service {
            "" => cluster.name.clone(),
            service => service.to_owned(),
        },
        source,
        sources: cx.sources.clone(),
        store: cx.store.clone(),
        scope: Scope::new("cluster").name(stat_name),
    }))
}

impl Discovery for Eds {
    fn run(self: Box<Self>, hosts: HostsPublisher) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(self.follow(hosts))
    }

    fn is_remote(&self) -> bool {
        self.source.is_remote()
    }
}

impl Eds {
    async fn follow(self: Box<Self>, publisher: HostsPublisher) {
        let subject = SubscriptionTarget {
            kind: &ResourceType::ENDPOINTS,
            name: Some(&self.service),
            scope: self.scope.clone(),
        };
        let subscription = self.sources.subscribe(&self.source, subject, &self.store);
        let mut subscription = match subscription {
            Ok(subscription) => subscription,
            Err(error) => {
                log::error!(target: "upstream", "cluster {}: its endpoints cannot be followed: {error}", publisher.info().name);
                return;
            }
        };
        let mut assignment = Assignment {
            service: self.service,
            publisher,
            hosts: HashMap::new(),
            last: None,
            stale_at: None,
        };
        loop {
            subscription
                .update(async |update| assignment.take(update))
                .await;
            assignment.publisher.initialized();
            tokio::select! {
                () = subscription.changed() => {}
                () = assignment.stale() => {
                    assignment.expire();
                    subscription.changed().await;
                }
            }
        }
    }
}

/// The endpoints that the cluster has at the moment.
struct Assignment {
    service: String,
    publisher: HostsPublisher,
    /// By address: a host that is in the next update again keeps its stats and connections.
    hosts: HashMap<Vec<Address>, Arc<Host>>,
    last: Option<Vec<u8>>,
    /// When the endpoints become too old (`policy.endpoint_stale_after`).
    stale_at: Option<Instant>,
}

impl Assignment {
    /// Waits until the endpoints are too old.
    async fn stale(&self) {
        match self.stale_at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Removes endpoints that are too old.
    fn expire(&mut self) {
        self.publisher.stats().assignment_stale.inc();
        (self.last, self.stale_at) = (None, None);
        self.publish(Vec::new());
    }

    /// Applies the endpoints in `update`, or returns why they are refused.
    fn take(&mut self, update: Update) -> Result<(), String> {
        let mut resources = update.resources.into_iter();
        let Some(resource) = resources.next() else {
            log::debug!(target: "upstream", "missing ClusterLoadAssignment for {}", self.service);
            self.publisher.stats().update_empty.inc();
            return Ok(());
        };
        if let more @ 1.. = resources.len() {
            return Err(format!("Unexpected EDS resource length: {}", more + 1));
        }
        let message = ClusterLoadAssignment::decode(resource.wire.as_slice())
            .map_err(|error| error.to_string())?;
        if message.cluster_name != self.service {
            let (service, name) = (&self.service, &message.cluster_name);
            return Err(format!(
                "Unexpected EDS cluster (expecting {service}): {name}"
            ));
        }
        let policy = message.policy.as_ref();
        let stale = policy.and_then(|policy| policy.endpoint_stale_after.as_ref());
        let stale = duration::optional(stale, &FieldPath::root().field("policy"));
        let stale = stale.map_err(|error| error.to_string())?;
        self.stale_at = stale.map(|after| Instant::now() + after);
        if stale.is_some() {
            self.publisher.stats().assignment_timeout_received.inc();
        }
        if self.last.as_ref() == Some(&resource.wire) {
            self.publisher.stats().update_no_rebuild.inc();
            return Ok(());
        }
        let built = endpoints::build(&message, &FieldPath::root(), endpoints::static_addresses);
        let localities = built.map_err(|errors| resource.positions.diagnose(errors).to_string())?;
        self.last = Some(resource.wire);
        self.publish(localities);
        Ok(())
    }

    fn publish(&mut self, localities: Vec<endpoints::LocalityEndpoints<Vec<Address>>>) {
        let mut known = std::mem::take(&mut self.hosts);
        let mut priorities: Vec<PriorityHosts> = Vec::new();
        for locality in localities {
            let priority = locality.priority as usize;
            if priorities.len() <= priority {
                priorities.resize_with(priority + 1, PriorityHosts::default);
            }
            let hosts = locality.endpoints.into_iter().map(|endpoint| {
                let known = known.remove(&endpoint.target);
                let host = self.host(known, &endpoint);
                self.hosts.insert(endpoint.target, host.clone());
                host
            });
            let hosts = hosts.collect();
            if let Some(of_priority) = priorities.get_mut(priority) {
                of_priority.localities.push(LocalityHosts {
                    weight: locality.weight,
                    hosts,
                });
            }
        }
        self.keep_healthy(known.into_values(), &mut priorities);
        if self.publisher.has_published(&priorities) {
            self.publisher.stats().update_no_rebuild.inc();
            return;
        }
        self.publisher.publish(priorities, 1);
    }

    /// The host for `endpoint`, by what is `known` at its address.
    fn host(
        &self,
        known: Option<Arc<Host>>,
        endpoint: &endpoints::Endpoint<Vec<Address>>,
    ) -> Arc<Host> {
        let description = &endpoint.description;
        let Some(known) = known else {
            return self.publisher.host(endpoint.target.clone(), description);
        };
        known.state().set(HealthFlag::PendingDynamicRemoval, false);
        if known.description() == description {
            return known;
        }
        if known.description().health_check != description.health_check {
            return self.publisher.host(endpoint.target.clone(), description);
        }
        known.changed(endpoint.target.clone(), description.clone())
    }

    /// Keeps those of `removed` that checks say are healthy, in the localities of their own that come last.
    fn keep_healthy(
        &mut self,
        removed: impl Iterator<Item = Arc<Host>>,
        priorities: &mut Vec<PriorityHosts>,
    ) {
        for host in self.publisher.kept_of(removed) {
            let priority = host.priority() as usize;
            if priorities.len() <= priority {
                priorities.resize_with(priority + 1, PriorityHosts::default);
            }
            if let Some(of_priority) = priorities.get_mut(priority) {
                of_priority.keep(host.clone());
            }
            self.hosts.insert(host.addresses().to_vec(), host);
        }
    }
}

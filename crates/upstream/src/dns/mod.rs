//! Resolves names as Envoy's resolver library (c-ares) does: which answers count as failures, how often and in which
//! order servers are asked, search domains, `/etc/hosts`, and names that need no server.
//!
//! [`Resolver`] turns a name into questions. `query` asks the servers one question, and `servers` selects the server.
//! hickory encodes and decodes the messages.

mod cache;
mod cookie;
mod details;
mod latency;
mod message;
mod query;
mod resolver;
mod servers;
mod settings;
mod system;
mod transport;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use outrider_config::ConfigError;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::Bootstrap;
use outrider_config::api::envoy::config::cluster::v3::Cluster;
use outrider_config::api::envoy::extensions::clusters::dns::v3::DnsCluster;
use outrider_config::api::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use outrider_stats::Scope;
use outrider_stats::Store;

pub(crate) use details::answer_details;
pub(crate) use query::ResolveError;
pub(crate) use resolver::Answer;
pub(crate) use resolver::Family;
pub(crate) use resolver::Resolver;
pub(crate) use settings::Settings;

use crate::stats::DnsStats;

/// The resolvers of all clusters, one for each distinct set of settings.
#[derive(Debug)]
pub(crate) struct Resolvers {
    /// The bootstrap's settings, for clusters without their own.
    default: Settings,
    stats: Arc<DnsStats>,
    made: Mutex<HashMap<Settings, Arc<Resolver>>>,
}

impl Resolvers {
    pub(crate) fn new(bootstrap: &Bootstrap, store: &Store) -> Result<Resolvers, ConfigError> {
        #[expect(deprecated, reason = "old but live fields of Bootstrap")]
        let (tcp, old) = (
            bootstrap.use_tcp_for_dns_lookups,
            bootstrap.dns_resolution_config.as_ref(),
        );
        let typed = bootstrap.typed_dns_resolver_config.as_ref();
        let default = Settings::build(typed, old, tcp, &FieldPath::root())?;
        Ok(Resolvers {
            default: default.unwrap_or_default(),
            stats: store.register_unlisted(Scope::new("dns").name("cares")),
            made: Mutex::default(),
        })
    }

    /// The resolver for the settings in the fields of `cluster`.
    pub(crate) fn of_cluster(
        &self,
        cluster: &Cluster,
        path: &FieldPath,
    ) -> Result<Arc<Resolver>, ConfigError> {
        #[expect(deprecated, reason = "old but live fields of Cluster")]
        let (tcp, old, oldest) = (
            cluster.use_tcp_for_dns_lookups,
            cluster.dns_resolution_config.as_ref(),
            &cluster.dns_resolvers,
        );
        let typed = cluster.typed_dns_resolver_config.as_ref();
        let mut settings = Settings::build(typed, old, tcp, path)?;
        if typed.is_none() && old.is_none() && !oldest.is_empty() {
            let servers = settings::servers(oldest, &path.field("dns_resolvers"))?;
            settings = Some(Settings {
                servers,
                ..settings.unwrap_or_default()
            });
        }
        Ok(self.get(settings))
    }

    /// The resolver for the settings in a `DnsCluster`.
    pub(crate) fn of_dns_cluster(
        &self,
        cluster: &DnsCluster,
        path: &FieldPath,
    ) -> Result<Arc<Resolver>, ConfigError> {
        let typed = cluster.typed_dns_resolver_config.as_ref();
        Ok(self.get(Settings::build(typed, None, false, path)?))
    }

    /// The resolver for the settings in a `DnsCacheConfig`.
    pub(crate) fn of_dns_cache(
        &self,
        cache: &DnsCacheConfig,
        path: &FieldPath,
    ) -> Result<Arc<Resolver>, ConfigError> {
        #[expect(deprecated, reason = "old but live fields of DnsCacheConfig")]
        let (tcp, old) = (
            cache.use_tcp_for_dns_lookups,
            cache.dns_resolution_config.as_ref(),
        );
        let typed = cache.typed_dns_resolver_config.as_ref();
        Ok(self.get(Settings::build(typed, old, tcp, path)?))
    }

    fn get(&self, settings: Option<Settings>) -> Arc<Resolver> {
        let settings = settings.unwrap_or_else(|| self.default.clone());
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.entry(settings.clone())
            .or_insert_with(|| Arc::new(Resolver::new(settings, self.stats.clone())))
            .clone()
    }
}

//! Clusters whose hosts are those that requests name.

use std::sync::Arc;

use outrider_config::ConfigError;
use outrider_config::FieldPath;

use crate::connection_names::NamesFromRequest;
use crate::dns_cache::DnsCache;
use crate::dns_cache::HostName;
use crate::dns_cache::LookupFailure;
use crate::transport::TransportSockets;

/// Where the hosts of a cluster come from, if requests name them (`envoy.clusters.dynamic_forward_proxy`).
#[derive(Clone, Debug)]
pub struct DynamicHosts {
    pub(crate) cache: Arc<DnsCache>,
    /// The port of names without one.
    pub default_port: u16,
    /// `allow_insecure_cluster_options`
    pub(crate) allows_insecure: bool,
}

impl DynamicHosts {
    /// Clients choose the hosts. So connections must be to those that the client named.
    pub(crate) fn check_names(
        &self,
        names: Option<&NamesFromRequest>,
        path: &FieldPath,
    ) -> Result<(), ConfigError> {
        if self.allows_insecure || names.is_some_and(NamesFromRequest::are_complete) {
            return Ok(());
        }
        Err(ConfigError::new(
            &path.field("typed_extension_protocol_options"),
            "dynamic_forward_proxy cluster must have auto_sni and auto_san_validation true unless \
             allow_insecure_cluster_options is set.",
        ))
    }

    /// With the default port of HTTPS if hosts that no `transport_socket_matches` is for are spoken to by TLS.
    pub(crate) fn with_default_port(self, sockets: &TransportSockets) -> DynamicHosts {
        let is_secure = sockets.contexts().next().flatten().is_some();
        DynamicHosts {
            default_port: if is_secure { 443 } else { 80 },
            ..self
        }
    }

    /// Finds the host of this name, if it needs no lookup. The result selects the host in a pick.
    #[must_use]
    pub fn known(&self, name: &HostName) -> Option<Result<Arc<str>, LookupFailure>> {
        let known = self.cache.known(name)?;
        Some(known.map(|_| self.used(name)))
    }

    /// Finds the host of this name, and resolves it if necessary.
    ///
    /// # Errors
    /// The name has no address.
    pub async fn find(&self, name: &HostName) -> Result<Arc<str>, LookupFailure> {
        self.cache.look_up(name).await?;
        Ok(self.used(name))
    }

    fn used(&self, name: &HostName) -> Arc<str> {
        self.cache.touch(name.text());
        name.text().clone()
    }
}

//! The configuration of the admin server: the bootstrap's `admin`.

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::Admin;
use outrider_net::Address;
use outrider_stats::NameMatcher;
use outrider_stats::name_matcher;

/// The address of the admin server, and the paths that it serves.
#[derive(Default)]
pub struct AdminConfig {
    address: Option<Address>,
    /// `allow_paths`; an empty list allows all paths.
    allowed: Vec<NameMatcher>,
    flush_on_request: bool,
    ignores_global_limit: bool,
}

impl AdminConfig {
    /// Builds the configuration from `admin`, found at `path`. The server crate builds the access logs.
    ///
    /// # Errors
    /// If the address or a matcher is wrong.
    pub fn build(admin: &Admin, path: &FieldPath) -> Result<Self, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let address = admin.address.as_ref();
        let address = address.map(|address| Address::build(address, &path.field("address")));
        let address = address.and_then(|address| errors.collect(address));
        let path = path.field("allow_paths");
        let patterns = admin.allow_paths.iter().enumerate();
        let allowed = patterns
            .filter_map(|(i, pattern)| errors.collect(name_matcher(pattern, &path.index(i))))
            .collect();
        errors.finish(Self {
            address,
            allowed,
            flush_on_request: false,
            ignores_global_limit: admin.ignore_global_conn_limit,
        })
    }

    /// Sets whether a request for stats flushes histograms first (the bootstrap's `stats_flush_on_admin`).
    #[must_use]
    pub fn flush_on_request(mut self, flush: bool) -> Self {
        self.flush_on_request = flush;
        self
    }

    /// The address to listen on; without an address there is no admin server.
    pub fn address(&self) -> Option<&Address> {
        self.address.as_ref()
    }

    /// Whether the admin server ignores the global limit on connections (`ignore_global_conn_limit`).
    pub fn ignores_global_limit(&self) -> bool {
        self.ignores_global_limit
    }

    pub(crate) fn flushes_on_request(&self) -> bool {
        self.flush_on_request
    }

    /// Whether requests for `target`, a path and query, are allowed.
    pub(crate) fn allows(&self, target: &str) -> bool {
        self.allowed.is_empty() || self.allowed.iter().any(|matches| matches(target))
    }
}

impl std::fmt::Debug for AdminConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminConfig")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

//! The bootstrap's `admin`.

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::bootstrap::v3::Admin;
use outrider_net::Address;
use outrider_stats::NameMatcher;
use outrider_stats::name_matcher;

/// Where and what the admin server serves.
#[derive(Default)]
pub struct AdminConfig {
    address: Option<Address>,
    /// `allow_paths`; none allow everything.
    allowed: Vec<NameMatcher>,
    flush_on_request: bool,
    ignores_global_limit: bool,
}

impl AdminConfig {
    /// What `admin`, found at `path`, asks for. Its access logs are the server's to build.
    ///
    /// # Errors
    /// When the address or an expression is wrong.
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

    /// Flushes histograms whenever stats are asked for (the bootstrap's `stats_flush_on_admin`).
    #[must_use]
    pub fn flush_on_request(mut self, flush: bool) -> Self {
        self.flush_on_request = flush;
        self
    }

    /// Where to listen; without an address there is no admin server.
    pub fn address(&self) -> Option<&Address> {
        self.address.as_ref()
    }

    /// Whether the limit on all listeners' connections is not for the admin server's (`ignore_global_conn_limit`).
    pub fn ignores_global_limit(&self) -> bool {
        self.ignores_global_limit
    }

    pub(crate) fn flushes_on_request(&self) -> bool {
        self.flush_on_request
    }

    /// Whether `target`, path and query, may be asked for.
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

//! `RouteConfiguration`: all virtual hosts of a connection manager.

use std::cell::Cell;
use std::sync::Arc;

use outrider_codec::HeaderName;
use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::route::v3::RouteConfiguration;

use crate::Captures;
use crate::route::MirrorPolicy;
use crate::route::RequestView;
use crate::route::Route;
use crate::route::RouteCx;
use crate::route::domains::Domains;
use crate::route::domains::Duplicate;
use crate::route::header_mutation::header_name;
use crate::route::virtual_host::RouteLevel;
use crate::route::virtual_host::VirtualHostRoutes;

/// `max_direct_response_body_size_bytes` when it is not set.
const DEFAULT_MAX_DIRECT_RESPONSE_BODY: u32 = 4096;

/// How many unknown clusters get a suggestion. The search for the nearest name takes time, and nobody reads more.
const SUGGESTIONS: u32 = 200;

/// A built `RouteConfiguration`.
#[derive(Debug)]
pub struct RouteTable {
    /// `RouteConfiguration.name`.
    pub name: String,
    /// Headers that only internal requests may carry.
    pub internal_only_headers: Box<[HeaderName]>,
    domains: Domains,
    hosts: Box<[VirtualHostRoutes]>,
    /// The header that is used instead of `:authority`.
    vhost_header: Option<HeaderName>,
    ignore_path_parameters: bool,
}

/// The context in which the routes of a table are built.
pub(crate) struct TableCx<'a> {
    pub(crate) cx: RouteCx<'a>,
    /// How many more suggestions may be made.
    suggestions: Cell<u32>,
    pub(crate) validate_clusters: bool,
    pub(crate) max_direct_response_body: u32,
    pub(crate) most_specific_wins: bool,
    pub(crate) level: RouteLevel,
    /// The copies of requests, for virtual hosts that name none.
    pub(crate) mirrors: Arc<[MirrorPolicy]>,
}

impl TableCx<'_> {
    /// Suggests an existing cluster for `name`, which does not exist.
    pub(crate) fn suggest_cluster(&self, name: &str) -> Option<String> {
        let left = self.suggestions.get().checked_sub(1)?;
        self.suggestions.set(left);
        (self.cx.nearest_cluster)(name)
    }

    /// Checks that there is a cluster of this name, unless routes may name clusters that do not exist yet.
    pub(crate) fn check_cluster(
        &self,
        name: &str,
        problem: &str,
        path: &FieldPath,
    ) -> Result<(), ConfigErrors> {
        if !self.validate_clusters || (self.cx.has_cluster)(name) {
            return Ok(());
        }
        let mut errors = ConfigErrors::new();
        let mut text = format!("{problem} '{name}'");
        if let Some(near) = self.suggest_cluster(name) {
            text.push_str(&format!("; did you mean {near}?"));
        }
        errors.push(path, text);
        Err(errors)
    }
}

impl RouteTable {
    /// Builds the `RouteConfiguration` found at `path`.
    ///
    /// # Errors
    /// Everything in it that is wrong or not supported, with Envoy's message if Envoy refuses it too.
    pub fn build(
        config: &RouteConfiguration,
        path: &FieldPath,
        cx: &RouteCx<'_>,
    ) -> Result<Arc<RouteTable>, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let level = errors.collect(RouteLevel::build(config, path, cx));
        let mirrors = MirrorPolicy::list(&config.request_mirror_policies, path);
        let table_cx = TableCx {
            cx: *cx,
            suggestions: Cell::new(SUGGESTIONS),
            validate_clusters: config.validate_clusters.unwrap_or(cx.validates_clusters),
            max_direct_response_body: config.max_direct_response_body_size_bytes.map_or(
                DEFAULT_MAX_DIRECT_RESPONSE_BODY,
                |max| match max {
                    // No limit.
                    0 => u32::MAX,
                    max => max,
                },
            ),
            most_specific_wins: config.most_specific_header_mutations_wins,
            level: level.unwrap_or_default(),
            mirrors: errors.collect(mirrors).unwrap_or_default(),
        };
        let mut domains = Domains::new(config.ignore_port_in_host_matching);
        let mut hosts = Vec::with_capacity(config.virtual_hosts.len());
        for (at, host) in config.virtual_hosts.iter().enumerate() {
            let path = path.field("virtual_hosts").index(at);
            hosts.extend(errors.collect(VirtualHostRoutes::build(host, &table_cx, &path)));
            for (nth, domain) in host.domains.iter().enumerate() {
                if let Err(duplicate) = domains.add(domain, at) {
                    let path = path.field("domains").index(nth);
                    errors.push(&path, duplicate.message(domain, &config.name));
                }
            }
        }
        let vhost_header = Some(config.vhost_header.as_str())
            .filter(|name| !name.is_empty())
            .and_then(|name| errors.collect(header_name(name, &path.field("vhost_header"))));
        // No request has a header whose name is invalid.
        let internal_only_headers = config.internal_only_headers.iter();
        let internal_only_headers = internal_only_headers.filter_map(|name| name.parse().ok());
        errors.finish(Arc::new(RouteTable {
            name: config.name.clone(),
            internal_only_headers: internal_only_headers.collect(),
            domains,
            hosts: hosts.into(),
            vhost_header,
            ignore_path_parameters: config.ignore_path_parameters_in_path_matching,
        }))
    }

    /// The route of `request`: its virtual host by domain, then the first of the host's routes that matches.
    #[must_use]
    pub fn find(&self, request: &RequestView<'_>) -> Option<&Arc<Route>> {
        let head = request.head;
        // As in Envoy, a request with an empty `x-forwarded-proto` matches no route.
        let proto = head.headers.get(&header::X_FORWARDED_PROTO);
        if proto.is_some_and(HeaderValue::is_empty) {
            return None;
        }
        let authority = match &self.vhost_header {
            None => head.authority(),
            Some(name) => head.headers.get(name)?.as_bytes(),
        };
        let host = self.hosts.get(self.domains.find(authority)?)?;
        let path = head.path.as_ref().map_or("", |path| path.path());
        let path = if self.ignore_path_parameters {
            path.split(';').next().unwrap_or_default()
        } else {
            path
        };
        host.find(request, path)
    }

    /// Adds the headers that the routes' response mutations and body formats read after the heads were sent on.
    pub fn capture(&self, captures: &mut Captures) {
        for host in &self.hosts {
            host.capture(captures);
        }
    }
}

impl Duplicate {
    fn message(self, domain: &str, table: &str) -> String {
        match self {
            Duplicate::Domain => format!(
                "Only unique values for domains are permitted. Duplicate entry of domain {} in route {table}",
                domain.to_ascii_lowercase()
            ),
            Duplicate::Wildcard => {
                format!("Only a single wildcard domain is permitted in route {table}")
            }
        }
    }
}

//! `RouteAction.upgrade_configs[].connect_config`: tunnels that end at this proxy. The request's body goes to a host over
//! TCP, without HTTP.

use http::Method;
use outrider_config::api::envoy::config::route::v3::route_action::UpgradeConfig;

use crate::RequestHead;

/// Which requests of a route become tunnels.
#[derive(Debug)]
pub(crate) struct TunnelEnd {
    /// `allow_post`
    allow_post: bool,
}

impl TunnelEnd {
    /// The `connect_config` of the route; the one for CONNECT, because no other upgrade may have one.
    pub(super) fn find(configs: &[UpgradeConfig]) -> Option<TunnelEnd> {
        let config = configs
            .iter()
            .find_map(|upgrade| upgrade.connect_config.as_ref())?;
        Some(TunnelEnd {
            allow_post: config.allow_post,
        })
    }

    /// Whether a request becomes a tunnel. Whether a CONNECT is allowed at all was decided before; a POST always is.
    pub(crate) fn applies_to(&self, request: &RequestHead) -> bool {
        request.method == Method::CONNECT || self.allow_post && request.method == Method::POST
    }
}

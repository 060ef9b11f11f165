//! Which route a request takes, and what the route says.

/// What to do with the requests that a `RouteMatch` matches (`envoy.config.route.v3.Route`).
#[derive(Debug)]
pub struct Route {
    /// `%ROUTE_NAME%`.
    pub name: String,
}

//! The HTTP connection manager: routes, filters, router, timeouts and access log.

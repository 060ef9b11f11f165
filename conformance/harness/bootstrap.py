"""The short form of a bootstrap: most cases differ from the plain HTTP proxy in a few fields, and say only those.

`proxy:` may hold `routes` (of the one virtual host), `virtual_host`, `virtual_hosts`, `route_config`, `hcm`, `filters` (those before the router), `listener`, `listeners` (more of them), `cluster`
(merged into each cluster), `clusters` (by name, merged into that cluster or added), `bootstrap` (merged at the top), `tls` and `upstream_tls` (the fields of the listener's and of all clusters' TLS contexts) and `log` (the
access log's format, or `false`). With `tcp` (the fields of a tcp_proxy; its cluster is the first, unless it says otherwise) the listener proxies TCP instead, after the
filters in `network`. Everything else is as small as Envoy allows. `run.py show NAME` prints the result.
"""
HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
TCP_PROXY = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
FILE_LOG = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
PROTOCOL = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
PROTOCOL_KEY = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
LOG = ("%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL% %RESPONSE_CODE% flags=%RESPONSE_FLAGS% details=%RESPONSE_CODE_DETAILS% "
       "out=%BYTES_SENT% cluster=%UPSTREAM_CLUSTER% host=%UPSTREAM_HOST% grpc=%GRPC_STATUS% "
       "failure=%UPSTREAM_TRANSPORT_FAILURE_REASON% end=%CONNECTION_TERMINATION_DETAILS%\n")

TCP_LOG = ("%PROTOCOL% %RESPONSE_CODE% flags=%RESPONSE_FLAGS% details=%RESPONSE_CODE_DETAILS% in=%BYTES_RECEIVED% out=%BYTES_SENT% cluster=%UPSTREAM_CLUSTER% "
           "host=%UPSTREAM_HOST% attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT% failure=%UPSTREAM_TRANSPORT_FAILURE_REASON% end=%CONNECTION_TERMINATION_DETAILS% type=%ACCESS_LOG_TYPE%\n")


def merge(base, extra):
    """Merges two trees: mappings are merged, other values replaced."""
    if isinstance(base, dict) and isinstance(extra, dict):
        return {**base, **{k: merge(base[k], v) if k in base else v for k, v in extra.items()}}
    return extra


def expand(short: dict, backends: dict) -> dict:
    """The whole bootstrap for a short form; `backends` are the case's, by name, as written."""
    clusters = {name: cluster(name, spec) for name, spec in backends.items() if spec["kind"] != "dns"}
    clusters = {name: merge(one, short.get("cluster", {})) for name, one in clusters.items()}
    for name, extra in short.get("clusters", {}).items():
        clusters[name] = merge(clusters.get(name, {"name": name}), extra)
    clusters = {name: one for name, one in clusters.items() if one}
    first = next(iter(clusters), None)
    routes = short.get("routes", [{"match": {"prefix": "/"}, "route": {"cluster": first}}] if first else [])
    host = merge({"name": "all", "domains": ["*"], "routes": routes}, short.get("virtual_host", {}))
    route_config = merge({"virtual_hosts": short.get("virtual_hosts", [host])}, short.get("route_config", {}))
    hcm = {"@type": HCM, "stat_prefix": "ingress", "route_config": route_config,
           "http_filters": [*short.get("filters", []), {"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}]}
    if short.get("log", LOG):
        hcm["access_log"] = [file_log(short.get("log", LOG))]
    last = {"name": "envoy.filters.network.http_connection_manager", "typed_config": merge(hcm, short.get("hcm", {}))}
    if "tcp" in short:
        last = {"name": "envoy.filters.network.tcp_proxy", "typed_config": tcp_proxy(short, first)}
    listener = {"name": "ingress", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                "filter_chains": [{"filters": [*short.get("network", []), last]}]}
    if "tls" in short:
        certificates = {"tls_certificates": [certificate("server")]}
        context = merge({"@type": f"{TLS}.DownstreamTlsContext", "common_tls_context": certificates}, short["tls"])
        listener["filter_chains"][0]["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": context}
    if "upstream_tls" in short:
        context = {"@type": f"{TLS}.UpstreamTlsContext", **short["upstream_tls"]}
        for one in clusters.values():
            one.setdefault("transport_socket", {"name": "envoy.transport_sockets.tls", "typed_config": context})
    whole = {"admin": admin(), "static_resources": {"listeners": [merge(listener, short.get("listener", {})), *short.get("listeners", [])], "clusters": list(clusters.values())}}
    return merge(whole, short.get("bootstrap", {}))


def tcp_proxy(short: dict, first: str | None) -> dict:
    """A tcp_proxy to the first cluster, with what `tcp` says otherwise."""
    fields = short["tcp"] or {}
    made = {"@type": TCP_PROXY, "stat_prefix": "ingress"}
    if not {"cluster", "weighted_clusters"} & set(fields):
        made["cluster"] = first
    if short.get("log", TCP_LOG):
        made["access_log"] = [file_log(short.get("log", TCP_LOG))]
    return merge(made, fields)


def certificate(name: str) -> dict:
    """A certificate of `conformance/certs`, with its key."""
    return {"certificate_chain": {"filename": f"<certs>/{name}.pem"}, "private_key": {"filename": f"<certs>/{name}.key"}}


def admin() -> dict:
    """The admin server that every case has."""
    return {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}


def file_log(template) -> dict:
    """An access log into the case's folder; a mapping is the log's own `log_format`."""
    log_format = template if isinstance(template, dict) else {"text_format_source": {"inline_string": template}}
    return {"name": "envoy.access_loggers.file", "typed_config": {"@type": FILE_LOG, "path": "<dir>/access.log", "log_format": log_format}}


def cluster(name: str, spec: dict) -> dict:
    """A STATIC cluster for a backend, speaking its codec."""
    endpoints = [{"endpoint": {"address": address(name, spec, host)}} for host in spec.get("at", ["127.0.0.1"])]
    made = {"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}}
    if spec["kind"] in ("grpc", "interop", "authz", "ratelimit", "extproc", "xds", "otlp") or spec.get("codec") == "http2":
        made["typed_extension_protocol_options"] = {PROTOCOL_KEY: {"@type": PROTOCOL, "explicit_http_config": {"http2_protocol_options": {}}}}
    return made


def address(name: str, spec: dict, host: str) -> dict:
    """Where the backend listens."""
    if spec.get("unix"):
        return {"pipe": {"path": f"<dir>/{name}.sock"}}
    return {"socket_address": {"address": host, "port_value": f"<{name}.port>"}}

"""Plans the requests for a published config: a plain request per route, and the addresses of its endpoints.

Everything is read from the proxy's own dump of its bootstrap, in which names and forms are canonical.
"""
import re

try:
    from re import _parser as sre  # the parser of `re` has no public name
except ImportError:  # Python before 3.11
    import sre_parse as sre

HCM = "HttpConnectionManager"
ANY_HOST = "corpus.test"


def plan(bootstrap: dict) -> dict:
    """Endpoints to fake and requests to make."""
    static = bootstrap.get("static_resources", {})
    requests = [one for listener in static.get("listeners", []) if "internal_listener" not in listener for one in of_listener(listener)]
    return {"endpoints": [e for c in static.get("clusters", []) for e in endpoints(c)], "requests": requests}


def endpoints(cluster: dict) -> list:
    """The addresses of a cluster, also from the deprecated fields."""
    groups = [lb for group in cluster.get("load_assignment", {}).get("endpoints", []) for lb in group.get("lb_endpoints", [])]
    addresses = [lb["endpoint"]["address"] for lb in groups if "address" in lb.get("endpoint", {})]
    found = []
    for address in addresses:
        if "pipe" in address:
            end = {"cluster": cluster["name"], "pipe": address["pipe"]["path"]}
        elif "socket_address" in address:
            end = {"cluster": cluster["name"], "host": address["socket_address"]["address"], "port": address["socket_address"].get("port_value", 0)}
        else:
            continue
        if end not in found and end.get("port") != 0:
            found.append(end)
    return found


def place_of(listener: dict) -> dict:
    """The address at which a listener is tested."""
    address = listener.get("address", {})
    if "pipe" in address:
        return {"pipe": address["pipe"]["path"]}
    socket_address = address.get("socket_address", {})
    return {"name": listener.get("name", ""), "host": socket_address.get("address", "127.0.0.1"), "port": socket_address.get("port_value", 0)}


def of_listener(listener: dict) -> list:
    """The requests for a listener: per route of its first HTTP filter chain; through a TCP proxy just two."""
    if listener.get("address", {}).get("socket_address", {}).get("protocol") == "UDP":
        return []
    chains = [*listener.get("filter_chains", []), *([listener["default_filter_chain"]] if "default_filter_chain" in listener else [])]
    chains = [chain for chain in chains if "transport_socket" not in chain]
    filters = [f.get("typed_config", {}) for chain in chains for f in chain.get("filters", [])]
    manager = next((f for f in filters if f.get("@type", "").endswith(HCM)), None)
    to = place_of(listener)
    if manager is None:
        plain = {"to": to, "http": "GET /corpus", "authority": ANY_HOST}
        return [{**plain, "codec": codec} for codec in ("http1", "http2")] if filters else []
    asked = [one for host in manager.get("route_config", {}).get("virtual_hosts", []) for one in of_host(host)]
    asked.append({"http": "GET /no-such-route-in-the-corpus", "authority": "no-such-host.invalid"})
    different = [one for at, one in enumerate(asked) if one not in asked[:at]]
    return [{**one, "to": to, "codec": codec} for one in different for codec in ("http1", "http2")]


def of_host(host: dict) -> list:
    """The requests for a virtual host: each route with each method, the first with each domain."""
    found = []
    for domain in host.get("domains", ["*"]):
        authority = domain.replace("*", "corpus") if domain != "*" else ANY_HOST
        routes = host.get("routes", []) if not found else host.get("routes", [])[:1]
        for route in routes:
            found += of_route(route, authority)
    return found


def of_route(route: dict, authority: str) -> list:
    """GET and POST for a route, with everything else that it matches on."""
    match = route.get("match", {})
    headers = {"x-corpus": "1"}
    method, target = None, None
    if "grpc" in match:
        headers.update({"content-type": "application/grpc", "te": "trailers"})
    for one in match.get("headers", []):
        name, value = one.get("name", ""), value_for(one)
        if name == ":method":
            method = value
        elif name == ":authority":
            authority = value
        elif name == ":path":
            target = value
        elif not one.get("invert_match"):
            headers[name] = value
    if "connect_matcher" in match:
        return [{"http": f"CONNECT {authority}:443", "authority": f"{authority}:443", "headers": headers}]
    target = target or path_for(match)
    query = "&".join(f"{p['name']}={text_for(p.get('string_match', {})) or '1'}" for p in match.get("query_parameters", []))
    target += ("?" + query) if query else ""
    return [{"http": f"{verb} {target}", "authority": authority, "headers": headers, **({"body": "corpus"} if verb in ("POST", "PUT") else {})}
            for verb in ([method] if method else ["GET", "POST"])]


def path_for(match: dict) -> str:
    """A path that a route matches."""
    if "path" in match:
        return match["path"]
    if "safe_regex" in match:
        return sample(match["safe_regex"].get("regex", ""))
    if "path_separated_prefix" in match:
        return match["path_separated_prefix"] + "/corpus"
    prefix = match.get("prefix", "/")
    return prefix + "corpus?a=b" if prefix.endswith("/") else prefix


def value_for(matcher: dict) -> str:
    """A value that a header matcher accepts."""
    old = {"exact_match": str, "prefix_match": str, "suffix_match": str, "contains_match": str}
    for key, make in old.items():
        if key in matcher:
            return make(matcher[key])
    if "safe_regex_match" in matcher:
        return sample(matcher["safe_regex_match"].get("regex", ""))
    if "range_match" in matcher:
        return str(matcher["range_match"].get("start", 0))
    return text_for(matcher.get("string_match", {})) or "1"


def text_for(matcher: dict) -> str:
    """A text that a string matcher accepts."""
    for key in ("exact", "prefix", "suffix", "contains"):
        if key in matcher:
            return matcher[key]
    return sample(matcher["safe_regex"].get("regex", "")) if "safe_regex" in matcher else ""


def sample(pattern: str) -> str:
    """A short text that a regular expression matches."""
    try:
        return written(sre.parse(pattern)) or "/"
    except re.error:
        return "/"


def written(parsed) -> str:
    """The shortest of each part."""
    return "".join(part(kind, value) for kind, value in parsed)


def part(kind, value) -> str:
    """One part of a parsed pattern."""
    word = str(kind)
    if word == "LITERAL":
        return chr(value)
    if word in ("ANY", "NOT_LITERAL"):
        return "x"
    if word == "IN":
        first_kind, first = value[0]
        return {"LITERAL": lambda: chr(first), "RANGE": lambda: chr(first[0])}.get(str(first_kind), lambda: "1" if "DIGIT" in str(first) else "a")()
    if word in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        return written(value[2]) * max(value[0], 1 if value[1] else 0)
    if word == "SUBPATTERN":
        return written(value[3])
    return written(value[1][0]) if word == "BRANCH" else ""

"""A control plane (`kind: xds`): state of the world and incremental, aggregated and by type, on grpcio with the official messages.

`resources` says what it has, by type: `cds: {version: "1", resources: [...]}`; a resource is its JSON, without the `@type`. A client gets
them when it asks, and again when the step `xds:` changes them. What the client sends is noted. What a well-behaved control plane would
not send, the step `xds:` says with `raw` (`steps.py`). `refuse: 7 go away` ends each stream at once.
"""
import importlib
import json
import queue
import threading

import grpc
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2, json_format

from .grpc_backend import CODES, GrpcBackend, shown_metadata

# Messages in resources; their modules must be loaded.
MODULES = """
envoy.config.cluster.v3.cluster envoy.config.endpoint.v3.endpoint envoy.config.listener.v3.listener envoy.config.route.v3.route
envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager envoy.extensions.filters.http.router.v3.router
envoy.extensions.filters.http.buffer.v3.buffer envoy.extensions.filters.http.header_mutation.v3.header_mutation
envoy.extensions.transport_sockets.tls.v3.secret envoy.extensions.transport_sockets.tls.v3.tls
envoy.extensions.upstreams.http.v3.http_protocol_options envoy.service.runtime.v3.rtds envoy.config.core.v3.extension
""".split()
TYPES = {
    "cds": ("envoy.config.cluster.v3.Cluster", "envoy.service.cluster.v3.ClusterDiscoveryService", "Clusters"),
    "eds": ("envoy.config.endpoint.v3.ClusterLoadAssignment", "envoy.service.endpoint.v3.EndpointDiscoveryService", "Endpoints"),
    "lds": ("envoy.config.listener.v3.Listener", "envoy.service.listener.v3.ListenerDiscoveryService", "Listeners"),
    "rds": ("envoy.config.route.v3.RouteConfiguration", "envoy.service.route.v3.RouteDiscoveryService", "Routes"),
    "sds": ("envoy.extensions.transport_sockets.tls.v3.Secret", "envoy.service.secret.v3.SecretDiscoveryService", "Secrets"),
    "rtds": ("envoy.service.runtime.v3.Runtime", "envoy.service.runtime.v3.RuntimeDiscoveryService", "Runtime"),
    "ecds": ("envoy.config.core.v3.TypedExtensionConfig", "envoy.service.extension.v3.ExtensionConfigDiscoveryService", "ExtensionConfigs"),
}
AGGREGATED = "envoy.service.discovery.v3.AggregatedDiscoveryService"
SHORT = {f"type.googleapis.com/{one[0]}": short for short, one in TYPES.items()}


class XdsBackend(GrpcBackend):
    """A control plane and its open streams."""

    def __init__(self, name: str, spec: dict, folder):
        self.state = {short: dict(one) for short, one in spec.get("resources", {}).items()}
        self.streams: list = []
        self.nonces = 0
        for module in MODULES:
            importlib.import_module(f"{module}_pb2")
        super().__init__(name, spec, folder)

    def handler(self, _host: str) -> grpc.GenericRpcHandler:
        """The same on every address."""
        return Handler(self)

    def nonce(self) -> str:
        """The next nonce; each is used once."""
        with self.lock:
            self.nonces += 1
            return str(self.nonces)

    def change(self, what: dict) -> None:
        """The step `xds:`: new resources by type (`null`: it has none), `raw` responses, `end` of all streams, `refuse`."""
        self.spec["refuse"] = what.get("refuse", self.spec.get("refuse"))
        for short, one in what.items():
            if short in TYPES:
                self.state[short] = dict(one) if one else None
        for stream in list(self.streams):
            for short in [short for short in what if short in TYPES]:
                stream.push(short)
            for one in what.get("raw", []):
                stream.send_raw(one)
            if "end" in what:
                stream.end(what["end"])

    def stop(self) -> None:
        """Ends the streams too, so that no thread waits for them."""
        for stream in list(self.streams):
            stream.end("0")
        super().stop()


class Handler(grpc.GenericRpcHandler):
    """Finds the method: which types, and whether it is incremental."""

    def __init__(self, backend: XdsBackend):
        self.backend = backend
        self.methods = {f"/{AGGREGATED}/StreamAggregatedResources": False, f"/{AGGREGATED}/DeltaAggregatedResources": True}
        for _, service, noun in TYPES.values():
            self.methods[f"/{service}/Stream{noun}"] = False
            self.methods[f"/{service}/Delta{noun}"] = True

    def service(self, details):
        """The method, or None for one that does not exist."""
        if details.method not in self.methods:
            return None
        kind = Delta if self.methods[details.method] else StateOfTheWorld
        return grpc.stream_stream_rpc_method_handler(lambda requests, context: kind(self.backend, details, context).run(requests))


class Stream:
    """One stream: what the client subscribed to, and the responses that wait to be sent."""

    request = None

    def __init__(self, backend: XdsBackend, details, context):
        self.backend = backend
        self.context = context
        self.method = details.method.rpartition("/")[2]
        self.waiting: queue.Queue = queue.Queue()
        self.subscribed: dict = {}
        self.sent: dict = {}
        self.had_node = False

    def run(self, requests):
        """Reads the requests on a thread of its own, and sends what is there to send."""
        if self.backend.spec.get("metadata"):
            authority = self.context._rpc_event.call_details.host.decode()  # noqa: SLF001 - grpcio tells it nowhere else
            self.backend.note({"stream": self.method, "authority": authority, "metadata": shown_metadata(self.context.invocation_metadata())})
        if self.backend.spec.get("refuse"):
            self.backend.note(f"refused {self.method}")
            code, _, message = self.backend.spec["refuse"].partition(" ")
            self.context.abort(CODES[int(code)], message)
        self.backend.streams.append(self)
        threading.Thread(target=self.read, args=(requests,), daemon=True).start()
        try:
            while (response := self.waiting.get()) is not None:
                if isinstance(response, str):
                    code, _, message = response.partition(" ")
                    if code == "0":
                        return
                    self.context.abort(CODES[int(code)], message)
                yield response
        finally:
            self.backend.streams.remove(self)

    def read(self, requests) -> None:
        """Notes and answers each request until the stream ends."""
        try:
            for data in requests:
                self.take(self.request.FromString(data))
        except Exception:  # noqa: BLE001 - grpcio raises a bare Exception when the client goes
            pass
        self.waiting.put(None)

    def end(self, status: str) -> None:
        """Ends the stream with a status."""
        self.waiting.put(status)

    def seen(self, request) -> dict:
        """What all requests have: the type, the nonce, the node, the error."""
        short = SHORT.get(request.type_url, request.type_url)
        noted = {"asks": short}
        if request.HasField("node"):
            noted["node"] = shown_node(request.node) if self.backend.spec.get("nodes") else request.node.id
        if request.response_nonce:
            mine = self.sent.get(short, {}).get("nonce")
            noted["to"] = self.sent[short]["label"] if request.response_nonce == mine else "another nonce"
        if request.HasField("error_detail"):
            noted["refused"] = {"code": request.error_detail.code, "says": self.words(request.error_detail.message)}
        return noted

    def words(self, message: str):
        """Of an error's text, which differs between proxies, the words that the case looks for."""
        return [word for word in self.backend.spec.get("words", []) if word in message]


class StateOfTheWorld(Stream):
    """Each response has all resources of a type."""

    request = discovery_pb2.DiscoveryRequest

    def take(self, request) -> None:
        """Answers a first request and changed names."""
        noted = self.seen(request)
        short = noted["asks"]
        names = list(request.resource_names)
        self.backend.note({**noted, "names": sorted(names), **({"version": request.version_info} if request.version_info else {})})
        if noted.get("to") == "another nonce":
            return
        changed = sorted(self.subscribed.get(short, ["-"])) != sorted(names)
        self.subscribed[short] = names
        if changed:
            self.push(short)

    def push(self, short: str) -> None:
        """Sends the resources that the client asked for."""
        state = self.backend.state.get(short)
        if not state or short not in self.subscribed:
            return
        names = self.subscribed[short]
        wanted = [one for one in state["resources"] if short in ("cds", "lds") and not names or name_of(one) in names or "*" in names or state.get("all")]
        self.send(short, state["version"], [packed(short, one) for one in wanted])

    def send(self, short: str, version: str, resources: list, **fields) -> None:
        """Sends a response and remembers its nonce."""
        nonce = self.backend.nonce()
        self.sent[short] = {"nonce": nonce, "label": version}
        response = {"version_info": version, "type_url": url(short), "nonce": nonce, **fields}
        self.waiting.put(discovery_pb2.DiscoveryResponse(resources=resources, **response).SerializeToString())

    def send_raw(self, what: dict) -> None:
        """Sends what the case says: `type`, `version`, `resources`, other fields as they are; or `bytes` that are no message."""
        if "bytes" in what:
            self.waiting.put(what["bytes"].encode("latin-1"))
            return
        short = what["type"]
        if short not in self.subscribed and not what.get("anyway"):
            return
        resources = [packed(one.pop("as", short), one) for one in json.loads(json.dumps(what.get("resources", [])))]
        resources += [any_pb2.Any(type_url=url(short), value=one.encode("latin-1")) for one in what.get("broken", [])]
        self.send(short, what["version"], resources, **what.get("fields", {}))


class Delta(Stream):
    """Each response has what was added, changed or removed."""

    request = discovery_pb2.DeltaDiscoveryRequest

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.known: dict = {}

    def take(self, request) -> None:
        """Sends what the client has not got yet."""
        noted = self.seen(request)
        short = noted["asks"]
        first = short not in self.subscribed
        names = self.subscribed.setdefault(short, set())
        known = self.known.setdefault(short, {})
        more = {"subscribe": sorted(request.resource_names_subscribe), "unsubscribe": sorted(request.resource_names_unsubscribe),
                "has": dict(sorted(request.initial_resource_versions.items()))}
        self.backend.note({**noted, **{key: value for key, value in more.items() if value}})
        names |= set(request.resource_names_subscribe)
        names -= set(request.resource_names_unsubscribe)
        if first and short in ("cds", "lds") and not names:
            names.add("*")
        for name in request.resource_names_unsubscribe:
            known.pop(name, None)
        for name, version in request.initial_resource_versions.items():
            known[name] = version
        if first or request.resource_names_subscribe:
            self.push(short, set(request.resource_names_subscribe))

    def push(self, short: str, asked: set = frozenset()) -> None:
        """Sends the difference; also what was asked for and does not exist, as removed."""
        state = self.backend.state.get(short)
        if not state or short not in self.subscribed:
            return
        names, known = self.subscribed[short], self.known[short]
        there = {name_of(one): one for one in state["resources"] if "*" in names or name_of(one) in names}
        versions = {name: state.get("versions", {}).get(name, state["version"]) for name in there}
        removed = sorted([name for name in known if name not in there] + [name for name in asked if name not in there and name != "*" and name not in known])
        fresh = [name for name in there if known.get(name) != versions[name]]
        for name in removed:
            known.pop(name, None)
        known.update({name: versions[name] for name in fresh})
        if fresh or removed or state.get("always"):
            self.send(short, state["version"], [{"name": name, "version": versions[name], "resource": packed(short, there[name])} for name in fresh], removed)

    def send(self, short: str, version: str, resources: list, removed: list) -> None:
        """Sends a response and remembers its nonce."""
        nonce = self.backend.nonce()
        self.sent[short] = {"nonce": nonce, "label": version}
        made = [discovery_pb2.Resource(**one) for one in resources]
        response = discovery_pb2.DeltaDiscoveryResponse(system_version_info=version, type_url=url(short), nonce=nonce, resources=made, removed_resources=removed)
        self.waiting.put(response.SerializeToString())

    def send_raw(self, what: dict) -> None:
        """Sends what the case says: `type`, `version`, `resources`, `removed`; or `bytes`."""
        if "bytes" in what:
            self.waiting.put(what["bytes"].encode("latin-1"))
            return
        short = what["type"]
        if short in self.subscribed:
            resources = json.loads(json.dumps(what.get("resources", [])))
            made = [{"version": what["version"], "resource": packed(one.pop("as", short), one["resource"]), "name": one["name"]} for one in resources]
            self.send(short, what["version"], made, what.get("removed", []))


def url(short: str) -> str:
    """The type URL of a short name, or the text itself."""
    return f"type.googleapis.com/{TYPES[short][0]}" if short in TYPES else short


def name_of(resource: dict) -> str:
    """The name of a resource as its JSON has it."""
    resource = resource.get("resource", resource)
    return resource.get("name") or resource.get("cluster_name", "")


def packed(short: str, resource: dict) -> any_pb2.Any:
    """A resource in an `Any`; with `ttl`, in the wrapper that carries it."""
    ttl = resource.get("ttl")
    inner = resource.get("resource", {}) if ttl else resource
    whole = {"@type": url(short), **inner}
    if ttl:
        wrapper = {"@type": "type.googleapis.com/envoy.service.discovery.v3.Resource", "name": name_of(inner) or resource["name"], "ttl": ttl}
        whole = {**wrapper, **({"resource": whole} if inner else {})}
    return json_format.ParseDict(whole, any_pb2.Any())


def shown_node(node) -> dict:
    """The node without what each binary has of its own: its build version and the list of its extensions."""
    shown = json_format.MessageToDict(node, preserving_proto_field_name=True)
    shown["extensions"] = "some" if shown.pop("extensions", []) else "none"
    version = shown.pop("user_agent_build_version", {})
    shown["build"] = version.get("version"), sorted(version.get("metadata", {}))
    return shown

"""The gRPC upstream: grpcio's C core, one server per pod address. Messages are plain bytes.

The method and the metadata of a call decide what the backend does, so that the case shows it:
`Unary` and `Bidi` echo, `ClientStream` counts, `ServerStream` sends what the request asks for ("3 10": three messages of ten
bytes), `Hang` answers nothing. `x-status: 5 not here` ends a call with this status, `x-delay: 0.2` waits first, `x-reply-size` sets the
size of a unary reply, `x-initial: v` and `x-trailing-bin: v` are sent back as initial and trailing metadata.
"""
import threading
import time
from concurrent import futures

import grpc

from . import text, tls

OPTIONS = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1),
           ("grpc.max_concurrent_streams", 1000)]
CODES = {code.value[0]: code for code in grpc.StatusCode}
HEALTH = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"]
KNOWN = {"Unary", "ClientStream", "ServerStream", "Bidi", "Hang"}


class GrpcBackend:
    """All pods of one gRPC service; each address is a server of its own on the same port."""

    def __init__(self, name: str, spec: dict, _folder):
        self.name = name
        self.spec = spec
        self.hosts = spec.get("at", ["127.0.0.1"])
        self.seen: list = []
        self.health: dict = spec.get("health", {})
        self.lock = threading.Lock()
        self.servers: dict = {}
        self.stopped = threading.Event()
        self.port = 0
        while not self.bind():
            for host in list(self.servers):
                self.stop_pod(host)

    def bind(self) -> bool:
        """The same port on every address, or False."""
        self.port = 0
        try:
            for host in self.hosts:
                self.start_pod(host)
        except RuntimeError:
            return False
        return True

    def start_pod(self, host: str) -> None:
        """Starts a pod."""
        options = [*OPTIONS, *self.spec.get("options", {}).items()]
        server = grpc.server(futures.ThreadPoolExecutor(160), handlers=[self.handler(host)], options=options)
        self.port = self.listen(server, f"{host}:{self.port}")
        server.start()
        self.servers[host] = server

    def listen(self, server, address: str) -> int:
        """Opens a port; over TLS if the case says so, and with `ca` for clients with a certificate only."""
        spec = self.spec.get("tls")
        if spec is None:
            return server.add_insecure_port(address)
        pair = [(tls.pem(spec["cert"], "key"), tls.pem(spec["cert"], "pem"))]
        ca = tls.pem(spec["ca"], "pem") if "ca" in spec else None
        return server.add_secure_port(address, grpc.ssl_server_credentials(pair, ca, ca is not None))

    def stop_pod(self, host: str) -> None:
        """Stops a pod: its calls are cut off."""
        self.servers.pop(host).stop(0).wait()

    def handler(self, host: str) -> grpc.GenericRpcHandler:
        """The pod's server."""
        return Handler(self, host)

    def start(self) -> None:
        """Nothing to do: it serves from the time it is bound."""

    def note(self, what) -> None:
        """Remembers an observation."""
        with self.lock:
            self.seen.append(what)

    def stop(self) -> None:
        """Ends every pod."""
        self.stopped.set()
        for server in self.servers.values():
            server.stop(0)


class Handler(grpc.GenericRpcHandler):
    """Takes every method that exists; the others are UNIMPLEMENTED by grpcio itself."""

    def __init__(self, backend: GrpcBackend, pod: str):
        self.backend = backend
        self.pod = pod

    def service(self, details):
        """The handler of a method, by its last part."""
        service, _, method = details.method.rpartition("/")
        if details.method == "/grpc.health.v1.Health/Check" and self.backend.health:
            return grpc.unary_unary_rpc_method_handler(self.check)
        if method not in KNOWN or service.endswith("UnimplementedService"):
            return None
        kinds = {"ClientStream": (grpc.stream_unary_rpc_method_handler, self.count),
                 "ServerStream": (grpc.unary_stream_rpc_method_handler, self.stream),
                 "Bidi": (grpc.stream_stream_rpc_method_handler, self.chat),
                 "Hang": (grpc.stream_stream_rpc_method_handler, self.hang)}
        make, behaviour = kinds.get(method, (grpc.unary_unary_rpc_method_handler, self.echo))
        return make(lambda data, context: self.call(details.method, behaviour, data, context))

    def check(self, data: bytes, context):
        """The health service: its answer by the name of the service that is asked for."""
        service = data[2:].decode()
        shown = [f"{k}: {v}" for k, v in sorted(context.invocation_metadata(), key=lambda kv: kv[0])]
        self.backend.note({"check": service, "metadata": shown})
        status = self.backend.health.get(service)
        if status is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return bytes([8, HEALTH.index(status)])

    def call(self, method: str, behaviour, data, context):
        """The part that all calls share: notes, metadata, delay and status."""
        metadata = dict(context.invocation_metadata())
        shown = [f"{k}: {v.hex() if isinstance(v, bytes) else v}" for k, v in sorted(context.invocation_metadata(), key=lambda kv: kv[0])]
        self.backend.note({"call": method, "metadata": shown})
        context.add_callback(lambda: None)
        initial = [("pod", self.pod)]
        if "x-initial" in metadata:
            initial.append(("x-initial", metadata["x-initial"]))
        context.send_initial_metadata(initial) if "x-status" not in metadata or "x-initial" in metadata else None
        trailing = [("x-trailing-bin", metadata["x-trailing-bin"])] if "x-trailing-bin" in metadata else []
        context.set_trailing_metadata(trailing)
        if "x-delay" in metadata:
            self.backend.stopped.wait(float(metadata["x-delay"]))
        if "x-compress" in metadata:
            context.set_compression(grpc.Compression.Gzip)
        if "x-status" in metadata:
            code, _, message = metadata["x-status"].partition(" ")
            context.set_code(CODES[int(code)])
            context.set_details(metadata.get("x-message-bin", b"").decode() or message)
        return behaviour(data, context, metadata)

    @staticmethod
    def echo(data, _context, metadata):
        """The request, or as many bytes as asked for."""
        return b"z" * int(metadata["x-reply-size"]) if "x-reply-size" in metadata else data

    @staticmethod
    def count(messages, _context, _metadata):
        """Replies with the number of bytes received."""
        sizes = [len(m) for m in messages]
        return f"{len(sizes)} messages, {sum(sizes)} bytes".encode()

    @staticmethod
    def stream(data, _context, metadata):
        """"3 10": three messages of ten bytes; further numbers are sizes of their own."""
        numbers = [int(n) for n in data.split() or [0]]
        for at in range(numbers[0]):
            if "x-pause" in metadata and at:
                time.sleep(float(metadata["x-pause"]))
            yield bytes([97 + at % 26]) * (numbers[1 + at % (len(numbers) - 1)] if len(numbers) > 1 else 1)

    @staticmethod
    def chat(messages, _context, _metadata):
        """Echoes each message as it arrives."""
        yield from messages

    def hang(self, _messages, context, _metadata):
        """Sends nothing until the caller cancels, and notes the cancellation."""
        gone = threading.Event()
        if context.add_callback(gone.set):
            while not gone.wait(0.05) and not self.backend.stopped.is_set():
                pass
        self.backend.note("the call ended by cancellation" if gone.is_set() else "the call was still there")
        yield from ()


def shown_metadata(metadata) -> list:
    """Metadata as lines, sorted; binary values in hex."""
    return [f"{k}: {v.hex() if isinstance(v, bytes) else v}" for k, v in sorted(metadata or (), key=lambda kv: kv[0])]


def shown_message(data: bytes) -> str:
    """A message in an observation."""
    return text.shown(data) if len(data) <= 100 else f"({len(data)} bytes)"

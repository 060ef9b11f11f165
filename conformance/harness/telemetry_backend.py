"""The collectors that a proxy sends telemetry to: `otlp` (OpenTelemetry over gRPC, on grpcio) and `collector` (OpenTelemetry and Zipkin over HTTP).

Each export is noted as JSON, in the order of arrival. Times are left out and attributes sorted here; ids are left to
`normalise.py`, which names them by their first appearance in the whole case, so that headers and spans can be compared.
An `otlp` backend has `answers`, one per export, the last repeated: `status: 14 text`, or `stall: true`; without them each export succeeds.
"""
import json
import threading

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, unknown_fields
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from . import backends, http1, text
from .client import listed
from .grpc_backend import CODES, GrpcBackend, shown_metadata

COLLECTOR = "/opentelemetry.proto.collector."
METHODS = {
    f"{COLLECTOR}trace.v1.TraceService/Export": (trace_service_pb2.ExportTraceServiceRequest, trace_service_pb2.ExportTraceServiceResponse),
    f"{COLLECTOR}logs.v1.LogsService/Export": (logs_service_pb2.ExportLogsServiceRequest, logs_service_pb2.ExportLogsServiceResponse),
    f"{COLLECTOR}metrics.v1.MetricsService/Export": (metrics_service_pb2.ExportMetricsServiceRequest, metrics_service_pb2.ExportMetricsServiceResponse),
}
TIMES = {"start_time_unix_nano", "end_time_unix_nano", "time_unix_nano", "observed_time_unix_nano", "timestamp", "duration"}
# The official messages in Python have the old names of these fields; their numbers are the same.
RENAMED = {"instrumentation_library_spans": "scope_spans", "instrumentation_library_logs": "scope_logs",
           "instrumentation_library_metrics": "scope_metrics", "instrumentation_library": "scope"}


class OtlpBackend(GrpcBackend):
    """An OpenTelemetry collector over gRPC."""

    def handler(self, _host: str) -> grpc.GenericRpcHandler:
        """The same on every address."""
        return Service(self)


class Service(grpc.GenericRpcHandler):
    """The three export methods."""

    def __init__(self, backend: OtlpBackend):
        self.backend = backend

    def service(self, details):
        """The method, or None for one that it does not have."""
        if details.method not in METHODS:
            return None
        request, response = METHODS[details.method]
        return grpc.unary_unary_rpc_method_handler(lambda data, context: self.answer(details.method, request.FromString(data), response(), context))

    def answer(self, method: str, request, response, context):
        """Notes an export, and answers as the case says."""
        authority = context._rpc_event.call_details.host.decode()  # noqa: SLF001 - grpcio tells it nowhere else
        with self.backend.lock:
            number = len(self.backend.seen)
        self.backend.note({"export": method, "authority": authority, "metadata": shown_metadata(context.invocation_metadata()), **shown(request)})
        answers = self.backend.spec.get("answers", [{}])
        answer = answers[min(number, len(answers) - 1)]
        if answer.get("stall"):
            gone = threading.Event()
            if context.add_callback(gone.set):
                while not gone.wait(0.05) and not self.backend.stopped.is_set():
                    pass
        if "status" in answer:
            code, _, message = answer["status"].partition(" ")
            context.abort(CODES[int(code)], message)
        return response.SerializeToString()


class Collector(backends.Http):
    """A collector over HTTP: an `http1` backend that decodes what is posted. `replies` work as there; 202 is the default."""

    def __init__(self, name: str, spec: dict, folder):
        super().__init__(name, {"codec": "http1", "replies": {"*": {"status": 202, "body": ""}}, **spec}, folder)

    def send_http1(self, stream: http1.Stream, reply: dict, seen: backends.Seen, bodiless: bool) -> bool:
        """Replaces what was noted of the request by its content."""
        decoded = {"request": seen.first, "headers": [line for line in listed(seen.fields) if not line.startswith("content-length")], **decode(seen)}
        with self.lock:
            self.seen[-1] = decoded
        return super().send_http1(stream, reply, seen, bodiless)


def decode(seen: backends.Seen) -> dict:
    """What a request posts."""
    kind = next((value for name, value in seen.fields if name.lower() == "content-type"), "")
    if kind == "application/json":
        return {"json": stable(json.loads(seen.body))}
    if "/v1/traces" in seen.first:
        return shown(trace_service_pb2.ExportTraceServiceRequest.FromString(seen.body))
    if "/v1/logs" in seen.first:
        return shown(logs_service_pb2.ExportLogsServiceRequest.FromString(seen.body))
    if "/v1/metrics" in seen.first:
        return shown(metrics_service_pb2.ExportMetricsServiceRequest.FromString(seen.body))
    if kind == "application/x-protobuf":
        return shown(ListOfSpans.FromString(seen.body))
    return {"body": text.lines(seen.body)}


def shown(message) -> dict:
    """A message as JSON, with the fields that the Python messages do not know by their number."""
    return stable(tree(message))


def tree(message) -> dict:
    """A message's fields; bytes in hex."""
    shown_fields = {}
    for field, value in message.ListFields():
        name = RENAMED.get(field.name, field.name)
        if field.message_type and field.message_type.GetOptions().map_entry:
            shown_fields[name] = {key: value[key] for key in sorted(value)}
        elif field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED:
            shown_fields[name] = [plain(field, one) for one in value]
        else:
            shown_fields[name] = plain(field, value)
    for unknown in unknown_fields.UnknownFieldSet(message):
        shown_fields[f"field {unknown.field_number}"] = str(unknown.data)
    return shown_fields


def plain(field, value):
    """One value."""
    if field.message_type:
        inner = tree(value)
        return next(iter(inner.values()), None) if field.message_type.name == "AnyValue" and len(inner) <= 1 else inner
    if field.enum_type:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    return value.hex() if isinstance(value, bytes) else value


def stable(value, name: str = ""):
    """Without times, and with attributes as one line each."""
    if isinstance(value, dict):
        if set(value) <= {"key", "value"} and "key" in value:
            shown_value = value.get("value")
            return f"{value['key']}={shown_value if not isinstance(shown_value, (dict, list)) else json.dumps(stable(shown_value))}"
        return {key: sorted(stable(one)) if key == "attributes" else stable(one, key) for key, one in sorted(value.items())}
    if isinstance(value, list):
        return [stable(one) for one in value]
    if name in TIMES:
        return "<time>"
    return value


def zipkin_messages():
    """`zipkin.proto3`, which no package has: https://github.com/openzipkin/zipkin-api."""
    text_type, bytes_type, fixed, varint, enum, boolean, message = 9, 12, 6, 4, 14, 8, 11
    file = descriptor_pb2.FileDescriptorProto(name="zipkin.proto", package="zipkin.proto3", syntax="proto3")

    def add(name: str, fields: list):
        made = file.message_type.add(name=name)
        for number, (field, kind, *more) in enumerate(fields, 1):
            made.field.add(name=field, number=number, type=kind, label=3 if "repeated" in more else 1, type_name=more[0] if more and more[0] != "repeated" else None)
        return made

    add("Endpoint", [("service_name", text_type), ("ipv4", bytes_type), ("ipv6", bytes_type), ("port", 5)])
    add("Annotation", [("timestamp", fixed), ("value", text_type)])
    span = add("Span", [("trace_id", bytes_type), ("parent_id", bytes_type), ("id", bytes_type), ("kind", enum, ".zipkin.proto3.Span.Kind"), ("name", text_type),
                        ("timestamp", fixed), ("duration", varint), ("local_endpoint", message, ".zipkin.proto3.Endpoint"), ("remote_endpoint", message, ".zipkin.proto3.Endpoint"),
                        ("annotations", message, ".zipkin.proto3.Annotation", "repeated"), ("tags", message, ".zipkin.proto3.Span.TagsEntry", "repeated"),
                        ("debug", boolean), ("shared", boolean)])
    kinds = span.enum_type.add(name="Kind")
    for number, kind in enumerate(["SPAN_KIND_UNSPECIFIED", "CLIENT", "SERVER", "PRODUCER", "CONSUMER"]):
        kinds.value.add(name=kind, number=number)
    entry = span.nested_type.add(name="TagsEntry")
    entry.options.map_entry = True
    for number, field in enumerate(["key", "value"], 1):
        entry.field.add(name=field, number=number, type=text_type, label=1)
    add("ListOfSpans", [("spans", message, ".zipkin.proto3.Span", "repeated")])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("zipkin.proto3.ListOfSpans"))


ListOfSpans = zipkin_messages()

"""The service of gRPC's interoperability tests, `grpc.testing.TestService`: its messages, and a server that behaves as the
description of those tests says (grpc/grpc, doc/interop-test-descriptions.md).

Messages are written and shown as mappings; a payload's `body: N` is that many zero bytes.
"""
import time

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

from .grpc_backend import CODES, GrpcBackend, shown_metadata

SERVICE = "/grpc.testing.TestService/"
KINDS = {"i": descriptor_pb2.FieldDescriptorProto.TYPE_INT32, "b": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
         "y": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES, "s": descriptor_pb2.FieldDescriptorProto.TYPE_STRING}
# Fields as `number name kind`; a capital letter begins a message's name, `*` repeats.
MESSAGES = {
    "Empty": "", "BoolValue": "1 value b", "Payload": "1 type i, 2 body y", "EchoStatus": "1 code i, 2 message s",
    "SimpleRequest": "1 response_type i, 2 response_size i, 3 payload Payload, 4 fill_username b, 5 fill_oauth_scope b, "
                     "6 response_compressed BoolValue, 7 response_status EchoStatus, 8 expect_compressed BoolValue",
    "SimpleResponse": "1 payload Payload, 2 username s, 3 oauth_scope s",
    "StreamingInputCallRequest": "1 payload Payload, 2 expect_compressed BoolValue",
    "StreamingInputCallResponse": "1 aggregated_payload_size i",
    "ResponseParameters": "1 size i, 2 interval_us i, 3 compressed BoolValue",
    "StreamingOutputCallRequest": "1 response_type i, 2 response_parameters ResponseParameters*, 3 payload Payload, 7 response_status EchoStatus",
    "StreamingOutputCallResponse": "1 payload Payload",
}
# What a method takes and gives, and which way it streams.
METHODS = {
    "EmptyCall": ("Empty", "Empty", "unary"), "UnaryCall": ("SimpleRequest", "SimpleResponse", "unary"),
    "StreamingOutputCall": ("StreamingOutputCallRequest", "StreamingOutputCallResponse", "server"),
    "StreamingInputCall": ("StreamingInputCallRequest", "StreamingInputCallResponse", "client"),
    "FullDuplexCall": ("StreamingOutputCallRequest", "StreamingOutputCallResponse", "bidi"),
    "UnimplementedCall": ("Empty", "Empty", "unary"),
}


def definitions() -> dict:
    """The message classes by name."""
    file = descriptor_pb2.FileDescriptorProto(name="interop.proto", package="grpc.testing", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for line in filter(None, fields.split(", ")):
            number, field, kind = line.split()
            repeated = kind.endswith("*")
            kind = kind.rstrip("*")
            made = message.field.add(name=field, number=int(number), label=3 if repeated else 1)
            if kind in KINDS:
                made.type = KINDS[kind]
            else:
                made.type, made.type_name = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE, f".grpc.testing.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"grpc.testing.{name}")) for name in MESSAGES}


TYPES = definitions()


def types_of(path: str) -> tuple | None:
    """Request, response and kind of a method of the service."""
    service, _, method = path.rpartition("/")
    return METHODS.get(method) if service in (SERVICE.rstrip("/"), "/grpc.testing.UnimplementedService") else None


def encode(path: str, written: dict) -> bytes:
    """A request as a case writes it."""
    message = TYPES[types_of(path)[0]]()
    size = written.get("payload", {}).get("body", 0)
    rest = {key: value for key, value in written.items() if key != "payload"}
    json_format.ParseDict(rest, message)
    if size:
        message.payload.body = bytes(size)
    return message.SerializeToString()


def shown(path: str, data: bytes):
    """A response in an observation."""
    message = TYPES[types_of(path)[1]].FromString(data)
    body = message.payload.body if "payload" in message.DESCRIPTOR.fields_by_name else b""
    if body:
        message.payload.ClearField("body")
    tree = json_format.MessageToDict(message, preserving_proto_field_name=True)
    if body:
        tree["payload"] = f"{len(body)} zeros" if not body.strip(b"\0") else body.hex()
    return tree


class InteropBackend(GrpcBackend):
    """The test service; it notes each call with its metadata."""

    def handler(self, _host: str) -> grpc.GenericRpcHandler:
        """The same on every address."""
        return TestService(self)


class TestService(grpc.GenericRpcHandler):
    """The server's half of the interoperability tests."""

    def __init__(self, backend: InteropBackend):
        self.backend = backend

    def service(self, details):
        """A method of the service; None if it does not have it."""
        kinds = {"EmptyCall": (grpc.unary_unary_rpc_method_handler, self.empty), "UnaryCall": (grpc.unary_unary_rpc_method_handler, self.unary),
                 "StreamingOutputCall": (grpc.unary_stream_rpc_method_handler, self.streaming_output),
                 "StreamingInputCall": (grpc.stream_unary_rpc_method_handler, self.streaming_input),
                 "FullDuplexCall": (grpc.stream_stream_rpc_method_handler, self.full_duplex)}
        method = details.method.removeprefix(SERVICE)
        if method not in kinds:
            return None
        make, behaviour = kinds[method]
        request, response, _ = METHODS[method]

        def call(data, context):
            self.begin(method, context)
            return behaviour(data, context)

        return make(call, TYPES[request].FromString, TYPES[response].SerializeToString)

    def begin(self, method: str, context) -> None:
        """Notes a call and echoes the two fields that the tests ask for."""
        self.backend.note({"call": method, "metadata": shown_metadata(context.invocation_metadata())})
        for key, value in context.invocation_metadata():
            if key == "x-grpc-test-echo-initial":
                context.send_initial_metadata([(key, value)])
            if key == "x-grpc-test-echo-trailing-bin":
                context.set_trailing_metadata([(key, value)])

    @staticmethod
    def asked_status(request, context) -> bool:
        """Sets the status that a request asks for."""
        status = request.response_status
        if status.code:
            context.set_code(CODES[status.code])
            context.set_details(status.message)
        return bool(status.code)

    @staticmethod
    def empty(_request, _context):
        """EmptyCall."""
        return TYPES["Empty"]()

    def unary(self, request, context):
        """UnaryCall: a payload of the size asked for."""
        if request.response_compressed.value:
            context.set_compression(grpc.Compression.Gzip)
        self.asked_status(request, context)
        response = TYPES["SimpleResponse"]()
        response.payload.body = bytes(request.response_size)
        return response

    def streaming_output(self, request, context):
        """StreamingOutputCall: a payload for each size asked for."""
        if any(one.compressed.value for one in request.response_parameters):
            context.set_compression(grpc.Compression.Gzip)
        yield from self.payloads(request, context)

    @staticmethod
    def payloads(request, context):
        """Responses of the sizes, after the pauses, and with the compression that a request asks for."""
        for one in request.response_parameters:
            time.sleep(one.interval_us / 1e6)
            if one.HasField("compressed") and not one.compressed.value:
                context.disable_next_message_compression()
            response = TYPES["StreamingOutputCallResponse"]()
            response.payload.body = bytes(one.size)
            yield response

    @staticmethod
    def streaming_input(requests, _context):
        """StreamingInputCall: returns the total size."""
        return TYPES["StreamingInputCallResponse"](aggregated_payload_size=sum(len(one.payload.body) for one in requests))

    def full_duplex(self, requests, context):
        """FullDuplexCall: answers each request as it arrives; a status ends the call."""
        for request in requests:
            if self.asked_status(request, context):
                return
            yield from self.payloads(request, context)

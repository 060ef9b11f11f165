"""The services that filters ask: authorization (`authz`) and rate limits (`ratelimit`), on grpcio, with the official messages.

Each question is noted as JSON, without what changes on every run. `answers` says what to reply: the first one whose `when` is part
of the question (as JSON) is taken. An answer has `reply` (the response as JSON), or `status: 7 not you`, or `stall: true`, or `raw` (bytes that
are no message). Without `answers` every question is answered with an empty response.
"""
import json
import threading
from collections.abc import Sequence

import grpc
from envoy.service.auth.v3 import external_auth_pb2
from envoy.service.ratelimit.v3 import rls_pb2
from google.protobuf import json_format
from google.protobuf.unknown_fields import UnknownFieldSet

from .grpc_backend import CODES, GrpcBackend, shown_metadata

METHODS = {
    "authz": ("/envoy.service.auth.v3.Authorization/Check", external_auth_pb2.CheckRequest, external_auth_pb2.CheckResponse),
    "ratelimit": ("/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit", rls_pb2.RateLimitRequest, rls_pb2.RateLimitResponse),
}
# Fields that are different on every run.
VOLATILE = {"time", "id", "duration"}


class ServiceBackend(GrpcBackend):
    """One service; it notes each call with its metadata."""

    def handler(self, _host: str) -> grpc.GenericRpcHandler:
        """The same on every address."""
        return Service(self)


class Service(grpc.GenericRpcHandler):
    """The one method of the service."""

    def __init__(self, backend: ServiceBackend):
        self.backend = backend
        self.path, self.request, self.response = METHODS[backend.spec["kind"]]

    def service(self, details):
        """The method, or None for one that it does not have."""
        return grpc.unary_unary_rpc_method_handler(self.answer) if details.method == self.path else None

    def answer(self, data: bytes, context):
        """Notes the question, and answers as the case says."""
        message = self.request.FromString(data)
        question = json_format.MessageToDict(message, preserving_proto_field_name=True)
        if unknown := unknown_fields(message):
            question["fields that the service does not know"] = unknown
        authority = context._rpc_event.call_details.host.decode()  # noqa: SLF001 - grpcio tells it nowhere else
        self.backend.note({"asked": stable(question), "authority": authority, "metadata": shown_metadata(context.invocation_metadata())})
        text = json.dumps(question)
        answers = self.backend.spec.get("answers", [{}])
        answer = next((one for one in answers if one.get("when", "") in text), {})
        if answer.get("stall"):
            self.stall(context)
        if "status" in answer:
            code, _, message = answer["status"].partition(" ")
            context.abort(CODES[int(code)], message)
        if "raw" in answer:
            return answer["raw"].encode("latin-1")
        return json_format.ParseDict(answer.get("reply", {}), self.response()).SerializeToString()

    def stall(self, context) -> None:
        """Waits until the caller gives up."""
        gone = threading.Event()
        if context.add_callback(gone.set):
            while not gone.wait(0.05) and not self.backend.stopped.is_set():
                pass
        self.backend.note("the caller gave up" if gone.is_set() else "the caller still waited")


def unknown_fields(message) -> list:
    """The fields of a question, and of the messages in it, that are newer than the service's messages: `message.number: value`."""
    kind = message.DESCRIPTOR.name
    found = [f"{kind}.{field.field_number}: {field.data}" for field in UnknownFieldSet(message)]
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE and not field.message_type.GetOptions().map_entry:
            for one in value if isinstance(value, Sequence) else [value]:
                found += unknown_fields(one)
    return found


def stable(tree):
    """A question without what changes on every run: times, ids, the client's port."""
    if isinstance(tree, dict):
        kept = {key: stable(value) for key, value in sorted(tree.items()) if key not in VOLATILE or isinstance(value, dict)}
        if "address" in kept and "port_value" in kept:
            kept["port_value"] = "<port>"
        if "ext_authz_duration" in kept:
            kept["ext_authz_duration"] = "<ms>"
        if kept.get("certificate"):
            kept["certificate"] = f"{len(kept['certificate'])} characters"
        return kept
    return [stable(one) for one in tree] if isinstance(tree, list) else tree

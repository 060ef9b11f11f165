"""The services that filters ask: authorization (`authz`), rate limits (`ratelimit`) and external processing (`extproc`), on grpcio, with
the official messages.

Each question is noted as JSON, without what changes on every run. `answers` says what to reply: the first one whose `when` is part
of the question (as JSON) is taken. An answer has `reply` (the response as JSON), or `status: 7 not you`, or `stall: true`, or `raw` (bytes that
are no message). Without `answers` every question is answered with an empty response.

A processor (`extproc`) takes the first answer whose `when` is part of the first message of the call. It says for each kind of message
what to do: a `CommonResponse` (or a `HeaderMutation`, to trailers), or one of `reply` (the whole response), `replies` (several),
`abort: 7 not you`, `close: true`, `stall: true`, `silent: true`, `raw` and `die: true` (the service is cut off). A list answers the messages in turn;
its last one answers the rest. A kind that is not named gets an empty response of its kind.
"""
import json
import threading
from collections.abc import Sequence

import grpc
from envoy.service.auth.v3 import external_auth_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2
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

    def handler(self, host: str) -> grpc.GenericRpcHandler:
        """The same on every address."""
        return Processor(self, host) if self.spec["kind"] == "extproc" else Service(self)


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


class Processor(grpc.GenericRpcHandler):
    """The external processor: one call for each HTTP stream."""

    def __init__(self, backend: ServiceBackend, host: str):
        self.backend = backend
        self.host = host

    def service(self, details):
        """Its one method."""
        return grpc.stream_stream_rpc_method_handler(self.answer) if details.method == "/envoy.service.ext_proc.v3.ExternalProcessor/Process" else None

    def answer(self, messages, context):
        """Notes each message, and answers as the case says."""
        chosen, turns = None, {}
        for data in messages:
            message = external_processor_pb2.ProcessingRequest.FromString(data)
            kind = message.WhichOneof("request")
            question = processed(message)
            if chosen is None:
                text = json.dumps(question)
                answers = self.backend.spec.get("answers", [{}])
                chosen = next((one for one in answers if one.get("when", "") in text), {})
                self.backend.note({"call": shown_metadata(context.invocation_metadata())})
            self.backend.note(question)
            actions = chosen.get(kind, {})
            actions = actions if isinstance(actions, list) else [actions]
            turn = turns[kind] = turns.get(kind, -1) + 1
            yield from self.act(actions[min(turn, len(actions) - 1)], kind, context)
            if actions[min(turn, len(actions) - 1)].get("close"):
                return

    def act(self, action: dict, kind: str, context):
        """The responses of one action."""
        if "delay" in action:
            self.backend.stopped.wait(action["delay"])
        if action.get("stall"):
            gone = threading.Event()
            if context.add_callback(gone.set):
                while not gone.wait(0.05) and not self.backend.stopped.is_set():
                    pass
            return
        if action.get("die"):
            threading.Thread(target=self.backend.stop_pod, args=(self.host,), daemon=True).start()
            self.backend.stopped.wait(5)
            return
        if "abort" in action:
            code, _, message = action["abort"].partition(" ")
            context.abort(CODES[int(code)], message)
        if "raw" in action:
            yield action["raw"].encode("latin-1")
        if any(action.get(word) for word in ("silent", "close", "raw")):
            return
        usual = [{kind: {"header_mutation" if kind.endswith("trailers") else "response": action}}]
        replies = [action["reply"]] if "reply" in action else action.get("replies", usual)
        for reply in replies:
            if "delay" in reply:
                self.backend.stopped.wait(reply["delay"])
            made = {key: value for key, value in reply.items() if key != "delay"}
            yield json_format.ParseDict(made, external_processor_pb2.ProcessingResponse()).SerializeToString()


def processed(message) -> dict:
    """A `ProcessingRequest` to be read: header lists as lines, bodies as text."""
    shown = json_format.MessageToDict(message, preserving_proto_field_name=True)
    for kind in ("request_headers", "response_headers"):
        if kind in shown:
            lines = [line(header) for header in getattr(message, kind).headers.headers]
            # Envoy keeps the order of the client's pseudo-headers, which means nothing.
            shown[kind]["headers"] = sorted(one for one in lines if one[0] == ":") + [one for one in lines if one[0] != ":"]
    for kind in ("request_trailers", "response_trailers"):
        if kind in shown:
            shown[kind]["trailers"] = [line(header) for header in getattr(message, kind).trailers.headers]
    for kind in ("request_body", "response_body"):
        if "body" in shown.get(kind, {}):
            body = getattr(message, kind).body.decode("latin-1")
            shown[kind]["body"] = body if len(body) < 100 else f"{len(body)} bytes"
    return stable(shown)


def line(header) -> str:
    """A header; what changes on every run is left out."""
    value = (header.raw_value or header.value.encode()).decode("latin-1")
    changes = {"x-request-id": "<uuid>", "date": "<date>", "x-envoy-upstream-service-time": "<ms>", ":authority": "<authority>"}
    return f"{header.key}: {changes.get(header.key, value)}"


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

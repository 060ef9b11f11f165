"""The clients of `grpc` steps: grpcio's C core, and grpclib on the Python `h2`; two stacks that share no code."""
import asyncio
import threading

import grpc
from grpclib import const, exceptions
from grpclib.client import Channel
from grpclib.encoding.base import CodecBase

from . import interop, text, tls
from .grpc_backend import shown_message, shown_metadata

KINDS = {"ClientStream": "client", "ServerStream": "server", "Bidi": "bidi", "Hang": "bidi"}
CHANNEL = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1),
           ("grpc.max_send_message_length", -1), ("grpc.default_authority", "conformance.test")]


class Call:
    """A call as a case writes it."""

    def __init__(self, step: dict):
        method = step["grpc"]
        self.method = method if method.startswith("/") else f"/conformance.Test/{method}"
        known = interop.types_of(self.method)
        self.kind = step.get("kind", known[2] if known else KINDS.get(method.rpartition("/")[2], "unary"))
        sent = step.get("send", {} if known else "")
        sent = sent if isinstance(sent, list) else [sent]
        self.messages = [interop.encode(self.method, one) if known else text.payload(one) for one in sent]
        self.alternate = step.get("alternate", False)
        self.metadata = [(k, bytes.fromhex(v) if k.endswith("-bin") else str(v)) for k, v in step.get("metadata", {}).items()]
        self.timeout = step.get("timeout", 10)
        self.cancel = step.get("cancel")
        self.compress = step.get("compress")
        self.streams_in = self.kind in ("client", "bidi")
        self.streams_out = self.kind in ("server", "bidi")
        self.known = known is not None
        self.tls = step.get("tls")

    def shown(self, message: bytes):
        """A response in an observation."""
        return interop.shown(self.method, message) if self.known else shown_message(message)


def grpcio(address, call: Call, channel=None) -> dict:
    """One call over grpcio's C core."""
    own = channel is None
    channel = channel or grpcio_channel(address, call.tls)
    try:
        return grpcio_call(channel, call)
    finally:
        if own:
            channel.close()


def grpcio_channel(address, secure=None):
    """A channel; several calls on it share its connection. `secure` is over TLS, with `ca`, `cert` and `sni` as `harness/tls.py` has them."""
    target = f"unix:{address}" if isinstance(address, str) else f"{address[0]}:{address[1]}"
    if secure is None:
        return grpc.insecure_channel(target, options=CHANNEL)
    pair = [tls.pem(secure["cert"], kind) for kind in ("key", "pem")] if "cert" in secure else [None, None]
    credentials = grpc.ssl_channel_credentials(tls.pem(secure["ca"], "pem"), *pair)
    return grpc.secure_channel(target, credentials, options=[*CHANNEL, ("grpc.ssl_target_name_override", secure["sni"])])


def grpcio_call(channel, call: Call) -> dict:
    """Makes the call; `cancel` is `begin` (right after it was made) or `first` (after the first message)."""
    make = {"unary": channel.unary_unary, "client": channel.stream_unary, "server": channel.unary_stream, "bidi": channel.stream_stream}
    more = threading.Event()

    turn = threading.Semaphore(1)

    def requests():
        for message in call.messages:
            if call.alternate:
                turn.acquire(timeout=10)
            yield message
        if call.cancel:
            more.wait(10)

    argument = requests() if call.streams_in else call.messages[0]
    compression = grpc.Compression.Gzip if call.compress else None
    method = make[call.kind](call.method)
    keep = dict(timeout=call.timeout, metadata=call.metadata, compression=compression)
    running = method(argument, **keep) if call.streams_out else method.future(argument, **keep)
    got = []
    try:
        if call.cancel == "begin":
            running.cancel()
        if call.streams_out:
            for message in running:
                got.append(message)
                turn.release()
                if call.cancel == "first":
                    running.cancel()
        else:
            got.append(running.result())
    except (grpc.RpcError, grpc.FutureCancelledError):
        pass
    finally:
        more.set()
    if call.cancel == "begin":
        return {"status": running.code().name}  # how much came before is a race
    trailing = running.trailing_metadata()
    if call.timeout and "Deadline Exceeded" in (running.details() or ""):
        trailing = ()  # the client's own timer ended the call: whether an answer was there by then is a race
    return {"status": running.code().name, "message": running.details() or "", **seen(call, running.initial_metadata(), got, trailing)}


def seen(call: Call, initial, messages, trailing) -> dict:
    """The rest of an observation; empty parts are left out.

    The proxy knows the service time only when the request ended before the answer began, which is a race in most calls.
    """
    initial, trailing = ([(k, v) for k, v in both or () if k != "x-envoy-upstream-service-time"] for both in (initial, trailing))
    parts = {"initial": shown_metadata(initial), "messages": [call.shown(m) for m in messages], "trailing": shown_metadata(trailing)}
    return {k: v for k, v in parts.items() if v}


class Bytes(CodecBase):
    """grpclib's messages as they are."""

    __content_subtype__ = "proto"

    def encode(self, message, message_type):
        """Bytes to bytes."""
        return message

    def decode(self, data, message_type):
        """Bytes to bytes."""
        return data


def grpclib(address, call: Call, _channel=None) -> dict:
    """One call over grpclib."""
    return asyncio.run(grpclib_call(address, call))


async def grpclib_call(address, call: Call) -> dict:
    """Makes the call."""
    where = {"path": address} if isinstance(address, str) else {"host": address[0], "port": address[1]}
    channel = Channel(**where, codec=Bytes())
    cardinality = CARDINALITIES[call.kind]
    got: list = []
    status, message, stream = "OK", "", None
    try:
        async with channel.request(call.method, cardinality, bytes, bytes, timeout=call.timeout, metadata=call.metadata) as stream:
            await stream.send_request()
            for at, one in enumerate(call.messages):
                await stream.send_message(one, end=at == len(call.messages) - 1 and not call.cancel)
                if call.alternate:
                    got.append(await stream.recv_message())
            if call.cancel == "begin":
                await stream.cancel()
                return {"status": "CANCELLED"}
            elif not call.messages and not call.cancel:
                await stream.end()
            while call.cancel != "begin":
                one = await stream.recv_message()
                if one is None:
                    break
                got.append(one)
                if call.cancel == "first":
                    await stream.cancel()
                    status = "CANCELLED"
                    break
                if not call.streams_out:
                    break
            if not call.cancel:
                await stream.recv_trailing_metadata()
    except exceptions.GRPCError as error:
        status, message = error.status.name, error.message or ""
    except asyncio.TimeoutError:
        status = "DEADLINE_EXCEEDED"
    except (exceptions.StreamTerminatedError, OSError) as error:
        status, message = "TERMINATED", str(error)
    finally:
        channel.close()
    initial = stream.initial_metadata if stream is not None else None
    trailing = stream.trailing_metadata if stream is not None else None
    return {"status": status, "message": message, **seen(call, (initial or {}).items(), got, (trailing or {}).items())}


CARDINALITIES = {"unary": const.Cardinality.UNARY_UNARY, "client": const.Cardinality.STREAM_UNARY,
                 "server": const.Cardinality.UNARY_STREAM, "bidi": const.Cardinality.STREAM_STREAM}
CLIENTS = {"grpcio": grpcio, "grpclib": grpclib}

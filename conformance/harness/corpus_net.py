"""The network for a published config: a namespace for the proxy, and one that has every address in the config."""
import contextlib
import ctypes
import ipaddress
import os
import subprocess
import zlib

from .dns_backend import DnsBackend, question

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
HERE = ("192.0.2.1/24", "2001:db8::1/64")
THERE = ("192.0.2.2/24", "2001:db8::2/64")


def ip(*words: str, keep: tuple = ()) -> None:
    """Runs `ip`, which must succeed."""
    subprocess.run(["ip", *words], check=True, pass_fds=keep)


def enter(namespace: int) -> None:
    """Moves this thread, and its later sockets, into a network namespace."""
    if LIBC.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Network:
    """Two namespaces connected by a veth pair. This thread is in the proxy's."""

    def __init__(self):
        self.here = os.open("/proc/self/ns/net", os.O_RDONLY)
        if LIBC.unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        self.there = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        ip("link", "set", "lo", "up")
        enter(self.here)
        ip("link", "set", "lo", "up")
        ip("link", "add", "near", "type", "veth", "peer", "name", "far")
        ip("link", "set", "far", "netns", f"/proc/self/fd/{self.there}", keep=(self.there,))
        with self.on_the_other():
            self.up("far", THERE)
        self.up("near", HERE)
        ip("route", "add", "default", "dev", "near")
        ip("-6", "route", "add", "default", "dev", "near")

    @staticmethod
    def up(device: str, addresses: tuple) -> None:
        """A device with its addresses."""
        ip("link", "set", device, "up")
        for address in addresses:
            ip("addr", "add", address, "dev", device, *(["nodad"] if ":" in address else []))

    @contextlib.contextmanager
    def on_the_other(self):
        """Runs the block in the other namespace."""
        enter(self.there)
        try:
            yield
        finally:
            enter(self.here)

    def own(self, host: str) -> None:
        """Adds an address to the proxy's namespace so that it can listen on it."""
        add(host, "lo")

    @contextlib.contextmanager
    def where(self, host: str):
        """Runs the block in the namespace from which this address is reached."""
        if ipaddress.ip_address(host).is_loopback:
            yield
        else:
            with self.on_the_other():
                add(host, "far")
                yield


def add(host: str, device: str) -> None:
    """Adds an address to a device, unless it has it already."""
    try:
        one = ipaddress.ip_address(host)
    except ValueError:
        return
    if not one.is_loopback and not one.is_unspecified:
        words = ["ip", "addr", "replace", f"{one}/{one.max_prefixlen}", "dev", device]
        subprocess.run([*words, *(["nodad"] if one.version == 6 else [])], check=False, stderr=subprocess.DEVNULL)


def address_of(host: str) -> str:
    """The address of a name in the test network."""
    if host in ("localhost", "0.0.0.0"):
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        at = zlib.crc32(host.lower().rstrip(".").encode())
        return f"10.{64 + at % 64}.{at // 64 % 256}.{1 + at // 16384 % 254}"


class AnyName(DnsBackend):
    """A name server that gives every name an address, always the same one."""

    def answer(self, query: bytes, transport: str) -> bytes | None:
        name = question(query)[0]
        with self.lock:
            self.records[name] = {"A": [address_of(name)]}
        return super().answer(query, transport)

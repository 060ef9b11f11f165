"""`sockets:`: the options of the proxy's sockets, read through a copy of each descriptor."""
import contextlib
import ctypes
import errno
import os
import socket
import sys

PIDFD_GETFD = 438
LIBC = ctypes.CDLL(None, use_errno=True)
OPTIONS = {
    "SO_KEEPALIVE": (socket.SOL_SOCKET, socket.SO_KEEPALIVE), "SO_REUSEPORT": (socket.SOL_SOCKET, socket.SO_REUSEPORT),
    "SO_PRIORITY": (socket.SOL_SOCKET, 12), "SO_PROTOCOL": (socket.SOL_SOCKET, 38), "SO_ACCEPTCONN": (socket.SOL_SOCKET, socket.SO_ACCEPTCONN),
    "TCP_KEEPIDLE": (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), "TCP_KEEPINTVL": (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    "TCP_KEEPCNT": (socket.IPPROTO_TCP, socket.TCP_KEEPCNT), "TCP_NODELAY": (socket.IPPROTO_TCP, socket.TCP_NODELAY),
    "TCP_FASTOPEN": (socket.IPPROTO_TCP, socket.TCP_FASTOPEN), "TCP_NOTSENT_LOWAT": (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT),
    "TCP_USER_TIMEOUT": (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT), "IP_TTL": (socket.IPPROTO_IP, socket.IP_TTL),
    "IP_FREEBIND": (socket.IPPROTO_IP, 15), "IP_TRANSPARENT": (socket.IPPROTO_IP, 19), "IP_TOS": (socket.IPPROTO_IP, socket.IP_TOS),
    "IPV6_V6ONLY": (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY), "IPV6_TCLASS": (socket.IPPROTO_IPV6, 67),
}


def look(run, step: dict):
    """`sockets: name`, with `options: SO_KEEPALIVE …` (or `backlog`): of a listener its listening sockets, with `accepted: true` the
    connections that it accepted; of a backend the connections to it. Each different answer once, in order. Of a pipe, the mode of its file."""
    if isinstance(run.proxy.listeners.get(step["sockets"]), str):
        return oct(os.stat(run.proxy.listeners[step["sockets"]]).st_mode & 0o777)
    listener = run.proxy.listeners.get(step["sockets"])
    backend = run.backends[step["sockets"]].port if listener is None else None
    found = set()
    try:
        for one in of_process(run.proxy.process.pid):
            with one:
                if (of_listener(one, listener, step.get("accepted", False)) if listener else towards(one, backend)):
                    found.add(tuple(f"{name}: {value(one, name)}" for name in step["options"].split()))
    except PermissionError:
        print("!!! this machine does not let a process look at the sockets of its child: not looked at", file=sys.stderr)
        return run.wanted
    return [list(one) for one in sorted(found)]


def of_process(pid: int):
    """A copy of each TCP socket of a process."""
    handle = os.pidfd_open(pid)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            copy = copied(handle, pid, name)
            if copy is None:
                continue
            if copy.family in (socket.AF_INET, socket.AF_INET6) and copy.type == socket.SOCK_STREAM:
                yield copy
            else:
                copy.close()
    finally:
        os.close(handle)


def copied(handle: int, pid: int, name: str) -> socket.socket | None:
    """A copy of one descriptor if it is a socket, and still there."""
    with contextlib.suppress(FileNotFoundError):
        if os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
            number = LIBC.syscall(PIDFD_GETFD, handle, int(name), 0)
            if number >= 0:
                return socket.socket(fileno=number)
            if ctypes.get_errno() in (errno.EPERM, errno.ENOSYS):
                raise PermissionError
    return None


def of_listener(one: socket.socket, address: tuple[str, int], accepted: bool) -> bool:
    """Whether this socket listens on the address, or with `accepted` was accepted there. The kernel may choose one port for several
    addresses, so the host counts too."""
    listens = bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    host, port = one.getsockname()[:2]
    return port == address[1] and address[0] in (host, "0.0.0.0", "::") and listens != accepted


def towards(one: socket.socket, port: int) -> bool:
    """Whether this socket is connected to the port of a backend."""
    with contextlib.suppress(OSError):
        return one.getpeername()[1] == port
    return False


def value(one: socket.socket, name: str):
    """One option; the length of the accept queue is in the information about a listening socket."""
    if name == "backlog":
        return int.from_bytes(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[28:32], sys.byteorder)
    try:
        return one.getsockopt(*OPTIONS[name])
    except OSError as error:
        return errno.errorcode[error.errno]

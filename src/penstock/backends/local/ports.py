"""The node's two ports, looked at before anything is started on them.

Gateways share their port (SO_REUSEPORT), which the kernel would also let a second node's gateways do: two
platforms would then answer in turn. A plain bind finds any listener that is there already.
"""

from __future__ import annotations

import ipaddress
import socket

from penstock.errors import Conflict, InvalidInput


class PortTaken(Conflict):
    """Another program listens there."""

    reason = "PortTaken"


def split(listen: str) -> tuple[str, int]:
    """HOST and port of `HOST:PORT`; InvalidInput."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise InvalidInput(f"{listen!r} is no HOST:PORT.")
    return host.strip("[]"), int(port)


def is_loopback(listen: str) -> bool:
    """Only this machine can reach it."""
    host, _ = split(listen)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url(listen: str) -> str:
    """An http URL that reaches `listen` from this machine."""
    host, port = split(listen)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - nothing is bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def probe(listen: str, option: str) -> str:
    """`listen` with its port, which port 0 leaves to be chosen; PortTaken, InvalidInput."""
    found, held = reserve(listen, option)
    held.close()
    return found


def reserve(listen: str, option: str) -> tuple[str, socket.socket]:
    """As `probe`, with the socket that keeps the port from others until it is closed.

    It does not listen. This user's gateways may listen there (SO_REUSEPORT); another node's look at the port
    fails, also while no gateway listens.
    """
    host, port = split(listen)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as e:
        raise InvalidInput(f"{host!r} is no address of this machine: {e.strerror}.") from e
    s = socket.socket(family, kind, protocol)
    try:
        # Connections of an earlier node that are still closing are no obstacle.
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(address)
        # From here on it is one to those who share the port, and to nobody else.
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found = s.getsockname()[1]
    except OSError as e:
        s.close()
        raise PortTaken(
            f"{listen} cannot be listened on: {e.strerror}.",
            hint=f"Choose another port with {option}.",
        ) from e
    name = f"[{host}]" if ":" in host else host
    return f"{name}:{found}", s

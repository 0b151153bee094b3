"""Finding out, in one clear line, that an address cannot be listened on."""

from __future__ import annotations

import ipaddress
import socket


class AddressError(OSError):
    """An address cannot be bound; the message is one line that names flag, address and cause."""


def is_loopback(host: str) -> bool:
    """Whether `host` is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_can_bind(flag: str, host: str, port: int) -> None:
    """Raise AddressError if nothing can listen on host:port now. `flag` is what the operator would change.

    gRPC binds with SO_REUSEPORT and its own error texts; asking the kernel first gives one message for all servers.
    """
    if port == 0:
        return
    try:
        candidates = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise AddressError(f"{flag}: cannot resolve address {host!r}: {error.strerror}") from None
    family, kind, protocol, _, address = candidates[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise AddressError(f"{flag}: cannot listen on {host or '*'}:{port}: {error.strerror}") from None

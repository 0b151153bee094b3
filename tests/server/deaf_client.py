"""A gRPC client written by hand that sends one message and then never reads a byte."""

from __future__ import annotations

import socket
import struct

METHOD = b"/dapr.proto.placement.v1.Placement/ReportDaprStatus"
RECEIVE_BUFFER_BYTES = 4096


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A header without indexing and without Huffman coding (RFC 7541, section 6.2.2); lengths below 127."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def connect_and_fall_silent(port: int, message: bytes, method: bytes = METHOD) -> socket.socket:
    """Open a stream, send `message` as its first, and return the socket, which nobody reads."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    connection.connect(("127.0.0.1", port))
    headers = b"".join(
        _literal(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", method),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        )
    )
    connection.sendall(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + _frame(0x4, 0, 0, b"")
        + _frame(0x4, 1, 0, b"")
        + _frame(0x1, 0x4, 1, headers)
        + _frame(0x0, 0, 1, b"\x00" + struct.pack(">I", len(message)) + message)
    )
    return connection

"""Loading PEM files, and reading the SPIFFE id out of a peer's certificate."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path

import grpc

from callboard.core.sidecar_protocol import SpiffeIdentity, parse_spiffe_id
from callboard.server.settings import TlsFiles


class TlsFileError(ValueError):
    """A certificate, key or authority file cannot be used; the message is one line naming it."""


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsFileError(f"cannot read the {what} {path}: {error.strerror}") from None


def grpc_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that require and verify a client certificate. Raises TlsFileError."""
    http_context(files)  # gRPC reports a bad file only at the first handshake; OpenSSL says it now
    key, certificate = _read(files.key, "private key"), _read(files.certificate, "certificate")
    authorities = _read(files.ca, "certificate authority file")
    return grpc.ssl_server_credentials([(key, certificate)], authorities, require_client_auth=True)


def channel_credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    """Credentials with which a replica calls another. Raises TlsFileError."""
    key, certificate = _read(files.key, "private key"), _read(files.certificate, "certificate")
    return grpc.ssl_channel_credentials(_read(files.ca, "certificate authority file"), key, certificate)


def http_context(files: TlsFiles) -> ssl.SSLContext:
    """A server context that verifies a client certificate if one is given; routes decide whether one must be.

    Raises:
        TlsFileError: a file is missing, unreadable, no PEM, or the key does not fit the certificate.
    """
    for path, what in (
        (files.ca, "certificate authority file"),
        (files.certificate, "certificate"),
        (files.key, "private key"),
    ):
        _read(path, what)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    try:
        context.load_cert_chain(files.certificate, files.key)
    except ssl.SSLError as error:
        raise TlsFileError(
            f"certificate {files.certificate} and key {files.key} are no matching PEM pair ({error.reason})"
        ) from None
    try:
        context.load_verify_locations(files.ca)
    except ssl.SSLError as error:
        raise TlsFileError(f"certificate authority file {files.ca} holds no PEM certificate ({error.reason})") from None
    return context


def peer_names(auth_context: Mapping[str, Iterable[bytes]]) -> frozenset[str]:
    """All names in the peer's certificate: DNS names and URIs."""
    names = [*auth_context.get("peer_spiffe_id", ()), *auth_context.get("x509_subject_alternative_name", ())]
    return frozenset(name.decode("utf-8", "replace") for name in names)


def peer_spiffe_id(auth_context: Mapping[str, Iterable[bytes]]) -> SpiffeIdentity | None:
    """The SPIFFE id among the names of the peer's certificate, from gRPC's authentication context."""
    for name in sorted(peer_names(auth_context)):
        identity = parse_spiffe_id(name)
        if identity is not None:
            return identity
    return None

"""What a sidecar's message must look like, whoever sends it: the checks of the Dapr protocol, and our limits.

Texts and codes of `identity_problem` and of the first checks in `message_problem` are Dapr's, since tests and
operators of sidecars look for them. They apply to every message of a stream, so acknowledgements need application id
and namespace too.
"""

from __future__ import annotations

from attrs import frozen

from callboard.core.barrier_records import ACKNOWLEDGED_PHASE, HostOperation, SidecarReport
from callboard.core.membership import (
    ACTOR_TYPES_PER_HOST_MAX,
    HOST_RECORD_BYTES_MAX,
    NAME_LENGTH_MAX,
    host_record_bytes,
)
from callboard.core.records import HostRecord

INTERNAL_PREFIX = "dapr.internal"
PORT_MAX = 65535
KNOWN_OPERATIONS = frozenset(operation.value for operation in HostOperation)


@frozen
class SidecarMessage:
    """A `Host` message as it came from the wire, with the fields that matter."""

    name: str = ""
    app_id: str = ""
    namespace: str = ""
    actor_types: tuple[str, ...] = ()
    port: int = 0
    operation: int = 0
    version: int | None = None


@frozen
class SpiffeIdentity:
    """Who a certificate says that the sidecar is: `spiffe://<trust domain>/ns/<namespace>/<application id>`."""

    trust_domain: str
    namespace: str
    app_id: str


@frozen
class Refusal:
    """Why a stream is ended: the name of a gRPC status, and its text."""

    status: str
    text: str


def parse_spiffe_id(uri: str) -> SpiffeIdentity | None:
    """The identity in a certificate's URI, or None if it is not one of a sidecar."""
    scheme, separator, rest = uri.partition("://")
    parts = rest.split("/")
    if scheme != "spiffe" or not separator or len(parts) != 4 or parts[1] != "ns" or not all(parts):
        return None
    return SpiffeIdentity(parts[0], parts[2], parts[3])


def trust_domain_problem(identity: SpiffeIdentity | None, trust_domain: str | None) -> Refusal | None:
    """Refuse identities of other trust domains, if `trust_domain` names the one to accept. Our own check."""
    if trust_domain is None or identity is None or identity.trust_domain == trust_domain:
        return None
    text = f"SPIFFE ID of trust domain {_shortened(identity.trust_domain)}; only {trust_domain} is accepted"
    return Refusal("PERMISSION_DENIED", text)


def check_message(message: SidecarMessage, *, tls: bool, identity: SpiffeIdentity | None) -> Refusal | None:
    """All checks, in Dapr's order. `identity` is that of the client certificate; without `tls` it is not looked at."""
    if tls and identity is None:
        return Refusal("UNAUTHENTICATED", "failed to get client ID from context")
    return (
        _presence_problem(message)
        or (identity_problem(message, identity) if tls and identity is not None else None)
        or _internal_type_problem(message)
        or _operation_problem(message)
        or _limit_problem(message)
    )


def identity_problem(message: SidecarMessage, identity: SpiffeIdentity) -> Refusal | None:
    """A sidecar may speak for its own application id and namespace only."""
    if message.app_id != identity.app_id:
        return Refusal(
            "PERMISSION_DENIED",
            f"provided app ID {_shortened(message.app_id)} doesn't match the one in the SPIFFE ID ({identity.app_id})",
        )
    if message.namespace != identity.namespace:
        return Refusal(
            "PERMISSION_DENIED",
            f"provided client namespace {_shortened(message.namespace)} doesn't match the one in the SPIFFE ID "
            f"({identity.namespace})",
        )
    return None


def _presence_problem(message: SidecarMessage) -> Refusal | None:
    if message.operation == HostOperation.UNKNOWN and message.version is not None:
        return Refusal("INVALID_ARGUMENT", "both operation and version must be set or both must be unset")
    if not message.app_id or not message.namespace:
        return Refusal("INVALID_ARGUMENT", "host ID and namespace must be provided")
    return None


def _internal_type_problem(message: SidecarMessage) -> Refusal | None:
    """Actor types under dapr.internal belong to one application each: workflows, for example."""
    own = f"{INTERNAL_PREFIX}.{message.namespace}.{message.app_id}"
    for actor_type in message.actor_types:
        internal = actor_type == INTERNAL_PREFIX or actor_type.startswith(INTERNAL_PREFIX + ".")
        if internal and actor_type != own and not actor_type.startswith(own + "."):
            text = (
                f"entity {_shortened(actor_type)} is not allowed for app ID {_shortened(message.app_id)} "
                f"in namespace {_shortened(message.namespace)}"
            )
            return Refusal("PERMISSION_DENIED", text)
    return None


def _operation_problem(message: SidecarMessage) -> Refusal | None:
    if message.operation not in KNOWN_OPERATIONS:
        return Refusal("INVALID_ARGUMENT", f"unknown host operation {message.operation}")
    if message.operation in ACKNOWLEDGED_PHASE and message.version is None:
        name = HostOperation(message.operation).name
        return Refusal("INVALID_ARGUMENT", f"operation {name} acknowledges an order and must have its version")
    return None


def _limit_problem(message: SidecarMessage) -> Refusal | None:
    for what, text in (
        ("host name", message.name),
        ("host ID", message.app_id),
        ("namespace", message.namespace),
    ):
        if len(text) > NAME_LENGTH_MAX:
            return Refusal("INVALID_ARGUMENT", f"{what} has {len(text)} characters; the limit is {NAME_LENGTH_MAX}")
    if not 0 <= message.port <= PORT_MAX:
        return Refusal("INVALID_ARGUMENT", f"port {message.port} is not between 0 and {PORT_MAX}")
    types = len(message.actor_types)
    if types > ACTOR_TYPES_PER_HOST_MAX:
        text = f"host {message.name} has {types} actor types; the limit is {ACTOR_TYPES_PER_HOST_MAX}"
        return Refusal("INVALID_ARGUMENT", text)
    for actor_type in message.actor_types:
        if not 0 < len(actor_type) <= NAME_LENGTH_MAX:
            text = f"an actor type of host {message.name} has {len(actor_type)} characters; it must have 1 to"
            return Refusal("INVALID_ARGUMENT", f"{text} {NAME_LENGTH_MAX}")
    size = host_record_bytes(HostRecord(message.name, message.app_id, message.actor_types))
    if size > HOST_RECORD_BYTES_MAX:
        text = f"host {message.name} and its actor types take {size} bytes; the limit is {HOST_RECORD_BYTES_MAX}"
        return Refusal("INVALID_ARGUMENT", text)
    return None


def _shortened(text: str) -> str:
    """Texts of statuses travel in headers: no more of a hostile name than a log line can take."""
    return text if len(text) <= NAME_LENGTH_MAX else text[:NAME_LENGTH_MAX] + "..."


def first_message_problem(message: SidecarMessage) -> Refusal | None:
    """What only the first message of a stream must satisfy, after `check_message`."""
    if not message.name:
        return Refusal("INVALID_ARGUMENT", "host name must be provided")
    if message.operation in ACKNOWLEDGED_PHASE:
        name = HostOperation(message.operation).name
        return Refusal("INVALID_ARGUMENT", f"the first message must be a report, not the acknowledgement {name}")
    return None


def report_of(message: SidecarMessage) -> SidecarReport:
    """What the barrier machine takes, of a message that `check_message` let pass."""
    return SidecarReport(
        name=message.name,
        app_id=message.app_id,
        actor_types=tuple(sorted(set(message.actor_types))),
        port=message.port,
        operation=HostOperation(message.operation),
        version=message.version,
    )

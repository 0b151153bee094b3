"""`callboard namespace`, `cordon`, `uncordon`, `drain`, `weight`, `remove`, `handoff`: native namespaces and hosts."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import click
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table

from callboard.cli.query import RefusedError, ask, ask_leader, print_reply, query_options
from callboard.cli.types import DurationMs, Label
from callboard.core.slot_records import SLOT_BITS_MAX, SLOT_BITS_MIN, WEIGHT_MAX
from callboard.core.versions import Policy, Version
from callboard.protos.generated import admin_pb2

DRAIN_POLL_S = 0.2

_NAMESPACE = click.option("--namespace", default="default", show_default=True)
_REQUEST_ID = click.option(
    "--request-id", help="Repeat a change whose outcome is unknown under its id. Default: a new one."
)


def _id(given: str | None) -> str:
    return given or uuid.uuid4().hex


def _change(method: str, request: Message, done: str, output: str, options: dict[str, Any]) -> None:
    reply = ask_leader(method, request, admin_pb2.ChangeReply, options)

    def show(console: Console) -> None:
        console.print(reply.text or (done if reply.changed else f"{done} (it was so already)"))

    print_reply(reply, output, show)


@click.group()
def namespace() -> None:
    """Create, list and delete namespaces."""


def _times(function: Callable[..., Any]) -> Callable[..., Any]:
    for name, what in (
        ("max-isolation", "Policy eventual: a host without contact for so long stops serving."),
        ("failure-timeout", "A host not heard of for so long is removed."),
        ("tick", "How often hosts renew."),
        ("margin", "From the cancellation of turns to the shut gate."),
        ("drain", "How long running turns of lost slots may take."),
        ("lease", "How long a host may serve after its last renewal."),
    ):
        function = click.option(f"--{name}", f"{name.replace('-', '_')}_ms", type=DurationMs(), default=0, help=what)(
            function
        )
    return function


@namespace.command("create")
@click.argument("name")
@click.option(
    "--policy", type=click.Choice([policy.value for policy in Policy]), default="exclusive", show_default=True
)
@click.option(
    "--slot-bits", type=click.IntRange(SLOT_BITS_MIN, SLOT_BITS_MAX), help="2^bits slots for each actor type."
)
@click.option(
    "--clock-rate-error-ppm",
    "rate_error_ppm",
    type=click.IntRange(0, 500_000),
    help="Bound of each clock's rate error.",
)
@_times
@_REQUEST_ID
@query_options
def create(name: str, policy: str, slot_bits: int | None, request_id: str | None, output: str, **options: Any) -> None:
    """Create namespace NAME with its policy and times, which stay as they are. What is not given takes the server's
    default."""
    times = {field.name: options.pop(field.name) or 0 for field in admin_pb2.HandoffTimes.DESCRIPTOR.fields}
    request = admin_pb2.CreateNamespaceRequest(
        name=name,
        policy=policy,
        slot_bits=slot_bits or 0,
        times=admin_pb2.HandoffTimes(**times),
        request_id=_id(request_id),
    )
    _change("CreateNamespace", request, f"namespace {name} has policy {policy}", output, options)


@namespace.command("list")
@query_options
def list_namespaces(output: str, **options: Any) -> None:
    """All namespaces, as one replica knows them."""
    reply = ask("Status", admin_pb2.StatusRequest(), admin_pb2.StatusReply, options)

    def show(console: Console) -> None:
        table = Table("namespace", "policy", "version", "members", "types", "slots/type", "waiting", "being buried")
        for item in reply.namespaces:
            native = (str(1 << item.slot_bits), str(item.waiting_slots), str(item.tombstones))
            counts = (str(Version.from_wire(item.version)), str(item.members), str(item.actor_types))
            table.add_row(item.name, item.policy, *counts, *(native if item.slot_bits else ("-", "-", "-")))
        console.print(table)

    print_reply(reply, output, show)


@namespace.command("delete")
@click.argument("name")
@_REQUEST_ID
@query_options
def delete(name: str, request_id: str | None, output: str, **options: Any) -> None:
    """Delete namespace NAME, in which nobody may be any more."""
    request = admin_pb2.DeleteNamespaceRequest(name=name, request_id=_id(request_id))
    _change("DeleteNamespace", request, f"namespace {name} is deleted", output, options)


_HOST = click.argument("host", required=False)
_LABELS = click.option(
    "--label",
    "labels",
    type=Label(),
    multiple=True,
    help="Instead of HOST: all present members with this label (given more than once: with all), in one change.",
)


def _mark_request(host: str | None, labels: Sequence[tuple[str, str]], **fields: Any) -> admin_pb2.MarkHostRequest:
    if bool(host) is bool(labels):
        raise click.UsageError("give either HOST or --label KEY=VALUE")
    return admin_pb2.MarkHostRequest(host=host or "", labels=dict(labels), **fields)


def _whom(host: str | None, labels: Sequence[tuple[str, str]]) -> str:
    return host or "every member with " + ", ".join(f"{key}={value}" for key, value in labels)


def _marking(name: str, help_text: str, done: str, **mark: bool) -> click.Command:
    @click.command(name, help=help_text)
    @_HOST
    @_LABELS
    @_NAMESPACE
    @_REQUEST_ID
    @query_options
    def command(
        host: str | None,
        labels: Sequence[tuple[str, str]],
        *,
        namespace: str,
        request_id: str | None,
        output: str,
        **options: Any,
    ) -> None:
        request = _mark_request(host, labels, namespace=namespace, request_id=_id(request_id), **mark)
        _change("MarkHost", request, done.format(host=_whom(host, labels)), output, options)

    return command


cordon = _marking(
    "cordon",
    "HOST gets no slots that it does not have. A mark belongs to the name and outlives restarts.",
    "{host} is cordoned",
    cordoned=True,
)
uncordon = _marking(
    "uncordon", "Take marks of `cordon` and `drain` off HOST.", "{host} is not cordoned", cordoned=False, draining=False
)


@click.command()
@_HOST
@_LABELS
@_NAMESPACE
@click.option("--wait", "wait", is_flag=True, help="Return when HOST serves nothing any more.")
@click.option("--wait-timeout", "wait_timeout_ms", type=DurationMs(), default="5m", show_default=True)
@_REQUEST_ID
@query_options
def drain(
    host: str | None,
    labels: Sequence[tuple[str, str]],
    *,
    namespace: str,
    wait: bool,
    wait_timeout_ms: int,
    request_id: str | None,
    output: str,
    **options: Any,
) -> None:
    """Move everything off HOST that others can take. It stays a member; `uncordon` lets it serve again."""
    request = _mark_request(host, labels, namespace=namespace, draining=True, request_id=_id(request_id))
    if not wait:
        _change("MarkHost", request, f"{_whom(host, labels)} is draining", output, options)
        return
    ask_leader("MarkHost", request, admin_pb2.ChangeReply, options)
    deadline = time.monotonic() + wait_timeout_ms / 1000
    while True:
        serving = [each for each in _members(namespace, host, labels, options) if each.slots or each.awaited_slots]
        if not serving:
            break
        if time.monotonic() > deadline:
            raise RefusedError(
                "; ".join(
                    f"{each.name} still owns {each.slots} slots and has not let go of {each.awaited_slots} that it lost"
                    for each in serving
                )
            )
        time.sleep(DRAIN_POLL_S)
    text = f"{_whom(host, labels)} serves nothing any more"
    reply = admin_pb2.ChangeReply(changed=True, text=text)
    print_reply(reply, output, lambda console: console.print(reply.text))


def _members(
    namespace: str, host: str | None, labels: Sequence[tuple[str, str]], options: dict[str, Any]
) -> list[admin_pb2.Member]:
    request = admin_pb2.ListMembersRequest(namespace=namespace, linearizable=True)
    reply = ask("ListMembers", request, admin_pb2.ListMembersReply, options)
    wanted = set(labels)
    return [each for each in reply.members if (each.name == host if host else wanted <= set(each.labels.items()))]


@click.command()
@click.argument("host")
@click.argument("weight", type=click.IntRange(0, WEIGHT_MAX))
@_NAMESPACE
@_REQUEST_ID
@query_options
def weight(host: str, weight: int, namespace: str, request_id: str | None, output: str, **options: Any) -> None:
    """Give HOST a share of slots in proportion to WEIGHT; 0 stands for the weight that the host itself says."""
    request = admin_pb2.MarkHostRequest(namespace=namespace, host=host, weight=weight, request_id=_id(request_id))
    _change("MarkHost", request, f"{host} has weight {weight or 'of its own'}", output, options)


@click.command()
@click.argument("host")
@_NAMESPACE
@_REQUEST_ID
@query_options
def remove(host: str, namespace: str, request_id: str | None, output: str, **options: Any) -> None:
    """Remove HOST. If it still runs it is told, drops everything, and comes back as a new host."""
    request = admin_pb2.RemoveHostRequest(namespace=namespace, host=host, request_id=_id(request_id))
    _change("RemoveHost", request, f"{host} is removed", output, options)


@click.command()
@click.option("--namespace", default="", help="Only this namespace.")
@query_options
def handoff(namespace: str, output: str, **options: Any) -> None:
    """Slots that no host may serve yet, for whom they wait, and since when: why is my actor not served?"""
    request = admin_pb2.HandoffRequest(namespace=namespace)
    reply = ask("Handoff", request, admin_pb2.HandoffReply, options)

    def show(console: Console) -> None:
        if not reply.waiting:
            console.print("no slot waits: every slot with an owner is granted to it")
            return
        table = Table("namespace", "type", "slots", "owner", "since", "waited", "for")
        for item in reply.waiting:
            slots = f"{item.first}" if item.count == 1 else f"{item.first}-{item.first + item.count - 1}"
            givers = "\n".join(
                f"{giver.host}/{giver.incarnation}: {giver.why}"
                + (f", at most {giver.remaining_ms} ms more" if giver.HasField("remaining_ms") else "")
                for giver in item.givers
            )
            waited = f"{item.waited_ms} ms" if reply.in_office else "-"
            since = str(Version.from_wire(item.since))
            table.add_row(item.namespace, item.actor_type, slots, item.owner or "nobody", since, waited, givers)
        console.print(table)

    print_reply(reply, output, show)


COMMANDS = (namespace, cordon, uncordon, drain, weight, remove, handoff)

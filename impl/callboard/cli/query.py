"""`callboard status`, `members` and `lookup`: questions to a running cluster, answered as a table or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table

from callboard.cli.types import parse_host_port
from callboard.protos.generated import admin_pb2
from callboard.server.admin_service import SERVICE

DEFAULT_ADDRESS = "127.0.0.1:50005"


class RefusedError(click.ClickException):
    """A replica answered, and said no. Exit code 1."""

    exit_code = 1


class UnreachableError(click.ClickException):
    """No replica answered. Exit code 3 (2 is for wrong usage)."""

    exit_code = 3


def query_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that all questions share."""
    for option in (
        click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True),
        click.option("--timeout", "timeout_s", default=5.0, show_default=True, help="Seconds to wait for an answer."),
        click.option("--tls-ca-file", type=click.Path(path_type=Path), help="Authorities; turns TLS on."),
        click.option("--tls-cert-file", type=click.Path(path_type=Path), help="Client certificate."),
        click.option("--tls-key-file", type=click.Path(path_type=Path), help="Its key."),
        click.option("--tls-server-name", help="Name to expect in the server's certificate instead of the address."),
        click.option(
            "--address",
            "addresses",
            default=DEFAULT_ADDRESS,
            show_default=True,
            envvar="CALLBOARD_ADDRESS",
            help="host:port of a replica, or several with commas: the first that answers is taken.",
        ),
    ):
        function = option(function)
    return function


def open_channel(address: str, options: dict[str, Any]) -> grpc.Channel:
    """A channel to a replica, with TLS if the options name files. Raises click.UsageError."""
    if options["tls_ca_file"] is None:
        return grpc.insecure_channel(address)
    files = [options[name] for name in ("tls_ca_file", "tls_key_file", "tls_cert_file")]
    try:
        ca, key, certificate = (path.read_bytes() if path else None for path in files)
    except OSError as error:
        raise click.UsageError(f"cannot read {error.filename}: {error.strerror}") from None
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    name = options["tls_server_name"]
    return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", name)] if name else None)


def ask(method: str, request: Message, reply_class: type[Message], options: dict[str, Any]) -> Any:
    """Send `request` to the first replica that answers. Raises RefusedError, UnreachableError or click.UsageError."""
    problems: list[str] = []
    for address in options["addresses"].split(","):
        try:
            parse_host_port(address)
        except ValueError as error:
            raise click.UsageError(f"--address: {error}") from None
        with open_channel(address, options) as channel:
            call: grpc.UnaryUnaryMultiCallable[Message, Message] = channel.unary_unary(
                f"/{SERVICE}/{method}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=reply_class.FromString,
            )
            try:
                return call(request, timeout=options["timeout_s"])
            except grpc.RpcError as error:
                if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                    raise RefusedError(f"{address}: {error.code().name}: {error.details()}") from None
                problems.append(f"{address}: {error.details()}")
    raise UnreachableError("no replica answered: " + "; ".join(problems))


def ask_leader(method: str, request: Message, reply_class: type[Message], options: dict[str, Any]) -> Any:
    """As `ask`, going on to the next address when a replica says that only the leader can do it."""
    refusal: RefusedError | None = None
    problems: list[str] = []
    for address in options["addresses"].split(","):
        try:
            return ask(method, request, reply_class, {**options, "addresses": address})
        except RefusedError as error:
            if "only the leader" not in error.message:
                raise
            refusal = error
        except UnreachableError as error:
            problems.append(error.message)
    if refusal is not None and not problems:
        raise refusal
    raise UnreachableError("the leader did not answer: " + "; ".join(problems))


def print_reply(reply: Message, output: str, show: Callable[[Console], None]) -> None:
    """As JSON for machines, or by `show` for people."""
    if output == "json":
        fields = MessageToDict(reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        json.dump(fields, sys.stdout, indent=2)
        print()
    else:
        show(Console(soft_wrap=not sys.stdout.isatty()))


@click.command()
@click.option("--linearizable", is_flag=True, help="Confirm with a quorum first.")
@query_options
def status(output: str, linearizable: bool, **options: Any) -> None:
    """What a replica knows of itself, its group and its namespaces."""
    reply = ask("Status", admin_pb2.StatusRequest(linearizable=linearizable), admin_pb2.StatusReply, options)

    def show(console: Console) -> None:
        role = "leader" if reply.in_office else "elected, not in office yet" if reply.is_leader else "follower"
        facts = Table("replica", reply.replica_id, box=None)
        for name, value in (
            ("role", role),
            ("leader", reply.leader or "none known"),
            ("engine", f"{reply.engine} ({'durable' if reply.durable else 'NOT durable'})"),
            ("term, epoch, generation", f"{reply.term}, {reply.epoch}, {reply.generation}"),
            ("applied, committed", f"{reply.applied_index}, {reply.commit_index}"),
            ("peers connected", ", ".join(reply.peers_connected) or "none"),
            ("state digest", reply.state_digest),
            ("version", f"callboard {reply.callboard_version}, feature level {reply.feature_level}"),
        ):
            facts.add_row(name, value)
        console.print(facts)
        if reply.namespaces:
            table = Table("namespace", "policy", "version", "members", "types", "streams", "round", "waiting for")
            for item in reply.namespaces:
                numbers = (item.version, item.members, item.actor_types, item.streams)
                waiting = ", ".join(item.waiting_for)
                table.add_row(item.name, item.policy, *map(str, numbers), item.round or "-", waiting)
            console.print(table)

    print_reply(reply, output, show)


@click.command()
@click.option("--namespace", default="", help="Only this namespace.")
@click.option("--linearizable", is_flag=True, help="Confirm with a quorum first.")
@query_options
def members(output: str, namespace: str, linearizable: bool, **options: Any) -> None:
    """Members: the hosts that the tables name."""
    request = admin_pb2.ListMembersRequest(namespace=namespace, linearizable=linearizable)
    reply = ask("ListMembers", request, admin_pb2.ListMembersReply, options)

    def show(console: Console) -> None:
        table = Table("namespace", "host", "incarnation", "app id", "actor types", "stream")
        for member in reply.members:
            kinds = ", ".join(member.actor_types)
            row = (member.namespace, member.name, str(member.incarnation), member.app_id, kinds, member.state or "-")
            table.add_row(*row)
        console.print(table)

    print_reply(reply, output, show)


@click.command()
@click.argument("actor_type", metavar="TYPE")
@click.argument("actor_id", metavar="ID")
@click.option("--namespace", default="default", show_default=True)
@click.option("--linearizable", is_flag=True, help="Confirm with a quorum first.")
@query_options
def lookup(output: str, actor_type: str, actor_id: str, namespace: str, linearizable: bool, **options: Any) -> None:
    """Which host owns actor ID of type TYPE."""
    request = admin_pb2.LookupRequest(
        namespace=namespace, actor_type=actor_type, actor_id=actor_id, linearizable=linearizable
    )
    reply = ask("Lookup", request, admin_pb2.LookupReply, options)

    def show(console: Console) -> None:
        table = Table("actor", "host", "app id", "table version")
        table.add_row(f"{actor_type}/{actor_id}", reply.host, reply.app_id, str(reply.version))
        console.print(table)

    print_reply(reply, output, show)

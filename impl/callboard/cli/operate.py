"""`callboard backup`, `restore`, `engine status` and `replica`: what operators do to a cluster."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import grpc
from google.protobuf.json_format import MessageToJson
from rich.console import Console
from rich.table import Table

from callboard.cli.query import RefusedError, UnreachableError, ask, open_channel, query_options
from callboard.consensus.interface import EngineError
from callboard.consensus.pysyncobj_engine import replace
from callboard.core.snapshot import decode_state
from callboard.protos.generated import admin_pb2
from callboard.server.admin_service import CHUNK_BYTES, SERVICE

_DATA_DIR = click.option(
    "--data-dir", required=True, type=click.Path(path_type=Path), help="Data directory of a stopped replica."
)


@contextlib.contextmanager
def _refusals(address: str) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            raise UnreachableError(f"{address}: {error.details()}") from None
        raise RefusedError(f"{address}: {error.code().name}: {error.details()}") from None


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@query_options
def backup(file: Path, output: str, **options: Any) -> None:
    """Write the replicated state to FILE. Works with every engine; `callboard restore` reads it into any other."""
    address = options["addresses"].split(",")[0]
    with open_channel(address, options) as channel, _refusals(address):
        call: grpc.UnaryStreamMultiCallable[admin_pb2.BackupRequest, admin_pb2.BackupChunk] = channel.unary_stream(
            f"/{SERVICE}/Backup",
            request_serializer=admin_pb2.BackupRequest.SerializeToString,
            response_deserializer=admin_pb2.BackupChunk.FromString,
        )
        content = b"".join(chunk.content for chunk in call(admin_pb2.BackupRequest(), timeout=options["timeout_s"]))
    state = decode_state(content)
    try:
        _write_durably(file, content)
    except OSError as error:
        raise click.UsageError(f"cannot write {file}: {error.strerror}") from None
    members = sum(len(namespace.members) for namespace in state.namespaces.values())
    facts = {"bytes": len(content), "namespaces": len(state.namespaces), "members": members}
    _print_facts(f"backup in {file}", {**facts, "generation": state.generation}, output)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--at-least-generation",
    type=click.IntRange(0),
    default=0,
    help="One more than the highest generation that any host or store is known to have seen.",
)
@query_options
def restore(file: Path, at_least_generation: int, output: str, **options: Any) -> None:
    """Fill an empty cluster from FILE, in a new generation. Talks to the leader; may be repeated if interrupted."""
    try:
        content = file.read_bytes()
        decode_state(content)
    except OSError as error:
        raise click.UsageError(f"cannot read {file}: {error.strerror}") from None
    except ValueError as error:
        raise click.UsageError(f"{file}: {error}") from None
    chunks = [
        admin_pb2.RestoreChunk(content=content[start : start + CHUNK_BYTES], at_least_generation=at_least_generation)
        for start in range(0, len(content), CHUNK_BYTES)
    ]
    status = ask("Status", admin_pb2.StatusRequest(), admin_pb2.StatusReply, options)
    for address in options["addresses"].split(","):
        with open_channel(address, options) as channel, _refusals(address):
            call: grpc.StreamUnaryMultiCallable[admin_pb2.RestoreChunk, admin_pb2.RestoreReply] = channel.stream_unary(
                f"/{SERVICE}/Restore",
                request_serializer=admin_pb2.RestoreChunk.SerializeToString,
                response_deserializer=admin_pb2.RestoreReply.FromString,
            )
            try:
                reply = call(iter(chunks), timeout=max(options["timeout_s"], 60.0))
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.FAILED_PRECONDITION and "only the leader" in (error.details() or ""):
                    continue
                raise
        facts = {"namespaces": reply.namespaces, "members": reply.members, "generation": reply.generation}
        _print_facts(f"restored {file}", facts, output)
        return
    raise RefusedError(f"none of the addresses is the leader's (the leader is {status.leader or 'not known'})")


def _write_durably(file: Path, content: bytes) -> None:
    """The whole file or none: a temporary name first, synced, then renamed."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=file.name)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _print_facts(title: str, facts: Mapping[str, int | str], output: str) -> None:
    if output == "json":
        click.echo(json.dumps(facts))
        return
    table = Table(title, "", box=None)
    for name, value in facts.items():
        table.add_row(name, str(value))
    Console(soft_wrap=not sys.stdout.isatty()).print(table)


@click.group()
def engine() -> None:
    """The consensus engine below a replica."""


@engine.command("status")
@query_options
def engine_status(output: str, **options: Any) -> None:
    """Log, leadership and links of a replica's engine."""
    reply = ask("Status", admin_pb2.StatusRequest(), admin_pb2.StatusReply, options)
    if output == "json":
        click.echo(MessageToJson(reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))
        return
    facts: dict[str, int | str] = {
        "engine": f"{reply.engine} ({'durable' if reply.durable else 'NOT durable'})",
        "leader": reply.leader or "none known",
        "term": reply.term,
        "applied": reply.applied_index,
        "committed": reply.commit_index,
        "peers connected": ", ".join(sorted(reply.peers_connected)) or "none",
        **dict(sorted(reply.engine_details.items())),
    }
    _print_facts(f"replica {reply.replica_id}", facts, output)


@click.group("replica")
def replica_group() -> None:
    """Replace a replica of the embedded engine whose disk was lost. All replicas are stopped meanwhile.

    \b
    1. callboard replica ticket --data-dir SURVIVOR --id LOST > ticket    on one survivor
    2. callboard replica accept --data-dir SURVIVOR ticket                on every survivor
    3. callboard replica create --data-dir NEW ticket                     where the lost one will run
    4. Start all replicas. The new one joins without a vote until it has caught up.
    """


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except EngineError as error:
        raise RefusedError(str(error)) from None


def _read_ticket(file: Path) -> replace.Ticket:
    try:
        return replace.decode_ticket(file.read_text())
    except OSError as error:
        raise click.UsageError(f"cannot read the ticket {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"{file} is no ticket") from None


@replica_group.command("show")
@_DATA_DIR
def replica_show(data_dir: Path) -> None:
    """What a stopped replica's directory holds."""
    with _one_line():
        report = replace.report(data_dir)
    own = report.identity
    facts: dict[str, int | str] = {
        "cluster id": own.cluster_id or "not formed yet",
        "peer set": own.peer_set,
        "replicas": ", ".join(own.replicas),
        "directory id": own.directory_id,
        "role": "joining without a vote" if own.joining else "full member",
        "term": report.term,
        "last index": report.last_index,
        "commit index": report.commit_index,
        "snapshot index": report.snapshot_index,
    }
    _print_facts(f"replica {own.replica_id}", facts, "table")


@replica_group.command("ticket")
@_DATA_DIR
@click.option("--id", "replica_id", required=True, help="The replica whose directory was lost.")
def replica_ticket(data_dir: Path, replica_id: str) -> None:
    """Print the ticket that all replicas have to agree on. Changes nothing."""
    with _one_line():
        click.echo(replace.encode_ticket(replace.make_ticket(data_dir, replica_id)))


@replica_group.command("accept")
@_DATA_DIR
@click.argument("ticket", type=click.Path(path_type=Path))
def replica_accept(data_dir: Path, ticket: Path) -> None:
    """On a stopped survivor: speak only to the new directory from now on."""
    with _one_line():
        decided = _read_ticket(ticket)
        changed = replace.accept(data_dir, decided)
    click.echo(f"{data_dir}: {'accepted' if changed else 'had accepted before'} peer set {decided.peer_set}")


@replica_group.command("create")
@_DATA_DIR
@click.argument("ticket", type=click.Path(path_type=Path))
def replica_create(data_dir: Path, ticket: Path) -> None:
    """Create the new directory of the replica that the ticket names."""
    with _one_line():
        decided = _read_ticket(ticket)
        replace.create_directory(data_dir, decided)
    click.echo(f"{data_dir}: ready for replica {decided.replica_id} in peer set {decided.peer_set}")

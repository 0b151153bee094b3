"""Replacing the directory of one replica whose disk was lost: offline, on every replica of the group.

    ticket = make_ticket(survivor, "r2")     # on one stopped survivor; changes nothing
    accept(survivor, ticket)                 # on every survivor, each stopped meanwhile
    create_directory(new_path, ticket)       # where r2 will run from now on

Why this is safe. Let R be the lost directory, with which up to a minority of the group was lost, and R' its successor.

1. *Nothing counts twice.* Links exist only between replicas with the same peer-set number and the same list of
   directories. A survivor that accepted the ticket speaks only to survivors that did, and to R'; one that did not
   speaks to none of them. So R and R' never take part in the same group, even if R was not lost after all, and a
   majority with the ticket excludes a majority without it. A leader must be stopped to accept, so what it had counted
   for R is forgotten with its leadership.
2. *No acknowledged entry is lost.* Whatever was committed before is held by a majority of the old directories. R'
   does not vote, and does not stand, until it is a full member; so every leader until then is elected by a majority
   of the group that consists of survivors alone, which meets the former majority in a survivor: the leader holds all
   of it. Acknowledgements of R' for new entries do count, for it holds what it acknowledges.
3. *When R' may vote.* It becomes a full member when it knows an entry of the *current* leader's term to be committed
   (and at least everything that the survivor who made the ticket knew to be committed). Up to that entry its log is
   then the leader's, which by 2 has everything that was committed before: R' is no worse than R was.
4. *No second vote in a term.* R may have voted in terms that R' does not know. Every leader that R helped to elect is
   known to a majority of survivors, so its term is not above the term T in which R' becomes a full member. R' records
   a vote for itself in T and votes only in later terms.

More than a minority of lost directories cannot be repaired this way: no leader can be elected without the votes of
the successors. Restore a backup into a new group then.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from callboard.consensus.interface import EngineStartError
from callboard.consensus.pysyncobj_engine import identity as identities
from callboard.consensus.pysyncobj_engine.codec import DECODE_ERRORS
from callboard.consensus.pysyncobj_engine.disk import Disk, RealDisk, write_atomically
from callboard.consensus.pysyncobj_engine.identity import (
    IDENTITY_FILE,
    DirectoryLock,
    Identity,
    new_directory_id,
    prepare_directory,
)
from callboard.consensus.pysyncobj_engine.journal import Journal

TICKET_VERSION = 1


class ReplaceError(EngineStartError):
    """The step was refused; nothing was changed. The message is one line."""


class Ticket(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all replicas of the group have to agree on."""

    version: int
    cluster_id: str
    peer_set: int
    """The new peer-set number."""
    replica_id: str
    """Whose directory is replaced."""
    directories: dict[str, str]
    """Replica id -> directory id of the whole group, from now on."""
    floor_index: int
    """What the survivor that made the ticket knew to be committed."""


class DirectoryReport(msgspec.Struct, frozen=True):
    """What a stopped replica's directory holds, for people."""

    identity: Identity
    term: int
    last_index: int
    commit_index: int
    snapshot_index: int


def encode_ticket(ticket: Ticket) -> str:
    """One line to carry from machine to machine."""
    text = msgspec.json.encode(ticket)
    return f"{text.decode()} {zlib.crc32(text):08x}"


def decode_ticket(line: str) -> Ticket:
    """Read a line of `encode_ticket`.

    Raises:
        ReplaceError: it was cut or changed.
    """
    text, _, checksum = line.strip().rpartition(" ")
    if checksum != f"{zlib.crc32(text.encode()):08x}":
        raise ReplaceError("the ticket is damaged: copy the whole line")
    try:
        ticket = msgspec.json.decode(text, type=Ticket)
    except DECODE_ERRORS as error:
        raise ReplaceError(f"the ticket cannot be read: {error}") from error
    if ticket.version != TICKET_VERSION:
        raise ReplaceError(f"the ticket has version {ticket.version}; this version of callboard reads {TICKET_VERSION}")
    return ticket


def report(directory: Path) -> DirectoryReport:
    """Describe the directory of a stopped replica.

    Raises:
        ReplaceError: it is in use, or not a whole directory of a replica.
    """
    with _opened(directory) as (disk, own):
        journal = _open_journal(disk, own)
        return DirectoryReport(
            own, journal.getCurrentTerm(), journal.last_index, journal.getRaftCommitIndex(), journal.base.index
        )


def make_ticket(survivor: Path, replica_id: str) -> Ticket:
    """On a stopped survivor: decide on a new directory id for `replica_id`. Changes nothing.

    Raises:
        ReplaceError: it cannot be replaced from here.
    """
    with _opened(survivor) as (disk, own):
        if replica_id == own.replica_id:
            raise ReplaceError(f"{survivor} is the directory of {replica_id} itself: use one of another replica")
        if replica_id not in own.replicas:
            raise ReplaceError(f"{replica_id} is not one of {', '.join(own.replicas)}")
        if not own.formed:
            raise ReplaceError(f"the group of {own.replica_id} never met: empty its directories and start again")
        if own.joining:
            raise ReplaceError(f"{own.replica_id} is a replacement without a vote itself: use another survivor")
        journal = _open_journal(disk, own)
        return Ticket(
            version=TICKET_VERSION,
            cluster_id=own.cluster_id,
            peer_set=own.peer_set + 1,
            replica_id=replica_id,
            directories={**own.directories, replica_id: new_directory_id()},
            floor_index=journal.getRaftCommitIndex(),
        )


def accept(survivor: Path, ticket: Ticket) -> bool:
    """On a stopped survivor: speak only to the new directory from now on. False if that was so already.

    Raises:
        ReplaceError: the ticket does not fit this directory.
    """
    with _opened(survivor) as (disk, own):
        if own.replica_id == ticket.replica_id:
            raise ReplaceError(f"{survivor} belongs to {own.replica_id}, which the ticket replaces: move it away")
        if own.cluster_id != ticket.cluster_id:
            raise ReplaceError(f"the ticket is for cluster {ticket.cluster_id}, not {own.cluster_id or 'a new one'}")
        if (own.peer_set, own.directories) == (ticket.peer_set, ticket.directories):
            return False
        if own.peer_set + 1 != ticket.peer_set:
            raise ReplaceError(f"the ticket leads to peer set {ticket.peer_set}, and this directory has {own.peer_set}")
        others = {replica: known for replica, known in own.directories.items() if replica != ticket.replica_id}
        if {**others, ticket.replica_id: ticket.directories.get(ticket.replica_id)} != ticket.directories:
            raise ReplaceError("the ticket names other directories than this replica has met")
        _open_journal(disk, own)
        changed = msgspec.structs.replace(own, peer_set=ticket.peer_set, directories=ticket.directories)
        write_atomically(disk, IDENTITY_FILE, identities.encode(changed))
        return True


def create_directory(path: Path, ticket: Ticket) -> None:
    """Create the new directory of the replaced replica, which joins without a vote.

    Raises:
        ReplaceError: there is something already.
    """
    try:
        prepare_directory(path)
    except EngineStartError as error:
        raise ReplaceError(str(error)) from error
    lock = DirectoryLock(path)
    disk = RealDisk(path)
    try:
        lock.acquire()
        present = sorted(set(disk.names()) - {identities.LOCK_FILE, "lost+found"})
        if present:
            raise ReplaceError(f"{path} is not empty: it holds {', '.join(present[:3])}")
        directory_id = ticket.directories[ticket.replica_id]
        Journal.create(disk, directory_id).close()
        created = Identity(
            version=identities.FORMAT_VERSION,
            replica_id=ticket.replica_id,
            directory_id=directory_id,
            replicas=sorted(ticket.directories),
            peer_set=ticket.peer_set,
            cluster_id=ticket.cluster_id,
            directories=ticket.directories,
            joining=True,
            floor_index=ticket.floor_index,
        )
        write_atomically(disk, IDENTITY_FILE, identities.encode(created))
    except OSError as error:
        raise ReplaceError(f"{path} cannot be written: {error}") from error
    finally:
        lock.release()


@contextmanager
def _opened(directory: Path) -> Iterator[tuple[Disk, Identity]]:
    if not (directory / IDENTITY_FILE).is_file():
        raise ReplaceError(f"{directory} is not the data directory of a replica: it has no file {IDENTITY_FILE}")
    lock = DirectoryLock(directory)
    disk = RealDisk(directory)
    try:
        lock.acquire()
        yield disk, identities.decode(disk.read(IDENTITY_FILE))
    except ReplaceError:
        raise
    except EngineStartError as error:
        raise ReplaceError(f"{error} [{directory}]") from error
    except OSError as error:
        raise ReplaceError(f"{directory} cannot be used: {error}") from error
    finally:
        lock.release()


def _open_journal(disk: Disk, own: Identity) -> Journal:
    journal = Journal.open(disk, own.directory_id)
    journal.close()
    return journal

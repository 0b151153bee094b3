"""What a leader makes of the hello of a native host: whose word it is, what is wrong with it, and what is said last."""

from __future__ import annotations

from attrs import evolve

from callboard.core.handoff_messages import NO_INCARNATION, Gone, Hello
from callboard.core.slot_membership import native_host_problem, store_problem
from callboard.core.slot_records import NativeHostRecord, NativeMember, NativeNamespace


def is_of(hello: Hello, member: NativeMember) -> bool:
    """Whether this is the member's own word: it names its incarnation, or its process before it knew that."""
    if hello.incarnation != NO_INCARNATION:
        return hello.incarnation == member.incarnation
    return hello.host.process == member.host.process


def hello_problem(hello: Hello, earlier: Hello | None, namespace_name: str) -> str | None:
    """One line on a hello that is wrong whoever leads, or None. `earlier`: what its stream said before; a stream is of
    one host."""
    if hello.namespace != namespace_name:
        return f"host {hello.host.name} is of namespace {hello.namespace}, not {namespace_name}"
    if earlier is not None and hello.host.name != earlier.host.name:
        return f"host name changed from {earlier.host.name} to {hello.host.name} on one stream"
    return native_host_problem(hello.host)


def admission_problem(hello: Hello, namespace_name: str, namespace: NativeNamespace) -> str | None:
    """One line on why the host can be no member of the namespace as it is now, or None."""
    if hello.policy is not namespace.policy:
        ours = f"namespace {namespace_name} has policy {namespace.policy}"
        return f"host {hello.host.name} speaks policy {hello.policy}, but {ours}"
    return store_problem(namespace.policy, namespace.members, hello.host)


def only_adds_store(known: NativeHostRecord, said: NativeHostRecord) -> bool:
    """Whether `said` is what a member said of itself, with a store id that was not in the state before its feature
    level: that stays true, whoever repeats it."""
    return not known.store_id and evolve(known, store_id=said.store_id) == said


def last_word(hello: Hello, incarnation: int, namespace: NativeNamespace) -> Gone:
    """What a host hears that is no member any more. `incarnation`: NO_INCARNATION if it never knew that it was one."""
    name = hello.host.name
    member, tombstone = namespace.members.get(name), namespace.tombstones.get(incarnation)
    replaced = member is not None and member.host.process != hello.host.process
    why = f": {tombstone.reason}" if tombstone is not None and tombstone.reason else ""
    who = f"process {hello.host.process}" if incarnation == NO_INCARNATION else f"incarnation {incarnation}"
    return Gone(incarnation, f"{who} of {name} was removed{why}", replaced)

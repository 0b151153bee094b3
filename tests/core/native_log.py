"""A log of one native namespace without a leader: batches as they are encoded, and what apply makes of them."""

from __future__ import annotations

from callboard.core.commands import (
    CommitNativeBatch,
    CreateNativeNamespace,
    RaiseFeatureLevel,
    Removal,
    Request,
    TakeOffice,
    decode_request,
    encode_request,
)
from callboard.core.membership import apply
from callboard.core.records import AnswerCode, ReplicatedState
from callboard.core.slot_records import NativeHostRecord, NativeNamespace
from callboard.core.versions import Policy


class Log:
    """A state at some feature level with one native namespace, led in epoch 1."""

    def __init__(self, level: int, policy: Policy = Policy.EXCLUSIVE) -> None:
        self.state = ReplicatedState()
        for command in (TakeOffice("r", "0"), RaiseFeatureLevel(1, level), CreateNativeNamespace("shop", policy, 4)):
            self.state, _ = apply(self.state, self.state.applied_index + 1, Request(command))

    @property
    def namespace(self) -> NativeNamespace:
        return self.state.native["shop"]

    def batch(self, *upserts: NativeHostRecord, removed: str = "") -> tuple[AnswerCode, str]:
        members = self.namespace.members
        removals = (Removal(removed, members[removed].incarnation),) if removed else ()
        entry = encode_request(Request(CommitNativeBatch(1, "shop", upserts, removals)))
        self.state, answer = apply(self.state, self.state.applied_index + 1, decode_request(entry))
        return answer.code, answer.detail

    def stores(self) -> dict[str, str]:
        return {name: member.host.store_id for name, member in self.namespace.members.items()}

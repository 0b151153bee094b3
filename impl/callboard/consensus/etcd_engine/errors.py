"""What can go wrong in talking to etcd, sorted by what it means for the caller."""

from __future__ import annotations


class EtcdError(Exception):
    """Base of the client's errors.

    `may_have_run`: some attempt of the call may have taken effect in etcd, or may still do so.
    """

    def __init__(self, message: str, *, may_have_run: bool = False) -> None:
        super().__init__(message)
        self.may_have_run = may_have_run


class EtcdUnreachable(EtcdError):
    """No endpoint gave an answer in time."""


class EtcdRefused(EtcdError):
    """etcd answered that it does not do this (permission, password, size, space, unknown lease)."""


class HistoryCompacted(EtcdError):
    """The wanted revision is forgotten; read the present keys instead."""


class WrongEtcd(EtcdError):
    """An endpoint belongs to another etcd cluster than the others, or its store is older than what we saw."""

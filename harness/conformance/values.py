"""TLA+ values as plain Python values: sets, tuples, and records that can stand in sets."""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from typing import Any

from harness.modelcheck.values import Collection, Mapping, Sequence, Value, Word, parse_value

State = MappingType[str, Any]
"""The variables of one state of a specification."""


class Record(dict[Any, Any]):
    """A record or function that compares by content and can be an element of a set. It must not be changed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


def plain(value: Value) -> Any:
    """The Python value: tuples for sequences, and for functions over 1..n, which TLC prints like them."""
    match value:
        case Word(name):
            return {"TRUE": True, "FALSE": False}.get(name, name)
        case Sequence(items):
            return tuple(plain(item) for item in items)
        case Collection(items):
            return frozenset(plain(item) for item in items)
        case Mapping(pairs):
            return Record((_key(key), plain(item)) for key, item in pairs)
        case _:
            return value


def _key(key: Value) -> Any:
    return key.name if isinstance(key, Word) else key


def parse_plain(text: str) -> Any:
    """Read a value as TLC prints it.

    Raises:
        ValueError: it is none.
    """
    return plain(parse_value(text))

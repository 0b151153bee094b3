"""Reading TLA+ values as TLC prints them, and finding what differs between two of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import attrs

_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|<<|>>|\|->|:>|@@|\.\.|-?\d+|\w+|[\[\]{}(),])')


@attrs.frozen
class Word:
    """A model value, TRUE or FALSE."""

    name: str


@attrs.frozen
class Sequence:
    """A tuple or sequence."""

    items: tuple[Value, ...]


@attrs.frozen
class Collection:
    """A set."""

    items: tuple[Value, ...]


@attrs.frozen
class Mapping:
    """A record or a function, as pairs in printed order."""

    pairs: tuple[tuple[Value, Value], ...]

    def get(self, *names: str) -> Value | None:
        """The value under the first of these field names that is there."""
        for name in names:
            for key, value in self.pairs:
                if key == name:
                    return value
        return None


Value = int | str | Word | Sequence | Collection | Mapping


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.findall(text)
        self._next = 0

    def peek(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self._next += 1
        return token

    def expect(self, token: str) -> None:
        got = self.take()
        if got != token:
            raise ValueError(f"expected {token!r}, got {got!r}")

    def value(self) -> Value:
        head = self.take()
        match head:
            case "<<":
                return Sequence(tuple(self._items(">>")))
            case "{":
                return Collection(tuple(self._items("}")))
            case "[":
                return self._record()
            case "(":
                return self._function()
        if head.startswith('"'):
            return head[1:-1]
        if re.fullmatch(r"-?\d+", head):
            return self._number(int(head))
        if re.fullmatch(r"\w+", head):
            return Word(head)
        raise ValueError(f"no value starts with {head!r}")

    def _number(self, number: int) -> Value:
        """A number, or the interval that TLC prints for some sets of numbers."""
        if self.peek() != "..":
            return number
        self.take()
        return Collection(tuple(range(number, int(self.take()) + 1)))

    def _items(self, closing: str) -> Iterator[Value]:
        while self.peek() != closing:
            yield self.value()
            if self.peek() == ",":
                self.take()
        self.take()

    def _record(self) -> Mapping:
        pairs: list[tuple[Value, Value]] = []
        while self.peek() != "]":
            key = self.take()
            self.expect("|->")
            pairs.append((key, self.value()))
            if self.peek() == ",":
                self.take()
        self.take()
        return Mapping(tuple(pairs))

    def _function(self) -> Mapping:
        pairs: list[tuple[Value, Value]] = []
        while True:
            key = self.value()
            self.expect(":>")
            pairs.append((key, self.value()))
            if self.take() == ")":
                return Mapping(tuple(pairs))


def parse_value(text: str) -> Value:
    """Read one value.

    Raises:
        ValueError: when the text is not a value as TLC prints it.
    """
    reader = _Reader(text)
    value = reader.value()
    if reader.peek():
        raise ValueError(f"unexpected {reader.peek()!r} after a value")
    return value


def show(value: Value) -> str:
    """A value in short TLA+ notation."""
    if isinstance(value, Word):
        return value.name
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, Sequence):
        return "<<" + ", ".join(map(show, value.items)) + ">>"
    if isinstance(value, Collection):
        return "{" + ", ".join(map(show, value.items)) + "}"
    if isinstance(value, Mapping):
        return "[" + ", ".join(f"{show_key(k)}: {show(v)}" for k, v in value.pairs) + "]"
    return str(value)


def show_key(key: Value) -> str:
    """A record's field or a function's argument, without quotes."""
    return key if isinstance(key, str) else show(key)


@attrs.frozen
class Change:
    """One difference: where, and the value before and after (None: was or is not there)."""

    path: str
    before: Value | None
    after: Value | None

    def __str__(self) -> str:
        if self.before is None and self.after is not None:
            return f"{self.path} + {show(self.after)}"
        if self.after is None and self.before is not None:
            return f"{self.path} - {show(self.before)}"
        assert self.before is not None
        assert self.after is not None
        return f"{self.path}: {show(self.before)} -> {show(self.after)}"


def differences(path: str, before: Value, after: Value) -> Iterator[Change]:
    """The smallest differences: elements of sets, fields of records, arguments of functions, ends of sequences."""
    if before == after:
        return
    if isinstance(before, Collection) and isinstance(after, Collection):
        yield from (Change(path, item, None) for item in before.items if item not in after.items)
        yield from (Change(path, None, item) for item in after.items if item not in before.items)
    elif isinstance(before, Mapping) and isinstance(after, Mapping):
        yield from _mapping_differences(path, before, after)
    elif isinstance(before, Sequence) and isinstance(after, Sequence):
        yield from _sequence_differences(path, before, after)
    else:
        yield Change(path, before, after)


def _mapping_differences(path: str, before: Mapping, after: Mapping) -> Iterator[Change]:
    new = dict(after.pairs)
    if [k for k, _ in before.pairs] != [k for k, _ in after.pairs] and set(dict(before.pairs)) != set(new):
        yield Change(path, before, after)
        return
    for key, value in before.pairs:
        yield from differences(f"{path}[{show_key(key)}]", value, new[key])


def _sequence_differences(path: str, before: Sequence, after: Sequence) -> Iterator[Change]:
    if len(before.items) == len(after.items):
        for position, (old, new) in enumerate(zip(before.items, after.items, strict=True), start=1):
            yield from differences(f"{path}[{position}]", old, new)
    elif after.items[: len(before.items)] == before.items:
        yield from (Change(f"{path}, appended", None, item) for item in after.items[len(before.items) :])
    else:
        yield Change(path, before, after)

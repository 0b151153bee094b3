"""A shallow reading of TLA+ modules: variables, definitions, who calls what. Enough for the lint, no parser."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import attrs

_DEFINITION = re.compile(r"(?m)^(?:LOCAL )?(\w+)(?:\(([^)]*)\))?\s*==")
_FUNCTION = re.compile(r"(?m)^(?:LOCAL )?(\w+)\[[^\]]*\]\s*==")
_VARIABLES = re.compile(r"(?m)^VARIABLES?\b")
_SECTION_END = re.compile(
    r"(?m)^(?:CONSTANTS?\b|VARIABLES?\b|ASSUME\b|THEOREM\b|INSTANCE\b|RECURSIVE\b|LOCAL\b|-{4,}|={4,}|\w+(?:\([^)]*\)|\[[^\]]*\])?\s*==)"
)
_OWNER = re.compile(r"\\\*.*?@owner:\s*(\w+)")
_ACTOR = re.compile(r"\\\*.*?@actor:\s*([\w ,]+)")
_BLOCK_COMMENT = re.compile(r"\(\*.*?\*\)", re.DOTALL)
_LINE_COMMENT = re.compile(r"\\\*[^\n]*")
_STRING = re.compile(r'"[^"\n]*"')


@attrs.frozen
class Actor:
    """Who performs an action, and the parameter that names the individual."""

    owner: str
    parameter: str | None


@attrs.frozen
class Definition:
    """An operator. In `body` comments and strings are blanked, so that offsets still fit the file."""

    name: str
    parameters: tuple[str, ...]
    body: str
    line: int  # of the name
    body_line: int
    actors: tuple[Actor, ...] = ()

    def line_of(self, offset: int) -> int:
        """Line number in the file of a place in the body."""
        return self.body_line + self.body.count("\n", 0, offset)


@attrs.frozen
class Mention:
    """A variable in a piece of text."""

    variable: str
    offset: int
    index: str | None
    written: bool


@attrs.frozen(slots=False)
class TlaModule:
    """The pieces of one module."""

    lines: tuple[str, ...]
    variables: tuple[str, ...]
    owners: Mapping[str, str]
    definitions: Mapping[str, Definition]

    @cached_property
    def _variable_pattern(self) -> re.Pattern[str]:
        return _any_word(self.variables)

    @cached_property
    def _call_pattern(self) -> re.Pattern[str]:
        return _any_word(self.definitions)

    def mentions(self, text: str) -> Iterator[Mention]:
        """All mentions of variables, except below UNCHANGED and as a record's field."""
        text = _without_unchanged(text)
        for match in self._variable_pattern.finditer(text):
            after = text[match.end() :]
            if re.match(r"\s*(?:\|->|==)", after) or re.match(r"\s*:(?![>=:])", after):
                continue  # a field of a record, a LET, or a set of records
            if match.start() and text[match.start() - 1] == ".":
                continue
            written = after.startswith("'")
            rest = after[1:] if written else after
            yield Mention(match[0], match.start(), _index(match[0], rest), written)

    def calls(self, text: str) -> Iterator[tuple[str, tuple[str, ...], int]]:
        """All operators of this module used in a text: name, arguments, offset."""
        text = _without_unchanged(text)
        for match in self._call_pattern.finditer(text):
            if match.start() and text[match.start() - 1] in ".!":
                continue
            if re.match(r"\s*(?:\|->)", text[match.end() :]):
                continue
            yield match[0], _arguments(text, match.end()), match.start()


def parse_module(text: str) -> TlaModule:
    """Read a module's text."""
    clean = _blank(text)
    variables, owners = _read_variables(text, clean)
    names = [*_DEFINITION.finditer(clean), *_FUNCTION.finditer(clean)]
    definitions: dict[str, Definition] = {}
    for match in sorted(names, key=lambda m: m.start()):
        end = _SECTION_END.search(clean, match.end())
        parameters = match[2] if match.re is _DEFINITION else None
        definitions[match[1]] = Definition(
            name=match[1],
            parameters=tuple(p.strip() for p in (parameters or "").split(",") if p.strip()),
            body=clean[match.end() : end.start() if end else len(clean)],
            line=clean.count("\n", 0, match.start()) + 1,
            body_line=clean.count("\n", 0, match.end()) + 1,
            actors=_actors_above(text, match.start()),
        )
    return TlaModule(tuple(text.splitlines()), variables, owners, definitions)


def _blank(text: str) -> str:
    """Comments and strings replaced by spaces of the same shape."""

    def spaces(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    for pattern in (_BLOCK_COMMENT, _LINE_COMMENT, _STRING):
        text = pattern.sub(spaces, text)
    return text


def _read_variables(text: str, clean: str) -> tuple[tuple[str, ...], dict[str, str]]:
    variables: list[str] = []
    owners: dict[str, str] = {}
    for match in _VARIABLES.finditer(clean):
        section_end = _SECTION_END.search(clean, match.end())
        end = section_end.start() if section_end else len(clean)
        current: str | None = None
        for raw, line in zip(text[match.end() : end].split("\n"), clean[match.end() : end].split("\n"), strict=True):
            names = re.findall(r"\w+", line)
            owner = _OWNER.search(raw)
            if owner and not names:
                current = owner[1]
            for name in names:
                variables.append(name)
                holder = owner[1] if owner else current
                if holder:
                    owners[name] = holder
    return tuple(variables), owners


def _actors_above(text: str, start: int) -> tuple[Actor, ...]:
    """The @actor line in the comments that touch a definition from above."""
    for line in reversed(text[:start].split("\n")[:-1]):
        if not line.strip().startswith(("\\*", "(*")):
            return ()
        match = _ACTOR.search(line)
        if match:
            words = [part.split() for part in match[1].split(",") if part.strip()]
            return tuple(Actor(w[0], w[1] if len(w) > 1 else None) for w in words)
    return ()


def _any_word(names: Iterable[str]) -> re.Pattern[str]:
    words = sorted(names, key=len, reverse=True)
    return re.compile(rf"(?<![\w@])(?:{'|'.join(map(re.escape, words))})(?!\w)") if words else re.compile(r"(?!)")


def _without_unchanged(text: str) -> str:
    """Blank what stands under UNCHANGED, and the subscript of [A]_v and <<A>>_v."""

    def spaces(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    return re.sub(r"\bUNCHANGED\s*(?:<<[^>]*>>|\w+)", spaces, text)


def _index(variable: str, rest: str) -> str | None:
    """`h` of ``v[h]``, ``v[h].x`` and ``v' = [v EXCEPT ![h] = ...]``; None when the variable is used as a whole."""
    direct = re.match(r"\s*\[\s*(\w+)\s*[\],]", rest)
    if direct:
        return direct[1]
    updated = re.match(r"\s*EXCEPT\s*(.*)", rest, re.DOTALL)
    if updated:
        return _common_index(updated[1])
    assigned = re.match(rf"\s*=\s*\[\s*{variable}\s+EXCEPT\s*(.*)", rest, re.DOTALL)
    if assigned:
        return _common_index(assigned[1])
    return None


def _common_index(text: str) -> str | None:
    """The one index of all ``![i]`` at the outer level of an EXCEPT, or None when they differ."""
    depth = 0
    indices: set[str] = set()
    for match in re.finditer(r"!\s*\[\s*([^\],]*?)\s*[\],]|[\[({]|[\])}]", text):
        if match[1] is not None:
            if depth == 0:
                indices.add(match[1])
            if match[0].endswith(","):
                depth += 1
        elif match[0] in "[({":
            depth += 1
        else:
            depth -= 1
            if depth < 0:
                break
    return indices.pop() if len(indices) == 1 else None


def _arguments(text: str, position: int) -> tuple[str, ...]:
    match = re.compile(r"\s*\(").match(text, position)
    if not match:
        return ()
    depth, start, arguments = 0, match.end(), []
    for here in range(match.end(), len(text)):
        letter = text[here]
        if letter in "([{" or text.startswith("<<", here):
            depth += 1
        elif letter in ")]}" or text.startswith(">>", here):
            if depth == 0:
                arguments.append(text[start:here].strip())
                return tuple(arguments)
            depth -= 1
        elif letter == "," and depth == 0:
            arguments.append(text[start:here].strip())
            start = here + 1
    return ()

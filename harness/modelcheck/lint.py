"""Checks that in the protocol modules knowledge travels by messages only.

Comments in a module say who owns each variable and who performs each action::

    VARIABLES
      \\* @owner: server
      table,
      \\* @owner: host
      installed,
      \\* @owner: network
      msgs,
      \\* @owner: ghost
      history

    \\* @actor: host h
    Install(h) == ...

An action may mention only variables of its actors and of the network. Ghost variables may be written by
all and read only where a ghost variable is assigned. An environment's action may mention everything but
read no ghost; the environment's variables are nobody else's business. If the actor names its parameter,
the variables of that owner may be used at this index only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from harness.modelcheck.manifest import Suite
from harness.modelcheck.tlamodule import Definition, TlaModule, parse_module

NETWORK = "network"
GHOST = "ghost"
ENVIRONMENT = "environment"
_TOGETHER_REFUSED = {"server", "host"}
_OK = re.compile(r"\\\*\s*@lint-ok:\s*(\S.*)")


@attrs.frozen
class LintReport:
    """Faults, and the places that a module excuses with a reason."""

    faults: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()


@attrs.frozen
class Use:
    """A variable mentioned in an action: where, at which index, and whether inside an assignment to a ghost."""

    variable: str
    line: int
    index: str | None
    written: bool
    in_ghost_assignment: bool
    definition: str


def lint_suite(suite: Suite) -> LintReport:
    """Check all protocol modules of a suite: each module that has a manifest or mutants."""
    names = sorted({c.source.stem for c in suite.configs} | {m.module for m in suite.mutants})
    faults: list[str] = []
    allowed: list[str] = []
    for name in names:
        path = suite.folder / f"{name}.tla"
        if not path.is_file():
            continue
        if name in suite.lint_exempt:
            allowed.append(f"{name}: not checked: {suite.lint_exempt[name]}")
            continue
        report = lint_module(path)
        faults += report.faults
        allowed += report.allowed
    return LintReport(tuple(faults), tuple(allowed))


def lint_module(path: Path) -> LintReport:
    """Check one module."""
    return lint_text(path.read_text(encoding="utf-8"), path.name)


def lint_text(text: str, name: str) -> LintReport:
    """Check the text of a module; `name` is for the messages."""
    module = parse_module(text)
    faults = [f"{name}: variable {v} has no @owner" for v in module.variables if v not in module.owners]
    if not module.variables or "Next" not in module.definitions:
        return LintReport((f"{name}: no VARIABLES or no Next to check",))
    allowed: list[str] = []
    for action in _actions(module, faults, name):
        for line, fault in _check_action(module, action):
            excuse = _OK.search(module.lines[line - 1])
            if excuse:
                allowed.append(f"{name}:{line}: {fault}: {excuse[1]}")
            else:
                faults.append(f"{name}:{line}: {fault}")
    return LintReport(tuple(dict.fromkeys(faults)), tuple(dict.fromkeys(allowed)))


def _actions(module: TlaModule, faults: list[str], name: str) -> list[Definition]:
    """Walk from Next down to the definitions that carry an actor."""
    found: list[Definition] = []
    seen: set[str] = set()
    waiting = ["Next"]
    while waiting:
        definition = module.definitions[waiting.pop()]
        if definition.name in seen:
            continue
        seen.add(definition.name)
        if definition.actors:
            found.append(definition)
            continue
        if re.search(r"'|\bUNCHANGED\b", definition.body):
            faults.append(f"{name}:{definition.line}: action {definition.name} has no @actor")
        waiting += [callee for callee, _, _ in module.calls(definition.body)]
    return sorted(found, key=lambda d: d.line)


def _check_action(module: TlaModule, action: Definition) -> Iterator[tuple[int, str]]:
    actors = {actor.owner: actor.parameter for actor in action.actors}
    label = f"action {action.name} of " + " and ".join(actors)
    if set(actors) >= _TOGETHER_REFUSED:
        yield action.line, f"{label}: a server and a host cannot act in one step"
    for parameter in actors.values():
        if parameter is not None and parameter not in action.parameters:
            yield action.line, f"{label}: {parameter} is not a parameter"
    for use in _uses(module, action, {}, in_ghost=False, visited=()):
        via = "" if use.definition == action.name else f" (in {use.definition})"
        fault = _fault(module.owners.get(use.variable, "nobody"), actors, use)
        if fault:
            yield use.line, f"{label} {fault}{via}"


def _fault(owner: str, actors: Mapping[str, str | None], use: Use) -> str | None:
    if owner == GHOST:
        if use.written or use.in_ghost_assignment:
            return None
        return f"reads the ghost variable {use.variable} outside an assignment to a ghost"
    if use.in_ghost_assignment or owner == NETWORK or ENVIRONMENT in actors:
        return None
    if owner not in actors:
        return f"mentions {use.variable}, which belongs to {owner}"
    parameter = actors[owner]
    if parameter is not None and use.index != parameter:
        place = "as a whole" if use.index is None else f"at {use.index}"
        return f"uses {use.variable} {place}, not at its own {parameter}"
    return None


def _uses(
    module: TlaModule,
    definition: Definition,
    binding: Mapping[str, str],
    *,
    in_ghost: bool,
    visited: tuple[str, ...],
) -> Iterator[Use]:
    """All mentions of variables in a definition and in what it calls, with its parameters bound to arguments."""
    for start, text, ghost in _split_ghost_assignments(module, definition.body):
        hidden = in_ghost or ghost
        for mention in module.mentions(text):
            index = mention.index
            yield Use(
                variable=mention.variable,
                line=definition.line_of(start + mention.offset),
                index=None if index is None else binding.get(index, index),
                written=mention.written,
                in_ghost_assignment=hidden,
                definition=definition.name,
            )
        for callee, arguments, _ in module.calls(text):
            if callee in visited:
                continue
            target = module.definitions[callee]
            bound = {p: binding.get(a, a) for p, a in zip(target.parameters, arguments, strict=False)}
            yield from _uses(module, target, bound, in_ghost=hidden, visited=(*visited, callee))


def _split_ghost_assignments(module: TlaModule, body: str) -> Iterator[tuple[int, str, bool]]:
    """Cut a body into pieces: (offset, text, whether the piece is the right side of an assignment to a ghost)."""
    position = 0
    for match in re.finditer(r"\b(\w+)'\s*(?:=|\\in\b)", body):
        if match.start() < position or module.owners.get(match[1]) != GHOST:
            continue
        end = _end_of_conjunct(body, match.start())
        yield position, body[position : match.end()], False
        yield match.end(), body[match.end() : end], True
        position = end
    yield position, body[position:], False


def _end_of_conjunct(body: str, start: int) -> int:
    """Where the conjunct that begins at `start` ends: at the next bullet that is not to the right of its own,
    or at a further conjunct or a closing bracket on its own level."""
    line_start = body.rfind("\n", 0, start) + 1
    bullet = max(body.rfind("/\\", line_start, start), body.rfind("\\/", line_start, start))
    column = (bullet if bullet >= 0 else start) - line_start
    depth = 0
    position = start
    while position < len(body):
        if body[position] == "\n":
            indent = re.compile(r"\n+( *)(\S*)").match(body, position)
            if indent and len(indent[1]) <= column and depth == 0 and indent[2]:
                return position
        elif body[position] in "([{":
            depth += 1
        elif body[position] in ")]}":
            if depth == 0:
                return position
            depth -= 1
        elif body.startswith("/\\", position) and depth == 0 and "\n" not in body[start:position]:
            return position
        position += 1
    return len(body)

"""The graph of all states of a small model, as TLC dumps it (``-dump dot,actionlabels``)."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs

from harness.conformance.values import State, parse_plain
from harness.modelcheck.messages import variables_of

_NODE = re.compile(r'^(-?\d+) \[label="(.*?)"(,style = filled)?\];?$')
_EDGE = re.compile(r'^(-?\d+) -> (-?\d+) \[label="(\w*)"')


class GraphError(ValueError):
    """A dump that cannot be used; one line."""


@attrs.frozen(slots=False)
class Edge:
    """One step. States are positions in `Graph.states`."""

    source: int
    action: str
    target: int


@attrs.frozen(slots=False)
class Graph:
    """All states in the order of the dump, all steps between them, and the state in which behaviours begin."""

    states: Sequence[State]
    edges: Sequence[Edge]
    initial: int

    @cached_property
    def leaving(self) -> Sequence[Sequence[Edge]]:
        """The steps out of each state."""
        found: list[list[Edge]] = [[] for _ in self.states]
        for edge in self.edges:
            found[edge.source].append(edge)
        return found

    @cached_property
    def tree(self) -> Mapping[int, Edge | None]:
        """For each state, in order of its distance, the last step of a shortest way to it (None: the initial one)."""
        parents: dict[int, Edge | None] = {self.initial: None}
        waiting = deque([self.initial])
        while waiting:
            for edge in self.leaving[waiting.popleft()]:
                if edge.target not in parents:
                    parents[edge.target] = edge
                    waiting.append(edge.target)
        return parents

    def way_to(self, state: int) -> list[Edge]:
        """A shortest way from the initial state."""
        way = []
        edge = self.tree[state]
        while edge is not None:
            way.append(edge)
            edge = self.tree[edge.source]
        return way[::-1]


def read_graph(path: Path, specified_name: Callable[[str], str]) -> Graph:
    """Read a dump. `specified_name`: the specification's name of an action that the model may call otherwise.

    Raises:
        GraphError: the file is no such dump, an edge has no action's name, or there is no initial state.
    """
    positions: dict[str, int] = {}
    states: list[State] = []
    initial: list[int] = []
    edges: dict[tuple[str, str, str], None] = {}
    known: dict[str, Any] = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if edge := _EDGE.match(line):
                action = specified_name(edge[3])
                if not action or action == "Next":
                    raise GraphError(f"{path.name}: a step has no action's name: {line[:120].strip()}")
                edges[edge[1], action, edge[2]] = None
            elif (node := _NODE.match(line)) and node[1] not in positions:
                positions[node[1]] = len(states)
                states.append(_state(node[2], known))
                if node[3]:
                    initial.append(positions[node[1]])
    if len(initial) != 1:
        raise GraphError(f"{path.name}: {len(initial)} initial states; a model to be replayed has one")
    steps = [Edge(positions[source], action, positions[target]) for source, action, target in edges]
    return Graph(states, steps, initial[0])


def _state(label: str, known: dict[str, Any]) -> State:
    """The variables of a node's label. Equal texts become one value."""
    text = label.replace("\\n", "\n").replace('\\"', '"').replace("\\\\", "\\")
    state = {}
    for name, value in variables_of(text).items():
        if value not in known:
            known[value] = parse_plain(value)
        state[name] = known[value]
    return state

"""Replaying steps of a specification on the code, and comparing states after each of them."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import attrs

from harness.conformance.cover import Path
from harness.conformance.graph import Edge, Graph
from harness.conformance.values import State


class Difference(AssertionError):
    """The code cannot take a step of the specification, or comes out elsewhere. The message is one line."""


class Adapter(ABC):
    """The code in the state in which a behaviour begins, and what each of the specification's actions is there.

    `gaps` counts the steps that the code does not take as the specification has them, by name of the gap.
    """

    def __init__(self) -> None:
        self.gaps: Counter[str] = Counter()

    @abstractmethod
    def begin(self, state: State) -> None:
        """Bring the code into an initial state."""

    @abstractmethod
    def step(self, action: str, before: State, after: State) -> None:
        """Let the code do what the specification's step does.

        Raises:
            Difference: it cannot.
        """

    @abstractmethod
    def compare(self, state: State) -> None:
        """Compare what the code is with what the specification says.

        Raises:
            Difference: names what differs.
        """

    def probe(self, state: State) -> None:  # noqa: B027
        """Try what the specification refuses in this state: the code must refuse it as well."""

    def demand(self, what: str, code: object, specified: object) -> None:
        """Raise `Difference` unless both are equal."""
        if code != specified:
            raise Difference(f"{what} is {code} in the code, {specified} in the specification")


@attrs.define
class Tally:
    """What was replayed. `problem`: the first difference, with the steps that led to it."""

    paths: int = 0
    steps: int = 0
    actions: Counter[str] = attrs.field(factory=Counter)
    gaps: Counter[str] = attrs.field(factory=Counter)
    problem: str | None = None
    way: tuple[Edge, ...] = ()


def _take(adapter: Adapter, graph: Graph, edge: Edge, tally: Tally) -> None:
    tally.steps += 1
    tally.actions[edge.action] += 1
    adapter.step(edge.action, graph.states[edge.source], graph.states[edge.target])
    adapter.compare(graph.states[edge.target])


def _explain(tally: Tally, problem: Exception, way: Iterable[Edge]) -> None:
    text = str(problem) if isinstance(problem, Difference) else f"{type(problem).__name__}: {problem}"
    tally.problem, tally.way = text, tuple(way)


def replay_paths(graph: Graph, paths: Iterable[Path], make: type[Adapter]) -> Tally:
    """Replay paths from their beginnings, up to the first difference."""
    tally = Tally()
    for path in paths:
        tally.paths += 1
        adapter = make()
        done: list[Edge] = []
        try:
            adapter.begin(graph.states[graph.initial])
            for edge in path:
                done.append(edge)
                _take(adapter, graph, edge, tally)
                adapter.probe(graph.states[edge.target])
        except Exception as problem:  # noqa: BLE001 - whatever a machine raises is a difference
            _explain(tally, problem, done)
            return tally
        tally.gaps += adapter.gaps
    return tally


def replay_edges(graph: Graph, make: type[Adapter], *, deep: bool) -> Tally:
    """Replay every edge once, up to the first difference.

    The adapter is kept as it is in each state on the present way, so that no prefix is replayed twice. States are met
    by shortest ways, or (`deep`) by ways as long as a depth-first search makes them: what the code remembers besides
    what is compared then differs.
    """
    tally = Tally()
    ways = _deep_ways(graph) if deep else _shortest_ways(graph)
    kept: list[tuple[Edge | None, bytes]] = []
    for depth, edge, goes_on in ways:
        del kept[depth:]
        try:
            if edge is None:
                adapter = make()
                adapter.begin(graph.states[graph.initial])
            else:
                adapter = pickle.loads(kept[depth - 1][1])  # noqa: S301 - our own bytes, from this very process
                adapter.gaps = Counter()
                _take(adapter, graph, edge, tally)
            if goes_on:
                kept.append((edge, pickle.dumps(adapter, pickle.HIGHEST_PROTOCOL)))
                state = graph.states[graph.initial if edge is None else edge.target]
                adapter.probe(state)
        except Exception as problem:  # noqa: BLE001 - whatever a machine raises is a difference
            _explain(tally, problem, [each for each, _ in kept if each is not None] + ([edge] if edge else []))
            return tally
        tally.paths += not goes_on
        tally.gaps += adapter.gaps
    return tally


Ways = Iterator[tuple[int, Edge | None, bool]]
"""Depth, step (None: the beginning), and whether the way goes on from there; in an order in which depths nest."""


def _shortest_ways(graph: Graph) -> Ways:
    """Depth-first through the tree of shortest ways, with all other edges as leaves."""
    yield 0, None, True
    waiting = [(1, edge) for edge in reversed(graph.leaving[graph.initial])]
    while waiting:
        depth, edge = waiting.pop()
        goes_on = graph.tree[edge.target] is edge
        yield depth, edge, goes_on
        if goes_on:
            waiting += [(depth + 1, each) for each in reversed(graph.leaving[edge.target])]


def _deep_ways(graph: Graph) -> Ways:
    """Depth-first through the graph itself."""
    yield 0, None, True
    seen = {graph.initial}
    waiting = [(1, edge) for edge in graph.leaving[graph.initial]]
    while waiting:
        depth, edge = waiting.pop()
        goes_on = edge.target not in seen
        yield depth, edge, goes_on
        if goes_on:
            seen.add(edge.target)
            waiting += [(depth + 1, each) for each in graph.leaving[edge.target]]


@attrs.frozen
class Uncompared:
    """A variable of the specification that is not compared, or not always, and why."""

    variable: str
    why: str


@attrs.frozen
class Model:
    """A small model, and how it is replayed.

    `gaps`: by name, the steps that the code takes otherwise, with the reason. When every edge is replayed all of them
    must occur, and no others.
    """

    name: str
    specification: str
    config: str
    adapter: type[Adapter]
    large: bool = False  # takes minutes: only `make conformance` replays it
    gaps: Mapping[str, str] = attrs.field(factory=dict)
    uncompared: tuple[Uncompared, ...] = ()

"""Ways through a state graph that meet every state, or every pair of actions that can follow each other.

Every edge is covered without paths: see `replay.replay_edges`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from harness.conformance.graph import Edge, Graph

Path = list[Edge]
Pair = tuple[str, str]


def cover_states(graph: Graph) -> list[Path]:
    """The ways from the initial state to the leaves of the tree of shortest ways."""
    inner = {edge.source for edge in graph.tree.values() if edge is not None}
    return [graph.way_to(state) for state in graph.tree if state not in inner]


def action_pairs(graph: Graph) -> set[Pair]:
    """Each (action, next action) of the graph."""
    return {(first.action, second.action) for first in graph.edges for second in graph.leaving[first.target]}


def cover_pairs(graph: Graph) -> list[Path]:
    """Paths on which each (action, next action) occurs: deepest first, each where it is nearest."""
    depth = {graph.initial: 0}
    nearest: dict[Pair, tuple[Edge, Edge]] = {}
    for state, parent in graph.tree.items():
        if parent is not None:
            depth[state] = depth[parent.source] + 1
        for first in graph.leaving[state]:
            for second in graph.leaving[first.target]:
                nearest.setdefault((first.action, second.action), (first, second))
    paths: list[Path] = []
    covered: set[Pair] = set()
    for pair, (first, second) in sorted(nearest.items(), key=lambda item: (-depth[item[1][0].source], item[0])):
        if pair not in covered:
            paths.append([*graph.way_to(first.source), first, second])
            covered.update(pairs_of(paths[-1]))
    return paths


def pairs_of(path: Path) -> Iterator[Pair]:
    """The pairs of actions that follow each other on a path."""
    return ((first.action, second.action) for first, second in itertools.pairwise(path))

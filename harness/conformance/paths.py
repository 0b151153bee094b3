"""Spec -> code: paths of TLC's state graphs of small models, replayed on core."""

from __future__ import annotations

import fcntl
import hashlib
import json
import pickle
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import click
from rich.console import Console
from rich.table import Table

from harness.conformance.cover import action_pairs, cover_pairs, cover_states
from harness.conformance.graph import Graph, GraphError, read_graph
from harness.conformance.models import MODELS
from harness.conformance.replay import Model, Tally, replay_edges, replay_paths
from harness.modelcheck.errors import ModelCheckError
from harness.modelcheck.execute import Listener, execute
from harness.modelcheck.manifest import load_suite
from harness.modelcheck.plan import config_task
from harness.modelcheck.tools import find_tools

REPOSITORY = Path(__file__).resolve().parents[2]
COVERS = ("pairs", "states", "edges")
BUILD = REPOSITORY / ".build" / "conformance"
_PREFIXES = ("MC", "PATHS")
_FILE_WIDTH = 180


@attrs.frozen
class Result:
    """How one model came out."""

    model: str
    cover: str
    states: int
    edges: int
    pairs: int
    paths: int
    steps: int
    tlc_s: float
    replay_s: float
    gaps: Mapping[str, int]
    problem: str | None
    way: tuple[str, ...]

    @property
    def steps_per_s(self) -> float:
        """Steps of the replay alone."""
        return self.steps / self.replay_s if self.replay_s else 0.0


def kept_graph(model: Model) -> Graph:
    """As `state_graph`, but TLC runs once only for the same text of the specification. For tests.

    Raises:
        ModelCheckError, GraphError: see `state_graph`.
    """
    content = [path.read_bytes() for path in sorted((REPOSITORY / "tla").glob("*.tla"))]
    content += [(REPOSITORY / "tla" / f"{model.config}.cfg").read_bytes(), Path(__file__).read_bytes()]
    BUILD.mkdir(parents=True, exist_ok=True)
    kept = BUILD / f"{model.config}-{hashlib.sha256(b''.join(content)).hexdigest()[:16]}.pickle"
    with (BUILD / f"{model.config}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if kept.exists():
            graph: Graph = pickle.loads(kept.read_bytes())  # noqa: S301 - written below
            return graph
        graph, _ = state_graph(model)
        part = kept.with_suffix(".part")
        part.write_bytes(pickle.dumps(graph))
        part.rename(kept)
    return graph


def state_graph(model: Model) -> tuple[Graph, float]:
    """Let TLC dump the model's graph, compare its counts with the manifest, and read it. Returns TLC's seconds too.

    Raises:
        ModelCheckError: TLC came out otherwise than the manifest says.
        GraphError: the dump cannot be used.
    """
    suite = load_suite(REPOSITORY / "tla")
    task = config_task(suite, suite.config(model.config))
    with tempfile.TemporaryDirectory(prefix="callboard-paths-") as folder:
        dump = Path(folder) / "graph.dot"
        task = attrs.evolve(task, job=attrs.evolve(task.job, dump=dump))
        (outcome,) = execute([task], find_tools(), BUILD, 1, Listener())
        if not outcome.verdict.ok:
            raise ModelCheckError(f"{model.config}: {'; '.join(outcome.verdict.surprises)}")
        return read_graph(dump, specified_name), outcome.run.seconds


def specified_name(name: str) -> str:
    """`MCInstall` and `PATHSInstall` are the specification's `Install`, with a bound."""
    return next((name.removeprefix(each) for each in _PREFIXES if name.startswith(each)), name)


def run_model(model: Model, graph: Graph, cover: str, tlc_s: float = 0.0) -> Result:
    """Replay one cover of a model's graph."""
    started = time.perf_counter()
    if cover == "edges":
        tally = replay_edges(graph, model.adapter, deep=False)
        if tally.problem is None:
            deep = replay_edges(graph, model.adapter, deep=True)
            tally = attrs.evolve(
                deep, paths=tally.paths + deep.paths, steps=tally.steps + deep.steps, gaps=tally.gaps + deep.gaps
            )
    else:
        tally = replay_paths(graph, cover_pairs(graph) if cover == "pairs" else cover_states(graph), model.adapter)
    seconds = time.perf_counter() - started
    problem = tally.problem or _gap_problem(model, tally, cover)
    return Result(
        model=model.name,
        cover=cover,
        states=len(graph.states),
        edges=len(graph.edges),
        pairs=len(action_pairs(graph)),
        paths=tally.paths,
        steps=tally.steps,
        tlc_s=tlc_s,
        replay_s=seconds,
        gaps=dict(sorted(tally.gaps.items())),
        problem=problem,
        way=tuple(edge.action for edge in tally.way),
    )


def _gap_problem(model: Model, tally: Tally, cover: str) -> str | None:
    """Gaps are listed exactly: none is missing from the list, and (when every edge is replayed) none is idle."""
    unknown = sorted(tally.gaps.keys() - model.gaps.keys())
    if unknown:
        return f"refinement gap {unknown[0]} is not in the list"
    idle = sorted(model.gaps.keys() - tally.gaps.keys())
    if idle and cover == "edges":
        return f"refinement gap {idle[0]} is in the list, but never occurred"
    return None


@click.command()
@click.option("--model", "names", multiple=True, metavar="NAME", help="Only this model; repeatable.  [all]")
@click.option("--cover", type=click.Choice(COVERS), default="edges", show_default=True)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def paths(*, names: tuple[str, ...], cover: str, output: str) -> None:
    """Replay paths of TLC's state graphs on core. Exit code 1 means a difference, 2 a bad setup."""
    chosen = [model for model in MODELS if not names or model.name in names]
    unknown = set(names) - {model.name for model in MODELS}
    if unknown:
        known = ", ".join(model.name for model in MODELS)
        click.echo(f"error: --model {min(unknown)} is none of {known}", err=True)
        sys.exit(2)
    console = Console(stderr=output == "json")
    results = []
    try:
        for model in chosen:
            with console.status(f"{model.name}: TLC dumps the states of {model.config}"):
                graph, tlc_s = state_graph(model)
            with console.status(f"{model.name}: {len(graph.edges):,} edges are replayed"):
                results.append(run_model(model, graph, cover, tlc_s))
    except (ModelCheckError, GraphError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    if output == "json":
        click.echo(json.dumps([attrs.asdict(result) for result in results], indent=2))
    else:
        print_table(results)
    sys.exit(1 if any(result.problem for result in results) else 0)


def print_table(results: Sequence[Result]) -> None:
    """The results, and for each difference the actions that led to it."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_WIDTH)
    columns = ("model", "cover", "states", "edges", "pairs", "paths", "steps", "TLC s", "replay s", "steps/s", "gaps")
    table = Table(*columns, "result", title="paths of the specification, replayed on core")
    for each in results:
        numbers = (each.states, each.edges, each.pairs, each.paths, each.steps)
        table.add_row(
            each.model,
            each.cover,
            *(f"{number:,}" for number in numbers),
            f"{each.tlc_s:.1f}",
            f"{each.replay_s:.1f}",
            f"{each.steps_per_s:,.0f}",
            ", ".join(f"{name} {count:,}" for name, count in each.gaps.items()),
            "DIFFERENT" if each.problem else "ok",
        )
    console.print(table)
    for each in results:
        if each.problem:
            console.print(f"{each.model}: {each.problem}", markup=False, highlight=False)
            console.print(f"  after {len(each.way)} steps: {' '.join(each.way)}", markup=False, highlight=False)

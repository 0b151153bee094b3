"""Runs tests against mutants: in a forked child that has everything imported, or in one that imports the mutant.

Every function here runs in a process that the campaign has forked or is about to fork; what children have to say goes
as lines of JSON into a pipe, whose end of file is the child's end.
"""

from __future__ import annotations

import ast
import gc
import importlib.machinery
import json
import os
import re
import resource
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from attrs import define, frozen

from harness.mutation.operators import Mutant, find

REPOSITORY = Path(__file__).resolve().parents[2]
CORE = REPOSITORY / "impl" / "callboard" / "core"
TESTS = tuple(each for each in ("tests/core", "tests/model") if (REPOSITORY / each).is_dir())
"""The fast tests of the core's promises."""
NOT_JUDGES = re.compile(r"seeded_bug|test_walks_keep_all_properties\[[1-9]\]")
"""Tests that a checker catches a bug of ours, which say nothing of the code itself; and, for time, more of the same
walks."""
NOT_MUTATED = ("tracing",)
"""Trace events are judged by trace validation, which `harness.conformance` holds to account."""
HYPOTHESIS_PROFILE = "mutants"
PYTEST_OPTIONS = (
    *("-q", "--no-header", "--assert=plain", "--capture=no", "-p", "no:cacheprovider", "-p", "no:xdist"),
    *("-p", "no:timeout", "-o", "addopts=--import-mode=importlib --strict-markers"),
)
CALL_EVENTS_MAX = 300_000
"""Calls, of whatever, in one test, that are looked at."""
LINE_EVENTS_MAX = 400
"""Of one function in one test that are looked at one by one."""
MEMORY_BYTES_MAX = 3 * 1024**3
"""Of a child's address space."""


@frozen
class Source:
    """One module of the core, its code as it is, and its mutants, which change `tree`."""

    path: Path
    tree: ast.Module
    code: CodeType
    mutants: list[Mutant]


def read_core(modules: Sequence[str] = ()) -> dict[str, Source]:
    """The modules of the core by name, without those that have no mutants.

    Raises:
        KeyError: there is no module of one of these names.
    """
    sources = {}
    for path in sorted(CORE.rglob("*.py")):
        tree = ast.parse(path.read_text(), str(path))
        module = ".".join(path.relative_to(CORE).with_suffix("").parts)
        if module in NOT_MUTATED:
            continue
        sources[module] = Source(path, tree, compile(tree, str(path), "exec"), find(module, tree))
    for name in modules:
        if name not in sources:
            raise KeyError(name)
    return {name: each for name, each in sources.items() if each.mutants and (not modules or name in modules)}


@frozen
class Order:
    """What a child has to do: `tests` (node ids) in this order, each within its seconds of processor time."""

    mutant: str
    module: str
    index: int
    tests: tuple[str, ...]
    limits_s: tuple[float, ...]


@define
class Report:
    """The writing end of a child's pipe."""

    descriptor: int

    def say(self, **words: Any) -> None:
        """One line."""
        os.write(self.descriptor, json.dumps(words).encode() + b"\n")


class _Loop:
    """Takes over pytest's loop: `run` gets the session with its collected items."""

    def __init__(self, run: Callable[[pytest.Session], None]) -> None:
        self._run = run

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if not NOT_JUDGES.search(item.nodeid)]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Failed("collection failed")
        self._run(session)
        return True


def with_tests(run: Callable[[pytest.Session], None], tests: Sequence[str] = TESTS) -> int:
    """Import and collect the tests of these files or folders, then `run`. Returns pytest's exit code."""
    return int(pytest.main([*PYTEST_OPTIONS, *tests], plugins=[_Loop(run)]))


def files_of(tests: Iterable[str]) -> list[str]:
    """The test files of node ids."""
    return sorted({each.split("::")[0] for each in tests})


def silence() -> None:
    """Nothing that a test prints is of interest."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


# -- the code of a mutant


def _codes(code: CodeType, found: dict[tuple[str, int], list[CodeType]]) -> dict[tuple[str, int], list[CodeType]]:
    found.setdefault((code.co_qualname, code.co_firstlineno), []).append(code)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _codes(constant, found)
    return found


def live_functions() -> dict[str, list[FunctionType]]:
    """All functions of the core in this process, by file."""
    found: dict[str, list[FunctionType]] = defaultdict(list)
    inside = f"{CORE}{os.sep}"
    for each in gc.get_objects():
        if isinstance(each, FunctionType) and each.__code__.co_filename.startswith(inside):
            found[each.__code__.co_filename].append(each)
    return found


class CannotSwapError(Exception):
    """The mutated function does not fit into the living one: the module must be imported anew."""


def swap(source: Source, mutant: Mutant, functions: list[FunctionType]) -> bool:
    """Give the living functions of a module the mutant's code. Returns whether the mutant's code differs at all.

    Raises:
        CannotSwapError: it differs, but in nothing that lives.
    """
    mutant.put()
    mutated = compile(source.tree, str(source.path), "exec")
    if mutated == source.code:
        return False
    codes = _codes(mutated, {})
    changes: list[tuple[FunctionType, CodeType]] = []
    for function in functions:
        candidates = codes.get((function.__code__.co_qualname, function.__code__.co_firstlineno), [])
        if len(candidates) != 1:
            raise CannotSwapError(function.__qualname__)
        if candidates[0] != function.__code__:
            if candidates[0].co_freevars != function.__code__.co_freevars:
                raise CannotSwapError(function.__qualname__)
            changes.append((function, candidates[0]))
    if not changes:
        raise CannotSwapError(mutant.function)
    for function, code in changes:
        function.__code__ = code
    return True


def import_mutated(source: Source, mutant: Mutant) -> None:
    """From here on the module is imported with the mutant in it."""
    assert not any(name.startswith("callboard") for name in sys.modules), "a child for imports has imported too much"
    mutant.put()
    code = compile(source.tree, str(source.path), "exec")
    original = importlib.machinery.SourceFileLoader.get_code

    def get_code(loader: importlib.machinery.SourceFileLoader, fullname: str) -> CodeType | None:
        if Path(loader.path) == source.path:
            return code
        return original(loader, fullname)

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign, assignment]


# -- what children do


def run_tests(session: pytest.Session, order: Order, report: Report) -> None:
    """Run the tests of an order until one fails; says which one failed or took too long, or that none did."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    by_id = {item.nodeid: item for item in session.items}
    items = [by_id[each] for each in order.tests]
    current = 0

    def late(_signal: int, _frame: FrameType | None) -> None:
        report.say(outcome="timeout", test=current)
        os._exit(0)

    signal.signal(signal.SIGPROF, late)
    for current, item in enumerate(items):
        report.say(running=current)
        signal.setitimer(signal.ITIMER_PROF, order.limits_s[current])
        following = items[current + 1] if current + 1 < len(items) else None
        if any(each.failed for each in runtestprotocol(item, log=False, nextitem=following)):
            report.say(outcome="killed", test=current)
            os._exit(0)
    report.say(outcome="survived")
    os._exit(0)


def judge_import(source: Source, order: Order, report: Report) -> None:
    """In a child that has not imported callboard: import the mutant, run the tests. Does not return."""
    silence()
    report.say(pid=os.getpid())
    # Limits for import and collection; a mutant that does not import is killed by every test.
    signal.signal(signal.SIGPROF, lambda *_: os._exit(1))
    signal.setitimer(signal.ITIMER_PROF, 60)
    try:
        import_mutated(source, source.mutants[order.index])
        with_tests(lambda session: run_tests(session, order, report), files_of(order.tests))
    except BaseException:  # noqa: BLE001  # whatever a mutant does, the child ends here
        report.say(outcome="killed", test=None)
    report.say(outcome="killed", test=None)
    os._exit(0)


def judge_swap(
    session: pytest.Session, source: Source, order: Order, functions: list[FunctionType], report: Report
) -> None:
    """In a child of a process that has collected the tests: swap code, run the tests. Does not return."""
    silence()
    report.say(pid=os.getpid())
    try:
        if not swap(source, source.mutants[order.index], functions):
            report.say(outcome="same code")
            os._exit(0)
        run_tests(session, order, report)
    except CannotSwapError:
        report.say(outcome="import")
    except BaseException:  # noqa: BLE001  # whatever a mutant does, the child ends here
        report.say(outcome="killed", test=None)
    os._exit(0)


# -- which test executes which line


class _Tracer:
    """Collects executed lines of the core.

    A function that runs long counts as executed as a whole, so at worst too many tests judge a mutant; of a test that
    runs long only the beginning is looked at, so at worst a mutant survives that it would have killed.
    """

    def __init__(self) -> None:
        self.lines: set[tuple[str, int]] = set()
        self._inside = f"{CORE}{os.sep}"
        self._remaining: dict[CodeType, set[int]] = {}
        self._budget: dict[CodeType, int] = {}
        self._calls = 0

    def begin(self) -> None:
        """Forget what was executed so far."""
        self.lines = set()
        self._remaining = {}
        self._budget = {}
        self._calls = 0
        sys.settrace(self)

    def __call__(self, frame: FrameType, _event: str, _argument: object) -> Any:
        self._calls += 1
        if self._calls > CALL_EVENTS_MAX:
            sys.settrace(None)
        code = frame.f_code
        if not code.co_filename.startswith(self._inside):
            return None
        remaining = self._remaining.get(code)
        if remaining is None:
            remaining = self._remaining[code] = {line for *_, line in code.co_lines() if line is not None}
            remaining.discard(code.co_firstlineno)
            self._budget[code] = LINE_EVENTS_MAX
            self.lines.add((code.co_filename, code.co_firstlineno))
        if not remaining:
            return None

        def local(inner: FrameType, event: str, _value: object) -> Any:
            if event == "line":
                self._budget[code] -= 1
                seen = {inner.f_lineno} & remaining if self._budget[code] else set(remaining)
                self.lines.update((code.co_filename, line) for line in seen)
                remaining.difference_update(seen)
            return local if remaining else None

        return local


def measure_baseline(report: Report, *, trace: bool, only: AbstractSet[str], files: AbstractSet[str]) -> None:
    """In a child that has not imported callboard: run the tests of `files` and those of `only`, and say what each
    executes and costs. Does not return."""
    silence()
    tracer = _Tracer()
    if trace:
        threading.settrace(tracer)
        sys.settrace(tracer)

    def run(session: pytest.Session) -> None:
        report.say(imported=sorted(tracer.lines))
        items = [item for item in session.items if item.nodeid in only or item.nodeid.split("::")[0] in files]
        for index, item in enumerate(items):
            following = items[index + 1] if index + 1 < len(items) else None
            if trace:
                tracer.begin()
            began = time.process_time()
            failed = any(each.failed for each in runtestprotocol(item, log=False, nextitem=following))
            cost_s = time.process_time() - began
            report.say(test=item.nodeid, cost_s=cost_s, failed=failed, lines=sorted(tracer.lines))

    code = with_tests(run, TESTS if files else files_of(only))
    sys.settrace(None)
    report.say(exit_code=code)
    os._exit(0)

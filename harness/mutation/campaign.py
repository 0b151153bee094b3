"""Schedules the mutants over forked children, and notes what became of each."""

from __future__ import annotations

import gc
import json
import math
import os
import selectors
import signal
import socket
import sys
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import accumulate
from types import FunctionType

import pytest
from attrs import define, field, frozen

from harness.mutation.baseline import Baseline
from harness.mutation.judge import Order, Report, Source, files_of, judge_import, judge_swap, live_functions, with_tests
from harness.mutation.operators import Mutant

COST_FACTOR = 5
COST_MORE_S = 3.0
"""A test may take so many times its processor time without a mutant, and so much more."""
WALL_FACTOR = 20
WALL_MORE_S = 240.0
"""The same for the whole child by the wall clock, for children that hang outside of Python. The machine may be busy."""


@frozen
class Result:
    """`outcome`: killed, timeout, survived, unreached (no test executes it) or same code; `killer`: the test."""

    mutant: Mutant
    outcome: str
    killer: str | None = None
    seconds: float = 0.0
    imported: bool = False
    """Whether the child imported the mutant, instead of swapping code."""


@frozen
class Task:
    """A mutant to judge by `tests`, or by those that execute it if there are none given."""

    module: str
    index: int
    tests: tuple[str, ...] = ()
    imports: bool = False


@define(eq=False)
class _Running:
    task: Task
    order: Order
    began_s: float
    imported: bool
    pid: int | None = None
    text: bytes = b""
    words: dict[str, object] = field(factory=dict)
    forced: bool = False


class Zygote:
    """A process that has imported pytest and the mutants' syntax trees but nothing of callboard; it forks children that
    import mutants."""

    def __init__(self, sources: dict[str, Source]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            self._socket.close()
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            _serve_imports(theirs, sources)
            os._exit(0)
        theirs.close()

    def fork(self, order: Order, writing: int) -> None:
        """Start a child that reports into `writing`."""
        content = json.dumps([order.mutant, order.module, order.index, order.tests, order.limits_s]).encode()
        socket.send_fds(self._socket, [b"order"], [writing])
        with socket.socket(fileno=os.dup(self._socket.fileno())) as same:
            same.sendall(len(content).to_bytes(4, "big"))
            for start in range(0, len(content), 32768):
                same.sendall(content[start : start + 32768])

    def close(self) -> None:
        """End it."""
        self._socket.close()
        os.waitpid(self._pid, 0)


def _serve_imports(orders: socket.socket, sources: dict[str, Source]) -> None:
    while True:
        _, descriptors, _, _ = socket.recv_fds(orders, 16, 1)
        if not descriptors:
            return
        size, content = int.from_bytes(orders.recv(4), "big"), b""
        while len(content) < size:
            content += orders.recv(65536)
        mutant, module, index, tests, limits_s = json.loads(content)
        if os.fork() == 0:
            orders.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            order = Order(mutant, module, index, tuple(tests), tuple(limits_s))
            judge_import(sources[module], order, Report(descriptors[0]))
        os.close(descriptors[0])


class Campaign:
    """Judges tasks, `jobs` at a time, and hands each result to `note`.

    `budget_s`: tests that take longer than this together, without a mutant, do not judge one mutant.
    """

    def __init__(
        self,
        sources: dict[str, Source],
        baseline: Baseline,
        jobs: int,
        note: Callable[[Result], None],
        budget_s: float = math.inf,
    ) -> None:
        self._sources = sources
        self._baseline = baseline
        self._jobs = jobs
        self._note = note
        self._budget_s = budget_s
        self._functions: dict[str, list[FunctionType]] = {}
        self._kills: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self._tries: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)

    def run(self, tasks: Iterable[Task]) -> int:
        """Judge all tasks. Must be called before anything of callboard is imported. Returns an exit code."""
        zygote = Zygote(self._sources)

        def loop(session: pytest.Session) -> None:
            self._functions = live_functions()
            gc.collect()
            gc.freeze()
            self._loop(session, zygote, tasks)

        try:
            return with_tests(loop, files_of(self._baseline.costs_s))
        finally:
            zygote.close()

    def _loop(self, session: pytest.Session, zygote: Zygote, tasks: Iterable[Task]) -> None:
        waiting = iter(tasks)
        with selectors.DefaultSelector() as selector:
            exhausted = False
            while True:
                while not exhausted and len(selector.get_map()) < self._jobs:
                    task = next(waiting, None)
                    exhausted = task is None
                    if task is not None:
                        self._start(session, zygote, selector, task, imports=False)
                if not selector.get_map():
                    return
                for key, _ in selector.select(timeout=5.0):
                    running: _Running = key.data
                    data = os.read(key.fd, 65536)
                    if data:
                        self._hear(running, data)
                        continue
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    self._ended(session, zygote, selector, running)
                self._stop_hanging(selector)

    def _start(
        self, session: pytest.Session, zygote: Zygote, selector: selectors.BaseSelector, task: Task, *, imports: bool
    ) -> None:
        source = self._sources[task.module]
        mutant = source.mutants[task.index]
        imports = (
            imports
            or task.imports
            or not mutant.in_function
            or self._baseline.runs_on_import(source.path, *mutant.lines)
        )
        tests = task.tests or tuple(self._order(source, mutant, imports=imports))
        if not tests:
            self._note(Result(mutant, "unreached"))
            return
        limits_s = tuple(COST_MORE_S + COST_FACTOR * self._baseline.costs_s.get(each, 10.0) for each in tests)
        order = Order(mutant.name, task.module, task.index, tests, limits_s)
        reading, writing = os.pipe()
        if imports:
            zygote.fork(order, writing)
        elif os.fork() == 0:
            os.close(reading)
            judge_swap(session, source, order, self._functions.get(str(source.path), []), Report(writing))
        os.close(writing)
        selector.register(reading, selectors.EVENT_READ, _Running(task, order, time.monotonic(), imports))

    def _order(self, source: Source, mutant: Mutant, *, imports: bool) -> list[str]:
        """The tests that can notice the mutant, those first that killed most per second in the same function."""
        costs_s = self._baseline.costs_s
        if imports:
            # What importing computes may show in every test that enters the module; data types alone are not entered.
            inside = set(self._baseline.covering(source.path, 1, len(source.path.read_text().splitlines())))
            tests = list(inside or costs_s)
        else:
            tests = self._baseline.covering(source.path, *mutant.lines)
        near, far = (source.path.name, mutant.function), (source.path.name, "")
        near_kills, far_kills = self._kills[near], self._kills[far]
        near_tries, far_tries = self._tries[near], self._tries[far]

        def worth(test: str) -> float:
            kills = near_kills[test] + 0.2 * far_kills[test] + 0.05
            tries = near_tries[test] + 0.2 * far_tries[test] + 1
            return kills / tries / (costs_s[test] + 0.01)

        ordered = sorted(tests, key=lambda each: (-worth(each), each))
        spent_s = list(accumulate(costs_s[each] for each in ordered))
        return ordered[: max(1, bisect_right(spent_s, self._budget_s))]

    def _hear(self, running: _Running, data: bytes) -> None:
        running.text += data
        *lines, running.text = running.text.split(b"\n")
        for line in lines:
            running.words.update(json.loads(line))
        pid = running.words.get("pid")
        running.pid = pid if isinstance(pid, int) else None

    def _stop_hanging(self, selector: selectors.BaseSelector) -> None:
        for key in list(selector.get_map().values()):
            running: _Running = key.data
            limit_s = WALL_MORE_S + WALL_FACTOR * sum(
                self._baseline.costs_s.get(each, 10.0) for each in running.order.tests
            )
            if running.pid is not None and time.monotonic() - running.began_s > limit_s and not running.forced:
                running.forced = True
                os.kill(running.pid, signal.SIGKILL)

    def _ended(
        self, session: pytest.Session, zygote: Zygote, selector: selectors.BaseSelector, running: _Running
    ) -> None:
        self._reap()
        outcome = running.words.get("outcome")
        if outcome == "import":
            self._start(session, zygote, selector, running.task, imports=True)
            return
        mutant = self._sources[running.task.module].mutants[running.task.index]
        position = running.words.get("test", running.words.get("running"))
        killer = running.order.tests[position] if isinstance(position, int) else None
        if outcome is None:
            outcome = "timeout" if running.forced else "killed"  # it ended without a word: out of memory, or crashed
        if outcome in ("survived", "same code"):
            killer = None
        self._learn(mutant, running.order.tests, killer)
        self._note(Result(mutant, str(outcome), killer, time.monotonic() - running.began_s, running.imported))

    def _learn(self, mutant: Mutant, tests: tuple[str, ...], killer: str | None) -> None:
        tried = tests[: tests.index(killer) + 1] if killer in tests else tests
        file = self._sources[mutant.module].path.name
        for place in ((file, mutant.function), (file, "")):
            self._tries[place].update(tried)
            if killer is not None:
                self._kills[place][killer] += 1

    def _reap(self) -> None:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def refuse_imported() -> None:
    """The campaign's process must not have imported callboard, or no child could import a mutant."""
    imported = sorted(name for name in sys.modules if name.split(".")[0] == "callboard")
    assert not imported, f"{imported[0]} is imported already"

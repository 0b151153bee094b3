"""What each test costs and executes without any mutant; kept in .build until a source or test file changes."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from attrs import frozen

from harness.mutation.judge import CORE, REPOSITORY, TESTS, Report, measure_baseline
from harness.mutation.judge import __file__ as judge_file

CACHE = REPOSITORY / ".build" / "mutation"
CACHED_MAX = 5
_IMPORT = re.compile(r"from ((?:tests|spec|harness)[.\w]*) import \(?([\w, ]*)")


class BaselineError(Exception):
    """Tests fail without a mutant, so they cannot judge any."""


@frozen
class Baseline:
    """`costs_s`: processor seconds of each test; `lines`: what it executes; `imported`: what importing all executes;
    `contents`: hashes of the test files and of what they import."""

    costs_s: dict[str, float]
    lines: dict[str, frozenset[tuple[str, int]]]
    imported: frozenset[tuple[str, int]]
    contents: dict[str, str]

    def covering(self, path: Path, first: int, last: int) -> list[str]:
        """The tests that execute one of these lines."""
        wanted = {(str(path), line) for line in range(first, last + 1)}
        return [test for test, lines in self.lines.items() if not wanted.isdisjoint(lines)]

    def runs_on_import(self, path: Path, first: int, last: int) -> bool:
        """Whether importing executes one of these lines."""
        return any((str(path), line) in self.imported for line in range(first, last + 1))


def _content(paths: Iterable[Path]) -> str:
    hashed = hashlib.sha256()
    for path in sorted(paths):
        hashed.update(f"{path.relative_to(REPOSITORY)}\0".encode())
        hashed.update(hashlib.sha256(path.read_bytes()).digest())
    return hashed.hexdigest()[:16]


def core_content() -> str:
    """Of what is mutated, and of what runs tests."""
    here = (Path(__file__), Path(judge_file), REPOSITORY / "constraints.txt", REPOSITORY / "tests" / "conftest.py")
    return _content([*CORE.rglob("*.py"), *here])


def _test_content(test_file: Path) -> str:
    """Of a test file and of all in tests/, spec/ and harness/ that it imports, however indirectly."""
    seen, waiting = {test_file}, [test_file]
    while waiting:
        for line in waiting.pop().read_text().splitlines():
            imported = _IMPORT.match(line)
            if imported:
                place = REPOSITORY / imported[1].replace(".", "/")
                found = {place.with_suffix(".py"), *(place / f"{name}.py" for name in imported[2].split(", "))}
                new = {each for each in found if each.is_file()} - seen
                seen |= new
                waiting += sorted(new)
    return _content(seen)


def read_lines(descriptor: int) -> Iterator[dict[str, Any]]:
    """What a child says, until its end."""
    with os.fdopen(descriptor, "rb") as pipe:
        for line in pipe:
            words = json.loads(line)
            assert isinstance(words, dict)
            yield words


def _in_child(
    *, trace: bool, only: AbstractSet[str] = frozenset(), files: AbstractSet[str] = frozenset()
) -> list[dict[str, Any]]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            measure_baseline(Report(writing), trace=trace, only=only, files=files)
        finally:
            os._exit(1)
    os.close(writing)
    words = list(read_lines(reading))
    os.waitpid(pid, 0)
    failed = [each["test"] for each in words if each.get("failed")]
    if failed:
        raise BaselineError(f"{len(failed)} tests fail without a mutant, the first is {failed[0]}")
    if not words or "exit_code" not in words[-1] or len(words) < 3:
        raise BaselineError(f"the tests of {', '.join(TESTS)} cannot be collected: run them with pytest first")
    return words


def measure() -> Baseline:
    """Run all tests, traced, in a child of this process, which must not have imported callboard.

    Tests whose code and whose core are as they were are not run again. Tracing makes the costs too high, by much the
    same factor for all tests.

    Raises:
        BaselineError: a test fails.
    """
    files = sorted(each for folder in TESTS for each in (REPOSITORY / folder).rglob("test_*.py"))
    contents = {str(each.relative_to(REPOSITORY)): _test_content(each) for each in files}
    cached = CACHE / f"baseline-{core_content()}.json"
    known: dict[str, Any] = json.loads(cached.read_text()) if cached.exists() else {"files": {}, "imported": {}}
    of_files = {
        name: each for name, each in known["files"].items() if name in contents and each["content"] == contents[name]
    }
    missing = contents.keys() - of_files.keys()
    if missing:
        traced = _in_child(trace=True, files=missing)
        for name in missing:
            of_files[name] = {"content": contents[name], "costs_s": {}, "lines": {}}
        for each in traced:
            if "test" in each:
                of_file = of_files[each["test"].split("::")[0]]
                of_file["costs_s"][each["test"]] = each["cost_s"]
                of_file["lines"][each["test"]] = _relative(each["lines"])
        imported = _relative(next(each["imported"] for each in traced if "imported" in each))
        known = {"files": of_files, "imported": imported}
        CACHE.mkdir(parents=True, exist_ok=True)
        for old in sorted(CACHE.glob("baseline-*.json"), key=lambda each: each.stat().st_mtime)[:-CACHED_MAX]:
            old.unlink()
        partial = cached.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(known))
        partial.rename(cached)
    costs_s = {test: cost_s for each in of_files.values() for test, cost_s in each["costs_s"].items()}
    lines = {test: _absolute(found) for each in of_files.values() for test, found in each["lines"].items()}
    return Baseline(costs_s, lines, _absolute(known["imported"]), contents)


def measure_costs(only: AbstractSet[str]) -> dict[str, float]:
    """Run these tests once in a child of this process, which must not have imported callboard. Returns their costs.

    Raises:
        BaselineError: a test fails.
    """
    return {each["test"]: each["cost_s"] for each in _in_child(trace=False, only=only) if "test" in each}


def _relative(lines: list[tuple[str, int]]) -> dict[str, list[int]]:
    by_file: dict[str, list[int]] = {}
    for path, line in lines:
        by_file.setdefault(str(Path(path).relative_to(CORE)), []).append(line)
    return by_file


def _absolute(by_file: dict[str, list[int]]) -> frozenset[tuple[str, int]]:
    return frozenset((str(CORE / path), line) for path, lines in by_file.items() for line in lines)

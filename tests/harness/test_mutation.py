"""The mutants of the code: what is changed and what is not, what a run says of them, and the fixed hundred."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from attrs import evolve
from rich.console import Console

import harness.mutation.__main__ as mutation
from harness.mutation import explained, hundred, report
from harness.mutation.baseline import Baseline
from harness.mutation.campaign import Result
from harness.mutation.command import in_fresh_process
from harness.mutation.judge import HYPOTHESIS_PROFILE, REPOSITORY, CannotSwapError, Source, read_core, swap
from harness.mutation.operators import Mutant, find

EXAMPLES = {
    "boundary": ("a < b", "a <= b"),
    "comparison": ("a == b", "a != b"),
    "arithmetic": ("a + b", "a - b"),
    "boolean connective": ("a and b", "a or b"),
    "dropped operand": ("a and b", "b"),
    "removed not": ("not a", "a"),
    "constant": ("7", "8"),
    "opposite function": ("min(a, b)", "max(a, b)"),
    "slice off by one": ("a[b:]", "a[b + 1:]"),
    "range off by one": ("range(a)", "range(a - 1)"),
    "dropped change": ("evolve(a, b=c)", "evolve(a)"),
    "negated condition": ("a if b else c", "a if not b else c"),
    "return None": ("a", "(nothing)"),
}


def mutants_of(text: str) -> list[Mutant]:
    return find("m", ast.parse(text))


@pytest.mark.parametrize("operator", EXAMPLES)
def test_each_operator(operator: str) -> None:
    before, after = EXAMPLES[operator]
    text = f"def f(a, b, c):\n    return {before}\n"
    mutant = next(each for each in mutants_of(text) if each.operator == operator)
    tree = ast.parse(text)
    again = next(each for each in find("m", tree) if each.name == mutant.name and each.after == mutant.after)
    chosen = [each for each in find("m", tree) if each.operator == operator]
    wanted = "return None" if operator == "return None" else f"return {after}"
    texts = []
    for index in range(len(chosen)):
        changed = ast.parse(text)
        find("m", changed)[[each.name for each in find("m", changed)].index(chosen[index].name)].put()
        texts.append(ast.unparse(changed).splitlines()[-1].strip())
    assert wanted in texts
    assert again.function == "f"


@pytest.mark.parametrize(
    ("statement", "dropped"),
    [
        ("self.x = 1", True),
        ("self.x += 1", True),
        ("del self.x", True),
        ("self.g()", True),
        ("raise ValueError", True),
        ("y = 1", False),
        ("y = 1\n    y = 2", True),
        ("for y in z:\n        continue", True),
        ("for y in z:\n        break", True),
        ("assert self.x", False),
        ("'text'", False),
        ("import os", False),
        ("assert_never(self)", False),
    ],
)
def test_statements_are_dropped_that_change_something(statement: str, dropped: bool) -> None:
    found = mutants_of(f"def f(self, z):\n    {statement}\n")
    assert any(each.operator == "dropped statement" for each in found) is dropped


@pytest.mark.parametrize(
    "text",
    [
        '"""Text."""',
        "def f(a: Literal[1]) -> Literal[2]:\n    pass",
        "@decorated(1)\ndef f():\n    pass",
        "Event = A | B[C]",
        "LIMIT = 7",
        "def __repr__(self):\n    return self.a + 1",
        "def f(a):\n    assert a > 1, a + 2",
        'def f(a):\n    f"{a + 1}"',
        "def f(self):\n    if self.trace is not None:\n        self.trace(1)",
    ],
)
def test_what_is_not_mutated(text: str) -> None:
    assert mutants_of(text) == []


def test_names_do_not_depend_on_lines_and_are_distinct() -> None:
    text = "def f(a):\n    g(1)\n    g(1)\n"
    before, after = mutants_of(text), mutants_of("\n\n" + text)
    assert [each.name for each in before] == [each.name for each in after]
    assert len({each.name for each in before}) == len(before)
    every = [mutant.name for source in read_core().values() for mutant in source.mutants]
    assert len(set(every)) == len(every) > 1000


def live_module(text: str) -> tuple[Source, dict[str, object]]:
    tree = ast.parse(text)
    namespace: dict[str, object] = {}
    code = compile(tree, "m.py", "exec")
    exec(code, namespace)  # noqa: S102  # the module under mutation
    return Source(Path("m.py"), tree, code, find("m", tree)), namespace


def test_code_is_swapped_in_living_functions() -> None:
    source, namespace = live_module("def f(a):\n    return a + 1\n")
    function = namespace["f"]
    assert callable(function)
    mutant = next(each for each in source.mutants if each.operator == "arithmetic")
    assert swap(source, mutant, [function])  # type: ignore[list-item]
    assert function(5) == 4


def test_code_that_does_not_fit_is_imported_instead() -> None:
    text = "def outer(a, b):\n    def inner():\n        return a and b\n    return inner\n"
    source, namespace = live_module(text)
    outer = namespace["outer"]
    assert callable(outer)
    mutant = next(each for each in source.mutants if each.operator == "dropped operand")
    with pytest.raises(CannotSwapError):
        swap(source, mutant, [outer(1, 2)])


CAMPAIGN = """
import json, sys
from harness.mutation.baseline import Baseline
from harness.mutation.campaign import Campaign, Task
from harness.mutation.judge import read_core
sources = read_core(["ring"])
tests = tuple(json.loads(sys.argv[1]))
found = []
campaign = Campaign(sources, Baseline({each: 1.0 for each in tests}, {}, frozenset(), {}), 2, found.append)
indices = [at for at, each in enumerate(sources["ring"].mutants) if each.function in ("Ring.lookup", "Ring._index")]
assert indices
tasks = [Task("ring", index, tests) for index in indices]
assert campaign.run([*tasks, Task("ring", indices[0], tests, imports=True)]) == 0
assert any(each.imported for each in found)
print(json.dumps([[each.outcome, each.killer] for each in found]))
"""
TEST = "tests/core/test_ring.py::test_agrees_with_the_naive_computation"
OTHER_TEST = "tests/core/test_lease_times.py::test_how_often_hosts_renew"


def campaign(*tests: str) -> list[list[str | None]]:
    """Judge the mutants of the ring's look-up by these tests alone, and one of them again by importing it."""
    environment = {**os.environ, "PYTHONHASHSEED": "0", "HYPOTHESIS_PROFILE": HYPOTHESIS_PROFILE}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "impl")])
    command = [sys.executable, "-c", CAMPAIGN, json.dumps(tests)]
    ran = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert isinstance(found, list)
    return found


def test_a_test_that_looks_kills_and_one_that_does_not_look_lets_everything_pass() -> None:
    found = campaign(OTHER_TEST, TEST)
    assert Counter(outcome for outcome, _ in found)["killed"] >= len(found) // 2
    assert {killer for outcome, killer in found if outcome == "killed"} == {TEST}
    blind = campaign(OTHER_TEST)
    assert {outcome for outcome, _ in blind} == {"survived"}
    assert len(blind) == len(found) > 3


def result(name: str, outcome: str, operator: str = "constant") -> Result:
    mutant = evolve(
        mutants_of("def f():\n    return 7\n")[0], module=name.split(".", maxsplit=1)[0], before=name, operator=operator
    )
    return Result(mutant, outcome, "a test" if outcome == "killed" else None)


def test_the_table_counts_what_is_explained_apart() -> None:
    results = [
        result("x.1", "killed"),
        result("x.2", "timeout"),
        result("x.3", "survived"),
        result("x.4", "unreached"),
        result("y.5", "survived"),
        result("y.6", "same code"),
    ]
    reasons = {results[2].mutant.name: "for a reason", results[0].mutant.name: "wrongly"}
    x, y, everything = report.rows(results, reasons)
    assert x == report.Row("x", mutants=4, killed=1, timed_out=1, explained=1, surviving=1)
    assert (x.share, y.share, everything.share) == ("66.6 %", "0.0 %", "50.0 %")
    assert report.surviving(results, reasons) == [results[3], results[4]]


def test_one_survivor_of_a_whole_run_is_listed_and_fails_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = result("x.left", "survived")
    found = [*(result(f"x.{n}", "killed") for n in range(300)), left]
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    monkeypatch.setenv("HYPOTHESIS_PROFILE", HYPOTHESIS_PROFILE)
    monkeypatch.setattr(mutation, "refuse_imported", lambda: None)
    monkeypatch.setattr(mutation, "measure", lambda: Baseline({}, {}, frozenset(), {}))
    monkeypatch.setattr(mutation, "_judge_new", lambda *_args, **_kwargs: found)
    reasons: dict[str, str] = {}
    monkeypatch.setattr(explained, "read", lambda: reasons)

    def exit_code(*options: str) -> int:
        with pytest.raises(SystemExit) as ended:
            mutation.main(list(options))
        assert isinstance(ended.value.code, int)
        return ended.value.code

    assert exit_code() == 1
    assert f"survives (survived), line 2: {left.mutant.name}" in capsys.readouterr().out.splitlines()
    assert exit_code("--module", "ring") == 1
    assert exit_code("--sample", "1") == 0
    assert exit_code("--sample", "1", "--share", "99.9") == 1
    reasons[left.mutant.name] = "for a good reason"
    assert exit_code() == 0
    found[0] = result("x.0", "unreached")
    assert exit_code() == 1


def test_explanations_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "explained.toml"
    path.write_text('[[explained]]\nreason = "too short"\nmutants = ["a.f | x"]\n')
    with pytest.raises(explained.ExplanationError, match="explains nothing"):
        explained.read(path)
    entry = '[[explained]]\nreason = "both sides of it are the same"\nmutants = ["a.f | x", "b.g | y"]\n'
    path.write_text(entry + entry)
    with pytest.raises(explained.ExplanationError, match="explained twice"):
        explained.read(path)
    path.write_text(entry)
    reasons = explained.read(path)
    assert explained.missing(reasons, ["a", "b"], ["a.f | x"]) == ["b.g | y"]
    assert explained.missing(reasons, ["a"], []) == ["a.f | x"]


def test_explained_mutants_exist() -> None:
    sources = read_core()
    names = [mutant.name for source in sources.values() for mutant in source.mutants]
    assert explained.missing(explained.read(), sources, names) == []


def test_the_hundred_are_spread_over_modules_and_operators(tmp_path: Path) -> None:
    operators = ("constant", "boundary", "comparison")
    results = [result(f"{module}.{n}", "killed", operators[n % 3]) for module in "ab" for n in range(60)]
    results += [result(f"c.{n}", "survived") for n in range(60)]
    results += [evolve(result(f"d.{n}", "killed"), killer="a slow test") for n in range(60)]
    costs_s = {"a test": 0.1, "a slow test": 5.0}
    chosen = hundred.choose(results, costs_s, size=30)
    assert chosen == hundred.choose(list(reversed(results)), costs_s, size=30)
    assert Counter(each.mutant.module for each in chosen) == {"a": 15, "b": 15}
    assert set(Counter(each.mutant.operator for each in chosen).values()) == {10}
    path = tmp_path / "hundred.json"
    hundred.write(chosen, path)
    assert len(json.loads(path.read_text())) == 30


def test_mutants_of_changed_code_or_of_a_changed_test_are_left_out(tmp_path: Path) -> None:
    text = "def f(a):\n    return a + 1\ndef g(a):\n    return a + 1\n"
    source, _ = live_module(text)
    path = tmp_path / "hundred.json"
    there, other = (each.name for each in source.mutants if each.operator == "constant" and each.function == "g")
    entries = [("m.g | constant | 2 -> 3", "t1"), (there, "t2"), (other, "renamed")]
    path.write_text(json.dumps([{"mutant": name, "killer": killer} for name, killer in entries]))
    tasks, changed = hundred.tasks({"m": source}, ["t1", "t2"], path)
    assert changed == ["m.g | constant | 2 -> 3", other]
    assert [(source.mutants[each.index].name, each.tests) for each in tasks] == [(there, ("t2",))]


def test_too_few_of_the_hundred_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hundred.json"
    path.write_text(json.dumps([{"mutant": "m.g | constant | 2 -> 3", "killer": "t1"}] * 100))
    monkeypatch.setattr(hundred, "HUNDRED", path)
    monkeypatch.setattr(mutation, "measure_costs", lambda _names: {"t1": 0.1})
    said = io.StringIO()
    assert mutation._hundred(Console(file=said, width=200), {}, {}, 1) == 1
    assert "only 0 of the hundred are left: choose them anew" in said.getvalue()


def test_a_module_that_does_not_exist_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert in_fresh_process(("--module", "nonsense")) == 2
    assert "nonsense" in capfd.readouterr().err


def test_a_fixed_hundred_mutants_are_killed(capfd: pytest.CaptureFixture[str]) -> None:
    code = in_fresh_process(("--hundred",))
    assert code == 0, capfd.readouterr().out

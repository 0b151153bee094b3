"""Pages of runs and campaigns: everything is on them, and they need nothing but themselves."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from harness.faults.gates import FaultReport
from harness.faults.history import Outcome, Phase, Recorder, read_history
from harness.faults.nemeses import FaultSpec
from harness.faults.pages.campaign import campaign_page
from harness.faults.pages.charts import Chart, step_of
from harness.faults.pages.owners import named_actors, rights
from harness.faults.pages.plots import _spans_behind
from harness.faults.pages.run import PAGE, run_page
from harness.faults.pages.view import View
from harness.faults.runner import RunReport, analyse
from harness.faults.schedules import Schedule
from harness.faults.summary import load_runs, summarise

MS = 1_000_000
SETTINGS: dict[str, Any] = {
    "policy": "exclusive",
    "engine": "pysyncobj",
    "replicas": 3,
    "hosts": 2,
    "election_ms": 3000,
    "workloads": ["actors"],
    "namespaces": {"actors": {"policy": "exclusive", "slot_bits": 4, "tick_ms": 200}},
}


class Structure(HTMLParser):
    """Tags that are opened and closed, ids, and what the page would fetch."""

    VOID = frozenset({"meta", "br", "link", "img", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        found = dict(attrs)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.fetched += [str(found[name]) for name in ("src", "data") if name in found]
        if tag == "link":
            self.fetched.append(str(found.get("href")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def structure(page: str) -> Structure:
    found = Structure()
    found.feed(page)
    assert found.open == [], "every element is closed"
    assert found.fetched == [], "nothing is fetched"
    assert not re.search(r"url\(|@import|https?://", page)
    assert "NaN" not in page
    assert len(set(found.ids)) == len(found.ids)
    return found


def record_run(directory: Path, *, stale: bool) -> RunReport:
    """An actor moves from h1 to h2; with `stale`, h1 acts once more."""
    directory.mkdir(parents=True)
    with Recorder(directory / "history.jsonl") as recorder:
        recorder.settings(format=1, seed=4, **SETTINGS)
        process = recorder.process()
        for phase in Phase:
            recorder.enter(phase)
            for outcome in Outcome:
                number = recorder.invoke(process, "append", "list/k1", number_of(phase, outcome))
                recorder.complete(number, outcome, [1] if outcome is Outcome.OK else None)
                process = recorder.process()
            if phase is Phase.DURING:
                fault = recorder.fault_begins("host_pause", "h1 <b>&")
                recorder.fault_bit(fault, "1 processes in state T")
                recorder.fault_ends(fault)
        for host, version in (("h1", 1), ("h1", 2), ("h2", 2)):
            table = {"host": host, "incarnation": 1, "version": version, "digest": "d"}
            recorder.note("table", namespace="actors", **table)
        now_ns = recorder_time(directory)
        for place, (host, fence) in enumerate((("h1", 1), ("h2", 2), *([("h1", 1)] if stale else []))):
            at_ns = now_ns + 10 * place * MS
            who = {"host": host, "incarnation": 1, "actor_type": "Journal", "first": 0, "count": 16}
            recorder.note("granted", at_ns=at_ns, since=1, fence=fence, **who)
            turn = {"actor": "Journal/k1", "host": host, "incarnation": 1, "fence": fence}
            recorder.note("turn", at_ns=at_ns, begun_ns=at_ns, ended_ns=at_ns + MS, **turn)
            recorder.note("ended", at_ns=at_ns + 5 * MS, reason="lease", **who)
    spec = FaultSpec("host_pause", 1.0, 2.0, "hosts", "one")
    report = RunReport(Schedule(4, 9.0, (spec,), "seed-4"), directory)
    report.faults = [FaultReport(spec, "h1 <b>&", "1 processes in state T")]
    analyse(report, read_history(directory / "history.jsonl"), ["actors"])
    report.schedule.save(directory / "schedule.json")
    report.write()
    return report


def number_of(phase: Phase, outcome: Outcome) -> int:
    return 10 * list(Phase).index(phase) + list(Outcome).index(outcome)


def recorder_time(directory: Path) -> int:
    notes = read_history(directory / "history.jsonl").notes
    return max(note.at_ns for note in notes)


def test_the_page_of_a_run(tmp_path: Path) -> None:
    record_run(tmp_path / "run", stale=False)
    page = (tmp_path / "run" / PAGE).read_text()
    found = structure(page)
    assert set(found.ids) >= {"timeline", "latency", "throughput", "tables", "owners", "verdicts", "faults", "files"}
    text = " ".join(found.words)
    assert "h1 <b>&" in text, "what comes from histories is escaped"
    assert "callboard-faults run --schedule" in text
    assert "host_pause on h1 <b>&; bit: 1 processes in state T" in text
    for verdict in RunReport(Schedule(1, 1, ()), tmp_path).results:
        assert verdict["checker"] in text


def test_a_failure_is_explained_first_and_closely(tmp_path: Path) -> None:
    report = record_run(tmp_path / "run", stale=True)
    assert "stale_turns" in report.findings
    page = (tmp_path / "run" / PAGE).read_text()
    found = structure(page)
    assert found.ids[0] == "findings"
    text = " ".join(found.words)
    assert "a turn under an older fence after one under a newer" in text
    assert "Journal/k1 around it" in text
    assert "turn in h1/1, fence 1" in text


def test_a_page_of_a_run_that_never_began(tmp_path: Path) -> None:
    with Recorder(tmp_path / "history.jsonl") as recorder:
        recorder.settings(format=1, seed=4, **SETTINGS)
    report = RunReport(Schedule(4, 9.0, (), "seed-4"), tmp_path, failures=["the run could not be finished: no ports"])
    history = read_history(tmp_path / "history.jsonl")
    analyse(report, history, ["actors"])
    text = " ".join(structure(run_page(report.as_json(), history, tmp_path)).words)
    assert "the run could not be finished: no ports" in text


def test_the_page_of_a_campaign(tmp_path: Path) -> None:
    record_run(tmp_path / "001-seed-4", stale=False)
    record_run(tmp_path / "002-seed-4", stale=True)
    about = {"command": "callboard-faults campaign --seed <4>", "date": "2026-01-01", "commit": "", "ended": "2 runs"}
    runs = load_runs(tmp_path)
    page = campaign_page(summarise(runs, about), runs)
    found = structure(page)
    assert {"failures", "figures", "faults", "service", "checkers", "operations", "clusters", "runs"} <= set(found.ids)
    text = " ".join(found.words)
    assert "callboard-faults campaign --seed <4>" in text
    assert "callboard-faults run --schedule 002-seed-4/schedule.json" in text
    assert f'href="002-seed-4/{PAGE}"' in page


# -- parts -----------------------------------------------------------------------------------------------


def test_rights_of_an_actor_end_with_a_note_or_with_the_process(tmp_path: Path) -> None:
    record_run(tmp_path / "run", stale=False)
    view = View(read_history(tmp_path / "run" / "history.jsonl"))
    found = rights(view, "Journal/k1")
    assert [(right.host, right.fence, right.ended) for right in found] == [("h1", 1, "lease"), ("h2", 2, "lease")]
    assert all(right.first_s < right.last_s for right in found)
    assert rights(view, "Tally/k1") == []


@pytest.mark.parametrize(
    ("line", "actors"),
    [
        ("key list/k10 is not linearizable", ["Journal/k10"]),
        ("  Tally/k3 in h1/5 under fence 6", ["Tally/k3"]),
        ("append(4) on list/k2 after Journal/k2", ["Journal/k2"]),
        ("no operations", []),
    ],
)
def test_actors_that_an_explanation_names(line: str, actors: list[str]) -> None:
    assert named_actors([line]) == actors


def test_explanations_count_from_the_beginning(tmp_path: Path) -> None:
    record_run(tmp_path / "run", stale=False)
    view = View(read_history(tmp_path / "run" / "history.jsonl"))
    view.first_ns = 1_000_000 * MS
    assert view.relative("x: [1000001.500, 1000002.000] ms") == "x: [1.500, 2.000] ms"
    assert view.relative("x: [1000001.500, no answer] ms, fence 7") == "x: [1.500, no answer] ms, fence 7"
    assert view.relative("the bound is 18400 ms") == "the bound is 18400 ms"


def test_spans_behind() -> None:
    commits, tables = [(0.0, 0), (2.0, 1), (4.0, 2)], [(0.5, 0), (3.0, 1), (5.0, 2), (7.0, -1)]
    assert _spans_behind(commits, tables, 9.0) == [
        (0.5, 2.0, 0),
        (2.0, 3.0, 1),
        (3.0, 4.0, 0),
        (4.0, 5.0, 1),
        (5.0, 7.0, 0),
    ]


def test_axes_have_round_steps_and_nothing_leaves_the_chart() -> None:
    assert [step_of(span, 10) for span in (9, 48, 100, 0.3)] == [1, 5, 10, 0.02]
    chart = Chart(10.0, 20.0, 50.0, "x")
    assert chart.x(-5) == chart.x(10) < chart.x(15) < chart.x(20) == chart.x(99)

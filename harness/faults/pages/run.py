"""The page of one run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from harness.faults.history import History
from harness.faults.pages.document import Markup, badge, cards, document, navigation, preformatted, section, table
from harness.faults.pages.owners import excerpt, lanes, named_actors
from harness.faults.pages.plots import convergence, latencies, phases_table, throughput
from harness.faults.pages.timeline import timeline
from harness.faults.pages.view import View

PAGE = "report.html"
SHOWN_FILES = (".json", ".jsonl", ".log", ".txt", ".py")
SHOWN_NAMESPACES = (
    ("actors", "hosts of actors"),
    ("sidecars", "simulated sidecars"),
    ("register", "watchers of members"),
)


def run_page(results: dict[str, Any], history: History, directory: Path) -> str:
    """The whole page, from what `RunReport.as_json` gives and the history."""
    view = View(history)
    schedule = results["schedule"]
    found = [result for result in results["results"] if result["verdict"] != "valid"]
    explained = named_actors(line for result in found for line in result["explanation"])
    parts = [
        ("findings", "What was found", _findings(view, results, found)),
        ("timeline", "Timeline", timeline(view)),
        ("latency", "Latency", latencies(view)),
        ("throughput", "Throughput", throughput(view)),
        ("tables", "Tables", _tables(view)),
        ("owners", "Owners", lanes(view, explained)),
        ("verdicts", "Verdicts", _verdicts(results)),
        ("faults", "Faults", _faults(results)),
        ("operations", "Operations", table(_OPERATIONS, phases_table(view))),
        ("files", "Files and commands", _files(directory)),
    ]
    body = _head(results, history) + navigation(parts)
    body += "".join(section(name, title, _ABOUT.get(name, ""), content) for name, title, content in parts)
    return document(f"{schedule['name']}: {'passed' if results['passed'] else 'failed'}", body)


_OPERATIONS = ("operation", "phase", "ok", "fail", "info", "p50 ms", "p95 ms", "max ms")
_ABOUT = {
    "timeline": "Bars of faults run from the first step of the injection to the last of the heal; pale ones with a "
    "dashed edge were not seen to bite. Grey: phases without faults. The pointer draws a line through all charts.",
    "latency": "Each dot is an operation at the time of its call. Operations without an answer stand at the top.",
    "throughput": "Operations by the second of their call.",
    "tables": "Each receiver's version, and below how far each is behind the newest that anybody had.",
    "owners": "Bars: the right to the actor's slot, as its host wrote it down (a frozen host notices the end of its "
    "lease when it wakes up). Strokes below: turns. First actors that a checker named, then those that moved most.",
    "faults": "Targets like leader were resolved when the fault began.",
    "operations": "fail: surely without effect; info: nobody knows. Latencies are of those that succeeded.",
}


def _head(results: dict[str, Any], history: History) -> str:
    schedule, figures, settings = results["schedule"], results["figures"], history.settings
    control = bool(schedule["expect"])
    words = ("passed" if results["passed"] else "failed") if not control else "control"
    verdict = badge(words)
    if control:
        verdict = Markup(verdict + badge("passed" if results["passed"] else "failed"))
    phases = [phase for found in figures.get("operations", {}).values() for phase in found.values()]
    operations = sum(count for outcomes in phases for count in outcomes.values())
    cluster = ", ".join(
        [
            *(f"{name} {settings.get(name, '?')}" for name in ("engine", "policy", "replicas", "hosts")),
            f"seed {schedule['seed']}",
            f"commit {str(settings.get('commit', ''))[:12] or 'unknown'}",
        ]
    )
    bitten = sum(bool(fault["proof"]) for fault in results["faults"])
    entries = [
        (f"{figures.get('live_s', 0):.0f} s", "live cluster"),
        (f"{operations:,}", "operations"),
        (f"{bitten} of {len(results['faults'])}", "faults seen to bite"),
        (str(figures.get("moves", 0)), "moves of actors"),
        (str(max(0, figures.get("leader_epochs", 1) - 1)), "leader changes"),
        (str(figures.get("stale_refused", 0)), "stale accesses refused"),
    ]
    about = f"<p>{schedule['about']}</p>" if schedule["about"] else ""
    return f'<h1>{verdict}{schedule["name"]}</h1>{about}<p class="soft">{cluster}</p>{cards(entries)}'


def _findings(view: View, results: dict[str, Any], found: list[dict[str, Any]]) -> str:
    expected = results["schedule"]["expect"]
    parts = []
    if expected:
        parts.append(f"<p>A control: something is broken on purpose, and {', '.join(expected)} must find it.</p>")
    problems = [problem for problem in results["problems"] if problem not in {result["checker"] for result in found}]
    if problems:
        parts.append(preformatted(problems))
    for result in found:
        lines = [view.relative(line).replace("] ms", "] ms since the beginning", 1) for line in result["explanation"]]
        parts.append(
            f"<h3>{badge(result['verdict'])} {result['checker']}</h3>{preformatted(lines)}{excerpt(view, result)}"
        )
    return "".join(parts)


def _verdicts(results: dict[str, Any]) -> str:
    rows = [
        (
            result["checker"],
            badge(result["verdict"]),
            ", ".join(f"{name} {value}" for name, value in result["figures"].items()),
        )
        for result in results["results"]
    ]
    return table(("checker", "verdict", "looked at"), rows)


def _faults(results: dict[str, Any]) -> str:
    rows = [
        (
            f"{fault['at_s']:.1f} s",
            fault["kind"],
            " ".join([fault["target"], *(f"{name}={value}" for name, value in fault["parameters"].items())]),
            fault["hit"],
            fault["proof"] or f"none: {fault['problem'] or 'it did not bite'}",
        )
        for fault in results["faults"]
    ]
    return table(("begins", "fault", "asked for", "hit", "proof that it bit"), rows)


def _tables(view: View) -> str:
    parts = []
    for name, words in SHOWN_NAMESPACES:
        chart = convergence(view, name)
        if chart:
            parts.append(f"<h3>Namespace {name}: {words}</h3>{chart}")
    return "".join(parts)


def _files(directory: Path) -> str:
    schedule = shlex.quote(str(directory / "schedule.json"))
    commands = [
        "# the same faults again",
        f"callboard-faults run --schedule {schedule}",
        "# the same history checked again",
        f"callboard-faults check {shlex.quote(str(directory))}",
    ]
    links = []
    for path in sorted(path for path in directory.rglob("*") if path.is_file() and path.suffix in SHOWN_FILES):
        name = path.relative_to(directory)
        links.append(f'<a href="{name}">{name}</a> ({path.stat().st_size // 1024 + 1} KiB)')
    return preformatted(commands) + "<p>" + ", ".join(links) + "</p>"

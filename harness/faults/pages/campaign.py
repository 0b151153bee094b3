"""The page of a campaign."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from harness.faults.pages.document import Markup, badge, cards, document, navigation, preformatted, section, table
from harness.faults.pages.run import PAGE
from harness.faults.summary import OUTCOMES, PHASES, Figures, duration, ending, headline, policy_of, totals_by_phase

BAR_PX = 260


def campaign_page(summary: Figures, runs: Sequence[Figures]) -> str:
    """The whole page. `runs`: what `summary.load_runs` gives."""
    parts = [
        ("failures", "Runs that failed", _failures(summary)),
        ("missing", "Not shown", table(("what this campaign did not show",), [(line,) for line in summary["missing"]])),
        ("figures", "Figures", table(("figure", ""), headline(summary))),
        ("faults", "Faults", _faults(summary)),
        ("service", "Out of service", _service(summary)),
        ("checkers", "Checkers", _checkers(summary)),
        ("operations", "Operations", _operations(summary)),
        ("clusters", "Clusters and workloads", _clusters(summary)),
        ("runs", "Runs", _runs(runs)),
    ]
    body = _head(summary) + navigation(parts)
    body += "".join(section(name, title, _ABOUT.get(name, ""), content) for name, title, content in parts)
    return document("Campaign of the fault-injection suite", body)


_ABOUT = {
    "faults": "Injected, and of these seen to bite by a proof that the fault itself brought.",
    "service": "For each fault the longest time around it without one success of that operation, of any client, on any "
    "object. Faults that overlap share such times.",
    "checkers": "Verdicts of all runs but controls. Unknown is not a pass.",
    "operations": "fail: surely without effect; info: nobody knows.",
    "runs": "Each name leads to the page of its run.",
}


def _head(summary: Figures) -> str:
    about, exclusive = summary["about"], summary["exclusive"]
    verdict = badge("failed" if summary["failed"] or not summary["runs"] else "passed")
    entries = [
        (duration(summary["live_s"]), "live cluster"),
        (str(summary["runs"]), "runs"),
        (str(len(summary["failed"])), "failed"),
        (f"{sum(counts['bitten'] for counts in summary['faults'].values()):,}", "faults that bit"),
        (f"{sum(sum(counts.values()) for counts in totals_by_phase(summary).values()):,}", "operations"),
        (f"{exclusive['duplicates']} of {exclusive['exposed']:,}", "duplicate activations (exclusive)"),
        (f"{summary['lost']} of {summary['acknowledged']:,}", "acknowledged changes lost"),
        (str(summary["unknown_verdicts"]), "unknown verdicts"),
        (f"{summary['stale_refused']:,}", "stale accesses refused"),
    ]
    words = f"{about['date']}, commit {about['commit'][:12] or 'unknown'}; {ending(about)}"
    command = preformatted([about["command"]])
    return (
        f'<h1>{verdict}Campaign of the fault-injection suite</h1><p class="soft">{words}</p>{command}{cards(entries)}'
    )


def _failures(summary: Figures) -> str:
    rows = [
        (_link(failure["folder"]), "; ".join(failure["problems"])[:600], Markup(f"<code>{failure['again']}</code>"))
        for failure in summary["failed"]
    ]
    return table(("run", "what", "again"), rows)


def _link(folder: str) -> Markup:
    return Markup(f'<a href="{folder}/{PAGE}">{folder}</a>')


def _bar(share: float, colour: str) -> Markup:
    width = round(share * BAR_PX)
    return Markup(
        f'<svg viewBox="0 0 {BAR_PX} 12" style="width:{BAR_PX}px" aria-hidden="true">'
        f'<rect y="1" height="10" rx="2" width="{max(width, 1)}" fill="{colour}"/></svg>'
    )


def _faults(summary: Figures) -> str:
    most = max((counts["injected"] for counts in summary["faults"].values()), default=1)
    rows = [
        (kind, counts["injected"], counts["bitten"], _bar(counts["bitten"] / most, "var(--network)"))
        for kind, counts in summary["faults"].items()
    ]
    return table(("fault", "injected", "bitten", ""), rows)


def _service(summary: Figures) -> str:
    rows = [
        (
            kind,
            max((found["count"] for found in operations.values()), default=0),
            *(round(operations.get(name, {}).get(one, 0)) for name, _ in _SERVED for one in ("p50", "max")),
        )
        for kind, operations in summary["out_of_service_ms"].items()
    ]
    return table(("fault", "times", *(f"{words} {one}, ms" for _, words in _SERVED for one in ("p50", "max"))), rows)


_SERVED = (("add counter", "actors"), ("upsert member", "members"), ("lookup lookup", "lookups"))


def _checkers(summary: Figures) -> str:
    rows = [
        (name, counts["valid"], counts["invalid"], counts["unknown"]) for name, counts in summary["verdicts"].items()
    ]
    return table(("checker", "valid", "invalid", "unknown"), rows)


def _operations(summary: Figures) -> str:
    rows = [
        (name, phase, *(phases[phase][one] for one in OUTCOMES))
        for name, phases in summary["operations"].items()
        for phase in PHASES
        if phase in phases
    ]
    return table(("operation", "phase", *OUTCOMES), rows)


def _clusters(summary: Figures) -> str:
    rows = [
        (one["engine"], one["policy"], one["replicas"], one["hosts"], one["runs"], duration(one["live_s"]))
        for one in summary["clusters"]
    ]
    workloads = ", ".join(f"{name} in {count} runs" for name, count in summary["workloads"].items())
    return table(("engine", "policy", "replicas", "hosts", "runs", "live"), rows) + f"<p>Workloads: {workloads}.</p>"


def _runs(runs: Iterable[dict[str, Any]]) -> str:
    rows = [
        (
            _link(run["folder"]),
            badge(("control" if run["schedule"]["expect"] else "passed") if run["passed"] else "failed"),
            f"{run['schedule']['settings'].get('engine', 'pysyncobj')}, {policy_of(run)}",
            round(run["figures"].get("live_s", 0)),
            sum(bool(fault["proof"]) for fault in run["faults"]),
            run["figures"].get("moves", 0),
            max(0, run["figures"].get("leader_epochs", 1) - 1),
            run["figures"].get("stale_refused", 0),
        )
        for run in runs
    ]
    head = ("run", "verdict", "cluster", "live s", "faults", "moves", "leader changes", "stale refused")
    return table(head, rows)

"""Writes what was measured into files, between marks: the summary of a campaign into spec/README.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BEGIN, END = "<!-- simulation campaign -->\n", "<!-- end -->"


def write_campaign(readme: Path, summary: dict[str, Any]) -> None:
    """Replace what stands between the marks. Raises ValueError if there are none."""
    replace_between(readme, BEGIN, campaign_text(summary))


def replace_between(readme: Path, begin: str, text: str) -> None:
    """Put `text` between a mark and the next end.

    Raises:
        ValueError: the file has no such marks.
    """
    old = readme.read_text(encoding="utf-8")
    start = old.find(begin)
    stop = old.find(END, start)
    if start < 0 or stop < 0:
        raise ValueError(f"{readme} has no {begin.strip()} with {END} after it")
    readme.write_text(f"{old[: start + len(begin)]}\n{text}\n{old[stop:]}", encoding="utf-8")


def campaign_text(summary: dict[str, Any]) -> str:
    """The tables."""
    seeds = f"{summary['first_seed']}-{summary['last_seed']}"
    converged = summary["convergence_ms"]
    rows = [
        ("seeds", f"{summary['seeds']:,}"),
        ("violations", str(len(summary["violations"]))),
        ("changes of owner (slots)", f"{summary['owner_changes']:,}"),
        ("changes of leader", f"{summary['leader_changes']:,}"),
        ("faults, of which bit", f"{summary['faults']:,}, {summary['faults_bitten']:,}"),
        ("events", f"{summary['events']:,}"),
        ("simulated time", f"{summary['simulated_s'] / 3600:.1f} h"),
        ("processor time", f"{summary['cpu_s'] / 3600:.2f} h"),
        ("real time", f"{summary['real_s'] / 3600:.2f} h with {_processes(summary['jobs'])}"),
        (
            "right again after the heal, p50 / p95 / max",
            f"{converged['p50']} / {converged['p95']} / {converged['max']} ms",
        ),
    ]
    rows += [
        (f"largest share of its bound, policy `{policy}`", f"{100 * share:.0f} %")
        for policy, share in summary["largest_share_of_bound"].items()
    ]
    lines = [f"`python -m harness.simulation --seeds {seeds}`:", "", "| what | count |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows]
    lines += [f"| {name} | {count:,} |" for name, count in summary["checked"].items()]
    lines += ["", "| rare situation | times |", "|---|---|"]
    lines += [f"| {name} | {count:,} |" for name, count in summary["rare"].items()]
    lines += ["", "| fault | times | bit |", "|---|---|---|"]
    lines += [f"| `{kind}` | {count:,} | {bit:,} |" for kind, (count, bit) in summary["faults_by_kind"].items()]
    return "\n".join(lines) + "\n"


def _processes(jobs: list[int]) -> str:
    """Of each stretch of a campaign; they may differ."""
    return "one process" if jobs == [1] else f"{' or '.join(map(str, jobs))} processes"

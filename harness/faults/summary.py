"""The summary of a campaign: the figures of all its runs added up, as JSON, as markdown, and for a terminal."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.faults.coverage import missing
from harness.faults.figures import spread
from harness.faults.runner import ALL_WORKLOADS

RESULTS = "results.json"
CAMPAIGN = "campaign.json"
MARKDOWN = "campaign.md"
PAGE = "campaign.html"
OUTCOMES = ("ok", "fail", "info")
PHASES = ("before", "during", "after")
BEGIN, END = "<!-- recorded campaign: begin -->", "<!-- recorded campaign: end -->"
Figures = dict[str, Any]


def load_runs(directory: Path) -> list[Figures]:
    """Results of all runs of a campaign, in their order, each with its `folder`."""
    found = []
    for path in sorted(directory.glob(f"*/{RESULTS}")):
        result: Figures = json.loads(path.read_text())
        found.append(result | {"folder": path.parent.name})
    return found


def summarise(runs: Sequence[Figures], about: Mapping[str, Any]) -> Figures:
    """All sums. `about`: how the campaign was started and ended, as it is to be kept. Controls, in which something has
    to go wrong, are counted apart."""
    tests = [run for run in runs if not run["schedule"]["expect"]]
    controls = [run for run in runs if run["schedule"]["expect"]]
    exclusive = [run for run in tests if policy_of(run) == "exclusive"]
    exposed = _sum(exclusive, "moves_exposed")
    summed = {
        "about": dict(about),
        "runs": len(runs),
        "passed": sum(run["passed"] for run in runs),
        "failed": [_failure(run) for run in runs if not run["passed"]],
        "controls": {"runs": len(controls), "caught": sum(run["passed"] for run in controls)},
        "live_s": round(sum(run["figures"].get("live_s", 0.0) for run in runs), 1),
        "seeds": sorted({run["schedule"]["seed"] for run in runs}),
        "scenarios": sorted({run["schedule"]["name"] for run in runs if run["schedule"]["about"]}),
        "clusters": _clusters(runs),
        "workloads": dict(sorted(Counter(name for run in runs for name in workloads_of(run)).items())),
        "faults": _faults(runs),
        "operations": _operations(runs),
        "verdicts": _verdicts(tests),
        "histories_checked": sum(bool(run["results"]) for run in runs),
        "unknown_verdicts": sum(_verdict_counts(runs)["unknown"].values()),
        "moves": _sum(tests, "moves"),
        "leader_changes": sum(max(0, run["figures"].get("leader_epochs", 1) - 1) for run in runs),
        "stale_refused": _sum(tests, "stale_refused"),
        "runs_with_refusals": sum(run["figures"].get("stale_refused", 0) > 0 for run in tests),
        "sidecar_orders": _orders(runs),
        "exclusive": {
            "moves": _sum(exclusive, "moves"),
            "exposed": exposed,
            "duplicates": _figure(exclusive, ("single_activation", "stale_turns"), "duplicates"),
            "bound_95": round(3 / exposed, 6) if exposed else None,
        },
        "acknowledged": _figure(tests, ("acknowledged_once",), "acknowledged"),
        "lost": _figure(tests, ("acknowledged_once",), "lost"),
        "convergence": _convergence(tests),
        "out_of_service_ms": _out_of_service(tests),
        "stalls_ms": spread([late for run in runs for late in run["figures"].get("stalls_ms", ())]),
    }
    return summed | {"missing": missing(summed) if about.get("everything") else []}


def policy_of(run: Figures) -> str:
    """The policy of a run's actors."""
    return str(run["schedule"]["settings"].get("policy", "exclusive"))


def workloads_of(run: Figures) -> list[str]:
    """A run's workloads."""
    return list(run["schedule"]["settings"].get("workloads", ALL_WORKLOADS))


def again(run: Figures) -> str:
    """The command that repeats a run of a campaign, from the campaign's directory."""
    return f"callboard-faults run --schedule {shlex.quote(run['folder'] + '/schedule.json')}"


def _failure(run: Figures) -> Figures:
    return {"folder": run["folder"], "problems": run["problems"], "again": again(run)}


def _orders(runs: Iterable[Figures]) -> dict[str, int]:
    found = Counter[str]()
    for run in runs:
        found.update(run["figures"].get("sidecar_orders", {}))
    return {phase: found[phase] for phase in PHASES}


def _sum(runs: Iterable[Figures], name: str) -> int:
    return sum(run["figures"].get(name, 0) for run in runs)


def _figure(runs: Iterable[Figures], checkers: Sequence[str], name: str) -> int:
    return sum(
        result["figures"].get(name, 0) for run in runs for result in run["results"] if result["checker"] in checkers
    )


def _clusters(runs: Iterable[Figures]) -> list[Figures]:
    found: dict[tuple[str, str, int, int], Figures] = {}
    for run in runs:
        settings = run["schedule"]["settings"]
        key = (
            str(settings.get("engine", "pysyncobj")),
            policy_of(run),
            int(settings.get("replicas", 3)),
            int(settings.get("hosts", 3)),
        )
        names = dict(zip(("engine", "policy", "replicas", "hosts"), key, strict=True))
        entry = found.setdefault(key, names | {"runs": 0, "live_s": 0.0})
        entry["runs"] += 1
        entry["live_s"] = round(entry["live_s"] + run["figures"].get("live_s", 0.0), 1)
    return [found[key] for key in sorted(found)]


def _faults(runs: Iterable[Figures]) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {}
    for run in runs:
        for kind, counts in run["figures"].get("faults", {}).items():
            found.setdefault(kind, Counter()).update(counts)
    return {kind: {name: found[kind][name] for name in ("injected", "bitten")} for kind in sorted(found)}


def _operations(runs: Iterable[Figures]) -> dict[str, dict[str, dict[str, int]]]:
    found: dict[str, dict[str, Counter[str]]] = {}
    for run in runs:
        for name, phases in run["figures"].get("operations", {}).items():
            for phase, outcomes in phases.items():
                found.setdefault(name, {}).setdefault(phase, Counter()).update(outcomes)
    return {
        name: {phase: {one: found[name][phase][one] for one in OUTCOMES} for phase in PHASES if phase in found[name]}
        for name in sorted(found)
    }


def _verdict_counts(runs: Iterable[Figures]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {name: Counter() for name in ("valid", "invalid", "unknown")}
    for run in runs:
        for result in run["results"]:
            found[result["verdict"]][result["checker"]] += 1
    return found


def _verdicts(runs: Sequence[Figures]) -> dict[str, dict[str, int]]:
    counts = _verdict_counts(runs)
    checkers = sorted({checker for found in counts.values() for checker in found})
    return {checker: {verdict: counts[verdict][checker] for verdict in counts} for checker in checkers}


def _convergence(runs: Iterable[Figures]) -> dict[str, Figures]:
    delays: dict[str, list[float]] = {}
    bounds: dict[str, list[int]] = {}
    heals: Counter[str] = Counter()
    for run in runs:
        for name, found in run["figures"].get("convergence", {}).items():
            delays.setdefault(name, []).extend(found["delays_ms"])
            bounds.setdefault(name, []).append(found["bound_ms"])
            heals[name] += found["heals"]
    return {
        name: {**spread(delays[name]), "heals": heals[name], "bound_ms": min(bounds[name])} for name in sorted(delays)
    }


def _out_of_service(runs: Iterable[Figures]) -> dict[str, dict[str, Mapping[str, float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        for kind, operations in run["figures"].get("out_of_service", {}).items():
            for name, gaps in operations.items():
                found.setdefault(kind, {}).setdefault(name, []).extend(gaps)
    return {kind: {name: spread(gaps) for name, gaps in sorted(found[kind].items())} for kind in sorted(found)}


# -- for people ------------------------------------------------------------------------------------------


def headline(summary: Figures) -> list[tuple[str, str]]:
    """The figures that everybody asks for, in words."""
    exclusive, totals = summary["exclusive"], totals_by_phase(summary)
    bitten = sum(counts["bitten"] for counts in summary["faults"].values())
    injected = sum(counts["injected"] for counts in summary["faults"].values())
    bound = f"; at 95 % confidence fewer than 1 in {round(1 / exclusive['bound_95'])}" if exclusive["bound_95"] else ""
    lines = [
        ("live cluster time", duration(summary["live_s"])),
        ("runs", f"{summary['runs']}: {summary['passed']} passed, {len(summary['failed'])} failed"),
        ("controls", f"{summary['controls']['caught']} of {summary['controls']['runs']} caught"),
        ("seeds", seeds_text(summary["seeds"])),
        ("scenarios", str(len(summary["scenarios"]))),
        ("workloads", ", ".join(f"{name} in {count} runs" for name, count in summary["workloads"].items())),
        ("faults", f"{injected} of {len(summary['faults'])} kinds; {bitten} seen to bite"),
        *(
            (f"operations {phase}", ", ".join(f"{totals[phase][one]} {one}" for one in OUTCOMES))
            for phase in PHASES
            if phase in totals
        ),
        ("histories checked", str(summary["histories_checked"])),
        ("verdicts that are unknown", str(summary["unknown_verdicts"])),
        ("moves of actors", str(summary["moves"])),
        ("leader changes", str(summary["leader_changes"])),
        (
            "stale writes refused by the store",
            f"{summary['stale_refused']}, in {summary['runs_with_refusals']} runs",
        ),
        (
            "duplicate activations (exclusive)",
            f"{exclusive['duplicates']} in {exclusive['exposed']} moves whose earlier owner was still there{bound}",
        ),
        ("lost acknowledged changes", f"{summary['lost']} of {summary['acknowledged']}"),
    ]
    return lines + [(f"convergence, {name}", _arrivals(found)) for name, found in summary["convergence"].items()]


def _arrivals(found: Figures) -> str:
    return (
        f"p50 {found['p50']:.0f} ms, p95 {found['p95']:.0f} ms, max {found['max']:.0f} ms of "
        f"{found['bound_ms']} ms allowed ({found['count']} arrivals, {found['heals']} heals)"
    )


def totals_by_phase(summary: Figures) -> dict[str, Counter[str]]:
    """Operations of all functions."""
    found: dict[str, Counter[str]] = {}
    for phases in summary["operations"].values():
        for phase, outcomes in phases.items():
            found.setdefault(phase, Counter()).update(outcomes)
    return found


def ending(about: Mapping[str, Any]) -> str:
    """Why a campaign ended, and whether somebody went on with it."""
    return f"ended by: {about['ended']}" + ("; resumed after an interruption" if about.get("resumed") else "")


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    whole = int(seconds)
    return f"{whole // 3600} h {whole // 60 % 60:02d} min {whole % 60:02d} s"


def seeds_text(seeds: Sequence[int]) -> str:
    """Seeds with ranges."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def markdown(summary: Figures) -> str:
    """The summary for documents."""
    about = summary["about"]
    commit = about["commit"][:12] or "unknown"
    faults = [(kind, counts["injected"], counts["bitten"]) for kind, counts in summary["faults"].items()]
    verdicts = [
        (name, counts["valid"], counts["invalid"], counts["unknown"]) for name, counts in summary["verdicts"].items()
    ]
    lines = [f"`{about['command']}`, {about['date']}, commit {commit}; {ending(about)}.", ""]
    tables: list[tuple[Sequence[str], Sequence[Sequence[object]]]] = [
        (("figure", ""), headline(summary)),
        (("cluster", "runs", "live"), [_cluster_row(cluster) for cluster in summary["clusters"]]),
        (("fault", "injected", "bitten"), faults),
        (("checker", "valid", "invalid", "unknown"), verdicts),
        (("out of service during", "operation", "p50 ms", "p95 ms", "max ms"), service_rows(summary)),
    ]
    for head, rows in tables:
        lines += [*_table(head, rows), ""]
    if summary["missing"]:
        lines += ["What this campaign did not show:", "", *(f"- {line}" for line in summary["missing"]), ""]
    if summary["failed"]:
        lines += ["Runs that failed:", ""]
        for failure in summary["failed"]:
            problems = " ".join("; ".join(failure["problems"]).split())
            lines.append(f"- {failure['folder']}: {problems[:400]}")
    return "\n".join(lines).rstrip() + "\n"


def service_rows(summary: Figures) -> list[tuple[str, str, str, str, str]]:
    """The longest times without success by kind of fault, for calls of actors and changes of members."""
    return [
        (kind, name, f"{found['p50']:.0f}", f"{found['p95']:.0f}", f"{found['max']:.0f}")
        for kind, operations in summary["out_of_service_ms"].items()
        for name, found in operations.items()
        if name in {"add counter", "upsert member"}
    ]


def _cluster_row(cluster: Figures) -> tuple[object, ...]:
    name = f"{cluster['engine']}, {cluster['policy']}, {cluster['replicas']} replicas, {cluster['hosts']} hosts"
    return name, cluster["runs"], duration(cluster["live_s"])


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows),
    ]


def record(summary: Figures, document: Path) -> None:
    """Put the summary between the markers of a document. Raises ValueError if it has none."""
    text = document.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{document}: it must have the lines {BEGIN} and {END} once each")
    before, rest = text.split(BEGIN)
    document.write_text(f"{before}{BEGIN}\n\n{markdown(summary)}\n{END}{rest.split(END)[1]}")

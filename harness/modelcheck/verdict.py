"""Deciding whether a run came out as expected."""

from __future__ import annotations

import attrs

from harness.modelcheck.cfgfile import Cfg
from harness.modelcheck.manifest import Config
from harness.modelcheck.tlc import Run

# Exit codes of TLC by which it must confirm what its messages say.
EXIT_OK = 0
EXIT_DEADLOCK = 11
EXIT_INVARIANT = 12
EXIT_PROPERTY = 13


@attrs.frozen
class Verdict:
    """`result` is what TLC found ("pass", "violated", "error", "timeout"); `surprises` is empty when all is well."""

    result: str
    violated: str = ""
    surprises: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything came out as expected."""
        return not self.surprises


def finding(run: Run, cfg: Cfg, *, simulated: bool) -> Verdict:
    """What TLC found, before any comparison. Contradictions between its messages and its exit code are errors."""
    output = run.output
    if run.exit_code is None:
        return Verdict("timeout", surprises=(f"stopped after {run.seconds:.0f} s without a result",))
    if output.violated is not None and run.exit_code in (EXIT_DEADLOCK, EXIT_INVARIANT, EXIT_PROPERTY):
        return Verdict("violated", violated=_name_of(output.violated, cfg))
    if output.errors:
        return Verdict("error", surprises=(f"TLC stopped with exit code {run.exit_code}: {output.errors[0]}",))
    complete = output.simulated if simulated else output.finished
    if run.exit_code == EXIT_OK and complete and output.violated is None:
        return Verdict("pass")
    return Verdict("error", surprises=(f"TLC ended with exit code {run.exit_code} without saying that it finished",))


def _name_of(violated: str, cfg: Cfg) -> str:
    """TLC names no temporal property and gives a refinement's action by its place: take the name from the cfg."""
    if violated in (*cfg.invariants, "Deadlock") or violated in cfg.properties:
        return violated
    return cfg.properties[0] if len(cfg.properties) == 1 else violated


def judge(config: Config, cfg: Cfg, run: Run) -> Verdict:
    """Compare a run of a config with what its manifest says."""
    found = finding(run, cfg, simulated=config.simulate is not None)
    if found.surprises:
        return found
    if config.expect == "violated":
        return _judge_violation(found, config.property)
    if found.result == "violated":
        return attrs.evolve(found, surprises=(f"{found.violated} is violated, but the config was to pass",))
    surprises = [*_uncovered(config, run)]
    if config.simulate is None:
        surprises += _count_changes(config, run)
    return attrs.evolve(found, surprises=tuple(surprises))


def _judge_violation(found: Verdict, expected: str) -> Verdict:
    if found.result == "pass":
        return attrs.evolve(found, surprises=(f"{expected} holds, but was to be violated",))
    if found.violated != expected:
        return attrs.evolve(found, surprises=(f"{found.violated} is violated instead of {expected}",))
    return found


def judge_violation(expected: str, cfg: Cfg, run: Run) -> Verdict:
    """For mutants and models without fairness: exactly this property must be violated."""
    found = finding(run, cfg, simulated=False)
    return found if found.surprises else _judge_violation(found, expected)


def _uncovered(config: Config, run: Run) -> list[str]:
    if not config.coverage:
        return []
    if not run.output.coverage:
        return ["TLC reported no action coverage"]
    silent = sorted(name for name, count in run.output.coverage.items() if count == 0)
    surprises = [f"action {name} never fired" for name in silent if name not in config.coverage_exempt]
    # An action over an empty set of constants is not in TLC's list at all; such an exemption is good.
    surprises += [
        f"action {name} is exempt from coverage, but fired"
        for name in sorted(config.coverage_exempt)
        if run.output.coverage.get(name, 0) > 0
    ]
    return surprises


def _count_changes(config: Config, run: Run) -> list[str]:
    surprises = []
    for field in ("generated", "distinct", "depth"):
        expected, got = getattr(config, field), getattr(run.output, field)
        if expected is None and field != "depth":
            surprises.append(f"the manifest has no count of {field} states (found {got}; --update-counts writes it)")
        elif expected is not None and expected != got:
            surprises.append(f"{field} is {got}, but the manifest says {expected}")
    return surprises

"""Each checker of the simulator fires: a sample of seeded bugs, at least one for each property. `hunt` has them all."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from harness.seeded_bugs.registry import Bug
from harness.simulation.__main__ import main
from harness.simulation.hunt import BUGS, hunt, wanted
from harness.simulation.kernel import MS
from harness.simulation.plan import draw
from harness.simulation.world import World
from harness.violation import PropertyViolation

SEEDS = range(1, 61)
SAMPLE = {
    "grant_ignores_pending",
    "lease_from_receipt",
    "grant_accepted_twice",
    "cancels_at_once",
    "the_silent_stay",
    "failed_rounds_end_all_rounds",
    "answers_are_forgotten",
    "any_epoch_may_write",
    "version_never_rises",
    "state_depends_on_the_replica",
    "leaves_deal_anew",
    "joins_get_only_what_is_free",
    "digest_not_compared",
    "rounds_are_restarted",
    "timeout_cuts_everyone",
    "the_disk_only_pretends",
    "turns_do_not_wait",
    "unknown_outcomes_are_retried",
    "one_slow_giver_delays_all",
    "isolation_has_no_end",
    "lost_reports_are_not_asked_for",
}


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.name in SAMPLE], ids=lambda bug: bug.name)
def test_seeded_bug_is_found(bug: Bug) -> None:
    found = hunt(bug, SEEDS)
    assert found.violated in wanted(bug), f"{bug.name} survived {found.seeds} seeds"


def test_the_sample_is_of_bugs_that_there_are() -> None:
    assert {bug.name for bug in BUGS} >= SAMPLE


def test_older_tables_are_noticed() -> None:
    """Streams keep their order here, so a host that installs older tables is met too seldom for the sample above."""
    world = World(draw(1))
    world.kernel.run_until(1_500 * MS)
    host = next(host for host in world.hosts if host.version > 0)
    host.version += 1
    with pytest.raises(PropertyViolation, match="TableMonotonic"):
        world.tables.installed(host, host.version - 1)


def test_hunt_prints_what_was_found() -> None:
    found = CliRunner().invoke(main, ["hunt", "--bug", "fences_stay", "--seeds", "2"])
    assert found.exit_code == 0, found.output
    assert "FenceMonotonic" in found.output
    found = CliRunner().invoke(main, ["hunt", "--bug", "no_such_bug"])
    assert found.exit_code == 2
    assert "no_such_bug" in found.output

"""Assignments that stay what they are: forty of them, in one history, written out in slot_assignments.txt.

Every replica works the tables out for itself when it applies a command, and works them out again from the log when it
starts. So `assign` has to come to the same table in every release, on every version of Python. Whoever changes what
it comes to makes replicas of two releases disagree while a cluster is upgraded: such a change has to wait for a new
feature level (`KNOWN_FEATURE_LEVEL`), below which the old assignment goes on; then this file stays, and the new
assignment gets one of its own. Balance and movement are looked at in test_slot_assignment.py.
"""

from __future__ import annotations

from pathlib import Path

from callboard.core.slot_assignment import Candidate, assign, empty_table
from callboard.core.slot_records import SlotTable

SLOTS = 24
HISTORY = Path(__file__).with_name("slot_assignments.txt")


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(each) for each in text.split())


def candidate(text: str) -> Candidate:
    incarnation, _, rest = text.partition(":")
    return Candidate(int(incarnation), int(rest.rstrip("cd")), cordoned="c" in rest, draining="d" in rest)


def test_forty_assignments_are_what_they_were() -> None:
    blocks = HISTORY.read_text(encoding="utf-8").split("\n\n")[1:]
    table = empty_table(SLOTS)
    for block in blocks:
        said = dict(line.split(maxsplit=1) for line in block.splitlines())
        words = said["hosts"].split()
        hosts = [candidate(word) for word in words if ":" in word]
        renamed = [numbers(word.replace(">", " ")) for word in words if ">" in word]
        successors = {pair[0]: pair[1] for pair in renamed}
        table = assign(table, hosts, int(said["version"]), successors, joined="joined" in words)
        assert table == SlotTable(numbers(said["owners"]), numbers(said["since"])), f"version {said['version']}"
    assert len(blocks) == 40

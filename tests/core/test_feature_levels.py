"""Old logs and snapshots must mean the same for ever: replicas that upgrade replay them."""

from __future__ import annotations

import json

import pytest

from callboard.core import snapshot
from callboard.core.membership import KNOWN_FEATURE_LEVEL
from tests.core.feature_level_fixture import ENTRIES, FOLDER, replay


@pytest.mark.parametrize("level", range(1, KNOWN_FEATURE_LEVEL + 1))
def test_log_and_snapshot_of_each_level_replay_to_the_recorded_digest(level: int) -> None:
    entries = [bytes.fromhex(line) for line in (FOLDER / f"level_{level}.log").read_text().split()]
    expected = json.loads((FOLDER / f"level_{level}.json").read_text())
    state, codes = replay(entries)
    assert codes == expected["answers"]
    assert snapshot.digest(state) == expected["digest"]
    saved = (FOLDER / f"level_{level}.snapshot").read_bytes()
    assert snapshot.decode_state(saved) == state
    assert snapshot.encode_state(state) == saved, "a snapshot of the same state has other bytes now"


@pytest.mark.parametrize("level", ENTRIES)
def test_commands_of_each_level_are_still_encoded_alike(level: int) -> None:
    recorded = (FOLDER / f"level_{level}.log").read_text().split()
    assert [entry.hex() for entry in ENTRIES[level]()] == recorded

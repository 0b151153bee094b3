"""Golden transcripts of the barrier machine, one rule per file.

After a wanted change of behaviour write them anew with REWRITE_TRANSCRIPTS=1 and read the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.core.barrier_driver import replay

TRANSCRIPTS = sorted((Path(__file__).parent / "barrier_transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    output = replay(path)
    if os.environ.get("REWRITE_TRANSCRIPTS"):
        path.write_text(output, encoding="utf-8")
    assert output == path.read_text(encoding="utf-8")


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) > 15

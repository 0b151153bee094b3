"""Backup files: what was written is read, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from callboard.consensus.archive import (
    Archive,
    ArchiveError,
    ArchiveHeader,
    decode_archive,
    encode_archive,
    read_archive,
    write_archive,
)

HEADER = ArchiveHeader(
    index=7,
    state_bytes=5,
    engine="etcd",
    cluster_id="c",
    replica_id="r\n1",
    created_unix_ms=1_700_000_000_000,
    software="callboard 0.1.0",
)
ARCHIVE = Archive(HEADER, b"state")


@given(st.binary(max_size=200), st.integers(0, 2**62), st.text(max_size=20))
def test_what_was_encoded_is_decoded(state: bytes, index: int, name: str) -> None:
    archive = Archive(evolve(HEADER, index=index, state_bytes=len(state), cluster_id=name), state)
    assert decode_archive(encode_archive(archive), "b") == archive


def test_a_file_is_written_once_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "backup"
    write_archive(path, ARCHIVE)
    assert read_archive(path) == ARCHIVE
    assert path.stat().st_mode & 0o077 == 0, "it may hold secrets of hosts"
    with pytest.raises(ArchiveError, match="exists"):
        write_archive(path, ARCHIVE)
    assert [file.name for file in tmp_path.iterdir()] == ["backup"]
    assert path.read_bytes().splitlines()[0] == b"callboard-backup 1"


def test_every_cut_and_every_changed_byte_is_noticed() -> None:
    content = encode_archive(ARCHIVE)
    for length in range(len(content)):
        with pytest.raises(ArchiveError):
            decode_archive(content[:length], "b")
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        with pytest.raises(ArchiveError):
            decode_archive(bytes(damaged), "b")


def test_messages_name_the_file_and_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="missing: No such file"):
        read_archive(tmp_path / "missing")
    with pytest.raises(ArchiveError, match="b: not a callboard backup"):
        decode_archive(b"something else", "b")
    newer = encode_archive(ARCHIVE).replace(b"backup 1", b"backup 2", 1)
    with pytest.raises(ArchiveError, match="b: backup format 2, this version reads 1"):
        decode_archive(newer, "b")
    with pytest.raises(ArchiveError, match="contradicts"):
        decode_archive(encode_archive(evolve(ARCHIVE, state=b"longer than told")), "b")
    with pytest.raises(ArchiveError, match="nowhere"):
        write_archive(tmp_path / "nowhere" / "b", ARCHIVE)

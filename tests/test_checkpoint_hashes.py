"""SHA-256 of files: right, remembered only while that is safe, and held against the Hub's names."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from mergebuild.checkpoint import digests as digests_module
from mergebuild.checkpoint.digests import DigestMemo
from mergebuild.checkpoint.hashes import FileHash, file_hashes, named_hash
from mergebuild.errors import CheckpointError


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as old at once."""
    monkeypatch.setattr(digests_module, "_SETTLED_NS", -(10**12))


def hashed(root: Path, *files: Path, jobs: int = 2) -> tuple[dict[Path, FileHash], int]:
    """The hashes, and how many bytes were read for them."""
    read: list[int] = []
    with DigestMemo(root / "memo.db") as memo:
        return file_hashes(memo, files, jobs=jobs, progress=read.append), sum(read)


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


SIZES = [0, 1, 1 << 20, (1 << 20) + 1, 3 << 20]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("jobs", [1, 3])
def test_right_and_remembered(jobs: int, tmp_path: Path) -> None:
    contents = [bytes(i % 251 for i in range(size)) for size in SIZES]
    files = [write(tmp_path / str(len(content)), content) for content in contents]
    expected = {
        file: FileHash(len(content), hashlib.sha256(content).hexdigest())
        for file, content in zip(files, contents, strict=True)
    }
    assert hashed(tmp_path, *files, jobs=jobs) == (expected, sum(SIZES))
    assert hashed(tmp_path, *files, jobs=jobs) == (expected, 0)
    (tmp_path / "memo.db").unlink()
    assert hashed(tmp_path, *files, jobs=jobs) == (expected, sum(SIZES))


@pytest.mark.usefixtures("settled")
def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = write(tmp_path / "file", b"one")
    hashed(tmp_path, file)
    time.sleep(0.02)
    state = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert hashed(tmp_path, file)[0][file].sha256 == hashlib.sha256(b"two").hexdigest()


def test_a_young_file_is_not_remembered(tmp_path: Path) -> None:
    file = write(tmp_path / "file", b"one")
    assert [hashed(tmp_path, file)[1] for _ in range(2)] == [3, 3]


def blob(root: Path, name: str, content: bytes) -> Path:
    """A file of a snapshot in the Hub's cache."""
    write(root / "models--a--b/blobs" / name, content)
    link = root / "models--a--b/snapshots/1/model.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(f"../../blobs/{name}")
    return link


def test_a_blob_is_what_it_is_named_for(tmp_path: Path) -> None:
    name = hashlib.sha256(b"weights").hexdigest()
    file = blob(tmp_path, name, b"weights")
    assert named_hash(file) == name
    assert hashed(tmp_path, file)[0][file].sha256 == name
    small = blob(tmp_path / "small", "a" * 40, b"config")
    assert named_hash(small) is None
    assert hashed(tmp_path, small)[0][small].sha256 == hashlib.sha256(b"config").hexdigest()


def test_a_damaged_blob_is_an_error(tmp_path: Path) -> None:
    file = blob(tmp_path, hashlib.sha256(b"weights").hexdigest(), b"waights")
    with pytest.raises(CheckpointError, match="not what it is named for"):
        hashed(tmp_path, file)


def test_a_file_that_changes_meanwhile_is_an_error(tmp_path: Path) -> None:
    file = write(tmp_path / "file", b"x" * (1 << 21))
    time.sleep(0.02)
    with (
        DigestMemo(tmp_path / "memo.db") as memo,
        pytest.raises(CheckpointError, match="changed while"),
    ):
        file_hashes(memo, [file], jobs=1, progress=lambda _: os.utime(file))


def test_an_error_stops_those_under_way(tmp_path: Path) -> None:
    files = [write(tmp_path / str(i), b"x" * (4 << 20)) for i in range(3)]
    told: list[int] = []

    def progress(count: int) -> None:
        told.append(count)
        raise KeyboardInterrupt

    with DigestMemo(tmp_path / "memo.db") as memo, pytest.raises(KeyboardInterrupt):
        file_hashes(memo, files, jobs=3, progress=progress)
    assert len(told) < 12

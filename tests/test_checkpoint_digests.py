"""Digests of sources: right, remembered only while that is safe, and never in the way."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mergebuild.checkpoint import digests as digests_module
from mergebuild.checkpoint.digests import DigestMemo
from mergebuild.checkpoint.source import open_checkpoint
from mergebuild.digest import BLOCK, ContentDigest, bytes_digest
from mergebuild.errors import CheckpointError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    big = torch.arange(BLOCK // 4 * 2 + 100, dtype=torch.int32)
    small = {f"layers.{i}.w": torch.full((3,), float(i)) for i in range(20)}
    save_file({"big": big, "empty": torch.zeros(0), **small}, path / "model.safetensors")
    return path


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as old at once."""
    monkeypatch.setattr(digests_module, "_SETTLED_NS", -(10**12))


def digests(model: Path, memo: Path, jobs: int = 2) -> tuple[dict[str, str], int]:
    """The digests, and how many bytes were read for them."""
    read: list[int] = []
    with DigestMemo(memo) as opened:
        found = opened.tensor_digests(open_checkpoint(model, "x"), jobs=jobs, progress=read.append)
    return found, sum(read)


def computed(model: Path) -> dict[str, str]:
    found = {}
    for name, tensor in sorted(load_file(model / "model.safetensors").items()):
        content = ContentDigest(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        content.update(tensor.numpy().tobytes())
        found[name] = content.hexdigest()
    return found


def size(model: Path) -> int:
    return sum(t.nbytes for t in open_checkpoint(model, "x").tensors.values())


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_right_for_any_number_of_threads(jobs: int, model: Path, tmp_path: Path) -> None:
    found, read = digests(model, tmp_path / "memo.db", jobs)
    assert found == computed(model)
    assert list(found) == sorted(found)
    assert read == size(model)


@pytest.mark.usefixtures("settled")
def test_remembered(model: Path, tmp_path: Path) -> None:
    memo = tmp_path / "cache" / "memo.db"
    first, read = digests(model, memo)
    assert read == size(model)
    assert digests(model, memo) == (first, 0)
    memo.unlink()
    assert digests(model, memo) == (first, read)


def test_not_while_it_is_young(model: Path, tmp_path: Path) -> None:
    memo = tmp_path / "memo.db"
    for _ in range(2):
        assert digests(model, memo)[1] == size(model)
    os.utime(model / "model.safetensors", (1e9, 1e9))  # the ctime is still young
    assert digests(model, memo)[1] == size(model)
    assert digests(model, memo)[1] == size(model)


def _flip(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")


def _flip_quietly(path: Path) -> None:
    state = path.stat()
    _flip(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def _swap(path: Path) -> None:
    """Same bytes elsewhere: another inode."""
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", [_flip, _flip_quietly, _swap, lambda path: os.utime(path)])
def test_any_change_is_read_again(
    change: Callable[[Path], None], model: Path, tmp_path: Path
) -> None:
    memo = tmp_path / "memo.db"
    digests(model, memo)
    time.sleep(0.02)
    change(model / "model.safetensors")
    found, read = digests(model, memo)
    assert read == size(model)
    assert found == computed(model)


@pytest.mark.usefixtures("settled")
def test_moved_files_are_read_again(model: Path, tmp_path: Path) -> None:
    memo = tmp_path / "memo.db"
    found, _ = digests(model, memo)
    assert digests(model.rename(tmp_path / "moved"), memo)[0] == found


def test_changed_since_it_was_opened(model: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(model, "x")
    time.sleep(0.02)
    _flip(model / "model.safetensors")
    with DigestMemo(tmp_path / "memo.db") as memo, pytest.raises(CheckpointError, match="changed"):
        memo.tensor_digests(checkpoint, jobs=2, progress=lambda _: None)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("jobs", [1, 2])
def test_changed_while_it_is_read(jobs: int, model: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(model, "x")
    time.sleep(0.02)
    flipped: list[int] = []

    def progress(done: int) -> None:
        if not flipped:
            _flip(model / "model.safetensors")
        flipped.append(done)

    message = r"model\.safetensors' changed while"
    with DigestMemo(tmp_path / "memo.db") as memo, pytest.raises(CheckpointError, match=message):
        memo.tensor_digests(checkpoint, jobs=jobs, progress=progress)
    assert not (tmp_path / "memo.db").exists()


@pytest.mark.parametrize("jobs", [1, 4])
def test_an_error_stops_it(jobs: int, model: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(model, "x")

    def progress(done: int) -> None:
        raise KeyboardInterrupt

    with DigestMemo(tmp_path / "memo.db") as memo, pytest.raises(KeyboardInterrupt):
        memo.tensor_digests(checkpoint, jobs=jobs, progress=progress)


def _locked(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path)
    database.execute("BEGIN EXCLUSIVE")
    return database


def _foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE digests (other)")
        database.execute("PRAGMA user_version = 1")
    database.close()


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


HARMED: dict[str, Callable[[Path], object]] = {
    "rubbish": lambda path: path.write_bytes(b"rubbish" * 1000),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: os.truncate(path, 5000),
    "another table": _foreign,
    "a directory": _directory,
    "locked": _locked,
    "read-only": lambda path: path.chmod(0o400),
    "tampered": lambda path: path.write_bytes(path.read_bytes().replace(b'"big":"', b'"big":"0')),
}


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("harm", HARMED)
def test_a_harmed_database_is_no_harm(harm: str, model: Path, tmp_path: Path) -> None:
    memo = tmp_path / "memo.db"
    found, _ = digests(model, memo)
    held = HARMED[harm](memo)
    assert digests(model, memo)[0] == found
    if harm in ("rubbish", "empty", "another table"):
        assert digests(model, memo) == (found, 0)
    if isinstance(held, sqlite3.Connection):
        held.close()


def test_no_place_for_it(model: Path) -> None:
    found, _ = digests(model, Path("/proc/nowhere/memo.db"))
    assert found == computed(model)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("count", [0, 5, (1 << 20) + 1, BLOCK + 1])
def test_side_files(count: int, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    content = bytes(i % 251 for i in range(count))
    path.write_bytes(content)
    for _ in range(2):
        with DigestMemo(tmp_path / "memo.db") as memo:
            assert memo.file_digest(path) == bytes_digest(content)
    time.sleep(0.02)
    path.write_bytes(b"x" + content)
    with DigestMemo(tmp_path / "memo.db") as memo:
        assert memo.file_digest(path) == bytes_digest(b"x" + content)
        with pytest.raises(CheckpointError, match="cannot read"):
            memo.file_digest(tmp_path / "absent")

"""Reading tensors by element, and noticing that a file changed underneath."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mergebuild.checkpoint.reader import Files, Reader
from mergebuild.checkpoint.regular import stamp
from mergebuild.checkpoint.source import open_checkpoint
from mergebuild.errors import CheckpointError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(12, dtype=torch.int16).reshape(3, 4), "e": torch.zeros(0)}, path)
    return path


def reader(files: Files, path: Path, tensor: str) -> Reader:
    info = open_checkpoint(path, "x").tensors[tensor]
    return files.reader(info.file, info.offset, info.dtype, info.shape, tensor)


def test_elements(file: Path) -> None:
    with Files() as files:
        found = reader(files, file, "a")
        assert (found.dtype, found.shape) == ("int16", (3, 4))
        assert (found.count, found.itemsize, found.nbytes) == (12, 2, 24)
        for start, stop in ((0, 12), (5, 7), (11, 12), (4, 4)):
            into = memoryview(bytearray(2 * (stop - start)))
            found.read(start, stop, into)
            assert list(into.cast("h")) == list(range(start, stop))
        numbers = memoryview(bytearray(8)).cast("h")
        found.read(3, 7, numbers)
        assert list(numbers) == [3, 4, 5, 6]
        reader(files, file, "e").read(0, 0, memoryview(b""))


@pytest.mark.parametrize(("start", "stop", "size"), [(-1, 1, 4), (1, 0, 0), (0, 13, 26), (0, 2, 3)])
def test_wrong_use(start: int, stop: int, size: int, file: Path) -> None:
    with Files() as files, pytest.raises(ValueError, match="of 12 elements"):
        reader(files, file, "a").read(start, stop, memoryview(bytearray(size)))


def test_short_reads_are_continued(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: real(fd, [views[0][:3]], at))
    with Files() as files:
        into = memoryview(bytearray(24))
        reader(files, file, "a").read(0, 12, into)
        assert list(into.cast("h")) == list(range(12))


def test_the_file_ends_too_early(file: Path) -> None:
    with Files() as files:
        found = reader(files, file, "a")
        os.truncate(file, file.stat().st_size - 1)
        with pytest.raises(CheckpointError, match=r"model\.safetensors': the file ends within ten"):
            found.read(0, 12, memoryview(bytearray(24)))


def test_the_system_fails(file: Path) -> None:
    with Files() as files:
        found = replace(reader(files, file, "a"), descriptor=10**6)
        with pytest.raises(CheckpointError, match="cannot read tensor 'a': Bad file descriptor"):
            found.read(0, 12, memoryview(bytearray(24)))


def test_each_file_is_opened_once(file: Path) -> None:
    with Files() as files, ThreadPoolExecutor(8) as pool:
        readers = list(pool.map(lambda _: reader(files, file, "a"), range(50)))
        assert len({one.descriptor for one in readers}) == 1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(readers[0].descriptor)


def _rewrite(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\x7f")


def _restore_times(path: Path) -> None:
    state = path.stat()
    _rewrite(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "rewritten": _rewrite,
    "times put back": _restore_times,
    "replaced": _replace,
    "removed": lambda path: path.unlink(),
    "cut": lambda path: os.truncate(path, 50),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_noticed(change: str, file: Path) -> None:
    os.utime(file, (1e9, 1e9))
    expected = {file: stamp(file)}
    with Files() as files:
        reader(files, file, "a")
        files.check_unchanged()
        CHANGES[change](file)
        with pytest.raises(CheckpointError, match=r"model\.safetensors' changed while it was"):
            files.check_unchanged()
    if file.exists():
        with Files(expected) as files, pytest.raises(CheckpointError, match="changed while"):
            files.reader(file, 0, "int8", (1,), "a")


def test_a_hard_link_changes_nothing(file: Path) -> None:
    with Files({file: stamp(file)}) as files:
        file.with_name("link").hardlink_to(file)
        files.reader(file, 0, "int8", (1,), "a")
        file.with_name("link").unlink()
        files.check_unchanged()

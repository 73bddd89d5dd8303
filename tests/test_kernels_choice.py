"""Which kernels a build gets, that it gets them without torch, and where compiled code is kept."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mergebuild.errors import UsageError
from mergebuild.kernels.choose import VARIABLE, default_kernels, kernels_of_run
from mergebuild.kernels.numba import NumbaKernels, jit
from mergebuild.kernels.operations import Map
from mergebuild.kernels.torch import TorchKernels


class Strange(Map):
    __slots__ = ()


def test_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert isinstance(default_kernels(), NumbaKernels)
    monkeypatch.setenv(VARIABLE, "torch")
    assert isinstance(default_kernels(), TorchKernels)
    monkeypatch.setenv(VARIABLE, "cuda")
    with pytest.raises(UsageError, match="'cuda'"):
        default_kernels()
    monkeypatch.setitem(sys.modules, "mergebuild.kernels.numba", None)
    monkeypatch.delenv(VARIABLE)
    assert isinstance(default_kernels(), TorchKernels), "without numba"
    monkeypatch.setenv(VARIABLE, "numba")
    with pytest.raises(UsageError, match="cannot be used"):
        default_kernels()


def test_torch_is_single_threaded_only_while_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with kernels_of_run() as kernels:
            assert torch.get_num_threads() == 3
            bench = kernels.bench((2,), ["float32"], "float32")
            bench.reserve(2)
            bench.place(0, 2)
            bench.apply(Strange())
            with pytest.raises(NotImplementedError):
                bench.take(memoryview(bytearray(8)))
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


SCRIPT = """
import json, sys
from mergebuild.kernels.choose import default_kernels
from mergebuild.kernels import evaluate
from mergebuild.methods import registry
from mergebuild.methods.declaration import Operands
assert "numba" not in sys.modules and "numpy" not in sys.modules
class Memory:
    dtype, shape = "float32", (2,)
    def __init__(self): self.data = bytearray(b"\\0\\0\\x80\\x3f" * 2)
    def read(self, start, stop, into): into[:] = self.data[4 * start:4 * stop]
    unit = 1
    def room(self, start, size): return memoryview(bytearray(size))
    def write(self, start, data): self.data[4 * start:4 * start + len(data)] = data
method = registry()["linear"]
steps = method.run(Operands(2, False, (2,), ()), {"weight": (1.0, 2.0), "normalize": False})
out = Memory()
evaluate(steps, [Memory(), Memory()], out, "float32", kernels=default_kernels())
from mergebuild.kernels.numba.jit import code_folder
print(json.dumps([out.data.hex(), "torch" in sys.modules, str(code_folder())]))
"""


def script(**variables: str) -> Any:
    environment = {**os.environ, **variables}
    environment.pop(VARIABLE, None)
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        capture_output=True, text=True, check=True, cwd=root, env=environment,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_no_torch_is_imported_and_code_is_kept_where_the_user_says(tmp_path: Path) -> None:
    for _ in range(2):
        assert script(NUMBA_CACHE_DIR=str(tmp_path)) == [
            "00004040" * 2,
            False,
            str(tmp_path / jit.code_folder().name),  # type: ignore[union-attr]
        ]
    assert list(tmp_path.rglob("*.nbc")), "compiled code is kept"


def test_code_is_kept_in_memory_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setattr(jit, "_candidates", lambda: iter([blocked / "a", blocked / "b"]))
    jit.code_folder.cache_clear()
    try:
        assert jit.code_folder() is None

        @jit.jit
        def twice(x: int) -> int:
            return 2 * x

        assert twice(4) == 8
    finally:
        jit.code_folder.cache_clear()


def test_the_next_folder_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, open_ = tmp_path / "closed", tmp_path / "open"
    closed.write_text("not a folder")
    monkeypatch.setattr(jit, "_candidates", lambda: iter([closed, open_]))
    jit.code_folder.cache_clear()
    try:
        folder = jit.code_folder()
        assert folder is not None
        assert folder.parent == open_
        assert stat.S_ISDIR(folder.stat().st_mode)
    finally:
        jit.code_folder.cache_clear()

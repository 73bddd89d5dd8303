"""Sources that exceed memory do not fill it: what nobody reads again is forgotten."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mergebuild.checkpoint.reader import Files
from mergebuild.engine.behind import Behind, available_memory
from mergebuild.engine.schedule import reads_of, schedule
from mergebuild.recipe import NodeRef
from tests import kit
from tests.builder import Scratch
from tests.test_incremental import RECIPE, age

GIB = 1 << 30
MEMINFO = "MemTotal:       24105112 kB\nMemAvailable:   8388608 kB\n"


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    """Embeddings of 8 MiB: pages come in groups, which go whole. Two nodes read the base."""
    shape = {"layers": 1, "hidden": 256, "vocab": 8192, "intermediate": 64}
    kit.base_and_two(tmp_path, **shape)
    age(tmp_path)
    scratch = Scratch(tmp_path)
    scratch.write(RECIPE)
    return scratch


def in_memory(path: Path, offset: int, size: int) -> bool:
    """Whether the page in the middle of a region could be read without the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.preadv(descriptor, [bytearray(1)], offset + size // 2, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            pytest.skip("the file system does not tell")
        return False
    finally:
        os.close(descriptor)
    return True


def touch(folder: Path) -> None:
    """Have everything on disk and in memory."""
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            file.read()


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="the system does not tell")
@pytest.mark.parametrize("memory", [0, 1 << 40])
def test_what_was_read_for_the_last_time_is_forgotten(scratch: Scratch, memory: int) -> None:
    plan = scratch.plan()
    todo = schedule(plan)
    touch(scratch.root)
    stamps = {p: s for leaf in plan.leaves.values() for p, s in leaf.checkpoint.stamps.items()}
    seen = 0
    with Files(stamps) as files:
        behind = Behind(plan, todo, files, memory)
        for number, task in enumerate(todo.tasks):
            behind.done(task)
            later = {read for left in todo.tasks[number + 1 :] for read in reads_of(left, plan)}
            for reference, tensor in reads_of(task, plan):
                if isinstance(reference, NodeRef):
                    continue
                info = plan.leaves[reference].checkpoint.tensors[tensor]
                if info.nbytes >= 8 << 20:
                    kept = memory > 0 or (reference, tensor) in later
                    assert in_memory(info.file, info.offset, info.nbytes) == kept, tensor
                    seen += 1
    assert seen > 4


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="the system does not tell")
def test_an_empty_tensor_has_nothing_forgotten(scratch: Scratch) -> None:
    touch(scratch.root)
    path = next((scratch.root / "base").glob("*.safetensors"))
    size = path.stat().st_size
    with Files() as files:
        files.forget(path, 0, 0)
        assert in_memory(path, 0, size)
        files.forget(path, 0, size)
        assert not in_memory(path, 0, size)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no advice")
def test_where_advice_is_refused_nothing_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    with Files() as files:
        files.forget(path, 0, -1)


def test_a_build_that_forgets_makes_the_same(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch.build()
    made = (scratch.output("blend") / "model.safetensors").read_bytes()
    for name in ("cache", "build"):
        (scratch.root / name).rename(scratch.root / f"former-{name}")
    monkeypatch.setattr("mergebuild.engine.build.available_memory", lambda: 0)
    scratch.build()
    assert (scratch.output("blend") / "model.safetensors").read_bytes() == made


GROUPS: dict[str, tuple[str, dict[str, object], int]] = {
    "none": ("", {}, 8 * GIB),
    "version 2": ("0::/a/b\n", {"a/memory.max": 2 * GIB, "a/b/memory.max": "max"}, 2 * GIB),
    "version 2, more than there is": ("0::/a\n", {"a/memory.max": 64 * GIB}, 8 * GIB),
    "version 1": (
        "5:cpu:/x\n4:memory:/a\n0::/\n",
        {"memory/a/memory.limit_in_bytes": GIB, "memory/memory.limit_in_bytes": 1 << 62},
        GIB,
    ),
    "another's": ("4:memory:/a\n", {"memory/b/memory.limit_in_bytes": GIB}, 8 * GIB),
    "the root's own": ("0::/\n", {"memory.max": 3 * GIB}, 3 * GIB),
}


@pytest.mark.parametrize("case", GROUPS)
def test_available_memory(tmp_path: Path, case: str) -> None:
    process, limits, expected = GROUPS[case]
    files = {"proc/meminfo": MEMINFO, "proc/self/cgroup": process}
    files |= {f"groups/{name}": f"{limit}\n" for name, limit in limits.items()}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_memory(tmp_path / "proc", tmp_path / "groups") == expected
    assert 1 << 20 < available_memory() < 1 << 50

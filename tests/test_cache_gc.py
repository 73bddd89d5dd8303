"""What is collected as garbage, and what never is; and building a node again to compare."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

import mergebuild as mb
from mergebuild import proof
from mergebuild.cache import Cache
from mergebuild.cache.gc import Limits, collect, find_garbage, pin, unpin
from mergebuild.cache.lease import Lease
from mergebuild.cache.store import names_in, set_aside
from mergebuild.errors import UsageError
from tests import kit
from tests.builder import Scratch, edited
from tests.damage import rot
from tests.test_incremental import RECIPE, age


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that was built in two forms: of the first, three checkpoints are garbage."""
    root = tmp_path_factory.mktemp("gc")
    kit.base_and_two(root, layers=1)
    age(root)
    scratch = Scratch(root)
    scratch.write(RECIPE)
    with edited(scratch, "density: 0.5", "density: 0.25"):
        scratch.build()
    for folder in (root / "cache/checkpoints").iterdir():
        os.utime(folder / "mergebuild.json", (2_000_000, 2_000_000))
    scratch.build()
    return root


@pytest.fixture
def scratch(built: Path, tmp_path: Path) -> Scratch:
    shutil.copytree(built, tmp_path / "copy", copy_function=os.link)
    scratch = Scratch(tmp_path / "copy")
    scratch.write(RECIPE)
    record = next((scratch.root / "cache/recipes").iterdir())
    record.unlink()
    registered = {n.node.name: n.key for n in scratch.plan().nodes.values()}
    outputs = {"blend": str(scratch.output("blend"))}
    recipe = {"recipe": str(scratch.root / "recipe.yaml"), "nodes": registered, "outputs": outputs}
    record.write_text(json.dumps(recipe))
    return scratch


def the_cache(scratch: Scratch) -> Cache:
    return Cache(scratch.root / "cache")


def going(scratch: Scratch, **limits: float) -> set[str]:
    """The nodes of what would go."""
    sweep = find_garbage(the_cache(scratch), Limits(**limits))  # type: ignore[arg-type]
    return {item.node for item in sweep.checkpoints}


def test_what_no_recipe_needs_goes(scratch: Scratch) -> None:
    cache = the_cache(scratch)
    sweep = find_garbage(cache, Limits())
    assert {item.node for item in sweep.checkpoints} == {"dare", "sum", "blend"}
    assert all(item.age > 1e9 for item in sweep.checkpoints)
    assert (sweep.kept, sweep.checkpoints[0].tensors) == (3, 12)
    needed = {node.key for node in scratch.plan().nodes.values()}
    assert needed.isdisjoint(item.key for item in sweep.checkpoints)
    assert len(list(cache.all_keys())) == 6  # it only looked
    assert len(collect(cache, sweep).checkpoints) == 3
    assert set(cache.all_keys()) == needed
    assert names_in(cache.staging) == []
    assert scratch.plan().fresh


def test_limits(scratch: Scratch) -> None:
    files = [p for p in (scratch.root / "cache/checkpoints").rglob("*") if p.is_file()]
    whole = sum(path.stat().st_size for path in files)
    assert going(scratch, size=whole) == set()
    assert len(going(scratch, size=whole * 3 // 4)) == 2
    assert len(going(scratch, size=1)) == 3
    assert going(scratch, age=time.time()) == set()
    assert len(going(scratch, age=3600)) == 3
    assert len(going(scratch, last=1)) == 2
    assert going(scratch, last=3) == set()


def test_roots(scratch: Scratch) -> None:
    cache = the_cache(scratch)
    first, second, third = (item.key for item in find_garbage(cache, Limits()).checkpoints)
    pin(cache, first)
    assert len(going(scratch)) == 2
    with Lease(cache, "builder") as lease:
        lease.take([second], [third])
        assert len(going(scratch)) == 0
    unpin(cache, first)
    assert len(going(scratch)) == 3
    # Once its file is gone, a recipe keeps only what its output still holds.
    (scratch.root / "recipe.yaml").rename(scratch.root / "moved.yaml")
    assert len(find_garbage(cache, Limits()).checkpoints) == 5
    shutil.rmtree(scratch.output("blend"))
    assert len(find_garbage(cache, Limits()).checkpoints) == 6


def test_what_is_needed_since_it_was_found_stays(scratch: Scratch) -> None:
    cache = the_cache(scratch)
    sweep = find_garbage(cache, Limits())
    pin(cache, sweep.checkpoints[0].key)
    assert len(collect(cache, sweep).checkpoints) == 2


def test_what_dead_runs_left_goes_when_it_is_old(scratch: Scratch) -> None:
    cache = the_cache(scratch)
    key = scratch.plan().nodes["dare"].key
    folders = [cache.staging / f"{key}.dead", cache.staging / f"{'0' * 32}.dead"]
    for folder in folders:
        (folder / "checkpoint").mkdir(parents=True)
    beside = scratch.root / "build/.blend.mergebuild-dead"
    beside.mkdir()
    assert set(find_garbage(cache, Limits()).folders) == {folders[0], beside}
    os.utime(folders[1], (1, 1))
    sweep = find_garbage(cache, Limits())
    assert set(sweep.folders) == {*folders, beside}
    collect(cache, sweep)
    assert names_in(cache.staging) == []
    assert not beside.exists()
    assert set_aside(cache, key) is not None
    assert find_garbage(cache, Limits()).folders == ()
    assert len(find_garbage(cache, Limits(age=0.0)).folders) == 1


def test_the_commands(scratch: Scratch) -> None:
    shown = kit.run("cache", "gc", cwd=scratch.root)
    assert shown.code == 0
    assert "would go: 3 checkpoints" in shown.stdout
    assert "(again: 12 tensors, reads" in shown.stdout
    assert "nothing was removed: --delete does it" in shown.stdout
    key = next(iter(find_garbage(the_cache(scratch), Limits()).checkpoints)).key
    assert kit.run("cache", "pin", key[:9], cwd=scratch.root).stderr == f"pinned {key}\n"
    gone = kit.run("cache", "gc", "--delete", "--older-than", "1h", cwd=scratch.root)
    assert "removed: 2 checkpoints" in gone.stdout
    assert "pinned" in kit.run("cache", "ls", cwd=scratch.root).stdout
    refused = kit.run("cache", "gc", "--older-than", "soon", cwd=scratch.root)
    assert (refused.code, "hint: write it like 30d" in refused.stderr) == (2, True)
    refused = kit.run("cache", "pin", "nosuch", cwd=scratch.root)
    assert (refused.code, "begins 0 keys" in refused.stderr) == (2, True)
    assert kit.run("cache", "verify", cwd=scratch.root).code == 2
    assert kit.run("cache", "verify", key, cwd=scratch.root).code == 0


def test_a_node_is_built_again_and_compared(scratch: Scratch) -> None:
    cache = the_cache(scratch)
    before = sorted(path for path in cache.root.rglob("*") if "runs" not in path.parts)
    told = kit.run("build", "recipe.yaml", "--check", "sum", cwd=scratch.root)
    assert (told.code, told.stdout) == (0, "sum: the same again, bit by bit (12 tensors)\n")
    assert sorted(path for path in cache.root.rglob("*") if "runs" not in path.parts) == before
    rot(cache.folder(scratch.plan().nodes["sum"].key) / "model.safetensors")
    told = kit.run("build", "recipe.yaml", "--check", "sum", cwd=scratch.root)
    assert told.code == 1
    assert "sum: 1 of 12 tensors differ, the first is 'model." in told.stdout
    assert "; the largest distance is " in told.stdout
    loaded = mb.load(scratch.root / "recipe.yaml")
    with pytest.raises(UsageError, match="no node 'smu'"):
        proof.check(loaded, "smu", cache=cache.root)
    with pytest.raises(mb.BuildError, match="nothing to compare with"):
        proof.check(loaded, "sum", cache=scratch.root / "empty")

"""The same bytes whatever the way: threads, chunks, fused or staged, interrupted or not."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import mergebuild as mb
from mergebuild.events import Event, TensorDone
from mergebuild.kernels import walk
from tests import kit
from tests.builder import Scratch, computed, edited
from tests.damage import rot
from tests.test_incremental import RECIPE, age

WIDE = {"layers": 2, "hidden": 64, "vocab": 3000, "intermediate": 96}


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    """Embeddings of several blocks of 65,536 elements, so that chunks matter."""
    kit.base_and_two(tmp_path, dtype="bfloat16", **WIDE)
    age(tmp_path)
    scratch = Scratch(tmp_path)
    scratch.write(RECIPE.replace("    merge_method", "    dtype: bfloat16\n    merge_method"))
    return scratch


def clean(scratch: Scratch) -> None:
    for name in ("cache", "build"):
        if (scratch.root / name).exists():
            os.chmod(scratch.root / name, 0o755)
            shutil.rmtree(scratch.root / name)


def weights(scratch: Scratch) -> dict[str, bytes]:
    """Every checkpoint of the cache, by key, as bytes."""
    found = (scratch.root / "cache/checkpoints").glob("*/model*.safetensors")
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in found}


WAYS = {
    "one thread": mb.Settings(jobs=1),
    "five threads": mb.Settings(jobs=5),
    "small chunks": mb.Settings(chunk=1 << 16),
    "one chunk": mb.Settings(chunk=1 << 22),
}


@pytest.mark.parametrize("way", WAYS)
def test_bits_do_not_depend_on_threads_or_chunks(scratch: Scratch, way: str) -> None:
    scratch.build()
    expected = weights(scratch)
    assert len(expected) == 3
    clean(scratch)
    scratch.build(settings=WAYS[way])
    assert weights(scratch) == expected


def test_threads_without_a_task_help_with_a_large_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts begin where a digest's 4 MiB do: embeddings of 9 MB have three."""
    large = {"layers": 1, "hidden": 64, "vocab": 70_000, "intermediate": 64}
    kit.base_and_two(tmp_path, dtype="bfloat16", **large)
    age(tmp_path)
    scratch = Scratch(tmp_path)
    scratch.write(RECIPE.replace("    merge_method", "    dtype: bfloat16\n    merge_method"))
    scratch.build()
    expected = weights(scratch)
    monkeypatch.setattr(walk, "PART", 1 << 16)
    for jobs, chunk in ((1, 0), (4, 0), (4, 1 << 23)):  # the last holds a tensor as a whole
        clean(scratch)
        scratch.build(settings=mb.Settings(jobs=jobs, chunk=chunk))
        assert weights(scratch) == expected


def test_fused_equals_staged(scratch: Scratch) -> None:
    scratch.build()
    fused = weights(scratch)
    clean(scratch)
    for node in ("dare", "sum", "blend"):
        done = scratch.build(select=[node])
        assert {name for name, _ in computed(done)} == {node}
    assert weights(scratch) == fused


def test_several_shards_hold_the_same_tensors(scratch: Scratch) -> None:
    scratch.build()
    whole = kit.read(scratch.output("blend"))
    clean(scratch)
    scratch.build(settings=mb.Settings(shard_size=200_000))
    parts = kit.read(scratch.output("blend"))
    assert len(list(scratch.output("blend").glob("*.safetensors"))) == 3
    assert all(parts[name].equal(whole[name]) for name in whole)
    index = json.loads((scratch.output("blend") / "model.safetensors.index.json").read_text())
    assert sorted(index["weight_map"]) == sorted(whole)
    assert scratch.build(settings=mb.Settings(shard_size=200_000)) == []


class Stop(Exception):
    pass


def test_an_interrupted_build_is_resumed(scratch: Scratch) -> None:
    scratch.build()
    expected = weights(scratch)
    clean(scratch)
    seen: list[tuple[str, str]] = []

    def stop_half_way(event: Event) -> None:
        if isinstance(event, TensorDone):
            seen.append((event.node, event.tensor))
            if len(seen) == 30:
                raise Stop

    with pytest.raises(Stop):
        mb.build(scratch.plan(settings=mb.Settings(jobs=1)), sink=stop_half_way)
    done = scratch.build()
    resumed = {(node, tensor) for node, tensor, how in done if how == "resumed"}
    # What was published before the stop is found in the cache, the rest in staging.
    assert resumed | {task for task in seen if task not in {d[:2] for d in done}} >= set(seen[:-1])
    assert resumed
    assert weights(scratch) == expected
    assert list((scratch.root / "cache/staging").iterdir()) == []


def test_what_does_not_match_the_journal_is_made_again(scratch: Scratch) -> None:
    test_an_interrupted_build_is_resumed(scratch)
    expected = weights(scratch)
    clean(scratch)

    def stop_late(event: Event) -> None:
        if isinstance(event, TensorDone) and event.node == "blend":
            raise Stop

    with pytest.raises(Stop):
        mb.build(scratch.plan(settings=mb.Settings(jobs=1)), sink=stop_late)
    for folder in (scratch.root / "cache/staging").iterdir():
        with open(folder / "journal.jsonl", "ab") as journal:
            journal.write(b'["torn')
        with open(folder / "checkpoint/model.safetensors", "r+b") as file:
            file.seek(-100, os.SEEK_END)
            file.write(b"\xff" * 100)
    scratch.build()
    assert weights(scratch) == expected


def test_a_source_that_changes_during_the_build_fails_the_node(scratch: Scratch) -> None:
    plan = scratch.plan()
    path = scratch.root / "math/model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(mb.CheckpointError, match=r"math/model\.safetensors' changed"):
        mb.build(plan)
    assert not (scratch.root / "build").exists()
    assert not list((scratch.root / "cache/checkpoints").glob("*"))


def test_not_enough_disk_is_said_before_anything_is_written(scratch: Scratch) -> None:
    plan = scratch.plan()
    greedy = replace(plan, costs=replace(plan.costs, disk=1 << 62))
    with pytest.raises(mb.CapacityError, match=r"writes 4,611,686,018,427,387,904 bytes"):
        mb.build(greedy)
    assert not (scratch.root / "cache/checkpoints").exists()
    assert not (scratch.root / "cache/staging").exists()


def test_damage_in_a_cached_tensor_is_noticed_and_it_is_made_again(scratch: Scratch) -> None:
    scratch.build()
    with edited(scratch, "[0, 0.5, 1]", "[1, 0.5, 1]"):
        scratch.build()
    expected = weights(scratch)
    clean(scratch)
    scratch.build()
    rot(
        scratch.root / "cache/checkpoints" / scratch.plan().nodes["blend"].key / "model.safetensors"
    )
    with edited(scratch, "[0, 0.5, 1]", "[1, 0.5, 1]"):
        scratch.build()
    (aside,) = (scratch.root / "cache/quarantine").iterdir()
    now = weights(scratch)
    assert all(content == expected[name] for name, content in now.items())
    assert expected.keys() - now.keys() == {f"{aside.name.partition('.')[0]}/model.safetensors"}


def test_values_that_are_not_finite_fail_the_node(scratch: Scratch) -> None:
    kit.llama(scratch.root / "chat", dtype="bfloat16", near=scratch.root / "base",
              scale=float("inf"), **WIDE)  # type: ignore[arg-type]  # fmt: skip
    with pytest.raises(mb.BuildError, match=r"of 'chat' has [\d,]+ values that are not finite"):
        scratch.build()
    mb.build(scratch.plan(), options=mb.Options(allow_nonfinite=True))
    manifest = json.loads((scratch.output("blend") / "mergebuild.json").read_text())
    assert manifest["provenance"]["allow_nonfinite"] is True

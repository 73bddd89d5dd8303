"""Builds that begin before their sources were read: the same result, each source read once, and
nothing done that was done before."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import mergebuild as mb
from mergebuild.cache import Cache, read_manifest
from mergebuild.cache.store import names_in
from mergebuild.checkpoint.contents import Contents
from mergebuild.checkpoint.header import TensorInfo
from mergebuild.checkpoint.reader import Files
from mergebuild.checkpoint.regular import read_exactly
from mergebuild.digest import BLOCK, ContentDigest
from mergebuild.events import Digesting, Event
from mergebuild.kernels import walk
from mergebuild.site import Remote
from tests import kit
from tests.builder import Scratch, computed
from tests.test_incremental import RECIPE as CHAIN
from tests.test_lora import adapter
from tests.test_quantised import DEEPSEEK, codes, scales

SHAPE: dict[str, Any] = {"layers": 2, "hidden": 64, "vocab": 18_000, "intermediate": 96}
SOURCES = "mergebuild: 1\nsources: {base: ./base, math: ./math, chat: ./chat}\n"
LINEAR = (
    SOURCES + "nodes:\n  out:\n    merge_method: linear\n    dtype: bfloat16\n"
    "    models: [{model: math, parameters: {weight: 1}}, {model: chat, parameters: {weight: 2}}]\n"
)
COPY = SOURCES + "nodes:\n  out:\n    merge_method: passthrough\n    models: [{model: math}]\n"


def tasks(method: str, math: str = "weight: 1") -> str:
    models = (
        f"[{{model: math, parameters: {{{math}}}}}, {{model: chat, parameters: {{weight: 1}}}}]"
    )
    node = f"    merge_method: {method}\n    base_model: base\n    models: {models}\n"
    return f"{SOURCES}nodes:\n  out:\n{node}"


RECIPES = {
    "one pass": LINEAR,
    "copied": COPY,
    "two passes": tasks("ties", "weight: 1, density: 0.5"),
    "rows": tasks("della", "weight: 1, density: 0.5"),
    "random": tasks("dare_ties", "weight: 1, density: 0.5"),
    "chain": CHAIN,
    "chain in flight": CHAIN.replace("base_model: base\n", "base_model: base\n    keep: never\n"),
    "LoRA": COPY.replace("{model: math}", "{model: ./math+./lora}"),
    "another vocabulary": LINEAR.replace("    dtype", "    tokenizer: {source: base}\n    dtype"),
}


@pytest.fixture(params=["in one file", "in three"])
def scratch(request: pytest.FixtureRequest, tmp_path: Path) -> Scratch:
    """Embeddings of 4.6 MB: a block of a digest and a part."""
    shards = 1 if request.param == "in one file" else 3
    kit.base_and_two(tmp_path, shards=shards, **SHAPE)
    adapter(tmp_path / "lora", {
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 64),
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": torch.ones(64, 2),
    })  # fmt: skip
    return Scratch(tmp_path)


def made(scratch: Scratch) -> dict[str, object]:
    """All that is in the cache, by key: bytes of weights, manifests but for times."""
    found: dict[str, object] = {}
    for key in Cache(scratch.root / "cache").all_keys():
        folder = scratch.root / "cache/checkpoints" / key
        found |= {f"{key}/{p.name}": p.read_bytes() for p in folder.glob("*.safetensors")}
        manifest = read_manifest(folder)
        assert manifest is not None
        found[key] = manifest.tensors, manifest.provenance, manifest.node
    return found


def clean(scratch: Scratch) -> None:
    for name in ("cache", "build"):
        if (scratch.root / name).exists():
            shutil.rmtree(scratch.root / name)


@pytest.mark.parametrize("case", RECIPES)
def test_it_comes_to_what_it_comes_to_when_sources_are_read_before(
    scratch: Scratch, case: str
) -> None:
    scratch.write(RECIPES[case])
    before = scratch.build(provisional=False)
    expected = made(scratch)
    clean(scratch)
    plan = scratch.plan(provisional=True)
    assert plan.provisional
    assert scratch.build() == before
    assert made(scratch) == expected
    assert scratch.plan().fresh
    assert names_in(scratch.root / "cache/staging") == []


def test_a_new_lora_on_a_model_that_is_known(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mergebuild.checkpoint.digests._SETTLED_NS", 0)
    scratch.write(COPY)
    scratch.build(provisional=False)
    scratch.write(RECIPES["LoRA"])
    scratch.build(provisional=False)
    expected = made(scratch)
    shutil.rmtree(scratch.root / "cache/checkpoints")
    shutil.rmtree(scratch.root / "build")
    os.utime(scratch.root / "lora/adapter_model.safetensors")  # its digest is known no more
    (leaf,) = scratch.plan(provisional=True).leaves.values()
    assert leaf.outline.provisional
    scratch.build()
    rebuilt = made(scratch)
    assert rebuilt
    assert rebuilt.items() <= expected.items()


@pytest.mark.parametrize("chunk", [1 << 16, 3 << 16, 1 << 22])
@pytest.mark.parametrize("jobs", [1, 3])
def test_whatever_the_chunks_and_threads(
    scratch: Scratch, chunk: int, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch.write(RECIPES["two passes"])
    scratch.build(provisional=False)
    expected = made(scratch)
    clean(scratch)
    monkeypatch.setattr(walk, "PART", 1 << 16)
    scratch.build(settings=mb.Settings(jobs=jobs, chunk=chunk))
    assert made(scratch) == expected


def test_fp8_and_its_scales(tmp_path: Path) -> None:
    tensors = {"layers.0.w": codes(8, 16), "layers.0.w_scale_inv": scales(2, 2)}
    (tmp_path / "m").mkdir()
    save_file(tensors, tmp_path / "m/model.safetensors")
    (tmp_path / "m/config.json").write_text(
        json.dumps({"quantization_config": DEEPSEEK, "num_layers": 1})
    )
    scratch = Scratch(tmp_path)
    scratch.write(COPY.replace("{model: math}", "{model: ./m}"))
    scratch.build(provisional=False)
    expected = made(scratch)
    clean(scratch)
    assert scratch.plan(provisional=True).provisional
    scratch.build()
    assert made(scratch) == expected


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of tensors that were read, from any file."""
    sizes: list[int] = []
    exactly = read_exactly

    def counted(descriptor: int, view: memoryview, *more: object) -> None:
        sizes.append(view.nbytes)
        exactly(descriptor, view, *more)  # type: ignore[arg-type]

    for module in ("reader", "contents", "digests"):
        monkeypatch.setattr(f"mergebuild.checkpoint.{module}.read_exactly", counted)
    return sizes


def size(*models: Path) -> int:
    return sum(t.numel() * t.element_size() for m in models for t in kit.read(m).values())


@pytest.mark.parametrize("case", ["one pass", "copied"])
def test_what_is_read_once_is_digested_in_the_same_pass(
    scratch: Scratch, case: str, read: list[int]
) -> None:
    scratch.write(RECIPES[case])
    events: list[Event] = []
    plan = scratch.plan(provisional=True, sink=events.append)
    del read[:]  # tokenizers
    mb.build(plan, sink=events.append)
    models = ["math"] if case == "copied" else ["math", "chat"]
    assert sum(read) == size(*(scratch.root / model for model in models))
    assert not any(isinstance(event, Digesting) for event in events)


def test_what_a_plan_never_reads_is_read_in_the_end(scratch: Scratch, read: list[int]) -> None:
    """Where a model's last layer is left out, its digest is still known afterwards."""
    scratch.write(
        SOURCES + "nodes:\n  out:\n    merge_method: passthrough\n"
        "    slices: [{sources: [{model: math, layer_range: [0, 1]}]}]\n"
    )
    mb.build(scratch.plan(provisional=True))
    manifest = read_manifest(scratch.output("out"))
    assert manifest is not None
    ((leaf),) = manifest.provenance["leaves"]
    assert sum(read) >= size(scratch.root / "math")
    again = scratch.plan()
    assert again.fresh
    assert again.nodes["out"].key == manifest.key, leaf


# Where it is not for a plan to begin before its sources are read.


def test_a_model_that_was_moved_is_known_again(scratch: Scratch) -> None:
    scratch.write(RECIPES["random"])
    scratch.build()
    shutil.copytree(scratch.root / "math", scratch.root / "moved")
    scratch.sources["math"] = str(scratch.root / "moved")
    plan = scratch.plan(provisional=True)
    assert not plan.provisional
    assert plan.fresh


def test_an_output_alone_says_that_nothing_is_to_be_done(scratch: Scratch) -> None:
    scratch.write(LINEAR)
    scratch.build()
    shutil.rmtree(scratch.root / "cache")
    assert scratch.plan(provisional=True).fresh


def test_an_output_of_others_does_not_hold_it_up(scratch: Scratch) -> None:
    scratch.write(LINEAR)
    scratch.build()
    kit.llama(scratch.root / "math", seed=7, **SHAPE)
    for path in (scratch.root / "math").glob("model-*"):
        path.unlink()  # of the model before, in three
    (scratch.root / "math/model.safetensors.index.json").unlink(missing_ok=True)
    assert scratch.plan(provisional=True).provisional
    assert len(computed(scratch.build())) == len(kit.read(scratch.root / "base"))
    assert scratch.plan().fresh


def test_a_plan_that_turns_on_contents_reads_them(tmp_path: Path) -> None:
    """Whether integers differ decides what is said of them, and whether it can be done at all."""
    ids = torch.arange(3)
    for name, tensors in {
        "math": {"position_ids": ids, "groups": ids.clone()},
        "chat": {"position_ids": ids + 1, "groups": ids.clone()},
        "other": {"position_ids": ids, "groups": ids + 1},
    }.items():
        (tmp_path / name).mkdir()
        save_file({"w": torch.ones(4, 4), **tensors}, tmp_path / name / "model.safetensors")
    scratch = Scratch(tmp_path)
    scratch.write(LINEAR.replace("base: ./base, ", ""))
    plan = scratch.plan(provisional=True)
    assert not plan.provisional
    assert plan.nodes["out"].notes == ("no weight: copied from 'math' ('position_ids')",)
    scratch.sources["chat"] = str(tmp_path / "other")
    with pytest.raises(mb.RecipeError, match="not of floating point differs between the inputs"):
        scratch.plan(provisional=True)


def test_what_a_lora_is_extracted_from_is_read_before(scratch: Scratch) -> None:
    scratch.write(
        SOURCES
        + "nodes:\n  out:\n    kind: lora\n    base_model: base\n    model: math\n    rank: 2\n"
    )
    assert not scratch.plan(provisional=True).provisional


@pytest.mark.parametrize("remotes", [[], [Remote("team", "./team")]])
def test_a_remote_needs_keys(scratch: Scratch, remotes: list[Remote]) -> None:
    scratch.write(LINEAR)
    assert scratch.plan(provisional=True, remotes=remotes).provisional is not bool(remotes)


def test_a_lock_needs_keys(scratch: Scratch) -> None:
    scratch.write(LINEAR)
    done = kit.run("lock", "recipe.yaml", cwd=scratch.root)
    assert done.code == 0, done.stderr
    clean(scratch)
    assert not scratch.plan(provisional=True).provisional


# Builds that do not come to their end.

BROKEN = """
import os, mergebuild.engine.build as b
made, count = b.compute_tensor, 0
def broken(*args):
    global count
    count += 1
    if count > {count}:
        {what}
    return made(*args)
b.compute_tensor = broken
from mergebuild.cli import main
main()
"""
ENDS = {
    "killed": ("os.kill(os.getpid(), 9)", -9),
    "interrupted": ("raise KeyboardInterrupt", 130),
    "failed": ("raise b.BuildError.of('no more')", 1),
}


def broken(scratch: Scratch, what: str, count: int) -> int:
    code = BROKEN.format(what=what, count=count)
    return subprocess.run(
        [sys.executable, "-c", code, "build", "recipe.yaml", "-j", "1"],
        cwd=scratch.root, env={**os.environ, "PYTHONPATH": str(kit.ROOT)}, check=False,
        capture_output=True,
    ).returncode  # fmt: skip


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("case", ["random", "chain"])
def test_what_was_finished_is_kept(scratch: Scratch, how: str, case: str) -> None:
    scratch.write(RECIPES[case])
    scratch.build(provisional=False)
    expected = made(scratch)
    clean(scratch)
    what, code = ENDS[how]
    assert broken(scratch, what, 9) == code
    assert names_in(scratch.root / "cache/checkpoints") == []
    assert not scratch.plan(provisional=True).provisional
    done = scratch.build()
    assert [d for _, _, d in done].count("resumed") >= 6
    assert made(scratch) == expected
    assert names_in(scratch.root / "cache/staging") == []


def test_what_was_finished_of_other_contents_is_not_kept(scratch: Scratch) -> None:
    scratch.write(LINEAR)
    assert broken(scratch, *ENDS["killed"][:1], 9) == -9
    shards = len(list((scratch.root / "math").glob("*.safetensors")))
    kit.llama(scratch.root / "math", seed=9, shards=shards, **SHAPE)
    done = scratch.build()
    assert {how for _, _, how in done} == {"computed"}
    built = made(scratch)
    clean(scratch)
    scratch.build(provisional=False)
    assert made(scratch) == built


def test_a_source_that_changes_meanwhile_is_noticed(scratch: Scratch) -> None:
    scratch.write(LINEAR)
    shard = sorted((scratch.root / "math").glob("*.safetensors"))[0]
    changed: list[Event] = []

    def change(event: Event) -> None:
        if type(event).__name__ == "TensorDone" and not changed:
            changed.append(event)
            os.utime(shard)

    with pytest.raises(mb.CheckpointError, match="changed while it was being read"):
        mb.build(scratch.plan(provisional=True), sink=change)
    assert names_in(scratch.root / "cache/checkpoints") == []
    assert not (scratch.root / "build").exists()


# Digests on the way.

LENGTHS = [0, 1, BLOCK - 2, BLOCK, BLOCK + 2, 3 * BLOCK + 1234]


def tensor_of(path: Path, length: int) -> tuple[TensorInfo, bytes]:
    data = random.Random(length).randbytes(length)
    path.write_bytes(b"header" + data)
    return TensorInfo("w", "uint8", (length,), path, 6, length), data


def digest_of(data: bytes) -> str:
    content = ContentDigest("uint8", (len(data),))
    content.update(data)
    return content.hexdigest()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("step", [1 << 16, 1_000_003, BLOCK, 5 * BLOCK])
def test_all_of_a_tensor_read_in_order(tmp_path: Path, length: int, step: int) -> None:
    tensor, data = tensor_of(tmp_path / "file", length)
    contents = Contents()
    with Files() as files:
        reader = contents.reader(tensor, files)
        for start in range(0, length, step):
            stop = min(start + step, length)
            into = bytearray(stop - start)
            reader.read(start, stop, memoryview(into))
            assert into == data[start:stop]
        assert contents.known(tensor) == (digest_of(data) if length else None)
        assert contents.digest(tensor, files) == digest_of(data)


@pytest.mark.parametrize("seed", range(12))
def test_a_digest_is_right_or_unknown_whoever_reads_what(tmp_path: Path, seed: int) -> None:
    """Threads that read pieces, runs and all of a tensor, in any order, some of them twice."""
    tensor, data = tensor_of(tmp_path / "file", LENGTHS[-1])
    contents, chance = Contents(), random.Random(seed)

    def some(seed: int) -> None:
        chance = random.Random(seed)
        reader = contents.reader(tensor, files)
        at = 0
        for _ in range(60):
            if chance.random() < 0.3:
                at = chance.choice([0, BLOCK, 2 * BLOCK, 3 * BLOCK, chance.randrange(len(data))])
            stop = min(len(data), at + chance.choice([1, 1000, BLOCK // 4, BLOCK, 2 * BLOCK]))
            reader.read(at, stop, memoryview(bytearray(stop - at)))
            at = stop if stop < len(data) else 0

    with Files() as files:
        threads = [Thread(target=some, args=(chance.random(),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert contents.known(tensor) in (None, digest_of(data))
        assert contents.digest(tensor, files) == digest_of(data)


def test_parts_of_a_large_tensor_are_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mergebuild.checkpoint.contents._PART", 1)
    tensor, data = tensor_of(tmp_path / "file", LENGTHS[-1])
    shared: list[int] = []

    def share(work: object) -> None:
        listed = list(work)  # type: ignore[call-overload]
        shared.append(len(listed))
        for one in reversed(listed):
            one()

    with Files() as files:
        assert Contents().digest(tensor, files, share) == digest_of(data)
    assert shared == [4]

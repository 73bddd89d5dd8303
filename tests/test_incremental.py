"""What is rebuilt after which edit: each case is a list of (node, tensor), never a time."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests import kit
from tests.builder import Scratch, computed, edited

RECIPE = """\
mergebuild: 1
name: chain
sources: {base: ./base, math: ./math, chat: ./chat}
nodes:
  dare:
    merge_method: dare_ties
    base_model: base
    models: [{model: math, parameters: {weight: 1.0, density: 0.5}}]
  sum:
    merge_method: task_arithmetic
    base_model: base
    models:
      - {model: dare, parameters: {weight: 1.0}}
      - {model: chat, parameters: {weight: 0.5}}
  blend:
    merge_method: slerp
    base_model: sum
    models: [{model: sum}, {model: chat}]
    parameters:
      t:
        - {filter: mlp, value: [0, 0.5, 1]}
        - value: 0.25
outputs: {blend: build/blend}
"""


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    kit.base_and_two(tmp_path, layers=3)
    age(tmp_path)
    scratch = Scratch(tmp_path)
    scratch.write(RECIPE)
    return scratch


def age(folder: Path) -> None:
    """Make files old enough for their digests to be remembered."""
    for path in folder.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))


def names(folder: Path) -> list[str]:
    return sorted(kit.read(folder))


def test_everything_then_nothing_then_one_node_then_nothing(scratch: Scratch) -> None:
    every = names(scratch.root / "base")
    first = scratch.build()
    assert computed(first) == [(n, t) for n in ("blend", "dare", "sum") for t in every]
    assert scratch.build() == []
    with edited(scratch, "value: 0.25", "value: 0.75"):
        assert {node for node, _ in computed(scratch.build())} == {"blend"}
    before = (scratch.root / "build/blend/model.safetensors").read_bytes()
    assert scratch.build() == []  # reverted: only published again
    assert (scratch.root / "build/blend/model.safetensors").read_bytes() != before


def test_a_gradient_on_mlp_computes_just_the_mlp_tensors(scratch: Scratch) -> None:
    scratch.build()
    with edited(scratch, "[0, 0.5, 1]", "[0, 0.5, 0.9]"):
        done = scratch.build()
    # The first layer sees g[0] and the second g[1]: only the last one's value moved.
    expected = [t for t in names(scratch.root / "base") if "layers.2.mlp" in t]
    assert computed(done) == [("blend", tensor) for tensor in expected]
    rest = set(names(scratch.root / "base")) - set(expected)
    assert {tensor for _, tensor, how in done if how in ("copied", "linked")} == rest


EDITS_THAT_CHANGE_NOTHING = {
    "a comment": ("name: chain", "name: chain  # ours"),
    "the recipe's name": ("name: chain", "name: other"),
    "a description": ("  sum:\n", "  sum:\n    description: the sum\n"),
    "key order": (
        "    merge_method: slerp\n    base_model: sum\n",
        "    base_model: sum\n    merge_method: slerp\n",
    ),
    "1.0 for 1": (
        "parameters: {weight: 1.0, density: 0.5}",
        "parameters: {weight: 1, density: 0.5}",
    ),
    "an argument at its default": ("density: 0.5}", "density: 0.5, rescale: true}"),
    "a filter that matches nothing": (
        "        - value: 0.25",
        "        - {filter: nowhere, value: 1}\n        - value: 0.25",
    ),
    "a seed where nothing is drawn": ("  sum:\n", "  sum:\n    seed: 7\n"),
}


@pytest.mark.parametrize("edit", EDITS_THAT_CHANGE_NOTHING)
def test_edits_without_effect_rebuild_nothing(scratch: Scratch, edit: str) -> None:
    scratch.build()
    with edited(scratch, *EDITS_THAT_CHANGE_NOTHING[edit]):
        assert scratch.build() == []


EDITS_THAT_CHANGE = {
    "density": ("density: 0.5", "density: 0.4", {"dare", "sum", "blend"}),
    "seed": ("  dare:\n", "  dare:\n    seed: 1\n", {"dare", "sum", "blend"}),
    "weight": ("weight: 0.5", "weight: 0.4", {"sum", "blend"}),
    "dtype": ("  blend:\n", "  blend:\n    dtype: bfloat16\n", {"blend"}),
    "method": ("merge_method: dare_ties", "merge_method: ties", {"dare", "sum", "blend"}),
    "order of roles": (
        "base_model: sum\n    models: [{model: sum}, {model: chat}]",
        "base_model: chat\n    models: [{model: sum}, {model: chat}]",
        {"blend"},
    ),
}


@pytest.mark.parametrize("edit", EDITS_THAT_CHANGE)
def test_edits_with_effect_rebuild_what_depends_on_them(scratch: Scratch, edit: str) -> None:
    scratch.build()
    old, new, nodes = EDITS_THAT_CHANGE[edit]
    with edited(scratch, old, new):
        assert {node for node, _ in computed(scratch.build())} == nodes
        assert scratch.build() == []


def test_renamed_nodes_rebuild_nothing(scratch: Scratch) -> None:
    scratch.build()
    text = (scratch.root / scratch.recipe).read_text()
    scratch.write(text.replace("dare:", "thinned:").replace("model: dare", "model: thinned"))
    assert scratch.build() == []


def test_moved_and_resharded_sources_rebuild_nothing(scratch: Scratch) -> None:
    scratch.build()
    shutil.move(scratch.root / "chat", scratch.root / "elsewhere")
    kit.llama(scratch.root / "math", layers=3, near=scratch.root / "base", seed=1, shards=3)
    (scratch.root / "math/model.safetensors").unlink()
    scratch.sources["chat"] = str(scratch.root / "elsewhere")
    assert scratch.build() == []


def test_one_byte_of_a_source_rebuilds_its_tensor_and_what_depends_on_it(scratch: Scratch) -> None:
    scratch.build()
    path = scratch.root / "math/model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    done = computed(scratch.build())
    assert len({tensor for _, tensor in done}) == 1
    assert sorted(node for node, _ in done) == ["blend", "dare", "sum"]


def test_a_byte_changed_at_the_same_size_and_mtime_is_seen(scratch: Scratch) -> None:
    scratch.build()
    path = scratch.root / "math/model.safetensors"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert computed(scratch.build())


def test_a_cached_checkpoint_that_lost_a_file_is_built_again(scratch: Scratch) -> None:
    scratch.build()
    (folder,) = {p.parent for p in (scratch.root / "cache/checkpoints").rglob("config.json")
                 if p.parent.name == scratch.plan().nodes["blend"].key}  # fmt: skip
    folder.chmod(0o755)
    (folder / "config.json").unlink()
    (scratch.root / "build/blend/config.json").unlink()
    scratch.build()
    assert (scratch.root / "build/blend/config.json").exists()
    assert scratch.plan().fresh


def test_an_intermediate_that_nothing_stale_needs_is_not_rebuilt(scratch: Scratch) -> None:
    scratch.build()
    plan = scratch.plan()
    folder = scratch.root / "cache/checkpoints" / plan.nodes["dare"].key
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert scratch.build() == []
    with edited(scratch, "weight: 0.5", "weight: 0.25"):
        assert {node for node, _ in computed(scratch.build())} == {"dare", "sum", "blend"}


def test_keep_never_is_used_in_flight_only(scratch: Scratch) -> None:
    staged = scratch.build()
    whole = {n: t.clone() for n, t in kit.read(scratch.output("blend")).items()}
    shutil.rmtree(scratch.root / "build")
    os.system(f"chmod -R u+w {scratch.root / 'cache'}")
    shutil.rmtree(scratch.root / "cache")
    with edited(scratch, "  sum:\n", "  sum:\n    keep: never\n"):
        assert scratch.build() == staged
        again = kit.read(scratch.output("blend"))
        assert all(again[name].equal(whole[name]) for name in whole)
        assert len(list((scratch.root / "cache/checkpoints").iterdir())) == 2
        assert list((scratch.root / "cache/staging").iterdir()) == []

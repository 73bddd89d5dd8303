"""The memory that a plan states for what holds more of a tensor than chunks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import mergebuild as mb
from mergebuild.methods import registry
from mergebuild.methods.declaration import Operands
from tests import kit

MERGE = """
    merge_method: {what}
    base_model: ./base
    models: [{{model: ./a{weighted}}}, {{model: ./b{weighted}}}]
"""
LORA = """
    mergebuild: 1
    nodes: {node: {kind: lora, base_model: ./base, model: ./a, rank: 4}}
    outputs: [node]
"""
CHUNK = 1 << 16


def stated(folder: Path, what: str, *shapes: tuple[int, ...], jobs: int = 1) -> int:
    """Bytes of memory for a node over weights of these shapes."""
    for value, name in enumerate(("base", "a", "b")):
        (folder / name).mkdir(parents=True)
        weights = {f"{n}.weight": torch.full(s, float(value)) for n, s in enumerate(shapes)}
        save_file(weights, folder / name / "model.safetensors")
    weighted = ", parameters: {weight: 1}" if what in ("linear", "ties") else ""
    text = LORA if what == "lora" else MERGE.format(what=what, weighted=weighted)
    settings = mb.Settings(jobs=jobs, chunk=CHUNK)
    recipe = kit.write_recipe(folder / "recipe.yaml", text)
    return mb.plan(recipe, cache=folder / "cache", settings=settings).costs.memory


@pytest.mark.parametrize("what", ["tsv_merge", "iso_c", "lora"])
def test_squares_of_the_shorter_side_are_reckoned(tmp_path: Path, what: str) -> None:
    def squares(rows: int, columns: int) -> float:
        shape = rows, columns
        held = stated(tmp_path / f"{shape}", what, shape) - without
        if what == "lora":  # both matrices in float64
            held -= 16 * rows * columns
        elif rows < columns:  # the result, which is written across
            held -= 4 * rows * columns
        return held / (8 * min(shape) ** 2)

    # By chunks of as many operands.
    without = stated(tmp_path / "none", "linear" if what == "lora" else "ties", (64, 64))
    count = squares(64, 64)
    assert count == (3 if what == "lora" else 5)
    for shape in ((128, 128), (256, 64), (64, 256), (512, 256)):
        assert squares(*shape) == count


def test_squares_grow_with_the_deltas() -> None:
    held = {
        name: [registry()[name].held(Operands(1 + deltas, True, (8, 8))) for deltas in range(12)]
        for name in ("tsv_merge", "iso_c")
    }
    square = 8 * 8 * 8
    assert held["iso_c"] == [0] + [5 * square] * 11
    assert held["tsv_merge"] == [n * square for n in (0, 7, 5, 7, 7, 7, 8, 9, 10, 11, 12, 13)]


def test_as_many_of_the_largest_count_as_there_are_threads(tmp_path: Path) -> None:
    shapes = [(64, 64), (32, 32), (128, 128), (300,)]
    one, two, nine = (stated(tmp_path / f"{n}", "iso_c", *shapes, jobs=n) for n in (1, 2, 9))
    plain = [stated(tmp_path / f"ties {n}", "ties", *shapes, jobs=n) for n in (1, 2, 9)]
    square = 5 * 8
    assert one - plain[0] == square * 128**2
    assert two - plain[1] == square * (128**2 + 64**2)
    assert nine - plain[2] == square * (128**2 + 64**2 + 32**2)


@pytest.mark.parametrize("what", ["linear", "ties"])
def test_what_works_by_chunks_takes_as_much_for_any_shape(tmp_path: Path, what: str) -> None:
    small = stated(tmp_path / "small", what, (8, 8))
    assert stated(tmp_path / "large", what, (512, 512)) == small

"""The index of the cache: what it finds, and how much it compares for that."""

from __future__ import annotations

from math import prod
from pathlib import Path

import mergebuild as mb
from mergebuild.cache.index import Index
from tests import kit

RECIPE = """
    merge_method: linear
    models: [{model: ./a, parameters: {weight: 0.5}}, {model: ./b, parameters: {weight: 0.5}}]
"""


class Counted(str):
    """A key; how often any of them is held against another is counted."""

    __slots__ = ()
    comparisons = 0

    def __eq__(self, other: object) -> bool:
        Counted.comparisons += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_each_of_many_tensors_is_compared_a_few_times(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        kit.llama(tmp_path / name, layers=30, hidden=4, heads=1, kv_heads=1, seed=seed)
    recipe = kit.write_recipe(tmp_path / "recipe.yaml", RECIPE)
    outputs = {"recipe": tmp_path / "out"}
    plan = mb.plan(recipe, cache=tmp_path / "cache", outputs=outputs)
    mb.build(plan)
    node = plan.nodes["recipe"]
    sizes = {tensor.key: 4 * prod(tensor.shape) for tensor in node.outline.tensors.values()}
    assert len(sizes) > 250
    index = Index(plan.cache)
    try:
        Counted.comparisons = 0
        found = index.tensors([*map(Counted, sizes), Counted("0" * 32)])
        compared = Counted.comparisons
    finally:
        index.close()
    assert {str(key): one.region.size for key, one in found.items()} == sizes
    assert {one.checkpoint for one in found.values()} == {node.key}
    assert compared <= 4 * len(sizes)

"""The benchmarks' recipes: every method has one, and all of them build."""

from __future__ import annotations

from pathlib import Path

import pytest

import mergebuild as mb
from benchmarks.models import make, of_tensors
from benchmarks.recipes import CASES, METHODS, recipe, results, sources
from mergebuild.methods import registry


def test_every_method_has_a_recipe() -> None:
    assert sorted(METHODS) == sorted(registry())


@pytest.mark.parametrize("case", CASES)
def test_recipes_read_and_make_what_the_floor_counts(case: str, tmp_path: Path) -> None:
    models = make(tmp_path / "models", of_tensors(11))
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe(case, models), encoding="utf-8")
    plan = mb.plan(file, cache=tmp_path / "cache")
    read = {leaf.checkpoint.path.resolve() for leaf in plan.leaves.values()}
    assert read == {path.resolve() for path in sources(case, models)}
    assert sum(node.stored for node in plan.nodes.values()) == results(case)

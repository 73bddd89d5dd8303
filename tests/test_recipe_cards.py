"""The shapes of the five cards that this project started from, as plain mergekit files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mergebuild.errors import RecipeError
from mergebuild.recipe import NodeRef, Source
from tests.test_recipe import parse, values

SLICES = """\
base_model: org/base
dtype: bfloat16
merge_method: %s
modules:
  default:
    slices:
    - sources:
      - layer_range: [0, 32]
        model: org/base
      - layer_range: [0, 32]
        model: org/a
        parameters:
          %sweight: 0.3
      - layer_range: [0, 32]
        model: org/b
        parameters:
          %sweight: 0.7
"""


def test_dare_ties_in_modules() -> None:
    recipe = parse(SLICES % ("dare_ties", "density: 0.6\n          ", "density: 0.6\n          "))
    assert recipe.warnings == ()
    node = recipe.nodes["r"]
    (module,) = node.modules
    (part,) = module.slices
    assert module.name == "default"
    assert [str(entry.model) for entry in part.inputs] == ["org/base", "org/a", "org/b"]
    assert part.inputs[0].model == node.base
    assert {entry.layer_range for entry in part.inputs} == {(0, 32)}


def test_nuslerp_in_modules() -> None:
    recipe = parse(SLICES % ("nuslerp", "", ""))
    assert recipe.warnings == ()
    assert values(recipe.nodes["r"].modules[0].slices[0].inputs[2].parameters, "weight") == [0.7]


def test_dare_ties_with_leftovers() -> None:
    recipe = parse(LEFTOVERS)
    assert [(warning.at.line, warning.message) for warning in recipe.warnings if warning.at] == [
        (4, "node 'r': parameter 'density' has no effect on the base 'org/base'"),
        (5, "node 'r': parameter 'weight' has no effect on the base 'org/base'"),
        (23, "node 'r': parameter 'int8_mask' has no effect under 'dare_ties'"),
        (24, "node 'r': 'dare_ties' has no parameter 'interpolation_factor'; it is ignored"),
    ]
    with pytest.raises(RecipeError, match="has no parameter 'interpolation_factor'"):
        parse(LEFTOVERS, strict=True)


LEFTOVERS = """\
models:
  - model: org/base
    parameters:
      density: 1
      weight: 1
  - model: org/a
    parameters:
      density: 0.5
      weight: 0.3
  - model: org/b
    parameters:
      density: 0.5
      weight: 0.3
  - model: org/c
    parameters:
      density: 0.5
      weight: 0.4
merge_method: dare_ties
base_model: org/base
dtype: bfloat16
parameters:
  normalize: true
  int8_mask: true
  interpolation_factor: 0.5
"""


def test_slerp_with_gradients() -> None:
    recipe = parse(
        """\
slices:
  - sources:
      - model: org/a
        layer_range: [0, 32]
      - model: org/b
        layer_range: [0, 32]
merge_method: slerp
base_model: org/a
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: float16
"""
    )
    conditions = recipe.nodes["r"].parameters["t"].conditions
    assert [condition.filter for condition in conditions] == ["self_attn", "mlp", None]
    assert recipe.nodes["r"].modules[0].name == "default"


STAGES = """\
%smodels:
  - model: org/math
    parameters: {weight: 1, density: 0.3}
merge_method: dare_ties
base_model: org/base
dtype: bfloat16
%s
models:
  - model: math-dare
    parameters: {weight: 1.0}
  - model: org/chat
    parameters: {weight: 1.0}
merge_method: task_arithmetic
base_model: org/base
dtype: bfloat16
"""


def test_two_stages() -> None:
    recipe = parse(STAGES % ("name: math-dare\n", "---"))
    assert recipe.outputs == {"r": None}
    models = [entry.model for entry in recipe.nodes["r"].modules[0].slices[0].inputs]
    assert models == [NodeRef("math-dare"), Source("org/chat")]
    assert recipe.path == Path("r.yaml")


def test_two_stages_run_together() -> None:
    with pytest.raises(RecipeError) as caught:
        parse(STAGES % ("", "# math-dare"))
    (problem,) = caught.value.problems
    assert str(problem.at) == "r.yaml:8:1"
    assert problem.message == "duplicate key 'models': a second configuration starts"
    assert problem.hint == (
        "separate two configurations with a line '---' and give the first a 'name:'"
    )

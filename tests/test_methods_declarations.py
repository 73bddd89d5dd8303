"""Declarations: complete, and what they say before anything is read."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch

from mergebuild import methods
from mergebuild.kernels.operations import Identity, Map
from mergebuild.methods import registry
from mergebuild.methods.declaration import REQUIRED, Method, Operands, Scope
from mergebuild.methods.declare import Floats, method, per_delta, per_input, shared
from tests.methods_reference import REFERENCES, bits, example_arguments, merge
from tests.test_methods import inputs_of

ROOT = Path(__file__).resolve().parent.parent
NAMES = sorted(registry())
# Geometry, or nothing to cite.
UNPUBLISHED = ("arcee_fusion", "multislerp", "nearswap", "nuslerp", "passthrough", "slerp")
ALL = {"density": (1.0, 1.0), "lambda": 1.0, "rescale": False, "seed": 0}
ONE = {"density": (1.0,), "normalize": False, "rescale": True}


@pytest.mark.parametrize(
    ("name", "arguments", "level"),
    [
        ("linear", {"weight": (1.0, -1.0), "normalize": True}, "error"),
        ("linear", {"weight": (1.0, -1.0), "normalize": False}, None),
        ("linear", {"weight": (1.0, -0.5), "normalize": True}, None),
        ("nuslerp", {"weight": (1.0, -1.0)}, "warning"),
        ("nuslerp", {"weight": (1.0, 1.0)}, None),
        ("task_arithmetic", {"weight": (1.0, -1.0), "normalize": True}, "warning"),
        ("task_arithmetic", {"weight": (1.0, -0.5), "normalize": True}, None),
        ("ties", {"weight": (1.0, -0.5), "normalize": True}, "warning"),
        ("ties", {"weight": (1.0, -0.5), "normalize": False}, None),
        ("dare_ties", {"weight": (-1.0,), "normalize": True}, "warning"),
        ("breadcrumbs", {"weight": (1.0, -1.0), "normalize": True}, "warning"),
        ("breadcrumbs_ties", {"weight": (-1.0,), "normalize": True}, "warning"),
        ("multislerp", {"weight": (1.0, -1.0), "normalize_weights": True}, "error"),
        ("multislerp", {"weight": (1.0, -1.0), "normalize_weights": False}, None),
        ("multislerp", {"weight": (0.0,), "normalize_weights": True}, None),
        *(
            (
                name,
                {"weight": (1.0,), "normalize": True, "density": (rho,), "epsilon": (eps,)},
                level,
            )
            for name in ("della", "della_linear")
            for rho, eps, level in (
                (0.5, 0.15, None),
                (0.15, 0.15, "error"),
                (0.85, 0.15, "error"),
                (1.0, 0.15, None),
                (0.0, 0.15, None),
                (0.5, 0.6, "error"),
            )
        ),
    ],
)
def test_findings(name: str, arguments: dict[str, Any], level: str | None) -> None:
    base = registry()[name].base == "required"
    operands = Operands(len(arguments["weight"]) + base, base, (2,))
    found = [finding.level for finding in registry()[name].check(operands, arguments)]
    assert found == ([] if level is None else [level])


@pytest.mark.parametrize(
    ("name", "shape", "arguments", "idle"),
    [
        ("linear", (2,), {"weight": (0.5, 0.5), "normalize": True}, {"normalize"}),
        ("linear", (2,), {"weight": (1.0, 1.0), "normalize": True}, set()),
        ("passthrough", (2,), {"scale": (1.0,)}, {"scale"}),
        ("passthrough", (2,), {"scale": (2.0,)}, set()),
        (
            "nuslerp",
            (2,),
            {"weight": (1.0, 1.0), "nuslerp_flatten": False, "nuslerp_row_wise": True},
            {"nuslerp_flatten", "nuslerp_row_wise"},
        ),
        (
            "nuslerp",
            (2, 2),
            {"weight": (1.0, 1.0), "nuslerp_flatten": True, "nuslerp_row_wise": True},
            {"nuslerp_row_wise"},
        ),
        ("dare_ties", (2,), {"weight": (1.0, 1.0), **ALL}, {"rescale", "seed"}),
        (
            "dare_ties",
            (2,),
            {"weight": (1.0, 1.0), **ALL, "density": (0.0, 0.5)},
            set(),
        ),
        ("ties", (2,), {"weight": (1.0, 1.0), "density": (1.0, 1.0), "rescale": True}, {"rescale"}),
        (
            "ties",
            (2,),
            {"weight": (), "density": (), "lambda": 2.0},
            {"weight", "density", "lambda"},
        ),
        ("task_arithmetic", (2,), {"weight": (1.0,), "normalize": True}, {"normalize"}),
        (
            "breadcrumbs",
            (2,),
            {"weight": (2.0,), **ONE, "gamma": (0.1,)},
            {"gamma", "rescale"},
        ),
        (
            "della",
            (2,),
            {"weight": (2.0,), **ONE, "epsilon": (0.1,), "seed": 1},
            {"epsilon", "rescale", "seed"},
        ),
        (
            "della",
            (2, 1),
            {"weight": (2.0,), **ONE, "density": (0.5,), "epsilon": (0.1,), "seed": 1},
            {"epsilon"},
        ),
        (
            "multislerp",
            (2,),
            {"weight": (0.5, 0.5), "normalize_weights": True},
            {"normalize_weights"},
        ),
        (
            "multislerp",
            (2,),
            {"weight": (0.5,), "normalize_weights": True, "eps": 0.1},
            {"weight", "normalize_weights", "eps"},
        ),
        ("karcher", (2,), {"max_iter": 3, "tol": 0.1}, {"max_iter", "tol"}),
        ("model_stock", (2,), {"weight": (1, 1), "filter_wise": True}, {"filter_wise"}),
        ("model_stock", (2, 2), {"weight": (1, 1), "filter_wise": True}, set()),
        ("sce", (2,), {"select_topk": 0.5, "floor": 0.1}, {"floor"}),
        ("sce", (2,), {"weight": (1, 1), "select_topk": 0.0, "floor": 0.1}, {"floor"}),
        ("sce", (2,), {"weight": (1, 1), "select_topk": 0.5, "floor": 0.1}, set()),
        ("ramplus_tl", (2,), {"r": 0.0, "alpha": 0.1, "epsilon": 0.1}, {"r", "alpha"}),
        ("ramplus_tl", (2,), {"weight": (1, 1), "r": 0.0, "alpha": 0.1}, {"alpha"}),
        ("ramplus_tl", (2,), {"weight": (1, 1), "r": 0.5, "alpha": 0.1}, set()),
        ("ram", (2,), {"weight": (), "epsilon": 0.1}, {"weight", "epsilon"}),
        ("consensus_ta", (2,), {"mask_lambda": (0.1,), "min_agree": 0}, {"mask_lambda"}),
    ],
)
def test_idle(name: str, shape: Any, arguments: dict[str, Any], idle: set[str]) -> None:
    base = registry()[name].base == "required"
    count = len(arguments.get("weight", (1,))) + base
    assert registry()[name].idle(Operands(count, base, shape), arguments) == idle


# Declarations.


@pytest.mark.parametrize("name", NAMES)
def test_declarations_are_complete(name: str) -> None:
    declared = registry()[name]
    assert declared.name == name
    assert declared.version >= 1
    assert declared.summary.endswith(".")
    assert "y = " in declared.equation
    assert declared.inputs[0] <= (declared.inputs[1] or 99)
    assert not declared.inert & set(declared.parameters)
    assert ("seed" in declared.parameters) == declared.random
    assert list(declared.parameters) == sorted(declared.parameters)
    for key, parameter in declared.parameters.items():
        assert parameter.name == key
        assert parameter.doc.endswith(".")
    held = declared.held(Operands(3, declared.base == "required", (4, 4)))
    assert (held > 0) == declared.whole
    assert bool(declared.papers) != (name in UNPUBLISHED)
    for paper in declared.papers:
        assert paper.arxiv
        assert f"arXiv:{paper.arxiv}" in declared.summary


@pytest.mark.parametrize("file", sorted(Path(methods.__file__).parent.glob("[a-z]*.py")))
def test_the_table_of_modules_says_what_they_declare(file: Path) -> None:
    module = import_module(f"mergebuild.methods.{file.stem}")
    declared = [one.name for one in vars(module).values() if isinstance(one, Method)]
    tables = [table for table in methods.FAMILIES.values() if file.stem in table]
    assert declared == [name for table in tables for name in table[file.stem]]


def test_the_registry_is_sorted_and_read_only() -> None:
    assert list(registry()) == sorted(registry()) == sorted(REFERENCES)
    assert registry() is registry()
    assert not hasattr(registry(), "__setitem__")


@pytest.mark.parametrize("name", NAMES)
def test_defaults_stand_in_for_what_is_not_given(name: str) -> None:
    xs = inputs_of(name, (3, 4), torch.float32)
    given = example_arguments(
        registry()[name], Operands(len(xs), registry()[name].base == "required", (3, 4))
    )
    needed = {
        key: given[key] for key, p in registry()[name].parameters.items() if p.default is REQUIRED
    }
    results = [merge(name, xs, arguments=a)[0] for a in (given, needed)]
    assert bits(results[0]) == bits(results[1])
    if needed:
        with pytest.raises(TypeError, match="is required"):
            merge(name, xs, arguments={})


def test_a_signature_is_a_schema() -> None:
    @method(base="optional", inputs=(1, 2), missing="subset")
    def example(
        operands: Operands,
        *,
        weight: Annotated[Floats, per_delta("A.", low=0, high=1, high_open=True)],
        scale: Annotated[tuple[float | None, ...], per_input("B.", default=None)],
        lambda_: Annotated[int, shared("C.", default=3)],
    ) -> Map:
        """Summary over
        two lines.

        y = x

        More.
        """
        assert (weight, scale, lambda_) == ((0.5,), (None, None), 3)
        return Identity()

    assert (example.name, example.summary, example.equation) == (
        "example",
        "Summary over two lines.",
        "y = x",
    )
    assert list(example.parameters) == ["lambda", "scale", "weight"]
    weight, scale = example.parameters["weight"], example.parameters["scale"]
    assert (weight.scope, weight.type, weight.default) == (Scope.DELTA, float, REQUIRED)
    assert (weight.low, weight.high, weight.low_open, weight.high_open) == (0, 1, False, True)
    assert (scale.scope, scale.nullable, scale.default) == (Scope.INPUT, True, None)
    assert registry()["dare_ties"].parameters["rescale"].choices == ("inverse",)
    steps = example.run(Operands(2, True, ()), {"weight": (0.5,)})
    assert inspect.isgenerator(steps)
    with pytest.raises(StopIteration) as stop:
        next(steps)
    assert stop.value.value == Identity()


def test_signatures_that_are_no_schema_are_refused() -> None:
    def bare(operands: Operands) -> Map:
        return Identity()

    def untyped(operands: Operands, *, t: float) -> Map:
        """Summary.

        y = x
        """
        return Identity()

    def scalar(operands: Operands, *, t: Annotated[float, per_input("A.")]) -> Map:
        """Summary.

        y = x
        """
        return Identity()

    def text(operands: Operands, *, t: Annotated[str, shared("A.")]) -> Map:
        """Summary.

        y = x
        """
        return Identity()

    declare = method(base="ignored", inputs=(1, 1), missing="error")
    refused: list[tuple[Callable[..., Map], str]] = [
        (bare, "no summary"),
        (untyped, "not annotated"),
        (scalar, "tuples are for"),
        (text, "not one of"),
    ]
    for function, why in refused:
        with pytest.raises(TypeError, match=why):
            declare(function)


def test_declarations_load_neither_torch_nor_numpy() -> None:
    # The package itself is not run: what it imports is not this test's affair.
    code = f"""
import sys, types
package = types.ModuleType("mergebuild")
package.__path__ = [{str(ROOT / "mergebuild")!r}]
sys.modules["mergebuild"] = package
from mergebuild.methods import registry
import mergebuild.kernels
assert len(registry()) >= 8
print(sorted({{"torch", "numpy"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "[]\n"

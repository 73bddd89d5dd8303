"""Methods of other packages: the example in tests/plugin, and packages that are broken."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from torch import Tensor

import mergebuild.methods as mm
from mergebuild.errors import BuildError, UsageError
from mergebuild.methods import Registry, registry
from mergebuild.methods.declaration import REQUIRED, Operands, Scope
from mergebuild.methods.declare import method, per_delta, shared
from mergebuild.methods.plugins import Candidate, keyed, whole_method
from tests import kit
from tests.methods_reference import merge

PLUGIN = Path(__file__).resolve().parent / "plugin"
RECIPE = """
    mergebuild: 1
    sources: {base: ./base, a: ./a, b: ./b, c: ./c}
    nodes:
      middle:
        merge_method: median
        base_model: base
        models: [{model: a}, {model: b}, {model: c}]
        parameters: {strength: 0.5}
        dtype: float32
    outputs: [middle]
"""


def installed(folder: Path, points: dict[str, str], name: str = "median-merge") -> Path:
    """What pip leaves of a package besides its code: a .dist-info with entry points."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{point} = {place}" for point, place in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[mergebuild.methods]", *lines, ""]))
    return folder


@pytest.fixture
def fresh() -> Any:
    """What packages offer is looked up anew, and forgotten afterwards."""
    for remembered in (mm._offered, mm._loaded):
        remembered.cache_clear()
    yield
    for remembered in (mm._offered, mm._loaded):
        remembered.cache_clear()


@pytest.fixture
def with_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: None) -> Registry:
    monkeypatch.syspath_prepend(installed(tmp_path, {"median": "median_merge:median"}))
    monkeypatch.syspath_prepend(PLUGIN / "src")
    return registry()


def test_the_example_is_a_method(with_example: Registry) -> None:
    assert "median" in with_example
    assert "median" in list(with_example)
    found = with_example["median"]
    assert (found.base, found.whole, found.package) == ("optional", True, "median-merge 1.0")
    assert found.held(Operands(4, True, (10, 10))) == 12 * 5 * 100
    assert found.summary == "Take the median of all models at every place."
    assert found.equation.startswith("y = b + strength")
    assert found.parameters["strength"].default == 1.0
    assert with_example.problems == ()


def test_the_example_computes(with_example: Registry) -> None:
    xs = [torch.tensor([float(v), 1.0]) for v in (0, 9, 2, 4)]
    y, _ = merge("median", xs, base=True, arguments={"strength": 0.5})
    assert y.tolist() == [2.0, 1.0]
    y, _ = merge("median", xs, base=False, arguments={"strength": 0.5})
    assert y.tolist() == [2.0, 1.0]


def test_the_example_builds_and_is_listed_and_explained(tmp_path: Path) -> None:
    base = kit.llama(tmp_path / "base", layers=1)
    for seed, name in enumerate("abc", start=1):
        kit.llama(tmp_path / name, layers=1, near=base, seed=seed)
    kit.write_recipe(tmp_path / "recipe.yaml", RECIPE)
    installed(tmp_path / "site", {"median": "median_merge:median"})
    env = {"PYTHONPATH": f"{kit.ROOT}:{tmp_path / 'site'}:{PLUGIN / 'src'}"}
    result = kit.run("build", "recipe.yaml", cwd=tmp_path, env=env)
    assert result.code == 0, result.stderr
    read = {name: kit.read(tmp_path / name) for name in ("base", "a", "b", "c")}
    for name, tensor in kit.read(tmp_path / "build" / "middle").items():
        middle = torch.stack([read[one][name] for one in "abc"]).median(0).values
        expected = read["base"][name] + 0.5 * (middle - read["base"][name])
        assert torch.equal(tensor, expected)
    schema = json.loads(kit.run("schema", cwd=tmp_path, env=env).stdout)
    assert "strength" in schema["definitions"]["parameters-median"]["properties"]
    listed = kit.run("methods", cwd=tmp_path, env=env)
    assert "median" in listed.stdout
    shown = kit.run("methods", "median", cwd=tmp_path, env=env)
    assert "strength" in shown.stdout
    assert "median-merge 1.0" in shown.stdout
    missing = kit.run("plan", "recipe.yaml", cwd=tmp_path)
    assert missing.code == 2
    assert "unknown method 'median'" in missing.stderr


# What may be wrong with a package.


def offered(points: dict[str, Any]) -> dict[str, tuple[Candidate, ...]]:
    def loader(value: Any) -> Any:
        def load() -> Any:
            if isinstance(value, BaseException):
                raise value
            return value

        return load

    return {name: (Candidate(name, "other", "2.0", loader(v)),) for name, v in points.items()}


@pytest.mark.parametrize(
    ("point", "why"),
    [
        (ImportError("no module named x"), "ImportError: no module named x"),
        (SystemExit(3), "SystemExit: 3"),
        (7, "int is no function"),
        (lambda x: x, "takes (tensors) or (tensors, base)"),
        (lambda tensors, *, t: tensors, "parameter 't' has no annotation"),
    ],
)
def test_a_broken_package_is_told_and_breaks_nothing(
    point: Any, why: str, fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mm, "_offered", lambda: offered({"odd": point}))
    known = registry()
    assert "odd" not in list(known)
    (problem,) = known.problems
    assert "method 'odd' of other 2.0 cannot be used" in problem.message
    assert why in problem.message
    assert "odd" in known
    with pytest.raises(UsageError, match="cannot be used"):
        known["odd"]


def test_clashes_are_told(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def double(tensors: Sequence[Tensor]) -> Tensor:
        return tensors[0] * 2

    points = offered({"ties": double, "twin": double})
    points["twin"] *= 2
    monkeypatch.setattr(mm, "_offered", lambda: points)
    known = registry()
    assert known["ties"].package is None, "the built-in one is used"
    assert [problem.message for problem in known.problems] == [
        "method 'ties' of other 2.0 has the name of a built-in method, which is used",
        "method 'twin' of other 2.0 is one of 2 of that name: other has one too",
    ]
    with pytest.raises(UsageError):
        known["twin"]


def test_built_in_names_look_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def boom() -> Any:
        raise AssertionError("entry points were looked up")

    monkeypatch.setattr(mm, "_offered", boom)
    assert registry()["ties"].name == "ties"
    assert "ties" in registry()


# Signatures.


def test_a_plain_signature_is_a_schema() -> None:
    def example(
        tensors: Sequence[Tensor],
        base: Tensor,
        *,
        weight: tuple[float, ...],
        lambda_: Annotated[float, shared("How much.", low=0)] = 0.5,
        bias: Annotated[tuple[float, ...], per_delta("More.")] = 0.0,  # type: ignore[assignment]
        clip: bool = False,
    ) -> Tensor:
        return base

    made = whole_method("example", example)
    assert (made.base, made.inputs, made.missing) == ("required", (1, None), "single")
    assert list(made.parameters) == ["bias", "clip", "lambda", "weight"]
    weight, scale = made.parameters["weight"], made.parameters["lambda"]
    assert (weight.scope, weight.type, weight.default) == (Scope.DELTA, float, REQUIRED)
    assert (scale.default, scale.low, scale.doc) == (0.5, 0, "How much.")
    assert (made.parameters["bias"].scope, made.parameters["bias"].default) == (Scope.DELTA, 0.0)

    def bare(tensors: Sequence[Tensor], *, weight: tuple[float, ...]) -> Tensor:
        return tensors[0]

    made = whole_method("bare", bare)
    assert (made.base, made.parameters["weight"].scope) == ("ignored", Scope.INPUT)


def test_a_version_follows_the_release() -> None:
    def one(tensors: Sequence[Tensor]) -> Tensor:
        return tensors[0]

    versions = {
        keyed(1, "a", "1.0"),
        keyed(2, "a", "1.0"),
        keyed(1, "a", "1.1"),
        keyed(1, "b", "1.0"),
    }
    assert len(versions) == 4
    assert keyed(1, "a", "1.0") == keyed(1, "a", "1.0") > 1
    assert whole_method("one", one).version == 1
    one.version = 3  # type: ignore[attr-defined]
    assert whole_method("one", one).version == 3


def test_a_streaming_method_may_come_from_a_package_too() -> None:
    nearby = method(base="required", inputs=(1, 1), missing="single")(_streaming)
    (found,) = (one for (one,) in offered({"nearby": nearby}).values())
    made = found.method()
    assert isinstance(made, type(nearby))
    assert (made.name, made.package, made.whole) == ("nearby", "other 2.0", False)


def _streaming(operands: Any, *, t: Annotated[float, shared("A.")]) -> Any:
    """Summary.

    y = x
    """
    from mergebuild.kernels.operations import Identity

    return Identity(1)


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (lambda x: x[:1], r"shape \[1\] for \[3\]"),
        (lambda x: 3, "returned int, not a tensor"),
        (lambda x: x / "a", "failed: TypeError"),
    ],
)
def test_what_goes_wrong_in_a_function_names_the_method(
    result: Any, why: str, fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(tensors: Sequence[Tensor]) -> Any:
        return result(tensors[0])

    monkeypatch.setattr(mm, "_offered", lambda: offered({"odd": odd}))
    with pytest.raises(BuildError, match=f"method 'odd' .*{why}|method 'odd' {why}"):
        merge("odd", [torch.ones(3)], arguments={})


def test_nothing_is_left_on_the_path() -> None:
    assert str(PLUGIN / "src") not in sys.path

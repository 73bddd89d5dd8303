"""The same configurations through mergekit, run as a black box, and through `mergebuild build`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import prod, sqrt
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mergebuild as mb
from mergebuild.methods import registry
from tests import kit
from tests.parity.cases import (
    CASES,
    DIFFERENCES,
    EXPORTS,
    RANDOM,
    SHAPED,
    Case,
    Difference,
    Random,
)
from tests.parity.conftest import Outcome, written

# All on one worker: the oracle starts once.
pytestmark = pytest.mark.xdist_group("parity")

Build = Callable[[str, str], tuple[kit.Result, Path]]


@pytest.mark.parametrize(
    ("case", "family"),
    [
        pytest.param(case, family, id=f"{case.name}-{family}")
        for case in CASES
        for family in case.families
    ],
)
def test_agrees(case: Case, family: str, oracle: dict[str, Outcome], ours: Build) -> None:
    theirs = oracle[f"{case.name}-{family}"]
    assert theirs.error is None
    result, out = ours(case.config, family)
    assert result.code == 0, result.stderr
    assert differences(kit.read(out), kit.read(theirs.path), case.tolerance) == []
    assert layers(out) == layers(theirs.path)


@pytest.mark.parametrize("name", SHAPED)
def test_shapes_of_one_to_four_axes_agree(
    name: str, models: Path, oracle: dict[str, Outcome], tmp_path: Path
) -> None:
    theirs = oracle[f"{name}-shaped"]
    assert theirs.error is None
    (case,) = (one for one in CASES if one.name == name)
    recipe = mb.load(
        kit.write_recipe(tmp_path / "config.yml", written(case.config, models / "shaped"))
    )
    outputs = dict.fromkeys(recipe.outputs, tmp_path / "out")
    mb.build(mb.plan(recipe, cache=tmp_path / "cache", outputs=outputs))
    ours = kit.read(tmp_path / "out")
    assert {tensor.dim() for tensor in ours.values()} == {1, 2, 3, 4}
    assert differences(ours, kit.read(theirs.path), case.tolerance) == []


def test_every_method_of_the_oracle_is_shaped() -> None:
    methods = {
        line.split(":")[1].strip()
        for case in CASES
        if case.name in SHAPED
        for line in case.config.splitlines()
        if "merge_method:" in line
    }
    beyond = {"consensus_ta", "pcb_merging", "tsv_merge", "iso_c"}
    assert methods == set(registry().built_in) - beyond
    assert {case.name for case in CASES} >= set(SHAPED)


@pytest.mark.parametrize("case", EXPORTS, ids=lambda case: case.name)
def test_what_is_exported_agrees(case: Case, oracle: dict[str, Outcome], ours: Build) -> None:
    theirs = oracle[case.name]
    assert theirs.error is None
    result, out = ours(case.config, "llama")
    assert result.code == 0, result.stderr
    assert differences(kit.read(out), kit.read(theirs.path), case.tolerance) == []


@pytest.mark.parametrize("row", RANDOM, ids=lambda row: row.name)
def test_random_methods_agree_in_statistics(
    row: Random, models: Path, oracle: dict[str, Outcome], ours: Build
) -> None:
    theirs = oracle[row.name]
    assert theirs.error is None
    check_statistics(row, models / "wide", kit.read(theirs.path))
    result, out = ours(row.config, "wide")
    assert result.code == 0, result.stderr
    check_statistics(row, models / "wide", kit.read(out))


@pytest.mark.parametrize("row", DIFFERENCES, ids=lambda row: row.name)
def test_differs_on_purpose(row: Difference, oracle: dict[str, Outcome], ours: Build) -> None:
    assert (oracle[row.name].error is not None) == row.oracle_fails
    result, _ = ours(row.config, row.family)
    assert result.code == row.our_code, result.stderr


def differences(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> list[str]:
    """One line for each tensor that is missing, unexpected or not the same to `tolerance`."""
    found = [f"{name}: in one only" for name in sorted(ours.keys() ^ theirs.keys())]
    for name in sorted(ours.keys() & theirs.keys()):
        x, y = ours[name], theirs[name]
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            found.append(f"{name}: {x.dtype} {tuple(x.shape)} for {y.dtype} {tuple(y.shape)}")
            continue
        x, y = x.double(), y.double()
        off, largest = (x - y).abs().max().item(), y.abs().max().item()
        if not off <= tolerance * largest:
            found.append(f"{name}: off by {off:.3g}, largest value {largest:.3g}")
    return found


def layers(checkpoint: Path) -> int:
    config = kit.config(checkpoint)
    return int(config.get("num_hidden_layers", config.get("n_layer", 0)))


def check_statistics(row: Random, folder: Path, merged: dict[str, Tensor]) -> None:
    """Every element is what some subset of kept deltas gives, each as often as it should be."""
    base = kit.read(folder / "base")
    assert merged.keys() == base.keys()
    moved = {name: (merged[name] - base[name]).double() for name in base}
    deltas = []
    for name, (weight, _) in row.deltas.items():
        model = kit.read(folder / name)
        parts = []
        for one in base:
            delta = (model[one] - base[one]).double()
            kept = delta[moved[one] != 0].abs().sum()
            factor = delta.abs().sum() / kept if row.rescale and kept > 0 else 1.0
            parts.append((weight * factor * delta).flatten())
        deltas.append(torch.cat(parts))

    subsets = list(product((False, True), repeat=len(deltas)))
    values = torch.stack([merge_of(deltas, kept, row.method == "dare_ties") for kept in subsets])
    off, which = (values - torch.cat([moved[name].flatten() for name in base])).abs().min(dim=0)
    assert off.max().item() < 1e-6

    # Where the deltas agree in sign no vote hides who was kept.
    plain = which[torch.stack(deltas).sign().sum(dim=0).abs() == len(deltas)]
    densities = [density for _, density in row.deltas.values()]
    for index, subset in enumerate(subsets):
        expected = prod(p if kept else 1 - p for p, kept in zip(densities, subset, strict=True))
        share = (plain == index).double().mean().item()
        assert abs(share - expected) < 5 * sqrt(expected * (1 - expected) / plain.numel())


def merge_of(deltas: list[Tensor], kept: tuple[bool, ...], elected: bool) -> Tensor:
    """What the deltas that are kept add to the base."""
    chosen = torch.stack([d if keep else 0 * d for d, keep in zip(deltas, kept, strict=True)])
    total = chosen.sum(dim=0)
    if not elected:
        return total
    sign = torch.where(total >= 0, 1.0, -1.0)
    return torch.where(chosen.sign() == sign, chosen, 0.0).sum(dim=0)

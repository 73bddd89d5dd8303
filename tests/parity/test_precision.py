"""Errors against float64 with bfloat16 inputs: never larger than mergekit's, and as documented."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.precision import DTYPES, ROWS, measured
from mergebuild.methods import registry
from tests import kit
from tests.parity.conftest import oracle_python

pytestmark = pytest.mark.xdist_group("parity")

BEYOND = {"consensus_ta", "pcb_merging", "tsv_merge", "iso_c"}  # mergekit has none of them


def recorded() -> dict[str, list[float]]:
    """The table in benchmarks/precision.md, which docs/methods.md includes."""
    lines = (kit.ROOT / "benchmarks" / "precision.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {label: [float(cell) for cell in cells] for label, *cells in rows}


def test_the_table_has_every_method_and_ours_are_never_larger() -> None:
    assert {row.method for row in ROWS} == set(registry().built_in) - BEYOND
    table = recorded()
    assert list(table) == [row.label or row.method for row in ROWS]
    for label, errors in table.items():
        assert len(errors) == 2 * len(DTYPES)
        for ours, theirs in zip(errors[::2], errors[1::2], strict=True):
            assert ours <= theirs, label


def test_the_table_is_what_is_measured(tmp_path: Path) -> None:
    table = recorded()
    for label, errors in measured(tmp_path, oracle_python()):
        for index, (ours, theirs) in enumerate(zip(errors[::2], errors[1::2], strict=True)):
            assert ours <= theirs * 1.0001, (label, DTYPES[index])
        # Ours are the same bits anywhere; mergekit's float32 sums depend on the machine.
        assert errors[::2] == pytest.approx(table[label][::2], rel=0.01), label
        assert errors[1::2] == pytest.approx(table[label][1::2], rel=1.0), label

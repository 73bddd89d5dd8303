"""How often each method reads its inputs: two passes at most, but for some order statistics."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mergebuild.kernels import BLOCK, evaluate
from mergebuild.kernels.sample import pieces
from mergebuild.methods import registry
from mergebuild.methods.declaration import Operands
from tests.methods_reference import KERNELS, STREAMS, Memory, example_arguments

SOME = {"density": (0.5, 0.5)}
PASSES: list[tuple[str, dict[str, Any], int]] = [
    # One pass where no statistic is needed, or only one of a row that lies in a chunk.
    ("linear", {}, 1),
    ("passthrough", {"scale": (0.5,)}, 1),
    ("task_arithmetic", {}, 1),
    ("nearswap", {}, 1),
    ("ram", {}, 1),
    ("consensus_ta", {}, 1),
    ("nuslerp", {"nuslerp_flatten": False}, 1),
    ("model_stock", {"filter_wise": True}, 1),
    ("ties", {}, 1),
    ("breadcrumbs", {}, 1),
    ("breadcrumbs_ties", {}, 1),
    *((name, {}, 1) for name in ("dare_linear", "dare_ties", "della", "della_linear")),
    *(
        (name, {**SOME, "rescale": rescale}, 1)
        for name in ("dare_linear", "dare_ties", "della", "della_linear")
        for rescale in (False, "inverse")
    ),
    # Two with statistics of the tensor.
    ("slerp", {}, 2),
    ("nuslerp", {}, 2),
    ("nuslerp", {"nuslerp_flatten": False, "nuslerp_row_wise": True}, 2),
    ("multislerp", {}, 2),
    ("karcher", {}, 2),
    ("model_stock", {}, 2),
    ("ramplus_tl", {}, 2),
    ("sce", {}, 2),
    *((name, {**SOME, "rescale": True}, 2) for name in ("dare_linear", "dare_ties", "della")),
    ("della_linear", {**SOME, "rescale": True}, 2),
    # Order statistics take one after a sample, or two where their sums are wanted too.
    *(
        (name, {**SOME, "rescale": rescale}, 3 if rescale is True else 2)
        for name in ("ties", "breadcrumbs", "breadcrumbs_ties")
        for rescale in (False, True, "inverse")
    ),
    # Two where the sample would need its rows, or with one for the squares of what is selected.
    ("sce", {"select_topk": 0.5}, 3),
    ("arcee_fusion", {}, 3),
    # And one before that for the range of what is ranked.
    ("pcb_merging", SOME, 3),
    # Matrices that are wider than high by strips of columns, which here are all there is of it.
    ("tsv_merge", {}, 1),
    ("iso_c", {}, 1),
]


@pytest.mark.parametrize(("name", "more", "passes"), PASSES)
def test_passes(name: str, more: dict[str, Any], passes: int) -> None:
    method = registry()[name]
    based = method.base == "required"
    count = min(2, method.inputs[1] or 2) + based
    shape = (3, BLOCK)
    xs = [Memory(torch.randn(shape)) for _ in range(count)]
    operands = Operands(count, based, shape, STREAMS)
    arguments = example_arguments(method, operands) | more
    steps = method.run(operands, arguments)
    out = Memory(torch.empty(shape))
    evaluate(steps, xs, out, "float32", chunk=BLOCK, kernels=KERNELS)
    chunks = [(i * BLOCK, (i + 1) * BLOCK) for i in range(3)]
    sample = list(pieces(3 * BLOCK))
    for x in xs:
        looked_at = [call for call in x.calls if call not in chunks]
        assert looked_at in ([], sample)
        assert [call for call in x.calls if call in chunks] == chunks * passes
    assert out.calls == ([(0, 3 * BLOCK)] if method.whole else chunks)


@pytest.mark.parametrize(("name", "passes"), [("tsv_merge", 4), ("iso_c", 2)])
def test_passes_over_matrices_that_are_higher_than_wide(name: str, passes: int) -> None:
    method, shape = registry()[name], (3 * BLOCK // 64, 64)
    xs = [Memory(torch.randn(shape)) for _ in range(3)]
    operands = Operands(3, True, shape, STREAMS)
    steps = method.run(operands, example_arguments(method, operands))
    out = Memory(torch.empty(shape))
    evaluate(steps, xs, out, "float32", chunk=BLOCK, kernels=KERNELS)
    assert [x.calls for x in xs] == [[(0, 3 * BLOCK)] * passes] * 3
    assert out.calls == [(0, 3 * BLOCK)]


def test_every_method_is_counted() -> None:
    assert {name for name, _, _ in PASSES} == set(registry().built_in)

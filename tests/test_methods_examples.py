"""Every method on few numbers, by hand, and the single cases that the specification names."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mergebuild.methods import registry
from tests.methods_reference import STREAMS, merge
from tests.test_methods import arguments_of, tensors_of

HALF = 0.7071067811865476
ROOT_2 = math.sqrt(2)
DELLA = {"weight": (1.0,), "density": (0.6,), "epsilon": (0.2,), "normalize": False}
PCB = (
    math.exp(0.5) * math.tanh(3) / (math.exp(2) * math.tanh(2)),
    (math.exp(2 / 9) * math.tanh(6) + math.tanh(1)) / (math.exp(2) * math.tanh(16) + math.tanh(1)),
)
ALONE = [m.name for m in registry().values() if m.base == "required" and m.inputs[0] == 0]

# Examples by hand. Family: the base stands first.


EXAMPLES: list[tuple[str, Any, dict[str, Any], Any]] = [
    ("linear", [[1, 2], [3, 6]], {"weight": (1, 3)}, [2.5, 5]),
    ("linear", [[1, 2], [3, 6]], {"weight": (1, 3), "normalize": False}, [10, 20]),
    ("linear", [[1, 2], [2, 4], [3, 7]], {"weight": (1, 1, 1)}, [2, 13 / 3]),
    ("passthrough", [[1, -2]], {"scale": (None,)}, [1, -2]),
    ("passthrough", [[1, -2]], {"scale": (-0.5,)}, [-0.5, 1]),
    ("passthrough", [[1, -2]], {"scale": (0.0,)}, [0, 0]),
    ("slerp", [[1, 0], [0, 1]], {"t": 0.5}, [HALF, HALF]),
    ("slerp", [[2, 0], [0, 4]], {"t": 1 / 3}, [2 * math.cos(math.pi / 6), 2]),
    ("slerp", [[1, 0], [2, 0]], {"t": 0.25}, [1.25, 0]),
    ("slerp", [[1, 0], [0, 0]], {"t": 0.5}, [HALF, 0]),
    ("nuslerp", [[1, 0], [0, 1]], {"weight": (2, 2)}, [HALF, HALF]),
    ("nuslerp", [[1, 0], [-1, 0]], {"weight": (1, 3)}, [-0.5, 0]),
    ("nuslerp", [[1, 0], [0, 1]], {"weight": (1, -1)}, [HALF, HALF]),
    (
        "nuslerp",  # rows: colinear, at right angles
        [[[1, 0], [0, 1]], [[3, 0], [1, 0]]],
        {"weight": (1, 1), "nuslerp_flatten": False},
        [[2, 0], [HALF, HALF]],
    ),
    (
        "nuslerp",  # columns: at right angles, nothing in the second's second
        [[[1, 0], [0, 1]], [[0, 0], [2, 0]]],
        {"weight": (1, 1), "nuslerp_flatten": False, "nuslerp_row_wise": True},
        [[HALF, 0], [2 * HALF, HALF]],
    ),
    ("task_arithmetic", [[1, 1], [2, 1], [1, 3]], {"weight": (1, 0.5)}, [2, 2]),
    (
        "task_arithmetic",
        [[1, 1], [2, 1], [1, 3]],
        {"weight": (1, 3), "normalize": True, "lambda": 2.0},
        [1.5, 4],
    ),
    ("task_arithmetic", [[1, 1], [2, 0]], {"weight": (-1,)}, [0, 2]),
    # δ: 4 -1 0 0 against -1 -3 0 2: signs + - + +, each place has one that agrees.
    (
        "ties",
        [[0] * 4, [4, -1, 0, 0], [-1, -3, 0, 2]],
        {"weight": (1, 2), "density": (1.0, 1.0), "normalize": False},
        [4, -7, 0, 4],
    ),
    (
        "ties",
        [[0] * 4, [4, -1, 0, 0], [-1, -3, 0, 2]],
        {"weight": (1, 2), "density": (1.0, 1.0)},
        [4, -7 / 3, 0, 2],
    ),
    # One of four stays; 8/4 makes up for the rest.
    ("ties", [[0] * 4, [1, -4, 1, 2]], {"weight": (1,), "density": (0.25,)}, [0, -4, 0, 0]),
    (
        "ties",
        [[0] * 4, [1, -4, 1, 2]],
        {"weight": (1,), "density": (0.25,), "rescale": True},
        [0, -8, 0, 0],
    ),
    (
        "ties",
        [[0] * 4, [1, -4, 1, 2]],
        {"weight": (1,), "density": (0.25,), "rescale": "inverse"},
        [0, -16, 0, 0],
    ),
    # Equals at the threshold all stay.
    ("ties", [[0] * 4, [1, -4, 1, 1]], {"weight": (1,), "density": (0.5,)}, [1, -4, 1, 1]),
    # Words of stream 0 over 2**32: 0.868 0.646 0.439 0.813.
    (
        "dare_linear",
        [[1] * 4, [2, 3, 5, 9]],
        {"weight": (1,), "density": (0.7,), "rescale": False},
        [1, 3, 5, 1],
    ),
    (
        "dare_linear",
        [[1] * 4, [2, 3, 5, 9]],
        {"weight": (1,), "density": (0.7,)},
        [1, 1 + 2 * 15 / 6, 1 + 4 * 15 / 6, 1],
    ),
    (
        "dare_linear",
        [[1] * 4, [2, 3, 5, 9]],
        {"weight": (1,), "density": (0.7,), "rescale": "inverse"},
        [1, 1 + 2 / 0.7, 1 + 4 / 0.7, 1],
    ),
    (
        "dare_ties",
        [[0] * 4, [2, 3, 5, 9], [-1, -4, 0, 1]],
        {"weight": (1, 1), "density": (0.7, 1.0), "rescale": False},
        [-1, -4, 5, 1],
    ),
    ("multislerp", [[2, 0], [0, 4]], {"weight": (1, 1)}, [3 * HALF, 3 * HALF]),
    ("multislerp", [[1, 0], [-1, 0]], {"weight": (1, 3)}, [-1, 0]),
    ("multislerp", [[1, 0], [-1, 0]], {"weight": (1, 1)}, [0, 0]),
    (
        "multislerp",
        [[1, 0], [0, 1]],
        {"weight": (1, 1), "normalize_weights": False},
        [ROOT_2] * 2,
    ),
    ("multislerp", [[3, 4]], {"weight": (0.1,)}, [3, 4]),
    ("karcher", [[1, 0], [0, 3]], {}, [2 * HALF, 2 * HALF]),
    # At 0, 0 and 90 degrees: the mean is at 30, the mean direction it starts from at 26.6.
    ("karcher", [[1, 0], [1, 0], [0, 1]], {}, [math.sqrt(3) / 2, 0.5]),
    (
        "karcher",
        [[1, 0], [1, 0], [0, 1]],
        {"max_iter": 0},
        [2 / math.sqrt(5), 1 / math.sqrt(5)],
    ),
    ("karcher", [[3, 4], [0, 0]], {}, [1.5, 2]),
    ("karcher", [[3, 4], [-3, -4]], {}, [3, 4]),
    ("model_stock", [[0, 0], [1, 0], [0, 1]], {}, [0, 0]),
    ("model_stock", [[0, 0], [2, 0], [1, math.sqrt(3)]], {}, [1, 1 / math.sqrt(3)]),  # t = 2/3
    (
        "model_stock",
        [[[0, 0]] * 2, [[1, 0], [1, 0]], [[0, 1], [1, 0]]],
        {"filter_wise": True},
        [[0, 0], [1, 0]],
    ),
    # Five of ten, after the two largest: 4 to 8.
    (
        "breadcrumbs",
        [[1] * 10, list(range(2, 12))],
        {"weight": (2,), "density": (0.5,), "gamma": (0.2,)},
        [1, 1, 1, 9, 11, 13, 15, 17, 1, 1],
    ),
    (
        "breadcrumbs",
        [[0] * 10, list(range(1, 11))],
        {"weight": (1,), "density": (0.5,), "gamma": (0.2,), "rescale": True},
        [0, 0, 0, *(k * 55 / 30 for k in range(4, 9)), 0, 0],
    ),
    ("breadcrumbs", [[1], [3]], {"weight": (1,), "density": (0.9,)}, [1]),
    (
        "breadcrumbs_ties",
        [[0] * 4, [1, -2, 3, 4], [-4, 3, -2, 1]],
        {"weight": (1, 1), "density": (0.5, 0.5), "gamma": (0.25, 0.25)},
        [0, 3, 3, 0],
    ),
    # Ranks 0 3 1 2, probabilities 0.4 0.8 0.533 0.667, words as above.
    *(
        (name, [[0] * 4, [1, 4, 2, 3]], DELLA | {"rescale": rescale}, expected)
        for name in ("della", "della_linear")
        for rescale, expected in (
            (False, [0, 4, 2, 0]),
            (True, [0, 40 / 6, 20 / 6, 0]),
            ("inverse", [0, 5, 3.75, 0]),
        )
    ),
    # q: 10 and 2 thirds; + wins the last place, where only the first has it.
    ("sce", [[0] * 3, [3, 0, 1], [1, 0, -1]], {}, [8 / 3, 0, 1]),
    ("sce", [[0] * 3, [3, 0, 1], [1, 0, -1]], {"floor": 100.0}, [2, 0, 1]),
    # Variances 1, 0, 1/4: one of two places stays.
    ("sce", [[0] * 3, [3, 0, 1], [1, 0, 0]], {"select_topk": 0.5}, [2.8, 0, 0]),
    ("sce", [[1] * 3, [3, 0, 1]], {"select_topk": 0.5}, [1, 1, 1]),
    # One row, hence one κ: quartiles at 0.1, 0.2, 0.3 of |d|, the threshold at 0.5.
    ("arcee_fusion", [[0] * 5, [0, 0.1, -0.2, 0.3, 1]], {}, [0, 0, 0, 0, 1]),
    # A row that moved as a whole has κ = 0, and 0 is the threshold then.
    ("arcee_fusion", [[[0, 0]] * 3, [[5, 5], [7, 7], [0, 1]]], {}, [[5, 5], [7, 7], [0, 1]]),
    ("nearswap", [[0, 0, 0], [0.5, -3, 1]], {"t": 1.0}, [0.5, -1, 1]),
    ("nearswap", [[0, 0, 0], [0.5, -3, 1]], {"t": 0.0}, [0, 0, 0]),
    ("ram", [[0] * 3, [2, 4, 0], [0, 2, 0]], {}, [2, 3, 0]),
    ("ram", [[0] * 3, [2, 4, 0], [0, 2, 0]], {"epsilon": 2.0}, [0, 4, 0]),
    # The first shares one place and has two for itself.
    ("ramplus_tl", [[0] * 4, [2, 4, 0, 1], [0, 2, 0, 0]], {}, [2.04, 3, 0, 1.02]),
    (
        "ramplus_tl",
        [[0] * 4, [2, 4, 0, 1], [0, 2, 0, 0]],
        {"r": 1.0, "alpha": 1.0},
        [3, 3, 0, 1.5],
    ),
    # Both claim the first place (4 > 0.4·4), one each of the others.
    ("consensus_ta", [[0] * 3, [4, 1, 0], [4, 0, -1]], {}, [8, 0, 0]),
    ("consensus_ta", [[0] * 3, [4, 1, 0], [4, 0, -1]], {"min_agree": 1}, [8, 1, -1]),
    ("consensus_ta", [[0] * 3, [4, 1, 0], [4, 0, -1]], {"mask_lambda": (1, 1)}, [0, 0, 0]),
    ("consensus_ta", [[1] * 3, [5, 2, 1], [5, 1, 0]], {"lambda": 0.5}, [5, 1, 1]),
    # β scaled to [0, 1]: 1 0 against 0 1; then a place at which both are the same.
    ("pcb_merging", [[0] * 2, [2, 0], [1, 2]], {}, [2, 2]),
    ("pcb_merging", [[0] * 3, [2, 0, 1], [0, 2, 1]], {"lambda": 2.0}, [4, 4, 2]),
    # Sizes 1 0 1/2 and 0 1 1/3 of their ranges, agreements tanh of 2 0 3 and -1 16 6.
    (
        "pcb_merging",
        [[0] * 3, [2, 0, 1], [-1, 4, 2]],
        {},
        [2, 4, (PCB[0] + 2 * PCB[1]) / (PCB[0] + PCB[1])],
    ),
    ("pcb_merging", [[0] * 3, [2, 0, 1], [0, 2, 1]], {"density": (0.3, 0.3)}, [2, 2, 0]),
    ("pcb_merging", [[1], [3]], {}, [3]),
    # The leading terms 4·e_1e_1ᵀ and 3·e_2e_2ᵀ are orthogonal already.
    (
        "tsv_merge",
        [[[0, 0], [0, 0]], [[4, 0], [0, 1]], [[2, 0], [0, 3]]],
        {},
        [[4, 0], [0, 3]],
    ),
    # e_1 and (1, 1)/√2 turn apart by 22.5 degrees each.
    (
        "tsv_merge",
        [[[1, 0], [0, 1]], [[5, 0], [0, 1]], [[2.5, 1.5], [1.5, 2.5]]],
        {},
        [[1 + 3.5 + HALF / 2, -HALF / 2], [-HALF / 2, 1 + 3.5 - HALF / 2]],
    ),
    ("tsv_merge", [[1, 1], [3, 1], [1, 5]], {"lambda": 2.0}, [3, 5]),
    ("iso_c", [[[1, 0], [0, 1]], [[4, 0], [0, 1]], [[1, 0], [0, 2]]], {}, [[3, 0], [0, 3]]),
    ("iso_c", [[[0, 0]], [[3, 0]], [[0, 4]]], {}, [[3, 4]]),
    ("iso_c", [1, 4, 2], {}, 3),
]


@pytest.mark.parametrize(("name", "tensors", "arguments", "expected"), EXAMPLES)
def test_examples(name: str, tensors: Any, arguments: dict[str, Any], expected: Any) -> None:
    xs = [torch.tensor(x, dtype=torch.float32) for x in tensors]
    y, _ = merge(name, xs, arguments=arguments)
    torch.testing.assert_close(y, torch.tensor(expected, dtype=torch.float32), rtol=1e-6, atol=1e-7)


def test_every_method_has_an_example() -> None:
    assert {name for name, *_ in EXAMPLES} == set(registry().built_in)


def test_linear_divides_once_where_that_rounds_less_often() -> None:
    xs = [torch.tensor([float(v)]) for v in (1, 2, 4)]
    y, _ = merge("linear", xs, arguments={"weight": (1.0, 1.0, 1.0)})
    assert torch.equal(y, torch.tensor([7 / 3]))
    coefficient = torch.tensor(1 / 3)
    assert y != xs[0] * coefficient + xs[1] * coefficient + xs[2] * coefficient


def test_nuslerp_adds_what_it_merges_to_the_base() -> None:
    xs = [torch.tensor(x) for x in ([1.0, 1.0], [2.0, 1.0], [1.0, 2.0])]
    y, _ = merge("nuslerp", xs, base=True, arguments={"weight": (1, 1)})
    torch.testing.assert_close(y, torch.tensor([1 + HALF, 1 + HALF]))


# Single cases that the specification names.


def test_one_element_keeps_its_delta_under_ties() -> None:
    y, _ = merge(
        "ties",
        [torch.ones(1), torch.full((1,), 3.0)],
        arguments={"weight": (1,), "density": (0.1,)},
    )
    assert y.item() == 3


def test_a_negative_weight_loses_its_sign_to_normalize() -> None:
    xs = [torch.ones(3), torch.tensor([1.0, 2.0, -3.0])]
    assert torch.equal(merge("ties", xs, arguments={"weight": (-1,)})[0], xs[1])


@pytest.mark.parametrize("name", ALONE)
def test_the_base_alone_is_returned(name: str) -> None:
    x = torch.randn(5)
    assert torch.equal(merge(name, [x], arguments=arguments_of(name, [x]))[0], x)


@pytest.mark.parametrize("rescale", [True, False, "inverse"])
@pytest.mark.parametrize("name", ["ties", "dare_linear", "dare_ties"])
def test_density_0_and_1_never_rescale(name: str, rescale: Any) -> None:
    xs = tensors_of("normal", 3, (50,), 0)
    common = {"weight": (0.5, 2.0), "rescale": rescale, "normalize": False}
    whole = merge(name, xs[:2], arguments=common | {"weight": (2.0,), "density": (1.0,)})[0]
    assert torch.equal(whole, xs[0] + 2 * (xs[1] - xs[0]))
    none = merge(name, xs, arguments=common | {"density": (0.0, 0.0)})[0]
    assert torch.equal(none, xs[0])


def test_masks_follow_streams_and_not_positions() -> None:
    xs = tensors_of("normal", 3, (400,), 0)
    arguments = {"weight": (1.0, 1.0), "density": (0.5, 0.5)}
    one = merge("dare_linear", xs, streams=STREAMS[:2], arguments=arguments)[0]
    two = merge("dare_linear", [xs[0], xs[2], xs[1]], streams=STREAMS[1::-1], arguments=arguments)[
        0
    ]
    torch.testing.assert_close(one, two)
    three = merge("dare_linear", xs, streams=STREAMS[2:4], arguments=arguments)[0]
    assert not torch.allclose(one, three)

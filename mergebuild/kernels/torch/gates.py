"""The weight of a mixture's router: one row an expert, given or drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from mergebuild.kernels.torch.bench import TOO_LARGE


@dataclass(frozen=True, slots=True)
class Router:
    """Raw bytes, row by row; `nonfinite` counts such values by given row, `overflowed` what the
    rounding made infinite."""

    raw: bytes
    nonfinite: Mapping[int, int]
    overflowed: int


def router(
    given: Mapping[int, tuple[bytearray, str]],
    shape: tuple[int, int],
    drawn: Callable[[int], float] | None,
    dtype: str,
) -> Router:
    """`given` are rows as raw bytes with their dtype; `drawn` gives the elements, by row-major
    index, of the others. Rounded to float32, then to `dtype`."""
    experts, width = shape
    kind: torch.dtype = getattr(torch, dtype)
    values = torch.empty(shape, dtype=torch.float32)
    nonfinite = {}
    for expert in range(experts):
        if expert in given:
            raw, name = given[expert]
            values[expert] = torch.frombuffer(raw, dtype=getattr(torch, name)).float()
            nonfinite[expert] = int(torch.count_nonzero(~values[expert].isfinite()))
        else:
            assert drawn is not None
            first = expert * width
            row = [drawn(index) for index in range(first, first + width)]
            values[expert] = torch.tensor(row, dtype=torch.float64).float()
    limit = TOO_LARGE.get(dtype)
    overflowed = 0
    if limit is not None:
        overflowed = int(torch.count_nonzero((values.abs() >= limit) & values.isfinite()))
    return Router(values.to(kind).view(torch.uint8).numpy().tobytes(), nonfinite, overflowed)

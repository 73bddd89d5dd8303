"""The leading singular directions of a difference of matrices, as two factors.

    D = W' - W        B·A ≈ D / s,  the nearest matrix of rank r to it

By the eigenvectors of the smaller of D·Dᵀ and Dᵀ·D in float64, which is several times as fast as
`torch.linalg.svd` and, since float64 squares what float32 holds, as exact as that in float32. With
U the r leading ones of D·Dᵀ the product is U·(Uᵀ·D): of full rank it is D, whatever the accuracy
of U. Whole matrices; call it with torch on one thread for the same bits anywhere on a machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mergebuild.kernels.torch.bench import TOO_LARGE

Raw = tuple[bytearray, str]
"""A tensor's bytes, and its dtype."""


@dataclass(frozen=True, slots=True)
class Factors:
    """A [r, in] and B [out, r] as raw bytes. `nonfinite` counts such values of both operands; if
    there are any the factors are NaN. `overflowed` counts what the rounding made infinite."""

    a: bytes
    b: bytes
    nonfinite: tuple[int, int]
    overflowed: tuple[int, int]


def factors(
    base: Raw,
    model: Raw,
    shape: tuple[int, int],
    *,
    rank: int,
    scale: float,
    transposed: bool,
    dtype: str,
) -> Factors:
    """The factors for which `scale`·B·A is nearest to model - base, or to its transpose.

    √σ goes into each of the two, and every column of B, or row of A where A is made of
    eigenvectors, has its largest element positive, the first of those that are as large.
    """
    delta, other = _matrix(model, shape), _matrix(base, shape)
    nonfinite = tuple(int(torch.count_nonzero(~torch.isfinite(x))) for x in (other, delta))
    delta -= other
    del other
    if transposed:
        delta = delta.T
    if any(nonfinite):
        a = torch.full((rank, delta.shape[1]), torch.nan, dtype=torch.float64)
        b = torch.full((delta.shape[0], rank), torch.nan, dtype=torch.float64)
    elif delta.shape[0] <= delta.shape[1]:
        b, a = _leading(delta, rank)
    else:
        across, along = _leading(delta.T, rank)
        a, b = across.T, along.T
    size = abs(scale) ** -0.5
    rounded = [_rounded(x, dtype) for x in (a * size, b * (size if scale > 0 else -size))]
    one, two = rounded
    return Factors(one[0], two[0], (nonfinite[0], nonfinite[1]), (one[1], two[1]))


def _leading(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(left [m, rank], right [rank, n]) of a matrix with m <= n: their product is the nearest."""
    _, vectors = torch.linalg.eigh(matrix @ matrix.T)
    left = vectors[:, -rank:].flip(1)
    largest = left.gather(0, left.abs().argmax(0, keepdim=True))
    left = left * torch.where(largest < 0, -1.0, 1.0)
    right = left.T @ matrix
    sizes = right.norm(dim=1)
    roots = sizes.sqrt()
    right = torch.where(roots > 0, 1.0 / roots, 0.0).unsqueeze(1) * right
    return left * roots, right


def _matrix(raw: Raw, shape: tuple[int, int]) -> Tensor:
    kind: torch.dtype = getattr(torch, raw[1])
    return torch.frombuffer(raw[0], dtype=kind).view(shape).double()


def _rounded(values: Tensor, dtype: str) -> tuple[bytes, int]:
    """Through float32, as all results are."""
    kind: torch.dtype = getattr(torch, dtype)
    single = values.float().flatten()
    limit = TOO_LARGE.get(dtype)
    count = 0
    if limit is not None:
        count = int(torch.count_nonzero((single.abs() >= limit) & single.isfinite()))
    return single.to(kind).view(torch.uint8).numpy().tobytes(), count

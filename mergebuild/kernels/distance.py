"""How far two tensors are apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Squares:
    """Sums of squares, in float64: of the first tensor, and of the difference of the two."""

    first: float
    apart: float


def squares(one: tuple[bytearray, str], other: tuple[bytearray, str]) -> Squares:
    """Of as many elements of two tensors, given as raw bytes with their dtypes."""
    left, right = (_wide(raw, dtype) for raw, dtype in (one, other))
    if left.is_complex() or right.is_complex():
        left, right = (torch.view_as_real(x.to(torch.complex128)) for x in (left, right))
    return Squares(float(left.square().sum()), float((right - left).square().sum()))


def _wide(raw: bytearray, dtype: str) -> torch.Tensor:
    kind: torch.dtype = getattr(torch, dtype)
    wide = torch.complex128 if kind.is_complex else torch.float64
    return torch.frombuffer(raw, dtype=kind).to(wide)


def largest_distance(one: bytearray, other: bytearray, dtype: str) -> float:
    """The largest absolute difference of elements, given raw bytes of equal, positive length.

    Where just one of the two is not a number, it is infinite.
    """
    left, right = _wide(one, dtype), _wide(other, dtype)
    same = (left == right) | (left.isnan() & right.isnan())
    apart = (left - right).abs().nan_to_num(nan=float("inf"), posinf=float("inf"))
    return float(torch.where(same, 0.0, apart).max())

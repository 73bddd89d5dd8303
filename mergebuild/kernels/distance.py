"""How far two tensors are apart."""

from __future__ import annotations

import torch


def largest_distance(one: bytearray, other: bytearray, dtype: str) -> float:
    """The largest absolute difference of elements, given raw bytes of equal, positive length.

    Where just one of the two is not a number, it is infinite.
    """
    kind: torch.dtype = getattr(torch, dtype)
    wide = torch.complex128 if kind.is_complex else torch.float64
    left = torch.frombuffer(one, dtype=kind).to(wide)
    right = torch.frombuffer(other, dtype=kind).to(wide)
    same = (left == right) | (left.isnan() & right.isnan())
    apart = (left - right).abs().nan_to_num(nan=float("inf"), posinf=float("inf"))
    return float(torch.where(same, 0.0, apart).max())

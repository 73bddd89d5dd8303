"""The averages and the task vectors over whole tensors, written from the formulas alone.

A reference returns the result and its tolerance: 0 where every step is one float32 operation and
the bits must agree, else an absolute error that follows from the size of what is summed. It does
its arithmetic in the dtype of what it is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from mergebuild.methods.declaration import Arguments

Result: TypeAlias = tuple[Tensor, float | Tensor]
STREAMS = ((0x56582268, 0x47B42919), (1, 2), (0xFFFFFFFF, 0x80000000), (77, 78), (5, 3), (9, 9))


def hash_words(stream: tuple[int, int], count: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The words of elements 0, 1, …, in uint64 arithmetic."""
    word = np.uint64(0xFFFFFFFF)

    def mix(x: Any) -> Any:
        x = x ^ (x >> np.uint64(16))
        x = x * np.uint64(0x7FEB352D) & word
        x = x ^ (x >> np.uint64(15))
        x = x * np.uint64(0x846CA68B) & word
        return x ^ (x >> np.uint64(16))

    elements = np.arange(count, dtype=np.uint64)
    words = mix(mix(elements ^ np.uint64(stream[0])) + np.uint64(stream[1]) & word)
    return np.asarray(words)


def linear(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    weight: Any = a["weight"]
    total = math.fsum(weight) if a["normalize"] else 1.0
    c = [w / total for w in weight]
    return combined([x.double() for x in xs], c)


def passthrough(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    scales: Any = a["scale"]
    return xs[0] if scales[0] is None else xs[0] * scales[0], 0.0


def slerp(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    t: Any = a["t"]
    u, v = (x.double().reshape(-1) for x in xs)
    n = [x.norm().item() for x in (u, v)]
    n = [1.0 if one <= 1e-8 else one for one in n]
    c = max(-1.0, min(1.0, (u * v).sum().item() / (n[0] * n[1])))
    if abs(c) > 0.9995:
        return combined([x.double() for x in xs], [1 - t, t])
    theta = math.acos(c)
    both = [math.sin((1 - t) * theta) / math.sin(theta), math.sin(t * theta) / math.sin(theta)]
    return combined([x.double() for x in xs], both)


def nuslerp(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    w: Any = a["weight"]
    t = 0.5 if abs(w[0] + w[1]) < 1e-6 else w[1] / (w[0] + w[1])
    vectors = [(x - xs[0]).double() for x in xs[1:]] if base else [x.double() for x in xs]
    shape = vectors[0].shape
    flat = a["nuslerp_flatten"] or len(shape) < 2
    axes = list(range(len(shape))) if flat else [0] if a["nuslerp_row_wise"] else [-1]
    if not shape:
        vectors, axes = [v.reshape(1) for v in vectors], [0]
    n = [(v * v).sum(axes, keepdim=True).sqrt().clamp(min=1e-7) for v in vectors]
    c = ((vectors[0] * vectors[1]).sum(axes, keepdim=True) / (n[0] * n[1])).clamp(-1, 1)
    line = 1 - c * c <= 2**-23
    theta = torch.where(line, 1.0, torch.arccos(c))
    c_1 = torch.where(line, 1 - t, torch.sin((1 - t) * theta) / torch.sin(theta))
    c_2 = torch.where(line, t, torch.sin(t * theta) / torch.sin(theta))
    y = (c_1 * vectors[0] + c_2 * vectors[1]).reshape(shape)
    size = (c_1 * vectors[0]).abs().max() + (c_2 * vectors[1]).abs().max()
    if base:
        y, size = xs[0].double() + y, size + xs[0].abs().max()
    return y, 1e-6 * float(size)


def task_arithmetic(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    return task_vectors(xs, a, [torch.ones_like(x) for x in xs[1:]], elect=False)


def ties(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    density: Any = a["density"]
    masks = []
    for x, rho in zip(xs[1:], density, strict=True):
        d = (x - xs[0]).abs()
        if 0 < rho < 1:
            k = max(1, int(rho * d.numel()))
            threshold = np.sort(d.numpy(), axis=None)[d.numel() - k]
            masks.append((d >= float(threshold)).float())
        else:
            masks.append(torch.full_like(d, float(rho >= 1)))
    return task_vectors(xs, a, masks, elect=True)


def dare_linear(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    return task_vectors(xs, a, dare_masks(xs, a), elect=False)


def dare_ties(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    return task_vectors(xs, a, dare_masks(xs, a), elect=True)


def dare_masks(xs: Sequence[Tensor], a: Arguments) -> list[Tensor]:
    density: Any = a["density"]
    masks = []
    for stream, x, rho in zip(STREAMS, xs[1:], density, strict=False):
        if 0 < rho < 1:
            kept = hash_words(stream, x.numel()) < int(rho * 2**32)
            masks.append(torch.from_numpy(kept).float().reshape(x.shape))
        else:
            masks.append(torch.full_like(x, float(rho >= 1)))
    return masks


def task_vectors(
    xs: Sequence[Tensor], a: Arguments, masks: Sequence[Tensor], *, elect: bool
) -> Result:
    b, weight, rescale = xs[0], a["weight"], a.get("rescale", False)
    density: Any = a.get("density", (1.0,) * len(masks))
    if not masks:
        return b, 0.0
    deltas, size = [], 0.0
    for x, rho, w, mask in zip(xs[1:], density, weight, masks, strict=True):  # type: ignore[arg-type]
        d = x - b
        s = d * mask
        if 0 < rho < 1:
            before, after = (math.fsum(v.abs().double().reshape(-1).tolist()) for v in (d, s))
            if rescale == "inverse":
                s = s * (1 / rho)
            elif rescale and before >= 1e-7 and after >= 1e-7:
                s = s * (before / after)
        deltas.append(s * float(str(w)))
        size += float(deltas[-1].abs().max())
    m = add(deltas)
    divisor: Tensor | float = 1.0
    if elect:
        positive = m >= 0
        agree = [torch.where(positive, d > 0, d < 0).float() for d in deltas]
        m = add([d * one for d, one in zip(deltas, agree, strict=True)])
        if a["normalize"]:
            divisor = add([one * float(str(w)) for one, w in zip(agree, weight, strict=True)])  # type: ignore[arg-type]
            divisor[divisor == 0] = 1
            size /= float(divisor.abs().min())
    elif a["normalize"]:
        total = math.fsum(weight)  # type: ignore[arg-type]
        divisor = 1.0 if abs(total) < 1e-8 else total
        size /= abs(divisor)
    scale = float(str(a["lambda"]))
    y = b + (m / divisor) * scale
    tolerance = 1e-6 * (size * abs(scale) + float(b.abs().max())) if rescale is True else 0.0
    return y, tolerance


def add(values: Sequence[Tensor]) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def combined(xs: Sequence[Tensor], c: Sequence[float]) -> Result:
    parts = [x * one for x, one in zip(xs, c, strict=True)]
    return add(parts), 1e-6 * sum(float(part.abs().max()) for part in parts)

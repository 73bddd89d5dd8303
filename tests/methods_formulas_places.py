"""The other methods over whole tensors, written from the formulas alone; see `methods_formulas`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mergebuild.methods.declaration import Arguments
from tests.methods_formulas import STREAMS, Result, add, combined, hash_words, task_vectors

FLOOR = 1e-6


def multislerp(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    weight: Any = a["weight"]
    eps: Any = a["eps"]
    v = [(x - xs[0]).double() for x in xs[1:]] if base else [x.double() for x in xs]
    if len(v) == 1:
        return xs[-1], 0.0
    total = math.fsum(weight) if a["normalize_weights"] else 1.0
    w = [one / total for one in weight]
    n = [float(x.norm()) for x in v]
    parts = [x * (one / (size + eps)) for x, one, size in zip(v, w, n, strict=True)]
    m, length = add(parts), float(add(parts).norm())
    if length < eps:
        y, tolerance = combined(v, w)
    else:
        scale = sum(one * size for one, size in zip(w, n, strict=True)) / length
        y = m * scale
        whole = sum(float(part.norm()) for part in parts)
        lost = 1e-13 * (whole / length) ** 2  # of the length, which comes from inner products
        tolerance = sum(float(part.abs().max()) for part in parts) * abs(scale) * (1e-6 + lost)
    if abs(length - eps) < 1e-3 * eps:
        tolerance = math.inf  # either branch
    return (
        (xs[0].double() + y, tolerance + 1e-6 * float(xs[0].abs().max()))
        if base
        else (y, tolerance)
    )


def karcher(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    tol: Any = a["tol"]
    steps: Any = a["max_iter"]
    if len(xs) == 1:
        return xs[0], 0.0
    v = [x.double() for x in xs]
    n = [float(x.norm()) for x in v]
    u = [x / size for x, size in zip(v, n, strict=True) if size > tol]
    if not u:
        return torch.zeros_like(v[0]), 0.0
    c = add(u) / len(u)
    c = u[0] if float(c.norm()) < tol else c / c.norm()
    for _ in range(steps):
        tangent = torch.zeros_like(c)
        for one in u:
            s = max(-1.0, min(1.0, float((one * c).sum())))
            theta = math.acos(s)
            if tol <= theta <= math.pi - tol:
                tangent += theta / math.sin(theta) * (one - s * c) / len(u)
        size = float(tangent.norm())
        if size < tol:
            break
        c = math.cos(size) * c + math.sin(size) * tangent / size
        c = c / c.norm()
    y = sum(n) / len(n) * c
    return y, 1e-5 * sum(float(x.abs().max()) for x in v) + 1e-5 * float(y.abs().max())


def model_stock(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    d = [(x - xs[0]).double() for x in xs[1:]]
    shape, k = xs[0].shape, len(d)
    if a["filter_wise"] and len(shape) > 1:
        d = [one.reshape(-1, shape[-1]) for one in d]
    else:
        d = [one.reshape(1, -1) for one in d]
    n = [one.norm(dim=1, keepdim=True) for one in d]
    pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
    cosines = [
        ((d[i] * d[j]).sum(1, keepdim=True) / (n[i] * n[j]).clamp(min=FLOOR)).clamp(-1, 1)
        for i, j in pairs
    ]
    c = add(cosines) / len(pairs)
    divisor = 1 + (k - 1) * c
    t = torch.where(divisor.abs() < FLOOR, 0.0, k * c / divisor)
    y = (t / k * add(d)).reshape(shape)
    size = float(sum((t * one).abs().max() for one in d)) + float(xs[0].abs().max())
    return xs[0].double() + y, 1e-6 * size


def breadcrumbs(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    return task_vectors(xs, a, _middle(xs, a), elect=False)


def breadcrumbs_ties(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    return task_vectors(xs, a, _middle(xs, a), elect=True)


def _middle(xs: Sequence[Tensor], a: Arguments) -> list[Tensor]:
    density: Any = a["density"]
    gamma: Any = a["gamma"]
    masks = []
    for x, rho, share in zip(xs[1:], density, gamma, strict=True):
        d = (x - xs[0]).abs()
        n, kept, top = d.numel(), int(rho * d.numel()), int(share * d.numel())
        if rho >= 1 or rho <= 0 or kept == 0:
            masks.append(torch.full_like(d, float(rho >= 1)))
            continue
        bottom = max(0, n - kept - top)
        ordered = torch.sort(d.reshape(-1)).values
        masks.append(((d >= ordered[bottom]) & (d <= ordered[bottom + kept - 1])).float())
    return masks


def della(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    return task_vectors(xs, *_by_rank(xs, a), elect=True)


def della_linear(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    return task_vectors(xs, *_by_rank(xs, a), elect=False)


def _by_rank(xs: Sequence[Tensor], a: Arguments) -> tuple[Arguments, list[Tensor]]:
    """The masks, of 1/p if the rescaling is by element, and the arguments that are left."""
    density: Any = a["density"]
    epsilon: Any = a["epsilon"]
    masks = []
    for stream, x, rho, eps in zip(STREAMS, xs[1:], density, epsilon, strict=False):
        if not 0 < rho < 1:
            masks.append(torch.full_like(x, float(rho >= 1)))
            continue
        d = (x - xs[0]).abs().reshape(-1, x.shape[-1] if x.dim() else 1)
        length = d.shape[1]
        order = np.argsort(d.numpy(), axis=1, kind="stable")
        rank = torch.from_numpy(np.argsort(order, axis=1)).double()
        p = rho - eps + 2 * eps * rank / (length - 1) if length > 1 else torch.full_like(rank, rho)
        words = torch.from_numpy(hash_words(stream, x.numel()).astype("int64")).reshape(d.shape)
        kept = (words < (p * 2**32).floor()).to(x.dtype)
        masks.append((kept / p if a["rescale"] == "inverse" else kept).to(x.dtype).reshape(x.shape))
    rest = dict(a) | ({"rescale": False} if a["rescale"] == "inverse" else {})
    return rest, masks


def sce(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    d = [x - xs[0] for x in xs[1:]]
    share: Any = a["select_topk"]
    floor: Any = a["floor"]
    if not d:
        return xs[0], 0.0
    if share < 1:
        mean = add([one.double() for one in d]) / len(d)
        v = (add([(one.double() - mean) ** 2 for one in d]) / len(d)).float()
        kept = int(share * int((v != 0).sum()))
        threshold = torch.sort(v.reshape(-1)).values[v.numel() - kept] if kept else math.inf
        d = [one * (v >= threshold) * (kept > 0) for one in d]
    q = [float((one.double() ** 2).mean()) for one in d]
    w = [one / sum(q) for one in q] if sum(q) >= floor and sum(q) > 0 else [1 / len(d)] * len(d)
    sign = torch.where(add(d) >= 0, 1.0, -1.0)
    agree = [one * sign > 0 for one in d]
    total = add([one * weight for one, weight in zip(agree, w, strict=True)]).clamp(min=FLOOR)
    parts = [x * one * weight / total for x, one, weight in zip(d, agree, w, strict=True)]
    size = sum(float(part.abs().max()) for part in parts) + float(xs[0].abs().max())
    near = 1e-5 * size if abs(sum(q) - floor) > 1e-9 * floor else math.inf
    return xs[0].double() + add([part.double() for part in parts]), near


def arcee_fusion(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    b, x = (one.double().reshape(-1, one.shape[-1] if one.dim() else 1) for one in xs)
    p, q = (torch.softmax(one, 1) + 1e-8 for one in (x, b))
    kappa = (p * (p / q).log()).sum(1, keepdim=True).float()
    d = (xs[1] - xs[0]).reshape(b.shape)
    importance = d.abs() * kappa
    ordered, last = torch.sort(importance.reshape(-1).double()).values, b.numel() - 1
    first, second, third = (ordered[k] for k in (last // 4, last // 2, 3 * last // 4))
    threshold = second + 1.5 * (third - first)
    y = torch.where(importance >= threshold, d, 0.0).reshape(xs[0].shape) + xs[0]
    # κ rounds as its sums are ordered: a place at the threshold may go either way.
    scale = 1e-5 * float(importance.abs().max()) + 1e-14 * float(d.abs().max())
    near = (importance - threshold).abs() <= scale
    return y, torch.where(near, d.abs().double() * 1.01, 0.0).reshape(xs[0].shape)


def nearswap(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    t: Any = a["t"]
    b, x = (one.double() for one in xs)
    omega = (t / (xs[1] - xs[0]).abs().double().clamp(min=FLOOR)).clamp(0, 1)
    return omega * x + (1 - omega) * b, 3e-7 * (float(b.abs().max()) + float(x.abs().max()))


def ram(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    return _overlap(xs, a, amplified=False)


def ramplus_tl(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    return _overlap(xs, a, amplified=True)


def _overlap(xs: Sequence[Tensor], a: Arguments, *, amplified: bool) -> Result:
    epsilon: Any = a["epsilon"]
    d = [x - xs[0] for x in xs[1:]]
    if not d:
        return xs[0], 0.0
    masks = [one.abs() > epsilon for one in d]
    count = add([mask.double() for mask in masks])
    y, size = xs[0].double(), float(xs[0].abs().max())
    for one, mask in zip(d, masks, strict=True):
        factor = 1.0
        if amplified:
            r: Any = a["r"]
            alpha: Any = a["alpha"]
            shared, alone = (int((mask & which).sum()) for which in (count > 1, count == 1))
            factor += r * min(shared / max(alone, epsilon), alpha)
        scale = torch.where(count == 1, factor, 1 / count.clamp(min=1))
        y = y + mask * one.double() * scale
        size += abs(factor) * float(one.abs().max())
    return y, 5e-7 * size


def consensus_ta(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    bounds: Any = a["mask_lambda"]
    scale: Any = a["lambda"]
    d = [x - xs[0] for x in xs[1:]]
    if not d:
        return xs[0], 0.0
    tau = add(d)
    claims = [one.abs() > (tau - one).abs() * bound for one, bound in zip(d, bounds, strict=True)]
    least: Any = a["min_agree"]
    agreed = (add([claim.float() for claim in claims]) >= least).float()
    return tau * agreed * scale + xs[0], 0.0


def pcb_merging(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    density: Any = a["density"]
    scale: Any = a["lambda"]
    d = [(x - xs[0]).double() for x in xs[1:]]
    if not d:
        return xs[0], 0.0
    total, betas = add(d), []
    for one, rho in zip(d, density, strict=True):
        low, high = float(one.abs().min()), float(one.abs().max())
        size = (one.abs() - low) / (high - low) if high > low else one * 0
        beta = torch.exp(len(d) * size**2) * torch.tanh(one * total)
        ordered = torch.sort(beta.float().reshape(-1)).values.double()
        least, most = ordered[beta.numel() - max(1, int(rho * beta.numel()))], ordered[-1]
        flat = ((beta.float() >= most) & (most > 0)).double()
        scaled = ((beta - least) / (most - least)).clamp(0, 1)
        betas.append(flat if most == least else scaled)
    weights = add(betas)
    merged = add([one * beta for one, beta in zip(d, betas, strict=True)])
    y = torch.where(weights == 0, 0.0, merged / torch.where(weights == 0, 1.0, weights))
    size = float(xs[0].abs().max()) + abs(scale) * sum(float(one.abs().max()) for one in d)
    return xs[0].double() + scale * y, 2e-6 * size


def tsv_merge(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    def merge(d: list[Tensor]) -> tuple[Tensor, float]:
        kept = max(1, min(d[0].shape) // len(d))
        u, s, vh = zip(*(torch.linalg.svd(one, full_matrices=False) for one in d), strict=True)
        left, well = _polar(torch.cat([one[:, :kept] for one in u], 1))
        right, also = _polar(torch.cat([one[:kept] for one in vh]).t())
        y = left @ torch.diag(torch.cat([one[:kept] for one in s])) @ right.t()
        return y, min(well, also)

    return _matrices(xs, a, merge)


def iso_c(xs: Sequence[Tensor], base: bool, a: Arguments) -> Result:
    def merge(d: list[Tensor]) -> tuple[Tensor, float]:
        y, well = _polar(add(d))
        return y * torch.linalg.svdvals(add(d)).mean(), well

    return _matrices(xs, a, merge)


def _polar(matrix: Tensor) -> tuple[Tensor, float]:
    """The nearest matrix with orthonormal rows or columns; unique where the second is not 0."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh, float(s[-1] / s[0]) if s[0] else 0.0


def _matrices(xs: Sequence[Tensor], a: Arguments, merge: Any) -> Result:
    scale: Any = a["lambda"]
    d = [(x - xs[0]).double() for x in xs[1:]]
    if not d:
        return xs[0], 0.0
    size = sum(float(one.norm()) for one in d)
    if xs[0].dim() != 2:
        return xs[0].double() + scale * add(d) / len(d), 1e-6 * (size + float(xs[0].abs().max()))
    values = torch.stack([torch.linalg.svdvals(one) for one in (*d, add(d))])
    gaps = (values[:, :-1] - values[:, 1:]).min() if values.shape[1] > 1 else values.min()
    well = min(float(values.min()), float(gaps)) / (float(values.max()) or 1.0)
    merged, also = merge(d)
    unique = min(well, also) > 0.03  # else singular vectors are whatever rounding makes of them
    y = xs[0].double() + scale * merged
    return y, 1e-4 * abs(scale) * size + 1e-6 * float(xs[0].abs().max()) if unique else math.inf

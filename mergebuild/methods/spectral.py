"""Task matrices merged by their singular values.

No matrix is decomposed as it is. With d = U Σ Vᵀ, V and Σ² are the eigenvectors and eigenvalues of
dᵀd, which is gathered in float64 over rows, U is d V Σ⁻¹, and whatever is made of U is a product
of d and a matrix of its shorter side. Since float64 squares what float32 holds, this is as exact
as a decomposition in float32. Directions in which a task matrix is nothing, next to its largest,
have no singular vectors: they stay as they are in the base.

Products and eigenvectors are torch's. Their last bits depend on the library, hence on processor
and device; a key says what is asked for, and takes all of these results for the same. Tensors that
are not matrices get the average of the task vectors, as do those that are not finite.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Any, Final

from mergebuild.kernels.matrices import CrossProducts, DeltaProducts, Multiplied
from mergebuild.kernels.operations import Combination, Identity, Map, Statistic, Steps, Turn
from mergebuild.methods.declaration import Arguments, Operands, Paper
from mergebuild.methods.declare import method
from mergebuild.methods.task_vectors import Lambda

NOTHING: Final = 2.0**-40
"""Eigenvalues of products below this share of the largest count as 0; singular values are their
square roots."""
AMPLIFIED: Final = 4.0
"""How much larger the terms of a product may be than their sum for float32 to do."""
SMALL: Final = 1e-8
"""Below this what a function of s adds to its value at 0 is lost."""


def _idle(operands: Operands, arguments: Arguments) -> frozenset[str]:
    return frozenset(arguments) if operands.deltas == 0 else frozenset()


def _squares(operands: Operands, count: int) -> int:
    """Bytes of so many float64 squares of the shorter side and, where a matrix is walked across,
    of the result, in float32."""
    shape = operands.shape
    if operands.deltas == 0 or len(shape) != 2:
        return 0
    across = 4 * operands.elements if shape[0] < shape[1] else 0
    return 8 * count * min(shape) ** 2 + across


def _five_squares(operands: Operands) -> int:
    """The products, their eigenvectors, two in which these are found, and one to spare."""
    return _squares(operands, 5)


def _squares_by_deltas(operands: Operands) -> int:
    """Where vectors of other than two deltas are made orthogonal a whole square is decomposed,
    with two more and `between` beside it; in the end there is a square for each delta."""
    return _squares(operands, 5 if operands.deltas == 2 else max(7, operands.deltas + 2))


def _average(operands: Operands, scale: float) -> Map:
    """y = b + scale·mean d_i."""
    return Combination("deltas", (scale / operands.deltas,) * operands.deltas)


def _decomposed(
    operands: Operands, groups: Iterable[tuple[int, ...]]
) -> Generator[Statistic | Turn, Any, list[tuple[Any, Any]] | None]:
    """The eigenvalues and, of as many as there are groups, the leading eigenvectors of
    `DeltaProducts` of each, along the shorter side; None where there is nothing to decompose."""
    shape = operands.shape
    if len(shape) != 2 or 0 in shape:
        return None
    import torch

    if shape[0] < shape[1]:
        yield Turn()
    found: list[tuple[Any, Any]] = []
    groups = tuple(groups)
    for deltas in groups:
        products = yield DeltaProducts(deltas)
        if not bool(products.isfinite().all()):
            return None
        squares, vectors = torch.linalg.eigh(products)
        del products
        if len(groups) > 1:
            vectors = vectors[:, -max(1, min(shape) // len(groups)) :].clone()
        found.append((squares, vectors))
        del vectors
    return found


@method(
    base="required",
    inputs=(0, None),
    missing="subset",
    version=2,
    whole=True,
    papers=(
        Paper(
            "Task singular vectors: reducing task interference in model merging",
            "Gargiulo et al.",
            "2412.00081",
        ),
    ),
    idle=_idle,
    held=_squares_by_deltas,
)
def tsv_merge(operands: Operands, *, lambda_: Lambda) -> Steps:
    """Keep the leading singular vectors of each task matrix and make those of different tasks
    orthogonal (arXiv:2412.00081).

    y = b + λ·U⊥ Σ V⊥ᵀ,  U = [U_1 … U_K], Σ = diag(Σ_1 … Σ_K), V = [V_1 … V_K]

    U_i Σ_i V_iᵀ are the max(1, ⌊rank/K⌋) leading terms of d_i. U⊥ is the nearest matrix with
    orthonormal columns, P Qᵀ for U = P D Qᵀ; so is V⊥. Tensors that are no matrices:
    b + λ·mean d_i.
    """
    if operands.deltas == 0:
        return Identity()
    found = yield from _decomposed(operands, ((delta,) for delta in range(operands.deltas)))
    if found is None:
        return _average(operands, lambda_)
    import torch

    sizes = [squares.sum().sqrt() for squares, _ in found]
    count = found[0][1].shape[1]
    joined = torch.cat([_kept(squares)[-count:].sqrt() for squares, _ in found])
    v: Any = torch.cat([vectors for _, vectors in found], 1)
    del found
    across = inverse_root(_between(v.split(count, 1)), count) @ v.T  # V⊥ᵀ
    v *= _inverse(joined)
    lefts = v.split(count, 1)  # U_i = d_i·these
    root = inverse_root((yield CrossProducts(lefts)), count)
    root *= lambda_ * joined
    across = root @ across
    del root
    made = [left @ part for left, part in zip(lefts, across.split(count), strict=True)]
    del v, lefts, across
    return _multiplied(made, sizes, abs(lambda_) * joined.norm())


def _multiplied(matrices: list[Any], sizes: Sequence[Any], made: Any) -> Map:
    """`Multiplied`, given the norms of what is multiplied and of the result: in float32 if no more
    than a digit of it is lost where terms cancel, else in float64. The list is emptied."""
    terms = sum(float(size * one.norm()) for size, one in zip(sizes, matrices, strict=True))
    close = terms <= AMPLIFIED * float(made) * len(matrices[0]) ** 0.5
    found = []
    while matrices:
        found.append(matrices.pop(0).float() if close else matrices.pop(0))
    return Multiplied(tuple(found))


def _between(groups: Sequence[Any]) -> Any:
    """V_iᵀV_j of groups of columns, i < j, as `CrossProducts` has them."""
    width, stop = sum(group.shape[1] for group in groups), 0
    found = groups[0].new_zeros(width, width)
    for number, group in enumerate(groups):
        start, stop = stop, stop + group.shape[1]
        at = stop
        for later in groups[number + 1 :]:
            found[start:stop, at : at + later.shape[1]] = group.T @ later
            at += later.shape[1]
    return found


def inverse_root(between: Any, count: int) -> Any:
    """(UᵀU)^-½, with which U⊥ = U (UᵀU)^-½, of U with groups of `count` orthonormal columns, from
    what `CrossProducts` has of them.

    Of two groups UᵀU is I with a C and Cᵀ beside the diagonal, and has the eigenvalues 1 ± s for
    those of CᵀC, s². So half as large a matrix is decomposed: where f and g are the even and the
    odd part of (1 + s)^-½, the blocks are f(CCᵀ), f(CᵀC) and, beside the diagonal, C·g(CᵀC)/s.
    """
    import torch

    size = len(between)
    if size != 2 * count:
        whole = between + between.T + torch.eye(size, dtype=between.dtype, device=between.device)
        squares, vectors = torch.linalg.eigh(whole)
        return (vectors * _inverse(_kept(squares).sqrt())) @ vectors.T
    c = between[:count, count:]
    squares, q = torch.linalg.eigh(c.T @ c)
    s = squares.clamp(0.0, 1.0).sqrt()
    values = torch.stack((1.0 + s, (1.0 - squares) / (1.0 + s)))
    more, less = _inverse(values.where(values > NOTHING, 0.0).sqrt()).unbind()
    even, odd = (more + less) / 2, (more - less) / 2
    cq = c @ q
    root = torch.eye(size, dtype=c.dtype, device=c.device)
    root[:count, :count] += (cq * ((even - 1.0) / squares).where(s > SMALL, 0.375)) @ cq.T
    root[count:, count:] = (q * even) @ q.T
    root[:count, count:] = (cq * (odd / s).where(s > SMALL, -0.5)) @ q.T
    root[count:, :count] = root[:count, count:].T
    return root


@method(
    base="required",
    inputs=(0, None),
    missing="subset",
    version=2,
    whole=True,
    papers=(
        Paper(
            "No task left behind: isotropic model merging with common and task-specific subspaces",
            "Marczak et al.",
            "2502.04959",
        ),
    ),
    idle=_idle,
    held=_five_squares,
)
def iso_c(operands: Operands, *, lambda_: Lambda) -> Steps:
    """Sum the task matrices and make all singular values of the sum the same (arXiv:2502.04959).

    y = b + λ·s·U Vᵀ,  Σ d_i = U S Vᵀ,  s the mean of the singular values

    Tensors that are no matrices: b + λ·mean d_i.
    """
    if operands.deltas == 0:
        return Identity()
    found = yield from _decomposed(operands, (tuple(range(operands.deltas)),))
    if found is None:
        return _average(operands, lambda_)
    ((squares, v),) = found
    s = _kept(squares).sqrt()
    size = abs(lambda_) * s.mean()
    polar = (v * (lambda_ * s.mean() * _inverse(s))) @ v.T  # U Vᵀ = (Σ d_i)·V S⁻¹ Vᵀ
    return _multiplied([polar], [s.norm()], size * s.count_nonzero().sqrt())


def _kept(squares: Any) -> Any:
    """Eigenvalues, those that are `NOTHING` as 0."""
    return squares.where(squares > NOTHING * squares.max(), 0.0)


def _inverse(values: Any) -> Any:
    """1 / s, and 0 of 0."""
    return (1.0 / values).where(values > 0.0, 0.0)

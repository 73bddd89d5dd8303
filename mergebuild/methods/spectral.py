"""Task matrices merged by their singular values: whole matrices through torch.linalg.

These need the whole tensor at once, on the device of the build. Their last bits depend on the
library that decomposes it, hence on processor and device; a key says what is asked for, and takes
all of these results for the same. Tensors that are not matrices get the average of the task
vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mergebuild.kernels.operations import Identity, Map
from mergebuild.kernels.places import WholeTensors
from mergebuild.methods.declaration import Arguments, Operands, Paper
from mergebuild.methods.declare import method
from mergebuild.methods.task_vectors import Lambda


def _idle(operands: Operands, arguments: Arguments) -> frozenset[str]:
    return frozenset(arguments) if operands.deltas == 0 else frozenset()


def _whole(operands: Operands, scale: float, merge: Callable[[Sequence[Any]], Any]) -> Map:
    """y = b + scale·merge(deltas) for matrices, b + scale·mean for the rest."""
    if operands.deltas == 0:
        return Identity()

    def function(tensors: Sequence[Any]) -> Any:
        base, *others = tensors
        deltas = [other - base for other in others]
        finite = all(delta.isfinite().all() for delta in deltas)
        if len(operands.shape) == 2 and finite:
            return base + scale * merge(deltas)
        return base + scale * (sum(deltas[1:], deltas[0]) / len(deltas))

    return WholeTensors(function)


@method(
    base="required",
    inputs=(0, None),
    missing="subset",
    whole=True,
    papers=(
        Paper(
            "Task singular vectors: reducing task interference in model merging",
            "Gargiulo et al.",
            "2412.00081",
        ),
    ),
    idle=_idle,
)
def tsv_merge(operands: Operands, *, lambda_: Lambda) -> Map:
    """Keep the leading singular vectors of each task matrix and make those of different tasks
    orthogonal (arXiv:2412.00081).

    y = b + λ·U⊥ Σ V⊥ᵀ,  U = [U_1 … U_K], Σ = diag(Σ_1 … Σ_K), V = [V_1 … V_K]

    U_i Σ_i V_iᵀ are the max(1, ⌊rank/K⌋) leading terms of d_i. U⊥ is the nearest matrix with
    orthonormal columns, P Qᵀ for U = P D Qᵀ; so is V⊥. Tensors that are no matrices:
    b + λ·mean d_i.
    """
    return _whole(operands, lambda_, singular_vectors)


def singular_vectors(deltas: Sequence[Any]) -> Any:
    import torch

    count = max(1, min(deltas[0].shape) // len(deltas))
    left, values, right = [], [], []
    for delta in deltas:
        u, s, vh = torch.linalg.svd(delta, full_matrices=False)
        left.append(u[:, :count])
        values.append(s[:count])
        right.append(vh[:count])
    u, vh = nearest_orthonormal(torch.cat(left, 1)), nearest_orthonormal(torch.cat(right))
    return u * torch.cat(values) @ vh


def nearest_orthonormal(matrix: Any) -> Any:
    import torch

    p, _, qh = torch.linalg.svd(matrix, full_matrices=False)
    return p @ qh


@method(
    base="required",
    inputs=(0, None),
    missing="subset",
    whole=True,
    papers=(
        Paper(
            "No task left behind: isotropic model merging with common and task-specific subspaces",
            "Marczak et al.",
            "2502.04959",
        ),
    ),
    idle=_idle,
)
def iso_c(operands: Operands, *, lambda_: Lambda) -> Map:
    """Sum the task matrices and make all singular values of the sum the same (arXiv:2502.04959).

    y = b + λ·s·U Vᵀ,  Σ d_i = U S Vᵀ,  s the mean of the singular values

    Tensors that are no matrices: b + λ·mean d_i.
    """
    return _whole(operands, lambda_, isotropic)


def isotropic(deltas: Sequence[Any]) -> Any:
    import torch

    u, s, vh = torch.linalg.svd(sum(deltas[1:], deltas[0]), full_matrices=False)
    return s.mean() * (u @ vh)

"""GPUs: whether there is one to compute on, and what its failures mean to the user."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mergebuild.errors import BuildError, CapacityError
from mergebuild.kernels.interface import Kernels
from mergebuild.kernels.torch import TorchKernels, single_threaded


def obstacle(device: str) -> str | None:
    """Why nothing can be computed on a CUDA device, if so; it is tried."""
    if not (torch.version.cuda or torch.version.hip):
        return f"torch {torch.__version__} is built without it"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if not torch.cuda.is_available():
            why = f": {_first_line(said[0].message)}" if said else ""
            return f"torch finds no GPU{why}"
    index, count = torch.device(device).index, torch.cuda.device_count()
    if index is not None and index >= count:
        return f"there {'is' if count == 1 else 'are'} {count}, numbered from 0"
    try:
        torch.ones(2, device=device).sum().item()
    except RuntimeError as error:
        return _first_line(error)
    return None


@contextmanager
def computing(device: str) -> Iterator[Kernels]:
    """Kernels for a CUDA device. Meanwhile what torch does on the CPU starts no threads, and its
    failures are CapacityError, for want of the device's memory, or BuildError."""
    try:
        with single_threaded():
            yield TorchKernels(device)
    except torch.cuda.OutOfMemoryError as error:
        raise CapacityError.of(
            f"device '{device}' has too little memory: {_first_line(error)}",
            hint="use fewer --jobs or a smaller --chunk, or leave --device out",
        ) from error
    except getattr(torch, "AcceleratorError", ()) as error:
        raise BuildError.of(
            f"device '{device}' failed: {_first_line(error)}",
            hint="what was finished is kept: run the build again, with --device or without",
        ) from error


def _first_line(error: object) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")

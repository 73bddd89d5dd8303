"""Which kernels a build computes with: the compiled loops where numba is there, else torch.

The environment variable MERGEBUILD_KERNELS, `numba` or `torch`, decides otherwise; results are
the same. Importing this module imports neither.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from mergebuild.errors import UsageError
from mergebuild.kernels.interface import Kernels

VARIABLE: Final = "MERGEBUILD_KERNELS"


def torch_kernels() -> Kernels:
    """The reference; imports torch."""
    from mergebuild.kernels.torch import TorchKernels

    return TorchKernels()


def default_kernels(reference: Callable[[], Kernels] = torch_kernels) -> Kernels:
    """Kernels for any number of threads; `reference` is called once, if it is needed at all.

    Raises UsageError for a choice that cannot be met.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", "numba", "torch"):
        raise UsageError.of(
            f"{VARIABLE} is '{wanted}'", hint="leave it unset, or set it to numba or torch"
        )
    if wanted == "torch":
        return reference()
    try:
        from mergebuild.kernels.numba import NumbaKernels
    except ImportError as error:
        if wanted == "numba":
            raise UsageError.of(f"{VARIABLE} is numba, which cannot be used: {error}") from error
        return reference()
    return NumbaKernels(reference)


@contextmanager
def kernels_of_run() -> Iterator[Kernels]:
    """`default_kernels`, and meanwhile torch, should it be needed, starts no threads of its own."""
    with ExitStack() as kept:

        def reference() -> Kernels:
            from mergebuild.kernels.torch import single_threaded

            kept.enter_context(single_threaded())
            return torch_kernels()

        yield default_kernels(reference)

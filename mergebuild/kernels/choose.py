"""Which kernels a build computes with: on the CPU the compiled loops where numba is there, else
torch; on a GPU torch.

The environment variable MERGEBUILD_KERNELS, `numba` or `torch`, decides otherwise; results are
the same. Importing this module imports neither.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from mergebuild.errors import UsageError
from mergebuild.kernels.interface import Kernels

VARIABLE: Final = "MERGEBUILD_KERNELS"
CPU: Final = "cpu"


def check_device(name: str) -> None:
    """Raises UsageError unless a build can compute there. Imports torch, except for the CPU."""
    if name == CPU:
        return
    if not re.fullmatch(r"cuda(:\d{1,3})?", name):
        raise UsageError.of(
            f"'{name}' is no device to compute on", hint="known are cpu, cuda and cuda:N"
        )
    if os.environ.get(VARIABLE) == "numba":
        raise UsageError.of(
            f"{VARIABLE} is numba, which computes on the CPU only, and the device is '{name}'",
            hint=f"leave out one of {VARIABLE} and --device",
        )
    from mergebuild.kernels.torch.device import obstacle

    why = obstacle(name)
    if why is not None:
        raise UsageError.of(
            f"device '{name}' cannot be used: {why}", hint="without --device the CPU computes"
        )


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
def kernels_of_run(device: str = CPU) -> Iterator[Kernels]:
    """`default_kernels`, or those of a device that passes `check_device`. Meanwhile torch, should
    it be needed, starts no threads of its own."""
    with ExitStack() as kept:
        if device != CPU:
            from mergebuild.kernels.torch.device import computing

            yield kept.enter_context(computing(device))
            return

        def reference() -> Kernels:
            from mergebuild.kernels.torch import single_threaded

            kept.enter_context(single_threaded())
            return torch_kernels()

        yield default_kernels(reference)

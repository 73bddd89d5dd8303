"""A device that is not there: tensors on "meta" that do hold values, and refuse to meet the CPU's.

What runs on it would run on a GPU as far as places go: every operation has its tensors on one
device, copies and transfers apart, and numbers come back through `.cpu()` or `.item()` alone. The
arithmetic is the CPU's, so results are to be the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

LABEL = torch.device("meta")
CARRIES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)


class Mixed(AssertionError):
    """An operation met tensors of two devices."""


class Remote(Tensor):
    """Wraps a tensor of the CPU and says that it is elsewhere."""

    within: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Remote:
        make: Any = torch.Tensor._make_wrapper_subclass
        made: Remote = make(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=LABEL,
        )
        made.within = inner
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise Mixed(f"{func}: used outside of `elsewhere`")


class _Device(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        remote = [one for one in tensors if isinstance(one, Remote)]
        # A GPU takes a single number from the CPU; an index or an operand it does not.
        local = [one for one in tensors if not isinstance(one, Remote) and one.dim()]
        if remote and local and func not in CARRIES:
            raise Mixed(f"{func}: {[(type(one).__name__, tuple(one.shape)) for one in tensors]}")
        there = bool(remote)
        if "device" in kwargs and kwargs["device"] is not None:
            there = torch.device(kwargs["device"]) == LABEL
            kwargs = {**kwargs, "device": torch.device("cpu")}
        given = {id(one.within): one for one in remote}
        out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))

        def outer(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if id(value) in given:
                return given[id(value)]
            return Remote(value) if there else value

        if func is torch.ops.aten.copy_.default:
            return args[0]
        return tree_map(outer, out)


def _inner(value: Any) -> Any:
    return value.within if isinstance(value, Remote) else value


@contextmanager
def elsewhere() -> Iterator[str]:
    """The device's name; it is there as long as this is open, for this thread."""
    mode: Any = _Device
    with mode():
        yield str(LABEL)

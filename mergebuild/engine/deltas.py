"""How far the tensors of two models are apart, streamed: memory is that of a block a thread."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from math import prod
from typing import Final

from mergebuild.checkpoint.comparison import Pair
from mergebuild.checkpoint.reader import Files
from mergebuild.engine.blocks import Operand
from mergebuild.engine.derived import Derivations
from mergebuild.plan.looking import Looked

_BLOCK: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Distance:
    """Sums of squares over a tensor: of the first model's, and of the difference."""

    first: float
    apart: float


class _Model:
    """A model's tensors, open for reading."""

    def __init__(self, looked: Looked, files: Files, derivations: Derivations) -> None:
        self._looked = looked
        self._files = files
        self._derivations = derivations

    def reader(self, tensor: str) -> Operand:
        derived = self._looked.derived.get(tensor)
        if derived is not None:
            return self._derivations.reader(derived)
        info = self._looked.stored[tensor]
        return self._files.reader(info.file, info.offset, info.dtype, info.shape, info.name)


def distances(
    one: Looked,
    other: Looked,
    pairs: Sequence[Pair],
    jobs: int,
) -> dict[str, Distance]:
    """Of the pairs whose shapes agree, by the name in `one`.

    Raises CheckpointError if a file cannot be read or changes meanwhile.
    """
    from mergebuild.kernels.distance import squares
    from mergebuild.kernels.torch import single_threaded

    with Files({**one.stamps, **other.stamps}) as files, closing(Derivations(files)) as derivations:
        left, right = (_Model(looked, files, derivations) for looked in (one, other))

        def measured(pair: Pair) -> Distance:
            a, b = left.reader(pair.one), right.reader(pair.other)
            first = apart = 0.0
            count = prod(a.shape)
            for start in range(0, count, _BLOCK):
                stop = min(start + _BLOCK, count)
                found = squares(_raw(a, start, stop), _raw(b, start, stop))
                first += found.first
                apart += found.apart
            return Distance(first, apart)

        same = [p for p in pairs if one.tensors[p.one].shape == other.tensors[p.other].shape]
        with single_threaded(), ThreadPoolExecutor(jobs) as pool:
            found = dict(zip((p.one for p in same), pool.map(measured, same), strict=True))
        files.check_unchanged()
        return found


def _raw(reader: Operand, start: int, stop: int) -> tuple[bytearray, str]:
    raw = bytearray((stop - start) * reader.itemsize)
    reader.read(start, stop, memoryview(raw))
    return raw, reader.dtype

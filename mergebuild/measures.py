"""Sizes and times as users write them. Knows nothing of the rest of the program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_SIZES: Final = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "B": 1}
_TIMES: Final = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_size(text: str) -> int | None:
    """Bytes, of a number with kB, MB, GB, TB or without; None if it is none."""
    measured = _measure(text.upper(), _SIZES)
    return None if measured is None else int(measured)


def parse_time(text: str) -> float | None:
    """Seconds, of a number with s, min, h, d, w or without; None if it is none."""
    return _measure(text, _TIMES)


def _measure(text: str, units: Mapping[str, int]) -> float | None:
    number, scale = text.strip(), 1
    for unit, factor in units.items():
        if number.endswith(unit):
            number, scale = number.removesuffix(unit), factor
            break
    try:
        measured = float(number) * scale
    except ValueError:
        return None
    return measured if 1 <= measured < 1 << 62 else None

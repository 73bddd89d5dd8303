"""What all measurements have in common: the machine, and a table."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

_CLASSES = ("avx512f", "avx2", "avx", "asimd")


def machine() -> str:
    """Cores, memory and the class of the processor; no names."""
    info = _text("/proc/cpuinfo")
    flags = {flag for line in info.splitlines() if line.startswith(("flags", "Features"))
             for flag in line.split()}  # fmt: skip
    model = next((line.split(":")[1].strip() for line in info.splitlines()
                  if line.startswith("model name")), platform.machine())  # fmt: skip
    vectors = next((one for one in _CLASSES if one in flags), "no vectors known")
    memory = next((int(line.split()[1]) for line in _text("/proc/meminfo").splitlines()
                   if line.startswith("MemTotal")), 0)  # fmt: skip
    load = _text("/proc/loadavg").split(" ")[0]
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} cores of {model} ({vectors}), {memory / 2**20:.0f} GiB of memory, "
        f"Python {platform.python_version()}, load {load} at the end"
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; all but the first column to the right."""
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.rjust(w) if i else cell.ljust(w)
                  for i, (cell, w) in enumerate(zip(cells, widths, strict=True))]  # fmt: skip
        return f"| {' | '.join(padded)} |"

    rule = [("-" * (w - 1) + ":") if i else "-" * w for i, w in enumerate(widths)]
    return "\n".join([line(heads), line(rule), *map(line, rows)])


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""

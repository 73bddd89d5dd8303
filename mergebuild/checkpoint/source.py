"""Opening a checkpoint: a directory or one file becomes a Checkpoint, checked in full.

Reads headers, config and card, never tensors. What is in the files is untrusted. Knows no recipe
and no network.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mergebuild.checkpoint.card import card_metadata
from mergebuild.checkpoint.header import TensorInfo, read_header
from mergebuild.checkpoint.quantisation import quantisation, refuse_quantised
from mergebuild.checkpoint.reader import changed
from mergebuild.checkpoint.regular import Stamp, opened, stamp, unreadable
from mergebuild.checkpoint.shards import PICKLED, Weights, check_index, check_single, find_weights
from mergebuild.checkpoint.side_files import (
    CONFIG,
    SideFile,
    read_config,
    side_files,
)
from mergebuild.errors import CheckpointError

__all__ = ["Checkpoint", "SideFile", "TensorInfo", "locate", "open_checkpoint"]

_CARD: Final = "README.md"
_QUANTISED: Final = (
    (".qweight", "gptq or awq"),
    (".quant_state.bitsandbytes__nf4", "bitsandbytes"),
    (".quant_state.bitsandbytes__fp4", "bitsandbytes"),
    (".SCB", "bitsandbytes"),
    (".weight_packed", "compressed-tensors"),
    ("_proj_blocks", "mxfp4"),
)
"""Ends of the names of codes, where no config tells of them."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on disk.

    `tensors` are sorted by name, `files` are its weights and `stamps` what those looked like when
    their headers were read. `config` is config.json, parsed, and `config_text` as it stands.
    `card_metadata` is the front matter of its README.md.
    """

    name: str
    path: Path
    tensors: Mapping[str, TensorInfo]
    files: tuple[Path, ...]
    stamps: Mapping[Path, Stamp]
    config: Mapping[str, Any] | None
    config_text: bytes | None
    side_files: tuple[SideFile, ...]
    card_metadata: Mapping[str, Any]


def locate(place: str, directory: Path) -> Path | None:
    """The path that a recipe in `directory` means by `place`; None if there is no such path.

    `~` is expanded; relative paths are tried from the recipe's directory, then from the working
    directory.
    """
    try:
        path = Path(place).expanduser()
        found = next((p for p in (directory / path, path) if place and p.exists()), None)
    except (OSError, RuntimeError, ValueError):  # too long, no such user, a NUL in it
        return None
    return found


def open_checkpoint(path: Path, name: str) -> Checkpoint:
    """The checkpoint at `path`, called `name` by its users.

    Raises CheckpointError if there is none, if it is damaged or incomplete, or if it is of a kind
    that is not supported.
    """
    if not _is_directory(path):
        check_single(path)
        return _open(name, path, path.parent, Weights((path.name,)), ())
    names = _names(path)
    return _open(name, path, path, find_weights(path, names), names)


def _open(
    name: str, path: Path, directory: Path, weights: Weights, names: Collection[str]
) -> Checkpoint:
    text, config = read_config(directory / CONFIG) if CONFIG in names else (None, None)
    quantisation(config, path)
    files = tuple(directory / file for file in weights.files)
    stamps: dict[Path, Stamp] = {}
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        stamps[file] = _read_into(tensors, file)
    check_index(directory, weights, tensors.values())
    if not tensors:
        raise CheckpointError.of(f"'{path}' holds no tensors")
    _refuse_codes(path, tensors)
    return Checkpoint(
        name=name,
        path=path,
        tensors={name: tensors[name] for name in sorted(tensors)},
        files=files,
        stamps=stamps,
        config=config,
        config_text=text,
        side_files=side_files(directory, names, config),
        card_metadata=card_metadata(directory / _CARD) if _CARD in names else {},
    )


def read_tensors(file: Path) -> tuple[tuple[TensorInfo, ...], Stamp]:
    """The tensors of one file of weights, and the stamp that was true while its header was read.

    Raises CheckpointError.
    """
    with opened(file) as descriptor:
        before = stamp(descriptor)
        if file.name.endswith(PICKLED):
            from mergebuild.checkpoint.pickled import read_pickled

            found = read_pickled(descriptor, file)
        else:
            found = read_header(descriptor, file).tensors
        if not stamp(descriptor).same_content(before):
            raise changed(file)
    return found, before


def _read_into(tensors: dict[str, TensorInfo], file: Path) -> Stamp:
    """Add the tensors of a file; its stamp."""
    found, mark = read_tensors(file)
    for tensor in found:
        other = tensors.setdefault(tensor.name, tensor)
        if other is not tensor:
            raise CheckpointError.of(
                f"tensor '{tensor.name}' is in '{other.file}' and in '{file}'",
                hint="keep the files of one checkpoint only in its directory",
            )
    return mark


def _refuse_codes(path: Path, tensors: Iterable[str]) -> None:
    """Refuse quantised weights that no config tells of: their raw codes cannot be merged."""
    ends = tuple(suffix for suffix, _ in _QUANTISED)
    for name in tensors:
        if name.endswith(ends):
            kind = next(kind for suffix, kind in _QUANTISED if name.endswith(suffix))
            raise refuse_quantised(path, f"{kind}, by tensor '{name}'")


def _names(directory: Path) -> tuple[str, ...]:
    try:
        return tuple(sorted(os.listdir(directory)))
    except OSError as error:
        raise unreadable(directory, error) from error


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError.of(f"there is no '{path}'") from error
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error

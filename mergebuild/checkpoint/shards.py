"""Which files of a directory hold the weights of a checkpoint, and the index that says so.

Reads names and the index; opens no weights. The index is untrusted.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from mergebuild.checkpoint.header import TensorInfo
from mergebuild.checkpoint.regular import parse_object, read_small
from mergebuild.checkpoint.safetensors import DIFFUSION_STEM, INDEX, SINGLE
from mergebuild.errors import CheckpointError

SUFFIX: Final = ".safetensors"
PICKLED: Final = (".bin", ".pt", ".pth", ".ckpt")
DIFFUSION: Final = f"{DIFFUSION_STEM}.safetensors"
DIFFUSION_INDEX: Final = f"{DIFFUSION}.index.json"
BIN: Final = "pytorch_model.bin"
BIN_INDEX: Final = "pytorch_model.bin.index.json"

_INDEX_LARGEST: Final = 200_000_000
_NUMBERED: Final = re.compile(r"(.*)-([0-9]{1,9})-of-([0-9]{1,9})(\.[a-z]+)")
_SPECIAL: Final = ("consolidated", "adapter_model")
_NO_WEIGHTS: Final = (
    "training_args", "optimizer", "scheduler", "scaler", "rng_state", "random_states", "adapter_",
)  # fmt: skip
"""How pickles begin that lie beside a checkpoint and are no part of it."""
_INCOMPLETE: Final = "it was not fetched whole; fetch it again"
_CONVERT: Final = "convert it to safetensors first; other formats are not supported yet"


@dataclass(frozen=True, slots=True)
class Weights:
    """File names of the weights, sorted; `index` maps tensors to them where there is an index,
    which is the file `index_name`."""

    files: tuple[str, ...]
    index: Mapping[str, str] | None = None
    index_name: str = ""


def find_weights(directory: Path, names: Collection[str]) -> Weights:
    """The weights among the names in a directory. Raises CheckpointError if there are none.

    Safetensors come first, then PyTorch's own files. Of each, the single file comes before an
    index, as in transformers; without either all files are taken as shards of one checkpoint.
    """
    return (
        _standard(directory, names, SINGLE, INDEX)
        or _standard(directory, names, DIFFUSION, DIFFUSION_INDEX)
        or _loose(directory, names)
        or _standard(directory, names, BIN, BIN_INDEX)
        or _loose_pickled(directory, names)
        or _no_weights(directory, names)
    )


def _standard(directory: Path, names: Collection[str], single: str, index: str) -> Weights | None:
    if single in names:
        return Weights((single,))
    if index not in names:
        return None
    weight_map = read_index(directory / index)
    files = tuple(sorted(set(weight_map.values())))
    for file in files:
        if file not in names:
            raise CheckpointError.of(
                f"'{directory}': shard '{file}' of the index is not there", hint=_INCOMPLETE
            )
    return Weights(files, weight_map, index)


def _loose(directory: Path, names: Collection[str]) -> Weights | None:
    found = sorted(name for name in names if name.endswith(SUFFIX) and not name.startswith("."))
    plain = [name for name in found if not name.startswith(_SPECIAL)]
    files = tuple(plain or [name for name in found if name.startswith("consolidated")])
    _check_numbers(directory, files)
    return Weights(files) if files else None


def _loose_pickled(directory: Path, names: Collection[str]) -> Weights | None:
    """Numbered shards, or the only file of its kind."""
    found = [
        name
        for name in sorted(names)
        if name.endswith(PICKLED) and not name.startswith((".", *_NO_WEIGHTS))
    ]
    if len(found) > 1 and not all(_NUMBERED.fullmatch(name) for name in found):
        raise CheckpointError.of(
            f"'{directory}' holds several PyTorch files: {', '.join(found[:5])}",
            hint=f"name the one that is meant, or the checkpoint's own name is '{BIN}'",
        )
    _check_numbers(directory, found)
    return Weights(tuple(found)) if found else None


def read_index(path: Path) -> dict[str, str]:
    """`weight_map` of an index file: tensor names to file names. Raises CheckpointError."""
    index = parse_object(read_small(path, _INDEX_LARGEST), f"'{path}'")
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError.of(f"'{path}': no 'weight_map' object")
    if not weight_map:
        raise CheckpointError.of(f"'{path}': 'weight_map' is empty")
    safe = path.name in (INDEX, DIFFUSION_INDEX)
    suffixes = (SUFFIX,) if safe else PICKLED
    for tensor, file in weight_map.items():
        if not _plain(file, suffixes):
            kind = "safetensors" if safe else "PyTorch"
            raise CheckpointError.of(
                f"'{path}': tensor '{tensor}': {file!r:.80} is not the plain name of a {kind} file"
            )
    return weight_map


def check_index(directory: Path, weights: Weights, tensors: Collection[TensorInfo]) -> None:
    """Raises CheckpointError unless the index, if there is one, says of every tensor where it
    lies, and only that."""
    if weights.index is None:
        return
    lies = {tensor.name: tensor.file.name for tensor in tensors}
    for name, file in weights.index.items():
        if lies.get(name) != file:
            raise CheckpointError.of(
                f"'{directory / weights.index_name}': tensor '{name}' is not in '{file}'",
                hint=_INCOMPLETE,
            )
    for name, file in lies.items():
        if name not in weights.index:
            raise CheckpointError.of(
                f"'{directory / file}': tensor '{name}' is not in the index",
                hint=f"'{weights.index_name}' does not belong to these shards",
            )


def check_single(path: Path) -> None:
    """Raises CheckpointError unless a file, by its name, is a whole checkpoint."""
    if path.suffix == ".gguf":
        raise CheckpointError.of(f"'{path}' is a GGUF file", hint=_CONVERT)
    if path.suffix not in (SUFFIX, *PICKLED):
        raise CheckpointError.of(
            f"'{path}' is not a checkpoint",
            hint="name a directory, a .safetensors file or one that torch.save wrote",
        )
    match = _NUMBERED.fullmatch(path.name)
    if match and int(match[3]) > 1:
        raise CheckpointError.of(
            f"'{path}' is one of {int(match[3])} shards", hint=f"name its directory: {path.parent}"
        )


def _plain(file: Any, suffixes: tuple[str, ...]) -> bool:
    return (
        isinstance(file, str)
        and file.endswith(suffixes)
        and not file.startswith(".")
        and not any(char in file for char in "/\\\0")
        and file.isprintable()
    )


def _check_numbers(directory: Path, files: Collection[str]) -> None:
    """Shards that are numbered must all be there: without an index nobody else says so."""
    seen: dict[tuple[str, str, str], set[int]] = {}
    for file in files:
        if match := _NUMBERED.fullmatch(file):
            seen.setdefault((match[1], match[3], match[4]), set()).add(int(match[2]))
    for (stem, count, suffix), numbers in seen.items():
        first = 0 if 0 in numbers else 1
        missing = next((n for n in range(first, first + len(numbers)) if n not in numbers), None)
        if missing is None and len(numbers) < int(count):
            missing = first + len(numbers)
        if missing is not None:
            file = f"{stem}-{missing:0{len(count)}}-of-{count}{suffix}"
            raise CheckpointError.of(
                f"'{directory}': shard '{file}' is not there", hint=_INCOMPLETE
            )


def _no_weights(directory: Path, names: Collection[str]) -> NoReturn:
    if not names:
        raise CheckpointError.of(f"'{directory}' is empty")
    if any(name.startswith("adapter_") for name in names):
        raise CheckpointError.of(
            f"'{directory}' holds a LoRA adapter, not a model",
            hint="put it behind its model: model+adapter",
        )
    if any(name.endswith(".gguf") for name in names):
        raise CheckpointError.of(f"'{directory}' holds GGUF files only", hint=_CONVERT)
    raise CheckpointError.of(
        f"'{directory}' is not a checkpoint: it holds no weights",
        hint=f"expected is '{SINGLE}', or '{INDEX}' and its shards",
    )

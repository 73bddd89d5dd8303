"""Which files of a repository on the Hub a model or an adapter takes. Knows no network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias

from mergebuild.checkpoint import adapter
from mergebuild.checkpoint.safetensors import INDEX, SINGLE
from mergebuild.checkpoint.shards import (
    BIN,
    BIN_INDEX,
    DIFFUSION,
    DIFFUSION_INDEX,
    SUFFIX,
    find_weights,
)
from mergebuild.checkpoint.side_files import CONFIG, is_carried, is_code, read_config, runs_code
from mergebuild.errors import CheckpointError

Kind: TypeAlias = Literal["model", "adapter"]

_CARD: Final = "README.md"

Choose: TypeAlias = Callable[[Path, Mapping[str, int]], Iterable[str]]
"""Which files of a listing are needed, given what the stages before put into the folder."""


def _beside(folder: Path, names: Mapping[str, int]) -> list[str]:
    """Config, tokenizer and the like, and the index that tells of the weights."""
    found = [name for name in sorted(names) if name in (CONFIG, _CARD) or is_carried(name)]
    loose = any(name.endswith(SUFFIX) and "/" not in name for name in names)
    if SINGLE not in names and INDEX in names:
        found.append(INDEX)
    elif SINGLE not in names and DIFFUSION not in names and DIFFUSION_INDEX in names:
        found.append(DIFFUSION_INDEX)
    elif not loose and BIN not in names and BIN_INDEX in names:
        found.append(BIN_INDEX)
    return found


def _weights(folder: Path, names: Mapping[str, int]) -> list[str]:
    """The weights, safetensors if there are any, and code if the config asks for it."""
    top = [name for name in names if "/" not in name]
    found = list(find_weights(folder, top).files)
    if CONFIG in names and runs_code(read_config(folder / CONFIG)[1]):
        found += sorted(filter(is_code, top))
    return found


def _adapter(folder: Path, names: Mapping[str, int]) -> list[str]:
    if adapter.CONFIG not in names:
        raise CheckpointError.of(
            f"'{folder}' is no LoRA adapter: the repository has no '{adapter.CONFIG}'"
        )
    weights = [name for name in adapter.WEIGHTS if name in names][:1]
    return [adapter.CONFIG, *weights, *([_CARD] if _CARD in names else [])]


STAGES: Final[Mapping[Kind, tuple[Choose, ...]]] = {
    "model": (_beside, _weights),
    "adapter": (_adapter,),
}

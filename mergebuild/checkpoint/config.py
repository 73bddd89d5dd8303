"""The config.json of a checkpoint that is to be written, from that of a checkpoint there is.

Pure: config in, text out. Changes what no longer holds and keeps all else, in its order. Knows no
tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mergebuild.checkpoint.depth import Depth, set_depth
from mergebuild.checkpoint.stacks import TEXT_SECTIONS

_DTYPES: Final = ("torch_dtype", "dtype")
_TIED: Final = "tie_word_embeddings"


def output_config(
    config: Mapping[str, Any],
    *,
    dtype: str | None = None,
    depths: Sequence[Depth] = (),
    tied: bool | None = None,
) -> bytes:
    """The text of a config.json that tells of the checkpoint as written.

    `depths` are the stacks whose layers are not all in their places; a layer past the end of this
    config's model counts as its last. `dtype` is what most weights have, `tied` whether the head is
    the embedding; None leaves either as it is. Equal arguments give equal bytes.

    Raises Unsayable where this kind of config cannot say what it would have to.
    """
    changed = _without_place(config)
    for depth in depths:
        set_depth(changed, depth)
    if dtype is not None:
        _set_dtype(changed, dtype)
        if not any(key in changed for key in _DTYPES) and not is_diffusion(changed):
            changed["torch_dtype"] = dtype
    if tied is not None:
        changed[_TIED] = tied
        for section in _text_sections(changed):
            if _TIED in section:
                section[_TIED] = tied
    return json.dumps(changed, indent=2).encode() + b"\n"


def is_diffusion(config: Mapping[str, Any] | None) -> bool:
    """Whether a config is one of the diffusers library, which calls things otherwise."""
    return "_class_name" in (config or {})


def _without_place(value: Any) -> Any:
    """A copy without `_name_or_path`, which says where the original lay."""
    if isinstance(value, Mapping):
        return {k: _without_place(v) for k, v in value.items() if k != "_name_or_path"}
    if isinstance(value, list):
        return [_without_place(item) for item in value]
    return value


def _text_sections(config: dict[str, Any]) -> list[dict[str, Any]]:
    return [config[key] for key in TEXT_SECTIONS if isinstance(config.get(key), dict)]


def _set_dtype(section: dict[str, Any], dtype: str) -> None:
    for key, value in section.items():
        if key in _DTYPES and (value is None or isinstance(value, str)):
            section[key] = dtype
        elif isinstance(value, dict):
            _set_dtype(value, dtype)

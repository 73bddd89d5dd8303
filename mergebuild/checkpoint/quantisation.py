"""What a config says of how weights are quantised, and which of it can be read.

Read are weights of eight-bit floats with scales (`scaled.py`); everything else is refused by its
name, with what to do. Pure: config in, value out. Knows no tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mergebuild.checkpoint.stacks import TEXT_SECTIONS
from mergebuild.errors import CheckpointError

KEYS: Final = ("quantization_config", "compression_config")
"""Where configs speak of quantisation, at the top or in the section about the language model."""

_ORIGINAL: Final = "use the checkpoint that it was made from"
_HINTS: Final = {
    "bitsandbytes": f"{_ORIGINAL}, or load it with transformers, call model.dequantize() and save",
    "mxfp4": f"{_ORIGINAL}, or load it with transformers' Mxfp4Config(dequantize=True) and save it",
    "compressed-tensors": (
        f"{_ORIGINAL}, or load it with transformers' CompressedTensorsConfig(run_compressed=False) "
        "and save it"
    ),
    "gguf": f"{_ORIGINAL}, or load it with transformers' gguf_file=… and save it",
}


@dataclass(frozen=True, slots=True)
class Quantisation:
    """Weights are eight-bit floats with scales; `kind` is the config's name for that.

    `blocks` are the sizes that a block of elements with one scale may have, in the weight's last
    dimensions, as far as the config says any.
    """

    kind: str
    blocks: tuple[tuple[int, ...], ...] = ()


def quantisation(config: Mapping[str, Any] | None, path: Path) -> Quantisation | None:
    """How the config says that weights are quantised; None if it does not.

    Raises CheckpointError, told of the checkpoint's `path`, where it is a kind that cannot be read.
    """
    for said in _sections(config):
        kind = _kind(said)
        if kind in ("fp8", "fbgemm_fp8"):
            block = _sizes(said.get("weight_block_size"))
            return Quantisation(kind, (block,) if block else ())
        if kind == "modelopt" and _starts(said.get("quant_algo"), "FP8"):
            return Quantisation(kind)
        if kind == "compressed-tensors":
            return _compressed(said, path)
        raise refuse_quantised(path, kind)
    return None


def without_quantisation(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the same model with its weights as they are."""
    plain = {key: value for key, value in config.items() if key not in KEYS}
    for key in TEXT_SECTIONS:
        if isinstance(plain.get(key), Mapping):
            plain[key] = {k: v for k, v in plain[key].items() if k not in KEYS}
    return plain


def refuse_quantised(path: Path, kind: str) -> CheckpointError:
    """The error for weights that are quantised in a way that is not read."""
    hint = next((text for name, text in _HINTS.items() if name in kind), _ORIGINAL)
    return CheckpointError.of(f"'{path}' is quantised ({kind}), which is not read", hint=hint)


def _sections(config: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    top: Mapping[str, Any] = config or {}
    for section in (top, *(top.get(key) for key in TEXT_SECTIONS)):
        if isinstance(section, Mapping):
            for key in KEYS:
                said = section.get(key)
                if isinstance(said, Mapping) and said:
                    yield said


def _kind(said: Mapping[str, Any]) -> str:
    method = said.get("quant_method")
    if isinstance(method, str) and method:
        return method[:40]
    if said.get("load_in_4bit") or said.get("load_in_8bit"):
        return "bitsandbytes"
    return "unknown"


def _compressed(said: Mapping[str, Any], path: Path) -> Quantisation:
    """compressed-tensors, where all groups have weights of eight-bit floats and nothing else."""
    kind = "compressed-tensors"
    form = said.get("format")
    if isinstance(form, str):
        kind += f", {form[:40]}"
    for key, name in (("sparsity_config", "sparse"), ("transform_config", "transformed")):
        other = said.get(key)
        if isinstance(other, Mapping) and other and other.get("format") != "dense":
            raise refuse_quantised(path, f"{kind}, {name}")
    blocks = []
    groups = said.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if weights is None:
            continue
        eight = isinstance(weights, Mapping) and weights.get("num_bits") == 8
        if not eight or weights.get("type") != "float" or weights.get("symmetric") is False:
            raise refuse_quantised(path, kind)
        size = weights.get("group_size")
        blocks += [
            found
            for found in (_sizes(weights.get("block_structure")), _sizes([1, size]))
            if found is not None
        ]
    if not isinstance(groups, Mapping) or not groups:
        raise refuse_quantised(path, kind)
    return Quantisation(kind, tuple(dict.fromkeys(blocks)))


def _sizes(value: Any) -> tuple[int, ...] | None:
    """Two sizes, as a list or as `128x128`; None for what is no such thing."""
    parts: Any = value
    if isinstance(value, str):
        parts = [int(p) if p.isdecimal() and len(p) < 10 else 0 for p in value.split("x")]
    if not isinstance(parts, list) or len(parts) != 2:
        return None
    sound = all(type(part) is int and 0 < part < 2**31 for part in parts)
    return (parts[0], parts[1]) if sound else None


def _starts(value: Any, mark: str) -> bool:
    return isinstance(value, str) and value.startswith(mark)

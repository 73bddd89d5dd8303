"""A LoRA adapter on disk, in PEFT's format: what it changes, by the names of the model's weights.

Reads `adapter_config.json` and the headers of `adapter_model.safetensors` or `.bin`, never tensors.
What is in the files is untrusted; an adapter of another kind, or with an option that is not
applied here, is a CheckpointError that names it. Knows no model: `lora.py` fits the two together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mergebuild.checkpoint.header import TensorInfo
from mergebuild.checkpoint.regular import Stamp, parse_object, read_small
from mergebuild.checkpoint.source import Checkpoint, read_tensors
from mergebuild.errors import CheckpointError

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = ("adapter_model.safetensors", "adapter_model.bin")

_CONFIG_LARGEST: Final = 16 << 20
_PATTERN_LONGEST: Final = 1000
_ROOT: Final = "base_model.model."
_PART: Final = re.compile(r"(.+)\.lora_([AB])(?:\.[^.]+)?\.weight")
_EMBEDDING: Final = re.compile(r"(.+)\.lora_embedding_([AB])(?:\.[^.]+)?")
_INNER: Final = re.compile(r"\.(base_layer|modules_to_save(\.[^.]+)?|original_module)(?=\.)")
_OPTIONS: Final = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "lora_bias": "a bias on lora_B",
    "layer_replication": "layer replication",
    "target_parameters": "target_parameters",
    "trainable_token_indices": "trainable tokens",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
}
"""Options under which W + s·B·A is not, or not all of, what the adapter means."""
_NAMED: Final = (
    ("lora_magnitude_vector", "DoRA"),
    ("lora_B.bias", "a bias on lora_B"),
    ("trainable_tokens", "trainable tokens"),
)
_KEEPING: Final = ("gaussian", "orthogonal", "eva")
"""Initialisations that leave the model's own weights as they are."""
_MERGE: Final = "merge it into its model with PEFT's merge_and_unload first"


@dataclass(frozen=True, slots=True)
class Delta:
    """s·B·A for one weight: `a` is [r, in], `b` [out, r], further dimensions of size as they come.

    `transposed` says that the weight is [in, out]; None leaves it to the shapes, `fallback` where
    they do not tell.
    """

    module: str
    a: TensorInfo
    b: TensorInfo
    scale: float
    transposed: bool | None
    fallback: bool


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter: `deltas` and `saved`, which replace a tensor, by the name of what they change.

    `contents` is the adapter's own file, as a checkpoint of all that it holds.
    """

    path: Path
    deltas: Mapping[str, Delta]
    saved: Mapping[str, TensorInfo]
    contents: Checkpoint


@dataclass(frozen=True, slots=True)
class Settings:
    """What adapter_config.json says of scales: `rooted` is rslora, `transposed` fan_in_fan_out."""

    rank: int
    alpha: float
    ranks: Mapping[str, Any]
    alphas: Mapping[str, Any]
    rooted: bool
    transposed: bool


def open_adapter(path: Path) -> Adapter:
    """The adapter in a folder. Raises CheckpointError."""
    if not (path / CONFIG).exists():
        raise _bad(
            path,
            f"not a LoRA adapter: it holds no '{CONFIG}'",
            "name the folder that PEFT's save_pretrained wrote",
        )
    settings = read_settings(path, path / CONFIG)
    file = next((path / name for name in WEIGHTS if (path / name).exists()), None)
    if file is None:
        raise _bad(path, f"neither '{WEIGHTS[0]}' nor '{WEIGHTS[1]}' is there", "fetch it again")
    tensors, stamp = read_tensors(file)
    return adapter_of(_contents(path, file, tensors, stamp), settings)


def adapter_base(path: Path) -> str | None:
    """What the config of an adapter's folder says that it is for. Raises CheckpointError."""
    said = parse_object(read_small(path / CONFIG, _CONFIG_LARGEST), str(path))
    base = said.get("base_model_name_or_path")
    return base if isinstance(base, str) and base else None


def read_settings(path: Path, config: Path | bytes | None) -> Settings:
    """What an adapter's config says, of the adapter called `path`. Raises CheckpointError."""
    text = config if isinstance(config, bytes) else read_small(config or path, _CONFIG_LARGEST)
    return _settings(path, parse_object(text, str(path)))


def adapter_of(contents: Checkpoint, settings: Settings) -> Adapter:
    """The adapter that a checkpoint's tensors are under these settings. Raises CheckpointError."""
    path, tensors = contents.path, tuple(contents.tensors.values())
    parts: dict[tuple[str, bool], dict[str, TensorInfo]] = {}
    saved: dict[str, TensorInfo] = {}
    for tensor in tensors:
        for mark, kind in _NAMED:
            if mark in tensor.name:
                raise _refused(path, kind)
        match = _PART.fullmatch(tensor.name)
        embedding = _EMBEDDING.fullmatch(tensor.name)
        if found := match or embedding:
            place = found[1].removeprefix(_ROOT), embedding is not None
            _once(path, parts.setdefault(place, {}), found[2], tensor)
        elif ".lora_" in tensor.name:
            raise _bad(path, f"tensor '{tensor.name}' is of no kind that is known", _MERGE)
        else:
            _once(path, saved, _INNER.sub("", tensor.name.removeprefix(_ROOT)), tensor)
    deltas = {
        f"{_INNER.sub('', module + '.')}weight": _delta(path, module, across, pair, settings)
        for (module, across), pair in sorted(parts.items())
    }
    if len(deltas) < len(parts):
        raise _bad(path, "two of its tensors change the same weight", _MERGE)
    if not deltas and not saved:
        raise _bad(path, "the adapter holds no tensors", "fetch it again")
    return Adapter(path, deltas, saved, contents)


def _contents(path: Path, file: Path, tensors: Iterable[TensorInfo], stamp: Stamp) -> Checkpoint:
    listed = {tensor.name: tensor for tensor in sorted(tensors, key=lambda tensor: tensor.name)}
    return Checkpoint(
        name=str(path),
        path=path,
        tensors=listed,
        files=(file,),
        stamps={file: stamp},
        config=None,
        config_text=None,
        side_files=(),
        card_metadata={},
    )


def _once(path: Path, place: dict[str, TensorInfo], key: str, tensor: TensorInfo) -> None:
    other = place.setdefault(key, tensor)
    if other is not tensor:
        raise _bad(path, f"tensors '{other.name}' and '{tensor.name}' are the same one", _MERGE)


def _delta(
    path: Path, module: str, embedding: bool, parts: Mapping[str, TensorInfo], said: Settings
) -> Delta:
    if len(parts) != 2:
        kind = "A" if "B" in parts else "B"
        raise _bad(path, f"module '{module}' has no lora_{kind}", "fetch it again")
    a, b = parts["A"], parts["B"]
    rank = _number(path, "rank_pattern", _matched(path, said.ranks, module, said.rank))
    alpha = _number(path, "alpha_pattern", _matched(path, said.alphas, module, said.alpha))
    if (
        len(a.shape) < 2
        or len(b.shape) < 2
        or a.shape[0] != b.shape[1]
        or math.prod(b.shape[2:]) != 1
    ):
        raise _bad(
            path, f"module '{module}': lora_A {list(a.shape)} and lora_B {list(b.shape)} do not fit"
        )
    if a.shape[0] != rank:
        raise _bad(
            path, f"module '{module}' has rank {a.shape[0]}, but '{CONFIG}' says {rank:g}",
            "the two files do not belong together",
        )  # fmt: skip
    scale = alpha / (math.sqrt(rank) if said.rooted else rank)
    return Delta(module, a, b, scale, True if embedding else None, said.transposed)


def _settings(path: Path, said: Mapping[str, Any]) -> Settings:
    kind = said.get("peft_type", "LORA")
    if kind != "LORA":
        raise _refused(path, str(kind)[:40])
    for key, name in _OPTIONS.items():
        if said.get(key):
            raise _refused(path, name)
    start = said.get("init_lora_weights", True)
    if not isinstance(start, bool) and start is not None and start not in _KEEPING:
        raise _bad(
            path,
            f"its training began with '{str(start)[:40]}', which changed the model's own weights",
            "save it again as a plain LoRA, with PEFT's path_initial_model_for_weight_conversion",
        )
    return Settings(
        rank=int(_number(path, "r", said.get("r", 8))),
        alpha=_number(path, "lora_alpha", said.get("lora_alpha", 8)),
        ranks=_mapping(path, "rank_pattern", said.get("rank_pattern")),
        alphas=_mapping(path, "alpha_pattern", said.get("alpha_pattern")),
        rooted=said.get("use_rslora") is True,
        transposed=said.get("fan_in_fan_out") is True,
    )


def _matched(path: Path, patterns: Mapping[str, Any], module: str, default: float) -> Any:
    """What the first pattern that fits the end of a module's name says, as in PEFT."""
    for pattern, value in patterns.items():
        if len(pattern) > _PATTERN_LONGEST:
            raise _bad(path, "a pattern is too long")
        try:
            found = fits(pattern, module)
        except (re.error, OverflowError, RecursionError) as error:
            raise _bad(path, f"'{pattern:.80}' is not a regular expression") from error
        if found:
            return value
    return default


def fits(pattern: str, module: str) -> bool:
    """Whether a pattern of PEFT's means a module: a regular expression for the name's end."""
    return re.match(rf"(.*\.)?({pattern})$", module) is not None


def _mapping(path: Path, key: str, value: Any) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise _bad(path, f"'{key}' in '{CONFIG}' is not an object")
    return value or {}


def _number(path: Path, key: str, value: Any) -> float:
    sound = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not sound or not 0 <= abs(value) < 1e9 or (key in ("r", "rank_pattern") and value < 1):
        raise _bad(path, f"'{key}' in '{CONFIG}' says {value!r:.40}, which is no such number")
    return float(value)


def _refused(path: Path, kind: str) -> CheckpointError:
    return _bad(path, f"the adapter uses {kind}, which is not supported", _MERGE)


def _bad(path: Path, message: str, hint: str | None = None) -> CheckpointError:
    return CheckpointError.of(f"'{path}': {message}", hint=hint)


def some(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return ", ".join(f"'{name}'" for name in listed[:3]) + more

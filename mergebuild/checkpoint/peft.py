"""An adapter that is to be written, in PEFT's format: names of its tensors and its config.

Pure: nothing is read or written here. Reading adapters is `adapter.py`.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

WEIGHTS: Final = "adapter_model.safetensors"
_ROOT: Final = "base_model.model."
_TASKS: Final = (("ForCausalLM", "CAUSAL_LM"), ("LMHeadModel", "CAUSAL_LM"))


@dataclass(frozen=True, slots=True)
class Factored:
    """A module that gets a pair of factors; `across` if its weight is stored as [in, out]."""

    module: str
    rank: int
    embedding: bool
    across: bool


def factor_names(factored: Factored) -> tuple[str, str]:
    """What A and B are called."""
    if factored.embedding:
        stem = f"{_ROOT}{factored.module}.lora_embedding_"
        return f"{stem}A", f"{stem}B"
    stem = f"{_ROOT}{factored.module}.lora_"
    return f"{stem}A.weight", f"{stem}B.weight"


def saved_name(tensor: str) -> str:
    """What a tensor that is kept whole is called."""
    return f"{_ROOT}{tensor}"


def adapter_config(
    factored: Sequence[Factored],
    *,
    saved: Collection[str],
    matrices: Collection[str],
    alpha: float | None,
    config: Mapping[str, Any] | None,
    origin: str | None,
) -> bytes:
    """The text of adapter_config.json.

    `matrices` are all weights of the base that have two dimensions, `saved` the tensors kept
    whole, `config` and `origin` the base's config.json and its place on the Hub. `alpha` None
    makes the scale 1 everywhere.
    """
    rank = Counter(one.rank for one in factored).most_common(1)[0][0]
    ranks = _patterns(factored, rank)
    modules = sorted({tensor.rpartition(".")[0] for tensor in saved})
    said = {
        "peft_type": "LORA",
        "task_type": _task(config),
        "base_model_name_or_path": origin,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank if alpha is None else int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "rank_pattern": ranks,
        "alpha_pattern": ranks if alpha is None else {},
        "target_modules": _targets([one.module for one in factored], matrices),
        "modules_to_save": modules or None,
        "bias": "none",
        "fan_in_fan_out": any(one.across for one in factored),
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
    }
    return json.dumps(said, indent=2).encode() + b"\n"


def _task(config: Mapping[str, Any] | None) -> str | None:
    kinds = (config or {}).get("architectures")
    for kind in kinds if isinstance(kinds, list) else ():
        for ending, task in _TASKS:
            if isinstance(kind, str) and kind.endswith(ending):
                return task
    return None


def _patterns(factored: Sequence[Factored], usual: int) -> dict[str, int]:
    """The ranks that are not the usual one, by word where all modules that end in it have it."""
    endings: dict[str, set[int]] = defaultdict(set)
    for one in factored:
        endings[_ending(one.module)].add(one.rank)
    # The first pattern that fits counts, and one that is the end of another fits it too.
    ordered = sorted(factored, key=lambda one: (-len(one.module), one.module))
    alone = {re.escape(o.module): o.rank for o in ordered if len(endings[_ending(o.module)]) > 1}
    shared = {
        re.escape(word): rank
        for word, ranks in sorted(endings.items())
        if len(ranks) == 1 and (rank := min(ranks)) != usual
    }
    return alone | shared


def _ending(module: str) -> str:
    return module.rpartition(".")[2]


def _targets(modules: Collection[str], matrices: Collection[str]) -> list[str]:
    """The modules; where all that end in a word are among them, the word alone."""
    endings: dict[str, set[str]] = defaultdict(set)
    for name in matrices:
        module = name.removesuffix(".weight")
        endings[_ending(module)].add(module)
    found: set[str] = set()
    for module in modules:
        ending = _ending(module)
        found.add(ending if endings[ending] <= set(modules) else module)
    return sorted(found)

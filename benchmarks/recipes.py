"""One mergekit file a method, which mergebuild and mergekit both read; and how many models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

BASE_METHODS: Final = {
    "task_arithmetic": "{weight: 0.5}",
    "ties": "{weight: 0.5, density: 0.5}",
    "dare_ties": "{weight: 0.5, density: 0.5}",
    "dare_linear": "{weight: 0.5, density: 0.5}",
    "della": "{weight: 0.5, density: 0.5}",
    "breadcrumbs": "{weight: 0.5, density: 0.5}",
    "sce": "{}",
    "ram": "{}",
    "model_stock": "{}",
}
PEERS: Final = {"linear": "{weight: 0.5}", "nuslerp": "{weight: 0.5}", "karcher": "{}"}
SHARED: Final = {"dare_ties": "{rescale: false}", "sce": "{select_topk: 0.5}"}
PAIRS: Final = {"slerp": "{t: 0.4}", "nearswap": "{t: 0.001}", "arcee_fusion": "{}"}
METHODS: Final = (*PEERS, *PAIRS, *BASE_METHODS)


def sources(method: str, models: Sequence[Path]) -> list[Path]:
    """The models that a method reads, out of base and two more."""
    return list(models[1:3] if method in PEERS else models[:2] if method in PAIRS else models[:3])


def recipe(method: str, models: Sequence[Path]) -> str:
    """A mergekit file in bfloat16."""
    used = [path.resolve() for path in sources(method, models)]
    lines = [f"merge_method: {method}", "dtype: bfloat16"]
    each: Mapping[str, str] = PEERS | BASE_METHODS
    if method not in PEERS:
        lines.append(f"base_model: {used[0]}")
    listed = used if method in PEERS or method == "slerp" else used[1:]
    lines.append("models:")
    for path in listed:
        lines += [f"  - model: {path}", f"    parameters: {each.get(method, '{}')}"]
    shared = PAIRS.get(method, SHARED.get(method, "{}"))
    lines.append(f"parameters: {shared}")
    return "\n".join(lines) + "\n"

"""One recipe a case: a mergekit file for each method, and chains of two merges.

mergekit reads those files, too, but for the methods that only mergebuild has, and the chains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

_DENSE: Final = "{weight: 0.5, density: 0.5}"
BASE_METHODS: Final = {
    "task_arithmetic": "{weight: 0.5}",
    "ties": _DENSE,
    "dare_ties": _DENSE,
    "dare_linear": _DENSE,
    "della": _DENSE,
    "della_linear": _DENSE,
    "breadcrumbs": _DENSE,
    "breadcrumbs_ties": _DENSE,
    "sce": "{}",
    "ram": "{}",
    "ramplus_tl": "{}",
    "model_stock": "{}",
    "consensus_ta": "{}",
    "pcb_merging": "{density: 0.5}",
    "tsv_merge": "{}",
    "iso_c": "{}",
}
PEERS: Final = {
    "linear": "{weight: 0.5}",
    "nuslerp": "{weight: 0.5}",
    "multislerp": "{weight: 0.5}",
    "karcher": "{}",
}
SHARED: Final = {"dare_ties": "{rescale: false}", "sce": "{select_topk: 0.5}"}
PAIRS: Final = {"slerp": "{t: 0.4}", "nearswap": "{t: 0.001}", "arcee_fusion": "{}"}
ALONE: Final = {"passthrough": "{scale: 0.5}"}
METHODS: Final = (*PEERS, *PAIRS, *ALONE, *BASE_METHODS)
OURS: Final = ("consensus_ta", "pcb_merging", "tsv_merge", "iso_c")
"""Methods that mergekit lacks."""

CHAINS: Final = {"chain, keep: cache": "cache", "chain, keep: never": "never"}
"""linear, whose result is kept or exists in flight only, and task_arithmetic on it."""

CASES: Final = (*METHODS, *CHAINS)


def sources(case: str, models: Sequence[Path]) -> list[Path]:
    """The models that a case reads, out of base and two more."""
    if case in PEERS:
        return list(models[1:3])
    return list(models[: 1 if case in ALONE else 2 if case in PAIRS else 3])


def results(case: str) -> int:
    """How many models a case writes."""
    return 2 if CHAINS.get(case) == "cache" else 1


def recipe(case: str, models: Sequence[Path]) -> str:
    """A recipe in bfloat16."""
    used = [path.resolve() for path in sources(case, models)]
    if case in CHAINS:
        return _chain(CHAINS[case], used)
    lines = [f"merge_method: {case}", "dtype: bfloat16"]
    each: Mapping[str, str] = PEERS | ALONE | BASE_METHODS
    based = case in PAIRS or case in BASE_METHODS
    if based:
        lines.append(f"base_model: {used[0]}")
    listed = used[1:] if based and case != "slerp" else used
    lines.append("models:")
    for path in listed:
        lines += [f"  - model: {path}", f"    parameters: {each.get(case, '{}')}"]
    shared = PAIRS.get(case, SHARED.get(case, "{}"))
    lines.append(f"parameters: {shared}")
    return "\n".join(lines) + "\n"


def _chain(keep: str, used: Sequence[Path]) -> str:
    base, a, b = used
    return f"""mergebuild: 1
nodes:
  soup:
    keep: {keep}
    merge_method: linear
    dtype: bfloat16
    models:
      - {{model: {a}, parameters: {{weight: 0.5}}}}
      - {{model: {b}, parameters: {{weight: 0.5}}}}
  result:
    merge_method: task_arithmetic
    base_model: {base}
    dtype: bfloat16
    models:
      - {{model: soup, parameters: {{weight: 0.7}}}}
"""

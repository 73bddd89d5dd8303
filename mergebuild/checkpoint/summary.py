"""What a checkpoint is, in brief: structure, sizes, vocabulary, adapter. Derives; reads nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

from mergebuild.checkpoint.adapter import Adapter
from mergebuild.checkpoint.stacks import (
    TEXT_SECTIONS,
    Stack,
    find_layout,
    head_and_embedding,
    ties,
)


class Shaped(Protocol):
    """A tensor as far as its header tells."""

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True)
class AdapterSummary:
    """A LoRA: ranks and scales with how many modules have each, what it is for, by word."""

    ranks: Mapping[int, int]
    scales: Mapping[float, int]
    targets: Mapping[str, int]
    saved: tuple[str, ...]
    base: str | None


@dataclass(frozen=True, slots=True)
class Summary:
    """A checkpoint. `dtypes` are (tensors, elements) by dtype; `vocabulary` the rows of the input
    embedding and `vocab_size` what the config says; `tied` whether the output head is the
    embedding, None where there is neither."""

    architectures: tuple[str, ...]
    model_type: str | None
    stacks: tuple[Stack, ...]
    mismatch: str | None
    tensors: int
    parameters: int
    dtypes: Mapping[str, tuple[int, int]]
    vocabulary: int | None
    vocab_size: int | None
    head: str | None
    embedding: str | None
    tied: bool | None


def summary(tensors: Mapping[str, Shaped], config: Mapping[str, Any] | None) -> Summary:
    """Of the tensors by name and of config.json, parsed."""
    said = config or {}
    kinds = said.get("architectures")
    layout = find_layout(tensors, config)
    head, embedding = head_and_embedding(tensors)
    counts: Counter[str] = Counter(tensor.dtype for tensor in tensors.values())
    elements: Counter[str] = Counter()
    for tensor in tensors.values():
        elements[tensor.dtype] += prod(tensor.shape)
    tied = ties(config)
    if tied is None and (head or embedding):
        tied = head is None
    shape = tensors[embedding].shape if embedding is not None else ()
    return Summary(
        architectures=tuple(map(str, kinds)) if isinstance(kinds, list) else (),
        model_type=said["model_type"] if isinstance(said.get("model_type"), str) else None,
        stacks=layout.stacks,
        mismatch=layout.mismatch,
        tensors=len(tensors),
        parameters=sum(elements.values()),
        dtypes={dtype: (counts[dtype], elements[dtype]) for dtype in sorted(counts)},
        vocabulary=shape[0] if shape else None,
        vocab_size=_vocab_size(said),
        head=head,
        embedding=embedding,
        tied=tied if embedding is not None else None,
    )


def adapter_summary(adapter: Adapter, base: str | None) -> AdapterSummary:
    """Of an adapter; `base` is what its config says it is for."""
    deltas = adapter.deltas.values()
    return AdapterSummary(
        ranks=dict(sorted(Counter(delta.a.shape[0] for delta in deltas).items())),
        scales=dict(sorted(Counter(delta.scale for delta in deltas).items())),
        targets=dict(sorted(Counter(d.module.rpartition(".")[2] for d in deltas).items())),
        saved=tuple(sorted(adapter.saved)),
        base=base,
    )


def _vocab_size(config: Mapping[str, Any]) -> int | None:
    for section in (config, *(config.get(key) for key in TEXT_SECTIONS)):
        if isinstance(section, Mapping) and type(section.get("vocab_size")) is int:
            return int(section["vocab_size"])
    return None

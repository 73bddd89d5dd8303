"""The outline of a checkpoint: all that its users need to know before it exists.

Sources and nodes look the same from here: names, dtypes, shapes and keys of tensors, layer stacks,
config and side files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergebuild.cache import checkpoint_digest
from mergebuild.checkpoint.stacks import ModelLayout, find_layout, head_and_embedding, ties
from mergebuild.expression import Operand, RowsView


@dataclass(frozen=True, slots=True)
class TensorOutline:
    """One tensor; `key` says what its bytes are.

    `counts_as` is its dtype where that of an output follows from its inputs: a derived tensor is
    read as float32, and still makes a bfloat16 model none of float32. `view` is what stands in its
    place where its user has another vocabulary.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    counts_as: str | None = None
    view: RowsView | None = None


@dataclass(frozen=True, slots=True)
class SideFile:
    """A file that a checkpoint needs besides its weights: copied from `path`, or made of `data`.

    `code` is Python that the config names.
    """

    name: str
    digest: str
    size: int
    path: Path | None = None
    data: bytes | None = None
    code: bool = False


class Operands(dict[str, Operand]):
    """The tensors of a model that expressions call `called`, each made when it is first read."""

    def __init__(self, called: str, tensors: Mapping[str, TensorOutline]) -> None:
        self._called = called
        self._tensors = tensors

    def __missing__(self, name: str) -> Operand:
        tensor = self._tensors[name]
        self[name] = Operand(self._called, name, tensor.key, tensor.dtype)
        return self[name]


@dataclass(frozen=True, slots=True)
class Outline:
    """A checkpoint, there or yet to be made.

    `config` is config.json, parsed; `head` and `embedding` name the tensors that may be tied.
    `adapter` says that it is a LoRA; `origin` is the model on the Hub that it is, if it is one.
    """

    name: str
    tensors: Mapping[str, TensorOutline]
    config: Mapping[str, Any] | None
    side_files: tuple[SideFile, ...]
    layout: ModelLayout
    head: str | None
    embedding: str | None
    adapter: bool = False
    origin: str | None = None
    _operands: dict[str, Operands] = field(default_factory=dict, repr=False, compare=False)

    def operands(self, called: str) -> Operands:
        """Its tensors as expressions read them that call this model so: the same for all nodes."""
        return self._operands.setdefault(called, Operands(called, self.tensors))

    @property
    def tied(self) -> bool:
        """Whether the output head is the embedding: the config says so, or, where it says
        nothing, there is an embedding and no head."""
        said = ties(self.config)
        if said is not None:
            return said
        return self.head is None and self.embedding is not None


def make_outline(
    name: str,
    tensors: Mapping[str, TensorOutline],
    config: Mapping[str, Any] | None,
    side_files: tuple[SideFile, ...],
    *,
    adapter: bool = False,
    origin: str | None = None,
) -> Outline:
    """An outline, with what its tensors' names say of the model's structure."""
    head, embedding = head_and_embedding(tensors)
    layout = find_layout(tensors, config)
    return Outline(name, tensors, config, side_files, layout, head, embedding, adapter, origin)


def checkpoint_key(outline: Outline) -> str:
    """The digest of what a checkpoint is: its tensors and the side files that make it work."""
    return checkpoint_digest(
        {name: tensor.key for name, tensor in outline.tensors.items()},
        {file.name: file.digest for file in outline.side_files},
    )

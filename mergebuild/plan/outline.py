"""The outline of a checkpoint: all that its users need to know before it exists.

Sources and nodes look the same from here: names, dtypes, shapes and keys of tensors, layer stacks,
config and side files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from mergebuild.cache import checkpoint_digest
from mergebuild.checkpoint.dtypes import is_floating, itemsize
from mergebuild.checkpoint.stacks import ModelLayout, find_layout, head_and_embedding, ties
from mergebuild.expression import Operand, RowsView


class Unread(Exception):
    """What has to be known of contents to make a plan is known of none that nobody has read."""


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


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """What a checkpoint has, whatever is in it: name, dtype, shape and `counts_as` of each tensor.

    `sizes` are bytes by dtype. Checkpoints that have the same share one structure, so that what
    follows from it is worked out once for all.
    """

    tensors: tuple[tuple[str, str, tuple[int, ...], str | None], ...]
    sizes: Mapping[str, int]

    @property
    def commonest(self) -> str | None:
        """The dtype of floating point that most bytes are of, None without any."""
        floating = [dtype for dtype in self.sizes if is_floating(dtype)]
        return max(floating, key=self.sizes.__getitem__, default=None)


def structure_of(tensors: Mapping[str, TensorOutline]) -> Structure:
    """The structure of a checkpoint with these tensors, in their order."""
    return _structure_of(
        tuple([(name, t.dtype, t.shape, t.counts_as) for name, t in tensors.items()])
    )


@lru_cache(maxsize=8)
def _structure_of(
    tensors: tuple[tuple[str, str, tuple[int, ...], str | None], ...],
) -> Structure:
    sizes: dict[str, int] = {}
    for _, dtype, shape, _ in tensors:
        sizes[dtype] = sizes.get(dtype, 0) + prod(shape) * itemsize(dtype)
    return Structure(tensors, sizes)


class Operands(dict[str, Operand]):
    """The tensors of a model that expressions call `called`, each made when it is first read."""

    def __init__(self, called: str, tensors: Mapping[str, TensorOutline]) -> None:
        self._called = called
        self._tensors = tensors

    def __missing__(self, name: str) -> Operand:
        tensor = self._tensors[name]
        self[name] = made = Operand(self._called, name, tensor.key, tensor.dtype)
        return made


@dataclass(frozen=True, slots=True)
class Outline:
    """A checkpoint, there or yet to be made.

    `config` is config.json, parsed; `head` and `embedding` name the tensors that may be tied.
    `adapter` says that it is a LoRA; `origin` is the model on the Hub that it is, if it is one.
    If it is `provisional`, keys of tensors stand for contents that nobody has read: two that differ
    may be of the same.
    """

    name: str
    tensors: Mapping[str, TensorOutline]
    structure: Structure
    config: Mapping[str, Any] | None
    side_files: tuple[SideFile, ...]
    layout: ModelLayout
    head: str | None
    embedding: str | None
    adapter: bool = False
    origin: str | None = None
    provisional: bool = False
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


def differ(tensors: Iterable[tuple[Outline, TensorOutline]]) -> bool:
    """Whether tensors, each with the outline of its checkpoint, are not all the same in content and
    dtype. Raises Unread where nobody can know."""
    listed = list(tensors)
    if len({(tensor.key, tensor.dtype) for _, tensor in listed}) == 1:
        return False
    if any(outline.provisional for outline, _ in listed):
        raise Unread
    return True


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
    structure = structure_of(tensors)
    return Outline(
        name, tensors, structure, config, side_files, layout, head, embedding, adapter, origin
    )


def checkpoint_key(outline: Outline) -> str:
    """The digest of what a checkpoint is: its tensors and the side files that make it work."""
    return checkpoint_digest(
        {name: tensor.key for name, tensor in outline.tensors.items()},
        {file.name: file.digest for file in outline.side_files},
    )

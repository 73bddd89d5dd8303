"""What a recipe says, as values: nothing here reads text, files or checkpoints.

Equality of `Source` and `NodeRef` is identity of the model meant: where it was written and under
which alias does not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from mergebuild.errors import Location, Problem
from mergebuild.recipe.origin import Included

Scalar: TypeAlias = bool | int | float | str | None
Value: TypeAlias = Scalar | tuple[Scalar, ...]
"""A parameter's value; a tuple is a gradient over the layers of a slice."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One `{filter, value}` entry; filter None (or `*`) matches every tensor."""

    filter: str | None
    value: Value
    at: Location


@dataclass(frozen=True, slots=True)
class Setting:
    """All that one parameter key says at one level: conditions in order, first match wins."""

    conditions: tuple[Condition, ...]
    at: Location


Parameters: TypeAlias = Mapping[str, Setting]


@dataclass(frozen=True, slots=True)
class Source:
    """A leaf checkpoint: `place` is a path or a Hub id as written, `name` how the recipe calls it.

    `text` is the whole reference where it was split at an `@` or a `+` (else empty): if a file or
    folder of exactly that name exists, it is what was meant, without revision and LoRA. `written`
    and `written_revision` are the recipe's own place and revision where an override put others.
    `alias` is the recipe's name for the model alone, if it has one. `adapter` says that it is no
    model, but a LoRA that is put on a node. `within` is the folder, relative to the recipe's, that
    a relative place starts from: another one in an included recipe, and None in one from elsewhere.
    """

    place: str
    revision: str | None = None
    lora: Source | None = None
    adapter: bool = False
    within: str | None = ""
    name: str = field(default="", compare=False)
    at: Location | None = field(default=None, compare=False)
    text: str = field(default="", compare=False)
    written: str | None = field(default=None, compare=False)
    written_revision: str | None = field(default=None, compare=False)
    alias: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.name or self.place


@dataclass(frozen=True, slots=True)
class Pin:
    """What a lock says of a source on the Hub: the commit, and its files with their sizes."""

    commit: str
    files: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class NodeRef:
    """A model field that names another node of the recipe."""

    name: str
    at: Location | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return self.name


ModelRef: TypeAlias = Source | NodeRef


@dataclass(frozen=True, slots=True)
class Input:
    """A model that takes part in a slice. `layer_range` is [first, end), None for all layers."""

    model: ModelRef
    parameters: Parameters
    layer_range: tuple[int, int] | None
    at: Location


@dataclass(frozen=True, slots=True)
class Slice:
    """A run of output layers and the inputs it is merged from, in declared order."""

    inputs: tuple[Input, ...]
    base: ModelRef | None
    parameters: Parameters
    at: Location


@dataclass(frozen=True, slots=True)
class Module:
    """Slices of one layer stack; `name` None (the `models:` form) speaks of every stack."""

    name: str | None
    slices: tuple[Slice, ...]
    parameters: Parameters
    at: Location


@dataclass(frozen=True, slots=True)
class TokenRule:
    """Where the rows of one token come from, for models that lack it (`force`: for all).

    A `model` alone: its row of this token. With `row`: its row of that other token (text) or of
    that id. `zero`: zeros. None of them: the usual rule.
    """

    model: ModelRef | None
    row: str | int | None
    zero: bool
    force: bool
    at: Location


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """`tokenizer_source` (then only `source` is set) or `tokenizer`, as written. `base` is the
    node's where its method has no use for one: it still says which tokens and rows go first."""

    source: ModelRef | Literal["base", "union"] | None
    tokens: Mapping[str, TokenRule]
    pad_to_multiple_of: int | None
    at: Location
    base: ModelRef | None = None


@dataclass(frozen=True, slots=True)
class Extraction:
    """The body of a node of kind `lora`: what of `model` differs from the node's base becomes
    factors of low rank.

    `ranks` are (pattern, rank) in order, a pattern being PEFT's, None for every module. `alpha`
    None makes the scale 1. `modules` are filters (none: all). `saved` are filters of what is kept
    whole instead. `at` is where the ranks stand.
    """

    model: ModelRef
    ranks: tuple[tuple[str | None, int], ...]
    alpha: float | None
    modules: tuple[str, ...]
    embeddings: Literal["lora", "save", "leave"]
    saved: tuple[str, ...]
    at: Location


@dataclass(frozen=True, slots=True)
class Expert:
    """One expert: the feed-forward layers of `model`, its last projection times `scale`.

    `gate` is None for random rows of the router, else how the gates' file calls its vectors.
    """

    model: ModelRef
    gate: str | None
    scale: float
    at: Location


@dataclass(frozen=True, slots=True)
class Mixture:
    """The body of a node of kind `moe`. `gates` is the file of vectors; `architecture` None leaves
    it to the tensors' names."""

    experts: tuple[Expert, ...]
    shared: tuple[Expert, ...]
    per_token: int
    architecture: str | None
    gates: Source | None
    at: Location


@dataclass(frozen=True, slots=True)
class Application:
    """The body of a node that a reference `model+adapter` stands for where one of the two is a
    node: it has no text of its own and exists in flight only."""

    model: ModelRef
    adapter: ModelRef


Body: TypeAlias = Extraction | Mixture | Application


@dataclass(frozen=True, slots=True)
class Node:
    """One merge, or with a `body` what that says. `base` is the node's, a slice may name its own;
    `dtype` is a name of torch's; `method` is that of a merge, else what the body does."""

    name: str
    method: str
    modules: tuple[Module, ...]
    base: ModelRef | None
    parameters: Parameters
    at: Location
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer: Tokenizer | None = None
    chat_template: str | None = None
    seed: int = 0
    keep: Literal["cache", "never"] = "cache"
    missing: Literal["copy", "error"] = "copy"
    description: str | None = None
    body: Body | None = None

    def references(self) -> Iterator[ModelRef]:
        """Every model field in declared order, the base first, those of the tokenizer last,
        repetitions included."""
        if self.base is not None:
            yield self.base
        match self.body:
            case Extraction(model=model):
                yield model
            case Mixture(experts=experts, shared=shared, gates=gates):
                yield from (expert.model for expert in (*experts, *shared))
                if gates is not None:
                    yield gates
            case Application(model=model, adapter=adapter):
                yield model
                yield adapter
        for module in self.modules:
            for part in module.slices:
                if part.base is not None:
                    yield part.base
                for entry in part.inputs:
                    yield entry.model
        if self.tokenizer is not None:
            for said in (self.tokenizer.base, self.tokenizer.source):
                if said is not None and not isinstance(said, str):
                    yield said
            for rule in self.tokenizer.tokens.values():
                if rule.model is not None:
                    yield rule.model


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole recipe. `outputs` maps node names to folders (None: the caller has yet to say where);
    `directory` is where relative source paths start; `text` is the file as read, `variables` what
    was set in it from outside, `included` the recipes that it includes, nested ones after those
    that include them. `pins` are what its lock, whose text is `lock`, says of sources on the Hub,
    by `plan.Part.reference`."""

    name: str
    path: Path
    nodes: Mapping[str, Node]
    outputs: Mapping[str, Path | None]
    text: str
    native: bool
    warnings: tuple[Problem, ...] = ()
    included: tuple[Included, ...] = ()
    pins: Mapping[str, Pin] = field(default_factory=dict)
    lock: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        return self.path.parent

    @property
    def own_nodes(self) -> list[str]:
        """The nodes that no included recipe brings."""
        namespaces = tuple(f"{one.namespace}." for one in self.included)
        return [name for name in self.nodes if not name.startswith(namespaces)]

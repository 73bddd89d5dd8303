"""The structure of a model as the names of its tensors tell it: layer stacks, and what is beside.

No table of architectures: a run of names `model.layers.N.` numbered without gaps from 0 is a
stack. The config is asked only which stack is the main one, and whether it agrees. Reads nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal

Position = Literal["before", "after"]

_COUNTS: Final = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
DECODER_COUNTS: Final = ("num_decoder_layers", "decoder_layers")

TEXT_SECTIONS: Final = ("text_config", "llm_config", "language_config")
"""What configs call the section about the language model in a larger model."""

_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}")
_SPLIT: Final = re.compile(r"[._]")
_ROLES: Final = (
    ("vision_tower", ("vision", "visual", "image", "vit", "clip")),
    ("audio_tower", ("audio", "speech")),
    ("encoder", ("encoder",)),
    ("decoder", ("decoder",)),
)
_BEFORE: Final = (
    "embed", "patch", "position", "token", "conv", "multi", "connector", "aligner", "resampler",
)  # fmt: skip
_BEFORE_WORDS: Final = frozenset(
    {"wte", "wpe", "tok", "pos", "emb", "shared", "pre", "stem", "cls", "mm"}
)
_AFTER_WORDS: Final = frozenset({"head", "out", "output", "post", "final"})
_HEADS: Final = ("lm_head", "output", "embed_out")
_EMBEDDINGS: Final = (
    "embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "shared",
)  # fmt: skip
_TABLES: Final = ("wpe", "relative_attention_bias")
_MODALITIES: Final = ("vision", "visual", "image", "audio", "speech")


@dataclass(frozen=True, slots=True)
class Stack:
    """Layers called `{prefix}{0 … count-1}.`; the prefix ends in a full stop.

    `role` is `text_decoder`, `encoder`, `decoder`, `vision_tower`, `audio_tower` or `other`;
    `size` is its number of tensors.
    """

    prefix: str
    count: int
    role: str
    size: int


@dataclass(frozen=True, slots=True)
class ModelLayout:
    """All tensors of a model: those in `stacks` (sorted by prefix), and the others in `beside`.

    `default` is the main stack. `mismatch` says how the config's number of layers differs from
    what the names tell, None if it does not or the config is silent.
    """

    stacks: tuple[Stack, ...]
    by_prefix: Mapping[str, Stack]
    default: Stack | None
    beside: tuple[str, ...]
    mismatch: str | None
    _layers: Mapping[str, Sequence[Mapping[str, str]]]

    def lookup(self, module: str) -> Stack | None:
        """The stack that a module name means: `default`, a prefix or a role (of several stacks of
        one role, the one with the most tensors)."""
        if module == "default":
            return self.default
        found = self.by_prefix.get(module) or self.by_prefix.get(f"{module}.")
        if found is not None:
            return found
        if self.default is not None and self.default.role == module:
            return self.default
        return max((s for s in self.stacks if s.role == module), key=_by_size, default=None)

    def layer(self, stack: Stack, index: int) -> Mapping[str, str]:
        """The tensors of one layer: the name within the layer to the whole name."""
        return self._layers[stack.prefix][index]

    def first_only(self, stack: Stack) -> tuple[frozenset[str], frozenset[str]]:
        """What the first layer has and no other, and what all others have and the first has not,
        by the names within a layer; nothing where the layers differ in more ways than that.

        Such tensors belong to the first place rather than to the layer, as T5's position bias does.
        """
        first, *others = (frozenset(layer) for layer in self._layers[stack.prefix])
        other = others[0] if others else first
        if any(layer != other for layer in others) or not (first >= other or first <= other):
            return frozenset(), frozenset()
        return first - other, other - first

    def trailing(self, name: str) -> tuple[Stack, int, str] | None:
        """(stack, how far behind its last layer, name within the layer) of a tensor of a layer for
        predicting further tokens, which is numbered on from the stack's layers."""
        parts = numbered(name)
        stack = self.by_prefix.get(parts[0]) if parts is not None else None
        if stack is None or parts is None or parts[1] < stack.count:
            return None
        return stack, parts[1] - stack.count, parts[2]

    def split(self, name: str) -> tuple[Stack | None, int | None, str]:
        """A tensor name as (stack, layer, name within the layer); (None, None, name) beside."""
        parts = numbered(name)
        stack = self.by_prefix.get(parts[0]) if parts is not None else None
        if stack is None or parts is None or parts[1] >= stack.count:
            return None, None, name
        return stack, parts[1], parts[2]

    def position(self, name: str) -> Position:
        """Whether a tensor beside the stacks is worked on before or after the layers."""
        return position(name)


def join(stack: Stack, layer: int, rest: str) -> str:
    """The tensor name that `ModelLayout.split` splits into these."""
    return f"{stack.prefix}{layer}.{rest}"


def find_layout(names: Iterable[str], config: Mapping[str, Any] | None) -> ModelLayout:
    """The structure that tensor names tell, with the default stack chosen by the config."""
    extra = tuple(_predicting(config).items())
    return _layout_of(tuple(sorted(names)), layer_count(config), extra)


@lru_cache(maxsize=8)  # the nodes of a recipe mostly have the same names
def _layout_of(
    ordered: tuple[str, ...], expected: int | None, predicting: tuple[tuple[int, int], ...]
) -> ModelLayout:
    """As `find_layout` has it, of sorted names and what the config says of layers."""
    runs: dict[str, dict[int, dict[str, str]]] = {}
    for name in ordered:
        if (parts := numbered(name)) is not None:
            prefix, index, rest = parts
            runs.setdefault(prefix, {}).setdefault(index, {})[rest] = name
    runs = {prefix: run for prefix, run in sorted(runs.items()) if max(run) == len(run) - 1}
    extra = dict(predicting)
    layers = {
        prefix: [run[i] for i in range(len(run) - extra.get(len(run), 0))]
        for prefix, run in runs.items()
    }
    stacks = [
        Stack(prefix, len(run), _role(prefix), sum(map(len, run))) for prefix, run in layers.items()
    ]
    default = _default(stacks, expected)
    named = tuple(_with_role(stack, default, stacks) for stack in stacks)
    by_prefix = {stack.prefix: stack for stack in named}
    inside = {name for run in layers.values() for layer in run for name in layer.values()}
    main = by_prefix[default.prefix] if default is not None else None
    return ModelLayout(
        stacks=named,
        by_prefix=by_prefix,
        default=main,
        beside=tuple(name for name in ordered if name not in inside),
        mismatch=_mismatch(main, expected),
        _layers=layers,
    )


def layer_count(config: Mapping[str, Any] | None) -> int | None:
    """The number of layers of the main stack as the config says it: at the top, else in the
    section about the language model."""
    top: Mapping[str, Any] = config or {}
    for section in (top, *(top.get(key) for key in TEXT_SECTIONS)):
        if isinstance(section, Mapping):
            for key in count_keys(section):
                return int(section[key])
    return None


def ties(config: Mapping[str, Any] | None) -> bool | None:
    """Whether the config says that the output head is the embedding; None if it says nothing."""
    top: Mapping[str, Any] = config or {}
    for section in (top, *(top.get(key) for key in TEXT_SECTIONS)):
        if isinstance(section, Mapping) and isinstance(section.get("tie_word_embeddings"), bool):
            return bool(section["tie_word_embeddings"])
    return None


def _predicting(config: Mapping[str, Any] | None) -> Mapping[int, int]:
    """Of stacks with a number of layers, how many of those are for predicting further tokens: as
    many as the config says, in a stack that has them on top of its own (DeepSeek, GLM)."""
    top: Mapping[str, Any] = config or {}
    for section in (top, *(top.get(key) for key in TEXT_SECTIONS)):
        if isinstance(section, Mapping):
            extra = section.get("num_nextn_predict_layers")
            count = layer_count(section)
            if type(extra) is int and extra > 0 and count is not None and count > 0:
                return {count + extra: extra}
    return {}


def count_keys(section: Mapping[str, Any]) -> list[str]:
    """Under which keys a section of a config has the number of layers of its main stack.

    Of an encoder and a decoder that is the decoder, and `num_layers` speaks of the encoder.
    """
    decoder = [key for key in DECODER_COUNTS if type(section.get(key)) is int]
    return decoder or [key for key in _COUNTS if type(section.get(key)) is int]


def position(name: str) -> Position:
    """By the words in a name: embeddings and what belongs to them come before the layers."""
    words = _SPLIT.split(name.lower())
    if not _AFTER_WORDS.isdisjoint(words):
        return "after"
    early = any(word.startswith(_BEFORE) for word in words)
    return "before" if early or not _BEFORE_WORDS.isdisjoint(words) else "after"


def is_embedding(name: str) -> bool:
    """Whether a weight has a row for each token, position or the like, by its module's name."""
    parts = name.removesuffix(".weight").lower().rpartition(".")[2]
    words = set(_SPLIT.split(parts))
    if "out" in words or "patch" in words:
        return False
    return "embed" in parts or parts in _EMBEDDINGS or parts in _TABLES


def head_and_embedding(names: Iterable[str]) -> tuple[str | None, str | None]:
    """The output head's and the input embedding's weight, which may be tied; None if not there."""
    return _head_and_embedding_of(tuple(names))


@lru_cache(maxsize=8)
def _head_and_embedding_of(names: tuple[str, ...]) -> tuple[str | None, str | None]:
    weights = [
        name
        for name in names
        if name.endswith(".weight")
        and numbered(name) is None
        and not any(word in name for word in _MODALITIES)
    ]
    return _outermost(weights, _HEADS), _outermost(weights, _EMBEDDINGS)


def _outermost(weights: Iterable[str], modules: Sequence[str]) -> str | None:
    found = [
        (len(parts), modules.index(parts[-2]), name)
        for name in weights
        if (parts := name.split("."))[-2] in modules
    ]
    return min(found)[2] if found else None


def numbered(name: str) -> tuple[str, int, str] | None:
    """(prefix, index, rest) at the first number among a name's parts, if there is one inside."""
    parts = name.split(".")
    for at, part in enumerate(parts[:-1]):
        if _INDEX.fullmatch(part):
            prefix = ".".join(parts[:at]) + "." if at else ""
            return prefix, int(part), ".".join(parts[at + 1 :])
    return None


def _role(prefix: str) -> str:
    words = _SPLIT.split(prefix.lower())
    for role, marks in _ROLES:
        if any(word.startswith(marks) for word in words):
            return role
    return "other"


def _with_role(stack: Stack, default: Stack | None, stacks: Sequence[Stack]) -> Stack:
    alone = not any(other.role == "encoder" for other in stacks)
    plain = stack == default and stack.role == "other"
    if plain or (stack.role == "decoder" and alone):
        return replace(stack, role="text_decoder")
    return stack


def _default(stacks: Sequence[Stack], expected: int | None) -> Stack | None:
    """The stack of the config's number of layers, else the largest; towers only if all are."""
    main = [s for s in stacks if not s.role.endswith("_tower")] or list(stacks)
    fitting = [s for s in main if s.count == expected]
    return max(fitting or main, key=_by_size, default=None)


def _by_size(stack: Stack) -> tuple[int, str]:
    return stack.size, stack.prefix


def _mismatch(stack: Stack | None, expected: int | None) -> str | None:
    if expected is None or stack is None or stack.count == expected:
        return None
    return f"the config says {expected} layers, but '{stack.prefix}' has {stack.count}"

"""Names of tensors without what merely wraps a model, so that checkpoints of one model whose names
begin differently can be compared.

    model.language_model.layers.0.w   language_model.model.layers.0.w   layers.0.w     the same

Words at the beginning of a name that only say what class saved it do not count; what else stands
there (`encoder`, `visual`, `lm_head`) does. Knows names, no tensors and no configs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from mergebuild.checkpoint.stacks import numbered

WRAPPERS: Final = frozenset({
    "model", "module", "base_model", "_orig_mod", "backbone", "transformer", "language_model",
    "text_model", "llm", "bert", "roberta", "electra", "gpt_neox", "mpt", "rwkv",
})  # fmt: skip
_TOWERS: Final = frozenset({"vision_tower", "vision_model", "visual", "audio_tower"})
_IN_TOWERS: Final = frozenset({"vision_tower", "vision_model", "model", "audio_tower"})


@dataclass(frozen=True, slots=True)
class Renaming:
    """What a model's tensors are called elsewhere: `names` maps its own names to those.

    `rules` are (beginning here, beginning there, how many tensors) where the two differ.
    """

    names: Mapping[str, str]
    rules: tuple[tuple[str, str, int], ...]


def rename(own: Collection[str], others: Collection[str], types: Iterable[str]) -> Renaming | None:
    """How the names of a model's tensors become those of a model of the same kind.

    None where no more of them fit than do already, or where names would fall together. Names
    without a counterpart begin as those of their layers, or as others that began alike. `types` are
    types of models, which are wrappers too.
    """
    wrappers = WRAPPERS | {kind.replace("-", "_") for kind in types}
    there = {bare(name, wrappers): name for name in others}
    fitting = {name: there[short] for name in own if (short := bare(name, wrappers)) in there}
    known = set(others)
    if len(fitting) <= sum(name in known for name in own) or len(there) < len(known):
        return None
    rules: dict[tuple[str, str], int] = {}
    stacks: dict[str, tuple[str, str]] = {}
    for name, other in sorted(fitting.items()):
        rule = _beginnings(name, other)
        if rule[0] != rule[1]:
            rules[rule] = rules.get(rule, 0) + 1
        if (parts := numbered(name)) is not None:
            stacks.setdefault(parts[0], rule)
    renamed = {name: fitting.get(name) or _follow(name, rules, stacks) for name in own}
    if len(set(renamed.values())) < len(renamed):
        return None
    return Renaming(renamed, tuple((*rule, count) for rule, count in sorted(rules.items())))


def bare(name: str, wrappers: Collection[str]) -> str:
    """A name without the wrappers that it begins with; two parts are left at least."""
    parts = name.split(".")
    while len(parts) > 2 and parts[0] in wrappers:
        del parts[0]
    while len(parts) > 3 and parts[0] in _TOWERS and parts[1] in _IN_TOWERS:
        del parts[1]
    return ".".join(parts)


def _beginnings(name: str, other: str) -> tuple[str, str]:
    """What is left of two names without the parts that both end in."""
    one, two = name.split("."), other.split(".")
    while one and two and one[-1] == two[-1]:
        one.pop()
        two.pop()
    return "".join(f"{part}." for part in one), "".join(f"{part}." for part in two)


def _follow(
    name: str, rules: Iterable[tuple[str, str]], stacks: Mapping[str, tuple[str, str]]
) -> str:
    """What a name without a counterpart becomes: as other names of its layers, else as the names
    that share the longest beginning with it."""
    parts = numbered(name)
    of_stack = stacks.get(parts[0]) if parts is not None else None
    begun = [rule for rule in rules if rule[0] and name.startswith(rule[0])]
    if of_stack is None and not begun:
        return name
    old, new = of_stack or max(begun, key=lambda rule: (len(rule[0]), rule))
    return new + name.removeprefix(old)

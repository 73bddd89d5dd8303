"""The mergekit configurations in the text of a model card, as located trees.

Cards are prose with a fenced block of YAML, now and then with several blocks, or with two
configurations run together in one block. A card is untrusted text: prose and comments are looked
at for nothing but the name of a stage that another one uses. Must not know files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from mergebuild.errors import Location, RecipeError
from mergebuild.recipe import node
from mergebuild.recipe.context import Context, shown
from mergebuild.recipe.tree import Entry, Fields, Items, Leaf, Tree
from mergebuild.recipe.yaml_tree import MOST_DOCUMENTS, parse, report_repeated

_FENCE: Final = re.compile(r"[ \t]*(`{3,}|~{3,})([^`]*)")
_KEY: Final = re.compile(r"([ ]*)([A-Za-z_]+)[ ]*:(?:[ \t]|$)")
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_METHOD: Final = "merge_method"
_KEYS: Final = frozenset({"name", *node.MERGEKIT_KEYS})
_STARTS: Final = (_METHOD, "experts")
"""What tells a configuration from other YAML; the second is mergekit-moe's."""
_MODELS: Final = frozenset({"model", "base_model", "source", "tokenizer_source", "source_model"})
_LANGUAGES: Final = ("", "yaml", "yml", "text", "txt", "plaintext")
_BEFORE: Final = 4
"""How many lines before a block may name it."""


@dataclass(frozen=True, slots=True)
class Block:
    """A configuration's lines, the first one being line `start` of the card, counted from 0;
    `hints` are the lines around it that may name it."""

    start: int
    lines: tuple[str, ...]
    hints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Configurations:
    """The documents of a card, as a mergekit file of several documents has them, and what was done
    to the card's text to get them."""

    documents: list[Tree]
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Stage:
    """A document that is to be named after what the others call it."""

    document: Fields
    hints: tuple[str, ...]
    models: frozenset[str] = field(default_factory=frozenset)


def of_card(text: str, file: str) -> Configurations | None:
    """The configurations of a card; None if it holds none. Raises RecipeError for what cannot be
    read, and if the card does not say how several of them hang together."""
    lines = text.splitlines()
    blocks = _unlike(_blocks(lines))
    if blocks:
        return _read(blocks, file)
    fenced = {place for start, end, _ in _fenced(lines) for place in range(start, end)}
    loose = [i for i, line in enumerate(lines) if line.startswith(f"{_METHOD}:")]
    if fenced.issuperset(loose):
        return None
    raise RecipeError.of(
        "a mergekit configuration stands outside of a fenced block",
        at=Location(file, min(set(loose) - fenced) + 1, 1),
        hint="put it between a line '```yaml' and a line '```', or into a file of its own",
    )


def of_file(text: str, file: str) -> Configurations:
    """The configurations of a file that is YAML as a whole. Raises RecipeError."""
    return _read([Block(0, tuple(text.splitlines()))], file)


def _read(blocks: Sequence[Block], file: str) -> Configurations:
    parts = [part for block in blocks for part in _apart(block)]
    notes: list[str] = []
    if len(parts) > len(blocks):
        notes.append("configurations that run together in one block are read as several")
    ctx = Context()
    stages: list[_Stage] = []
    for part in parts:
        for document in parse("\n" * part.start + "\n".join(part.lines), file, ctx):
            if isinstance(document, Fields) and not document.entries.keys().isdisjoint(_STARTS):
                report_repeated(document, ctx)
                stages.append(_Stage(document, part.hints, frozenset(_models(document))))
            else:
                hint = "a mergekit configuration is a mapping with 'merge_method:'"
                ctx.error("this is no configuration of a merge", document.at, hint)
    if not stages and not ctx.problems:
        ctx.error("there is no configuration in it", Location(file, 1, 1))
    if ctx.problems:
        ctx.stop()
    return Configurations(_named(stages, notes), tuple(notes))


def _blocks(lines: Sequence[str]) -> Iterator[Block]:
    """The fenced blocks that hold a configuration."""
    for start, end, language in _fenced(lines):
        inside = tuple(lines[start:end])
        keys = (_KEY.match(line) for line in inside)
        if language in _LANGUAGES and any(key and key[2] in _STARTS for key in keys):
            yield Block(start, inside, tuple(lines[max(0, start - 1 - _BEFORE) : start - 1]))


def _fenced(lines: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Where the lines of fenced blocks start and end, and the languages that they say they are."""
    place = _after_front_matter(lines)
    while place < len(lines):
        opening = _FENCE.fullmatch(lines[place])
        place += 1
        if opening is None:
            continue
        start = place
        while place < len(lines):
            closing = _FENCE.fullmatch(lines[place])
            if closing and closing[1].startswith(opening[1]) and not closing[2].strip():
                break
            place += 1
        yield start, place, opening[2].strip().lower().partition(" ")[0]
        place += 1


def _after_front_matter(lines: Sequence[str]) -> int:
    if not lines or lines[0].strip("\ufeff \t") != "---":
        return 0
    ends = (i for i, line in enumerate(lines[1:], start=1) if line.rstrip() == "---")
    return next(ends, -1) + 1


def _unlike(blocks: Iterable[Block]) -> list[Block]:
    """Blocks of which none repeats another: cards show the same configuration twice."""
    found: dict[str, Block] = {}
    for block in blocks:
        found.setdefault("\n".join(line.strip() for line in block.lines), block)
    return list(found.values())


def _apart(block: Block) -> list[Block]:
    """A block cut where a top-level key comes again: a second configuration starts."""
    first = next((k for line in block.lines if (k := _KEY.match(line)) and k[2] in _KEYS), None)
    indent = first[1] if first else ""
    cuts, seen = [0], dict[str, int]()
    for place, line in enumerate(block.lines):
        if line.rstrip() in ("---", "..."):
            seen.clear()
        key = _KEY.match(line)
        if key is None or key[1] != indent or key[2] not in _KEYS:
            continue
        if key[2] in seen and _METHOD in seen:
            cuts.append(_border(block.lines, seen, place))
            seen = {k: p for k, p in seen.items() if p >= cuts[-1]}
        seen[key[2]] = place
    found = []
    for start, end in zip(cuts, [*cuts[1:], len(block.lines)], strict=True):
        lines = block.lines[start:end]
        after = block.lines[end : end + _BEFORE]
        hints = [line for line in (*lines, *after) if line.lstrip().startswith("#")]
        more = block.hints if start == 0 else ()
        found.append(Block(block.start + start, lines, (*more, *hints)))
    return found


def _border(lines: Sequence[str], seen: dict[str, int], again: int) -> int:
    """Where the second configuration starts: at the last comment after which no key stands that
    comes again, else right before the key that does."""
    for place in range(again - 1, seen[_METHOD], -1):
        if lines[place].startswith("#"):
            return place
    while again > 0 and not lines[again - 1].strip():
        again -= 1
    return again


def _models(tree: Tree, key: str = "") -> Iterator[str]:
    """Every text that stands where a model may."""
    match tree:
        case Fields():
            for name, entry in tree.entries.items():
                yield from _models(entry.value, name)
        case Items():
            for item in tree.items:
                yield from _models(item, key)
        case Leaf() if key in _MODELS:
            yield tree.text


def _named(stages: Sequence[_Stage], notes: list[str]) -> list[Tree]:
    """The documents, every stage but one under the name by which another one uses it."""
    if len(stages) > MOST_DOCUMENTS:
        at = stages[-1].document.at
        raise RecipeError.of(f"more than {MOST_DOCUMENTS} configurations in one card", at=at)
    documents: list[Tree] = []
    unnamed = [stage for stage in stages if "name" not in stage.document.entries]
    output = unnamed[-1] if unnamed else None
    for stage in stages:
        if stage not in unnamed or stage is output:
            documents.append(stage.document)
            continue
        others = frozenset().union(*(s.models for s in stages if s is not stage)) - stage.models
        words = (word for line in stage.hints for word in _WORD.findall(line))
        names = list(dict.fromkeys(word for word in words if word in others))
        if len(names) != 1:
            raise RecipeError.of(
                "the card holds several configurations and does not say how this one is called",
                at=stage.document.at,
                hint="separate them with a line '---' and give each but the last a 'name:' that "
                "the others use",
            )
        at = stage.document.at
        notes.append(f"the configuration in line {at.line} is called {shown(names[0])}")
        entry = Entry("name", Leaf(names[0], names[0], at), at)
        documents.append(replace(stage.document, entries={"name": entry, **stage.document.entries}))
    return documents

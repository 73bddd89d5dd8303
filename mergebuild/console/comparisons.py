"""What differs between two checkpoints, as text and as JSON."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from mergebuild.checkpoint.comparison import Comparison, pattern
from mergebuild.checkpoint.stacks import find_layout
from mergebuild.console.words import plural
from mergebuild.engine.deltas import Distance
from mergebuild.plan.looking import Looked
from mergebuild.vocabulary.difference import Difference

_MOST: Final = 30
_WIDTH: Final = 84
_CELL: Final = 8
_TOKENS: Final = 8

Distances = Mapping[str, Distance]


def comparison_text(
    one: Looked,
    other: Looked,
    found: Comparison,
    files: Sequence[tuple[str, str]],
    tokens: Difference | None,
    distances: Distances | None,
) -> str:
    """Names, shapes, dtypes, vocabulary with its `tokens`, config, other `files` and, if they were
    measured, how far tensors are apart."""
    lines = [f"A  {one.reference}", f"B  {other.reference}", ""]
    for begin, there, count in found.rules:
        lines.append(f"names: '{begin}' of B is '{there}' of A ({plural(count, 'tensor')})")
    parts = [
        *_only("A", found.only[0]),
        *_only("B", found.only[1]),
        *_changes("shape", ((n, _shape(a), _shape(b)) for n, a, b in found.shapes)),
        *_dtypes(found),
        *_vocabulary(one, other),
        *(_tokens(tokens) if tokens is not None else ()),
        *_config(one, other, found.config),
        *(f"file {name} {what}" for name, what in files),
    ]
    lines += parts or ["names, shapes, dtypes, config and other files are the same"]
    if distances is not None:
        lines += ["", *_distances(one, distances)]
    return "\n".join(lines)


def _only(which: str, names: Sequence[str]) -> Iterator[str]:
    rows = _grouped((name, "") for name in names)
    for name, _, count in _cut(rows):
        yield f"only in {which}: {name}{_times(count)}"


def _changes(what: str, rows: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    for name, change, count in _cut(_grouped((name, f"{a} → {b}") for name, a, b in rows)):
        yield f"{what} differs: {name}{_times(count)}: {change}" if name else name


def _dtypes(found: Comparison) -> Iterator[str]:
    changes = {(a, b) for _, a, b in found.dtypes}
    if len(changes) == 1 and len(found.dtypes) == len(found.pairs):
        ((a, b),) = changes
        yield f"dtype differs: all {plural(len(found.pairs), 'tensor')}: {a} → {b}"
    else:
        yield from _changes("dtype", found.dtypes)


def _grouped(rows: Iterable[tuple[str, str]]) -> list[tuple[str, str, int]]:
    """(pattern, change, how many) of names that differ by numbers only and changed alike."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, change in rows:
        found[pattern(name), change].append(name)
    return [
        (names[0] if len(names) == 1 else stars, change, len(names))
        for (stars, change), names in found.items()
    ]


def _cut(rows: list[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    if len(rows) <= _MOST:
        return rows
    rest = sum(count for _, _, count in rows[_MOST:])
    return [*rows[:_MOST], (f"and {plural(rest, 'tensor')} more", "", 1)]


def _times(count: int) -> str:
    return f" ({plural(count, 'tensor')})" if count > 1 else ""


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _vocabulary(one: Looked, other: Looked) -> Iterator[str]:
    a, b = one.summary, other.summary
    if a.vocabulary is not None and b.vocabulary is not None and a.vocabulary != b.vocabulary:
        yield f"vocabulary differs: {a.vocabulary:,} → {b.vocabulary:,} rows"
    if a.tied is not None and b.tied is not None and a.tied != b.tied:
        words = {True: "tied", False: "not tied"}
        yield f"output head differs: {words[a.tied]} → {words[b.tied]}"


def _tokens(found: Difference) -> Iterator[str]:
    for which, tokens in zip("AB", found.only, strict=True):
        if tokens:
            yield f"tokens only in {which}: {len(tokens):,}: {_listed(map(repr, tokens))}"
    if found.moved:
        moves = _listed(f"{token!r} {a} → {b}" for token, a, b in found.moved)
        yield f"tokens of another id: {len(found.moved):,}: {moves}"


def _listed(texts: Iterable[str]) -> str:
    first = list(islice(texts, _TOKENS + 1))
    return ", ".join(first[:_TOKENS]) + (", …" if len(first) > _TOKENS else "")


def _config(one: Looked, other: Looked, rows: Sequence[tuple[str, Any, Any]]) -> Iterator[str]:
    if (one.config is None) != (other.config is None):
        yield f"config.json is only in {'A' if other.config is None else 'B'}"
    for key, a, b in rows[:_MOST]:
        yield f"config differs: {key}: {_value(a)} → {_value(b)}"
    if len(rows) > _MOST:
        yield f"config differs: and {len(rows) - _MOST} more keys"


def _value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


# Distances: a table a stack, a row a layer, a column a kind of tensor.


def _distances(one: Looked, distances: Distances) -> Iterator[str]:
    layout = find_layout(one.tensors, one.config)
    tables: dict[str, dict[str, dict[int, list[Distance]]]] = {}
    beside: list[tuple[str, Distance]] = []
    for name, distance in distances.items():
        stack, layer, rest = layout.split(name)
        if stack is None or layer is None:
            beside.append((name, distance))
        else:
            kinds = tables.setdefault(stack.prefix, {})
            kinds.setdefault(_kind(rest), {}).setdefault(layer, []).append(distance)
    yield "norm of B - A; in brackets relative to the norm of A"
    yield f"all: {_pair(distances.values())}"
    for name, distance in beside:
        yield f"{name}: {_pair([distance])}"
    for prefix, kinds in tables.items():
        yield ""
        yield from _table(prefix, kinds)


def _kind(rest: str) -> str:
    """A tensor's name within its layer, its numbers as stars, without `weight` at the end."""
    return pattern(rest).removesuffix(".weight")


def _table(prefix: str, kinds: Mapping[str, Mapping[int, list[Distance]]]) -> Iterator[str]:
    """In blocks that fit a terminal; the last column of each layer is all of it."""
    layers = sorted({layer for rows in kinds.values() for layer in rows})
    short = _short(kinds)
    names = sorted(kinds)
    whole = {layer: [d for rows in kinds.values() for d in rows.get(layer, ())] for layer in layers}
    blocks = list(_blocks(names, short, len(prefix) + 2))
    for number, part in enumerate(blocks):
        last = number == len(blocks) - 1
        head = [f"{prefix}*", *(short[name] for name in part), *(["all", ""] if last else [])]
        rows = [head]
        for layer in layers:
            cells = [_norm(kinds[name].get(layer, ())) for name in part]
            totals = _pair(whole[layer]).split(" ", 1) if last else []
            rows.append([str(layer), *cells, *totals])
        total = [_norm([d for found in kinds[n].values() for d in found]) for n in part]
        ends = [d for found in whole.values() for d in found]
        rows.append(["all", *total, *(_pair(ends).split(" ", 1) if last else [])])
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        for row in rows:
            cells = [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
            yield "  ".join(cells).rstrip()


def _blocks(names: Sequence[str], short: Mapping[str, str], used: int) -> Iterator[list[str]]:
    part: list[str] = []
    room = _WIDTH - used
    for name in names:
        width = max(len(short[name]), _CELL) + 2
        if part and width > room:
            yield part
            part, room = [], _WIDTH - used
        part.append(name)
        room -= width
    yield part


def _short(kinds: Iterable[str]) -> dict[str, str]:
    """The shortest end of each name that no other has."""
    listed = [kind.split(".") for kind in kinds]
    found = {}
    for parts in listed:
        for length in range(1, len(parts) + 1):
            end = parts[-length:]
            if sum(other[-length:] == end for other in listed) == 1:
                break
        found[".".join(parts)] = ".".join(end)
    return found


def _norm(distances: Iterable[Distance]) -> str:
    found = list(distances)
    return f"{math.sqrt(sum(d.apart for d in found)):.3g}" if found else "-"


def _pair(distances: Iterable[Distance]) -> str:
    found = list(distances)
    apart, first = sum(d.apart for d in found), sum(d.first for d in found)
    share = f"{100 * math.sqrt(apart / first):.3g}%" if first > 0 else "-"
    return f"{math.sqrt(apart):.3g} ({share})"


def comparison_json(
    one: Looked,
    other: Looked,
    found: Comparison,
    files: Sequence[tuple[str, str]],
    tokens: Difference | None,
    distances: Distances | None,
) -> dict[str, Any]:
    """The same for machines; tensors by their names in A."""
    made: dict[str, Any] = {
        "a": one.reference,
        "b": other.reference,
        "renamed": [{"b": b, "a": a, "tensors": n} for b, a, n in found.rules],
        "only_a": list(found.only[0]),
        "only_b": list(found.only[1]),
        "shapes": {name: {"a": list(a), "b": list(b)} for name, a, b in found.shapes},
        "dtypes": {name: {"a": a, "b": b} for name, a, b in found.dtypes},
        "vocabulary": {"a": one.summary.vocabulary, "b": other.summary.vocabulary},
        "tied": {"a": one.summary.tied, "b": other.summary.tied},
        "config": {key: {"a": a, "b": b} for key, a, b in found.config},
        "files": dict(files),
    }
    if tokens is not None:
        made["tokens"] = {
            "only_a": list(tokens.only[0]),
            "only_b": list(tokens.only[1]),
            "moved": {token: {"a": a, "b": b} for token, a, b in tokens.moved},
        }
    if distances is not None:
        made["deltas"] = {
            name: {"norm": _root(d.apart), "norm_a": _root(d.first)}
            for name, d in distances.items()
        }
    return made


def _root(value: float) -> float | None:
    """A norm; null where values are not finite, since JSON has no NaN."""
    return math.sqrt(value) if math.isfinite(value) else None

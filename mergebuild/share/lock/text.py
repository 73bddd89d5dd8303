"""The file: YAML, sorted, one block a source and a node, the same bytes on every machine.

What is read is untrusted: every mistake is told with its place. Must not know what is locked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeAlias, TypeVar

import yaml

from mergebuild.checkpoint.hashes import FileHash
from mergebuild.errors import Location
from mergebuild.recipe import fields
from mergebuild.recipe.context import Context, shown
from mergebuild.recipe.text import read_text
from mergebuild.recipe.tree import Entry, Fields, Leaf, Tree
from mergebuild.recipe.yaml_tree import parse, report_repeated
from mergebuild.share.lock.model import (
    Lock,
    LockedInclude,
    LockedNode,
    LockedOutput,
    LockedSource,
)

VERSION: Final = 1
_HEAD: Final = "mergebuild-lock"
_RENEW: Final = "'mergebuild lock' writes it; after a conflict, take either side and run that"
_HEX: Final = {size: re.compile(f"[0-9a-f]{{{size}}}") for size in (32, 40, 64)}

Keys: TypeAlias = Mapping[str, Entry]
Block = TypeVar("Block")


def lock_text(lock: Lock) -> str:
    """The file of a lock."""
    sections: list[tuple[str, Mapping[str, Any]]] = [
        ("includes", {name: _include_data(one) for name, one in lock.includes.items()}),
        ("sources", {name: _source_data(one) for name, one in lock.sources.items()}),
        ("nodes", {name: _node_data(one) for name, one in lock.nodes.items()}),
    ]
    parts = [
        "# What the recipe beside this was resolved to. Written by 'mergebuild lock', renewed by\n"
        "# 'mergebuild lock --update', held to by 'mergebuild build --locked'.\n"
        f"{_HEAD}: {VERSION}\n"
    ]
    for name, blocks in sections:
        if blocks:
            parts.append(f"\n{name}:\n")
        for key in sorted(blocks):
            block = yaml.safe_dump({key: blocks[key]}, width=1 << 20, allow_unicode=True)
            parts += [f"  {line}\n" for line in block.splitlines()]
    return "".join(parts)


def _include_data(one: LockedInclude) -> dict[str, Any]:
    commit = {"commit": one.commit} if one.commit else {}
    return {"recipe": one.recipe, **commit, "sha256": one.sha256}


def _source_data(one: LockedSource) -> dict[str, Any]:
    return {
        **({"commit": one.commit} if one.commit else {}),
        **({"license": one.license} if one.license else {}),
        "files": {n: {"size": f.size, "sha256": f.sha256} for n, f in one.files.items()},
        "content": one.content,
        "tensors": dict(one.tensors),
    }


def _node_data(one: LockedNode) -> dict[str, Any]:
    output = one.output
    said = {"output": {"content": output.content, "sha256": output.sha256}} if output else {}
    return {"key": one.key, "methods": dict(one.methods), **said}


def read_lock(path: Path) -> Lock | None:
    """The lock in a file; None if there is none. Raises RecipeError with every mistake."""
    if not path.exists():
        return None
    ctx = Context()
    documents = parse(read_text(path, "the lock"), str(path), ctx)
    first = documents[0] if documents else Fields({}, Location(str(path), 1, 1))
    if isinstance(first, Fields):
        report_repeated(first, ctx)
    if len(documents) > 1:
        ctx.error("a lock is a single document", documents[1].at, _RENEW)
    keys = fields.entries(first, "the lock", ctx, (_HEAD, "includes", "sources", "nodes"))
    head = keys.get(_HEAD)
    value = head.value if head is not None else None
    if not (isinstance(value, Leaf) and value.value == VERSION and type(value.value) is int):
        said = fields.described(value) if value is not None else "nothing"
        at = value.at if value is not None else first.at
        ctx.fatal(f"'{_HEAD}' must be {VERSION}, not {said}", at, _RENEW)
    lock = Lock(
        includes=_blocks(keys, "includes", "include", _include, ctx),
        sources=_blocks(keys, "sources", "source", _source, ctx),
        nodes=_blocks(keys, "nodes", "node", _node, ctx),
        file=str(path),
    )
    if ctx.problems:
        ctx.stop()
    return lock


def _blocks(
    keys: Keys,
    section: str,
    kind: str,
    read: Callable[[Tree, str, Location, Context], Block],
    ctx: Context,
) -> dict[str, Block]:
    if section not in keys:
        return {}
    blocks = fields.entries(keys[section].value, f"'{section}'", ctx)
    return {
        name: read(entry.value, f"{kind} {shown(name)}", entry.at, ctx)
        for name, entry in blocks.items()
    }


def _include(tree: Tree, what: str, at: Location, ctx: Context) -> LockedInclude:
    keys = _needed(tree, what, at, ctx, ("recipe", "sha256"), ("commit",))
    return LockedInclude(
        fields.text(keys["recipe"].value, f"'recipe' of {what}", ctx) or "" if keys else "",
        _hex(keys, "commit", 40, what, ctx),
        _hex(keys, "sha256", 64, what, ctx) or "",
        at,
    )


def _source(tree: Tree, what: str, at: Location, ctx: Context) -> LockedSource:
    keys = _needed(tree, what, at, ctx, ("files", "content", "tensors"), ("commit", "license"))
    named = fields.entries(keys["files"].value, f"the files of {what}", ctx) if keys else {}
    stated = keys.get("license")
    return LockedSource(
        _hex(keys, "commit", 40, what, ctx),
        fields.text(stated.value, f"'license' of {what}", ctx) if stated else None,
        {name: _file(name, entry, what, ctx) for name, entry in named.items()},
        _hex(keys, "content", 32, what, ctx) or "",
        _tensors(keys["tensors"].value, what, ctx) if keys else {},
        at,
    )


def _file(name: str, entry: Entry, source: str, ctx: Context) -> FileHash:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name:
        ctx.error(f"{shown(name)} is not a file of {source}", entry.at, _RENEW)
    what = f"file {shown(name)} of {source}"
    keys = _needed(entry.value, what, entry.at, ctx, ("size", "sha256"))
    size = fields.whole(keys["size"].value, f"the size of {what}", ctx) if keys else None
    return FileHash(size or 0, _hex(keys, "sha256", 64, what, ctx) or "")


def _tensors(tree: Tree, what: str, ctx: Context) -> dict[str, str]:
    listed = fields.entries(tree, f"the tensors of {what}", ctx)
    return {name: _hex(listed, name, 32, what, ctx) or "" for name in listed}


def _node(tree: Tree, what: str, at: Location, ctx: Context) -> LockedNode:
    keys = _needed(tree, what, at, ctx, ("key", "methods"), ("output",))
    listed = fields.entries(keys["methods"].value, f"the methods of {what}", ctx) if keys else {}
    methods = {
        name: fields.whole(entry.value, f"the version of method {shown(name)}", ctx) or 0
        for name, entry in listed.items()
    }
    output = None
    if "output" in keys:
        about = f"the output of {what}"
        said = _needed(keys["output"].value, about, keys["output"].at, ctx, ("content", "sha256"))
        content, sha256 = (
            _hex(said, "content", 32, about, ctx),
            _hex(said, "sha256", 64, about, ctx),
        )
        output = LockedOutput(content or "", sha256 or "")
    return LockedNode(_hex(keys, "key", 32, what, ctx) or "", methods, output, at)


def _needed(
    tree: Tree,
    what: str,
    at: Location,
    ctx: Context,
    needed: tuple[str, ...],
    more: tuple[str, ...] = (),
) -> Keys:
    """The keys of a block, or none after saying which is missing."""
    before = len(ctx.problems)
    keys = fields.entries(tree, what, ctx, (*needed, *more))
    missing = [key for key in needed if key not in keys]
    if missing and len(ctx.problems) == before:
        ctx.error(f"{what} has no '{missing[0]}'", at, _RENEW)
    return {} if missing else keys


def _hex(keys: Keys, key: str, size: int, what: str, ctx: Context) -> str | None:
    """A digest of so many hexadecimal digits."""
    if key not in keys:
        return None
    tree = keys[key].value
    text = tree.text if isinstance(tree, Leaf) else ""
    if _HEX[size].fullmatch(text):
        return text
    said = f"{shown(key)} of {what} must be {size} hexadecimal digits, not {fields.described(tree)}"
    ctx.error(said, tree.at, _RENEW)
    return None

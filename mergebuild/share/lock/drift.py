"""What differs between what a lock says and what is there: each with its place in the lock, what
was expected and what was found. Decides nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from mergebuild.checkpoint.hashes import FileHash
from mergebuild.errors import Location, Problem
from mergebuild.plan import Plan
from mergebuild.recipe import NodeRef
from mergebuild.share.lock.model import Lock, LockedInclude, LockedNode, LockedSource

_MOST: Final = 5


def drift(expected: Lock, found: Lock, plan: Plan, *, nodes: bool, whole: bool) -> list[Problem]:
    """Every difference, causes only: a node is not told of where something that it is made from
    is. Without `nodes` their keys may differ; with `whole` the lock may hold nothing else.

    Files and outputs are compared as far as both know them.
    """
    problems = list(drift_of_includes(expected, found.includes, whole=whole))
    drifted: set[str] = set()
    for name, source in found.sources.items():
        told = list(_source(name, expected.sources.get(name), source, expected))
        problems += told
        drifted.update([name] if told else [])
    nodes_drifted: set[str] = set()
    for name, node in found.nodes.items():
        follows = any(
            reference.name in nodes_drifted
            if isinstance(reference, NodeRef)
            else any(part.reference in drifted for part in plan.leaves[reference].parts)
            for reference in plan.nodes[name].node.references()
        )
        told = list(_node(name, expected.nodes.get(name), node, expected, keys=nodes))
        if told or follows:
            nodes_drifted.add(name)
        problems += [] if follows else told
    if whole:
        problems += _left_over("source", expected.sources, found.sources)
        problems += _left_over("node", expected.nodes, found.nodes)
    return problems


def drift_of_includes(
    expected: Lock, found: Mapping[str, LockedInclude], *, whole: bool
) -> Iterator[Problem]:
    """The differences of included recipes."""
    for name, one in found.items():
        locked = expected.includes.get(name)
        if locked is None:
            yield _new("include", name, expected)
            continue
        for what, before, now in (
            ("its reference", locked.recipe, one.recipe),
            ("its commit", locked.commit, one.commit),
            ("the SHA-256 of its text", locked.sha256, one.sha256),
        ):
            if before != now:
                yield _differs(f"include '{name}': {what}", before, now, locked.at)
                break
    if whole:
        yield from _left_over("include", expected.includes, found)


def _source(
    name: str, locked: LockedSource | None, found: LockedSource, lock: Lock
) -> Iterator[Problem]:
    if locked is None:
        yield _new("source", name, lock)
        return
    if found.commit is not None and locked.commit not in (None, found.commit):
        yield _differs(f"source '{name}': its commit", locked.commit, found.commit, locked.at)
    told = 0
    if found.files:
        for file in sorted({*locked.files, *found.files}):
            before, now = locked.files.get(file), found.files.get(file)
            if before != now:
                told += 1
                if told <= _MOST:
                    what = f"source '{name}': file '{file}'"
                    yield _differs(what, _file(before), _file(now), locked.at)
        if told > _MOST:
            yield Problem(f"source '{name}': {told - _MOST} more files differ", locked.at)
    if locked.content != found.content:
        groups = _changed_groups(locked.tensors, found.tensors)
        what = f"source '{name}': the content of {groups}"
        yield _differs(what, locked.content, found.content, locked.at)


def _changed_groups(locked: Mapping[str, str], found: Mapping[str, str]) -> str:
    changed = [n for n in sorted({*locked, *found}) if locked.get(n) != found.get(n)]
    if not changed or not locked or not found:
        return "its tensors"
    listed = ", ".join(f"'{name}'" for name in changed[:_MOST])
    more = f" and {len(changed) - _MOST} more" if len(changed) > _MOST else ""
    return f"the tensors that begin with {listed}{more}"


def _file(file: FileHash | None) -> str:
    return "no such file" if file is None else f"{file.size} bytes with SHA-256 {file.sha256}"


def _node(
    name: str, locked: LockedNode | None, found: LockedNode, lock: Lock, *, keys: bool
) -> Iterator[Problem]:
    if locked is None:
        if keys:
            yield _new("node", name, lock)
        return
    for method, version in found.methods.items():
        before = locked.methods.get(method, version)
        if before != version:
            what = f"node '{name}': the version of method '{method}'"
            yield _differs(what, str(before), str(version), locked.at)
            return
    if not keys:
        return
    if locked.key != found.key:
        what = f"node '{name}': its key, for what the recipe says of it changed"
        yield _differs(what, locked.key, found.key, locked.at)
    elif locked.output is not None and found.output is not None and locked.output != found.output:
        before_, now = locked.output, found.output
        what = f"node '{name}': the SHA-256 of its output"
        yield _differs(what, before_.sha256, now.sha256, locked.at)


def _left_over(
    kind: str, expected: Mapping[str, object], found: Mapping[str, object]
) -> Iterator[Problem]:
    for name, block in expected.items():
        if name not in found:
            at = getattr(block, "at", None)
            yield Problem(f"{kind} '{name}' is in the lock, but no longer in the recipe", at)


def _new(kind: str, name: str, lock: Lock) -> Problem:
    return Problem(f"{kind} '{name}' is not in the lock", Location(lock.file, 1, 1))


def _differs(what: str, before: str | None, now: str | None, at: Location | None) -> Problem:
    none = "none"
    return Problem(f"{what}: expected {before or none}, found {now or none}", at)

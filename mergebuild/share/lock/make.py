"""A lock from a plan: what its sources are, what its nodes would be and, where they are built, are.

Reads whatever has to be hashed, and remembers it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Final

from mergebuild.cache import Manifest
from mergebuild.checkpoint.digests import DigestMemo, Progress
from mergebuild.checkpoint.hashes import FileHash, file_hashes
from mergebuild.checkpoint.safetensors import INDEX
from mergebuild.digest import fields_digest
from mergebuild.events import Hashed, Hashing, Sink, Warned
from mergebuild.plan import NodePlan, Part, Plan
from mergebuild.recipe import Recipe
from mergebuild.share.lock.contents import output_hash
from mergebuild.share.lock.model import Lock, LockedInclude, LockedNode, LockedOutput, LockedSource

MOST_GROUPS: Final = 512
"""More groups of tensors than this are not told apart."""


def make_lock(plan: Plan, former: Lock | None, *, files: bool, outputs: bool, sink: Sink) -> Lock:
    """The lock of what a plan reads and makes.

    `former` tells what is not to be seen here: of a mirror the commit that it mirrors, of a node
    that is not in the cache what it was when it was built. Without `files`, sources have none;
    without `outputs`, nodes have but former ones: what is not asked for is not read. Raises
    CheckpointError for what cannot be read.
    """
    former = former or Lock()
    jobs = plan.settings.threads
    with DigestMemo(plan.cache.digests) as memo:
        sources: dict[str, LockedSource] = {}
        for leaf in plan.leaves.values():
            for part in leaf.parts:
                if part.reference not in sources:
                    hashes = _files(part, memo, jobs, sink) if files else {}
                    known = former.sources.get(part.reference)
                    sources[part.reference] = _source(part, hashes, known)
        nodes = {
            name: _node(node, plan, former.nodes.get(name), memo if outputs else None, sink)
            for name, node in plan.nodes.items()
        }
    return Lock(
        includes=locked_includes(plan.recipe), sources=sources, nodes=nodes, file=former.file
    )


def locked_includes(recipe: Recipe) -> dict[str, LockedInclude]:
    """What a lock says of the recipes that one includes."""
    return {
        one.namespace: LockedInclude(one.recipe.reference, one.recipe.commit, one.sha256)
        for one in recipe.included
    }


def _files(part: Part, memo: DigestMemo, jobs: int, sink: Sink) -> dict[str, FileHash]:
    names = {str(path.relative_to(part.directory)): path for path in part.files}
    size = sum(path.stat().st_size for path in names.values())
    progress = _progress(part.reference, size, sink)
    hashes = file_hashes(memo, names.values(), jobs=jobs, progress=progress)
    return {name: hashes[path] for name, path in names.items()}


def _progress(name: str, size: int, sink: Sink) -> Progress:
    started = False

    def progress(done: int) -> None:
        nonlocal started
        if not started:
            started = True
            sink(Hashing(name, size))
        sink(Hashed(done))

    return progress


def _source(part: Part, files: Mapping[str, FileHash], former: LockedSource | None) -> LockedSource:
    content = fields_digest("leaf", sorted(part.keys.items()))
    same = (
        former is not None and former.content == content and former.files == (files or former.files)
    )
    commit = part.snapshot.commit if part.snapshot is not None else None
    stated = part.contents.card_metadata.get("license")
    licence = stated if isinstance(stated, str) and stated else None
    if same and former is not None:
        commit, licence = commit or former.commit, licence or former.license
    return LockedSource(commit, licence, files, content, _groups(part.keys))


def _groups(keys: Mapping[str, str]) -> dict[str, str]:
    """Digests of the tensors of each layer, and of each tensor in none, by how their names begin:
    up to the first number. None for a checkpoint with more of them than can be told apart."""
    rows = sorted((_group(name), name, key) for name, key in keys.items())
    groups = {
        group: fields_digest("group", [(name, key) for _, name, key in members])
        for group, members in groupby(rows, key=lambda row: row[0])
    }
    return groups if len(groups) <= MOST_GROUPS else {}


def _group(name: str) -> str:
    parts = name.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdecimal()), len(parts) - 1)
    return ".".join(parts[: number + 1])


def _node(
    node: NodePlan, plan: Plan, former: LockedNode | None, memo: DigestMemo | None, sink: Sink
) -> LockedNode:
    methods = {e.method: e.version for e in node.expressions.values()}
    before = former.output if former is not None and former.key == node.key else None
    if node.cached is None or memo is None:
        return LockedNode(node.key, methods, before)
    content = output_content(node.cached)
    if before is not None and before.content != content:
        text = f"node '{node.node.name}': what is in the cache is not what the lock says it was"
        sink(Warned(f"warning: {text}"))
    folder = plan.cache.folder(node.key)
    sha256 = _output_hash(node, folder, memo, plan.settings.threads, sink)
    return LockedNode(node.key, methods, LockedOutput(content, sha256))


def _output_hash(node: NodePlan, folder: Path, memo: DigestMemo, jobs: int, sink: Sink) -> str:
    assert node.cached is not None
    progress = _progress(node.node.name, node.cached.size, sink)
    return output_hash(node.cached, folder, memo, jobs=jobs, progress=progress)


def output_content(manifest: Manifest) -> str:
    """The digest of all that a checkpoint holds, however it is split into files."""
    files = sorted((n, f.digest) for n, f in manifest.files.items() if n != INDEX)
    return fields_digest(
        "output",
        [
            *((name, tensor.digest) for name, tensor in sorted(manifest.tensors.items())),
            *(("file " + name, digest) for name, digest in files),
        ],
    )

"""Opening the sources of a recipe: headers checked, contents digested, outlines made.

Where that is asked for, what nobody has read is not digested, and has provisional keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from mergebuild.cache import Cache
from mergebuild.checkpoint.contents import Contents
from mergebuild.checkpoint.digests import DigestMemo, Progress
from mergebuild.checkpoint.header import TensorInfo
from mergebuild.checkpoint.hub import Snapshot, is_repo
from mergebuild.checkpoint.lora import Derived
from mergebuild.checkpoint.reader import Files
from mergebuild.checkpoint.source import Checkpoint
from mergebuild.digest import FieldValue, fields_digest
from mergebuild.errors import Problem, RecipeError
from mergebuild.events import Digested, Digesting, Sink, Warned
from mergebuild.plan.model import Leaf, Part, Settings
from mergebuild.plan.opening import Opened, Opening, hub_of
from mergebuild.plan.outline import SideFile, TensorOutline, make_outline
from mergebuild.recipe import Recipe, Source


def open_leaves(
    recipe: Recipe,
    sources: Iterable[Source],
    cache: Cache,
    settings: Settings,
    sink: Sink,
    contents: Contents | None = None,
) -> dict[Source, Leaf]:
    """Every source, opened; one that cannot be is reported together with the others.

    With `contents`, sources whose digests are not remembered are left to be read later. Raises
    RecipeError for sources that are not there, CheckpointError for damaged ones.
    """
    problems: list[Problem] = []
    opening = Opening(recipe.directory, recipe.pins, hub_of(cache, settings, sink), sink)
    opened: dict[Source, Opened] = {}
    for source in dict.fromkeys(sources):
        try:
            opened[source] = opening.source(source)
        except RecipeError as error:
            problems.extend(error.problems)
    if problems:
        raise RecipeError(*problems)
    for source, found in opened.items():
        for note in found.notes:
            sink(Warned(f"note: source '{source}': {note}"))
    with DigestMemo(cache.digests) as memo:
        digests = _Digests(memo, settings.threads, sink, contents, later=contents is not None)
        return {source: _leaf(source, found, digests) for source, found in opened.items()}


def read_leaves(
    leaves: Mapping[Source, Leaf],
    cache: Cache,
    settings: Settings,
    sink: Sink,
    contents: Contents,
) -> dict[Source, Leaf]:
    """The same sources with their true keys; what is not in `contents` is digested now.

    Raises CheckpointError for files that changed since they were opened.
    """
    with DigestMemo(cache.digests) as memo:
        digests = _Digests(memo, settings.threads, sink, contents, later=False)
        return {
            source: _read(leaf, digests) if leaf.outline.provisional else leaf
            for source, leaf in leaves.items()
        }


def files_of(leaves: Iterable[Leaf]) -> Files:
    """The files of sources, which must be what they were when they were opened; to be closed."""
    return Files({path: mark for leaf in leaves for path, mark in leaf.checkpoint.stamps.items()})


class _Digests:
    """Digests of contents, each checkpoint once: `later`, if they are not remembered, by what
    stands for them until then."""

    def __init__(
        self,
        memo: DigestMemo,
        jobs: int,
        sink: Sink,
        contents: Contents | None,
        *,
        later: bool,
    ) -> None:
        self.memo = memo
        self._jobs = jobs
        self._sink = sink
        self._contents = contents
        self._later = later
        self._found: dict[tuple[Path, ...], tuple[Mapping[str, str], bool]] = {}

    def of(self, checkpoint: Checkpoint, name: str) -> tuple[dict[TensorInfo, str], bool]:
        """The digest of every tensor of a checkpoint, which belongs to the source `name`, and
        whether they are provisional."""
        if checkpoint.files not in self._found:
            self._found[checkpoint.files] = self._find(checkpoint, name)
        found, provisional = self._found[checkpoint.files]
        return {tensor: found[key] for key, tensor in checkpoint.tensors.items()}, provisional

    def _find(self, checkpoint: Checkpoint, name: str) -> tuple[Mapping[str, str], bool]:
        if not self._later or self._contents is None:
            progress = self._progress(checkpoint, name)
            found = self.memo.tensor_digests(
                checkpoint, jobs=self._jobs, progress=progress, contents=self._contents
            )
            return found, False
        remembered = self.memo.remembered(checkpoint)
        if remembered is None:
            return {key: _stand_in(checkpoint, t) for key, t in checkpoint.tensors.items()}, True
        return remembered, False

    def learn(self, found: Mapping[TensorInfo, str]) -> None:
        """Have digests at hand that are known, of a source some of whose others are not."""
        assert self._contents is not None
        for tensor, digest in found.items():
            self._contents.learn(tensor, digest)

    def _progress(self, checkpoint: Checkpoint, name: str) -> Progress:
        started = False

        def progress(done: int) -> None:
            nonlocal started
            if not started:
                started = True
                self._sink(Digesting(name, sum(t.nbytes for t in checkpoint.tensors.values())))
            self._sink(Digested(done))

        return progress


def _stand_in(checkpoint: Checkpoint, tensor: TensorInfo) -> str:
    """What stands for the digest of a tensor that nobody has read: the same for all who would read
    the same file as it is now."""
    mark = checkpoint.stamps[tensor.file]
    place = (mark.device, mark.inode, mark.size, mark.mtime_ns, mark.ctime_ns, tensor.offset)
    fields: list[tuple[str, FieldValue]] = [("place", place), ("dtype", tensor.dtype)]
    return fields_digest("unread", [*fields, ("shape", tensor.shape)])


def _leaf(source: Source, opened: Opened, digests: _Digests) -> Leaf:
    adapted = opened.adapted
    contents = [opened.model]
    paths = [opened.model.path]
    if opened.adapter is not None:
        contents.append(opened.adapter.contents)
        paths.append(opened.adapter.path)
    keys: dict[TensorInfo, str] = {}
    known: dict[TensorInfo, str] = {}
    parts, provisional = [], False
    for index, (part, place) in enumerate(opened.places):
        found, unread = digests.of(contents[index], str(source))
        keys.update(found)
        known.update(found if not unread else {})
        provisional |= unread
        snapshot = place if isinstance(place, Snapshot) else None
        adapter = source.adapter or index > 0
        parts.append(Part(part, adapter, contents[index], snapshot, _named(found)))
    if provisional:
        digests.learn(known)
    outline = make_outline(
        name=str(source),
        tensors=_tensors(adapted.checkpoint, adapted.derived, keys),
        config=adapted.checkpoint.config,
        side_files=tuple(
            SideFile(
                file.name, digests.memo.file_digest(file.path), file.size, file.path, code=file.code
            )
            for file in adapted.checkpoint.side_files
        ),
        adapter=source.adapter,
        origin=_origin(source, opened.snapshots),
    )
    return Leaf(
        source,
        adapted.checkpoint,
        replace(outline, provisional=provisional) if provisional else outline,
        adapted.derived,
        tuple(paths),
        opened.snapshots,
        tuple(parts),
    )


def _read(leaf: Leaf, digests: _Digests) -> Leaf:
    """A source whose keys were provisional, with its own."""
    keys: dict[TensorInfo, str] = {}
    parts = []
    for part in leaf.parts:
        found, _ = digests.of(part.contents, str(leaf.source))
        keys.update(found)
        parts.append(replace(part, keys=_named(found)))
    outline = make_outline(
        name=leaf.outline.name,
        tensors=_tensors(leaf.checkpoint, leaf.derived, keys),
        config=leaf.outline.config,
        side_files=leaf.outline.side_files,
        adapter=leaf.outline.adapter,
        origin=leaf.outline.origin,
    )
    return replace(leaf, outline=outline, parts=tuple(parts))


def _named(found: Mapping[TensorInfo, str]) -> dict[str, str]:
    return {tensor.name: key for tensor, key in found.items()}


def _tensors(
    checkpoint: Checkpoint, derived: Mapping[str, Derived], keys: Mapping[TensorInfo, str]
) -> dict[str, TensorOutline]:
    """The tensors of a source, sorted by name: those that lie in a file, and those derived."""
    tensors = {
        name: TensorOutline(keys[tensor], tensor.dtype, tensor.shape)
        for name, tensor in checkpoint.tensors.items()
    }
    for name, one in derived.items():
        tensors[name] = TensorOutline(one.key(keys), one.dtype, one.shape, one.counts_as)
    return dict(sorted(tensors.items()))


def _origin(source: Source, snapshots: tuple[Snapshot, ...]) -> str | None:
    """The model on the Hub that a source is, also if --source put a copy in its place."""
    if source.lora is not None or source.adapter:
        return None
    if source.written is not None:
        return source.written if is_repo(source.written) else None
    return next((snapshot.repo for snapshot in snapshots), None)

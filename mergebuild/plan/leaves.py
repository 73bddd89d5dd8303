"""Opening the sources of a recipe: headers checked, contents digested, outlines made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from mergebuild.cache import Cache
from mergebuild.checkpoint.digests import DigestMemo, Progress
from mergebuild.checkpoint.header import TensorInfo
from mergebuild.checkpoint.hub import Snapshot, is_repo
from mergebuild.checkpoint.lora import Adapted
from mergebuild.checkpoint.source import Checkpoint
from mergebuild.errors import Problem, RecipeError
from mergebuild.events import Digested, Digesting, Sink, Warned
from mergebuild.plan.model import Leaf, Part, Settings
from mergebuild.plan.opening import Opened, Opening, hub_of
from mergebuild.plan.outline import Outline, SideFile, TensorOutline, make_outline
from mergebuild.recipe import Recipe, Source


def open_leaves(
    recipe: Recipe, sources: Iterable[Source], cache: Cache, settings: Settings, sink: Sink
) -> dict[Source, Leaf]:
    """Every source, opened; one that cannot be is reported together with the others.

    Raises RecipeError for sources that are not there, CheckpointError for damaged ones.
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
        digests = _Digests(memo, settings.threads, sink)
        return {source: _leaf(source, found, digests) for source, found in opened.items()}


class _Digests:
    """Digests of contents, each checkpoint once."""

    def __init__(self, memo: DigestMemo, jobs: int, sink: Sink) -> None:
        self.memo = memo
        self._jobs = jobs
        self._sink = sink
        self._found: dict[tuple[Path, ...], Mapping[str, str]] = {}

    def of(self, checkpoint: Checkpoint, name: str) -> dict[TensorInfo, str]:
        """The digest of every tensor of a checkpoint, which belongs to the source `name`."""
        if checkpoint.files not in self._found:
            self._found[checkpoint.files] = self.memo.tensor_digests(
                checkpoint, jobs=self._jobs, progress=self._progress(checkpoint, name)
            )
        found = self._found[checkpoint.files]
        return {tensor: found[key] for key, tensor in checkpoint.tensors.items()}

    def _progress(self, checkpoint: Checkpoint, name: str) -> Progress:
        started = False

        def progress(done: int) -> None:
            nonlocal started
            if not started:
                started = True
                self._sink(Digesting(name, sum(t.nbytes for t in checkpoint.tensors.values())))
            self._sink(Digested(done))

        return progress


def _leaf(source: Source, opened: Opened, digests: _Digests) -> Leaf:
    adapted = opened.adapted
    contents = [opened.model]
    paths = [opened.model.path]
    if opened.adapter is not None:
        contents.append(opened.adapter.contents)
        paths.append(opened.adapter.path)
    keys: dict[TensorInfo, str] = {}
    parts = []
    for index, (part, place) in enumerate(opened.places):
        found = digests.of(contents[index], str(source))
        keys.update(found)
        named = {tensor.name: key for tensor, key in found.items()}
        snapshot = place if isinstance(place, Snapshot) else None
        adapter = source.adapter or index > 0
        parts.append(Part(part, adapter, contents[index], snapshot, named))
    outline = _outline(source, adapted, keys, digests.memo, _origin(source, opened.snapshots))
    return Leaf(
        source,
        adapted.checkpoint,
        outline,
        adapted.derived,
        tuple(paths),
        opened.snapshots,
        tuple(parts),
    )


def _outline(
    source: Source,
    adapted: Adapted,
    keys: Mapping[TensorInfo, str],
    memo: DigestMemo,
    origin: str | None,
) -> Outline:
    tensors = {
        name: TensorOutline(keys[tensor], tensor.dtype, tensor.shape)
        for name, tensor in adapted.checkpoint.tensors.items()
    }
    for name, derived in adapted.derived.items():
        key = derived.key(keys)
        tensors[name] = TensorOutline(key, derived.dtype, derived.shape, derived.counts_as)
    return make_outline(
        name=str(source),
        tensors=dict(sorted(tensors.items())),
        config=adapted.checkpoint.config,
        side_files=tuple(
            SideFile(file.name, memo.file_digest(file.path), file.size, file.path, code=file.code)
            for file in adapted.checkpoint.side_files
        ),
        adapter=source.adapter,
        origin=origin,
    )


def _origin(source: Source, snapshots: tuple[Snapshot, ...]) -> str | None:
    """The model on the Hub that a source is, also if --source put a copy in its place."""
    if source.lora is not None or source.adapter:
        return None
    if source.written is not None:
        return source.written if is_repo(source.written) else None
    return next((snapshot.repo for snapshot in snapshots), None)

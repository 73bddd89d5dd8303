"""Opening the sources of a recipe: headers checked, contents digested, outlines made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from mergebuild.cache import Cache
from mergebuild.checkpoint.adapter import CONFIG, Adapter, open_adapter
from mergebuild.checkpoint.digests import DigestMemo, Progress
from mergebuild.checkpoint.header import TensorInfo
from mergebuild.checkpoint.hub import Hub, Pinned, Snapshot, is_repo
from mergebuild.checkpoint.hub_files import Kind
from mergebuild.checkpoint.lora import Adapted, adapt
from mergebuild.checkpoint.scaled import dequantise
from mergebuild.checkpoint.side_files import SideFile as AdapterFile
from mergebuild.checkpoint.source import Checkpoint, locate, open_checkpoint
from mergebuild.errors import MergebuildError, Problem, RecipeError
from mergebuild.events import Digested, Digesting, Sink, Warned
from mergebuild.plan.model import Leaf, Part, Settings, part_reference
from mergebuild.plan.outline import Outline, SideFile, TensorOutline, make_outline
from mergebuild.recipe import Recipe, Source

HUB: Final = "hub"
"""Where below the cache it is remembered what commits on the Hub hold."""


def open_leaves(
    recipe: Recipe, sources: Iterable[Source], cache: Cache, settings: Settings, sink: Sink
) -> dict[Source, Leaf]:
    """Every source, opened; one that cannot be is reported together with the others.

    Raises RecipeError for sources that are not there, CheckpointError for damaged ones.
    """
    problems: list[Problem] = []
    opening = _Opening(recipe, Hub(cache.root / HUB, sink, offline=settings.offline), sink)
    opened: dict[Source, _Opened] = {}
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


class _Opened:
    """A source as it was found: its own files, and what becomes of them with its LoRA.

    `places` are those of the model and the adapter, with the references that led there.
    """

    def __init__(
        self,
        model: Checkpoint,
        adapter: Adapter | None,
        places: tuple[tuple[Source, Path | Snapshot], ...],
    ) -> None:
        self.model = model
        self.adapter = adapter
        self.places = places
        self.snapshots = tuple(place for _, place in places if isinstance(place, Snapshot))
        plain = dequantise(model)
        self.adapted = Adapted(plain.checkpoint, plain.derived, ())
        if adapter is not None:
            self.adapted = adapt(plain.checkpoint, plain.derived, adapter)
        self.notes = (*plain.notes, *self.adapted.notes)


class _Opening:
    """Opens what sources name, each folder once however many sources share it."""

    def __init__(self, recipe: Recipe, hub: Hub, sink: Sink) -> None:
        self._recipe = recipe
        self._hub = hub
        self._sink = sink
        self._models: dict[Path, Checkpoint] = {}
        self._adapters: dict[Path, Adapter] = {}

    def source(self, source: Source) -> _Opened:
        """Raises RecipeError or CheckpointError, told of the source and its place."""
        if source.adapter:
            return self._alone(source)
        whole = locate(source.text, self._recipe.directory) if source.text else None
        try:
            model = whole or self._place(source, source, "model")
            lora = source.lora if whole is None else None
            adapter = self._place(source, lora, "adapter") if lora is not None else None
            alone = replace(source, lora=None)
            if whole is not None:
                alone = replace(alone, place=source.text, revision=None)
            return _Opened(
                replace(self._model(_folder(model)), name=str(source)),
                self._adapter(_folder(adapter)) if adapter is not None else None,
                (
                    (alone, model),
                    *([(lora, adapter)] if lora is not None and adapter is not None else []),
                ),
            )
        except MergebuildError as error:
            raise _told(source, error) from error

    def _alone(self, source: Source) -> _Opened:
        """An adapter that is put on a node: its tensors and its config as they are."""
        try:
            place = self._place(source, source, "adapter")
            adapter = self._adapter(_folder(place))
        except MergebuildError as error:
            raise _told(source, error) from error
        config = adapter.path / CONFIG
        file = AdapterFile(CONFIG, config, config.stat().st_size)
        contents = replace(adapter.contents, name=str(source), side_files=(file,))
        return _Opened(contents, None, ((source, place),))

    def _model(self, path: Path) -> Checkpoint:
        if path not in self._models:
            self._models[path] = open_checkpoint(path, str(path))
        return self._models[path]

    def _adapter(self, path: Path) -> Adapter:
        if path not in self._adapters:
            self._adapters[path] = open_adapter(path)
        return self._adapters[path]

    def _place(self, source: Source, part: Source, kind: Kind) -> Path | Snapshot:
        """What a source, or its LoRA, means: a path if there is one, else a model on the Hub."""
        path = locate(part.place, self._recipe.directory)
        if path is not None:
            if part.revision is not None:
                text = f"'{part.place}' is a folder: its revision '{part.revision}' has no effect"
                self._sink(Warned(f"note: source '{source}': {text}"))
            return path
        if is_repo(part.place):
            return self._hub.snapshot(part.place, part.revision, kind, self._pinned(part, kind))
        raise RecipeError.of(
            f"there is no '{part.place}' below '{self._recipe.directory}' or the working directory",
            hint=f"say where it is: --source {part}=PATH",
        )

    def _pinned(self, part: Source, kind: Kind) -> Pinned | None:
        """What the lock says of a part, unless it is another's place that is looked at."""
        pin = self._recipe.pins.get(part_reference(part, kind == "adapter"))
        return Pinned(pin.commit, pin.files) if pin and part.written is None else None


def _folder(place: Path | Snapshot) -> Path:
    return place.path if isinstance(place, Snapshot) else place


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


def _leaf(source: Source, opened: _Opened, digests: _Digests) -> Leaf:
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


def _told(source: Source, error: MergebuildError) -> MergebuildError:
    """The same error, told of a source and its place in the recipe."""
    return type(error)(
        *(Problem(f"source '{source}': {p.message}", source.at, p.hint) for p in error.problems)
    )

"""Opening what a source names: a folder, a file, a model on the Hub, each with or without a LoRA.

Headers are read and checked, nothing else. Knows no digests and no nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from mergebuild.cache import Cache
from mergebuild.checkpoint.adapter import CONFIG, Adapter, open_adapter
from mergebuild.checkpoint.hub import Hub, Pinned, Snapshot, is_repo
from mergebuild.checkpoint.hub_files import Kind
from mergebuild.checkpoint.lora import Adapted, adapt
from mergebuild.checkpoint.scaled import dequantise
from mergebuild.checkpoint.side_files import SideFile
from mergebuild.checkpoint.source import Checkpoint, locate, open_checkpoint
from mergebuild.errors import MergebuildError, Problem, RecipeError
from mergebuild.events import Sink, Warned
from mergebuild.plan.model import Settings, part_reference
from mergebuild.recipe import Source
from mergebuild.recipe.model import Pin

HUB: Final = "hub"
"""Where below the cache it is remembered what commits on the Hub hold."""


def hub_of(cache: Cache, settings: Settings, sink: Sink) -> Hub:
    return Hub(cache.root / HUB, sink, offline=settings.offline)


class Opened:
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


class Opening:
    """Opens what sources name, each folder once however many sources share it."""

    def __init__(self, directory: Path, pins: Mapping[str, Pin], hub: Hub, sink: Sink) -> None:
        self._directory = directory
        self._pins = pins
        self._hub = hub
        self._sink = sink
        self._models: dict[Path, Checkpoint] = {}
        self._adapters: dict[Path, Adapter] = {}

    def source(self, source: Source) -> Opened:
        """Raises RecipeError or CheckpointError, told of the source and its place."""
        try:
            return self.opened(source)
        except MergebuildError as error:
            raise _told(source, error) from error

    def opened(self, source: Source) -> Opened:
        """Raises RecipeError or CheckpointError."""
        if source.adapter:
            return self._alone(source)
        whole = self._locate(source, source.text) if source.text else None
        model = whole or self._place(source, source, "model")
        lora = source.lora if whole is None else None
        adapter = self._place(source, lora, "adapter") if lora is not None else None
        alone = replace(source, lora=None)
        if whole is not None:
            alone = replace(alone, place=source.text, revision=None)
        return Opened(
            replace(self._model(_folder(model)), name=str(source)),
            self.adapter(_folder(adapter)) if adapter is not None else None,
            (
                (alone, model),
                *([(lora, adapter)] if lora is not None and adapter is not None else []),
            ),
        )

    def _alone(self, source: Source) -> Opened:
        """An adapter that is put on a node: its tensors and its config as they are."""
        place = self._place(source, source, "adapter")
        adapter = self.adapter(_folder(place))
        config = adapter.path / CONFIG
        file = SideFile(CONFIG, config, config.stat().st_size)
        contents = replace(adapter.contents, name=str(source), side_files=(file,))
        return Opened(contents, None, ((source, place),))

    def _model(self, path: Path) -> Checkpoint:
        if path not in self._models:
            self._models[path] = open_checkpoint(path, str(path))
        return self._models[path]

    def adapter(self, path: Path) -> Adapter:
        """The adapter in a folder."""
        if path not in self._adapters:
            self._adapters[path] = open_adapter(path)
        return self._adapters[path]

    def _place(self, source: Source, part: Source, kind: Kind) -> Path | Snapshot:
        """What a source, or its LoRA, means: a path if there is one, else a model on the Hub."""
        path = self._locate(part, part.place)
        if path is not None:
            if part.revision is not None:
                text = f"'{part.place}' is a folder: its revision '{part.revision}' has no effect"
                self._sink(Warned(f"note: source '{source}': {text}"))
            return path
        if is_repo(part.place):
            return self._hub.snapshot(part.place, part.revision, kind, self._pinned(part, kind))
        raise RecipeError.of(
            f"there is no '{part.place}' below '{self._directory}' or the working directory",
            hint=f"say where it is: --source {part}=PATH",
        )

    def _locate(self, part: Source, place: str) -> Path | None:
        """The path that is meant, if there is one: never in a recipe from elsewhere."""
        return locate(place, self._directory / part.within) if part.within is not None else None

    def _pinned(self, part: Source, kind: Kind) -> Pinned | None:
        """What the lock says of a part, unless it is another's place that is looked at."""
        pin = self._pins.get(part_reference(part, kind == "adapter"))
        return Pinned(pin.commit, pin.files) if pin and part.written is None else None


def _folder(place: Path | Snapshot) -> Path:
    return place.path if isinstance(place, Snapshot) else place


def _told(source: Source, error: MergebuildError) -> MergebuildError:
    """The same error, told of a source and its place in the recipe."""
    return type(error)(
        *(Problem(f"source '{source}': {p.message}", source.at, p.hint) for p in error.problems)
    )

"""A model that is only looked at: opened as a source would be, for a reference as a recipe has it.

Headers, config and manifest; contents are not digested.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from filecmp import cmp
from pathlib import Path
from typing import Any

from mergebuild.cache import Cache, Manifest, read_manifest
from mergebuild.checkpoint.adapter import CONFIG as ADAPTER_CONFIG
from mergebuild.checkpoint.adapter import adapter_base
from mergebuild.checkpoint.header import TensorInfo
from mergebuild.checkpoint.hub import Snapshot, is_repo
from mergebuild.checkpoint.lora import Derived
from mergebuild.checkpoint.regular import Stamp, read_small, unreadable
from mergebuild.checkpoint.side_files import SideFile
from mergebuild.checkpoint.source import locate
from mergebuild.checkpoint.summary import (
    AdapterSummary,
    Shaped,
    Summary,
    adapter_summary,
    summary,
)
from mergebuild.errors import CheckpointError, Location, UsageError
from mergebuild.events import Sink
from mergebuild.plan.model import Settings
from mergebuild.plan.opening import Opened, Opening, hub_of
from mergebuild.plan.vocabularies import LARGEST
from mergebuild.recipe import Source
from mergebuild.recipe.context import Context
from mergebuild.recipe.spelling import split
from mergebuild.vocabulary.difference import Difference, difference
from mergebuild.vocabulary.files import holds_vocabulary
from mergebuild.vocabulary.vocabulary import read_vocabulary


@dataclass(frozen=True, slots=True)
class Counted:
    """A tensor's dtype, that of its weight where it is derived, and shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Looked:
    """What a reference leads to.

    `tensors` are all of them; those in `derived` lie in no file, but follow from some, the others
    are `stored`. `size` is in bytes, of the stored ones. `adapter` tells of a LoRA, put on a model
    or alone. `manifest` is there if mergebuild built it.
    """

    reference: str
    path: Path
    tensors: Mapping[str, Shaped]
    stored: Mapping[str, TensorInfo]
    derived: Mapping[str, Derived]
    stamps: Mapping[Path, Stamp]
    files: tuple[Path, ...]
    size: int
    side_files: tuple[SideFile, ...]
    config: Mapping[str, Any] | None
    summary: Summary
    adapter: AdapterSummary | None
    alone: bool
    snapshots: tuple[Snapshot, ...]
    notes: tuple[str, ...]
    manifest: Manifest | None


def look(reference: str, cache: Cache, settings: Settings, sink: Sink) -> Looked:
    """Open `model[@revision][+adapter[@revision]]`, or an adapter's folder.

    Raises UsageError for what is no reference, CheckpointError for what is not there or damaged.
    """
    source = _source(reference)
    opening = Opening(Path(), {}, hub_of(cache, settings, sink), sink)
    opened = opening.opened(source)
    found = opened.adapted
    stored = found.checkpoint.tensors
    tensors: dict[str, Shaped] = {**stored}
    tensors |= {name: Counted(d.counts_as, d.shape) for name, d in found.derived.items()}
    tensors = dict(sorted(tensors.items()))
    config = None if source.adapter else found.checkpoint.config
    place = opened.model.path
    return Looked(
        reference=reference,
        path=place,
        tensors=tensors,
        stored=stored,
        derived=found.derived,
        stamps=found.checkpoint.stamps,
        files=found.checkpoint.files,
        size=_size(opened),
        side_files=opened.model.side_files,
        config=config,
        summary=summary(tensors, config),
        adapter=_adapter(opening, opened, source),
        alone=source.adapter,
        snapshots=opened.snapshots,
        notes=opened.notes,
        manifest=read_manifest(place) if place.is_dir() and opened.adapter is None else None,
    )


def differing_files(one: Looked, other: Looked) -> list[tuple[str, str]]:
    """(name, how it differs) of the files besides weights and config.

    Raises CheckpointError if one cannot be read.
    """
    left, right = ({f.name: f for f in looked.side_files} for looked in (one, other))
    found = []
    for name in sorted(left.keys() | right.keys()):
        if name not in right or name not in left:
            found.append((name, "is only in A" if name in left else "is only in B"))
        elif left[name].size != right[name].size or not _equal(left[name].path, right[name].path):
            found.append((name, "differs"))
    return found


def differing_tokens(one: Looked, other: Looked, files: Iterable[str]) -> Difference | None:
    """How vocabularies differ, given the names of the `files` that do; None if they do not, or if
    one of them has no tokenizer.

    Raises CheckpointError if a tokenizer is damaged or of a form that is not supported.
    """
    if not any(holds_vocabulary(name) for name in files):
        return None
    read = [
        {f.name: f.path for f in looked.side_files if holds_vocabulary(f.name)}
        for looked in (one, other)
    ]
    if not all(read):
        return None
    first, second = (
        read_vocabulary(
            looked.reference,
            {name: read_small(path, LARGEST) for name, path in paths.items()},
        )
        for looked, paths in zip((one, other), read, strict=True)
    )
    found = difference(first, second)
    return found if any(found.only) or found.moved else None


def _equal(one: Path, other: Path) -> bool:
    try:
        return cmp(one, other, shallow=False)
    except OSError as error:
        raise unreadable(one, error) from error


def _source(reference: str) -> Source:
    findings = Context()
    source = split(reference, Location("", 1, 1), findings)
    if source is None:
        raise UsageError.of(findings.problems[0].message, hint=findings.problems[0].hint)
    whole = locate(source.text or source.place, Path())
    for part in () if whole is not None else (source, *([source.lora] if source.lora else [])):
        if locate(part.place, Path()) is None and not is_repo(part.place):
            raise CheckpointError.of(f"there is no '{part.place}'")
    alone = whole is not None and (whole / ADAPTER_CONFIG).is_file()
    weights = alone and whole is not None and any(whole.glob("model*.safetensors"))
    return replace(source, adapter=True) if alone and not weights else source


def _adapter(opening: Opening, opened: Opened, source: Source) -> AdapterSummary | None:
    adapter = opening.adapter(opened.model.path) if source.adapter else opened.adapter
    return adapter_summary(adapter, adapter_base(adapter.path)) if adapter is not None else None


def _size(opened: Opened) -> int:
    contents = [opened.model, *([opened.adapter.contents] if opened.adapter else [])]
    return sum(tensor.nbytes for one in contents for tensor in one.tensors.values())

"""Checkpoints as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from mergebuild.cache import Manifest, read_manifest
from mergebuild.checkpoint.source import Checkpoint, open_checkpoint
from mergebuild.checkpoint.stacks import find_layout
from mergebuild.console.words import plural, size
from mergebuild.errors import CheckpointError
from mergebuild.share.publication import Publication


def inspect_text(path: Path, tensors: bool) -> str:
    """What a checkpoint holds, and what it was made from if mergebuild built it.

    Raises CheckpointError for what is no checkpoint.
    """
    checkpoint, manifest = _open(path)
    lines = list(_summary(checkpoint))
    if manifest is not None:
        lines += ["", *_origin(manifest)]
    if tensors:
        lines.append("")
        for name, tensor in checkpoint.tensors.items():
            lines.append(f"{name}  {tensor.dtype}  {list(tensor.shape)}")
    return "\n".join(lines)


def _open(path: Path) -> tuple[Checkpoint, Manifest | None]:
    if not path.exists():
        raise CheckpointError.of(f"there is no '{path}'")
    return open_checkpoint(path, str(path)), read_manifest(path)


def _summary(checkpoint: Checkpoint) -> Iterator[str]:
    tensors = checkpoint.tensors.values()
    parameters = sum(prod(tensor.shape) for tensor in tensors)
    stored = sum(tensor.nbytes for tensor in tensors)
    dtypes = Counter(tensor.dtype for tensor in tensors)
    yield f"{checkpoint.path}"
    yield (
        f"  {plural(len(checkpoint.tensors), 'tensor')}, {parameters:,} parameters, {size(stored)} "
        f"in {plural(len(checkpoint.files), 'file')}"
    )
    yield "  dtypes: " + ", ".join(f"{dtype} ({count})" for dtype, count in sorted(dtypes.items()))
    layout = find_layout(checkpoint.tensors, checkpoint.config)
    for stack in layout.stacks:
        yield f"  layers: {stack.prefix}0 to {stack.prefix}{stack.count - 1} ({stack.role})"
    if checkpoint.config is not None:
        kinds = checkpoint.config.get("architectures") or [checkpoint.config.get("model_type")]
        yield f"  architecture: {', '.join(map(str, kinds))}"
    files = ", ".join(file.name for file in checkpoint.side_files)
    yield f"  other files: {files or 'none'}"


def _origin(manifest: Manifest) -> Iterator[str]:
    yield f"built by mergebuild as '{manifest.node}' on {manifest.created}"
    yield f"  key {manifest.key}"
    methods = Counter(record.expression.method for record in manifest.tensors.values())
    made = ", ".join(f"{plural(count, 'tensor')} by {m}" for m, count in sorted(methods.items()))
    yield f"  {made}"
    if device := manifest.provenance.get("device"):
        yield f"  computed on {device}"
    for step in manifest.provenance.get("chain", ()):
        yield f"  node {step.get('node')}: {step.get('merge_method')}"
    for leaf in manifest.provenance.get("leaves", ()):
        yield f"  source {leaf.get('name')}: {leaf.get('model')} (content {leaf.get('content')})"


def inspect_json(path: Path) -> dict[str, Any]:
    """A checkpoint for machines."""
    checkpoint, manifest = _open(path)
    return {
        "path": str(checkpoint.path),
        "files": [file.name for file in checkpoint.files],
        "side_files": [file.name for file in checkpoint.side_files],
        "tensors": {
            name: {"dtype": tensor.dtype, "shape": list(tensor.shape)}
            for name, tensor in checkpoint.tensors.items()
        },
        "built": (
            {"key": manifest.key, "node": manifest.node, "provenance": dict(manifest.provenance)}
            if manifest is not None
            else None
        ),
    }


def publication_text(place: str, made: Publication) -> str:
    """What would be published: every file, and the card."""
    rows = [f"  {size(count):>10}  {name}" for name, count in made.sizes.items()]
    total = f"  {size(sum(made.sizes.values())):>10}  {plural(len(rows), 'file')}"
    return "\n".join([place, *rows, total, "", made.card.rstrip()])

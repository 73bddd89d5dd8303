"""Checkpoints as text and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from mergebuild.cache import Manifest
from mergebuild.checkpoint.summary import AdapterSummary, Summary
from mergebuild.console.words import listing, plural, size
from mergebuild.plan.looking import Looked
from mergebuild.share.publication import Publication


def inspect_text(looked: Looked, tensors: bool) -> str:
    """What a checkpoint holds, and what it was made from if mergebuild built it."""
    lines = [looked.reference, *(f"  {line}" for line in _summary(looked))]
    if looked.manifest is not None:
        lines += ["", *_origin(looked.manifest)]
    if tensors:
        lines.append("")
        for name, tensor in looked.tensors.items():
            derived = "  (derived)" if name in looked.derived else ""
            lines.append(f"{name}  {tensor.dtype}  {list(tensor.shape)}{derived}")
    return "\n".join(lines)


def _summary(looked: Looked) -> Iterator[str]:
    said = looked.summary
    for snapshot in looked.snapshots:
        yield f"Hub: {snapshot.repo} at {snapshot.commit}"
    if said.architectures or said.model_type:
        kind = f" ({said.model_type})" if said.architectures and said.model_type else ""
        names = ", ".join(said.architectures) or str(said.model_type)
        yield f"architecture: {names}{kind}"
    yield (
        f"{plural(said.tensors, 'tensor')}, {said.parameters:,} parameters, {size(looked.size)} "
        f"in {plural(len(looked.files), 'file')}"
    )
    yield "dtypes: " + ", ".join(f"{dtype} ({n[0]})" for dtype, n in said.dtypes.items())
    for stack in said.stacks if not looked.alone else ():
        last = f"{stack.prefix}{stack.count - 1}"
        yield f"layers: {stack.count}, {stack.prefix}0 to {last} ({stack.role})"
    if said.mismatch is not None and not looked.alone:
        yield f"note: {said.mismatch}"
    if not looked.alone:
        yield from _vocabulary(said)
    if looked.adapter is not None:
        yield from _adapter(looked.adapter)
    for note in looked.notes:
        yield f"note: {note}"
    yield f"weights: {listing([path.name for path in looked.files])}"
    yield f"other files: {listing([f.name for f in looked.side_files], 20) or 'none'}"


def _vocabulary(said: Summary) -> Iterator[str]:
    if said.vocabulary is not None:
        config = ""
        if said.vocab_size is not None and said.vocab_size != said.vocabulary:
            config = f" (the config says {said.vocab_size:,})"
        yield f"vocabulary: {said.vocabulary:,} rows in {said.embedding}{config}"
    elif said.vocab_size is not None:
        yield f"vocabulary: {said.vocab_size:,} by the config"
    if said.tied is True:
        stored = f"; {said.head} is stored all the same" if said.head is not None else ""
        yield f"tied: the output head is the embedding{stored}"
    elif said.tied is False and said.head is not None:
        yield f"not tied: the output head is {said.head}"


def _adapter(adapter: AdapterSummary) -> Iterator[str]:
    if adapter.ranks:
        ranks = _counted({str(rank): n for rank, n in adapter.ranks.items()})
        scales = _counted({f"{scale:.4g}": n for scale, n in adapter.scales.items()})
        yield f"LoRA: rank {ranks}, scale {scales}"
        yield "LoRA targets: " + ", ".join(f"{word} ({n})" for word, n in adapter.targets.items())
    if adapter.saved:
        yield f"LoRA keeps whole: {listing(adapter.saved, 4)}"
    yield f"LoRA for: {adapter.base or 'a model that its config does not name'}"


def _counted(values: dict[str, int]) -> str:
    """The value that all have, or each with how many have it."""
    if len(values) == 1:
        return next(iter(values))
    return ", ".join(f"{value} ({count})" for value, count in values.items())


def _origin(manifest: Manifest) -> Iterator[str]:
    yield f"built by mergebuild as '{manifest.node}' on {manifest.created}"
    yield f"  key {manifest.key}"
    methods = Counter(record.expression.method for record in manifest.tensors.values())
    made = ", ".join(f"{plural(count, 'tensor')} by {m}" for m, count in sorted(methods.items()))
    yield f"  {made}"
    if device := manifest.provenance.get("device"):
        yield f"  computed on {device}"
    for step in manifest.provenance.get("chain", ()):
        yield f"  node {step.get('node')}: {step.get('merge_method') or step.get('kind') or 'LoRA'}"
    for leaf in manifest.provenance.get("leaves", ()):
        yield f"  source {leaf.get('name')}: {leaf.get('model')} (content {leaf.get('content')})"


def inspect_json(looked: Looked) -> dict[str, Any]:
    """A checkpoint for machines."""
    said, manifest, adapter = looked.summary, looked.manifest, looked.adapter
    return {
        "reference": looked.reference,
        "path": str(looked.path),
        "hub": [{"repo": s.repo, "revision": s.revision, "commit": s.commit}
                for s in looked.snapshots],
        "architectures": list(said.architectures),
        "model_type": said.model_type,
        "parameters": said.parameters,
        "bytes": looked.size,
        "dtypes": {
            dtype: {"tensors": count, "parameters": elements}
            for dtype, (count, elements) in said.dtypes.items()
        },
        "stacks": [
            {"prefix": s.prefix, "layers": s.count, "role": s.role, "tensors": s.size}
            for s in (said.stacks if not looked.alone else ())
        ],
        "vocabulary": {"rows": said.vocabulary, "config": said.vocab_size},
        "tied": said.tied,
        "head": said.head,
        "embedding": said.embedding,
        "adapter": (
            {
                "ranks": {str(rank): n for rank, n in adapter.ranks.items()},
                "scales": {repr(scale): n for scale, n in adapter.scales.items()},
                "targets": dict(adapter.targets),
                "saved": list(adapter.saved),
                "base": adapter.base,
            }
            if adapter is not None
            else None
        ),
        "notes": [*([said.mismatch] if said.mismatch and not looked.alone else []), *looked.notes],
        "files": [file.name for file in looked.files],
        "side_files": [file.name for file in looked.side_files],
        "tensors": {
            name: {
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                **({"derived": True} if name in looked.derived else {}),
            }
            for name, tensor in looked.tensors.items()
        },
        "built": (
            {"key": manifest.key, "node": manifest.node, "provenance": dict(manifest.provenance)}
            if manifest is not None
            else None
        ),
    }  # fmt: skip


def publication_text(place: str, made: Publication) -> str:
    """What would be published: every file, and the card."""
    rows = [f"  {size(count):>10}  {name}" for name, count in made.sizes.items()]
    total = f"  {size(sum(made.sizes.values())):>10}  {plural(len(rows), 'file')}"
    return "\n".join([place, *rows, total, "", made.card.rstrip()])

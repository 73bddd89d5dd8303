"""The manifest of a node that was just built."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from mergebuild.cache import FileRecord, Manifest, ShardRecord, TensorRecord
from mergebuild.checkpoint.safetensors import ShardPlan, index_name, index_text
from mergebuild.digest import bytes_digest
from mergebuild.plan import NodePlan, Plan, planned_layout
from mergebuild.recipe import Recipe
from mergebuild.recipe.resolved import resolved_text
from mergebuild.share.lineage import describe_leaf, describe_node, lineage


def manifest_of(
    plan: Plan,
    name: str,
    digests: Mapping[str, str],
    mtimes: Mapping[str, int],
    allow_nonfinite: bool,
) -> Manifest:
    """What a checkpoint says of itself; `digests` are of its tensors' content as written,
    `mtimes` of its files as they lie there."""
    node = plan.nodes[name]
    line = lineage(plan, name)
    provenance: dict[str, Any] = {
        "recipe": _recipe(plan.recipe),
        "chain": [describe_node(link) for link in line.nodes],
        "leaves": [describe_leaf(leaf) for leaf in line.leaves],
    }
    if allow_nonfinite:
        provenance["allow_nonfinite"] = True
    if plan.settings.device != "cpu":
        provenance["device"] = plan.settings.device
    return Manifest(
        key=node.key,
        node=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={
            "mergebuild": version("mergebuild"),
            "torch": version("torch"),
            "python": platform.python_version(),
        },
        tensors={
            tensor: _record(node, shard, tensor, digests[tensor])
            for shard in node.shards
            for tensor in sorted(shard.offsets)
        },
        shards={
            s.name: ShardRecord(s.size, planned_layout(s, node.outline), mtimes[s.name])
            for s in node.shards
        },
        files=_files(node, mtimes),
        provenance=provenance,
    )


def _recipe(recipe: Recipe) -> dict[str, Any]:
    """All that it takes to read the recipe again, wherever that is: what it includes with it."""
    variables = {} if recipe.included else dict(recipe.variables)
    return {
        "name": recipe.name,
        "file": recipe.path.name,
        "text": resolved_text(recipe) if recipe.included else recipe.text,
        **({"variables": variables} if variables else {}),
        **({"lock": recipe.lock} if recipe.lock is not None else {}),
    }


def _record(node: NodePlan, shard: ShardPlan, tensor: str, digest: str) -> TensorRecord:
    outline = node.outline.tensors[tensor]
    return TensorRecord(
        key=outline.key,
        dtype=outline.dtype,
        shape=outline.shape,
        shard=shard.name,
        offset=shard.offsets[tensor],
        size=shard.sizes[tensor],
        digest=digest,
        expression=node.expressions[tensor],
    )


def _files(node: NodePlan, mtimes: Mapping[str, int]) -> dict[str, FileRecord]:
    files = {f.name: FileRecord(f.size, f.digest, mtimes[f.name]) for f in node.outline.side_files}
    if len(node.shards) > 1:
        name, index = index_name(node.shards), index_text(node.shards)
        files[name] = FileRecord(len(index), bytes_digest(index), mtimes[name])
    return files

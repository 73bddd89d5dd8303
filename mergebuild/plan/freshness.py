"""What is there already, what is stale, and what has to be done about it.

Reads manifests, the derived index and, of what would else be computed, what remotes claim to
hold; decides, and does nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from mergebuild.cache import Cache, CachedTensor, Index, Region, shard_layout, sound
from mergebuild.cache.registry import registered
from mergebuild.checkpoint.config import is_diffusion
from mergebuild.checkpoint.peft import WEIGHTS as ADAPTER
from mergebuild.checkpoint.safetensors import (
    DIFFUSION_STEM,
    STEM,
    ShardPlan,
    plan_shards,
    single_shard,
)
from mergebuild.plan.costs import tensor_bytes
from mergebuild.plan.model import Leaf, NodePlan, OutputPlan, Reason, State
from mergebuild.plan.node import Outlined
from mergebuild.plan.outline import Outline, checkpoint_key
from mergebuild.plan.reasons import changes
from mergebuild.recipe import NodeRef, Recipe, Source
from mergebuild.remote import Remotes, RemoteTensor


class Decisions:
    """Decides node by node, users before what they use, what a build has to do. Nodes in `anew`
    are made whatever is cached of them."""

    def __init__(
        self,
        recipe: Recipe,
        cache: Cache,
        outlined: Mapping[str, Outlined],
        leaves: Mapping[Source, Leaf],
        outputs: Mapping[str, Path],
        shard_size: int,
        anew: Collection[str],
        remotes: Remotes,
    ) -> None:
        self._recipe = recipe
        self._cache = cache
        self._outlined = outlined
        self._leaves = leaves
        self._outputs = outputs
        self._shard_size = shard_size
        self._anew = anew
        self._remotes = remotes
        self._former = registered(cache, recipe.path)
        self._demanded: dict[str, set[str]] = {name: set() for name in outlined}
        self._index: Index | None = None
        self._planned: dict[object, tuple[ShardPlan, ...]] = {}

    def decide(self, order: Collection[str], targets: Collection[str]) -> dict[str, NodePlan]:
        """The plan of every node, in the given build order."""
        try:
            plans = {name: self._node(name, name in targets) for name in reversed(list(order))}
        finally:
            if self._index is not None:
                self._index.close()
        return {name: plans[name] for name in order}

    def _node(self, name: str, target: bool) -> NodePlan:
        node = self._recipe.nodes[name]
        outlined = self._outlined[name]
        outline = outlined.outline
        key = checkpoint_key(outline)
        output = self._output(name, key)
        stored = node.keep == "cache" or target
        anew = name in self._anew
        demanded = self._demanded[name]  # if nothing is, none of its tensors is read
        cached = self._cache.lookup(key, later=not demanded) if stored and not anew else None
        there = not anew and (cached is not None or (output is not None and output.fresh))
        wanted = (target and not there) or (bool(demanded) and cached is None)
        compute: frozenset[str] = frozenset()
        reuse: dict[str, CachedTensor] = {}
        fetch: dict[str, RemoteTensor] = {}
        linked: dict[str, Path] = {}
        shards: tuple[ShardPlan, ...] = ()
        if wanted:
            needed = set(outline.tensors) if stored else demanded
            reuse = self._reuse(outlined, needed, anew)
            if not anew:
                fetch = self._fetch(name, outline, key, needed - reuse.keys())
            if not target and _idle(outline, demanded, reuse, fetch):
                stored, needed = False, demanded
                reuse = {tensor: reuse[tensor] for tensor in reuse.keys() & demanded}
                fetch = {tensor: fetch[tensor] for tensor in fetch.keys() & demanded}
            compute = frozenset(needed - reuse.keys() - fetch.keys())
            self._demand(outlined, compute)
            if stored:
                shards = self._shards(outline)
                linked = {} if anew else self._linked(outline, shards, reuse)
        state: State = "fresh"
        if wanted:
            state = "partly stale" if stored and len(compute) < len(outline.tensors) else "stale"
        return NodePlan(
            node=node,
            outline=outline,
            expressions=outlined.expressions,
            models=outlined.models,
            tables=outlined.tables,
            key=key,
            state=state,
            reasons=self._reasons(name, key) if wanted and stored else (),
            wanted=wanted,
            stored=stored,
            cached=cached,
            compute=compute,
            reuse=reuse,
            linked=linked,
            shards=shards,
            output=output,
            notes=outlined.notes,
            fetch=fetch,
        )

    def _shards(self, outline: Outline) -> tuple[ShardPlan, ...]:
        """The files that a checkpoint will have; those of the same structure share them."""
        stem = DIFFUSION_STEM if is_diffusion(outline.config) else STEM
        case = outline.adapter, stem, outline.structure
        if case not in self._planned:
            listed = [(name, dtype, shape) for name, dtype, shape, _ in outline.structure.tensors]
            self._planned[case] = (
                (single_shard(listed, ADAPTER),)
                if outline.adapter
                else plan_shards(listed, self._shard_size, stem)
            )
        return self._planned[case]

    def _demand(self, outlined: Outlined, compute: Collection[str]) -> None:
        demanded = {
            called: self._demanded[model.name]
            for called, model in outlined.models.items()
            if isinstance(model, NodeRef)
        }
        for name in compute if demanded else ():
            for operand in outlined.expressions[name].operands:
                if operand.view is not None:
                    for part in operand.read:
                        if part.model in demanded:
                            demanded[part.model].add(part.tensor)
                elif operand.model in demanded:
                    demanded[operand.model].add(operand.tensor)

    def _reuse(
        self, outlined: Outlined, needed: Collection[str], anew: bool
    ) -> dict[str, CachedTensor]:
        """Where tensors lie already, in the cache (not if they are to be made `anew`) or in a
        source."""
        if self._index is None:
            self._index = Index(self._cache)
        keys = {name: outlined.outline.tensors[name].key for name in needed}
        cached = {} if anew else self._index.tensors(keys.values())
        found: dict[str, CachedTensor] = {}
        for name, expression in outlined.expressions.items():
            if name not in needed:
                continue
            if keys[name] in cached:
                found[name] = cached[keys[name]]
            elif expression.unchanged and expression.operands[0].view is None:
                operand = expression.operands[0]
                model = outlined.models[operand.model]
                if isinstance(model, Source) and operand.tensor not in self._leaves[model].derived:
                    tensor = self._leaves[model].checkpoint.tensors[operand.tensor]
                    region = Region(tensor.file, tensor.offset, tensor.nbytes)
                    found[name] = CachedTensor(region, keys[name])
        return dict(sorted(found.items()))

    def _fetch(
        self, name: str, outline: Outline, key: str, lacking: Collection[str]
    ) -> dict[str, RemoteTensor]:
        """Where on remotes tensors lie that are not on this machine."""
        if not lacking or not any(True for _ in self._remotes):
            return {}
        from mergebuild.remote.claim import outline_digest

        wanted = {tensor: outline.tensors[tensor].key for tensor in sorted(lacking)}
        kin = outline_digest((n, t.dtype, t.shape) for n, t in outline.tensors.items())
        found = self._remotes.tensors(key, name, kin, wanted)
        sizes = {tensor: tensor_bytes(outline.tensors[tensor]) for tensor in found}
        return {tensor: place for tensor, place in found.items() if place.size == sizes[tensor]}

    def _linked(
        self, outline: Outline, shards: tuple[ShardPlan, ...], reuse: Collection[str]
    ) -> dict[str, Path]:
        assert self._index is not None
        whole = [shard for shard in shards if shard.offsets.keys() <= set(reuse)]
        layouts = {shard.name: planned_layout(shard, outline) for shard in whole}
        cached = self._index.shards(layouts.values())
        return {name: cached[layout] for name, layout in layouts.items() if layout in cached}

    def _output(self, name: str, key: str) -> OutputPlan | None:
        path = self._outputs.get(name)
        if path is None:
            return None
        if not path.exists():
            return OutputPlan(path, False, "is not there")
        manifest = sound(path, later=True)
        if manifest is None:
            return OutputPlan(path, False, "is not whole, or was not built by mergebuild")
        if manifest.key != key:
            return OutputPlan(path, False, "holds an earlier build")
        return OutputPlan(path, True, None)

    def _reasons(self, name: str, key: str) -> tuple[Reason, ...]:
        before = self._former.nodes.get(name) if self._former is not None else None
        if before is None:
            return (Reason("not built yet"),)
        manifest = self._cache.lookup(before)
        if before == key or manifest is None:
            return (Reason("no longer whole in the cache"),)
        outlined = self._outlined[name]
        return tuple(changes(manifest, outlined.expressions, outlined.outline.side_files))


def _idle(
    outline: Outline,
    demanded: Collection[str],
    reuse: Collection[str],
    fetch: Mapping[str, RemoteTensor],
) -> bool:
    """Whether completing an intermediate checkpoint would download more that nobody asks for than
    it would keep of what is computed: then it exists in flight only."""
    unasked = sum(there.size for tensor, there in fetch.items() if tensor not in demanded)
    if not unasked:
        return False
    computed = outline.tensors.keys() - set(reuse) - fetch.keys()
    return unasked > sum(tensor_bytes(outline.tensors[tensor]) for tensor in computed)


def planned_layout(shard: ShardPlan, outline: Outline) -> str:
    """The digest of all that a shard will hold."""
    return shard_layout(shard.header, ((name, outline.tensors[name].key) for name in shard.offsets))

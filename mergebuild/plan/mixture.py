"""The outline of a node of kind `moe`: which dense tensor each of a mixture's is.

Routers are `gates.py`'s. Everything but the experts and their routers is the base's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mergebuild.checkpoint.dtypes import is_floating, promote
from mergebuild.checkpoint.mixtures import (
    ARCHITECTURES,
    PROJECTIONS,
    Architecture,
    Sizes,
    chosen,
    misfit,
    mixture_config,
)
from mergebuild.checkpoint.side_files import CONFIG
from mergebuild.checkpoint.stacks import Stack, ties
from mergebuild.errors import Location, RecipeError
from mergebuild.expression import Expression, Operand, tensor_key
from mergebuild.methods.declaration import Method
from mergebuild.plan.gates import Router, router
from mergebuild.plan.node import Outlined, config_file, config_text
from mergebuild.plan.outline import Outline, TensorOutline, make_outline
from mergebuild.plan.remarks import Remarks, some
from mergebuild.plan.sizes import shape_text
from mergebuild.recipe import Expert, Mixture, ModelRef, Node

_BUFFER = "rotary_emb.inv_freq"


def outline_mixture(
    node: Node,
    body: Mixture,
    methods: Mapping[str, Method],
    outlines: Mapping[ModelRef, Outline],
) -> Outlined:
    """Everything about the node that is known before anything is computed.

    Raises RecipeError where its models do not make a mixture.
    """
    assert node.base is not None
    base = outlines[node.base]
    architecture, stack = _architecture(node, body, base)
    made = _Mixing(node, body, architecture, outlines, stack, methods["passthrough"])
    made.beside()
    for layer in range(stack.count):
        made.layer(layer)
    if made.remarks.problems:
        raise RecipeError(*made.remarks.errors(node))
    tensors = {
        name: TensorOutline(tensor_key(e), e.dtype, e.shape)
        for name, e in sorted(made.expressions.items())
    }
    assert base.config is not None
    config = mixture_config(architecture, base.config, made.sizes())
    text = config_text(node, replace(base, config=config), tensors, ())
    return Outlined(
        make_outline(
            name=node.name,
            tensors=tensors,
            config=json.loads(text) if text is not None else None,
            side_files=(
                *config_file(text),
                *(f for f in base.side_files if f.name != CONFIG and not f.code),
            ),
        ),
        made.expressions,
        {str(reference): reference for reference in node.references()},
        tuple(
            f"{message} ({some(names)})" if names[0] else message
            for message, names in made.remarks.notes.items()
        ),
    )


def _architecture(node: Node, body: Mixture, base: Outline) -> tuple[Architecture, Stack]:
    """What the base becomes, and its layers. Raises RecipeError."""

    def refuse(message: str, hint: str | None = None) -> RecipeError:
        return RecipeError.of(f"node '{node.name}': {message}", at=at, hint=hint)

    at = node.base.at if node.base is not None and node.base.at is not None else node.at
    dense = (base.config or {}).get("model_type")
    known = sorted({kind for one in ARCHITECTURES.values() for kind in one.dense})
    name = body.architecture or chosen(dense, bool(body.shared))
    if name is None or dense not in known:
        said = f"is of type '{dense}'" if dense else "has no config that says its type"
        raise refuse(f"base '{node.base}' {said}", f"possible are: {', '.join(known)}")
    found = ARCHITECTURES[name]
    if dense not in found.dense:
        possible = " or ".join(found.dense)
        raise refuse(f"'{name}' is not made from '{dense}', but from {possible}")
    if (why := misfit(found, base.config or {})) is not None:
        raise refuse(f"base '{node.base}' cannot become '{name}': {why}")
    if found.shared is None and body.shared:
        raise refuse(f"'{name}' has no shared experts", "use 'architecture: qwen2_moe'")
    if found.shared is not None and len(body.shared) != 1:
        said = f"'{name}' has one shared expert, not {len(body.shared)}"
        raise refuse(said, "name one under 'shared_experts:'; 'residual_scale' says how much of it")
    stack = base.layout.default
    if stack is None:
        raise refuse(f"base '{node.base}' has no layers")
    return found, stack


@dataclass(slots=True)
class _Mixing:
    node: Node
    body: Mixture
    architecture: Architecture
    outlines: Mapping[ModelRef, Outline]
    stack: Stack
    passthrough: Method
    remarks: Remarks = field(default_factory=Remarks)
    expressions: dict[str, Expression] = field(default_factory=dict)
    _wide: dict[bool, int] = field(default_factory=dict)
    _keys: int = 0

    @property
    def base(self) -> tuple[ModelRef, Outline]:
        assert self.node.base is not None
        return self.node.base, self.outlines[self.node.base]

    def sizes(self) -> Sizes:
        shared = self._wide.get(True)
        return Sizes(
            len(self.body.experts), self.body.per_token, self.stack.count,
            self._wide[False], shared, self._keys,
        )  # fmt: skip

    def beside(self) -> None:
        """What is in no layer is the base's."""
        reference, outline = self.base
        inside = {
            name
            for layer in range(self.stack.count)
            for name in outline.layout.layer(self.stack, layer).values()
        }
        for name, tensor in outline.tensors.items():
            if name in inside:
                continue
            if name == outline.head and ties(outline.config) is True:
                self.remarks.note(f"not written: '{outline.name}' ties it to the embedding", name)
            else:
                self.expressions[name] = self._copied(reference, name, tensor)

    def layer(self, layer: int) -> None:
        """One layer: attention and norms of the base, experts, router."""
        reference, outline = self.base
        own = outline.layout.layer(self.stack, layer)
        names = self.architecture
        at = f"{self.stack.prefix}{layer}."
        for rest in (rest for rest in names.needed if rest not in own):
            self._problem(f"'{names.name}' needs a tensor that '{reference}' lacks", at + rest)
        for rest, name in own.items():
            if rest in names.needed or rest in names.allowed:
                self.expressions[name] = self._copied(reference, name, outline.tensors[name])
            elif rest.endswith(_BUFFER):
                self.remarks.note("a buffer that is computed anew: not written", name)
            elif rest not in (f"mlp.{projection}.weight" for projection in PROJECTIONS):
                self._problem(f"'{names.name}' has no place for a tensor of '{reference}'", name)
        key = own.get("self_attn.k_proj.weight")
        self._keys = outline.tensors[key].shape[0] if key is not None else 0
        for index, expert in enumerate(self.body.experts):
            self._expert(expert, layer, at + names.expert.format(index), shared=False)
        for expert in self.body.shared:
            self._expert(expert, layer, at + (names.shared or ""), shared=True)
        self._router(self.body.experts, layer, at + names.router)
        if names.shared_gate is not None:
            self._router(self.body.shared, layer, at + names.shared_gate)

    def _expert(self, expert: Expert, layer: int, prefix: str, *, shared: bool) -> None:
        outline = self.outlines[expert.model]
        stack = outline.layout.default
        if stack is None or stack.count != self.stack.count:
            count = stack.count if stack is not None else 0
            said = f"'{expert.model}' has {count} layers, not {self.stack.count} as the base"
            self._problem(said, f"{self.stack.prefix}0", expert.at)
            return
        own = outline.layout.layer(stack, layer)
        if any(rest.startswith("mlp.") and rest.endswith(".bias") for rest in own):
            name = next(n for r, n in own.items() if r.startswith("mlp.") and r.endswith(".bias"))
            said = f"the feed-forward layers of '{expert.model}' have biases, an expert's have none"
            self._problem(said, name, expert.at)
        for projection, called in zip(PROJECTIONS, self.architecture.projections, strict=True):
            called_by = f"mlp.{projection}.weight"
            if called_by not in own:
                said = f"'{expert.model}' has no such tensor"
                self._problem(said, f"{stack.prefix}{layer}.{called_by}", expert.at)
                continue
            name = own[called_by]
            tensor = outline.tensors[name]
            last = projection == PROJECTIONS[-1]
            wide = self._wide.setdefault(shared, tensor.shape[-1] if last else tensor.shape[0])
            hidden = self._hidden()
            fits = (hidden, wide) if last else (wide, hidden)
            if tensor.shape != fits:
                self._problem(
                    f"an expert of '{expert.model}' is {shape_text(tensor.shape)}, "
                    f"not {list(fits)}",
                    name, expert.at, "experts are of one size, and of the base's hidden size",
                )  # fmt: skip
            scale = expert.scale if last and expert.scale != 1.0 else None
            suffix = f"{called}.weight"
            self.expressions[prefix + suffix] = self._copied(expert.model, name, tensor, scale)

    def _hidden(self) -> int:
        _, outline = self.base
        size = outline.tensors.get(f"{self.stack.prefix}0.input_layernorm.weight")
        return size.shape[0] if size is not None else 0

    def _router(self, experts: Sequence[Expert], layer: int, name: str) -> None:
        _, outline = self.base
        tensors = outline.tensors.values()
        own = promote(t.counts_as or t.dtype for t in tensors if is_floating(t.dtype))
        deviation = (outline.config or {}).get("initializer_range")
        self.expressions[name] = router(
            Router(name, layer, self.stack.count, self._hidden(), self._dtype(own), deviation),
            experts,
            self.body.gates,
            self.outlines,
            self.node.seed,
            self.remarks,
        )

    def _copied(
        self, model: ModelRef, name: str, tensor: TensorOutline, scale: float | None = None
    ) -> Expression:
        own = tensor.counts_as or tensor.dtype
        return Expression(
            method=self.passthrough.name,
            version=self.passthrough.version,
            operands=(Operand(str(model), name, tensor.key, tensor.dtype),),
            base=False,
            arguments={"scale": (scale,)},
            dtype=self._dtype(own) if is_floating(tensor.dtype) else tensor.dtype,
            shape=tensor.shape,
        )

    def _dtype(self, own: str) -> str:
        return self.node.out_dtype or self.node.dtype or own

    def _problem(
        self, message: str, tensor: str, at: Location | None = None, hint: str | None = None
    ) -> None:
        self.remarks.problem(message, tensor, at or self.body.at, hint)

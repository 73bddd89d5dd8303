"""The outline of a node of kind `lora`: which tensors differ, and what becomes of each.

Tensors of equal keys are equal, so what a finetune left alone is known before anything is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mergebuild.checkpoint.adapter import CONFIG, fits
from mergebuild.checkpoint.dtypes import is_floating, promote
from mergebuild.checkpoint.peft import Factored, adapter_config, factor_names, saved_name
from mergebuild.checkpoint.stacks import is_embedding
from mergebuild.digest import bytes_digest
from mergebuild.errors import RecipeError
from mergebuild.expression import Expression, Operand, tensor_key
from mergebuild.methods.declaration import Method
from mergebuild.operations import EXTRACT
from mergebuild.plan.node import Outlined
from mergebuild.plan.outline import Outline, SideFile, TensorOutline, differ, make_outline
from mergebuild.plan.remarks import Remarks, some
from mergebuild.plan.sizes import shape_text
from mergebuild.recipe import Extraction, ModelRef, Node
from mergebuild.recipe.values import matches

_WEIGHT = ".weight"


def outline_extraction(
    node: Node,
    body: Extraction,
    methods: Mapping[str, Method],
    outlines: Mapping[ModelRef, Outline],
) -> Outlined:
    """Everything about the node that is known before anything is computed.

    Raises RecipeError with every misfit between its two models.
    """
    assert node.base is not None
    base, model = outlines[node.base], outlines[body.model]
    made = _Extracting(node, body, base, model, methods["passthrough"])
    made.decide()
    remarks = made.remarks
    if not remarks.problems and not made.factored:
        remarks.problem(
            "no matrix differs between the two that 'modules' means", node.name, body.at
        )
    if remarks.problems:
        raise RecipeError(*remarks.errors(node))
    made.check_filters()
    config = adapter_config(
        made.factored,
        saved=made.saved,
        matrices={n: t.shape for n, t in base.tensors.items() if len(t.shape) == 2},
        alpha=body.alpha,
        config=base.config,
        origin=base.origin,
    )
    tensors = {
        name: TensorOutline(tensor_key(e), e.dtype, e.shape)
        for name, e in sorted(made.expressions.items())
    }
    file = SideFile(CONFIG, bytes_digest(config), len(config), data=config)
    return Outlined(
        make_outline(node.name, tensors, None, (file,), adapter=True),
        made.expressions,
        {str(reference): reference for reference in (node.base, body.model)},
        tuple(f"{text} ({some(names)})" if names[0] else text
              for text, names in remarks.notes.items()),
    )  # fmt: skip


@dataclass(slots=True)
class _Extracting:
    node: Node
    body: Extraction
    base: Outline
    model: Outline
    passthrough: Method
    remarks: Remarks = field(default_factory=Remarks)
    expressions: dict[str, Expression] = field(default_factory=dict)
    factored: list[Factored] = field(default_factory=list)
    saved: list[str] = field(default_factory=list)

    def decide(self) -> None:
        """Every tensor of the two models: a pair of factors, kept whole, or left out."""
        for name in sorted({*self.base.tensors, *self.model.tensors}):
            one, other = self.base.tensors.get(name), self.model.tensors.get(name)
            if one is None or other is None:
                there = self.model if one is None else self.base
                self.remarks.note(f"only in '{there.name}': left out", name)
            elif differ(((self.base, one), (self.model, other))):
                self._changed(name, one, other)
        whole = {module for name in self.saved if (module := _module(name))}
        for name, tensor in self.model.tensors.items():
            # PEFT saves whole modules: what else is theirs goes with them.
            if name not in self.saved and _module(name) in whole and name in self.base.tensors:
                self._save(name, tensor)

    def _changed(self, name: str, base: TensorOutline, model: TensorOutline) -> None:
        saved = any(matches(filter, name, True) for filter in self.body.saved)
        embedding = is_embedding(name)
        if base.shape != model.shape:
            self.remarks.problem(
                f"shapes differ: {shape_text(base.shape)} in '{self.node.base}', "
                f"{shape_text(model.shape)} in '{self.body.model}'", name, self.node.at,
                "a LoRA keeps every shape; where the vocabulary grew, bring it to the base first",
            )  # fmt: skip
        elif not (is_floating(base.dtype) and is_floating(model.dtype)):
            self.remarks.note("differs and is not of floating point: left out", name)
        elif saved or (embedding and self.body.embeddings == "save"):
            self._save(name, model)
        elif embedding and self.body.embeddings == "leave":
            self.remarks.note("an embedding that differs: left out, as 'embeddings' says", name)
        elif len(model.shape) != 2 or not name.endswith(_WEIGHT):
            self.remarks.note(
                "differs and is no matrix: left out; name it under 'modules_to_save' to keep it "
                "whole", name,
            )  # fmt: skip
        elif self.body.modules and not any(matches(f, name, True) for f in self.body.modules):
            self.remarks.note("differs and is left out, as 'modules' says", name)
        elif 0 not in model.shape:
            self._factor(name, base, model, embedding)

    def _factor(
        self, name: str, base: TensorOutline, model: TensorOutline, embedding: bool
    ) -> None:
        module = name.removesuffix(_WEIGHT)
        asked = next((r for p, r in self.body.ranks if p is None or fits(p, module)), None)
        if asked is None:
            self.remarks.problem(
                "no pattern of 'rank' fits the module", name, self.body.at,
                "end the patterns with '*' for all others, or choose with 'modules'",
            )  # fmt: skip
            return
        rank = min(asked, *model.shape)
        if rank < asked:
            self.remarks.note(f"is of rank {rank} at the most, not {asked}", name)
        transposed = embedding or _stored_across(name, self.base)
        out, wide = reversed(model.shape) if transposed else model.shape
        scale = 1.0 if self.body.alpha is None else self.body.alpha / rank
        made = Factored(module, rank, embedding, transposed and not embedding)
        self.factored.append(made)
        if name == self.base.embedding and self.base.tied:
            self.remarks.note(
                "is the output head too: PEFT leaves the head as it is until it merges the adapter",
                name,
            )
        for part, part_name, shape in zip(
            "ab", factor_names(made), ((rank, wide), (out, rank)), strict=True
        ):
            self.expressions[part_name] = Expression(
                method=EXTRACT.name,
                version=EXTRACT.version,
                operands=tuple(
                    Operand(str(r), name, t.key, t.dtype, t.shape)
                    for r, t in ((self.node.base, base), (self.body.model, model))
                ),
                base=True,
                arguments={"part": part, "rank": rank, "scale": scale, "transposed": transposed},
                dtype=self._dtype(base, model),
                shape=shape,
            )

    def _save(self, name: str, tensor: TensorOutline) -> None:
        self.saved.append(name)
        operand = Operand(str(self.body.model), name, tensor.key, tensor.dtype)
        floating = is_floating(tensor.dtype)
        self.expressions[saved_name(name)] = Expression(
            method=self.passthrough.name,
            version=self.passthrough.version,
            operands=(operand,),
            base=False,
            arguments={"scale": (None,)},
            dtype=self._dtype(tensor) if floating else tensor.dtype,
            shape=tensor.shape,
        )

    def _dtype(self, *tensors: TensorOutline) -> str:
        declared = self.node.out_dtype or self.node.dtype
        return declared or promote(tensor.counts_as or tensor.dtype for tensor in tensors)

    def check_filters(self) -> None:
        for key, filters in (("modules", self.body.modules), ("modules_to_save", self.body.saved)):
            for filter in filters:
                if not any(matches(filter, name, True) for name in self.base.tensors):
                    self.remarks.note(f"filter '{filter}' of '{key}' matches no tensor", "")


def _module(name: str) -> str:
    """The module that a tensor belongs to."""
    return name.rpartition(".")[0]


def _stored_across(name: str, outline: Outline) -> bool:
    """Whether a matrix is [in, out], as GPT-2's: its bias tells, else those of its stack."""
    own = _across(name, outline)
    rows, columns = outline.tensors[name].shape
    if own is not None or rows != columns:
        return own or False
    stack = outline.layout.split(name)[0]
    votes = [
        vote
        for other, tensor in outline.tensors.items()
        if len(tensor.shape) == 2 and outline.layout.split(other)[0] == stack
        if (vote := _across(other, outline)) is not None
    ]
    return 2 * sum(votes) > len(votes)


def _across(name: str, outline: Outline) -> bool | None:
    bias = outline.tensors.get(name.removesuffix(_WEIGHT) + ".bias")
    rows, columns = outline.tensors[name].shape
    if bias is None or rows == columns or bias.shape not in ((rows,), (columns,)):
        return None
    return bias.shape == (columns,)

"""From a slot to an expression: parameters, dtype, shape, and what to do about missing tensors.

Works on outlines and declarations; reads nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from mergebuild.checkpoint.buffers import is_buffer
from mergebuild.checkpoint.dtypes import is_floating, promote
from mergebuild.checkpoint.stacks import ties
from mergebuild.expression import Expression, Operand
from mergebuild.methods.declaration import Method
from mergebuild.plan.arrangement import Arrangement, UnknownRowError
from mergebuild.plan.cast import Cast, Participant
from mergebuild.plan.evaluation import Evaluated, Evaluation
from mergebuild.plan.families import Family, Sorted
from mergebuild.plan.outline import Outline, TensorOutline, differ
from mergebuild.plan.remarks import Remarks
from mergebuild.plan.slots import Slot
from mergebuild.recipe import Node

Brought: TypeAlias = tuple[Participant, TensorOutline, str]
"""A participant, the tensor that it brings, and its own name for that."""


@dataclass(frozen=True, slots=True)
class Resolver:
    """Turns the slots of one node, whose casts stand by place, into expressions. `pattern` is the
    checkpoint whose config the output gets."""

    node: Node
    pattern: Outline
    casts: Sequence[Cast]
    method: Method
    passthrough: Method
    evaluation: Evaluation
    remarks: Remarks
    arrangement: Arrangement | None = None

    def expressions(self, found: Sorted) -> dict[str, Expression]:
        """The expressions of all slots, by output tensor. Where a remark says why there is none,
        there is none."""
        made: dict[str, Expression] = {}
        shared: dict[int, Evaluated] = {}
        for slot, number in zip(found.slots, found.numbers, strict=True):
            if number is None or self.arrangement is not None:
                expression = self._single(slot)
                if expression is not None:
                    made[slot.name] = expression
                continue
            family = found.families[number]
            cast = self.casts[family.place]
            evaluated = shared.get(number)
            if evaluated is None:
                evaluated = self.evaluation.of(
                    slot, cast, family.shape, cast.participants, slot.names
                )
                if self.evaluation.even(cast):
                    shared[number] = evaluated
            made[slot.name] = self._of_family(slot, family, cast, evaluated)
        return made

    def _of_family(
        self, slot: Slot, family: Family, cast: Cast, evaluated: Evaluated
    ) -> Expression:
        operands = [
            participant.operands[name]
            for participant, name in zip(cast.participants, slot.names, strict=True)
            if name is not None
        ]
        dtype = self._declared or family.dtype
        return self._made(slot, evaluated, tuple(operands), dtype, family.shape, family.wide)

    def _single(self, bare: Slot) -> Expression | None:
        """The expression for a slot; None where a remark says why there is none."""
        slot = self._with_head(bare)
        if slot is None:
            return None
        try:
            present = self._brought(slot)
        except UnknownRowError as error:
            self.remarks.problem(str(error), slot.name, error.at, error.hint)
            return None
        if len(present) < len(slot.names):
            if self.node.missing == "error":
                lacking = next(
                    p.model
                    for p, name in zip(self.casts[slot.place].participants, slot.names, strict=True)
                    if name is None
                )
                self.remarks.problem(
                    f"'{lacking}' lacks a tensor that other inputs have",
                    slot.name,
                    self.node.at,
                    "`missing: copy` takes it from those that have it",
                )
                return None
            keep = self._present(slot, present)
            if keep is None:
                return None
            present = keep
            if len(present) == 1:
                return self._copied(slot, *present[0])
        if is_buffer(slot.name, present[0][1].shape):
            return self._buffer(slot, present)
        dtypes = {tensor.dtype for _, tensor, _ in present}
        if not all(map(is_floating, dtypes)):
            return self._integral(slot, present)
        if len({tensor.shape for _, tensor, _ in present}) > 1:
            self.remarks.sizes[slot.name] = {str(p.model): t.shape for p, t, _ in present}
            return None
        return self._merged(slot, present, "float64" in dtypes)

    def _with_head(self, slot: Slot) -> Slot | None:
        """The slot with a tied input's embedding as its output head; None if the output has no
        head."""
        participants = self.casts[slot.place].participants
        if slot.name not in {p.naming.head for p in participants}:
            return slot
        if ties(self.pattern.config) is True:
            self.remarks.note(
                f"not written: the config of '{self.pattern.name}' ties it to the embedding",
                slot.name,
            )
            return None
        names = list(slot.names)
        for index, participant in enumerate(participants):
            if names[index] is None and participant.outline.tied:
                names[index] = participant.outline.embedding
                text = f"'{participant.model}' ties it: its embedding takes part"
                self.remarks.note(text, slot.name)
        return replace(slot, names=tuple(names))

    def _brought(self, slot: Slot) -> list[Brought]:
        """What the participants bring, in the vocabulary of the node."""
        pairs = zip(self.casts[slot.place].participants, slot.names, strict=True)
        found = [(p, p.naming.outline.tensors[name], name) for p, name in pairs if name is not None]
        if self.arrangement is None:
            return found
        return [
            (p, self.arrangement.tensor(p.model, name, tensor, slot.name), name)
            for p, tensor, name in found
        ]

    def _present(self, slot: Slot, present: list[Brought]) -> list[Brought] | None:
        """Which of the inputs that have the tensor are used, by the method's rule."""
        base = self.casts[slot.place].base
        base_there = base and slot.names[0] is not None
        owners = ", ".join(f"'{participant.model}'" for participant, _, _ in present)
        if len(present) == 1:
            self.remarks.note(f"only in {owners}: copied", slot.name)
            return present
        if self.method.missing == "subset" and (base_there or not base):
            self.remarks.note(f"merged from {owners} alone, the others lack it", slot.name)
            return present
        if base_there and self.method.missing == "base-or-skip" and len(present) > 2:
            self.remarks.note(f"merged from {owners} alone, the others lack it", slot.name)
            return present
        if base_there:
            self.remarks.note(f"not in every input: copied from '{present[0][0].model}'", slot.name)
            return present[:1]
        self.remarks.problem(
            f"method '{self.method.name}' needs a tensor that only {owners} have",
            slot.name,
            self.casts[slot.place].part.at,
        )
        return None

    def _copied(
        self, slot: Slot, participant: Participant, tensor: TensorOutline, name: str
    ) -> Expression:
        dtype = self._dtype([tensor]) if is_floating(tensor.dtype) else tensor.dtype
        return Expression(
            method=self.passthrough.name,
            version=self.passthrough.version,
            operands=(
                participant.operands[name]
                if tensor.view is None
                else _viewed(participant, tensor, name),
            ),
            base=False,
            arguments={"scale": (None,)},
            dtype=dtype,
            shape=tensor.shape,
        )

    def _buffer(self, slot: Slot, present: list[Brought]) -> Expression:
        if differ((participant.outline, tensor) for participant, tensor, _ in present):
            self.remarks.note(f"no weight: copied from '{present[0][0].model}'", slot.name)
        return self._copied(slot, *present[0])

    def _integral(self, slot: Slot, present: list[Brought]) -> Expression | None:
        if differ((participant.outline, tensor) for participant, tensor, _ in present):
            self.remarks.problem(
                "a tensor that is not of floating point differs between the inputs",
                slot.name,
                self.casts[slot.place].part.at,
                "such tensors cannot be merged",
            )
            return None
        return self._copied(slot, *present[0])

    def _merged(self, slot: Slot, present: list[Brought], wide: bool) -> Expression:
        cast, shape = self.casts[slot.place], present[0][1].shape
        participants = [participant for participant, _, _ in present]
        names = [name for _, _, name in present]
        found = self.evaluation.of(slot, cast, shape, participants, names)
        operands = [
            p.operands[name] if t.view is None else _viewed(p, t, name) for p, t, name in present
        ]
        dtype = self._dtype([tensor for _, tensor, _ in present])
        return self._made(slot, found, tuple(operands), dtype, shape, wide)

    def _made(
        self,
        slot: Slot,
        found: Evaluated,
        operands: tuple[Operand, ...],
        dtype: str,
        shape: tuple[int, ...],
        wide: bool,
    ) -> Expression:
        """A merge, with what there is to say of it; `wide` if an operand is float64."""
        for finding in found.findings:
            if finding.level == "error":
                self.remarks.problem(finding.message, slot.name, self.node.at)
            else:
                self.remarks.note(finding.message, slot.name)
        made = Expression(
            self.method.name,
            self.method.version,
            operands,
            self.casts[slot.place].base,
            found.arguments,
            dtype,
            shape,
            slot.name if self.method.random and "seed" not in found.idle else None,
        )
        if wide and not made.unchanged:
            self.remarks.note("float64 inputs are rounded to float32, to compute with", slot.name)
        return made

    @property
    def _declared(self) -> str | None:
        return self.node.out_dtype or self.node.dtype

    def _dtype(self, tensors: Sequence[TensorOutline]) -> str:
        return self._declared or promote([tensor.counts_as or tensor.dtype for tensor in tensors])


def _viewed(participant: Participant, tensor: TensorOutline, name: str) -> Operand:
    return Operand(participant.called, name, tensor.key, tensor.dtype, None, tensor.view)

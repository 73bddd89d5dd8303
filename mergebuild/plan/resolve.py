"""From a slot to an expression: parameters, dtype, shape, and what to do about missing tensors.

Works on outlines and declarations; reads nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mergebuild.checkpoint.buffers import is_buffer
from mergebuild.checkpoint.dtypes import is_floating, promote
from mergebuild.expression import Expression, Operand
from mergebuild.methods.declaration import Method
from mergebuild.plan.arrangement import Arrangement, UnknownRowError
from mergebuild.plan.cast import Participant
from mergebuild.plan.evaluation import Brought, Evaluation
from mergebuild.plan.outline import TensorOutline
from mergebuild.plan.remarks import Remarks
from mergebuild.plan.slots import Slot
from mergebuild.recipe import Node


@dataclass(frozen=True, slots=True)
class Resolver:
    """Turns the slots of one node into expressions."""

    node: Node
    method: Method
    passthrough: Method
    evaluation: Evaluation
    remarks: Remarks
    arrangement: Arrangement | None = None

    def expression(self, slot: Slot) -> Expression | None:
        """The expression for a slot; None where a remark says why there is none."""
        try:
            present = self._brought(slot)
        except UnknownRowError as error:
            self.remarks.problem(str(error), slot.name, error.at, error.hint)
            return None
        if len(present) < len(slot.names):
            if self.node.missing == "error":
                lacking = next(
                    p.model
                    for p, name in zip(slot.cast.participants, slot.names, strict=True)
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
        made = self._merged(slot, present)
        if "float64" in dtypes and not made.unchanged:
            self.remarks.note("float64 inputs are rounded to float32, to compute with", slot.name)
        return made

    def _brought(self, slot: Slot) -> list[Brought]:
        """What the participants bring, in the vocabulary of the node."""
        pairs = zip(slot.cast.participants, slot.names, strict=True)
        found = [(p, p.naming.outline.tensors[name], name) for p, name in pairs if name is not None]
        if self.arrangement is None:
            return found
        return [
            (p, self.arrangement.tensor(p.model, name, tensor, slot.name), name)
            for p, tensor, name in found
        ]

    def _present(self, slot: Slot, present: list[Brought]) -> list[Brought] | None:
        """Which of the inputs that have the tensor are used, by the method's rule."""
        base_there = slot.cast.base and slot.names[0] is not None
        owners = ", ".join(f"'{participant.model}'" for participant, _, _ in present)
        if len(present) == 1:
            self.remarks.note(f"only in {owners}: copied", slot.name)
            return present
        if self.method.missing == "subset" and (base_there or not slot.cast.base):
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
            slot.cast.part.at,
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
        if len({(tensor.key, tensor.dtype) for _, tensor, _ in present}) > 1:
            self.remarks.note(f"no weight: copied from '{present[0][0].model}'", slot.name)
        return self._copied(slot, *present[0])

    def _integral(self, slot: Slot, present: list[Brought]) -> Expression | None:
        if len({(tensor.key, tensor.dtype) for _, tensor, _ in present}) > 1:
            self.remarks.problem(
                "a tensor that is not of floating point differs between the inputs",
                slot.name,
                slot.cast.part.at,
                "such tensors cannot be merged",
            )
            return None
        return self._copied(slot, *present[0])

    def _merged(self, slot: Slot, present: list[Brought]) -> Expression:
        found = self.evaluation.of(slot, present)
        for finding in found.findings:
            if finding.level == "error":
                self.remarks.problem(finding.message, slot.name, self.node.at)
            else:
                self.remarks.note(finding.message, slot.name)
        return Expression(
            method=self.method.name,
            version=self.method.version,
            operands=tuple(
                [
                    p.operands[name] if t.view is None else _viewed(p, t, name)
                    for p, t, name in present
                ]
            ),
            base=slot.cast.base,
            arguments=found.arguments,
            dtype=self._declared or self._dtype([tensor for _, tensor, _ in present]),
            shape=present[0][1].shape,
            stream=slot.name if self.method.random and "seed" not in found.idle else None,
        )

    @property
    def _declared(self) -> str | None:
        return self.node.out_dtype or self.node.dtype

    def _dtype(self, tensors: Sequence[TensorOutline]) -> str:
        return self._declared or promote([tensor.counts_as or tensor.dtype for tensor in tensors])


def _viewed(participant: Participant, tensor: TensorOutline, name: str) -> Operand:
    return Operand(participant.called, name, tensor.key, tensor.dtype, None, tensor.view)

"""From a slot to an expression: parameters, dtype, shape, and what to do about missing tensors.

Works on outlines and declarations; reads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from mergebuild.checkpoint.buffers import is_buffer
from mergebuild.checkpoint.dtypes import is_floating, promote
from mergebuild.errors import Location, Problem
from mergebuild.expression import Expression, Operand
from mergebuild.methods.declaration import (
    REQUIRED,
    Argument,
    Method,
    Operands,
    Parameter,
    Scope,
)
from mergebuild.plan.arrangement import Arrangement, UnknownRowError
from mergebuild.plan.cast import Participant
from mergebuild.plan.outline import TensorOutline
from mergebuild.plan.sizes import Shapes, sizes_table
from mergebuild.plan.slots import Slot
from mergebuild.recipe import Condition, ModelRef, Node, Parameters
from mergebuild.recipe.values import conditions, first, interpolate


@dataclass(slots=True)
class Remarks:
    """What resolving a node brought up: problems that stop it, and notes, each with its tensors.

    `sizes` are the tensors whose shapes differ between the inputs.
    """

    problems: dict[tuple[str, Location | None, str | None], list[str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    sizes: dict[str, Shapes] = field(default_factory=dict)

    def problem(
        self, message: str, tensor: str, at: Location | None = None, hint: str | None = None
    ) -> None:
        self.problems.setdefault((message, at, hint), []).append(tensor)

    def note(self, message: str, tensor: str) -> None:
        self.notes.setdefault(message, []).append(tensor)

    def errors(self, node: Node) -> Iterator[Problem]:
        if self.sizes:
            yield Problem(
                f"node '{node.name}': shapes differ between the inputs\n{sizes_table(self.sizes)}",
                node.at,
                "inputs of one node must be of one architecture and one size; where only the "
                "vocabularies differ, say which tokens to write: tokenizer_source: base or union",
            )
        for (message, at, hint), tensors in self.problems.items():
            yield Problem(f"node '{node.name}': {message}: {some(tensors)}", at, hint)


def some(names: Sequence[str]) -> str:
    """The first name, and how many more there are."""
    more = len(names) - 1
    return f"'{names[0]}'" + (f" and {more} more" if more else "")


Place: TypeAlias = tuple[int, ModelRef | None, str]
"""A slice's cast, a model in it, and a parameter: the same conditions hold for all tensors."""


@dataclass(frozen=True, slots=True)
class Resolver:
    """Turns the slots of one node into expressions."""

    node: Node
    method: Method
    passthrough: Method
    native: bool
    remarks: Remarks
    arrangement: Arrangement | None = None
    _conditions: dict[Place, tuple[Condition, ...]] = field(default_factory=dict)

    def expression(self, slot: Slot) -> Expression | None:
        """The expression for a slot; None where a remark says why there is none."""
        try:
            present = [
                (participant, self._tensor(slot, participant, name), name)
                for participant, name in zip(slot.cast.participants, slot.names, strict=True)
                if name is not None
            ]
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
        if not all(is_floating(tensor.dtype) for _, tensor, _ in present):
            return self._integral(slot, present)
        if any(tensor.shape != present[0][1].shape for _, tensor, _ in present):
            self.remarks.sizes[slot.name] = {str(p.model): t.shape for p, t, _ in present}
            return None
        return self._merged(slot, present)

    def _tensor(self, slot: Slot, participant: Participant, name: str) -> TensorOutline:
        """What a participant brings, in the vocabulary of the node."""
        tensor = participant.outline.tensors[name]
        if self.arrangement is None:
            return tensor
        return self.arrangement.tensor(participant.model, name, tensor, slot.name)

    def _present(
        self, slot: Slot, present: list[tuple[Participant, TensorOutline, str]]
    ) -> list[tuple[Participant, TensorOutline, str]] | None:
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
            operands=(_operand(participant, tensor, name),),
            base=False,
            arguments={"scale": (None,)},
            dtype=dtype,
            shape=tensor.shape,
        )

    def _buffer(
        self, slot: Slot, present: list[tuple[Participant, TensorOutline, str]]
    ) -> Expression:
        if len({(tensor.key, tensor.dtype) for _, tensor, _ in present}) > 1:
            self.remarks.note(f"no weight: copied from '{present[0][0].model}'", slot.name)
        return self._copied(slot, *present[0])

    def _integral(
        self, slot: Slot, present: list[tuple[Participant, TensorOutline, str]]
    ) -> Expression | None:
        if len({(tensor.key, tensor.dtype) for _, tensor, _ in present}) > 1:
            self.remarks.problem(
                "a tensor that is not of floating point differs between the inputs",
                slot.name,
                slot.cast.part.at,
                "such tensors cannot be merged",
            )
            return None
        return self._copied(slot, *present[0])

    def _merged(
        self, slot: Slot, present: list[tuple[Participant, TensorOutline, str]]
    ) -> Expression | None:
        base = slot.cast.base
        operands = Operands(len(present), base, present[0][1].shape)
        arguments: dict[str, Argument | tuple[Argument, ...]] = {}
        for parameter in self.method.parameters.values():
            if parameter.scope is Scope.SHARED:
                arguments[parameter.name] = self._value(slot, parameter, None, slot.name)
            else:
                entries = present[1:] if base and parameter.scope is Scope.DELTA else present
                arguments[parameter.name] = tuple(
                    self._value(slot, parameter, participant, name)
                    for participant, _, name in entries
                )
        for finding in self.method.check(operands, arguments):
            if finding.level == "error":
                self.remarks.problem(finding.message, slot.name, self.node.at)
            else:
                self.remarks.note(finding.message, slot.name)
        idle = self.method.idle(operands, arguments)
        for name in idle:
            arguments[name] = _at_rest(self.method.parameters[name], arguments[name])
        made = Expression(
            method=self.method.name,
            version=self.method.version,
            operands=tuple(_operand(*entry) for entry in present),
            base=base,
            arguments=arguments,
            dtype=self._dtype([tensor for _, tensor, _ in present]),
            shape=present[0][1].shape,
            stream=slot.name if self.method.random and "seed" not in idle else None,
        )
        if not made.unchanged and any(tensor.dtype == "float64" for _, tensor, _ in present):
            self.remarks.note("float64 inputs are rounded to float32, to compute with", slot.name)
        return made

    def _value(
        self, slot: Slot, parameter: Parameter, participant: Participant | None, name: str
    ) -> Argument:
        """A parameter's value for one tensor, of one participant or (None) shared by all."""
        model = participant.model if participant is not None else None
        place = id(slot.cast), model, parameter.name
        found = self._conditions.get(place)
        if found is None:
            found = conditions(self._levels(slot, participant), parameter.name)
            self._conditions[place] = found
        condition = first(found, name, self.native) if found else None
        if condition is not None:
            return _typed(parameter, interpolate(condition.value, slot.t))
        if parameter.name == "seed":
            return self.node.seed
        if parameter.default is not REQUIRED:
            return _typed(parameter, parameter.default)
        of = f" of '{participant.model}'" if participant is not None else ""
        self.remarks.problem(
            f"parameter '{parameter.name}'{of} has no value for a tensor that no filter matches",
            name,
            participant.at if participant is not None else self.node.at,
            "end the list of conditions with a value without filter",
        )
        return 0.0

    def _levels(self, slot: Slot, participant: Participant | None) -> list[Parameters]:
        """From the nearest to the furthest; what is shared never reads a participant's own."""
        levels = [slot.cast.part.parameters, slot.cast.module.parameters, self.node.parameters]
        if participant is not None and participant.entry is not None:
            levels.insert(0, participant.entry.parameters)
        return levels

    def _dtype(self, tensors: Sequence[TensorOutline]) -> str:
        declared = self.node.out_dtype or self.node.dtype
        return declared or promote([tensor.counts_as or tensor.dtype for tensor in tensors])


def _operand(participant: Participant, tensor: TensorOutline, name: str) -> Operand:
    return Operand(str(participant.model), name, tensor.key, tensor.dtype, view=tensor.view)


def _typed(parameter: Parameter, value: Argument) -> Argument:
    if value is None or isinstance(value, str):
        return value
    return parameter.type(value) if not isinstance(value, bool) else value


def _at_rest(
    parameter: Parameter, value: Argument | tuple[Argument, ...]
) -> Argument | tuple[Argument, ...]:
    """What an argument without effect is replaced by, so that it does not touch the key."""
    rest = 0.0 if parameter.default is REQUIRED else _typed(parameter, parameter.default)
    return (rest,) * len(value) if isinstance(value, tuple) else rest

"""The parameters of a node, evaluated for its tensors: filters, gradients, defaults, and what has
no effect put to rest. Reads nothing.

Tensors that conditions do not tell apart share one set of arguments, which is evaluated once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from mergebuild.methods.declaration import (
    REQUIRED,
    Argument,
    Arguments,
    Finding,
    Method,
    Operands,
    Parameter,
    Scope,
)
from mergebuild.plan.cast import Cast, Participant
from mergebuild.plan.remarks import Remarks
from mergebuild.plan.slots import Slot
from mergebuild.recipe import Condition, Node, Parameters
from mergebuild.recipe.values import conditions, first, interpolate


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The arguments for a tensor, those in `idle` at their defaults, and what the method says of
    them."""

    arguments: Arguments
    idle: frozenset[str]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class _Question:
    """A parameter of one participant, or (None) of all, and the conditions that it may follow."""

    parameter: Parameter
    who: int | None
    conditions: tuple[Condition, ...]

    @property
    def filtered(self) -> bool:
        return any(c.filter is not None and c.filter != "*" for c in self.conditions)

    @property
    def graded(self) -> bool:
        return any(isinstance(c.value, tuple) for c in self.conditions)


@dataclass(frozen=True, slots=True)
class _Questions:
    """All that is asked of the tensors of some participants; `filtered` are those whose answer
    depends on a name, `graded` says whether any depends on the depth."""

    all: tuple[_Question, ...]
    filtered: tuple[_Question, ...]
    graded: bool


@dataclass(frozen=True, slots=True)
class _Presence:
    """A slot of `cast`, which participants have the tensor, all in one shape, and under what
    names."""

    slot: Slot
    cast: Cast
    shape: tuple[int, ...]
    present: Sequence[Participant]
    names: Sequence[str | None]


Members: TypeAlias = tuple[int, ...]
"""A cast and those of its participants that have a tensor (none: all of them), by identity: they
live as long as the node is planned."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Evaluates the parameters of one node."""

    node: Node
    method: Method
    native: bool
    remarks: Remarks
    _questions: dict[Members, _Questions] = field(default_factory=dict)
    _found: dict[object, Evaluated] = field(default_factory=dict)

    def of(
        self,
        slot: Slot,
        cast: Cast,
        shape: tuple[int, ...],
        present: Sequence[Participant],
        names: Sequence[str | None],
    ) -> Evaluated:
        """The arguments for a slot of `cast`, given which participants have the tensor, all in this
        shape, and under what names. What has no value is remarked on."""
        members: Members = (id(cast),)
        if len(present) < len(slot.names):
            members = (*members, *map(id, present))
        questions = self._questions.get(members)
        if questions is None:
            questions = self._questions[members] = self._asked(cast, present)
        matched = (
            tuple(
                [
                    id(first(q.conditions, _name(q, slot, names), self.native))
                    for q in questions.filtered
                ]
            )
            if questions.filtered
            else ()
        )
        case = members, shape, slot.t if questions.graded else None, matched
        found = self._found.get(case)
        if found is None:
            before = self.remarks.count
            found = self._evaluated(questions, _Presence(slot, cast, shape, present, names))
            if self.remarks.count == before:  # else the next such tensor is remarked on, too
                self._found[case] = found
        return found

    def even(self, cast: Cast) -> bool:
        """Whether the tensors of one shape that all participants have share their arguments, as
        no condition tells them apart. To be asked when one of them was evaluated."""
        questions = self._questions[(id(cast),)]
        return not (questions.filtered or questions.graded)

    def _asked(self, cast: Cast, present: Sequence[Participant]) -> _Questions:
        listed = []
        for parameter in self.method.parameters.values():
            if parameter.scope is Scope.SHARED:
                found = conditions(_levels(self.node, cast, None), parameter.name)
                listed.append(_Question(parameter, None, found))
                continue
            skipped = 1 if cast.base and parameter.scope is Scope.DELTA else 0
            for who in range(skipped, len(present)):
                found = conditions(_levels(self.node, cast, present[who]), parameter.name)
                listed.append(_Question(parameter, who, found))
        return _Questions(
            tuple(listed),
            tuple(question for question in listed if question.filtered),
            any(question.graded for question in listed),
        )

    def _evaluated(self, questions: _Questions, there: _Presence) -> Evaluated:
        arguments: dict[str, Argument | tuple[Argument, ...]] = {
            parameter.name: () for parameter in self.method.parameters.values()
        }
        for question in questions.all:
            value = self._value(question, there)
            before = arguments[question.parameter.name]
            if question.who is None:
                arguments[question.parameter.name] = value
            else:
                assert isinstance(before, tuple)
                arguments[question.parameter.name] = (*before, value)
        operands = Operands(len(there.present), there.cast.base, there.shape)
        findings = tuple(self.method.check(operands, arguments))
        idle = self.method.idle(operands, arguments)
        for name in idle:
            arguments[name] = _at_rest(self.method.parameters[name], arguments[name])
        return Evaluated(arguments, idle, findings)

    def _value(self, question: _Question, there: _Presence) -> Argument:
        parameter = question.parameter
        name = _name(question, there.slot, there.names)
        condition = first(question.conditions, name, self.native)
        if condition is not None:
            return _typed(parameter, interpolate(condition.value, there.slot.t))
        if parameter.name == "seed":
            return self.node.seed
        if parameter.default is not REQUIRED:
            return _typed(parameter, parameter.default)
        participant = there.present[question.who] if question.who is not None else None
        of = f" of '{participant.model}'" if participant is not None else ""
        self.remarks.problem(
            f"parameter '{parameter.name}'{of} has no value for a tensor that no filter matches",
            name,
            participant.at if participant is not None else self.node.at,
            "end the list of conditions with a value without filter",
        )
        return 0.0


def _name(question: _Question, slot: Slot, names: Sequence[str | None]) -> str:
    """What the tensor is called that filters are asked about."""
    name = slot.name if question.who is None else names[question.who]
    assert name is not None
    return name


def _levels(node: Node, cast: Cast, participant: Participant | None) -> list[Parameters]:
    """From the nearest to the furthest; what is shared never reads a participant's own."""
    levels = [cast.part.parameters, cast.module.parameters, node.parameters]
    if participant is not None and participant.entry is not None:
        levels.insert(0, participant.entry.parameters)
    return levels


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

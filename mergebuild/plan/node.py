"""The outline and the expressions of one node, from those of its inputs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mergebuild.checkpoint.config import output_config
from mergebuild.checkpoint.depth import Depth
from mergebuild.checkpoint.layer_rules import Unsayable
from mergebuild.checkpoint.side_files import CONFIG
from mergebuild.checkpoint.stacks import head_and_embedding, ties
from mergebuild.digest import bytes_digest
from mergebuild.errors import RecipeError
from mergebuild.expression import Expression, tensor_keys
from mergebuild.methods.declaration import Method
from mergebuild.plan.arrangement import Arrangement
from mergebuild.plan.belongings import belongings_of
from mergebuild.plan.cast import Misfit, Participant, cast_of, pattern_of
from mergebuild.plan.evaluation import Evaluation
from mergebuild.plan.families import Sorting
from mergebuild.plan.naming import Naming, naming_of
from mergebuild.plan.outline import Outline, SideFile, TensorOutline, make_outline, structure_of
from mergebuild.plan.remarks import Remarks, some
from mergebuild.plan.resolve import Resolver
from mergebuild.plan.rows import depths
from mergebuild.plan.slots import Slot, casts_of
from mergebuild.plan.target import find_target
from mergebuild.plan.vocabularies import Vocabularies
from mergebuild.recipe import ModelRef, Node, Parameters
from mergebuild.recipe.values import matches
from mergebuild.vocabulary.rows import RowTable


@dataclass(frozen=True, slots=True)
class Outlined:
    """A node's outline, its expressions by output tensor, and what the user should know of both."""

    outline: Outline
    expressions: Mapping[str, Expression]
    models: Mapping[str, ModelRef]
    notes: tuple[str, ...]
    tables: Mapping[str, RowTable] = field(default_factory=dict)


def outline_node(
    node: Node,
    methods: Mapping[str, Method],
    outlines: Mapping[ModelRef, Outline],
    vocabularies: Vocabularies,
    sorting: Sorting,
    native: bool,
) -> Outlined:
    """Everything about a node that is known before anything is computed.

    Raises RecipeError with every misfit between the node and its inputs.
    """
    method = methods[node.method]
    pattern = outlines[pattern_of(node, method)]
    namings = {model: naming_of(outlines[model], pattern) for model in node.references()}
    groups = [
        [cast_of(node, module, part, method, namings) for part in module.slices]
        for module in node.modules
    ]
    inputs = {p.model: p for group in groups for cast in group for p in cast.participants}
    _refuse_strangers(node, pattern, {model: p.naming for model, p in inputs.items()})
    target = find_target(node, inputs, namings, vocabularies)
    arrangement = Arrangement(target) if target is not None else None
    remarks = Remarks()
    evaluation = Evaluation(node, method, native, remarks)
    casts = casts_of(groups)
    try:
        found = sorting.of(node, groups, casts)
        moved = depths(node, groups)
    except Misfit as error:
        raise RecipeError(error.problem) from error
    for text, tensor in found.remarks:
        remarks.note(text, tensor)
    copy = methods["passthrough"]
    resolver = Resolver(node, pattern, casts, method, copy, evaluation, remarks, arrangement)
    expressions = resolver.expressions(found)
    if remarks.problems or remarks.sizes:
        raise RecipeError(*remarks.errors(node))
    if not expressions:
        raise RecipeError.of(f"node '{node.name}': its inputs have no tensors", at=node.at)
    belongings = belongings_of(node, pattern, inputs.values(), target, vocabularies)
    notes = (*_unmatched(node, found.slots, native), *_structure(inputs.values(), pattern))
    for note in (
        *notes,
        *belongings.notes,
        *(arrangement.notes() if arrangement is not None else ()),
    ):
        remarks.note(note, "")
    keys = tensor_keys(expressions)
    tensors = {
        name: TensorOutline(keys[name], expressions[name].dtype, expressions[name].shape)
        for name in sorted(expressions)
    }
    config = config_text(node, replace(pattern, config=belongings.config), tensors, moved)
    outline = make_outline(
        name=node.name,
        tensors=tensors,
        config=json.loads(config) if config is not None else None,
        side_files=(*config_file(config), *belongings.files.values()),
    )
    speakers = target.speakers if target is not None else ()
    return Outlined(
        outline=outline,
        expressions=expressions,
        models={str(model): model for model in (*inputs, *(s.model for s in speakers))},
        tables=arrangement.tables if arrangement is not None else {},
        notes=tuple(
            f"{message} ({some(names)})" if names[0] else message
            for message, names in remarks.notes.items()
        ),
    )


def _refuse_strangers(node: Node, pattern: Outline, namings: Mapping[ModelRef, Naming]) -> None:
    """Models with layers that have no tensor in common cannot be inputs of one node."""
    for model, naming in namings.items():
        names = naming.own if naming.own is not None else naming.outline.tensors
        both = pattern.layout.stacks and naming.layout.stacks
        if both and pattern.tensors.keys().isdisjoint(names):
            raise RecipeError.of(
                f"node '{node.name}': no tensor of '{model}' is called as one of '{pattern.name}' "
                f"('{min(naming.outline.tensors)}' there, '{min(pattern.tensors)}' here)",
                at=model.at or node.at,
                hint="inputs of one node must be of one architecture",
            )


def config_text(
    node: Node, pattern: Outline, tensors: Mapping[str, TensorOutline], moved: Sequence[Depth]
) -> bytes | None:
    if pattern.config is None:
        return None
    commonest = structure_of(tensors).commonest
    head, _ = head_and_embedding(tensors)
    untied = head is not None and ties(pattern.config) is not False
    try:
        return output_config(
            pattern.config, dtype=commonest, depths=moved, tied=False if untied else None
        )
    except Unsayable as error:
        raise RecipeError.of(
            f"node '{node.name}': no config as that of '{pattern.name}' fits these layers: {error}",
            at=node.at,
            hint="choose slices that keep every layer at a place of its kind",
        ) from error


def config_file(config: bytes | None) -> Iterator[SideFile]:
    if config is not None:
        yield SideFile(CONFIG, bytes_digest(config), len(config), data=config)


def _unmatched(node: Node, found: Sequence[Slot], native: bool) -> Iterator[str]:
    """A warning for every filter that matches no tensor."""
    filtered = [
        (key, condition)
        for parameters in _levels(node)
        for key, setting in parameters.items()
        for condition in setting.conditions
        if condition.filter is not None
    ]
    if not filtered:
        return
    names = {slot.name for slot in found}
    names.update(name for slot in found for name in slot.names if name is not None)
    for key, condition in filtered:
        if not any(matches(condition.filter, name, native) for name in names):
            yield (
                f"filter '{condition.filter}' of parameter '{key}' at {condition.at} "
                "matches no tensor"
            )


def _structure(inputs: Iterable[Participant], pattern: Outline) -> Iterator[str]:
    """What the user should know of the inputs themselves."""
    for participant in inputs:
        name, naming = str(participant.model), participant.naming
        if naming.layout.mismatch is not None:
            yield f"'{name}': {naming.layout.mismatch}"
        for own, output, count in naming.rules:
            yield (
                f"names in '{name}' begin with '{own}' where they begin with '{output}' in "
                f"'{pattern.name}': {count} tensors matched by what follows"
            )
    code = [file.name for file in pattern.side_files if file.code]
    if code:
        yield f"Python code of '{pattern.name}' is copied, not run: {', '.join(code)}"


def _levels(node: Node) -> Iterator[Parameters]:
    yield node.parameters
    for module in node.modules:
        yield module.parameters
        for part in module.slices:
            yield part.parameters
            for entry in part.inputs:
                yield entry.parameters

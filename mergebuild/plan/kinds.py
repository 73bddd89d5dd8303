"""Outlining a node of any kind; what a rare kind takes is imported for the first of it."""

from __future__ import annotations

from collections.abc import Mapping

from mergebuild.methods.declaration import Method
from mergebuild.plan.families import Sorting
from mergebuild.plan.node import Outlined, outline_node
from mergebuild.plan.outline import Outline
from mergebuild.plan.vocabularies import Vocabularies
from mergebuild.recipe import Application, Extraction, Mixture, ModelRef, Node


def outline_any(
    node: Node,
    methods: Mapping[str, Method],
    outlines: Mapping[ModelRef, Outline],
    vocabularies: Vocabularies,
    sorting: Sorting,
    native: bool,
) -> Outlined:
    """Everything about a node that is known before anything is computed. Raises RecipeError."""
    match node.body:
        case Extraction() as body:
            from mergebuild.plan.extraction import outline_extraction

            return outline_extraction(node, body, methods, outlines)
        case Mixture() as body:
            from mergebuild.plan.mixture import outline_mixture

            return outline_mixture(node, body, methods, outlines)
        case Application() as body:
            from mergebuild.plan.application import outline_application

            return outline_application(node, body, methods, outlines)
    return outline_node(node, methods, outlines, vocabularies, sorting, native)

"""Recipes: text in, checked values out.

Owns the recipe language. Reads no disk but the recipe file, and knows methods only by their
declarations.
"""

from mergebuild.recipe.load import load_recipe, parse_recipe
from mergebuild.recipe.model import (
    Application,
    Condition,
    Expert,
    Extraction,
    Input,
    Mixture,
    ModelRef,
    Module,
    Node,
    NodeRef,
    Parameters,
    Pin,
    Recipe,
    Scalar,
    Setting,
    Slice,
    Source,
    Tokenizer,
    TokenRule,
    Value,
)

__all__ = [
    "Application",
    "Condition",
    "Expert",
    "Extraction",
    "Input",
    "Mixture",
    "ModelRef",
    "Module",
    "Node",
    "NodeRef",
    "Parameters",
    "Pin",
    "Recipe",
    "Scalar",
    "Setting",
    "Slice",
    "Source",
    "TokenRule",
    "Tokenizer",
    "Value",
    "load_recipe",
    "parse_recipe",
]

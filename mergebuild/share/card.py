"""The model card of an output, in the Hub's format: what it was merged from, how, and with which
methods, down to the leaves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import yaml

from mergebuild.methods.declaration import Method
from mergebuild.operations import OPERATIONS
from mergebuild.plan import Plan
from mergebuild.recipe import Extraction, Mixture, Node, Recipe
from mergebuild.recipe.resolved import resolved_text
from mergebuild.recipe.written import yaml_text
from mergebuild.share.licences import FILE, Licences, licences_of
from mergebuild.share.lineage import Lineage, describe_node, lineage
from mergebuild.share.stated import CARD, statements

_MOST: Final = 100


def papers(plan: Plan, name: str, methods: Mapping[str, Method]) -> dict[str, str]:
    """The files that tell people of a node's output: its card and, where its sources come under
    several licences, what these are."""
    line = lineage(plan, name)
    licences = licences_of(statements(line.leaves))
    card = _card(plan, name, line, licences, methods)
    return {CARD: card, **({FILE: licences.file} if licences.file is not None else {})}


def licence_warnings(plan: Plan, name: str) -> tuple[str, ...]:
    """What somebody must know of the licences before sharing a node's output."""
    return licences_of(statements(lineage(plan, name).leaves)).warnings


def _card(
    plan: Plan, name: str, line: Lineage, licences: Licences, methods: Mapping[str, Method]
) -> str:
    node = line.nodes[-1]
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(line, licences), sort_keys=False)}---",
        f"# {name}",
        *([node.description.strip()] if node.description else []),
        _introduction(line),
        "## Models",
        "\n".join(_leaf_rows(line)),
        *(f"> **Licences:** {warning}." for warning in licences.warnings),
        "## Chain",
        *(_step(step) for step in line.nodes),
        "## Methods",
        "\n".join(_references(line, methods)),
        "## Recipe",
        f"Built from `{plan.recipe.name}` with `{_command(plan.recipe)}`:",
        _fenced(_whole(plan.recipe).strip(), "yaml"),
    ]
    return "\n\n".join(parts) + "\n"


def _command(recipe: Recipe) -> str:
    """How the recipe as shown is built: what is set in one with others in it is filled in."""
    said = {} if recipe.included else recipe.variables
    return " ".join(
        ["mergebuild build", *(f"--set {name}={value}" for name, value in said.items())]
    )


def _whole(recipe: Recipe) -> str:
    return resolved_text(recipe) if recipe.included else recipe.text


def _front_matter(line: Lineage, licences: Licences) -> dict[str, Any]:
    made = line.nodes[-1]
    leaves = line.leaves
    relation, library, tag = "merge", "transformers", "merge"
    if isinstance(made.body, Extraction):
        relation, library, tag = "adapter", "peft", "lora"
        leaves = tuple(leaf for leaf in leaves if leaf.source == made.base)
    elif isinstance(made.body, Mixture):
        tag = "moe"
    stated = statements(line.leaves)
    tasks = {one.task for one in stated}
    bases = _every(one.repo for one in statements(leaves))
    found = {
        "base_model": bases,
        "base_model_relation": relation if bases else None,
        "library_name": library,
        "tags": ["mergebuild", tag],
        **licences.front_matter,
        "datasets": _every(name for one in stated for name in one.datasets),
        "language": _every(name for one in stated for name in one.languages),
        "pipeline_tag": tasks.pop() if len(tasks) == 1 else None,
    }
    return {key: value for key, value in found.items() if value}


def _every(names: Iterable[str | None]) -> list[str]:
    """Every name once, as many as a card may have."""
    return list(dict.fromkeys(name for name in names if name))[:_MOST]


def _introduction(line: Lineage) -> str:
    steps = len(line.nodes)
    body = line.nodes[-1].body
    if isinstance(body, Extraction):
        what = f"LoRA of `{body.model}` for `{line.nodes[-1].base}`"
        about = f"This adapter is a {what}, extracted with mergebuild. "
    else:
        what = "merge" if all(node.body is None for node in line.nodes) else "step"
        how = f"one {what}" if steps == 1 else f"a chain of {steps} {what}s"
        if isinstance(body, Mixture) and steps == 1:
            how = "a mixture of experts"
        about = f"This model is {how} of pre-trained models, built with mergebuild. "
    return f"{about}`mergebuild.json` beside it says of every tensor what it was made from."


def _leaf_rows(line: Lineage) -> Iterator[str]:
    for leaf in line.leaves:
        model = leaf.source.written or leaf.source.place
        revision = f" at `{leaf.source.revision}`" if leaf.source.revision else ""
        lora = leaf.source.lora
        revision += f" with the LoRA `{lora.written or lora.place}`" if lora is not None else ""
        first = statements([leaf])[0]
        terms = f", licence {first.terms}" if first.terms else ", no licence stated"
        bases = f", made from {', '.join(f'`{base}`' for base in first.bases)}"
        yield f"- **{leaf.source}**: `{model}`{revision}{terms}{bases if first.bases else ''}"


def _step(node: Node) -> str:
    shown = describe_node(node)
    shown.pop("node")
    shown.pop("description", None)
    text = yaml_text(shown).strip()
    title = f"### {node.name}"
    about = f"\n\n{node.description.strip()}" if node.description else ""
    return f"{title}{about}\n\n{_fenced(text, 'yaml')}"


def _references(line: Lineage, methods: Mapping[str, Method]) -> Iterator[str]:
    for name in dict.fromkeys(node.method for node in line.nodes):
        method = OPERATIONS.get(name) or methods[name]
        papers = "; ".join(
            f"{paper.authors}: {paper.title}"
            + (
                f", [arXiv:{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})"
                if paper.arxiv
                else ""
            )
            for paper in method.papers
        )
        yield f"- **{name}**: {method.summary}" + (f" ({papers})" if papers else "")


def _fenced(text: str, language: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"

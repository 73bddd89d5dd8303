"""The model card of an output, in the Hub's format: what it was merged from, how, and with which
methods, down to the leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from mergebuild.methods.declaration import Method
from mergebuild.plan import Plan
from mergebuild.recipe import Node
from mergebuild.share.lineage import Lineage, describe_node, hub_ids, licence, lineage


def model_card(plan: Plan, name: str, methods: Mapping[str, Method]) -> str:
    """README.md of a node's output."""
    line = lineage(plan, name)
    node = line.nodes[-1]
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(line), sort_keys=False)}---",
        f"# {name}",
        *([node.description.strip()] if node.description else []),
        _introduction(line),
        "## Models",
        "\n".join(_leaf_rows(line)),
        "## Chain",
        *(_step(step) for step in line.nodes),
        "## Methods",
        "\n".join(_references(line, methods)),
        "## Recipe",
        f"Built from `{plan.recipe.name}` with `mergebuild build`:",
        _fenced(plan.recipe.text.strip(), "yaml"),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(line: Lineage) -> dict[str, Any]:
    licences = {licence(leaf) for leaf in line.leaves}
    only = licences.pop() if len(licences) == 1 else None
    return {
        "base_model": list(dict.fromkeys(hub_ids(line.leaves))),
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["mergebuild", "merge"],
        **({"license": only} if only else {}),
    }


def _introduction(line: Lineage) -> str:
    steps = len(line.nodes)
    how = "one merge" if steps == 1 else f"a chain of {steps} merges"
    return (
        f"This model is {how} of pre-trained models, built with mergebuild. "
        "`mergebuild.json` beside it says of every tensor what it was made from."
    )


def _leaf_rows(line: Lineage) -> Iterator[str]:
    for leaf in line.leaves:
        model = leaf.source.written or leaf.source.place
        revision = f" at `{leaf.source.revision}`" if leaf.source.revision else ""
        lora = leaf.source.lora
        revision += f" with the LoRA `{lora.written or lora.place}`" if lora is not None else ""
        stated = licence(leaf)
        terms = f", licence {stated}" if stated else ""
        yield f"- **{leaf.source}**: `{model}`{revision}{terms}"


def _step(node: Node) -> str:
    shown = describe_node(node)
    shown.pop("node")
    shown.pop("description", None)
    text = yaml.safe_dump(shown, sort_keys=False, default_flow_style=None, width=96).strip()
    title = f"### {node.name}"
    about = f"\n\n{node.description.strip()}" if node.description else ""
    return f"{title}{about}\n\n{_fenced(text, 'yaml')}"


def _references(line: Lineage, methods: Mapping[str, Method]) -> Iterator[str]:
    for name in dict.fromkeys(node.method for node in line.nodes):
        method = methods[name]
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

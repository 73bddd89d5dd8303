"""A recipe as a graph: which nodes are made from which, in what order, and how to select some.

Knows nodes and their references only; nothing is read from disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import networkx as nx

from mergebuild.errors import UsageError, did_you_mean
from mergebuild.recipe import NodeRef, Recipe


def node_graph(recipe: Recipe) -> nx.DiGraph:
    """Nodes by name in declared order; an edge leads from an input to the node made from it."""
    graph = nx.DiGraph()
    graph.add_nodes_from(recipe.nodes)
    for node in recipe.nodes.values():
        for reference in node.references():
            if isinstance(reference, NodeRef):
                graph.add_edge(reference.name, node.name)
    return graph


def build_order(graph: nx.DiGraph, declared: Sequence[str]) -> list[str]:
    """Every node after its inputs; among equals, as declared."""
    place = {name: index for index, name in enumerate(declared)}
    return list(nx.lexicographical_topological_sort(graph, key=place.__getitem__))


def select(graph: nx.DiGraph, selectors: Iterable[str]) -> set[str]:
    """The nodes meant by selectors: `name`, `+name` with all it is made from, `name+` with all
    that is made from it, `+name+` with both.

    Raises UsageError for an unknown name.
    """
    chosen: set[str] = set()
    for selector in selectors:
        name = selector.removeprefix("+").removesuffix("+")
        if name not in graph:
            raise UsageError.of(f"no node '{name}'", hint=did_you_mean(name, list(graph)))
        chosen.add(name)
        if selector.startswith("+"):
            chosen |= nx.ancestors(graph, name)
        if selector.endswith("+"):
            chosen |= nx.descendants(graph, name)
    return chosen

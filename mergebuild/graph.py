"""A recipe as a graph: which nodes are made from which, in what order, and how to select some.

Knows nodes and their references only; nothing is read from disk. networkx takes a tenth of a second
to import, so it is where a graph is made; most recipes are planned without one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mergebuild.errors import UsageError, did_you_mean
from mergebuild.recipe import Node, NodeRef, Recipe

if TYPE_CHECKING:
    import networkx as nx


def node_graph(recipe: Recipe) -> nx.DiGraph:
    """Nodes by name in declared order; an edge leads from an input to the node made from it."""
    import networkx as nx

    graph = nx.DiGraph()
    graph.add_nodes_from(recipe.nodes)
    for node in recipe.nodes.values():
        graph.add_edges_from((name, node.name) for name in _inputs(node))
    return graph


def build_order(recipe: Recipe, targets: Iterable[str]) -> list[str]:
    """The targets and all that they are made from, every node after its inputs; among equals, as
    declared."""
    order = _all_in_order(recipe)
    needed = set(targets)
    for name in reversed(order):
        if name in needed:
            needed.update(_inputs(recipe.nodes[name]))
    return [name for name in order if name in needed]


def _all_in_order(recipe: Recipe) -> list[str]:
    """Where all inputs are declared before their users, that is as declared."""
    before: set[str] = set()
    for node in recipe.nodes.values():
        if not before.issuperset(_inputs(node)):
            return _sorted(recipe)
        before.add(node.name)
    return list(recipe.nodes)


def _sorted(recipe: Recipe) -> list[str]:
    import networkx as nx

    place = {name: index for index, name in enumerate(recipe.nodes)}
    graph = node_graph(recipe)
    return list(nx.lexicographical_topological_sort(graph, key=place.__getitem__))


def _inputs(node: Node) -> Iterator[str]:
    """The nodes that a node is made from."""
    return (model.name for model in node.references() if isinstance(model, NodeRef))


def select(recipe: Recipe, selectors: Iterable[str]) -> set[str]:
    """The nodes meant by selectors: `name`, `+name` with all it is made from, `name+` with all
    that is made from it, `+name+` with both.

    Raises UsageError for an unknown name.
    """
    chosen: set[str] = set()
    for selector in selectors:
        name = selector.removeprefix("+").removesuffix("+")
        if name not in recipe.nodes:
            raise UsageError.of(f"no node '{name}'", hint=did_you_mean(name, list(recipe.nodes)))
        chosen.add(name)
        if selector != name:
            chosen |= _relatives(recipe, selector, name)
    return chosen


def _relatives(recipe: Recipe, selector: str, name: str) -> set[str]:
    import networkx as nx

    graph, found = node_graph(recipe), set[str]()
    if selector.startswith("+"):
        found |= nx.ancestors(graph, name)
    if selector.endswith("+"):
        found |= nx.descendants(graph, name)
    return found

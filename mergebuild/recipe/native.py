"""A native recipe: the document with `mergebuild: 1` -> a Recipe.

Owns the top-level keys. Must not know what stands inside a node.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mergebuild.errors import did_you_mean
from mergebuild.recipe import fields, kinds, names, references, validate, variables
from mergebuild.recipe.context import Context, in_order, shown
from mergebuild.recipe.frame import Frame, Part
from mergebuild.recipe.includes import ReadPart, check_given, follow
from mergebuild.recipe.meanings import Names, names_in
from mergebuild.recipe.model import Node, Recipe
from mergebuild.recipe.tree import Entry, Fields, Items, Leaf, Tree

VERSION: Final = 1
KEYS: Final = (
    *("mergebuild", "name", "description", "include", "sources", "vars", "nodes", "outputs"),
    "seed",
)


def read(
    document: Fields, text: str, path: Path, frame: Frame, read_part: ReadPart, ctx: Context
) -> Recipe:
    """The recipe of a document that says its version, with all that it includes."""
    keys, known, nodes, own = _read(document, frame, read_part, ctx)
    validate.check_adapters(nodes, ctx)
    validate.check_cycles(nodes, ctx)
    validate.check_places(nodes, ctx)
    outputs = _outputs(keys.get("outputs"), own, nodes, known, ctx)
    title = fields.text(keys["name"].value, "'name'", ctx) if "name" in keys else None
    if not outputs and not ctx.problems:
        hint = "name what to build under 'outputs:'"
        ctx.error("nothing is built of what is included", document.at, hint)
    if ctx.problems:
        ctx.stop()
    known.unmatched()
    for alias in known.own_aliases:
        source = known.aliases.get(alias)
        if source is not None and alias not in known.met_aliases and source.at is not None:
            ctx.warn(f"source '{alias}' is not used", source.at, "delete it")
    return Recipe(
        title or path.stem,
        path,
        nodes,
        outputs,
        text,
        True,
        in_order(ctx.warnings.values()),
        included=tuple(frame.composition.included),
        variables=dict(sorted(frame.overrides.variables.items())),
    )


def part(document: Fields, frame: Frame, read_part: ReadPart, ctx: Context) -> Part:
    """What an included recipe brings."""
    keys, known, nodes, _ = _read(document, frame, read_part, ctx)
    if "name" in keys:
        fields.text(keys["name"].value, "'name'", ctx)
    check_given(frame, known, ctx)
    own = {name: one for name, one in known.nodes.items() if one.startswith(frame.prefix)}
    return Part(nodes, own, known.aliases, frozenset(known.met_overrides))


def _read(
    document: Fields, frame: Frame, read_part: ReadPart, ctx: Context
) -> tuple[dict[str, Entry], Names, dict[str, Node], list[str]]:
    """The keys after substitution, what names mean, all nodes, those that are included first, and
    which are of its own; what takes the recipes that include this one is not checked."""
    _check_version(document.entries["mergebuild"], ctx)
    keys = fields.entries(document, "the recipe", ctx, KEYS)
    keys = _substituted(keys, frame, ctx)
    bodies = _bodies(keys, document, ctx)
    known = names_in(bodies, frame)
    if "sources" in keys:
        tree = keys["sources"].value
        known.own_aliases = list(tree.entries) if isinstance(tree, Fields) else []
        known.aliases = references.aliases(tree, bodies, known, ctx)
    nodes: dict[str, Node] = {}
    if "include" in keys:
        for included in follow(keys["include"], known, frame, read_part, ctx).values():
            nodes.update(included.nodes)
    seed = fields.whole(keys["seed"].value, "'seed'", ctx) if "seed" in keys else None
    if "description" in keys:
        fields.text(keys["description"].value, "'description'", ctx)
    for name, entry in bodies.items():
        whole = frame.prefix + name
        one = kinds.read(whole, entry, frame.composition.methods, known, ctx, seed or 0)
        if one is not None:
            nodes[whole] = one
    nodes.update(validate.applications(known))
    return keys, known, nodes, list(bodies)


def _check_version(entry: Entry, ctx: Context) -> None:
    tree = entry.value
    if isinstance(tree, Leaf) and tree.value == VERSION and type(tree.value) is int:
        return
    said = f"'mergebuild' must be {VERSION}, the version of the recipe language"
    ctx.fatal(f"{said}, not {fields.described(tree)}", tree.at, f"write 'mergebuild: {VERSION}'")


def _substituted(keys: dict[str, Entry], frame: Frame, ctx: Context) -> dict[str, Entry]:
    """The keys with every variable in its place: those of included recipes are theirs."""
    found = variables.declared(keys["vars"].value, ctx) if "vars" in keys else {}
    tree = keys["include"].value if "include" in keys else None
    namespaces = tuple(f"{name}." for name in tree.entries) if isinstance(tree, Fields) else ()
    said = frame.overrides.variables
    own = {name: value for name, value in said.items() if not name.startswith(namespaces)}
    values = variables.given(found, frame.variables, frame.origin.file, ctx)
    values = variables.overridden(values, own, frame.prefix)
    substitution = variables.Substitution(values, ctx)
    replaced = {
        key: Entry(key, substitution.tree(entry.value), entry.at)
        for key, entry in keys.items()
        if key != "vars"
    }
    for name, entry in found.items():
        if name not in substitution.met:
            ctx.warn(f"variable '{name}' is not used", entry.at, "delete it")
    return replaced


def _bodies(keys: Mapping[str, Entry], document: Fields, ctx: Context) -> dict[str, Entry]:
    """The nodes by name, their bodies unread."""
    if "nodes" not in keys:
        if "include" in keys:
            return {}
        ctx.error("the recipe has no 'nodes'", document.at, "name its merges under 'nodes:'")
        return {}
    listed = fields.entries(keys["nodes"].value, "'nodes'", ctx)
    if not listed and isinstance(keys["nodes"].value, Fields):
        ctx.error("'nodes' must not be empty", keys["nodes"].value.at)
    return {name: entry for name, entry in listed.items() if names.check(name, entry.at, ctx)}


def _outputs(
    entry: Entry | None, own: list[str], nodes: Mapping[str, Node], known: Names, ctx: Context
) -> dict[str, Path | None]:
    """Where the outputs go; every node of its own that no other uses goes to build/<node> by
    default."""
    declared = list(known.nodes)
    if entry is None:
        return {name: Path("build", name) for name in validate.unused(nodes) if name in own}
    found: dict[str, Path | None] = {}
    places: dict[Path, str] = {}
    for name, tree, place in _listed(entry.value, ctx):
        if name not in declared:
            hint = did_you_mean(name, declared)
            ctx.error(f"output {shown(name)} is not a node", tree.at, hint)
        elif name in found:
            ctx.error(f"output '{name}' is listed twice", tree.at, "delete one of the two")
        elif place is not None:
            for other in (place, *place.parents, *(p for p in places if place in p.parents)):
                if other in places:
                    said = f"outputs '{places[other]}' and '{name}' share the folder '{other}'"
                    ctx.error(said, tree.at, "give each output a folder of its own")
                    break
            places[place] = name
            found[name] = place
    return found


def _listed(tree: Tree, ctx: Context) -> list[tuple[str, Tree, Path | None]]:
    """Both forms of `outputs` as (name, place in the text, folder)."""
    found: list[tuple[str, Tree, Path | None]] = []
    if isinstance(tree, Items):
        for item in fields.items(tree, "'outputs'", ctx):
            if name := fields.text(item, "an entry of 'outputs'", ctx):
                found.append((name, item, Path("build", name)))
        return found
    for name, entry in fields.entries(tree, "'outputs'", ctx).items():
        at_key = Leaf(name, name, entry.at)
        if fields.is_null(entry.value):
            found.append((name, at_key, Path("build", name)))
        elif text := fields.text(entry.value, f"the folder of output {shown(name)}", ctx):
            found.append((name, at_key, names.folder(text, entry.value.at, ctx)))
    if not found and isinstance(tree, Fields) and not tree.entries:
        ctx.error("'outputs' must not be empty", tree.at, "leave it out for the default")
    return found

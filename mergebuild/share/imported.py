"""Merges that others published, put together to one native recipe.

A merge whose inputs are merges themselves becomes a chain of nodes, as far as the inputs' cards are
found. What could not be resolved is said, and never guessed at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from mergebuild.checkpoint.hub import is_repo
from mergebuild.checkpoint.hub_client import Unreachable
from mergebuild.checkpoint.source import locate
from mergebuild.errors import CheckpointError, MergebuildError
from mergebuild.methods.declaration import Method
from mergebuild.recipe import Application, ModelRef, Node, Source, names, parse_recipe
from mergebuild.recipe.context import shown
from mergebuild.recipe.written import (
    configuration,
    escaped,
    literal_filters,
    native_keys,
    spelled,
    yaml_text,
)
from mergebuild.share.origins import Origin, from_hub, from_path

MOST_LOOKS: Final = 200
DEEPEST: Final = 20
_NODE: Final = re.compile(r"^  (?=\S)", re.MULTILINE)
_ALIAS: Final = re.compile(r"[^A-Za-z0-9._-]+")
_BESIDE: Final = ("", ".md", ".yml", ".yaml")

Hub = Callable[[str, str | None, Mapping[str, Method]], Origin | None]


@dataclass(frozen=True, slots=True)
class Imported:
    """A native recipe, and what it could not say or had to take for granted."""

    text: str
    notes: tuple[str, ...]


def import_merge(
    origin: Origin,
    others: Sequence[Origin],
    place: Path,
    methods: Mapping[str, Method],
    *,
    follow: bool = True,
    hub: Hub = from_hub,
) -> Imported:
    """The recipe of a merge. Inputs are looked for among `others` by name, then, if they are to be
    followed, as paths, beside the card, and on the Hub. `place` is the folder that relative paths
    are to start from. Raises RecipeError."""
    chain = _Chain(others, place, methods, follow, hub)
    outputs = chain.add(origin)
    head = [f"Imported by mergebuild from {_one_line(origin.title)}."]
    head += [f"- {_one_line(note)}" for note in chain.notes]
    nodes = yaml_text({"nodes": escaped(chain.nodes)})
    sections = [
        "".join(f"# {line}\n" for line in head)
        + yaml_text({"mergebuild": 1, "name": escaped(origin.name)}, inline=False),
        *([yaml_text({"sources": escaped(chain.sources)}, inline=False)] if chain.sources else []),
        _NODE.sub(r"\n\g<0>", nodes).replace("nodes:\n\n", "nodes:\n"),
        yaml_text({"outputs": {name: f"build/{name}" for name in outputs}}, inline=False),
    ]
    text = "\n".join(sections)
    parse_recipe(text, place / "imported.yaml", methods=methods)
    return Imported(text, tuple(chain.notes))


class _Chain:
    """The recipe as it grows: every node after its inputs."""

    def __init__(
        self,
        others: Sequence[Origin],
        place: Path,
        methods: Mapping[str, Method],
        follow: bool,
        hub: Hub,
    ) -> None:
        self.nodes: dict[str, Any] = {}
        self.sources: dict[str, Any] = {}
        self.notes: list[str] = []
        self._others = others
        self._place = place
        self._methods = methods
        self._follow = follow
        self._online = True
        self._hub = hub
        self._taken: set[str] = set()
        self._merged: dict[str, str | None] = {}
        self._aliases: dict[str, str] = {}
        self._open: list[str] = []
        self._looks = 0

    def add(self, origin: Origin) -> list[str]:
        """Every node of a merge and what its inputs are made from; the names of its outputs."""
        recipe = origin.recipe
        self._open.append(origin.identity)
        self.notes += [f"{origin.label}: {note}" for note in origin.notes]
        for warning in recipe.warnings:
            self.notes.append(f"{warning.at}: {warning.message}")
        declared = {n: node for n, node in recipe.nodes.items() if not _is_application(node)}
        called = {name: self._free(name) for name in declared}
        for name, node in declared.items():
            body = self._body(node, called, origin)
            self.nodes[called[name]] = body if recipe.native else literal_filters(body)
        self._open.pop()
        return [called[name] for name in recipe.outputs]

    def _body(self, node: Node, called: Mapping[str, str], origin: Origin) -> dict[str, Any]:
        def spell(model: ModelRef) -> str:
            if isinstance(model, Source):
                return self._model(model, origin)
            body = origin.recipe.nodes[model.name].body
            if isinstance(body, Application):
                return f"{spell(body.model)}+{spell(body.adapter)}"
            return called[model.name]

        said = {"description": f"as the card of {origin.title} has it", **native_keys(node)}
        return {**said, **configuration(node, spell)}

    def _free(self, name: str) -> str:
        """A name that neither a node nor a source has yet."""
        free, count = name, 1
        while free in self._taken:
            count += 1
            free = f"{name[: names.LONGEST - 4]}-{count}"
        self._taken.add(free)
        return free

    def _model(self, source: Source, origin: Origin) -> str:
        """How the recipe calls a model: a node if it is a merge whose card is found."""
        path = self._path(source, origin)
        identity = str(path.resolve()) if path is not None else str(spelled(source))
        if source.lora is None and not source.adapter:
            if identity not in self._merged:
                self._merged[identity] = None
                self._merged[identity] = self._node(source, path, origin)
            if (name := self._merged[identity]) is not None:
                return name
        if identity not in self._aliases:
            self._aliases[identity] = self._alias(source, origin)
        return self._aliases[identity]

    def _path(self, source: Source, origin: Origin) -> Path | None:
        return locate(source.place, origin.directory) if origin.directory is not None else None

    def _node(self, source: Source, path: Path | None, origin: Origin) -> str | None:
        """The node that makes an input, if its card is found."""
        found = self._named(source) or (self._found(source, path, origin) if self._follow else None)
        if found is None:
            return None
        if found.identity in self._open:
            self._say(source, "its cards lead back to itself; taken as it is")
            return None
        if len(found.recipe.outputs) > 1:
            self._say(source, f"{found.label} has several outputs; taken as it is")
            return None
        return self.add(found)[0]

    def _found(self, source: Source, path: Path | None, origin: Origin) -> Origin | None:
        if self._looks >= MOST_LOOKS or len(self._open) > DEEPEST:
            self._say(source, "not looked up: the chain is too long")
            return None
        self._looks += 1
        try:
            return self._looked_up(source, path, origin)
        except Unreachable as error:
            self._online = False
            self._say(source, f"not looked up, nor are others: {error.problems[0].message}")
        except CheckpointError as error:
            self._say(source, f"not looked up: {error.problems[0].message}")
        except MergebuildError as error:
            problem = error.problems[0]
            why = f"{problem.at}: {problem.message}" if problem.at else problem.message
            self._say(source, f"its own configuration cannot be read: {why}")
        return None

    def _named(self, source: Source) -> Origin | None:
        last = PurePosixPath(source.place).name.lower()
        found = [one for one in self._others if one.name.lower() == last]
        return found[0] if found else None

    def _looked_up(self, source: Source, path: Path | None, origin: Origin) -> Origin | None:
        if path is not None:
            return from_path(path, self._methods) if path.is_dir() else None
        if origin.directory is not None:
            last = PurePosixPath(source.place).name
            for suffix in _BESIDE:
                beside = origin.directory / f"{last}{suffix}"
                if last and beside.exists() and (suffix or beside.is_dir()):
                    self._say(source, f"taken to be '{beside}'")
                    return from_path(beside, self._methods)
        if self._online and is_repo(source.place):
            return self._hub(source.place, source.revision, self._methods)
        return None

    def _alias(self, source: Source, origin: Origin) -> str:
        """The alias of a source that is taken as it is, declared."""
        last = PurePosixPath(source.name or source.place).name
        alias = self._free(_ALIAS.sub("-", last).strip("._-") or "source")
        self.sources[alias] = spelled(self._moved(source, origin, alias))
        return alias

    def _moved(self, source: Source, origin: Origin, alias: str) -> Source:
        """A source with its relative paths from where the recipe will stand."""
        lora = self._moved(source.lora, origin, alias) if source.lora is not None else None
        path = self._path(source, origin)
        if path is not None:
            relative = os.path.relpath(path.resolve(), self._place.resolve())
            return Source(relative if relative.startswith("..") else f"./{relative}", lora=lora)
        if not is_repo(source.place):
            self._say(
                source, f"a place on another machine: say where it is with --source {alias}=PATH"
            )
        return Source(source.place, source.revision, lora)

    def _say(self, source: Source, why: str) -> None:
        place = f"{source.at}: " if source.at is not None else ""
        self.notes.append(f"{place}{shown(str(source))}: {why}")


def _is_application(node: Node) -> bool:
    return isinstance(node.body, Application)


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())

"""Imports go downward only: each import of mergebuild/ is held against the table below."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "mergebuild"

# From the ground up. A line may import from itself and from the lines above it.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "events", "digest", "files", "measures"),
    ("kernels",),
    ("methods",),
    ("expression", "operations"),
    ("recipe",),
    ("site",),
    ("checkpoint",),
    ("include",),
    ("vocabulary",),
    ("graph",),
    ("cache",),
    ("remote",),
    ("plan",),
    ("share",),
    ("engine",),
    ("executors",),
    ("api",),
    ("proof", "publishing"),
    ("",),  # the package itself: the Python face
    ("console", "report"),
    ("cli",),
    ("__main__",),
)

# Narrower than the order says: all that these may import besides the ground and themselves.
ONLY: dict[str, tuple[str, ...]] = {
    "kernels": (),
    "methods": ("kernels",),
    "recipe": ("methods.declaration",),
    "checkpoint": (),
    "vocabulary": ("checkpoint",),
    "graph": ("recipe",),
    "include": ("recipe", "checkpoint"),
    "site": ("recipe",),
}

# Every third party, and who may import it. "Lazily" is inside a function, so that the module can
# be imported without it: planning must not load torch.
THIRD_PARTIES: dict[str, tuple[str, ...]] = {
    "cryptography": (),
    "fsspec": (),
    "gcsfs": (),
    "huggingface_hub": (),
    "networkx": ("graph",),
    "numba": ("kernels",),
    "numpy": ("kernels",),
    "rich": ("console", "report"),
    "s3fs": (),
    "tokenizers": (),
    "torch": ("kernels",),
    "typer": ("cli",),
    "xxhash": ("digest", "checkpoint", "engine"),
    "yaml": ("recipe", "checkpoint", "share"),
}
LAZILY: dict[str, tuple[str, ...]] = {
    "cryptography": ("remote",),
    "fsspec": ("remote",),
    "gcsfs": ("remote",),
    "huggingface_hub": ("checkpoint", "remote", "share"),
    "s3fs": ("remote",),
    "tokenizers": ("vocabulary",),
    "torch": ("methods",),
    "numpy": ("methods",),
}

LEVEL = {name: level for level, layer in enumerate(LAYERS) for name in layer}
FILES = sorted(PACKAGE.rglob("*.py"))


@dataclass(frozen=True, slots=True)
class Import:
    """`what` is dotted and absolute; `lazy` where it stands inside a function."""

    what: str
    line: int
    lazy: bool


def name_of(file: Path) -> str:
    """The dotted name below mergebuild; the package itself is the empty one."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(node: ast.AST, package: str, lazy: bool = False) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            origin = child.module or ""
            if child.level:
                above = package.split(".")[: len(package.split(".")) - child.level + 1]
                origin = ".".join([*above, *filter(None, [origin])])
            # `from mergebuild.recipe import fields` names a module where there is one.
            for alias in child.names:
                whole = f"{origin}.{alias.name}"
                yield Import(whole if is_module(whole) else origin, child.lineno, lazy)
        function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from imports(child, package, lazy or function)


def is_module(dotted: str) -> bool:
    parts = dotted.split(".")
    place = PACKAGE.parent.joinpath(*parts)
    own = parts[0] == PACKAGE.name
    return own and (place.is_dir() or place.with_suffix(".py").is_file())


def within(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in allowed)


def refusal(module: str, one: Import) -> str | None:
    """Why `module` may not import this, if it may not."""
    home = module.split(".")[0]
    top, _, rest = one.what.partition(".")
    if top != PACKAGE.name:
        if top in sys.stdlib_module_names:
            return None
        if top not in THIRD_PARTIES:
            return f"{top} is in no table of third parties"
        allowed = THIRD_PARTIES[top] + (LAZILY.get(top, ()) if one.lazy else ())
        return None if within(home, allowed) else f"only {', '.join(allowed)} may import {top}"
    target = rest.split(".")[0]
    if target not in LEVEL:
        return f"{one.what} is in no layer"
    if LEVEL[target] > LEVEL[home]:
        return f"{target or PACKAGE.name} is above {home or PACKAGE.name}"
    if home in ONLY and target != home and LEVEL[target] > 0 and not within(rest, ONLY[home]):
        return f"{home} may import only {', '.join(('the ground', *ONLY[home]))}"
    return None


@pytest.mark.parametrize("file", FILES, ids=[name_of(file) or "mergebuild" for file in FILES])
def test_imports_go_downward(file: Path) -> None:
    module = name_of(file)
    assert module.split(".")[0] in LEVEL, f"{module} is in no layer: put it into LAYERS"
    package = ".".join([PACKAGE.name, *filter(None, [module])])
    if file.name != "__init__.py":
        package = package.rpartition(".")[0]
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = [(one, refusal(module, one)) for one in imports(tree, package)]
    refused = [f"{file.name}:{one.line}: {one.what}: {why}" for one, why in found if why]
    assert not refused, "\n".join(refused)


@pytest.mark.parametrize(
    ("module", "what", "lazy", "fine"),
    [
        ("plan.node", "mergebuild.recipe", False, True),
        ("plan.node", "mergebuild.engine", False, False),
        ("plan.node", "mergebuild.engine", True, False),
        ("errors", "mergebuild.events", False, True),
        ("errors", "mergebuild.recipe", False, False),
        ("recipe.text", "mergebuild.methods.declaration", False, True),
        ("recipe.text", "mergebuild.methods.ties", False, False),
        ("checkpoint.config", "mergebuild.methods", False, False),
        ("checkpoint.config", "mergebuild.errors", False, True),
        ("cli", "mergebuild.nowhere", False, False),
        ("methods.svd", "torch", True, True),
        ("methods.svd", "torch", False, False),
        ("engine.run", "rich.console", False, False),
        ("console.live", "rich.console", False, True),
        ("cli", "pandas", False, False),
        ("digest", "hashlib", False, True),
    ],
)
def test_the_rules_themselves(module: str, what: str, lazy: bool, fine: bool) -> None:
    assert (refusal(module, Import(what, 1, lazy)) is None) == fine

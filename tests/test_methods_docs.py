"""What users read about methods: `mergebuild methods`, and docs/methods.md, which is up to date."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import mergebuild as mb
from mergebuild.console.methods import example, method_list, method_text
from mergebuild.methods import Registry, registry
from mergebuild.methods.declaration import Method
from tests import kit

NAMES = list(registry().built_in)
PAGE = (kit.ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


def test_the_page_is_up_to_date() -> None:
    made = runpy.run_path(str(kit.ROOT / "docs" / "make_methods.py"))["page"]()
    assert made == PAGE, "run: python docs/make_methods.py"


@pytest.mark.parametrize("name", NAMES)
def test_every_method_is_in_the_page_with_all_its_parameters(name: str) -> None:
    method = registry()[name]
    section = PAGE.split(f"\n### {name}\n", 1)[1].split("\n### ", 1)[0]
    assert method.equation in section
    for parameter in method.parameters:
        assert f"| `{parameter}` |" in section
    for paper in method.papers:
        assert f"arxiv.org/abs/{paper.arxiv}" in section


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shown_of_a_method(name: str) -> None:
    method = registry()[name]
    text = method_text(method)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    for parameter in method.parameters.values():
        (line,) = (one for one in lines if re.match(rf"  {parameter.name} ", one))
        assert " for the node; " in line or " for each model" in line
        assert line.endswith("required") or "; default " in line
    for paper in method.papers:
        assert paper.title.split()[0] in text
        assert f"https://arxiv.org/abs/{paper.arxiv}" in text
    assert method.equation.splitlines()[0] in text


@pytest.mark.parametrize("name", NAMES)
def test_the_example_is_a_recipe(name: str, tmp_path: Path) -> None:
    recipe = kit.write_recipe(tmp_path / "recipe.yaml", example(registry()[name]) + "\n")
    loaded = mb.load(recipe, strict=True)
    assert loaded.nodes["merged"].method == name


def test_the_list_names_all_under_their_families() -> None:
    text = method_list(registry())
    for name in NAMES:
        assert re.search(rf"^  {name} ", text, re.MULTILINE), name
    assert text.startswith("Averages:\n  karcher ")
    assert max(map(len, text.splitlines())) <= 100


def test_the_list_says_what_is_not_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    from mergebuild.errors import Problem

    problem = Problem("method 'odd' of other 2.0 cannot be used: ImportError: x", None, "remove it")
    monkeypatch.setattr(Registry, "problems", (problem,))
    assert "not usable:\n  method 'odd' of other 2.0 cannot be used" in method_list(registry())


def test_a_method_of_another_package_says_where_it_is_from() -> None:
    import dataclasses

    method: Method = dataclasses.replace(registry()["linear"], package="other 2.0")
    assert "from: other 2.0" in method_text(method)
    assert "From other 2.0:\n  linear" in method_list({"linear": method})

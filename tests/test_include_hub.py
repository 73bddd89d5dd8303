# ruff: noqa: F811 (fixtures of another module)
"""Included recipes on the Hub: commits, nested files beside them, locks, and what goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

import mergebuild as mb
from mergebuild.errors import CheckpointError
from tests import kit
from tests.builder import Scratch
from tests.hub_server import HubServer
from tests.test_hub import hub, server  # noqa: F401
from tests.test_lock import said, write

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

INNER = """\
mergebuild: 1
sources: {model: org/model}
nodes:
  copy: {merge_method: passthrough, models: [{model: model}]}
"""
OUTER = "mergebuild: 1\ninclude: {in: ../inner.yaml}\n"
MAIN = (
    'mergebuild: 1\ninclude: {far: "hf://org/recipes/deep/outer.yaml%s"}\noutputs: [far.in.copy]\n'
)


def publish(hub: HubServer, root: Path, text: str = INNER) -> str:
    """Another commit of the repository of recipes."""
    kit.write_recipe(root / "recipes/inner.yaml", text)
    kit.write_recipe(root / "recipes/deep/outer.yaml", OUTER)
    return hub.repo("org/recipes").commit(root / "recipes")


@pytest.fixture
def work(hub: HubServer, tmp_path: Path) -> Scratch:
    hub.repo("org/model").commit(kit.llama(tmp_path / "model", layers=1))
    publish(hub, tmp_path)
    made = Scratch(tmp_path / "work")
    made.write(MAIN % "")
    return made


def test_a_recipe_on_the_hub(hub: HubServer, work: Scratch, tmp_path: Path) -> None:
    plan = work.plan()
    assert list(plan.nodes) == ["far.in.copy"]
    write(work.root)
    locked = said(work.root)
    first = locked["includes"]["far"]["commit"]
    assert locked["includes"]["far.in"]["recipe"] == f"hf://org/recipes/inner.yaml@{first}"
    new = publish(hub, tmp_path, INNER + "    # newer\n")
    assert new != first
    hub.requests.clear()
    for more in ({}, {"locked": True}, {"settings": mb.Settings(offline=True)}):
        assert work.plan(**more).nodes["far.in.copy"].key == plan.nodes["far.in.copy"].key
    assert hub.requests == []
    write(work.root, update=["far"])
    assert said(work.root)["includes"]["far"]["commit"] == new
    work.write(MAIN % f"@{first}")
    assert work.plan().recipe.included[0].recipe.commit == first


MISSING = [
    ("@nosuch", "has no revision 'nosuch'"),
    (f"@{'1' * 40}", "has no revision"),
]


@pytest.mark.parametrize(("revision", "expected"), MISSING)
def test_what_is_not_there(revision: str, expected: str, hub: HubServer, work: Scratch) -> None:
    work.write(MAIN % revision)
    with pytest.raises(CheckpointError) as caught:
        work.plan()
    assert expected in str(caught.value)
    assert "recipe.yaml:2:16" in str(caught.value)


def test_no_such_file_and_offline(hub: HubServer, work: Scratch) -> None:
    work.write((MAIN % "").replace("outer", "other"))
    with pytest.raises(CheckpointError, match=r"has no 'deep/other\.yaml'"):
        work.plan()
    hub.requests.clear()
    with pytest.raises(CheckpointError, match="is not in the Hub's cache, and --offline is given"):
        mb.plan(
            work.root / "recipe.yaml",
            cache=work.root / "cache",
            settings=mb.Settings(offline=True),
        )
    assert hub.requests == []

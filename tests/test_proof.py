"""A published model, on its own, is built again elsewhere and compared, by the real command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mergebuild.cache.manifest import read_manifest, to_text
from mergebuild.errors import CheckpointError
from mergebuild.share.recorded import recorded
from tests import kit
from tests.damage import rot
from tests.hub_server import HubServer, serving

RECIPE = """\
mergebuild: 1
sources: {base: org/base, math: "org/math@v1", chat: ./chat}
vars: {density: 0.5, unused: 1}
nodes:
  dare:
    merge_method: dare_ties
    base_model: base
    models: [{model: math, parameters: {weight: 1, density: "${density}"}}]
    dtype: bfloat16
  out:
    merge_method: task_arithmetic
    base_model: base
    models: [{model: dare, parameters: {weight: 1}}, {model: chat, parameters: {weight: 1}}]
    dtype: bfloat16
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    root = tmp_path_factory.mktemp("hub")
    with serving() as server:
        base = kit.llama(root / "base", layers=1)
        math = kit.llama(root / "math", layers=1, near=base, seed=1)
        server.repo("org/base").commit(base)
        server.repo("org/math").commit(math, "v1")
        yield server


@pytest.fixture(scope="module")
def published(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output as somebody else built it, with variables set and with a moved source."""
    root = tmp_path_factory.mktemp("theirs")
    kit.llama(root / "elsewhere/chat", layers=1, seed=2)
    kit.write_recipe(root / "mine.yaml", RECIPE)
    done = kit.run(
        "build", "mine.yaml", "--set", "density=0.25", "--source", "chat=elsewhere/chat",
        cwd=root, env=online(hub, root),
    )  # fmt: skip
    assert done.code == 0, done.stderr
    return root / "build/out"


def online(hub: HubServer, root: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(root / "home")}


@pytest.fixture
def mine(hub: HubServer, published: Path, tmp_path: Path) -> Path:
    """Another place, with nothing but the published folder, and the source that is on no Hub."""
    shutil.copytree(published, tmp_path / "got")
    for path in (tmp_path / "got").rglob("*"):
        path.chmod(0o644)
    kit.llama(tmp_path / "chat", layers=1, seed=2)
    return tmp_path


def check(mine: Path, hub: HubServer, *more: str) -> kit.Result:
    return kit.run("build", "got", "--check", *more, cwd=mine, env=online(hub, mine))


def test_it_is_built_again_from_what_it_records_alone(mine: Path, hub: HubServer) -> None:
    # What the names mean on the Hub has changed since; the commits have not.
    kit.llama(mine / "newer", layers=1, seed=7)
    before = dict(hub.repo("org/base").refs)
    hub.repo("org/base").commit(mine / "newer")
    done = check(mine, hub)
    hub.repo("org/base").refs = before
    assert (done.code, done.stdout) == (0, "got: the same again, bit by bit (12 tensors)\n"), done
    assert "building 'dare'" in done.stderr
    assert not (mine / "build").exists()
    assert json.loads(check(mine, hub, "--json").stdout) == {
        "tensors": 12, "different": [], "distance": 0.0, "files": []
    }  # fmt: skip


def test_what_differs_is_named(mine: Path, hub: HubServer) -> None:
    rot(mine / "got/model.safetensors")
    config = mine / "got/config.json"
    config.write_text(config.read_text().replace('"hidden_size"', '"hidden_siz3"'))
    done = check(mine, hub)
    assert done.code == 1
    assert "got: 1 of 12 tensors differ, the first is 'model." in done.stdout
    assert "got: file 'config.json' differs" in done.stdout


def test_a_source_that_holds_something_else_is_refused(mine: Path, hub: HubServer) -> None:
    kit.llama(mine / "chat", layers=1, seed=3)
    done = check(mine, hub)
    assert done.code == 1
    assert "source 'chat' holds something else than 'out' was built from" in done.stderr
    assert "hint: give the one that was, ./chat: --source chat=PATH" in done.stderr
    assert done.stdout == ""


def test_what_was_built_otherwise_is_told(mine: Path, hub: HubServer) -> None:
    """A manifest that tells another recipe than that of its tensors."""
    forge(mine, "density: 0.5", "density: 0.75")
    forge(mine, "variables", None)
    done = check(mine, hub)
    assert done.code == 1
    assert "warning: 'got' was built otherwise: content of 'dare' changed" in done.stderr
    assert "got: 12 of 12 tensors differ" in done.stdout


def forge(mine: Path, old: str, new: str | None) -> None:
    manifest = read_manifest(mine / "got")
    assert manifest is not None
    recipe = manifest.provenance["recipe"]
    if new is None:
        del recipe[old]
    else:
        recipe["text"] = recipe["text"].replace(old, new)
    (mine / "got/mergebuild.json").write_bytes(to_text(manifest))


def test_what_cannot_be_checked_is_refused(mine: Path, hub: HubServer) -> None:
    assert "'got' is a folder, not a recipe" in kit.run("build", "got", cwd=mine).stderr
    other = kit.run("build", "chat", "--check", cwd=mine)
    assert (other.code, "was not built by mergebuild" in other.stderr) == (2, True)
    shutil.rmtree(mine / "chat")
    gone = check(mine, hub)
    assert gone.code == 2
    assert "hint: say where it is: --source chat=PATH" in gone.stderr
    forge(mine, "nodes:", "nodes: ")
    forge(mine, "  out:", "  other:")
    assert "its recipe has no node 'out'" in check(mine, hub).stderr
    text = (mine / "got/mergebuild.json").read_bytes()
    (mine / "got/mergebuild.json").write_bytes(text.replace(b"org/base", b"org/bose"))
    damaged = check(mine, hub)
    assert (damaged.code, "is damaged" in damaged.stderr) == (1, True)


def test_nodes_of_a_recipe_are_checked_with_a_flag(published: Path, hub: HubServer) -> None:
    root = published.parent.parent
    more = ("--set", "density=0.25", "--source", "chat=elsewhere/chat")
    done = kit.run("build", "mine.yaml", "+out", "--check", *more, cwd=root, env=online(hub, root))
    assert done.stdout.splitlines() == [
        "dare: the same again, bit by bit (12 tensors)",
        "out: the same again, bit by bit (12 tensors)",
    ]


def test_where_sources_came_from_is_read_with_care() -> None:
    commit = "0123456789" * 4
    leaves = [
        {"name": "a", "model": "org/a", "revision": "v1", "commit": commit},
        {"name": "b+l", "model": "org/b", "commit": commit, "lora": {"model": "./l"}},
        {"name": "c", "model": "./c"},
        {"name": "d", "model": "org/d", "commit": "HEAD"},
        {"name": "e", "model": "/etc/x@y", "commit": commit},
        {"name": 5, "model": "org/f", "commit": commit},
        {"name": "g"},
        "nonsense",
    ]
    said = recorded({"recipe": {"text": "x"}, "leaves": leaves}, "out")
    assert said.sources == {
        "a": f"org/a@{commit}",
        "org/a@v1": f"org/a@{commit}",
        "b+l": f"org/b@{commit}+./l",
        "org/b": f"org/b@{commit}",
    }
    with pytest.raises(CheckpointError, match="does not say what recipe"):
        recorded({"recipe": {"text": 1}}, "out")
    with pytest.raises(CheckpointError, match="does not say what recipe"):
        recorded(None, "out")

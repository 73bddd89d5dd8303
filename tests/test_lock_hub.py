# ruff: noqa: F811 (fixtures of another module)
"""Locks of models on the Hub: commits are pinned, and what is there costs no request."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

import mergebuild as mb
from mergebuild import api
from mergebuild.checkpoint import digests as digests_module
from mergebuild.errors import CheckpointError, DriftError
from mergebuild.share.lock.text import lock_text
from mergebuild.site import Site
from tests import kit
from tests.builder import Scratch
from tests.hub_server import HubServer
from tests.test_hub import hub, model, scratch, server  # noqa: F401
from tests.test_lock import said, write
from tests.test_lora import adapter

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def work(hub: HubServer, tmp_path: Path) -> Scratch:
    """A recipe of the main branch of a model, locked, its files fetched."""
    hub.repo("org/model").commit(model(tmp_path))
    made = scratch(tmp_path, "org/model@main")
    write(made.root)
    hub.requests.clear()
    return made


def move_on(hub: HubServer, root: Path) -> str:
    """Another commit on the main branch."""
    shutil.rmtree(root / "remote/model")
    return hub.repo("org/model").commit(model(root, seed=7))


def commit(plan: mb.Plan) -> str:
    (leaf,) = plan.leaves.values()
    return leaf.snapshots[0].commit


def test_the_locked_commit_is_built_without_a_request(
    hub: HubServer,
    work: Scratch,
    tmp_path: Path,
) -> None:
    locked = said(work.root)["sources"]["org/model@main"]
    assert locked["license"] == "mit"
    new = move_on(hub, tmp_path)
    for more in ({}, {"locked": True}, {"settings": mb.Settings(offline=True)}):
        assert commit(work.plan(**more)) == locked["commit"] != new
    shutil.rmtree(work.root / "cache/hub")  # nor what the commit holds is asked for
    work.build()
    assert hub.requests == []


def test_update_looks_anew(hub: HubServer, work: Scratch, tmp_path: Path) -> None:
    old, new = said(work.root)["sources"]["org/model@main"]["commit"], move_on(hub, tmp_path)
    assert write(work.root) == []
    assert hub.requests == []
    drifts = write(work.root, update=["m"])
    assert f"source 'org/model@main': its commit: expected {old}, found {new}" in drifts
    assert commit(work.plan(locked=True)) == new
    assert write(work.root, update=[]) == []


def test_a_machine_that_has_nothing_fetches_the_locked_commit(
    hub: HubServer,
    work: Scratch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = said(work.root)["sources"]["org/model@main"]["commit"]
    move_on(hub, tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "other home"))
    shutil.rmtree(work.root / "cache")
    assert commit(work.plan(locked=True)) == old
    assert hub.requests[0][1] == f"/api/models/org/model/revision/{old}"
    assert not (tmp_path / "other home/hub/models--org--model/refs/main").exists()


def test_offline_says_what_is_missing(
    hub: HubServer,
    work: Scratch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "other home"))
    with pytest.raises(CheckpointError, match="not in the Hub's cache") as caught:
        work.plan(settings=mb.Settings(offline=True))
    assert "leave --offline out" in str(caught.value)
    assert hub.requests == []


def test_a_mirror_must_hold_the_same_and_keeps_the_commit(
    hub: HubServer,
    work: Scratch,
    tmp_path: Path,
) -> None:
    before = (work.root / "recipe.yaml.lock").read_bytes()
    mirror = Site(sources={"org/model": str(tmp_path / "remote/model")})
    for _ in range(2):
        work.plan(locked=True, site=mirror)
        lock, drifts = api.locked_anew(
            work.root / "recipe.yaml", cache=work.root / "cache", site=mirror
        )
        assert drifts == []
    assert hub.requests == []
    assert lock_text(lock).encode() == before
    (tmp_path / "remote/model/tokenizer.json").write_text("{}")
    with pytest.raises(DriftError, match=r"file 'tokenizer\.json'"):
        work.plan(locked=True, site=mirror)


def test_a_blob_that_is_not_what_it_is_named_for(
    work: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests_module, "_SETTLED_NS", -(10**12))
    work.plan(locked=True)
    (blob,) = [path for path in (tmp_path / "home").rglob("blobs/*") if len(path.name) == 64]
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(CheckpointError, match="is not what it is named for"):
        work.plan(locked=True)


def test_a_lock_of_another_commit_than_the_recipe_names(
    hub: HubServer,
    work: Scratch,
) -> None:
    found = said(work.root)["sources"]["org/model@main"]["commit"]
    work.write((work.root / "recipe.yaml").read_text().replace("@main", f"@{found}"))
    path = work.root / "recipe.yaml.lock"
    path.write_text(path.read_text().replace("@main", f"@{found}").replace(
        f"commit: {found}", "commit: " + "1" * 40
    ))  # fmt: skip
    with pytest.raises(DriftError, match=f"its commit: expected 1111.*, found {found}"):
        work.plan(locked=True)


def test_a_model_and_its_adapter_have_commits_of_their_own(
    hub: HubServer,
    tmp_path: Path,
) -> None:
    one = hub.repo("org/model").commit(model(tmp_path))
    two = hub.repo("org/lora").commit(adapter(tmp_path / "remote/lora"))
    made = scratch(tmp_path, "org/model+org/lora")
    write(made.root)
    assert {name: block["commit"] for name, block in said(made.root)["sources"].items()} == {
        "org/model": one,
        "+org/lora": two,
    }
    hub.requests.clear()
    made.plan(locked=True)
    assert hub.requests == []
    assert yaml.safe_load((made.root / "recipe.yaml.lock").read_text())["nodes"]["out"]["key"]


def test_the_command_makes_no_request(
    hub: HubServer,
    work: Scratch,
    tmp_path: Path,
) -> None:
    move_on(hub, tmp_path)
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": ""}
    for arguments in (
        ["lock", "recipe.yaml", "--check", "--offline"],
        ["build", "recipe.yaml", "--locked", "--offline"],
        ["build", "recipe.yaml", "--locked"],
    ):
        done = kit.run(*arguments, cwd=work.root, env=env)
        assert done.code == 0, done.stderr
    assert hub.requests == []
    shutil.rmtree(tmp_path / "home")
    done = kit.run("lock", "recipe.yaml", "--update", "--offline", cwd=work.root, env=env)
    assert done.code == 1
    assert "--offline is given" in done.stderr
    assert hub.requests == []

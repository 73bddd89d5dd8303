"""Publishing on the Hub: the real command and the real client against a server of the tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import mergebuild as mb
from tests import kit
from tests.damage import rot
from tests.hub_server import READER, TOKEN, HubServer, serving
from tests.test_incremental import age

RECIPE = """\
mergebuild: 1
sources: {base: ./base, math: ./math}
vars: {w: 0.5}
nodes:
  half:
    merge_method: linear
    models: [{model: base, parameters: {weight: 1}}, {model: math, parameters: {weight: "${w}"}}]
  blend:
    merge_method: slerp
    base_model: base
    models: [{model: base}, {model: half}]
    parameters: {t: 0.5}
outputs: [blend]
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe that is built, in shards of more than a megabyte, and locked."""
    root = tmp_path_factory.mktemp("publish")
    base = kit.llama(root / "base", layers=1, vocab=6000, hidden=64)
    kit.llama(root / "math", layers=1, vocab=6000, hidden=64, near=base, seed=1)
    for name, licence in (("base", "apache-2.0"), ("math", "llama3.2")):
        (root / name / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    age(root)
    kit.write_recipe(root / "recipe.yaml", RECIPE)
    for command in (("build", "recipe.yaml", "--shard-size", "2MB"), ("lock", "recipe.yaml")):
        done = kit.run(*command, cwd=root)
        assert done.code == 0, done.stderr
    return root


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serving() as server:
        yield server


def publish(root: Path, hub: HubServer, *args: str | Path, token: str | None = TOKEN) -> kit.Result:
    env = {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(root / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": token or "",
    }
    done = kit.run("publish", *args, cwd=root, env=env)
    assert "Traceback" not in done.stderr
    assert not any(secret in done.stdout + done.stderr for secret in (TOKEN, READER))
    return done


def test_an_output_with_card_recipe_and_lock_is_one_private_commit(
    built: Path, hub: HubServer, tmp_path: Path
) -> None:
    done = publish(built, hub, "recipe.yaml", "--to", "org/blend")
    assert done.code == 0, done.stderr
    repo = hub.repos["org/blend"]
    assert repo.private
    assert len(repo.commits) == 2
    assert done.stdout == f"{hub.url}/org/blend at commit {repo.refs['main']}\n"
    assert "uploading to 'org/blend': " in done.stderr

    files = repo.commits[repo.refs["main"]]
    out = built / "build/blend"
    assert {name for name in files if not name.startswith("recipe.yaml")} == {
        path.name for path in out.iterdir()
    }
    assert sum(name.endswith(".safetensors") for name in files) == 2
    for path in out.iterdir():
        assert files[path.name] == path.read_bytes()
    assert files["recipe.yaml"].decode() == RECIPE
    assert files["recipe.yaml.lock"] == (built / "recipe.yaml.lock").read_bytes()
    assert "license: other" in files["README.md"].decode()

    # What was published is what was built, for anyone who gets it.
    got = tmp_path / "got"
    for name, data in files.items():
        got.mkdir(exist_ok=True)
        (got / name).write_bytes(data)
    sources = [f"--source={name}={built / name}" for name in ("base", "math")]
    again = kit.run("build", got, "--check", *sources, cwd=tmp_path)
    assert (again.code, "the same again" in again.stdout) == (0, True), again
    imported = kit.run("import", "got", "-o", "again.yaml", "--no-follow", cwd=tmp_path)
    assert imported.code == 0
    assert list(mb.load(tmp_path / "again.yaml").nodes) == ["half", "blend"]


def test_what_was_uploaded_is_not_uploaded_again(built: Path, hub: HubServer) -> None:
    hub.takes = 1
    cut = publish(built, hub, "build/blend", "--to", "org/blend")
    assert cut.code == 1
    assert "error: the Hub does not let you write to 'org/blend' (403)" in cut.stderr
    assert list(hub.repos["org/blend"].commits.values()) == [{}]
    assert len(hub.large) == 1

    hub.takes = None
    hub.requests.clear()
    done = publish(built, hub, "build/blend", "--to", "org/blend", "--json")
    assert done.code == 0, done.stderr
    assert len(hub.asked("PUT", "/lfs/")) == 1
    events = [json.loads(line) for line in done.stdout.splitlines()]
    sizes = [event["bytes"] for event in events if event.get("event") == "Uploaded"]
    assert sum(sizes) == next(e["bytes"] for e in events if e.get("event") == "Uploading")
    assert events[-1]["commit"] == hub.repos["org/blend"].refs["main"]


def test_a_new_publication_replaces_the_whole_of_the_old_one(built: Path, hub: HubServer) -> None:
    repo = hub.repo("org/blend", private=True)
    old = {"mergebuild.json": b"{}", "model-00003-of-00003.safetensors": b"x", "logo.png": b"x"}
    repo.put(old, "main")
    done = publish(
        built, hub, "recipe.yaml", "half", "--to", "org/blend", "--revision", "v2", "-m", "Hello"
    )
    assert done.code == 0, done.stderr
    assert "removed 'model-00003-of-00003.safetensors'" in done.stderr
    assert repo.commits[repo.refs["main"]] == old
    files = repo.commits[repo.refs["v2"]]
    assert "logo.png" in files
    assert "model-00003-of-00003.safetensors" not in files
    assert files["README.md"].decode().startswith("---\n")  # of a node that has no output
    assert json.loads(files["mergebuild.json"])["node"] == "half"


def test_a_dry_run_asks_nobody(built: Path, hub: HubServer) -> None:
    done = publish(built, hub, "recipe.yaml", "--to", "org/blend", "--dry-run", token=None)
    assert done.code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "org/blend (private)"
    assert any(line.endswith("B  recipe.yaml.lock") for line in lines)
    assert "# blend" in lines
    assert hub.requests == []
    told = publish(built, hub, "build/blend", "--to", "org/blend", "--dry-run", "--json")
    said = json.loads(told.stdout.splitlines()[-1])
    assert said["files"]["config.json"] == (built / "build/blend/config.json").stat().st_size
    assert said["card"] == (built / "build/blend/README.md").read_text()


def test_only_what_is_fresh_and_sound_is_published(built: Path, hub: HubServer) -> None:
    stale = publish(built, hub, "recipe.yaml", "--to", "org/blend", "--set", "w=0.75")
    assert stale.code == 3
    assert "error: node 'blend' is stale (" in stale.stderr
    assert "hint: mergebuild build recipe.yaml blend" in stale.stderr
    shutil.copytree(built / "build/blend", built / "damaged")
    rot(built / "damaged/model-00001-of-00002.safetensors")
    damaged = publish(built, hub, "damaged", "--to", "org/blend")
    shutil.rmtree(built / "damaged")
    assert damaged.code == 1
    assert "'damaged' is not what was built: tensor" in damaged.stderr
    assert hub.requests == []


def test_a_public_repository_has_to_be_meant(built: Path, hub: HubServer) -> None:
    assert publish(built, hub, "build/blend", "--to", "org/open", "--public").code == 0
    assert not hub.repos["org/open"].private
    again = publish(built, hub, "build/blend", "--to", "org/open")
    assert (again.code, "everybody can read it" in again.stderr) == (2, True)
    hub.repo("org/mine", private=True).put({"pytorch_model.bin": b"x"}, "main")
    closed = publish(built, hub, "build/blend", "--to", "org/mine", "--public")
    assert (closed.code, "is private, which --public does not change" in closed.stderr) == (2, True)
    foreign = publish(built, hub, "build/blend", "--to", "org/mine")
    assert foreign.code == 2
    assert "weights that mergebuild did not publish, such as 'pytorch_model.bin'" in foreign.stderr
    assert publish(built, hub, "build/blend", "--to", "org/mine", "--force").code == 0
    files = hub.repos["org/mine"].commits[hub.repos["org/mine"].refs["main"]]
    assert "pytorch_model.bin" not in files


REFUSED = [
    # token, what the server does, exit code, on stderr
    (None, {}, 1, "the Hub does not let you write to 'org/blend' (401)"),
    (READER, {}, 1, "the Hub does not let you write to 'org/blend' (403)"),
    (TOKEN, {"bad_card": True}, 1, 'the Hub does not take the card'),
    (TOKEN, {"failing": 418}, 1, "answers 418 for 'org/blend'"),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[3][-30:])
def test_what_the_hub_refuses(
    built: Path, hub: HubServer, case: tuple[str | None, dict[str, int], int, str]
) -> None:
    token, state, code, told = case
    for name, value in state.items():
        setattr(hub, name, value)
    done = publish(built, hub, "build/blend", "--to", "org/blend", token=token)
    assert (done.code, done.stdout) == (code, "")
    assert told in done.stderr
    assert "hint: " in done.stderr
    assert not any(any(files.values()) for repo in hub.repos.values() for files in
                   repo.commits.values())  # fmt: skip


USAGE = [
    (["recipe.yaml"], "--to is missing"),
    (["recipe.yaml", "--to", "blend"], "'blend' is no name on the Hub"),
    (["recipe.yaml", "nosuch", "--to", "org/x"], "no node 'nosuch'"),
    (["build/blend", "blend", "--to", "org/x"], "'build/blend' is an output: it has no node"),
    (["base", "--to", "org/x"], "'base' was not built by mergebuild"),
]  # fmt: skip


@pytest.mark.parametrize("case", USAGE, ids=lambda case: case[1])
def test_usage(built: Path, case: tuple[list[str], str]) -> None:
    done = kit.run("publish", *case[0], cwd=built)
    assert done.code in (1, 2)
    assert case[1] in done.stderr
    assert "Traceback" not in done.stderr

"""Models of the Hugging Face Hub: the real client against a server of the tests."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import mergebuild as mb
from mergebuild import api
from mergebuild.checkpoint.hub import cache_folder, is_offline, is_repo
from mergebuild.console.checkpoints import inspect_text
from mergebuild.errors import CheckpointError, MergebuildError
from mergebuild.events import Event, Fetched, Fetching, Warned
from tests import kit
from tests.builder import Scratch
from tests.hub_server import TOKEN, HubServer, serving
from tests.test_bin import convert
from tests.test_lora import Q, adapter, pair

# The client's connections are closed when they are collected, which may be in another test.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

RECIPE = """\
mergebuild: 1
sources: {{m: "{0}"}}
nodes:
  out:
    merge_method: passthrough
    models: [{{model: m}}]
"""
VARIABLES = (
    "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HF_TOKEN_PATH",
)  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with serving() as hub:
        yield hub


@pytest.fixture
def hub(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The server, empty, as the Hub of this test; the client's cache is empty too."""
    from huggingface_hub import constants

    server.repos, server.renamed, server.drops, server.failing = {}, {}, {}, 0
    server.requests = []
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    # Read by the client when it is imported, which was long ago.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    return server


def model(root: Path, name: str = "model", **more: Any) -> Path:
    folder = kit.llama(root / "remote" / name, layers=1, **more)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


def scratch(root: Path, source: str = "org/model") -> Scratch:
    (root / "work").mkdir(exist_ok=True)
    made = Scratch(root / "work")
    made.write(RECIPE.format(source))
    return made


def planned(root: Path, source: str = "org/model") -> tuple[mb.Plan, list[Event]]:
    events: list[Event] = []
    return scratch(root, source).plan(sink=events.append), events


def fetched(events: list[Event]) -> tuple[int, int]:
    """Files that were announced and bytes that came."""
    announced = sum(event.files for event in events if isinstance(event, Fetching))
    return announced, sum(event.bytes for event in events if isinstance(event, Fetched))


def snapshot(plan: mb.Plan) -> Path:
    (leaf,) = plan.leaves.values()
    return leaf.checkpoint.path


def test_a_merge(hub: HubServer, tmp_path: Path) -> None:
    folder = model(tmp_path)
    commit = hub.repo("org/model").commit(folder)
    made = scratch(tmp_path)
    made.build()
    output = made.output("out")
    assert kit.read(output).keys() == kit.read(folder).keys()
    for name, tensor in kit.read(folder).items():
        assert kit.read(output)[name].equal(tensor)
    assert (output / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    (leaf,) = json.loads((output / "mergebuild.json").read_text())["provenance"]["leaves"]
    assert (leaf["model"], leaf["commit"], leaf["license"]) == ("org/model", commit, "mit")


def test_events_say_what_and_how_much(hub: HubServer, tmp_path: Path) -> None:
    folder = model(tmp_path)
    commit = hub.repo("org/model").commit(folder)
    plan, events = planned(tmp_path)
    files = [path for path in folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    assert fetched(events) == (len(files), size)
    assert {e.commit for e in events if isinstance(e, Fetching)} == {commit}
    (leaf,) = plan.leaves.values()
    (found,) = leaf.snapshots
    assert (found.repo, found.revision, found.commit) == ("org/model", None, commit)
    assert (found.files, found.bytes) == (len(files), size)
    again, events = planned(tmp_path)
    assert fetched(events) == (0, 0)
    assert next(iter(again.leaves.values())).snapshots[0].files == 0


def test_requests(hub: HubServer, tmp_path: Path) -> None:
    """Named by commit: none once it is there. By branch: one, which says what the branch is."""
    commit = hub.repo("org/model").commit(model(tmp_path))
    planned(tmp_path, f"org/model@{commit}")
    assert hub.requests
    hub.requests.clear()
    planned(tmp_path, f"org/model@{commit}")
    assert hub.requests == []
    planned(tmp_path)
    assert [path for _, path, _ in hub.requests] == ["/api/models/org/model"]


def test_a_snapshot_needs_no_import(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.repo("org/model").commit(model(tmp_path))
    scratch(tmp_path, f"org/model@{commit}").build()
    hub.requests.clear()
    code = (
        "import sys; sys.argv = ['mergebuild', 'build', 'recipe.yaml', '--out', 'build/out']\n"
        "from mergebuild.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(sorted({'torch', 'numpy', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "work", capture_output=True, text=True,
        check=False, env={**os.environ, "MERGEBUILD_CACHE": str(tmp_path / "work" / "cache")},
    )  # fmt: skip
    assert done.stdout.strip() == "[]", done.stderr
    assert "nothing to do" in done.stderr
    assert hub.requests == []


def test_a_branch_moves(hub: HubServer, tmp_path: Path) -> None:
    """What is built is always of one commit; the next build is of the new one."""
    hub.repo("org/model").commit(model(tmp_path))
    made = scratch(tmp_path)
    plan = made.plan()
    other = model(tmp_path, "other", seed=1)
    hub.repo("org/model").commit(other)
    mb.build(plan)
    first = kit.read(made.output("out"))["model.norm.weight"]
    assert first.equal(kit.read(tmp_path / "remote/model")["model.norm.weight"])
    assert made.build()
    assert kit.read(made.output("out"))["model.norm.weight"].equal(
        kit.read(other)["model.norm.weight"]
    )


def test_revisions(hub: HubServer, tmp_path: Path) -> None:
    repo = hub.repo("org/model")
    one = repo.commit(model(tmp_path), "v1/rc")
    two = repo.commit(model(tmp_path, "other", seed=1))
    for source, commit in (
        ("org/model", two), ("org/model@main", two), ("org/model@v1/rc", one),
        (f"org/model@{one}", one), (f"org/model@{two}", two),
    ):  # fmt: skip
        assert snapshot(planned(tmp_path, source)[0]).name == commit


def _both_formats(root: Path) -> Path:
    folder = model(root)
    torch.save(kit.read(folder), folder / "pytorch_model.bin")
    return folder


def _noise(root: Path) -> Path:
    folder = model(root)
    for name in ("training_args.bin", "optimizer.pt", "model.gguf", "notes.txt", "modeling_x.py"):
        (folder / name).write_bytes(b"x")
    (folder / "original").mkdir()
    (folder / "original" / "consolidated.safetensors").write_bytes(b"x")
    return folder


def _code(root: Path) -> Path:
    folder = _noise(root)
    said = {**kit.config(folder), "auto_map": {"AutoModel": "modeling_x.X"}}
    (folder / "config.json").write_text(json.dumps(said))
    return folder


def _templates(root: Path) -> Path:
    folder = model(root)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("x")
    return folder


SIDE = {"README.md", "config.json", "generation_config.json", "tokenizer.json",
        "tokenizer_config.json"}  # fmt: skip
NEEDED: dict[str, tuple[Callable[[Path], Path], set[str]]] = {
    "safetensors": (model, {"model.safetensors"}),
    "both": (_both_formats, {"model.safetensors"}),
    "noise": (_noise, {"model.safetensors"}),
    "code": (_code, {"model.safetensors", "modeling_x.py"}),
    "templates": (
        _templates, {"model.safetensors", "additional_chat_templates/tool.jinja"},
    ),
    "shards": (
        lambda root: model(root, shards=2),
        {f"model-0000{i}-of-00002.safetensors" for i in (1, 2)} | {"model.safetensors.index.json"},
    ),
    "bin": (lambda root: convert(model(root)), {"pytorch_model.bin"}),
    "bin shards": (
        lambda root: convert(model(root), shards=2),
        {f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)} | {"pytorch_model.bin.index.json"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NEEDED)
def test_only_needed_files(case: str, hub: HubServer, tmp_path: Path) -> None:
    prepare, expected = NEEDED[case]
    hub.repo("org/model").commit(prepare(tmp_path))
    folder = snapshot(planned(tmp_path)[0])
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    assert found == SIDE | expected


def test_dropped_connections_are_resumed(hub: HubServer, tmp_path: Path) -> None:
    folder = model(tmp_path, hidden=128, vocab=512)
    hub.repo("org/model").commit(folder)
    hub.drops["model.safetensors"] = [100_000, 50_000]
    plan, events = planned(tmp_path)
    size = (folder / "model.safetensors").stat().st_size
    ranges = [r for method, path, r in hub.requests if "cdn" in path and method == "GET"]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]
    stored = snapshot(plan) / "model.safetensors"
    assert stored.read_bytes() == (folder / "model.safetensors").read_bytes()
    assert fetched(events)[1] == sum(p.stat().st_size for p in folder.rglob("*"))
    assert size > 150_000


def test_a_later_run_goes_on(hub: HubServer, tmp_path: Path) -> None:
    """Files that came whole are kept; the library begins the others anew."""
    folder = model(tmp_path, hidden=128, vocab=512)
    hub.repo("org/model").commit(folder)
    hub.drops["model.safetensors"] = [100_000, *[0] * 20]
    with pytest.raises(CheckpointError, match="'org/model' could not be fetched") as caught:
        planned(tmp_path)
    assert "files that came whole are kept" in (caught.value.problems[0].hint or "")
    hub.drops.clear()
    hub.requests.clear()
    plan, _ = planned(tmp_path)
    assert len(hub.asked("GET", "/resolve/") + hub.asked("GET", "/cdn/")) == 1
    stored = snapshot(plan) / "model.safetensors"
    assert stored.read_bytes() == (folder / "model.safetensors").read_bytes()


def test_a_renamed_model(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.repo("org/model").commit(model(tmp_path))
    hub.renamed["org/old"] = "org/model"
    plan, _ = planned(tmp_path, "org/old")
    assert snapshot(plan).name == commit


def test_a_private_model_and_its_token(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.repo("org/model", private=True, gated=True).commit(model(tmp_path))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert snapshot(planned(tmp_path)[0]).name == commit


def test_a_lora_of_the_hub(hub: HubServer, tmp_path: Path) -> None:
    folder = model(tmp_path)
    hub.repo("org/model").commit(folder)
    remote = adapter(tmp_path / "remote" / "lora")
    (remote / "model.safetensors").write_bytes(b"x")
    commit = hub.repo("org/lora").commit(remote, "v1")
    made = scratch(tmp_path, "org/model+org/lora@v1")
    made.build()
    a, b = pair(Q).values()
    expected = kit.read(folder)[f"{Q}.weight"].double() + 3.0 * b.double() @ a.double()
    assert kit.read(made.output("out"))[f"{Q}.weight"].equal(expected.float())
    (leaf,) = json.loads((made.output("out") / "mergebuild.json").read_text())["provenance"][
        "leaves"
    ]
    assert leaf["lora"] == {"model": "org/lora", "revision": "v1", "commit": commit}
    hub.repo("org/lora").commit(model(tmp_path, "none"), "v2")
    with pytest.raises(CheckpointError, match="is no LoRA adapter"):
        planned(tmp_path, "org/model+org/lora@v2")


def _private(hub: HubServer, root: Path) -> None:
    hub.repo("org/model", private=True).commit(model(root))


def _gated(hub: HubServer, root: Path) -> None:
    hub.repo("org/model", gated=True).commit(model(root))


def _failing(status: int) -> Callable[[HubServer, Path], None]:
    def fail(hub: HubServer, root: Path) -> None:
        hub.failing = status

    return fail


def _bare(hub: HubServer, root: Path) -> None:
    (root / "remote").mkdir()
    (root / "remote" / "notes.txt").write_text("x")
    hub.repo("org/model").commit(root / "remote")


def _fine(hub: HubServer, root: Path) -> None:
    hub.repo("org/model").commit(model(root))


def _strange(hub: HubServer, root: Path) -> None:
    repo = hub.repo("org/model")
    repo.commits["../../x"], repo.refs["main"] = {}, "../../x"


FAILING: dict[str, tuple[Callable[[HubServer, Path], None], str, str, str]] = {
    "not there": (lambda h, r: None, "org/model", "there is no 'org/model', neither", "its name"),
    "private": (_private, "org/model", "or it is private", "hf auth login"),
    "gated": (_gated, "org/model", "'org/model' is gated", "accept its terms at http://"),
    "no revision": (_fine, "org/model@v9", "has no revision 'v9'", "a branch, a tag"),
    "no commit": (_fine, f"org/model@{'0' * 40}", "has no revision '000", "a branch, a tag"),
    "broken": (_failing(500), "org/model", "answers 500 for 'org/model'", "HF_HUB_OFFLINE=1"),
    "forbidden": (_failing(403), "org/model", "refuses access", "check the token"),
    "no weights": (_bare, "org/model", "it holds no weights", "expected is"),
    "a strange commit": (_strange, "org/model", "is not understood", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILING)
def test_failing(case: str, hub: HubServer, tmp_path: Path) -> None:
    prepare, source, message, hint = FAILING[case]
    prepare(hub, tmp_path)
    with pytest.raises(MergebuildError) as caught:
        planned(tmp_path, source)
    (problem,) = caught.value.problems
    assert message in problem.message
    assert problem.message.startswith("source 'm': ")
    assert hint in (problem.hint or "")
    assert problem.at is not None


def test_a_wrong_token(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _private(hub, tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(CheckpointError, match="refuses access to 'org/model'") as caught:
        planned(tmp_path)
    assert "hf_wrong" not in str(caught.value)


def test_no_connection(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(CheckpointError, match=f"could not be fetched from http://127.*{port}"):
        planned(tmp_path)


def test_offline(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.repo("org/model").commit(model(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for source in ("org/model", f"org/model@{commit}"):
        with pytest.raises(CheckpointError, match="is not in the Hub's cache") as caught:
            planned(tmp_path, source)
        assert "unset HF_HUB_OFFLINE" in (caught.value.problems[0].hint or "")
    assert hub.requests == []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    planned(tmp_path)
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for source in ("org/model", "org/model@main", f"org/model@{commit}"):
        plan, events = planned(tmp_path, source)
        assert snapshot(plan).name == commit
        assert not any(isinstance(event, Warned) for event in events)
    shutil.rmtree(tmp_path / "work" / "cache" / "hub")
    assert any(isinstance(event, Warned) for event in planned(tmp_path)[1])
    (snapshot(planned(tmp_path)[0]) / "model.safetensors").unlink()
    with pytest.raises(MergebuildError, match="holds no weights"):
        planned(tmp_path)
    assert hub.requests == []


def test_offline_and_not_whole(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repo("org/model").commit(model(tmp_path))
    folder = snapshot(planned(tmp_path)[0])
    (folder / "tokenizer.json").unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match=r"not whole in the Hub's cache: 'tokenizer\.json'"):
        planned(tmp_path)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert fetched(planned(tmp_path)[1])[0] == 1


@pytest.mark.parametrize("place", ["work", "."])
def test_a_path_wins(
    place: str, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repo("org/model").commit(model(tmp_path, seed=1))
    local = kit.llama(tmp_path / place / "org" / "model", layers=1)
    monkeypatch.chdir(tmp_path)
    plan, events = planned(tmp_path, "org/model@v7")
    assert snapshot(plan).resolve() == local.resolve()
    assert hub.requests == []
    assert any("'v7' has no effect" in e.text for e in events if isinstance(e, Warned))


@pytest.mark.parametrize("source", ["./org/model", "../x", "~/x", "/a/b", "a/b/c", "a/b c", ".a/b"])
def test_what_is_no_name_on_the_hub(source: str, hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(mb.RecipeError, match="there is no '"):
        planned(tmp_path, source)
    assert hub.requests == []


def test_names() -> None:
    for name in ("a/b", "Qwen/Qwen2.5-7B", "01-ai/Yi-6B", "a/_b"):
        assert is_repo(name)
    for name in (
        "a",
        "a/b/c",
        "a--b/c",
        "a/../b",
        "a/b..c",
        "-a/b",
        "a/",
        "/b",
        "a/b\n",
        "\u00e4/b",
    ):
        assert not is_repo(name)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_HUB_CACHE": "/c", "HF_HOME": "/h"}, "/c"),
        ({"HUGGINGFACE_HUB_CACHE": "/c", "HF_HOME": "/h"}, "/c"),
        ({"HF_HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/h/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HF_HOME": "$ROOT/h", "ROOT": "/r"}, "/r/h/hub"),
        ({"HOME": "/me"}, "/me/.cache/huggingface/hub"),
    ],
)
def test_the_cache_is_the_libraries(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in (*VARIABLES, "HF_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert str(cache_folder()) == expected


@pytest.mark.parametrize(
    ("said", "expected"), [("1", True), ("on", True), ("True", True), ("0", False), ("", False)]
)
def test_offline_by_the_libraries_variables(
    said: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    assert not is_offline()
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", said)
    assert is_offline() is expected


def test_the_command(hub: HubServer, tmp_path: Path) -> None:
    """The real command in a process of its own: what is fetched is told, also as JSON."""
    commit = hub.repo("org/model").commit(model(tmp_path))
    scratch(tmp_path)
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "h"), "HF_HUB_OFFLINE": ""}
    out = ("--out", "build/out")
    first = kit.run("plan", "recipe.yaml", *out, "--json", cwd=tmp_path / "work", env=env)
    assert (first.code, f"fetching 'org/model' at {commit[:8]}: 5 files" in first.stderr) == (
        0,
        True,
    )
    (source,) = json.loads(first.stdout)["sources"]
    (found,) = source["hub"]
    assert (found["commit"], found["fetched"]["files"]) == (commit, 6)
    second = kit.run("build", "recipe.yaml", *out, "--json", cwd=tmp_path / "work", env=env)
    assert second.code == 0, second.stderr
    assert "Fetching" not in second.stdout
    third = kit.run("plan", "recipe.yaml", *out, cwd=tmp_path / "work", env=env)
    assert f"source m: org/model at {commit}" in third.stdout
    assert "fetching" not in third.stderr


def test_what_inspect_and_extraction_say(hub: HubServer, tmp_path: Path) -> None:
    """A model is inspected by its name, an adapter extracted for it says its name, and an adapter
    of the Hub goes on a node."""
    base = model(tmp_path)
    commit = hub.repo("org/model").commit(base)
    hub.repo("org/lora").commit(adapter(tmp_path / "remote" / "lora"))
    (tmp_path / "work").mkdir()
    kit.llama(tmp_path / "work" / "fine", layers=1, near=base, seed=1)
    looked = api.look("org/model+org/lora", cache=tmp_path / "work" / "cache")
    assert [s.repo for s in looked.snapshots] == ["org/model", "org/lora"]
    assert f"Hub: org/model at {commit}" in inspect_text(looked, tensors=False)
    made = Scratch(tmp_path / "work")
    made.write(
        "mergebuild: 1\nnodes:\n"
        "  ex: {kind: lora, model: ./fine, base_model: org/model, rank: 2}\n"
        "  copy: {merge_method: passthrough, models: [{model: org/model}]}\n"
        "  out: {merge_method: passthrough, models: [{model: copy+org/lora}]}\n"
        "outputs: [ex, out]\n"
    )
    made.build()
    said = json.loads((made.output("ex") / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == "org/model"
    card = (made.output("ex") / "README.md").read_text()
    assert "base_model:\n- org/model\nbase_model_relation: adapter\n" in card
    a, b = pair(Q).values()
    wanted = kit.read(base)[f"{Q}.weight"] + 3 * b @ a
    torch.testing.assert_close(kit.read(made.output("out"))[f"{Q}.weight"], wanted)

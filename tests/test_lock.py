"""Locks: the same bytes everywhere, every drift told with its place, and what a bad file says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

import mergebuild as mb
from mergebuild import api
from mergebuild.errors import DriftError, RecipeError, UsageError
from mergebuild.events import Event, Hashing, Warned
from mergebuild.files import write_file
from mergebuild.share.lock.beside import lock_path
from mergebuild.share.lock.text import lock_text, read_lock
from tests import kit
from tests.builder import Scratch
from tests.test_incremental import RECIPE
from tests.test_lora import adapter


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, its sources, and a lock of it unbuilt."""
    root = tmp_path_factory.mktemp("models")
    kit.base_and_two(root, layers=2)
    kit.write_recipe(root / "recipe.yaml", RECIPE)
    write(root)
    return root


@pytest.fixture
def scratch(models: Path, tmp_path: Path) -> Scratch:
    shutil.copytree(models, tmp_path / "work")
    return Scratch(tmp_path / "work")


def write(root: Path, update: list[str] | None = None) -> list[str]:
    """Lock a folder's recipe; what had drifted."""
    recipe = root / "recipe.yaml"
    lock, drifts = api.locked_anew(recipe, update=update, cache=root / "cache")
    write_file(lock_path(recipe), lock_text(lock).encode())
    return [problem.message for problem in drifts]


def drifts(scratch: Scratch) -> list[str]:
    """What a locked plan refuses."""
    with pytest.raises(DriftError) as caught:
        scratch.plan(locked=True)
    assert all(problem.at is not None for problem in caught.value.problems)
    return [problem.message for problem in caught.value.problems]


def said(root: Path) -> Any:
    """The lock as any reader of YAML has it."""
    return yaml.safe_load((root / "recipe.yaml.lock").read_text())


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_two_clones_make_the_same_lock_and_the_same_checkpoints(
    models: Path, tmp_path: Path
) -> None:
    """Other folders, other umasks, other numbers of threads, other sizes of files."""
    made = []
    for name, umask, more in (
        ("one", 0o022, ["--jobs", "1"]),
        ("an other/deeper", 0o077, ["--jobs", "3", "--chunk", "1"]),
    ):
        root = tmp_path / name
        shutil.copytree(models, root)
        lock_path(root / "recipe.yaml").unlink()
        command = [sys.executable, "-m", "mergebuild"]
        for arguments in (
            ["lock", "recipe.yaml"],
            ["build", "recipe.yaml", "--locked", *more],
            ["lock", "recipe.yaml"],
            ["lock", "recipe.yaml", "--check"],
        ):
            done = subprocess.run(
                [*command, *arguments], cwd=root, umask=umask, capture_output=True, check=False
            )
            assert done.returncode == 0, done.stderr
        key = said(root)["nodes"]["blend"]["key"]
        weights = (root / "build/blend/model.safetensors").read_bytes()
        made.append(((root / "recipe.yaml.lock").read_bytes(), key, weights))
        for part in (str(root), str(tmp_path), str(Path.home())):
            assert part not in (root / "recipe.yaml.lock").read_text()
    assert made[0] == made[1]


def test_what_it_says(models: Path) -> None:
    found = said(models)
    assert list(found) == ["mergebuild-lock", "sources", "nodes"]
    assert list(found["sources"]) == ["./base", "./chat", "./math"]
    assert list(found["sources"]["./base"]["files"]) == [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    assert list(found["sources"]["./base"]["tensors"]) == [
        "lm_head.weight", "model.embed_tokens.weight", "model.layers.0", "model.layers.1",
        "model.norm.weight",
    ]  # fmt: skip
    assert found["nodes"]["sum"].keys() == {"key", "methods"}
    assert found["nodes"]["sum"]["methods"] == {"task_arithmetic": 1}


def test_it_reads_back(models: Path) -> None:
    path = models / "recipe.yaml.lock"
    lock = read_lock(path)
    assert lock is not None
    assert lock_text(lock) == path.read_text()


def test_outputs_are_locked_once_they_are_built(scratch: Scratch) -> None:
    assert write(scratch.root) == []
    scratch.build(settings=mb.Settings(shard_size=10_000))
    assert len(list(scratch.output("blend").glob("*.safetensors"))) > 1
    assert write(scratch.root) == []
    one = said(scratch.root)["nodes"]
    shutil.rmtree(scratch.root / "cache")
    shutil.rmtree(scratch.root / "build")
    assert write(scratch.root) == []  # what is not in the cache stays as it was
    assert said(scratch.root)["nodes"] == one
    lock_path(scratch.root / "recipe.yaml").unlink()
    scratch.build()  # as one file
    write(scratch.root)
    assert said(scratch.root)["nodes"] == one
    assert {"content", "sha256"} == one["blend"]["output"].keys()


def change_tensor(root: Path) -> None:
    file = root / "math/model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] += 1
    save_file(tensors, file, metadata={"format": "pt"})


def reshard(root: Path) -> None:
    kit.llama(root / "base", layers=2, shards=2)
    (root / "base/model.safetensors").unlink()


def other_source(root: Path) -> None:
    shutil.copytree(root / "math", root / "maths")
    edit(root / "recipe.yaml", "./math", "./maths")


DRIFTS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "a tensor": (
        change_tensor,
        [
            "source './math': file 'model.safetensors': expected 21856 bytes with SHA-256 ",
            "source './math': the content of the tensors that begin with 'model.layers.1': expe",
        ],
    ),
    "a side file": (
        lambda root: (root / "base/tokenizer.json").write_text("{}"),
        ["source './base': file 'tokenizer.json': expected 1141 bytes with SHA-256 "],
    ),
    "a file that is gone": (
        lambda root: (root / "base/generation_config.json").unlink(),
        ["source './base': file 'generation_config.json': expected 45 bytes"],
    ),
    "files in another way": (
        reshard,
        [
            "source './base': file 'model-00001-of-00002.safetensors': expected no such file",
            "source './base': file 'model-00002-of-00002.safetensors': expected no such file",
            "source './base': file 'model.safetensors': expected 21856 bytes",
            "source './base': file 'model.safetensors.index.json': expected no such file, found",
        ],
    ),
    "a parameter": (
        lambda root: edit(root / "recipe.yaml", "density: 0.5", "density: 0.4"),
        ["node 'dare': its key, for what the recipe says of it changed: expected "],
    ),
    "another source": (
        lambda root: edit(root / "recipe.yaml", "./math", "./chat"),
        ["node 'dare': its key, for"],
    ),
    "a source that is not locked": (
        other_source,
        ["source './maths' is not in the lock"],
    ),
    "a node that is not locked": (
        lambda root: edit(root / "recipe.yaml", "blend", "mix"),
        ["node 'mix' is not in the lock"],
    ),
    "a method's version": (
        lambda root: edit(root / "recipe.yaml.lock", "dare_ties: 1", "dare_ties: 7"),
        ["node 'dare': the version of method 'dare_ties': expected 7, found 1"],
    ),
}


@pytest.mark.parametrize("case", DRIFTS)
def test_drift(case: str, scratch: Scratch) -> None:
    change, expected = DRIFTS[case]
    scratch.plan(locked=True)
    change(scratch.root)
    told = drifts(scratch)
    assert len(told) == len(expected), told
    for message, beginning in zip(told, expected, strict=True):
        assert message.startswith(beginning), message
    write(scratch.root)
    scratch.plan(locked=True)


UNSEEN: dict[str, Callable[[Path], object]] = {
    "a comment": lambda root: edit(root / "recipe.yaml", "nodes:", "# a comment\nnodes:"),
    "a card": lambda root: (root / "base/README.md").write_text("# a model"),
    "a file that no model has": lambda root: (root / "base/notes.txt").write_text("x"),
}


@pytest.mark.parametrize("case", UNSEEN)
def test_no_drift(case: str, scratch: Scratch) -> None:
    UNSEEN[case](scratch.root)
    scratch.plan(locked=True)


def test_without_locked_a_drift_is_a_warning_and_nothing_is_hashed(scratch: Scratch) -> None:
    change_tensor(scratch.root)
    before = (scratch.root / "recipe.yaml.lock").read_bytes()
    events: list[Event] = []
    scratch.build(sink=events.append)
    warned = [event.text for event in events if isinstance(event, Warned)]
    assert len(warned) == 1
    assert "recipe.yaml.lock:" in warned[0]
    assert "the lock is out of date: source './math': the content of the tensors" in warned[0]
    assert not any(isinstance(event, Hashing) for event in events)
    assert (scratch.root / "recipe.yaml.lock").read_bytes() == before


def test_variables_from_outside_change_nodes_and_not_what_they_are_made_of(
    scratch: Scratch,
) -> None:
    varied = RECIPE.replace("density: 0.5", 'density: "${density}"')
    scratch.write(varied.replace("nodes:", "vars: {density: 0.5}\nnodes:"))
    assert write(scratch.root) == []
    scratch.plan(locked=True)
    scratch.plan(locked=True, variables={"density": "0.4"})
    change_tensor(scratch.root)
    with pytest.raises(DriftError, match=r"source '\./math'"):
        scratch.plan(locked=True, variables={"density": "0.4"})


def test_another_place_must_hold_the_same(scratch: Scratch) -> None:
    (scratch.root / "base").rename(scratch.root / "moved")
    scratch.sources["base"] = str(scratch.root / "moved")
    scratch.plan(locked=True)
    scratch.sources["math"] = str(scratch.root / "chat")
    with pytest.raises(DriftError, match=r"source '\./math'"):
        scratch.plan(locked=True)


def test_an_output_that_is_not_what_it_was(scratch: Scratch) -> None:
    scratch.build()
    write(scratch.root)
    path = scratch.root / "recipe.yaml.lock"
    content = said(scratch.root)["nodes"]["blend"]["output"]["content"]
    edit(path, content, "0" * 32)
    plan = scratch.plan(locked=True)
    with pytest.raises(DriftError, match="node 'blend': the content of its output: expected 0000"):
        mb.build(plan, locked=True)
    with pytest.raises(DriftError):
        api.build(scratch.plan(locked=True), locked=True)


def test_a_source_with_an_adapter_is_two(tmp_path: Path) -> None:
    kit.llama(tmp_path / "base", layers=1)
    adapter(tmp_path / "lora")
    kit.write_recipe(
        tmp_path / "recipe.yaml",
        "mergebuild: 1\nsources: {tuned: {model: ./base, lora: ./lora}}\nnodes:\n  out:\n"
        "    merge_method: passthrough\n    models: [{model: tuned}]\n",
    )
    write(tmp_path)
    sources = said(tmp_path)["sources"]
    assert list(sources) == ["+./lora", "./base"]
    assert list(sources["+./lora"]["files"]) == ["adapter_config.json", "adapter_model.safetensors"]


ABSOLUTE = (
    "mergebuild: 1\nsources: {%s}\nnodes:\n  out:\n    merge_method: passthrough\n"
    "    models: [{model: '%s'}]\n"
)


def test_no_path_of_this_machine(tmp_path: Path) -> None:
    kit.llama(tmp_path / "base", layers=1)
    kit.write_recipe(tmp_path / "recipe.yaml", ABSOLUTE % (f"base: {tmp_path}/base", "base"))
    write(tmp_path)
    assert list(said(tmp_path)["sources"]) == ["base"]
    assert str(tmp_path) not in (tmp_path / "recipe.yaml.lock").read_text()
    kit.write_recipe(tmp_path / "recipe.yaml", ABSOLUTE % ("", f"{tmp_path}/base"))
    with pytest.raises(UsageError, match="is a path of this machine") as caught:
        write(tmp_path)
    assert caught.value.problems[0].at is not None


GOOD = "mergebuild-lock: 1\n"
DIGEST = "0" * 32
BAD = [
    # text, what is said
    ("", "1:1: 'mergebuild-lock' must be 1, not nothing"),
    ("- x", "1:1: the lock must be a mapping, not a list"),
    ("mergebuild-lock: 2", "1:18: 'mergebuild-lock' must be 1, not the number 2"),
    (GOOD + "<<<<<<< ours\n", "not valid YAML"),
    (GOOD + "sorces: {}", "2:1: unknown key 'sorces' in the lock"),
    (GOOD + "nodes: {}\nnodes: {}", "3:1: duplicate key 'nodes'"),
    (GOOD + "nodes: {a: {}}", "2:9: node 'a' has no 'key'"),
    (GOOD + "nodes: {a: {key: x, methods: {}}}", "2:18: 'key' of node 'a' must be 32 hexadecimal"),
    (
        GOOD + f"nodes: {{a: {{key: '{DIGEST}', methods: {{ties: one}}}}}}",
        "the version of method 'ties' must be a whole number",
    ),
    (GOOD + "nodes: {a: {key: !!python/none x, methods: {}}}", "is not allowed"),
    (GOOD + "sources: {a: []}", "2:14: source 'a' must be a mapping, not a list"),
    (GOOD + "sources: {a: {commit: main}}", "2:11: source 'a' has no 'files'"),
    (
        GOOD + f"sources: {{a: {{commit: main, files: {{}}, content: '{DIGEST}', tensors: {{}}}}}}",
        "2:23: 'commit' of source 'a' must be 40 hexadecimal digits",
    ),
    (
        GOOD + f"sources: {{a: {{content: '{DIGEST}', tensors: {{}}, files: "
        f"{{../x: {{size: 1, sha256: '{DIGEST}{DIGEST}'}}}}}}}}",
        "'../x' is not a file of source 'a'",
    ),
    (
        GOOD + f"sources: {{a: {{content: '{DIGEST}', tensors: {{}}, files: "
        f"{{x: {{size: -1, sha256: '{DIGEST}{DIGEST}'}}}}}}}}",
        "the size of file 'x' of source 'a' must be at least 0",
    ),
    (GOOD + "includes: {a: {recipe: x, sha256: 1}}", "'sha256' of include 'a' must be 64"),
    (GOOD + "x" * (1 << 20), "the file is larger than 1 MiB"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), BAD, ids=[said for _, said in BAD])
def test_bad_files(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml.lock"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_lock(path)
    assert said in str(caught.value)
    assert caught.value.problems[0].at is not None


def test_commands(scratch: Scratch) -> None:
    root = scratch.root
    check = ["lock", "recipe.yaml", "--check"]
    done = kit.run(*check, cwd=root)
    assert (done.code, done.stderr.splitlines()[-1]) == (0, "recipe.yaml.lock: up to date")
    edit(root / "recipe.yaml", "density: 0.5", "density: 0.4")
    done = kit.run(*check, cwd=root)
    assert done.code == 3
    assert "drift: recipe.yaml.lock:" in done.stderr
    assert "hint: mergebuild lock recipe.yaml" in done.stderr
    refused = kit.run("build", "recipe.yaml", "--locked", cwd=root)
    assert refused.code == 3
    assert "error: recipe.yaml.lock:" in refused.stderr
    assert not (root / "build").exists()
    (root / "recipe.yaml.lock").unlink()
    for arguments, code, said in (
        (check, 3, "'recipe.yaml' has no lock"),
        (["build", "recipe.yaml", "--locked"], 2, "hint: write it: mergebuild lock recipe.yaml"),
        (["lock", "recipe.yaml", "base"], 2, "'base' says nothing without --update"),
        ([*check, "--update"], 2, "--check and --update exclude each other"),
        (["lock", "recipe.yaml", "--update", "bass"], 2, "hint: did you mean 'base'?"),
        (["lock", "nosuch.yaml"], 2, "cannot read the recipe"),
    ):
        done = kit.run(*arguments, cwd=root)
        assert (done.code, said in done.stderr) == (code, True), done
    assert not (root / "recipe.yaml.lock").exists()

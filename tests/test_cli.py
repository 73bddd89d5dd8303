"""The real command: exit codes, what goes to stdout, and what to stderr."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests import kit
from tests.test_incremental import RECIPE, age


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe that is built."""
    root = tmp_path_factory.mktemp("cli")
    kit.base_and_two(root, layers=2)
    age(root)
    kit.write_recipe(root / "recipe.yaml", RECIPE)
    kit.write_recipe(root / "broken.yaml", RECIPE.replace("slerp", "slrp"))
    done = kit.run("build", "recipe.yaml", cwd=root)
    assert done.code == 0, done.stderr
    return root


RUNS = [
    # arguments, exit code, on stdout, on stderr
    (["build", "recipe.yaml"], 0, "", "blend: fresh, nothing to do (build/blend)"),
    (["plan", "recipe.yaml"], 0, "everything is fresh: nothing to do", ""),
    (["plan", "recipe.yaml", "sum"], 0, "sum   fresh", ""),
    (["plan", "recipe.yaml", "nosuch"], 2, "", "error: no node 'nosuch'"),
    (["status", "recipe.yaml", "--exit-code"], 0, "build/blend: fresh", ""),
    (["status", "recipe.yaml", "--exit-code", "--out", "x"], 3, "x: is not there", ""),
    (["explain", "recipe.yaml", "dare"], 0, "dare is fresh", ""),
    (["explain", "recipe.yaml", "dare", "model.norm.weight"], 0, "density of 'math'", ""),
    (["explain", "recipe.yaml", "dare", "model.norm"], 2, "", "has no tensor 'model.norm'"),
    (["graph", "recipe.yaml"], 0, "sum  (task_arithmetic)\n  <- base  (source)\n  <- dare", ""),
    (["graph", "recipe.yaml", "-f", "mermaid"], 0, "flowchart LR", ""),
    (["graph", "recipe.yaml", "-f", "dot"], 0, "digraph recipe {", ""),
    (["graph", "recipe.yaml", "-f", "json"], 0, '"inputs"', ""),
    (["graph", "recipe.yaml", "-f", "svg"], 2, "", "svg"),
    (["methods"], 0, "task_arithmetic", ""),
    (["methods", "ties"], 0, "merge_method: ties", ""),
    (["methods", "tie"], 2, "", "hint: did you mean 'ties'?"),
    (["schema"], 0, '"title": "mergebuild recipe"', ""),
    (["schema", "--mergekit"], 0, '"title": "mergekit configuration"', ""),
    (["inspect", "build/blend"], 0, "built by mergebuild as 'blend'", ""),
    (["inspect", "build/blend", "--tensors"], 0, "model.norm.weight  float32  [16]", ""),
    (["inspect", "base", "--json"], 0, '"built": null', ""),
    (["inspect", "recipe.yaml"], 1, "", "is not a checkpoint"),
    (["inspect", "nowhere"], 1, "", "error: there is no 'nowhere'"),
    (["cache", "ls"], 0, "3 checkpoints", ""),
    (["cache", "ls", "--cache", "nowhere"], 0, "no checkpoints in 'nowhere'", ""),
    (["init", "recipe.yaml"], 2, "", "'recipe.yaml' is there already"),
    (["build", "broken.yaml"], 2, "", "error: broken.yaml:16:19: node 'blend': unknown method"),
    (["build", "nosuch.yaml"], 2, "", "error: cannot read the recipe 'nosuch.yaml'"),
    (["build", "recipe.yaml", "--set", "x"], 2, "", "--set 'x' is not of the form NAME=VALUE"),
    (["build", "recipe.yaml", "--source", "mth=x"], 2, "", "hint: did you mean 'math'?"),
    (["build", "recipe.yaml", "--shard-size", "big"], 2, "", "'big' is not a size"),
    (["build", "recipe.yaml", "--out", "base"], 2, "", "overlaps with source"),
    (["build", "recipe.yaml", "--out", "cache/x"], 2, "", "overlaps with the cache"),
    (["build", "recipe.yaml", "--out", "nosuch=x"], 2, "", "--out: no node 'nosuch'"),
    (["nonsense"], 2, "", "nonsense"),
    (["--version"], 0, "mergebuild 0.1.0", ""),
]  # fmt: skip


@pytest.mark.parametrize("case", RUNS, ids=lambda case: " ".join(case[0]))
def test_run(built: Path, case: tuple[list[str], int, str, str]) -> None:
    arguments, code, stdout, stderr = case
    result = kit.run(*arguments, cwd=built)
    assert result.code == code, result
    assert stdout in result.stdout
    assert stderr in result.stderr
    assert bool(stdout) == bool(result.stdout)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", [("build", "recipe.yaml"), ("plan", "stale.yaml")])
def test_nothing_to_compute_imports_little_and_writes_nothing(
    built: Path, command: tuple[str, str]
) -> None:
    kit.write_recipe(built / "stale.yaml", RECIPE.replace("density: 0.5", "density: 0.6"))
    before = snapshot(built)
    code = (
        f"import sys; sys.argv = ['mergebuild', *{command}]\n"
        "from mergebuild.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'numba', 'tokenizers', 'transformers', 'huggingface_hub',"
        " 'fsspec', 'cryptography', 'rich', 'networkx', 'pydantic'}\n"
        "rare = {'mergebuild.' + name for name in ('engine.build', 'share.card', 'share.lock.text',"
        " 'share.lock.model', 'share.lock.hold', 'include', 'cli.exchange', 'cli.publishing',"
        " 'remote.claim', 'remote.keyring', 'remote.places', 'remote.push', 'kernels.places',"
        " 'methods.della', 'methods.spectral')}\n"
        "print(*sorted((heavy | rare) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=built, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(kit.ROOT)},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == ""
    assert snapshot(built) == before


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    """Every file with its inode and time of change, but for the derived databases."""
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file() and ".db" not in path.name
    }


def test_json_tells_every_event(built: Path, tmp_path: Path) -> None:
    done = kit.run(
        "build", built / "recipe.yaml", "--cache", tmp_path / "cache", "--json", cwd=tmp_path
    )
    assert done.code == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[-1] == "BuildFinished"
    assert kinds.count("NodeBuilt") == 3
    assert kinds.count("TensorDone") == 63
    (log,) = (tmp_path / "cache/runs").iterdir()
    assert [json.loads(line)["event"] for line in log.read_text().splitlines()] == [
        kind for kind in kinds if kind not in ("Digesting", "Digested")
    ]


def test_plan_json_names_what_is_computed_and_copied(built: Path) -> None:
    edited = kit.write_recipe(built / "edited.yaml", RECIPE.replace("value: 0.25", "value: 0.5"))
    done = kit.run("plan", edited, "--json", cwd=built)
    blend = json.loads(done.stdout)["nodes"][-1]
    assert blend["state"] == "partly stale"
    assert all("mlp" in name for name in blend["copy"])
    assert not any("mlp" in name for name in blend["compute"])
    assert len(blend["copy"]) + len(blend["compute"]) == blend["tensors"] == 21


def test_reasons_name_the_field_that_changed(built: Path) -> None:
    path = built / "recipe.yaml"
    path.write_text(RECIPE.replace("density: 0.5", "density: 0.4"))
    try:
        done = kit.run("explain", "recipe.yaml", cwd=built)
    finally:
        path.write_text(RECIPE)
    assert "because density of 'math' 0.5 → 0.4 (21 tensors)" in done.stdout
    assert "because content of 'dare' changed (21 tensors)" in done.stdout
    assert "it is made from dare, stale too" in done.stdout


def test_a_foreign_folder_is_not_replaced_without_force(built: Path, tmp_path: Path) -> None:
    place = tmp_path / "mine"
    place.mkdir()
    (place / "precious").write_text("x")
    refused = kit.run("build", "recipe.yaml", "--out", place, cwd=built)
    assert refused.code == 2
    assert "was not written by mergebuild" in refused.stderr
    assert (place / "precious").exists()
    assert kit.run("build", "recipe.yaml", "--out", place, "--force", cwd=built).code == 0
    assert not (place / "precious").exists()
    assert (place / "model.safetensors").exists()


PLAIN = """\
merge_method: linear
models:
  - {model: ./math, parameters: {weight: 1}}
  - {model: ./chat, parameters: {weight: 1}}
dtype: float32
"""


def test_a_plain_mergekit_file_wants_a_place(built: Path, tmp_path: Path) -> None:
    kit.write_recipe(built / "plain.yml", PLAIN)
    refused = kit.run("build", "plain.yml", cwd=built)
    assert refused.code == 2
    assert "hint: use --out DIR" in refused.stderr
    assert kit.run("build", "plain.yml", "--out", tmp_path / "out", cwd=built).code == 0
    assert (tmp_path / "out/config.json").exists()


def test_documents_chain_and_the_unnamed_one_is_the_output(built: Path, tmp_path: Path) -> None:
    second = PLAIN.replace("./math", "first")
    kit.write_recipe(built / "two.yml", f"name: first\n{PLAIN}---\n{second}")
    done = kit.run("build", "two.yml", "--out", tmp_path / "out", cwd=built)
    assert done.code == 0, done.stderr
    math, chat = kit.read(built / "math"), kit.read(built / "chat")
    for name, tensor in kit.read(tmp_path / "out").items():
        assert ((math[name] + 3 * chat[name]) / 4).allclose(tensor, atol=1e-6)


def test_the_model_card_lists_the_leaves_and_the_chain(built: Path) -> None:
    card = (built / "build/blend/README.md").read_text()
    assert card.startswith("---\nlibrary_name:")
    for text in ("library_name: transformers", "- **math**: `./math`", "### dare", "2311.03099"):
        assert text in card
    assert RECIPE.strip() in card


def test_on_a_terminal_the_live_view_draws_and_restores_the_cursor(
    built: Path, tmp_path: Path
) -> None:
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "mergebuild", "build", str(built / "recipe.yaml"),
         "--cache", str(tmp_path / "cache")],
        cwd=tmp_path, stderr=follower, stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(kit.ROOT), "COLUMNS": "140", "TERM": "xterm"},
    ) as process:  # fmt: skip
        os.close(follower)
        screen = b""
        while True:
            try:
                part = os.read(leader, 1 << 16)
            except OSError:
                break
            if not part:
                break
            screen += part
    os.close(leader)
    assert process.returncode == 0
    text = screen.decode()
    assert "21/21 tensors" in text
    assert "3 nodes built" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")

"""Vocabularies through mergekit, run as a black box: what each token's rows are, by its text.

Ids are not compared: mergekit's follow the iteration of a set.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests import kit, vocabularies
from tests.parity.conftest import DRIVER, oracle_python
from tests.vocabularies import EMBEDDING, HEAD, byte_level

pytestmark = pytest.mark.xdist_group("parity")

MODELS = {
    "a": byte_level("abcd"),
    "b": byte_level("baxy", added=["<|im_start|>"]),
    "c": byte_level("xzac", added=["<pad>"]),
}
CASES = {
    "union": "tokenizer_source: union",
    "base": "tokenizer_source: base",
    "model": "tokenizer_source: $c",
    "token": "tokenizer: {source: union, tokens: {x: {source: $c}}}",
    "force": "tokenizer: {source: union, tokens: {a: {source: $b, force: true}}}",
    "zero": "tokenizer: {source: union, tokens: {a: {source: {kind: zero}, force: true}}}",
    "donor": "tokenizer: {source: base, tokens: "
    "{d: {source: {kind: model_token, model: $b, token: y}, force: true}}}",
    "number": "tokenizer: {source: base, tokens: "
    "{d: {source: {kind: model_token, model: $b, token_id: 2}}}}",
    "multiple": "tokenizer: {source: base, pad_to_multiple_of: 4}",
}


def config(root: Path, settings: str) -> str:
    listed = ", ".join(
        f"{{model: {root / m}, parameters: {{weight: {w}}}}}" for m, w in (("b", 0.5), ("c", 0.25))
    )
    for name in MODELS:
        settings = settings.replace(f"${name}", str(root / name))
    return (
        f"merge_method: task_arithmetic\nbase_model: {root / 'a'}\nmodels: [{listed}]\n"
        f"dtype: float32\n{settings}\n"
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models, and below `theirs` what mergekit makes of each case."""
    python = oracle_python()
    root = tmp_path_factory.mktemp("vocabularies")
    for at, (name, tokenizer) in enumerate(MODELS.items(), start=1):
        vocabularies.write(root / name, tokenizer, at=100.0 * at)
    jobs = {}
    for name, settings in CASES.items():
        file = kit.write_recipe(root / f"{name}.yml", config(root, settings))
        arguments = [str(file), str(root / "theirs" / name), "--quiet", "--no-write-model-card"]
        jobs[name] = {"command": "mergekit-yaml", "arguments": arguments}
    (root / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    done = subprocess.run(
        [python, DRIVER, root / "jobs.json"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["error"] for line in done.stdout.splitlines()] == [None] * len(CASES)
    return root


@pytest.mark.parametrize("name", CASES)
def test_every_token_has_the_same_rows(root: Path, tmp_path: Path, name: str) -> None:
    kit.write_recipe(tmp_path / "config.yml", config(root, CASES[name]))
    result = kit.run("build", "config.yml", "--out", "out", cwd=tmp_path)
    assert result.code == 0, result.stderr
    for tensor in (EMBEDDING, HEAD):
        ours = vocabularies.rows(tmp_path / "out", tensor)
        assert ours == pytest.approx(vocabularies.rows(root / "theirs" / name, tensor), rel=1e-6)

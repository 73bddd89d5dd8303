"""The models of the parity suite, the oracle's results on them, and ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from textwrap import dedent

import pytest
from safetensors.torch import save_file

from mergebuild.methods import registry
from mergebuild.recipe import parse_recipe
from mergebuild.share.exported import mergekit_file
from tests import kit
from tests.parity.cases import CASES, DIFFERENCES, EXPORTS, RANDOM, SHAPED

DRIVER = Path(__file__).with_name("driver.py")
QUIET = ("--quiet", "--no-copy-tokenizer", "--no-write-model-card", "--clone-tensors")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the oracle made of one job; `error` says why there is nothing at `path`."""

    path: Path
    error: str | None


def oracle_python() -> Path:
    """The oracle's Python; skips the test where there is none, unless one was asked for."""
    asked = os.environ.get("MERGEBUILD_ORACLE")
    python = Path(asked) / "python" if asked else kit.ROOT / ".oracle" / "bin" / "python"
    if not python.exists():
        if asked:
            pytest.fail(f"MERGEBUILD_ORACLE is {asked}, where there is no python")
        pytest.skip("no mergekit here: install it with `python3 dev.py oracle`")
    return python


def jobs() -> Iterator[tuple[str, str, str]]:
    """(job, family, config) of every row of every table."""
    for case in CASES:
        for family in case.families:
            yield f"{case.name}-{family}", family, case.config
        if case.name in SHAPED:
            yield f"{case.name}-shaped", "shaped", case.config
    for random in RANDOM:
        yield random.name, "wide", random.config
    for difference in DIFFERENCES:
        yield difference.name, difference.family, difference.config
    for case in EXPORTS:
        recipe = parse_recipe(dedent(case.config), Path("r.yaml"), methods=registry())
        yield case.name, "llama", mergekit_file(recipe, registry(), None).text


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FAMILY/{base,a,b,c}; a finetune may be in several shards."""
    root = tmp_path_factory.mktemp("models")
    makers: dict[str, Callable[..., Path]] = {
        "llama": kit.llama,
        "gpt2": kit.gpt2,
        "qwen2": kit.qwen2,
    }
    for family, make in makers.items():
        base = make(root / family / "base")
        for seed, name in enumerate("abc", start=1):
            make(root / family / name, near=base, seed=seed, shards=seed)
    wide = kit.llama(root / "wide" / "base", hidden=64, intermediate=96)
    for seed, name in enumerate("abc", start=1):
        kit.llama(root / "wide" / name, hidden=64, intermediate=96, near=wide, seed=seed)
    for name in ("base", "a", "b", "c"):
        shaped(root / "wide" / name, root / "shaped" / name)
    return root


def shaped(model: Path, copy: Path) -> None:
    """The same numbers, but projections of attention have three axes and those of the MLP four."""
    tensors = {}
    for name, tensor in kit.read(model).items():
        axes = {"self_attn": 3, "mlp": 4}.get(name.split(".")[-3:][0], tensor.dim())
        rows = {3: (-1, 2), 4: (-1, 2, 2)}.get(axes, ())
        tensors[name] = tensor.reshape(*rows, tensor.shape[-1]) if rows else tensor
    copy.mkdir(parents=True)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    for file in model.glob("*.json"):
        if file.name != "model.safetensors.index.json":
            shutil.copy(file, copy)


@pytest.fixture(scope="session")
def oracle(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """The results of all jobs, from one process of the oracle."""
    python = oracle_python()
    root = tmp_path_factory.mktemp("oracle")
    told = {}
    for job, family, config in jobs():
        file = kit.write_recipe(root / job / "config.yml", written(config, models / family))
        out = str(root / job / "out")
        if "\n---\n" in file.read_text(encoding="utf-8"):
            stages = str(root / job / "stages")
            arguments = [str(file), "--out-path", out, "--intermediate-dir", stages, *QUIET]
            told[job] = {"command": "mergekit-multi", "arguments": arguments}
        else:
            told[job] = {"command": "mergekit-yaml", "arguments": [str(file), out, *QUIET]}
    (root / "jobs.json").write_text(json.dumps(told), encoding="utf-8")
    done = subprocess.run(
        [python, DRIVER, root / "jobs.json"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["job"]: Outcome(root / line["job"] / "out", line["error"]) for line in lines}


@pytest.fixture
def ours(models: Path, tmp_path: Path) -> Callable[[str, str], tuple[kit.Result, Path]]:
    """Builds a configuration over a family's models with the real command."""

    def build(config: str, family: str) -> tuple[kit.Result, Path]:
        kit.write_recipe(tmp_path / "config.yml", written(config, models / family))
        result = kit.run("build", "config.yml", "--out", "out", cwd=tmp_path)
        return result, tmp_path / "out"

    return build


def written(config: str, folder: Path) -> str:
    places = {name: str(folder / name) for name in ("base", "a", "b", "c")}
    return Template(dedent(config).lstrip()).safe_substitute(places)

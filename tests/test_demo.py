"""The demo: what ships is small and loads, and the merged model holds both skills."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import kit

CHECKPOINTS = kit.ROOT / "demo" / "checkpoints"
NAMES = ("base", "reverser", "shouter")


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_checkpoint_is_small_and_whole(name: str) -> None:
    folder = CHECKPOINTS / name
    assert max(path.stat().st_size for path in folder.iterdir()) < 5_000_000
    kit.loaded(folder)


def test_the_merged_model_holds_both_skills(tmp_path: Path) -> None:
    recipe = kit.ROOT / "recipes" / "demo.yaml"
    done = kit.run("build", recipe, cwd=tmp_path)
    assert done.code == 0, done.stderr
    merged = tmp_path / "build" / "demo"
    measured = subprocess.run(
        [sys.executable, kit.ROOT / "demo" / "evaluate.py", "--json", "--check",
         *(CHECKPOINTS / name for name in NAMES), merged],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert measured.returncode == 0, measured.stderr
    scores = list(json.loads(measured.stdout).values())
    base, result = scores[0], scores[-1]
    for skill in ("reverse", "shout"):
        assert base[skill] < 0.1
        assert result[skill] > 0.9

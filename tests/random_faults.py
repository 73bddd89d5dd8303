"""Random recipes under random edits and random faults: run as a program.

    python -m tests.random_faults FOLDER SEED

Every step edits the recipe, lets one build meet a random fault at a random operation, and then an
undisturbed one: it has to come to what a build from scratch comes to. Prints a line of JSON.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import yaml

from tests import kit
from tests.faults import FAULTS, clear, command, install
from tests.powercut import PowerCut
from tests.test_random_graphs import SOURCES, edit, recipe

STEPS = 6
OPERATIONS = 250  # about as many as a build of this size makes


def disturb(fault: str, at: int) -> None:
    if fault == "power":
        PowerCut(at).install()
    else:
        install(*FAULTS[fault], at)


def built(folder: Path, text: str) -> dict[str, Any]:
    """What an undisturbed build in `folder` comes to."""
    os.chdir(folder)
    Path("recipe.yaml").write_text(text)
    code, told = command()
    assert code == 0, told
    return kit.read(Path("build/last"))


def run(folder: Path, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    shape = {"layers": 1, "hidden": 8, "vocab": 24, "intermediate": 8, "heads": 2}
    for number, name in enumerate(SOURCES):
        near = folder / SOURCES[0] if number else None
        kit.llama(folder / name, near=near, seed=number, **shape)  # type: ignore[arg-type]
    kept, fresh = folder / "kept", folder / "fresh"
    for place in (kept, fresh):
        place.mkdir()
        for name in SOURCES:
            (place / name).symlink_to(folder / name)
    made = recipe(rng)
    faults: dict[str, int] = {}
    wrong: list[str] = []
    for step in range(STEPS):
        text = yaml.safe_dump(made, sort_keys=False)
        os.chdir(kept)
        Path("recipe.yaml").write_text(text)
        fault, at = rng.choice([*FAULTS, "power"]), rng.randint(1, OPERATIONS)
        code, told = command(lambda fault=fault, at=at: disturb(fault, at))  # type: ignore[misc]
        faults[fault] = faults.get(fault, 0) + 1
        if code not in (0, 1, 4, -9) or "Traceback" in told:
            wrong.append(f"step {step}, {fault} at {at}: exit code {code}: {told[-500:]}")
        ours = built(kept, text)
        os.chdir(fresh)
        clear()
        theirs = built(fresh, text)
        if list(ours) != list(theirs) or not all(ours[n].equal(theirs[n]) for n in ours):
            wrong.append(f"step {step}, {fault} at {at}: not what a build from scratch gives")
        edit(rng, made)
    return {"faults": faults, "wrong": wrong}


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    print(json.dumps(run(Path(sys.argv[1]).resolve(), int(sys.argv[2]))))

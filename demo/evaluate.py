"""Measures what checkpoints of the demo can do, on held-out words.

Owns: the fixed set of problems, exact-match accuracy, the table and the check. Must not know
how a checkpoint came to be: a merge is measured just like what it was made from.

    python demo/evaluate.py [DIR ...] [--json] [--check]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

import torch
from model import EOS, Llama, NotACheckpoint, encode, load
from rich.console import Console
from rich.table import Table
from tasks import BASE_TASKS, SKILLS, Problem, Task, draw

HERE = Path(__file__).parent
CHECKPOINTS = [HERE / "checkpoints" / name for name in ("base", *SKILLS)]
MERGED = HERE.parent / "build" / "demo"
COLUMNS: dict[str, tuple[str, Task]] = {
    "copy": ("C", BASE_TASKS["C"]),
    "reverse": SKILLS["reverser"],
    "shout": SKILLS["shouter"],
}
PROBLEMS, SEED = 400, 2024
GOOD, POOR = 0.7, 0.3


@torch.inference_mode()
def accuracy(model: Llama, problems: list[Problem]) -> float:
    """Share of problems that greedy decoding answers exactly, </s> included.

    Greedy decoding writes the expected answer if and only if each of its tokens is the most
    likely one after those before it, so one pass over prompt and answer decides.
    """
    tokens = encode([p.prompt + p.answer for p in problems])
    likeliest = model(tokens).argmax(dim=-1)
    right = 0
    for row, p in enumerate(problems):
        start, end = len(p.prompt), len(p.prompt) + len(p.answer)
        expected = [*tokens[row, start + 1 : end + 1].tolist(), EOS]
        right += likeliest[row, start : end + 1].tolist() == expected
    return right / len(problems)


def measure(folder: Path) -> dict[str, float]:
    """Accuracy per column; NotACheckpoint if the folder is none."""
    model = load(folder)
    scores = {}
    for column, (marker, task) in COLUMNS.items():
        rng = random.Random(SEED)
        problems = [draw(rng, marker, task, held_out=True) for _ in range(PROBLEMS)]
        scores[column] = accuracy(model, problems)
    return scores


def label(folder: Path) -> str:
    """The folder as it was named, shorter where it is below the working directory."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def show(results: list[tuple[str, dict[str, float]]]) -> None:
    table = Table("checkpoint")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for name, scores in results:
        table.add_row(name, *(f"{scores[column]:.1%}" for column in COLUMNS))
    Console().print(table)


def holds_both(base: dict[str, float], last: dict[str, float]) -> bool:
    """The check: the last checkpoint has both skills, and the base has neither."""
    skills = ("reverse", "shout")
    return all(last[skill] >= GOOD and base[skill] < POOR for skill in skills)


def main() -> int:
    parser = argparse.ArgumentParser(description="accuracy of the demo's checkpoints")
    parser.add_argument(
        "folders",
        nargs="*",
        type=Path,
        metavar="DIR",
        help="checkpoints (default: the base, the finetunes, and build/demo if it is there)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON and no table")
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"exit 1 unless the last checkpoint has at least {GOOD} on both skills "
        f"and the demo's base is under {POOR}",
    )
    arguments = parser.parse_args()
    folders = arguments.folders or [*CHECKPOINTS, *([MERGED] if MERGED.exists() else [])]
    torch.set_num_threads(1)
    try:
        results = [(label(folder), measure(folder)) for folder in folders]
        passed = not arguments.check or holds_both(measure(CHECKPOINTS[0]), results[-1][1])
    except NotACheckpoint as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(dict(results), indent=2))
    else:
        show(results)
    if not passed:
        print(
            f"error: {results[-1][0]}: check failed: it must have at least {GOOD} on both "
            f"skills, and the base under {POOR}",
            file=sys.stderr,
        )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

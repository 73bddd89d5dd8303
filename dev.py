#!/usr/bin/env python3
"""Every task of this repository; needs a plain Python 3.11 or later and nothing else.

    python3 dev.py demo      build recipes/demo.yaml and print what each model can do
    python3 dev.py test      run the tests
    python3 dev.py lint      formatting, lint and strict types
    python3 dev.py check     lint, then test: all that CI checks
    python3 dev.py oracle    install mergekit beside the project, for the parity suite

Each task first brings the virtual environment it needs up to date: `.venv`, or `.oracle` for the
oracle, or the one that `--venv` or MERGEBUILD_VENV names. What stands after `--` goes to the
task's own tool: `python3 dev.py test -- -k slerp`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
CONSTRAINTS = ROOT / "constraints.txt"
ORACLE_CONSTRAINTS = ROOT / "tests" / "oracle-constraints.txt"

# What a task installs, from the least to the most; an environment that has more serves all.
EXTRAS = ("", "test", "dev")


class Failed(Exception):
    """A task did not succeed: the exit code and what to say of it."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        self.code = code


def demo(venv: Path, rest: Sequence[str]) -> None:
    python = project(venv, "")
    call(python, "-m", "mergebuild", "build", "recipes/demo.yaml", *rest)
    call(python, "demo/evaluate.py")


def test(venv: Path, rest: Sequence[str]) -> None:
    pytest(project(venv, "test"), rest)


def lint(venv: Path, rest: Sequence[str]) -> None:
    check_style(project(venv, "dev"))


def check(venv: Path, rest: Sequence[str]) -> None:
    python = project(venv, "dev")
    check_style(python)
    pytest(python, rest)


def oracle(venv: Path, rest: Sequence[str]) -> None:
    install(venv, ORACLE_CONSTRAINTS, ["torch==2.13.0", "mergekit==0.1.5"], "oracle")


def pytest(python: Path, rest: Sequence[str]) -> None:
    # One group of tests stays on one worker: the parity suite runs its oracle once.
    try:
        call(python, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup", *rest)
    except Failed as failure:
        raise Failed(failure.code) from None  # its closing line has said it all


def check_style(python: Path) -> None:
    call(python, "-m", "ruff", "format", "--check", "--quiet", ".")
    call(python, "-m", "ruff", "check", "--quiet", ".")
    call(python, "-m", "mypy", "--no-error-summary")


def project(venv: Path, extra: str) -> Path:
    """The Python of an environment that has this project with at least `extra`."""
    stamp = read_stamp(venv)
    wanted = EXTRAS[EXTRAS.index(extra) :]
    if any(stamp == fingerprint(one, CONSTRAINTS, ROOT / "pyproject.toml") for one in wanted):
        return python_of(venv)
    target = f"{ROOT}[{extra}]" if extra else str(ROOT)
    return install(venv, CONSTRAINTS, ["-e", target], extra, ROOT / "pyproject.toml")


def install(venv: Path, constraints: Path, what: Sequence[str], label: str, *sources: Path) -> Path:
    """Bring `venv` up to date, unless its stamp says that it is; return its Python."""
    python = python_of(venv)
    wanted = fingerprint(label, constraints, *sources)
    if read_stamp(venv) == wanted:
        return python
    say(f"setting up {venv} (once; takes some minutes)")
    stamp_of(venv).unlink(missing_ok=True)
    if not python.exists():
        call(Path(sys.executable), "-m", "venv", str(venv))
    quiet = ["-qq", "--disable-pip-version-check", "--no-input"]
    call(python, "-m", "pip", "install", *quiet, "-c", str(constraints), *what)
    stamp_of(venv).write_text(wanted, encoding="ascii")
    return python


def fingerprint(label: str, *sources: Path) -> str:
    digest = hashlib.sha256(f"{sys.version_info[:2]} {label} {ROOT}".encode())
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def stamp_of(venv: Path) -> Path:
    return venv / "mergebuild-dev.stamp"


def read_stamp(venv: Path) -> str | None:
    stamp = stamp_of(venv)
    return stamp.read_text(encoding="ascii") if stamp.exists() else None


def python_of(venv: Path) -> Path:
    return venv / "bin" / "python"


def call(python: Path, *arguments: str) -> None:
    code = subprocess.run([python, *arguments], cwd=ROOT, check=False).returncode
    if code:
        raise Failed(code, f"{' '.join(arguments[:3])} ... exited with {code}")


def say(text: str) -> None:
    print(f"dev: {text}", file=sys.stderr, flush=True)


TASKS: dict[str, Callable[[Path, Sequence[str]], None]] = {
    "demo": demo,
    "test": test,
    "lint": lint,
    "check": check,
    "oracle": oracle,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="dev.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", nargs="?", choices=TASKS, default="check", metavar="TASK")
    parser.add_argument("--venv", type=Path, help="the virtual environment to use or to make")
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    asked, rest = parser.parse_args(words[:cut]), words[cut + 1 :]
    default = ".oracle" if asked.task == "oracle" else os.environ.get("MERGEBUILD_VENV", ".venv")
    # Not resolved further: an environment's path is the one it was made under.
    venv = (Path.cwd() / asked.venv) if asked.venv else ROOT / default
    try:
        TASKS[asked.task](venv, rest)
    except Failed as failure:
        if str(failure):
            say(f"{asked.task} failed: {failure}")
        return failure.code if 0 < failure.code < 126 else 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

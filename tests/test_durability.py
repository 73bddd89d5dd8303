"""Faults at every operation on files, signals, full disks: nothing lost, half done or wrong.

MERGEBUILD_EVERY_FAULT=1 takes every operation in turn; without it, a share of them.
"""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

import mergebuild as mb
from mergebuild import files
from mergebuild.engine import space
from tests import kit
from tests.builder import Scratch
from tests.test_incremental import RECIPE, age

# Which scenario and fault, and every how many-th operation by default.
SWEEPS = [
    ("cold", "kill", 7),
    ("again", "kill", 11),
    ("cold", "fail", 11),
    ("again", "fail", 17),
    ("cold", "eio", 11),
    ("again", "eio", 13),
    ("cold", "ends", 13),
    ("cold", "short", 13),
    ("cold", "power", 13),
    ("again", "power", 13),
    ("pages", "kill", 43),  # tensors of many pages, written past the page cache
    ("pages", "fail", 61),
    ("pages", "short", 41),
    ("pages", "power", 53),
    ("user", "kill", 13),  # without the powers of root, whom read-only files do not stop
]


@pytest.mark.parametrize(("scenario", "fault", "stride"), SWEEPS)
def test_a_fault_at_any_operation(tmp_path: Path, scenario: str, fault: str, stride: int) -> None:
    step = 1 if os.environ.get("MERGEBUILD_EVERY_FAULT") else stride
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", tmp_path, scenario, fault, str(step)],
        cwd=kit.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["wrong"] == []
    assert result["hits"] * step >= 20
    print(f"{scenario}, {fault}: {result['hits']} operations, exit codes {result['codes']}")


WIDE = {"layers": 1, "hidden": 256, "vocab": 8192, "intermediate": 256}


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    """Embeddings of two million elements: enough to be interrupted in."""
    kit.base_and_two(tmp_path, **WIDE)
    age(tmp_path)
    scratch = Scratch(tmp_path)
    scratch.write(RECIPE)
    return scratch


SLOW_CHUNKS = """
import os, time
from mergebuild.engine.writer import Writer
write = Writer.write
def slowly(self, start, data):
    os.write(1, b"chunk\\n")
    time.sleep({seconds})
    write(self, start, data)
Writer.write = slowly
"""


def start(scratch: Scratch, seconds: float, **more: object) -> subprocess.Popen[bytes]:
    """The real command, with slow writes; returns once it writes."""
    code = SLOW_CHUNKS.format(seconds=seconds) + "\nfrom mergebuild.cli import main\nmain()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "build", "recipe.yaml"],
        cwd=scratch.root, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(kit.ROOT), "TERM": "xterm"}, **more,  # type: ignore[call-overload]
    )  # fmt: skip
    assert process.stdout is not None
    for _ in range(20):  # of some 50
        process.stdout.readline()
    return process  # type: ignore[no-any-return]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_cleanly_and_the_next_build_resumes(
    scratch: Scratch, number: signal.Signals
) -> None:
    process = start(scratch, 0.05, stderr=subprocess.PIPE)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"interrupted: what was finished is kept" in err
    assert b"Traceback" not in err
    assert list((scratch.root / "cache/leases").iterdir()) == []
    (log,) = (scratch.root / "cache/runs").iterdir()
    assert json.loads(log.read_text().splitlines()[-1])["error"] == "interrupted"
    done = kit.run("build", "recipe.yaml", cwd=scratch.root)
    assert done.code == 0
    assert "resumed" in done.stderr


def test_two_signals_end_at_once(scratch: Scratch) -> None:
    process = start(scratch, 0.05, stderr=subprocess.PIPE)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - began < 5
    assert kit.run("build", "recipe.yaml", cwd=scratch.root).code == 0


@pytest.mark.parametrize("signals", [1, 2])
def test_the_terminal_is_restored(scratch: Scratch, signals: int) -> None:
    leader, follower = pty.openpty()
    screen: list[bytes] = []
    reader = Thread(target=lambda: screen.extend(iter(lambda: read(leader), b"")))
    reader.start()
    process = start(scratch, 0.05, stderr=follower)
    os.close(follower)
    for _ in range(signals):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    process.communicate(timeout=60)
    reader.join()
    os.close(leader)
    assert process.returncode == 130
    shown = b"".join(screen)
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")


def read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:
        return b""


def test_kill_at_random_moments(scratch: Scratch) -> None:
    scratch.build()
    expected = (scratch.output("blend") / "model.safetensors").read_bytes()
    for name in ("cache", "build"):
        files.remove_tree(scratch.root / name)
    for delay in (0.05, 0.3):
        process = start(scratch, 0.002, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        process.kill()
        process.communicate()
    scratch.build()
    assert (scratch.output("blend") / "model.safetensors").read_bytes() == expected


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A file system of so many bytes, where mounting is permitted."""
    place = tmp_path / "disk"
    mounted = []

    def mount(size: int) -> Path:
        place.mkdir()
        made = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)]
        if subprocess.run(made, capture_output=True, check=False).returncode:
            pytest.skip("mounting is not permitted here")
        mounted.append(place)
        return place

    yield mount
    for one in mounted:
        subprocess.run(["umount", str(one)], check=True)


def test_a_full_disk_for_the_cache_is_seen_before_writing(
    scratch: Scratch, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(8 << 20)
    done = kit.run("build", "recipe.yaml", "--cache", disk / "cache", cwd=scratch.root)
    assert done.code == 4
    assert "error: the build writes 5" in done.stderr
    assert f"bytes to '{disk / 'cache'}', where 8," in done.stderr
    assert not (disk / "cache/staging").exists()


def test_a_full_disk_for_an_output_is_seen_before_writing(
    scratch: Scratch, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(8 << 20)
    done = kit.run("build", "recipe.yaml", "--out", disk / "blend", cwd=scratch.root)
    assert done.code == 4
    assert f"bytes to '{disk}', where 8," in done.stderr
    assert not (scratch.root / "cache/staging").exists()


def test_a_disk_that_fills_up_while_writing(
    scratch: Scratch, small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = small_disk(30 << 20)
    monkeypatch.setattr("mergebuild.engine.rounds.check_space", lambda plan: None)
    plan = mb.plan(scratch.root / "recipe.yaml", cache=disk / "cache", outputs=scratch.outputs())
    with pytest.raises(mb.CapacityError, match=r"no room for '.*': No space left .* bytes free"):
        mb.build(plan)
    assert not list((disk / "cache").glob("checkpoints/*"))
    subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
    mb.build(plan)
    assert (scratch.output("blend") / "model.safetensors").exists()


def test_a_file_may_not_grow_any_more(scratch: Scratch) -> None:
    """RLIMIT_FSIZE: what a quota does, without one."""
    done = subprocess.run(
        [sys.executable, "-m", "mergebuild", "build", "recipe.yaml"],
        cwd=scratch.root, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(kit.ROOT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "error: no room for" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_an_interrupted_build_laid_out_counts_as_there(scratch: Scratch) -> None:
    process = start(scratch, 0.01, stderr=subprocess.DEVNULL)
    process.kill()
    process.communicate()
    plan = scratch.plan()
    assert plan.costs.disk > 20 << 20
    needs = dict(space._needs(plan))
    assert needs[plan.cache.root] < 1 << 20
    assert needs[plan.cache.root] == max(0, needs[plan.cache.root])
    assert replace(plan, costs=plan.costs) == plan


def test_without_an_exchange_the_former_output_is_moved_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    for name in ("new", "place"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    files.replace_directory(tmp_path / "new", tmp_path / "place")
    assert [path.name for path in tmp_path.rglob("*")] == ["place", "new"]


def test_an_output_without_room_is_named_and_the_former_one_stays(
    scratch: Scratch, small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = small_disk(40 << 20) / "blend"
    outputs = {"blend": place}
    recipe = scratch.root / "recipe.yaml"

    def build() -> None:
        mb.build(mb.plan(recipe, cache=scratch.root / "cache", outputs=outputs))

    build()
    before = (place / "model.safetensors").read_bytes()
    (place.parent / "ballast").write_bytes(bytes(10 << 20))
    recipe.write_text(RECIPE.replace("value: 0.25", "value: 0.75"))
    monkeypatch.setattr("mergebuild.engine.rounds.check_space", lambda plan: None)
    with pytest.raises(mb.CapacityError, match=re.escape(f"no room for '{place}'")):
        build()
    assert (place / "model.safetensors").read_bytes() == before
    assert {path.name for path in place.parent.iterdir()} == {"blend", "ballast"}
    (place.parent / "ballast").unlink()
    build()
    assert (place / "model.safetensors").read_bytes() != before


@pytest.mark.parametrize("seed", range(40 if os.environ.get("MERGEBUILD_EVERY_FAULT") else 3))
def test_random_edits_with_random_faults_equal_builds_from_scratch(
    tmp_path: Path, seed: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.random_faults", tmp_path, str(seed)],
        cwd=kit.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["wrong"] == []
    print(f"seed {seed}: {result['faults']}")

"""Several builds over one cache: right results with no lock, and no work done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

import mergebuild as mb
from mergebuild.cache import Cache
from mergebuild.cache import lease as leases
from mergebuild.cache.lease import Holder, Lease, alive, live
from mergebuild.cache.store import names_in
from mergebuild.events import BuildFinished, Event, TensorDone, Waiting
from mergebuild.files import write_file
from tests import kit
from tests.builder import Scratch
from tests.test_incremental import RECIPE, age


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    kit.base_and_two(tmp_path, layers=1)
    age(tmp_path)
    scratch = Scratch(tmp_path)
    scratch.write(RECIPE)
    return scratch


@pytest.fixture
def expected(scratch: Scratch) -> dict[str, bytes]:
    scratch.build()
    content = output(scratch)
    for name in ("cache", "build"):
        (scratch.root / name).rename(scratch.root / f"former-{name}")
    return content


def output(scratch: Scratch) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in scratch.output("blend").glob("*.safetensors")}


def start(scratch: Scratch, code: str = "", *more: str) -> subprocess.Popen[str]:
    """The real command, after some `code` of the test's own."""
    return subprocess.Popen(
        [sys.executable, "-c", f"{code}\nfrom mergebuild.cli import main\nmain()",
         "build", "recipe.yaml", "--json", *more],
        cwd=scratch.root, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(kit.ROOT)},
    )  # fmt: skip


def end(process: subprocess.Popen[str]) -> tuple[int, list[dict[str, object]], str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, [json.loads(line) for line in out.splitlines()], err


SLOW = """
import time, mergebuild.engine.build as b
made = b.compute_tensor
def slowly(*args):
    time.sleep({seconds})
    return made(*args)
b.compute_tensor = slowly
"""


def test_processes_that_race_come_to_the_same(scratch: Scratch, expected: object) -> None:
    for _ in range(2):
        processes = [start(scratch) for _ in range(3)]
        ends = [end(process) for process in processes]
        assert [code for code, _, _ in ends] == [0, 0, 0], ends
        assert output(scratch) == expected
        computed = [e for _, events, _ in ends for e in events if e.get("how") == "computed"]
        assert len(computed) == 3 * 12  # each tensor by one of them
        assert names_in(scratch.root / "cache/staging") == []
        assert names_in(scratch.root / "cache/leases") == []
        for name in ("cache", "build"):
            (scratch.root / name).rename(scratch.root / f"round-{time.time_ns()}")


BLIND = "import mergebuild.cache.lease as l; l.Lease.ask = l.Lease.take\n"


def test_without_leases_they_build_twice_and_come_to_the_same(
    scratch: Scratch, expected: object
) -> None:
    slow = BLIND + SLOW.format(seconds=0.02)
    ends = [end(process) for process in [start(scratch, slow) for _ in range(3)]]
    assert [code for code, _, _ in ends] == [0, 0, 0], ends
    assert output(scratch) == expected
    assert names_in(scratch.root / "cache/staging") == []


def test_a_holder_that_is_killed_is_taken_over_from(scratch: Scratch, expected: object) -> None:
    first = start(scratch, SLOW.format(seconds=0.5), "--jobs", "1")
    assert first.stdout is not None
    for line in first.stdout:
        if json.loads(line)["event"] == "TensorDone":
            break
    second = start(scratch)
    assert second.stdout is not None
    kinds = (json.loads(line)["event"] for line in second.stdout)
    assert next(kind for kind in kinds if not kind.startswith("Digest")) == "Waiting"
    first.send_signal(signal.SIGKILL)
    first.communicate()
    code, events, err = end(second)
    assert code == 0, err
    assert events[-1]["resumed"], events[-1]
    assert output(scratch) == expected


def test_a_rival_elsewhere_is_waited_for_until_its_heart_stops(
    scratch: Scratch, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(scratch.root / "cache")
    plan = scratch.plan()
    keys = [node.key for node in plan.nodes.values()]
    lease = Lease(cache, "elsewhere")
    lease.take(keys, [])
    path = cache.leases / "elsewhere.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "host": "elsewhere"}))
    soon = time.time() + 2
    os.utime(path, (soon, soon))
    monkeypatch.setattr(leases, "EXPIRY", 1.0)
    assert alive(cache, "elsewhere")
    told: list[Event] = []
    finished = mb.build(plan, sink=told.append)
    assert Waiting("elsewhere", os.getpid(), 3) in told
    assert finished.ok
    assert output(scratch) == expected


def test_the_later_of_two_yields(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with Lease(cache, "b") as first, Lease(cache, "a") as second, Lease(cache, "c") as third:
        assert first.ask(["x", "y"], []) is None
        assert (ahead := second.ask(["y"], [])) is not None
        assert ahead.run == "b"
        assert third.ask(["z"], ["x"]) is None
        first.drop()
        assert second.ask(["y"], []) is None
        assert [holder.run for holder in live(cache)] == ["a", "c"]
    assert names_in(cache.leases) == []


def test_who_asked_first_but_is_seen_late_yields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path)
    with Lease(cache, "a") as early, Lease(cache, "b") as late:

        def slowly(path: Path, data: bytes) -> None:
            monkeypatch.setattr(leases, "write_file", write_file)
            assert late.ask(["x"], []) is None
            write_file(path, data)

        monkeypatch.setattr(leases, "write_file", slowly)
        assert (ahead := early.ask(["x"], [])) is not None
        assert ahead.run == "b"
        assert ahead.begun


def test_of_many_who_ask_at_once_one_builds(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for _ in range(20):
        with ExitStack() as stack, ThreadPoolExecutor(6) as pool:
            asking = [stack.enter_context(Lease(cache, run)) for run in "abcdef"]

            def ask(lease: Lease) -> Holder | None:
                ahead = lease.ask(["x"], [])
                if ahead is not None:
                    lease.drop()
                return ahead

            assert list(pool.map(ask, asking)).count(None) == 1


def test_who_does_not_decide_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "UNDECIDED", 0.05)
    cache = Cache(tmp_path)
    cache.leases.mkdir()
    stopped = holder(run="x", since=1 << 62, begun=False, builds=["k"])
    (cache.leases / "x.json").write_text(json.dumps(stopped))
    with Lease(cache, "a") as lease:
        assert (ahead := lease.ask(["k"], [])) is not None
        assert ahead.run == "x"


def holder(**changes: object) -> dict[str, object]:
    this = leases._this_process("x", 1, True, (), ())
    return {name: getattr(this, name) for name in Holder.__slots__} | changes


@pytest.mark.parametrize(
    ("changes", "old", "lives"),
    [
        ({}, True, True),
        ({"started": 1}, False, False),
        ({"pid": 4_000_000}, False, False),
        ({"boot": "another"}, False, False),
        ({"host": "another"}, False, True),
        ({"host": "another"}, True, False),
        ({"space": "another container"}, False, True),
        ({"space": "another container"}, True, False),
        ({"pid": -1}, True, False),
        ({"pid": 1 << 70}, True, False),
        ({"builds": 3}, True, False),
        ({"builds": 3}, False, True),
    ],
)
def test_who_is_alive(tmp_path: Path, changes: dict[str, object], old: bool, lives: bool) -> None:
    cache = Cache(tmp_path)
    cache.leases.mkdir()
    path = cache.leases / "x.json"
    path.write_text(json.dumps(holder(**changes)))
    if old:
        os.utime(path, (1, 1))
    assert alive(cache, "x") == lives


def test_the_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "HEARTBEAT", 0.01)
    with Lease(Cache(tmp_path), "x") as lease:
        lease.take([], [])
        path = tmp_path / "leases/x.json"
        os.utime(path, (1, 1))
        time.sleep(0.3)
        assert path.stat().st_mtime > 1
        path.unlink()
        time.sleep(0.3)
        assert path.exists()


def test_what_goes_while_it_is_needed_is_made_again(scratch: Scratch) -> None:
    """A plan relies on the cache; garbage collection is faster."""
    scratch.build()
    whole = output(scratch)
    (scratch.root / "build").rename(scratch.root / "former")
    path = scratch.root / "recipe.yaml"
    path.write_text(RECIPE.replace("value: 0.25", "value: 0.5"))
    plan = scratch.plan()
    path.write_text(RECIPE)
    other = scratch.plan()
    (scratch.root / "cache/checkpoints").rename(scratch.root / "gone")
    done: list[Event] = []
    assert mb.build(plan, sink=done.append).ok
    assert {event.node for event in done if isinstance(event, TensorDone)} >= {"sum", "blend"}
    (scratch.root / "cache/checkpoints").rename(scratch.root / "gone-too")
    assert isinstance(mb.build(other), BuildFinished)
    assert output(scratch) == whole

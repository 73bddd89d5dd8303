"""Writing past the page cache, and memory for what is read again."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from threading import Event

import pytest

from mergebuild import files
from mergebuild.engine.memory import Held, Memory
from mergebuild.engine.ring import SLOT, Landing, Ring, Target
from mergebuild.files import PAGE, open_direct, open_real, write_all


@pytest.fixture
def ring() -> Iterator[Ring]:
    ring = Ring(1)
    yield ring
    ring.close()


def landed(landing: Landing) -> BaseException | None:
    done = Event()
    landing.close(done.set)
    assert done.wait(60)
    return landing.failure


def opened(path: Path, size: int) -> Target:
    path.write_bytes(b"\xee" * size)
    descriptor = open_real(path, os.O_RDWR)
    return Target(descriptor, open_direct(path, descriptor))


# Where in the file, and how much: edges shared with neighbours, less than a page, several buffers.
PARTS = [
    (0, PAGE), (0, 10), (10, 100), (PAGE - 1, 2), (8, PAGE), (8, 2 * PAGE), (PAGE, SLOT),
    (3 * PAGE + 40, SLOT + 7), (24, 3 * SLOT + 1), (PAGE + 8, 20 * SLOT + 99),
]  # fmt: skip


@pytest.mark.parametrize(("position", "size"), PARTS)
@pytest.mark.parametrize("direct", [True, False])
def test_every_byte_arrives_and_no_other_is_touched(
    tmp_path: Path, ring: Ring, position: int, size: int, direct: bool
) -> None:
    whole = position + size + 3 * PAGE
    target = opened(tmp_path / "file", whole)
    if not direct:
        target = Target(target.descriptor)
    data = random.Random(size).randbytes(size)
    landing, view, generator = Landing(), memoryview(data), random.Random(position)
    stream = ring.stream(target, position, landing)
    while view:
        part = view[: generator.choice([1, 100, PAGE, 256 << 10, 1 << 20, SLOT - PAGE, SLOT])]
        if generator.random() < 0.5:
            room = stream.room(len(part))
            room[:] = part
            stream.write(room)
        else:
            stream.write(part)
        view = view[len(part) :]
    stream.flush()
    assert landed(landing) is None
    rest = b"\xee" * whole
    expected = rest[:position] + data + rest[position + size :]
    assert (tmp_path / "file").read_bytes() == expected


def test_neighbours_share_a_page(tmp_path: Path, ring: Ring) -> None:
    target = opened(tmp_path / "file", 9 * PAGE)
    bounds = [0, PAGE + 100, PAGE + 200, 4 * PAGE + 1, 9 * PAGE]
    landings = []
    for number, (start, stop) in enumerate(pairwise(bounds)):
        landings.append(Landing())
        stream = ring.stream(target, start, landings[-1])
        stream.write(memoryview(bytes([number]) * (stop - start)))
        stream.flush()
    assert [landed(one) for one in landings] == [None] * 4
    content = (tmp_path / "file").read_bytes()
    expected = b"".join(
        bytes([n]) * (stop - start) for n, (start, stop) in enumerate(pairwise(bounds))
    )
    assert content == expected


def test_a_file_system_that_refuses_is_written_through_the_cache(
    tmp_path: Path, ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = opened(tmp_path / "file", 4 * SLOT)
    pwrite = os.pwrite

    def refuse(descriptor: int, data: memoryview, at: int) -> int:
        if descriptor == target.direct:
            raise OSError(errno.EINVAL, "no such alignment")
        return pwrite(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", refuse)
    target.direct = target.direct if target.direct >= 0 else os.dup(target.descriptor)
    landing = Landing()
    stream = ring.stream(target, 8, landing)
    stream.write(memoryview(b"\x01" * (3 * SLOT)))
    stream.flush()
    assert landed(landing) is None
    assert (tmp_path / "file").read_bytes()[8 : 8 + 3 * SLOT] == b"\x01" * (3 * SLOT)


def test_the_first_failure_is_told_and_the_ring_goes_on(tmp_path: Path, ring: Ring) -> None:
    target = opened(tmp_path / "file", SLOT)
    closed = open_real(tmp_path / "file", os.O_RDONLY)
    landing = Landing()
    stream = ring.stream(Target(closed), 0, landing)
    for _ in range(40):  # more than there are buffers
        stream.write(memoryview(b"\x01" * SLOT))
    stream.flush()
    failure = landed(landing)
    assert isinstance(failure, OSError)
    assert failure.errno == errno.EBADF
    again = Landing()
    stream = ring.stream(target, 0, again)
    stream.write(memoryview(b"\x02" * SLOT))
    stream.flush()
    assert landed(again) is None


def test_another_file_at_the_path_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"ours")
    descriptor = open_real(tmp_path / "file", os.O_RDWR)
    (tmp_path / "file").rename(tmp_path / "moved")
    (tmp_path / "file").write_bytes(b"theirs")
    assert open_direct(tmp_path / "file", descriptor) == -1
    (tmp_path / "file").unlink()
    assert open_direct(tmp_path / "file", descriptor) == -1


def test_a_short_direct_write_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = opened(tmp_path / "file", SLOT)
    pwrite = os.pwrite
    monkeypatch.setattr(
        os, "pwrite", lambda fd, data, at: pwrite(fd, data[: -(-len(data) // 2)], at)
    )
    data = memoryview(bytes(range(256)) * (SLOT // 256))
    rest = files.write_direct(target.descriptor, data[: PAGE * 3], 0)
    write_all(target.descriptor, rest, PAGE * 3 - len(rest))
    assert (tmp_path / "file").read_bytes()[: 3 * PAGE] == data[: 3 * PAGE]


def test_memory_is_handed_out_within_its_budget() -> None:
    memory = Memory(10 * PAGE)
    one = memory.hold("one", 4 * PAGE)
    two = memory.hold("two", 5 * PAGE + 1)
    assert one is not None
    assert two is not None
    assert memory.hold("three", 1) is None
    one[:3], two[:3] = b"one", b"two"
    memory.release("one")
    assert memory.get("one", PAGE) is None
    three = memory.hold("three", 3 * PAGE)
    assert three is not None
    assert bytes(three[:3]) == b"one"  # the same pages
    assert memory.hold("four", 2 * PAGE) is None
    assert bytes(memory.get("two", 3) or b"") == b"two"
    assert memory.hold("none", 0) is None
    memory.close()
    assert memory.get("two", 3) is None


def test_what_is_held_reads_as_a_file_does() -> None:
    held = Held(memoryview(bytes(range(24))), "bfloat16", (3, 4))
    into = memoryview(bytearray(6))
    held.read(2, 5, into)
    assert bytes(into) == bytes(range(4, 10))
    held.read(5, 5, memoryview(b""))
    assert held.nbytes == 24

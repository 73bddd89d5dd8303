"""Hostile and damaged records: manifest, journal, lease, registry. Never a crash, never a hang."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mergebuild.cache import Cache, FileRecord, Manifest, ShardRecord, TensorRecord, read_manifest
from mergebuild.cache.journal import Finished, records
from mergebuild.cache.lease import alive, live
from mergebuild.cache.manifest import _seal, to_text
from mergebuild.cache.registry import all_registered
from mergebuild.errors import CheckpointError
from mergebuild.expression import Expression, Operand

QUICK = settings(
    deadline=2000,
    max_examples=200,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20)
    | st.sampled_from(["../x", "/etc/passwd", "a/../../b", "", ".", "..", "\x00", "\ud800"])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)  # fmt: skip


def example() -> Manifest:
    expression = Expression(
        "linear", 1, (Operand("base", "x", "0" * 32, "float32"),), False, {"weights": (1.0,)},
        "float32", (2, 3), None,
    )  # fmt: skip
    shard = "a.safetensors"
    record = TensorRecord("2" * 32, "float32", (2, 3), shard, 80, 24, "3" * 32, expression)
    return Manifest(
        "1" * 32, "node", "now", {"mergebuild": "0"},
        {"x": record},
        {shard: ShardRecord(104, "4" * 32, 5)},
        {"config.json": FileRecord(3, "5" * 32, 6)},
        {},
    )  # fmt: skip


def sealed(data: Any) -> bytes:
    """A manifest that was made to look as if it was written so."""
    dumped = json.dumps(data)[:-1].replace(', "expressions": [', ',\n "expressions": [\n')
    text = dumped.encode("utf-8", "surrogatepass")
    return text + _seal(text)


def attempt(folder: Path, content: bytes) -> None:
    (folder / "mergebuild.json").write_bytes(content)
    whole, later = (outcome(folder, later) for later in (False, True))
    if isinstance(whole, Manifest):
        harmless(folder, whole)
        assert later == whole
    else:
        assert str(folder) in whole
        assert isinstance(later, str)
        assert str(folder) in later


def outcome(folder: Path, later: bool) -> Manifest | str:
    """What a manifest says, or what is said of it."""
    try:
        manifest = read_manifest(folder, later=later)
        assert manifest is not None
        return replace(manifest, tensors=dict(manifest.tensors))
    except CheckpointError as error:
        return str(error)


def harmless(folder: Path, manifest: Manifest) -> None:
    """Nothing that it names lies outside, and nothing is where no file can be."""
    for name in manifest.file_sizes():
        assert (folder / name).resolve().is_relative_to(folder.resolve())
    for record in manifest.tensors.values():
        assert 0 <= record.offset < 1 << 63
        assert record.shard in manifest.shards


def test_what_was_written_is_read(tmp_path: Path) -> None:
    (tmp_path / "mergebuild.json").write_bytes(to_text(example()))
    assert read_manifest(tmp_path) == example()


@given(
    content=st.binary(max_size=300)
    | st.text(max_size=300).map(lambda t: t.encode("utf-8", "replace"))
)
@QUICK
def test_any_manifest(tmp_path: Path, content: bytes) -> None:
    attempt(tmp_path, content)


@given(data=st.data())
@QUICK
def test_mutated_manifests(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever stands in one place, under a right seal."""
    whole = json.loads(to_text(example()))
    del whole["seal"]
    place: Any = whole
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, (dict, list)) or not inner or data.draw(st.booleans()):
            break
        place = inner
    if isinstance(place, dict) and data.draw(st.booleans()):
        place[data.draw(st.sampled_from(["../x", "", "/a", "x/../../y"]))] = place.pop(key)
    else:
        place[key] = data.draw(VALUES)
    attempt(tmp_path, sealed(whole))


@given(at=st.integers(0, 2000), bit=st.integers(0, 7))
@QUICK
def test_a_flipped_bit_is_always_seen(tmp_path: Path, at: int, bit: int) -> None:
    content = bytearray(to_text(example()))
    content[at % len(content)] ^= 1 << bit
    (tmp_path / "mergebuild.json").write_bytes(bytes(content))
    with pytest.raises(CheckpointError):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"[" * 10**6, b'{"a":' * 10**6, b"1" * 10**6, b"\x00" * 10**6])
def test_bombs(tmp_path: Path, content: bytes) -> None:
    attempt(tmp_path, content)
    attempt(tmp_path, content + _seal(content))


@given(
    lines=st.lists(
        VALUES.map(lambda v: json.dumps(v).encode()) | st.binary(max_size=30), max_size=6
    )
)
@QUICK
def test_any_journal(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "journal.jsonl"
    path.unlink(missing_ok=True)
    good, finished = b'["x", "digest", "key"]\n', ("x", Finished("digest", "key"))
    path.write_bytes(good + b"\n".join(lines))
    found = list(records(path))
    assert found[0] == finished
    # What is left is sound: more can be appended, and all of it is read.
    with open(path, "ab") as file:
        file.write(good)
    assert list(records(path)) == [*found, finished]


@given(content=st.binary(max_size=200) | VALUES.map(lambda v: json.dumps(v).encode()))
@QUICK
def test_any_lease_and_any_record_of_a_recipe(tmp_path: Path, content: bytes) -> None:
    cache = Cache(tmp_path)
    for folder in (cache.leases, cache.recipes):
        folder.mkdir(exist_ok=True)
        (folder / "x.json").write_bytes(content)
    os.utime(cache.leases / "x.json", (1, 1))
    assert alive(cache, "x") in (False, True)
    assert len(live(cache)) <= 1
    assert len(list(all_registered(cache))) == 1

"""Damage in the cache, in outputs and in everything derived: never a crash, never a wrong byte."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import mergebuild as mb
from mergebuild.cache import Cache
from mergebuild.cache.gc import Limits, find_garbage
from mergebuild.cache.store import names_in
from mergebuild.cache.verify import verify_folder
from mergebuild.console.cache import cache_text, verdicts_text
from mergebuild.events import silent
from tests import kit
from tests.builder import Scratch, computed, edited
from tests.damage import rot, write_through
from tests.test_incremental import RECIPE, age

EDIT = ("[0, 0.5, 1]", "[1, 0.5, 1]")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built recipe, and what its edited form builds to."""
    root = tmp_path_factory.mktemp("rot")
    kit.base_and_two(root, layers=2)
    age(root)
    scratch = Scratch(root)
    scratch.write(RECIPE)
    scratch.build()
    shutil.copytree(scratch.output("blend"), root / "plain")
    with edited(scratch, *EDIT):
        scratch.build()
        shutil.copytree(scratch.output("blend"), root / "edited")
    shutil.rmtree(root / "cache")
    shutil.rmtree(root / "build")
    return root


@pytest.fixture
def scratch(built: Path, tmp_path: Path) -> Scratch:
    """Freshly built, small shards, output in place."""
    for name in ("base", "math", "chat"):
        (tmp_path / name).symlink_to(built / name)
    for name in ("plain", "edited"):
        (tmp_path / name).symlink_to(built / name)
    scratch = Scratch(tmp_path)
    scratch.write(RECIPE)
    scratch.build(settings=SMALL)
    return scratch


SMALL = mb.Settings(shard_size=3000)


def right(scratch: Scratch, expected: str) -> None:
    """The output holds just what it has to."""
    now, then = kit.read(scratch.output("blend")), kit.read(scratch.root / expected)
    assert now.keys() == then.keys()
    assert all(now[name].equal(then[name]) for name in then)
    assert scratch.plan(settings=SMALL).fresh


def remember_sources(scratch: Scratch) -> None:
    """Plan, with something stale, until both databases are there: sources have to be two seconds
    old for that."""
    cache = scratch.root / "cache"
    latest = time.monotonic() + 30
    while time.monotonic() < latest and not (
        (cache / "digests.db").exists() and (cache / "index.db").exists()
    ):
        time.sleep(0.2)
        scratch.plan()


def cached(scratch: Scratch, node: str) -> Path:
    return scratch.root / "cache/checkpoints" / scratch.plan(settings=SMALL).nodes[node].key


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


@pytest.mark.parametrize("node", ["dare", "sum", "blend"])
def test_rot_in_what_is_reused_is_set_aside_and_made_again(scratch: Scratch, node: str) -> None:
    folder = cached(scratch, node)
    for shard in shards(folder):
        rot(shard)
    change = ("value: 0.25", "value: 0.5") if node == "sum" else EDIT
    with edited(scratch, *change):
        done = scratch.build(settings=SMALL)
        if node == "dare":  # nothing needed it
            assert {n for n, _ in computed(done)} == {"blend"}
        else:
            assert [n.partition(".")[0] for n in names_in(scratch.root / "cache/quarantine")] == [
                folder.name
            ]
        if change == EDIT:
            right(scratch, "edited")
    if node != "sum":
        return
    with edited(scratch, *change):
        whole = kit.read(scratch.output("blend"))
        shutil.rmtree(scratch.root / "cache")
        shutil.rmtree(scratch.root / "build")
        scratch.build(settings=SMALL)
        again = kit.read(scratch.output("blend"))
        assert all(whole[name].equal(again[name]) for name in again)


def test_a_rotten_checkpoint_is_not_published(scratch: Scratch) -> None:
    rot(shards(cached(scratch, "blend"))[0])
    shutil.rmtree(scratch.root / "build")
    assert computed(scratch.build(settings=SMALL))
    right(scratch, "plain")


def test_verify_sets_aside_and_the_next_build_mends(scratch: Scratch) -> None:
    sound = kit.run("cache", "verify", "--all", cwd=scratch.root)
    assert (sound.code, sound.stdout) == (0, "3 checkpoints sound, 0 damaged\n")
    folder = cached(scratch, "blend")
    first = shards(folder)[0]
    rot(first)
    rot(folder / "config.json")
    told = kit.run("cache", "verify", "--recipe", "recipe.yaml", cwd=scratch.root)
    assert told.code == 1
    assert "2 checkpoints sound, 1 damaged" in told.stdout
    assert "'config.json' has another content" in told.stdout
    assert f"in '{first.name}' has another content" in told.stdout
    assert "set aside in 'cache/quarantine/" in told.stdout
    assert "set aside in" in kit.run("cache", "ls", cwd=scratch.root).stdout
    # The output shares the rotten file by a hard link: it is no longer taken for fresh.
    assert not scratch.plan(settings=SMALL).fresh
    scratch.build(settings=SMALL)
    right(scratch, "plain")


def test_an_output_that_was_written_through_poisons_nothing(scratch: Scratch) -> None:
    write_through(shards(scratch.output("blend"))[1])
    assert not scratch.plan(settings=SMALL).fresh
    told = kit.run("verify", "build/blend", cwd=scratch.root)
    assert told.code == 1
    assert "has another content" in told.stdout
    with edited(scratch, *EDIT):
        scratch.build(settings=SMALL)
        right(scratch, "edited")
    scratch.build(settings=SMALL)
    right(scratch, "plain")


def test_a_touched_output_that_is_what_it_was_stays_fresh(scratch: Scratch) -> None:
    for path in scratch.output("blend").iterdir():
        os.utime(path)
    assert scratch.plan(settings=SMALL).fresh


def test_an_output_has_the_times_of_the_cache(scratch: Scratch) -> None:
    """So that a look at it reads nothing, copies included."""
    folder = cached(scratch, "blend")
    for path in folder.iterdir():
        assert path.stat().st_mtime_ns == (scratch.output("blend") / path.name).stat().st_mtime_ns


def test_an_edited_side_file_does_not_reach_the_cache(scratch: Scratch) -> None:
    path = scratch.output("blend") / "config.json"
    path.write_text(path.read_text().replace("0", "1"))
    assert not scratch.plan(settings=SMALL).fresh
    assert scratch.build(settings=SMALL) == []
    right(scratch, "plain")


def plant_link(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/etc/passwd")


TAMPERING: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda f: (f / "tokenizer.json").unlink(), "'tokenizer.json' is missing"),
    "extra": (lambda f: (f / "notes.txt").touch(), "'notes.txt' is extra"),
    "longer": (lambda f: (f / "config.json").write_text("{}" * 999), "has 1,998 bytes instead of"),
    "header": (lambda f: write_through(shards(f)[0], 20), "has another header"),
    "tensor": (lambda f: write_through(shards(f)[0]), "' has another content"),
    "manifest": (lambda f: write_through(f / "mergebuild.json", 90), "it is not what was written"),
    "no manifest": (lambda f: (f / "mergebuild.json").unlink(), "'mergebuild.json' is missing"),
    "link": (plant_link, "'config.json' is not a regular file"),
}


@pytest.mark.parametrize("how", TAMPERING)
def test_verify_tells_what_differs_in_an_output(scratch: Scratch, how: str) -> None:
    tamper, message = TAMPERING[how]
    tamper(scratch.output("blend"))
    verdict = verify_folder(scratch.output("blend"), jobs=2, sink=silent)
    assert message in verdicts_text([verdict])
    assert verdicts_text([verdict]).endswith("0 checkpoints sound, 1 damaged")
    if how not in ("extra", "no manifest"):
        scratch.build(settings=SMALL)
        right(scratch, "plain")
        assert not verify_folder(scratch.output("blend"), jobs=2, sink=silent).differences


def test_status_can_verify_the_outputs(scratch: Scratch) -> None:
    (scratch.output("blend") / "notes.txt").touch()
    told = kit.run("status", "recipe.yaml", "--verify", cwd=scratch.root)
    assert told.code == 1
    assert "build/blend: 'notes.txt' is extra: no build put it there" in told.stdout


GARBLED = [b"", b"\x00" * 4096, b'{"nodes": 3}', b"[" * 99999]
RECORDS = ("digests.db", "index.db", "recipes/*.json", "runs/*.jsonl", "*/*/mergebuild.json")


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("garbled", GARBLED, ids=lambda data: f"{data[:6]!r}")
def test_damaged_records_never_matter(scratch: Scratch, record: str, garbled: bytes) -> None:
    cache = Cache(scratch.root / "cache")
    with edited(scratch, *EDIT):
        remember_sources(scratch)
    paths = sorted(cache.root.glob(record))
    assert paths
    for path in paths:
        path.unlink()
        path.write_bytes(garbled)
    assert "checkpoint" in cache_text(cache)
    assert find_garbage(cache, Limits()).damaged == (
        tuple(paths) if record == "recipes/*.json" else ()
    )
    with edited(scratch, *EDIT):
        scratch.build(settings=SMALL)
        right(scratch, "edited")


@pytest.mark.parametrize("offset", [10, 600, 4096, 9000])
def test_flipped_bits_in_databases_never_matter(scratch: Scratch, offset: int) -> None:
    digests, index = scratch.root / "cache/digests.db", scratch.root / "cache/index.db"
    with edited(scratch, *EDIT):
        remember_sources(scratch)
        for path in (digests, index):
            write_through(path, min(offset, path.stat().st_size - 1))
        scratch.build(settings=SMALL)
        right(scratch, "edited")


def test_links_planted_in_the_cache_are_not_followed(scratch: Scratch, tmp_path: Path) -> None:
    folder = cached(scratch, "blend")
    elsewhere = tmp_path / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    before = {path.name: path.read_bytes() for path in elsewhere.iterdir()}
    assert Cache(tmp_path / "cache").lookup(folder.name) is None
    shutil.rmtree(tmp_path / "build")
    scratch.build(settings=SMALL)
    right(scratch, "plain")
    assert not folder.is_symlink()
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == before


def test_nothing_is_world_writable_and_the_umask_is_respected(scratch: Scratch) -> None:
    shutil.rmtree(scratch.root / "cache")
    shutil.rmtree(scratch.root / "build")
    former = os.umask(0o000)
    try:
        scratch.build(settings=SMALL)
        made = [*(scratch.root / "cache").rglob("*"), *(scratch.root / "build").rglob("*")]
        loose = [p for p in made if p.stat().st_mode & 0o002 and not p.name.endswith(".db")]
        assert not loose
        os.umask(0o077)
        shutil.rmtree(scratch.root / "cache")
        shutil.rmtree(scratch.root / "build")
        scratch.build(settings=SMALL)
    finally:
        os.umask(former)
    made = [*(scratch.root / "cache").rglob("*"), *(scratch.root / "build").rglob("*")]
    assert all(path.stat().st_mode & 0o077 == 0 for path in made)


def test_a_manifest_says_what_was_written_and_nothing_else(scratch: Scratch) -> None:
    path = cached(scratch, "sum") / "mergebuild.json"
    data = json.loads(path.read_text())
    data["tensors"]["model.norm.weight"]["digest"] = "0" * 32
    path.chmod(0o644)
    path.write_text(json.dumps(data))
    assert Cache(scratch.root / "cache").lookup(path.parent.name) is None

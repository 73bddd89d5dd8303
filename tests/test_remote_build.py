"""What one team has built and pushed, another one's build fetches: just what it lacks."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import mergebuild as mb
from mergebuild.cache import read_manifest
from mergebuild.cache.content import differences, extra_files
from mergebuild.remote import Remotes
from mergebuild.remote.claim import read_claim
from mergebuild.site import Remote
from tests import kit
from tests.s3 import BUCKET, CREDENTIALS, Proxy, proxy
from tests.teams import Team, another, first_team, tensors

# The client's connections are closed when they are collected, which may be in another test.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def before_s3(s3: str) -> Iterator[Proxy]:
    with pytest.MonkeyPatch.context() as patch, proxy(s3) as made:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield made


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Team:
    return first_team(tmp_path_factory.mktemp("built") / "one")


@pytest.fixture
def one(built: Team, tmp_path: Path) -> Team:
    """The first team, in a folder of this test."""
    shutil.copytree(built.root, tmp_path / "one", symlinks=True, copy_function=shutil.copy2)
    return Team(tmp_path / "one", [folder(tmp_path)])


def folder(root: Path) -> Remote:
    return Remote("share", str(root / "share"))


def bucket(gate: Proxy) -> Remote:
    return Remote("s3", f"s3://{BUCKET}/{uuid.uuid4().hex}?endpoint={gate.url}")


@pytest.fixture(params=["folder", "s3"])
def remote(request: pytest.FixtureRequest, tmp_path: Path, before_s3: Proxy) -> Remote:
    before_s3.clear()
    return folder(tmp_path) if request.param == "folder" else bucket(before_s3)


def test_the_second_team_computes_nothing(one: Team, remote: Remote, tmp_path: Path) -> None:
    one.remotes = [remote]
    assert [outcome.how for outcome in one.push()] == ["done"] * 3
    two = another(one, tmp_path / "two", remote)
    plan = two.plan()
    assert {name: len(node.fetch) for name, node in plan.nodes.items()} == {
        "dare": 0, "sum": 0, "blend": len(tensors(one)),
    }  # fmt: skip
    size = sum(t.numel() * t.element_size() for t in kit.read(one.root / "base").values())
    assert (plan.costs.fetched, plan.costs.read) == (size, 0)
    assert two.build() == {"fetched": [("blend", tensor) for tensor in tensors(one)]}
    assert two.weights() == one.weights()
    assert two.warnings() == []
    assert two.build() == {}
    manifest = read_manifest(two.root / "build/blend")
    assert manifest is not None
    assert not differences(two.root / "build/blend", manifest, manifest.file_sizes())


def test_only_what_is_needed_crosses_the_network(
    one: Team, before_s3: Proxy, tmp_path: Path
) -> None:
    """One stale tensor costs one tensor: of what is in the cache nothing is fetched, of an
    intermediate that is not there just what the stale tensor is made from."""
    before_s3.clear()
    remote = bucket(before_s3)
    one.remotes = [remote]
    one.push()
    two = another(one, tmp_path / "two", remote)
    two.build()
    shutil.rmtree(two.root / "build")
    two.edit("[0, 0.5, 1]", "[0, 0.5, 0.9]")
    stale = [t for t in tensors(one) if "layers.2.mlp" in t]
    before_s3.clear()
    plan = two.plan()
    assert not plan.nodes["sum"].stored
    done = two.build()
    assert done["computed"] == [("blend", t) for t in stale]
    assert done["fetched"] == [("sum", t) for t in stale]
    spans = [r for r in before_s3.asked("GET", "/blobs/") if r.span]
    assert len(spans) == len(stale)
    sizes = {t: v.numel() * v.element_size() for t, v in kit.read(one.root / "base").items()}
    assert sum(r.size for r in spans) == sum(sizes[t] for t in stale)
    alone = another(two, tmp_path / "alone")
    alone.build()
    assert alone.weights() == two.weights()


def test_kin_give_what_a_stale_node_shares_with_them(
    one: Team, remote: Remote, tmp_path: Path
) -> None:
    one.remotes = [remote]
    one.push()
    two = another(one, tmp_path / "two", remote)
    two.edit("[0, 0.5, 1]", "[0, 0.5, 0.9]")
    stale = [t for t in tensors(one) if "layers.2.mlp" in t]
    done = two.build()
    assert done["computed"] == [("blend", t) for t in stale]
    assert done["fetched"] == sorted(
        [("blend", t) for t in tensors(one) if t not in stale] + [("sum", t) for t in stale]
    )


def test_nothing_to_do_asks_nothing(one: Team, before_s3: Proxy, tmp_path: Path) -> None:
    one.remotes = [bucket(before_s3)]
    before_s3.clear()
    assert one.build() == {}
    assert before_s3.requests == []


def test_pulled_checkpoints_are_like_built_ones(one: Team, remote: Remote, tmp_path: Path) -> None:
    one.remotes = [remote]
    one.push()
    two = another(one, tmp_path / "two", remote)
    for name, key in one.keys().items():
        outcome = two.pull(key)
        assert (outcome.how, outcome.node) == ("done", name)
        manifest = two.cache.lookup(key)
        former = one.cache.lookup(key)
        assert manifest is not None
        assert former is not None
        assert manifest.tensors == former.tensors
        assert manifest.provenance == former.provenance
        assert not differences(two.cache.folder(key), manifest, manifest.file_sizes())
        assert not extra_files(two.cache.folder(key), manifest)
        for file in manifest.file_sizes():
            mine, theirs = two.cache.folder(key) / file, one.cache.folder(key) / file
            assert mine.read_bytes() == theirs.read_bytes()
            assert not mine.stat().st_mode & 0o222
        assert two.pull(key).how == "already there"
    assert two.build() == {}
    assert two.weights() == one.weights()
    assert [outcome.how for outcome in two.push()] == ["already there"] * 3


def test_remotes_are_asked_in_order(one: Team, tmp_path: Path) -> None:
    first, second = folder(tmp_path), Remote("second", str(tmp_path / "second"))
    one.remotes = [first]
    one.push("sum")
    one.remotes = [second]
    one.push()
    two = another(one, tmp_path / "two", first, second)
    two.build()
    assert {t.remote for t in two.plan().nodes["blend"].fetch.values()} == set()
    three = another(one, tmp_path / "three", first, second)
    keys = three.keys()
    assert three.pull(keys["sum"]).remote == "share"
    assert three.pull(keys["blend"]).remote == "second"


def test_a_remote_with_other_sizes_of_files(one: Team, tmp_path: Path) -> None:
    """Shards of another size hold the same tensors."""
    one.push()
    two = another(one, tmp_path / "two", *one.remotes)
    plan = mb.plan(
        two.recipe, cache=two.cache.root, outputs={"blend": two.root / "build/blend"},
        remotes=two.remotes, settings=mb.Settings(shard_size=10_000),
    )  # fmt: skip
    assert not plan.nodes["blend"].compute
    mb.build(plan)
    assert len(list((two.root / "build/blend").glob("*.safetensors"))) > 1
    for name, tensor in kit.read(one.root / "build/blend").items():
        assert kit.read(two.root / "build/blend")[name].equal(tensor)
    assert two.push("blend")[0].how == "already there"


def test_many_shards_are_pulled(one: Team, tmp_path: Path) -> None:
    shutil.rmtree(one.cache.checkpoints)
    shutil.rmtree(one.root / "build")
    mb.build(
        mb.plan(
            one.recipe, cache=one.cache.root, outputs={"blend": one.root / "build/blend"},
            remotes=(), settings=mb.Settings(shard_size=10_000),
        )
    )  # fmt: skip
    assert one.push("blend")[0].how == "done"
    two = another(one, tmp_path / "two", *one.remotes)
    key = one.keys()["blend"]
    assert two.pull(key).how == "done"
    for path in one.cache.folder(key).iterdir():
        if path.name != "mergebuild.json":
            assert (two.cache.folder(key) / path.name).read_bytes() == path.read_bytes()


def test_concurrent_pushes(one: Team, remote: Remote, tmp_path: Path) -> None:
    """Rivals that push the same leave one claim and every blob; the result can be fetched."""
    one.remotes = [remote]
    rivals = [Team(one.root, one.remotes) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda team: team.push(), rivals))
    assert all(o.how != "failed" for each in outcomes for o in each)
    two = another(one, tmp_path / "two", remote)
    assert set(two.build()) == {"fetched"}
    assert two.weights() == one.weights()


def test_what_is_pushed_twice_is_sent_once(one: Team, before_s3: Proxy) -> None:
    before_s3.clear()
    one.remotes = [bucket(before_s3)]
    sent = [outcome.bytes for outcome in one.push()]
    assert all(sent)
    before_s3.clear()
    assert [(o.how, o.bytes) for o in one.push()] == [("already there", 0)] * 3
    assert not before_s3.asked("PUT", "/")
    assert not before_s3.asked("GET", "/blobs/")


def test_the_first_claim_wins(one: Team, tmp_path: Path) -> None:
    """A later build of the same content is no other claim."""
    one.push("blend")
    place = tmp_path / "share/checkpoints" / f"{one.keys()['blend']}.json"
    before = place.read_bytes()
    two = another(one, tmp_path / "two")
    two.build()
    two.remotes = one.remotes
    assert two.push("blend")[0].how == "already there"
    assert place.read_bytes() == before
    claim, signatures = read_claim(before, one.keys()["blend"])
    assert claim.size > sum(claim.shards[s].size for s in claim.shards)
    assert not signatures


def test_a_build_pushes_what_it_computed(one: Team, tmp_path: Path) -> None:
    remote = Remote("share", str(tmp_path / "share"), push=True)
    one.edit("[0, 0.5, 1]", "[0, 0.5, 0.9]")
    one.remotes = [remote]
    assert one.build()["computed"]
    store = Remotes([remote]).store("share")
    assert store.size(f"checkpoints/{one.keys()['blend']}.json")
    assert store.size(f"checkpoints/{one.keys()['sum']}.json") is None
    two = another(one, tmp_path / "two", remote)
    assert set(two.build()) == {"fetched"}


def test_a_push_that_fails_does_not_fail_the_build(one: Team, tmp_path: Path) -> None:
    (tmp_path / "share").write_text("not a folder")
    one.remotes = [Remote("share", str(tmp_path / "share"), push=True)]
    one.edit("[0, 0.5, 1]", "[0, 0.5, 0.9]")
    assert one.build()["computed"]
    assert any("was not pushed" in text for text in one.warnings())

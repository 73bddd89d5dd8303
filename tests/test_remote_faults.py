"""Remotes that lie, lose, flip and forget: always a miss, never an error or a wrong result."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mergebuild.remote.remotes import RANGE
from mergebuild.site import Remote
from tests import kit
from tests.s3 import BUCKET, CREDENTIALS, Answer, Fault, Proxy, Refusal, proxy
from tests.teams import Team, another, first_team, tensors

# The client's connections are closed when they are collected, which may be in another test.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergebuild.remote.store._PAUSE", 0.001)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Team:
    """The first team, which has pushed everything to a folder."""
    root = tmp_path_factory.mktemp("faults")
    team = first_team(root / "one")
    team.remotes = [Remote("share", str(root / "share"))]
    team.push()
    return team


@pytest.fixture
def share(one: Team, tmp_path: Path) -> Path:
    """What was pushed, in a folder of this test."""
    return shutil.copytree(one.remotes[0].url, tmp_path / "share")


def second(one: Team, root: Path, share: Path) -> Team:
    return another(one, root / "two", Remote("share", str(share)))


def objects(share: Path) -> list[Path]:
    return sorted(path for path in share.rglob("*") if path.is_file())


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_any_byte_of_any_object(one: Team, share: Path, tmp_path: Path, place: str) -> None:
    """A flipped byte is noticed where it is read and told of; what is built, and what is pulled,
    is right or not there at all."""
    key = one.keys()["blend"]
    right = {p.name: p.read_bytes() for p in one.cache.folder(key).iterdir()}
    claim = json.loads((share / f"checkpoints/{key}.json").read_text())["claim"]
    shards = {row[1] for row in claim["shards"].values()}
    used = (
        {row[1] for row in claim["files"].values()} | shards | {claim["manifest"][1], f"{key}.json"}
    )
    for number, path in enumerate(objects(share)):
        sound = path.read_bytes()
        at = {"first": 0, "middle": len(sound) // 2, "last": len(sound) - 1}[place]
        if path.name in shards and place == "first":
            at = int.from_bytes(sound[:8], "little") + 8  # of the data: headers are made anew
        flip(path, at)
        two = another(one, tmp_path / f"{number}", Remote("share", str(share)))
        pulled = two.pull(key).how
        if path.name in used and not (path.name.endswith("json") and pulled == "done"):
            assert pulled == "failed", path
            assert two.warnings(), path
            assert two.cache.lookup(key) is None
        else:
            assert pulled == "done", path
            for name, data in right.items():
                if name != "mergebuild.json":
                    assert (two.cache.folder(key) / name).read_bytes() == data
        shutil.rmtree(two.cache.root, ignore_errors=True)
        if path.name in shards or path.suffix == ".json":
            two.build()
            assert two.weights() == one.weights(), path
        path.write_bytes(sound)


def test_a_damaged_tensor_is_computed_and_the_rest_fetched(
    one: Team, share: Path, tmp_path: Path
) -> None:
    key = one.keys()["blend"]
    claim = json.loads((share / f"checkpoints/{key}.json").read_text())["claim"]
    ((_, blob),) = claim["shards"].values()
    name = "model.layers.1.mlp.up_proj.weight"
    flip(share / "blobs" / blob, claim["tensors"][name][4])
    two = second(one, tmp_path, share)
    done = two.build()
    assert done["computed"] == [("blend", name)]
    assert ("sum", name) in done["fetched"]
    assert sum("is not what it is said to be" in text for text in two.warnings()) == 1
    assert two.weights() == one.weights()
    repaired = Team(one.root, two.remotes)
    assert repaired.push("blend")[0].how == "already there"
    outcome = repaired.push("blend", repair=True)[0]
    assert (outcome.how, outcome.files) == ("done", 1)
    assert set(another(one, tmp_path / "three", *two.remotes).build()) == {"fetched"}


def _emptied(share: Path) -> None:
    for path in objects(share):
        path.unlink()


def _without(part: str) -> Callable[[Path], None]:
    def remove(share: Path) -> None:
        shutil.rmtree(share / part)

    return remove


def _cut(share: Path) -> None:
    for path in (share / "blobs").iterdir():
        path.write_bytes(path.read_bytes()[:-1])


def _longer(share: Path) -> None:
    for path in objects(share):
        path.write_bytes(path.read_bytes() + b"x")


def _swapped(share: Path) -> None:
    """Every blob under the name of another one."""
    blobs = sorted((share / "blobs").iterdir())
    contents = [path.read_bytes() for path in blobs]
    for path, data in zip(blobs, contents[1:] + contents[:1], strict=True):
        path.write_bytes(data)


def _links(share: Path) -> None:
    for path in objects(share):
        path.rename(path.with_suffix(".real"))
        path.symlink_to(path.with_suffix(".real"))


def _folders(share: Path) -> None:
    for path in objects(share):
        path.unlink()
        path.mkdir()


def _noise(share: Path) -> None:
    for number, path in enumerate(objects(share)):
        path.write_bytes(bytes([number % 256]) * 1000)


def _nested(share: Path) -> None:
    for path in share.rglob("*.json"):
        path.write_bytes(b"[" * 100_000)


STATES: dict[str, Callable[[Path], None]] = {
    "empty": _emptied,
    "no blobs": _without("blobs"),
    "no claims": _without("checkpoints"),
    "no kin": _without("kin"),
    "blobs cut short": _cut,
    "objects too long": _longer,
    "blobs swapped": _swapped,
    "links": _links,
    "folders": _folders,
    "noise": _noise,
    "nested": _nested,
    "gone": lambda share: shutil.rmtree(share),
}


@pytest.mark.parametrize("state", STATES)
def test_whatever_a_remote_is_like(one: Team, share: Path, tmp_path: Path, state: str) -> None:
    STATES[state](share)
    two = second(one, tmp_path, share)
    two.build()
    assert two.weights() == one.weights()
    assert two.pull("0" * 32).how == "failed"


@pytest.fixture(scope="module")
def gate(s3: str, one: Team) -> Iterator[Proxy]:
    """A proxy before a server that holds what the first team has built."""
    with pytest.MonkeyPatch.context() as patch, proxy(s3) as made:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield made


@pytest.fixture
def remote(gate: Proxy, one: Team) -> Remote:
    gate.clear()
    made = Remote("s3", f"s3://{BUCKET}/{uuid.uuid4().hex}?endpoint={gate.url}")
    Team(one.root, [made]).push()
    gate.clear()
    return made


def wrong(answer: Answer) -> None:
    if answer.body:
        answer.body = bytes(byte ^ 0xFF for byte in answer.body)


def dropped(answer: Answer) -> None:
    answer.cut = len(answer.body) // 2


def endless(answer: Answer) -> None:
    """Far more than was asked for, as if ranges were not known."""
    answer.status, answer.body = 200, bytes(RANGE * 4)
    answer.headers = {"Content-Length": str(RANGE * 4)}


def short(answer: Answer) -> None:
    answer.body = answer.body[: len(answer.body) // 2]
    answer.headers["Content-Length"] = str(len(answer.body))


def slow(answer: Answer) -> None:
    answer.pace = 100.0


LIES: dict[str, Fault] = {
    "wrong bytes": wrong,
    "dropped": dropped,
    "too much": endless,
    "too little": short,
    "busy": Refusal(503),
    "forbidden": Refusal(403),
    "gone": Refusal(404),
}


@pytest.mark.parametrize("where", ["/checkpoints/", "/blobs/"])
@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_lies(
    one: Team, gate: Proxy, remote: Remote, tmp_path: Path, lie: str, where: str
) -> None:
    """Always: the build does without and says so. Twice: what passes is got over, and nothing that
    can be had is computed."""
    gate.fault("GET", where, LIES[lie])
    two = another(one, tmp_path / "two", remote)
    assert set(two.build()) <= {"computed", "resumed"}
    assert two.weights() == one.weights()
    assert bool(two.warnings()) == ((lie, where) != ("gone", "/checkpoints/"))
    assert len(gate.requests) < 80
    if lie in ("dropped", "busy") or (where == "/blobs/" and lie.startswith("too")):
        gate.clear()
        gate.fault("GET", where, LIES[lie], times=2)
        three = another(one, tmp_path / "three", remote)
        assert set(three.build()) == {"fetched"}
        assert three.weights() == one.weights()


def test_a_slow_server_is_given_up(
    one: Team, gate: Proxy, remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mergebuild.remote.store.READ_SECONDS", 0.2)
    gate.fault("GET", "/checkpoints/", slow)
    two = another(one, tmp_path / "two", remote)
    assert set(two.build()) == {"computed"}
    assert any("is not used in this run" in text for text in two.warnings())
    assert two.weights() == one.weights()


def test_a_claim_that_is_not_seen_yet(
    one: Team, gate: Proxy, remote: Remote, tmp_path: Path
) -> None:
    """An eventually consistent store: the claim is there, its blobs are not yet; then they are."""
    gate.fault("GET", "/blobs/", Refusal(404))
    two = another(one, tmp_path / "two", remote)
    assert two.pull(one.keys()["blend"]).how == "failed"
    gate.clear()
    assert two.pull(one.keys()["blend"]).how == "done"


def test_stale_hints(one: Team, gate: Proxy, remote: Remote, tmp_path: Path) -> None:
    """What a remote remembers of kin may be old, or name what is not there: less is found."""
    stale = json.dumps({"mergebuild": 1, "checkpoints": [["0" * 32, "blend"], ["../x", "x"]]})

    def old(answer: Answer) -> None:
        answer.body = stale.encode()
        answer.headers["Content-Length"] = str(len(answer.body))

    gate.fault("GET", "/kin/", old)
    two = another(one, tmp_path / "two", remote)
    two.edit("[0, 0.5, 1]", "[0, 0.5, 0.9]")
    done = two.build()
    assert len([t for n, t in done["computed"] if n == "blend"]) == len(tensors(one))
    assert {node for node, _ in done["fetched"]} == {"sum"}
    assert not [r for r in gate.requests if ".." in r.path]


PUSHING: dict[str, tuple[str, str, Fault]] = {
    "no blobs": ("PUT", "/blobs/", Refusal(403)),
    "no claims": ("PUT", "/checkpoints/", Refusal(403)),
    "no looking": ("HEAD", "/blobs/", Refusal(503)),
}


@pytest.mark.parametrize("case", PUSHING)
def test_a_push_that_fails_and_is_gone_on_with(
    one: Team, gate: Proxy, tmp_path: Path, case: str
) -> None:
    """Nothing appears before all of it is there; the next push sends only what is missing."""
    gate.clear()
    remote = Remote("s3", f"s3://{BUCKET}/{uuid.uuid4().hex}?endpoint={gate.url}")
    team = Team(one.root, [remote])
    method, part, fault = PUSHING[case]
    gate.fault(method, part, fault)
    assert team.push("blend")[0].how == "failed"
    assert any("was not pushed" in text for text in team.warnings())
    two = another(one, tmp_path / "two", remote)
    assert two.pull(one.keys()["blend"]).how == "failed"
    sent = {r.path for r in gate.asked("PUT", "/blobs/")} if case == "no claims" else set()
    gate.clear()
    assert team.push("blend")[0].how == "done"
    assert not sent & {r.path for r in gate.asked("PUT", "/blobs/")}
    assert two.pull(one.keys()["blend"]).how == "done"


def test_a_pull_that_broke_off_is_gone_on_with(
    one: Team, gate: Proxy, remote: Remote, tmp_path: Path
) -> None:
    key = one.keys()["blend"]
    size = sum(t.numel() * t.element_size() for t in kit.read(one.root / "base").values())
    two = another(one, tmp_path / "two", remote)
    claim = Team(one.root, [remote])
    assert claim.keys()["blend"] == key
    broken = [f"bytes={at}-" for at in _offsets(one, key)[-2:]]

    def some(answer: Answer) -> None:
        said = {name.lower(): value for name, value in answer.headers.items()}
        span = said.get("content-range", "").replace("bytes ", "bytes=")
        if any(span.startswith(begin) for begin in broken):
            answer.cut = 0

    gate.fault("GET", "/blobs/", some)
    assert two.pull(key).how == "failed"
    gate.clear()
    assert two.pull(key).how == "done"
    assert 0 < sum(r.size for r in gate.asked("GET", "/blobs/") if r.span) < size
    assert two.build() == {}


def _offsets(team: Team, key: str) -> list[int]:
    manifest = team.cache.lookup(key)
    assert manifest is not None
    return sorted(record.offset for record in manifest.tensors.values())

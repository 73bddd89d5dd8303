"""What every kind of remote has to do, for each kind: a folder, fsspec's, and S3 on a server."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import mergebuild as mb
from mergebuild.remote.filesystem import FileSystemStore
from mergebuild.remote.folder import FolderStore
from mergebuild.remote.places import open_store
from mergebuild.remote.s3 import S3Store
from mergebuild.remote.store import Absent, Damaged, Interrupted, Store, Unreachable, patiently
from tests.s3 import BUCKET, CREDENTIALS, Answer, Fault, Proxy, Refusal, proxy

# The client's connections are closed when they are collected, which may be in another test.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

PART = 5 << 20
BIG = os.urandom(2 * PART + 1000)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def before_s3(s3: str) -> Iterator[Proxy]:
    with proxy(s3) as made:
        yield made


@pytest.fixture
def gate(before_s3: Proxy) -> Proxy:
    before_s3.clear()
    return before_s3


def s3_store(url: str) -> S3Store:
    root = f"{BUCKET}/{uuid.uuid4().hex}"
    return S3Store(f"s3://{root}", {"endpoint": url}, root, part=PART)


@pytest.fixture(params=["folder", "fsspec", "fsspec, by looking", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, s3: str) -> Store:
    from fsspec.implementations.local import LocalFileSystem

    root = tmp_path / "remote"
    if request.param == "folder":
        return FolderStore(str(root), root)
    if request.param == "s3":
        return s3_store(s3)
    exclusive = request.param == "fsspec"
    return FileSystemStore(str(root), LocalFileSystem(), str(root), exclusive=exclusive)


def test_what_is_put_is_there(store: Store, tmp_path: Path) -> None:
    assert store.size("a/x") is None
    assert store.create("a/x", b"first")
    assert not store.create("a/x", b"second")
    assert store.read_all("a/x", 5) == b"first"
    store.replace("a/x", b"third one")
    assert (store.size("a/x"), store.read("a/x", 2, 4)) == (9, b"ird ")
    (tmp_path / "big").write_bytes(BIG)
    told: list[int] = []
    store.upload("blobs/b", tmp_path / "big", len(BIG), told.append)
    assert (store.size("blobs/b"), sum(told)) == (len(BIG), len(BIG))
    for start in (0, PART - 1, len(BIG) - 10):
        assert store.read("blobs/b", start, 10) == BIG[start : start + 10]


BAD: dict[str, tuple[Callable[[Store], object], type[Exception]]] = {
    "absent": (lambda s: s.read("nope", 0, 1), Absent),
    "absent whole": (lambda s: s.read_all("nope", 1), Absent),
    "too short": (lambda s: s.read("x", 2, 9), Damaged),
    "beyond the end": (lambda s: s.read("x", 20, 1), Damaged),
    "larger than is allowed": (lambda s: s.read_all("x", 3), Damaged),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read(store: Store, case: str) -> None:
    store.replace("x", b"1234")
    call, kind = BAD[case]
    with pytest.raises(kind):
        call(store)


def test_one_of_many_creators_wins(store: Store) -> None:
    """In one step in a folder and on S3; what fsspec does of it on a disk has a gap."""
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: store.create("x", b"%d" % n), range(8)))
    assert any(won)
    if isinstance(store, FolderStore | S3Store):
        assert won.count(True) == 1
        assert store.read_all("x", 1) == b"%d" % won.index(True)


def test_a_folder_follows_no_link_and_opens_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "remote").mkdir()
    (tmp_path / "remote/link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "remote/pipe")
    store = FolderStore("", tmp_path / "remote")
    for name in ("link", "pipe"):
        with pytest.raises((Damaged, Unreachable)):
            store.read_all(name, 100)
        assert store.size(name) is None


def test_a_folder_goes_on_with_a_part(tmp_path: Path) -> None:
    """What an interrupted upload left is compared and kept; another's part is left alone."""
    (tmp_path / "big").write_bytes(BIG)
    store = FolderStore("", tmp_path / "remote")
    (tmp_path / "remote/blobs").mkdir(parents=True)
    part = tmp_path / "remote/blobs/.b.part"
    part.write_bytes(BIG[:PART] + b"torn" + bytes(len(BIG)))
    inode = part.stat().st_ino
    store.upload("blobs/b", tmp_path / "big", len(BIG), lambda _: None)
    assert (tmp_path / "remote/blobs/b").stat().st_ino == inode
    assert (tmp_path / "remote/blobs/b").read_bytes() == BIG
    with open(part, "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        store.upload("blobs/b", tmp_path / "big", len(BIG), lambda _: None)
    assert (tmp_path / "remote/blobs/b").read_bytes() == BIG
    assert part.read_bytes() == b""
    assert sorted(p.name for p in part.parent.iterdir()) == [".b.part", "b"]


def test_an_upload_to_s3_goes_on_part_by_part(gate: Proxy, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(BIG)
    store = s3_store(gate.url)
    gate.fault("PUT", "partNumber=3", Refusal(403))
    with pytest.raises(Unreachable):
        store.upload("b", tmp_path / "big", len(BIG), lambda _: None)
    assert store.size("b") is None
    gate.clear()
    store.upload("b", tmp_path / "big", len(BIG), lambda _: None)
    assert [r.path.partition("partNumber=")[2] for r in gate.asked("PUT", "partNumber")] == ["3"]
    assert store.size("b") == len(BIG)
    assert store.read("b", 2 * PART - 5, 10) == BIG[2 * PART - 5 : 2 * PART + 5]


def test_a_part_of_another_content_is_sent_again(gate: Proxy, tmp_path: Path) -> None:
    store = s3_store(gate.url)
    (tmp_path / "other").write_bytes(bytes(len(BIG)))
    (tmp_path / "big").write_bytes(BIG)
    gate.fault("POST", "uploadId", Refusal(403))
    with pytest.raises(Unreachable):
        store.upload("b", tmp_path / "other", len(BIG), lambda _: None)
    gate.clear()
    store.upload("b", tmp_path / "big", len(BIG), lambda _: None)
    assert len(gate.asked("PUT", "partNumber")) == 3
    assert store.read("b", 0, 10) == BIG[:10]


def drop(answer: Answer) -> None:
    answer.cut = len(answer.body) // 2


def whole(answer: Answer) -> None:
    """As if ranges were not known: far more than was asked for."""
    answer.status, answer.body = 200, bytes(1 << 20)
    answer.headers["Content-Length"] = str(1 << 20)
    answer.headers.pop("Content-Range", None)


def short(answer: Answer) -> None:
    answer.body = answer.body[:-1]
    answer.headers["Content-Length"] = str(len(answer.body))


def crawl(answer: Answer) -> None:
    answer.pace = 2.0


NETWORK: dict[str, tuple[Fault, type[Exception]]] = {
    "dropped": (drop, Interrupted),
    "more than asked": (whole, Damaged),
    "less than asked": (short, Damaged),
    "slow": (crawl, Interrupted),
    "busy": (Refusal(503), Interrupted),
    "forbidden": (Refusal(403), Unreachable),
    "gone": (Refusal(404), Absent),
}


@pytest.mark.parametrize("case", NETWORK)
def test_a_network_at_its_worst(gate: Proxy, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once is got over, always is an error of the right kind; what lasts is not asked again."""
    monkeypatch.setattr("mergebuild.remote.store.READ_SECONDS", 0.5)
    monkeypatch.setattr("mergebuild.remote.store._PAUSE", 0.01)
    fault, kind = NETWORK[case]
    store = s3_store(gate.url)
    store.replace("x", b"0123456789" * 10)
    gate.fault("GET", "/x", fault)
    with pytest.raises(kind):
        patiently(lambda: store.read("x", 10, 50))
    lasting = kind in (Unreachable, Absent)
    assert len(gate.asked("GET", "/x")) == (1 if lasting else 4)
    if not lasting:
        gate.clear()
        gate.fault("GET", "/x", fault, times=2)
        assert patiently(lambda: store.read("x", 10, 50)) == b"0123456789" * 5


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergebuild.remote.store._PAUSE", 0.01)
    with pytest.raises(Interrupted):
        patiently(lambda: s3_store("http://127.0.0.1:9").size("x"))


URLS = [
    ("ftp://host/x", "unknown kind 'ftp://'"),
    ("s3://", "names no place"),
    ("s3://bucket/../x", "names no place"),
    ("s3://bucket/x?endpont=y", "unknown option 'endpont'"),
    ("gs://bucket?endpoint=x", "unknown option 'endpoint'"),
]


@pytest.mark.parametrize(("url", "message"), URLS)
def test_urls_that_name_no_place(url: str, message: str) -> None:
    with pytest.raises(mb.UsageError, match=message):
        open_store(url)


def test_a_client_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(mb.UsageError, match=r"install mergebuild\[s3\]"):
        open_store("s3://bucket/x")

"""A small server that speaks as much of the Hugging Face Hub as its client asks of it.

Model info by revision, resolve with ETag, commit and length, HEAD, ranges, redirects to a second
path as for large files and for renamed repositories; repositories and branches made, large files
uploaded, and commits; and everything that goes wrong: 401, 403, 404, gated, 5xx, connections that
are dropped in the middle of a file, uploads that are refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

TOKEN = "hf_right"
READER = "hf_reader"
LARGE = (".safetensors", ".bin")


@dataclass(slots=True)
class Repo:
    """Files by commit, and what branches and tags are."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, folder: Path, ref: str = "main") -> str:
        """Add what a folder holds as the newest commit of a branch."""
        files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        return self.put(files, ref)

    def put(self, files: dict[str, bytes], ref: str) -> str:
        """Add files as the newest commit of a branch."""
        digest = hashlib.sha1(repr((sorted(files.items()), ref)).encode()).hexdigest()
        self.commits[digest] = files
        self.refs[ref] = digest
        return digest


@dataclass(slots=True)
class HubServer:
    """`requests` are (method, path, range); `drops` says how many of the next transfers of a file
    end after how many bytes; `failing` is a status that everything is answered with. `large` are
    uploaded files by SHA-256, of which it `takes` so many more (None: any number)."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    drops: dict[str, list[int]] = field(default_factory=dict)
    failing: int = 0
    large: dict[str, bytes] = field(default_factory=dict)
    takes: int | None = None
    bad_card: bool = False

    def repo(self, name: str, *, private: bool = False, gated: bool = False) -> Repo:
        """The repository of this name, which begins empty."""
        return self.repos.setdefault(name, Repo(private=private, gated=gated))

    def asked(self, method: str, part: str) -> list[str]:
        """The paths of requests of a method that contain `part`."""
        return [path for kind, path, _ in self.requests if kind == method and part in path]


@contextmanager
def serving() -> Iterator[HubServer]:
    """A server on a free port of this machine."""
    hub = HubServer()

    class Handler(_Handler):
        server_hub = hub

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: HubServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server_hub
        path = unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, path, self.headers.get("Range")))
        if hub.failing:
            self._send(hub.failing)
            return
        parts = path.strip("/").split("/")
        if self.command in ("POST", "PUT"):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = self._chunked()
            from tests.hub_writes import Writing

            Writing(self, hub).answer(parts, body)
            return
        match parts:
            case ["api", "models", org, name, *rest] if rest[:1] in ([], ["revision"]):
                self._repo(f"{org}/{name}", "/".join(rest[1:]) or "main", None)
            case [org, name, "resolve", revision, *file] if file:
                self._repo(f"{org}/{name}", revision, "/".join(file))
            case ["cdn", org, name, commit, *file]:
                self._file(hub.repos[f"{org}/{name}"].commits[commit], "/".join(file), commit)
            case _:
                self._send(404)

    def _chunked(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _repo(self, name: str, revision: str, file: str | None) -> None:
        hub = self.server_hub
        if name in hub.renamed:
            self._send(307, {"Location": self.path.replace(name, hub.renamed[name])})
            return
        repo = hub.repos.get(name)
        said = self.headers.get("Authorization")
        if repo is None or (repo.private and said != f"Bearer {TOKEN}"):
            wrong = said not in (None, f"Bearer {TOKEN}", f"Bearer {READER}")
            more = (
                {"X-Error-Message": "Invalid credentials in Authorization header"} if wrong else {}
            )
            self._send(401, {"X-Error-Code": "" if wrong else "RepoNotFound", **more})
            return
        commit = repo.refs.get(revision, revision)
        files = repo.commits.get(commit)
        if files is None:
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
        elif file is None:
            self._info(name, commit, files)
        elif repo.gated and said != f"Bearer {TOKEN}":
            self._send(403, {"X-Error-Code": "GatedRepo"})
        elif file not in files:
            self._send(404, {"X-Error-Code": "EntryNotFound"})
        elif file.endswith(LARGE):
            headers = {
                "Location": f"{hub.url}/cdn/{name}/{commit}/{file}",
                "X-Linked-Etag": f'"{_tag(file, files[file])}"',
                "X-Linked-Size": str(len(files[file])),
                "X-Repo-Commit": commit,
            }
            self._send(302, headers)
        else:
            self._file(files, file, commit)

    def _info(self, name: str, commit: str, files: dict[str, bytes]) -> None:
        siblings = [
            {"rfilename": file, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
            for file, data in files.items()
        ]
        private = self.server_hub.repos[name].private
        info = {"id": name, "sha": commit, "private": private, "siblings": siblings}
        self._send(200, {"Content-Type": "application/json"}, json.dumps(info).encode())

    def _file(self, files: dict[str, bytes], file: str, commit: str) -> None:
        data = files[file]
        begin = 0
        status = 200
        more = {"ETag": f'"{_tag(file, data)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if said := self.headers.get("Range"):
            begin = int(said.removeprefix("bytes=").partition("-")[0])
            status = 206
            more["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        drops = self.server_hub.drops.get(file) if self.command == "GET" else None
        self._send(status, more, data[begin:], drops.pop(0) if drops else None)

    def _send(
        self,
        status: int,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True


def _tag(file: str, data: bytes) -> str:
    """What the client calls a file in its cache: large ones go by their SHA-256."""
    return (hashlib.sha256 if file.endswith(LARGE) else hashlib.sha1)(data).hexdigest()

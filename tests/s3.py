"""A real S3 server process on this machine, and a proxy before it that does what networks and
servers do when they are at their worst."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import urlsplit

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
}
BUCKET = "bucket"


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """moto's server as a process of its own, with one empty bucket; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (
        open(folder / "s3.log", "w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=log, stderr=log,
        ) as process,
    ):  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        try:
            _await(f"{url}/moto-api/", process)
            make = urllib.request.Request(f"{url}/{BUCKET}", method="PUT", headers=_SIGNED)
            urllib.request.urlopen(make, timeout=10).close()
            yield url
        finally:
            process.terminate()
            process.wait(10)


# Which service a request is for, the server tells by its signature's scope.
_SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=t/20260101/us-east-1/s3/aws4_request"}


def _await(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            assert process.poll() is None, "the S3 server ended"
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the S3 server did not begin to answer")


@dataclass(slots=True)
class Answer:
    """What a server said; a fault may change it before it goes on. `cut` ends the connection after
    so many bytes of the body, `pace` sends so many bytes a second."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut: int | None = None
    pace: float | None = None


Fault = Callable[[Answer], None]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The fault that a request does not come through: it is answered with a status."""

    status: int

    def __call__(self, answer: Answer) -> None:
        raise AssertionError("nothing was asked")


@dataclass(slots=True)
class Request:
    method: str
    path: str
    span: str | None
    size: int


@dataclass(slots=True)
class Proxy:
    """`faults` are (method, part of the path, how often, what happens); `requests` what went by."""

    url: str = ""
    upstream: str = ""
    faults: list[tuple[str, str, int, Fault]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def fault(self, method: str, part: str, what: Fault, times: int = 1_000_000) -> None:
        self.faults.append((method, part, times, what))

    def asked(self, method: str, part: str) -> list[Request]:
        return [r for r in self.requests if r.method == method and part in r.path]

    def clear(self) -> None:
        self.faults, self.requests = [], []

    def due(self, method: str, path: str) -> list[Fault]:
        found = []
        with self.lock:
            for index, (kind, part, times, what) in enumerate(self.faults):
                if kind == method and part in path and times:
                    self.faults[index] = kind, part, times - 1, what
                    found.append(what)
        return found


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """A proxy on a free port before a server of this machine."""
    made = Proxy(upstream=upstream)

    class Handler(_Handler):
        proxy = made

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        made.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _forward(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
        faults = self.proxy.due(self.command, self.path)
        refusals = [fault.status for fault in faults if isinstance(fault, Refusal)]
        if refusals:
            answer = Answer(refusals[0], {}, b"")
        else:
            answer = self._ask(sent, headers)
            for fault in faults:
                fault(answer)
        span = self.headers.get("Range")
        with self.proxy.lock:
            size = len(sent) or len(answer.body)
            self.proxy.requests.append(Request(self.command, self.path, span, size))
        self._say(answer)

    def _ask(self, sent: bytes, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection(urlsplit(self.proxy.upstream).netloc, timeout=30)
        try:
            connection.request(self.command, self.path, body=sent or None, headers=headers)
            said = connection.getresponse()
            kept = {k: v for k, v in said.getheaders() if k.lower() not in _HOPS}
            return Answer(said.status, kept, said.read())
        finally:
            connection.close()

    def _say(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        body = answer.body[: answer.cut]
        try:
            if answer.pace is None:
                self.wfile.write(body)
            else:
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(1 / answer.pace)
        except OSError:
            self.close_connection = True  # who asked has hung up
        if answer.cut is not None:
            self.close_connection = True

    def do_GET(self) -> None:
        self._forward()

    def do_HEAD(self) -> None:
        self._forward()

    def do_PUT(self) -> None:
        self._forward()

    def do_POST(self) -> None:
        self._forward()


_HOPS = {"connection", "transfer-encoding", "date", "server"}

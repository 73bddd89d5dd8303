"""What the test's Hub does with requests that write: repositories and branches made, large files
uploaded by SHA-256, commits that are whole or not at all, and their refusal."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol

from tests.hub_server import LARGE, TOKEN, HubServer, Repo


class Request(Protocol):
    """What is used of a request handler."""

    headers: Any

    def _send(
        self,
        status: int,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        cut: int | None = None,
    ) -> None: ...


class Writing:
    """What a request that writes comes to."""

    def __init__(self, request: Request, hub: HubServer) -> None:
        self.request = request
        self.hub = hub

    def answer(self, parts: list[str], body: bytes) -> None:
        said = self.request.headers.get("Authorization")
        match parts:
            case ["lfs", oid]:
                self._put(oid, body)
            case ["api", "validate-yaml"]:
                errors = [{"message": '"license" must be one of many'}] * self.hub.bad_card
                self._json({"errors": errors, "warnings": []}, 400 if errors else 200)
            case _ if said is None:
                self._json({"error": "Invalid username or password."}, 401)
            case _ if said != f"Bearer {TOKEN}":
                self._json({"error": "You don't have the rights"}, 403)
            case ["api", "repos", "create"]:
                self._create(json.loads(body))
            case ["api", "models", org, name, "branch", branch]:
                self._branch(self.hub.repos[f"{org}/{name}"], branch)
            case ["api", "models", org, name, "preupload", branch]:
                self._preupload(self.hub.repos[f"{org}/{name}"], branch, json.loads(body))
            case ["api", "models", org, name, "commit", branch]:
                self._commit(f"{org}/{name}", branch, body)
            case [_, _, "info", "lfs", "objects", "batch"]:
                self._batch(json.loads(body))
            case _:
                self._json({"error": "Not found"}, 404)

    def _json(self, value: object, status: int = 200) -> None:
        headers = {"Content-Type": "application/json"}
        self.request._send(status, headers, json.dumps(value).encode())

    def _create(self, said: Any) -> None:
        name = f"{said['organization']}/{said['name']}"
        if name in self.hub.repos:
            self._json({"error": "You already created this model repo"}, 409)
            return
        repo = self.hub.repo(name, private=said.get("visibility") == "private")
        repo.put({}, "main")
        self._json({"url": f"{self.hub.url}/{name}"})

    def _branch(self, repo: Repo, branch: str) -> None:
        if branch in repo.refs:
            self._json({"error": "Reference already exists"}, 409)
            return
        repo.refs[branch] = repo.refs["main"]
        self._json({})

    def _preupload(self, repo: Repo, branch: str, said: Any) -> None:
        there = repo.commits[repo.refs[branch]]
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
                **({"oid": _oid(there[file["path"]])} if file["path"] in there else {}),
            }
            for file in said["files"]
        ]
        self._json({"files": files})

    def _batch(self, said: Any) -> None:
        objects = []
        for one in said["objects"]:
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}
            lacks = one["oid"] not in self.hub.large
            objects.append({**one, **({"actions": upload} if lacks else {})})
        self._json({"transfer": "basic", "objects": objects})

    def _put(self, oid: str, body: bytes) -> None:
        if self.hub.takes == 0:
            self._json({"error": "no more"}, 403)
            return
        if self.hub.takes is not None:
            self.hub.takes -= 1
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.large[oid] = body
        self._json({})

    def _commit(self, name: str, branch: str, body: bytes) -> None:
        repo = self.hub.repos[name]
        lines = [json.loads(line) for line in body.splitlines()]
        parent = lines[0]["value"].get("parentCommit")
        if parent not in (None, repo.refs[branch]):
            self._json({"error": "A commit has happened since"}, 412)
            return
        files = dict(repo.commits[repo.refs[branch]])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            else:
                del files[value["path"]]
        oid = repo.put(files, branch)
        url = f"{self.hub.url}/{name}/commit/{oid}"
        self._json({"success": True, "commitOid": oid, "commitUrl": url})


def _oid(data: bytes) -> str:
    """What git calls a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

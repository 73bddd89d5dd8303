"""Remotes on S3 and what speaks like it: bounded reads, conditional puts, uploads that go on.

By way of s3fs, whose public `call_s3` gives what the service itself can do.
"""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from mergebuild.remote.filesystem import FileSystemStore, Occupied, status_of, translated
from mergebuild.remote.store import (
    CONNECT_SECONDS,
    READ_SECONDS,
    Absent,
    Damaged,
    Interrupted,
    Progress,
    deadline,
    patiently,
)

PART: Final = 1 << 24
"""Bytes of a file's parts but the last; files up to this are put whole."""
_MOST_PARTS: Final = 10_000
_AT_ONCE: Final = 4


class S3Store(FileSystemStore):
    """Objects are those of a bucket below a prefix."""

    def __init__(self, url: str, options: dict[str, str], root: str, part: int = PART) -> None:
        import s3fs

        client: dict[str, Any] = {}
        if "endpoint" in options:
            client["endpoint_url"] = options["endpoint"]
        if "region" in options:
            client["region_name"] = options["region"]
        fs = s3fs.S3FileSystem(
            anon=options.get("anonymous") == "true",
            client_kwargs=client,
            config_kwargs={
                "connect_timeout": CONNECT_SECONDS,
                "read_timeout": READ_SECONDS,
                "retries": {"total_max_attempts": 1},
                "max_pool_connections": 32,
                # Not every server that speaks S3 knows the newer checksums.
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            },
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        fs.retries = 1  # tried again in one place only, by `patiently`
        super().__init__(url, fs, root)
        self._part = part
        self._bucket, _, prefix = root.strip("/").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""

    def read(self, name: str, start: int, size: int) -> bytes:
        if not size:
            return b""
        data = self._get(name, size, Range=f"bytes={start}-{start + size - 1}")
        if len(data) != size:
            raise Damaged(f"'{name}': {len(data):,} bytes came instead of {size:,}")
        return data

    def read_all(self, name: str, limit: int) -> bytes:
        return self._get(name, limit)

    def _get(self, name: str, most: int, **more: Any) -> bytes:
        """What the server sends, unless it says, or sends, more than `most` bytes."""
        from fsspec.asyn import sync

        with translated(name):
            answer = self._call("get_object", name, **more)
            try:
                size = answer.get("ContentLength", most)
                if size > most:
                    raise Damaged(f"'{name}': more than {most:,} bytes were sent")
                return bytes(sync(self._fs.loop, _receive, answer["Body"], name, size))
            finally:
                answer["Body"].close()

    def size(self, name: str) -> int | None:
        try:
            with translated(name):
                found = self._call("head_object", name)
        except Absent:
            return None
        return int(found["ContentLength"])

    def create(self, name: str, data: bytes) -> bool:
        try:
            with translated(name):
                self._call("put_object", name, Body=data, IfNoneMatch="*")
        except Interrupted as error:
            if status_of(error) != 501:  # a server without conditions
                raise
            if self.size(name) is not None:
                return False
            self.replace(name, data)
        except Occupied:
            return False
        return True

    def replace(self, name: str, data: bytes) -> None:
        with translated(name):
            self._call("put_object", name, Body=data)

    def upload(self, name: str, path: Path, size: int, progress: Progress) -> None:
        if size > self._part:
            self._by_parts(name, path, size, progress)
            return
        self.replace(name, path.read_bytes())
        progress(size)

    def _by_parts(self, name: str, path: Path, size: int, progress: Progress) -> None:
        """A multipart upload; one that was broken off is gone on with, part by part."""
        step = max(self._part, -(-size // _MOST_PARTS))
        with translated(name):
            upload, there = self._begun(name)

        def put(number: int) -> dict[str, Any]:
            with open(path, "rb") as file:
                file.seek((number - 1) * step)
                data = file.read(step)
            tag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
            if there.get(number) != tag:

                def send() -> str:
                    with translated(name):
                        answer = self._call(
                            "upload_part", name, UploadId=upload, PartNumber=number, Body=data
                        )
                    return str(answer["ETag"])

                tag = patiently(send)
            progress(len(data))
            return {"PartNumber": number, "ETag": tag}

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            parts = list(pool.map(put, range(1, -(-size // step) + 1)))
        try:
            with translated(name):
                self._call(
                    "complete_multipart_upload", name,
                    UploadId=upload, MultipartUpload={"Parts": parts},
                )  # fmt: skip
        except Absent:
            if self.size(name) != size:  # another one completed the same upload
                raise

    def _begun(self, name: str) -> tuple[str, dict[int, str]]:
        """An upload of this object, an earlier one if there is any, and its parts' tags."""
        key = self._key(name)
        found = self._fs.call_s3("list_multipart_uploads", Bucket=self._bucket, Prefix=key)
        for upload in found.get("Uploads", ()):
            if upload["Key"] == key:
                return upload["UploadId"], self._parts(name, upload["UploadId"])
        return self._call("create_multipart_upload", name)["UploadId"], {}

    def _parts(self, name: str, upload: str) -> dict[int, str]:
        there: dict[int, str] = {}
        after = 0
        while True:
            page = self._call("list_parts", name, UploadId=upload, PartNumberMarker=after)
            there.update((part["PartNumber"], part["ETag"]) for part in page.get("Parts", ()))
            if not page.get("IsTruncated") or len(there) > _MOST_PARTS:
                return there
            after = page["NextPartNumberMarker"]

    def _call(self, method: str, name: str, **more: Any) -> Any:
        return self._fs.call_s3(method, Bucket=self._bucket, Key=self._key(name), **more)

    def _key(self, name: str) -> str:
        return self._prefix + name


async def _receive(body: Any, name: str, most: int) -> bytearray:
    """A body, read piece by piece; not more of it than `most`, nor longer than is right."""
    data = bytearray()
    async with asyncio.timeout(deadline(most)):
        while piece := await body.read(1 << 20):
            data += piece
            if len(data) > most:
                raise Damaged(f"'{name}': more than {most:,} bytes were sent")
    return data

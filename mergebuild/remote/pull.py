"""Taking a whole checkpoint from a remote into the cache.

It is staged and published like one that is built: every tensor and file is compared with its
SHA-256 while it comes and with the digests of the manifest, headers and index are not taken over
but made anew, and the manifest must say what the claim says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event, Lock
from typing import Final

from mergebuild.cache import Cache, Manifest, to_text
from mergebuild.cache.content import tensor_content
from mergebuild.cache.journal import Finished
from mergebuild.cache.lease import Lease
from mergebuild.cache.manifest import from_text
from mergebuild.cache.staging import Staging
from mergebuild.checkpoint.reader import Reader
from mergebuild.digest import ContentDigest, bytes_digest
from mergebuild.errors import CapacityError, CheckpointError
from mergebuild.events import Shared, Sink, Transferred, Transferring, Warned
from mergebuild.expression import tensor_key
from mergebuild.files import free_bytes, write_all
from mergebuild.remote.claim import Blob, Claim, agrees, planned
from mergebuild.remote.fetch import Downloads, twice
from mergebuild.remote.remotes import Remotes
from mergebuild.remote.store import Damaged, RemoteError, Store, patiently
from mergebuild.site import Remote

_TENSORS_AT_ONCE: Final = 8


def pull(cache: Cache, key: str, remotes: Remotes, *, run: str, sink: Sink) -> Shared:
    """Bring a checkpoint into the cache from the first remote that has it whole.

    Raises CapacityError if there is no room for it, OSError if the cache cannot be written.
    """
    former = cache.lookup(key)
    if former is not None:
        outcome = Shared("pull", "", key, former.node, "already there", 0, 0)
        sink(outcome)
        return outcome
    outcome = Shared("pull", "", key, "", "failed", 0, 0)
    for remote, claim in remotes.claims(key):
        try:
            files = len(claim.blobs())
            _fetch(cache, remote, claim, remotes.store(remote.name), run, sink)
        except RemoteError as error:
            sink(Warned(f"warning: remote '{remote.name}': checkpoint {key}: {error}"))
            continue
        outcome = Shared("pull", remote.name, key, claim.node, "done", files, claim.size)
        break
    sink(outcome)
    return outcome


def _fetch(cache: Cache, remote: Remote, claim: Claim, store: Store, run: str, sink: Sink) -> None:
    free = free_bytes(cache.root)
    if claim.size > free:
        raise CapacityError.of(
            f"checkpoint {claim.key} has {claim.size:,} bytes, and {free:,} are free in "
            f"'{cache.root}'",
            hint="free some space, or put the cache elsewhere with --cache",
        )
    sink(Transferring("pull", remote.name, claim.key, claim.node, len(claim.blobs()), claim.size))
    with Lease(cache, run) as lease:
        lease.take([claim.key], [])
        manifest = _manifest(store, claim)
        files = {name: _file(store, name, blob, d) for name, (blob, d) in claim.files.items()}
        staging = Staging(cache, claim.key, claim.node, planned(claim), run)
        try:
            staging.allocate({})
            _Tensors(staging, claim, store, sink).run()
            for name, data in files.items():
                staging.write(name, data)
            staging.publish(to_text(_dated(manifest, staging.seal())))
        finally:
            staging.close()


class _Tensors:
    """Downloads of one checkpoint's tensors, each to its place."""

    def __init__(self, staging: Staging, claim: Claim, store: Store, sink: Sink) -> None:
        self._staging = staging
        self._claim = claim
        self._store = store
        self._sink = sink
        self._lock = Lock()
        self._stop = Event()

    def run(self) -> None:
        """Download all but what an earlier try had finished. Raises RemoteError."""
        with (
            Downloads(self._store.parallel) as self._downloads,
            ThreadPoolExecutor(_TENSORS_AT_ONCE) as pool,
        ):
            futures = [pool.submit(self._tensor, name) for name in self._claim.tensors]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _tensor(self, name: str) -> None:
        tensor = self._claim.tensors[name]
        if self._kept(name):
            self._tell(tensor.size)
            return
        descriptor, region = self._staging.place(name)

        def fetch() -> None:
            content = ContentDigest(tensor.dtype, tensor.shape)
            told = 0

            def write(at: int, piece: memoryview) -> None:
                nonlocal told
                if self._stop.is_set():
                    raise KeyboardInterrupt
                write_all(descriptor, piece, region.offset + at)
                content.update(piece)
                told += len(piece)
                self._tell(len(piece))

            try:
                self._downloads.fetch(
                    self._store, self._claim.shards[tensor.shard], tensor.offset, tensor.size,
                    tensor.sha256, write,
                )  # fmt: skip
                if content.hexdigest() != tensor.digest:
                    raise Damaged(f"tensor '{name}' is not what the manifest says")
            except RemoteError:
                self._tell(-told)
                raise

        twice(fetch)
        self._staging.finish(name, Finished(tensor.digest, tensor.key))

    def _kept(self, name: str) -> bool:
        """Whether an earlier try had this tensor, and it is what it has to be."""
        tensor = self._claim.tensors[name]
        if self._staging.journaled.get(name) != Finished(tensor.digest, tensor.key):
            return False
        descriptor, region = self._staging.place(name)
        reader = Reader(descriptor, region.path, region.offset, tensor.dtype, tensor.shape, name)
        try:
            return tensor_content(reader) == tensor.digest
        except CheckpointError:
            return False

    def _tell(self, count: int) -> None:
        with self._lock:
            self._sink(Transferred(count))


def _file(store: Store, name: str, blob: Blob, digest: str) -> bytes:
    data = _whole(store, blob)
    if bytes_digest(data) != digest:
        raise Damaged(f"'{name}' is not what the manifest says")
    return data


def _whole(store: Store, blob: Blob) -> bytes:
    def read() -> bytes:
        data = store.read_all(blob.name, blob.size)
        if hashlib.sha256(data).hexdigest() != blob.sha256:
            raise Damaged(f"'{blob.name}' is not what it is said to be")
        return data

    return patiently(read)


def _manifest(store: Store, claim: Claim) -> Manifest:
    """The checkpoint's manifest, held against the claim."""
    try:
        manifest = from_text(_whole(store, claim.manifest))
    except ValueError as error:
        raise Damaged(f"the manifest is damaged: {error}") from error
    if not agrees(claim, manifest):
        raise Damaged("the manifest does not say what the claim says")
    for name, record in manifest.tensors.items():
        if tensor_key(record.expression) != record.key:
            raise Damaged(f"the key of tensor '{name}' does not follow from how it was made")
    return manifest


def _dated(manifest: Manifest, mtimes: Mapping[str, int]) -> Manifest:
    """The manifest with the times of change that the files have here."""
    return replace(
        manifest,
        shards={name: replace(r, mtime=mtimes[name]) for name, r in manifest.shards.items()},
        files={name: replace(r, mtime=mtimes[name]) for name, r in manifest.files.items()},
    )

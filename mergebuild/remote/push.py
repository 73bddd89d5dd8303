"""Putting checkpoints of the cache on a remote: files by their SHA-256, the claim last.

What is there is not sent again. A claim that is there is not replaced: the first wins, and who
signs puts a claim of their own beside one that they did not sign.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Final, Literal

from mergebuild.cache import MANIFEST, Cache, Unsound
from mergebuild.errors import CheckpointError
from mergebuild.events import (
    Digested,
    Event,
    Shared,
    Sink,
    Transferred,
    Transferring,
    Verified,
    Verifying,
    Warned,
)
from mergebuild.remote.claim import LARGEST, Blob, Claim, read_claim, to_text
from mergebuild.remote.inventory import take_inventory
from mergebuild.remote.remotes import claim_name, kin_name, kin_text, read_kin
from mergebuild.remote.signature import Signer
from mergebuild.remote.store import Absent, RemoteError, Store, patiently
from mergebuild.site import Remote

_FILES_AT_ONCE: Final = 4
_BLOCK: Final = 1 << 22
_KIN_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Pushing:
    """How to push. `repair` reads what is there already, and replaces what is damaged of it."""

    signer: Signer | None = None
    repair: bool = False
    jobs: int = 1


@dataclass(frozen=True, slots=True)
class _Target:
    """A claim and where it is to be put, nowhere if it is there; over another with `replace`."""

    name: str | None
    claim: Claim
    replace: bool = False


class Push:
    """Pushes from a cache to one remote. Never raises for what a remote does: it warns."""

    def __init__(
        self, cache: Cache, remote: Remote, store: Store, how: Pushing, sink: Sink
    ) -> None:
        self._cache = cache
        self._remote = remote
        self._store = store
        self._how = how
        self._sink = sink
        self._lock = Lock()

    def checkpoint(self, key: str) -> Shared:
        """Push one checkpoint of the cache; what became of it."""
        node, files, size = "", 0, 0
        how: Literal["done", "already there", "failed"]
        try:
            manifest = self._cache.lookup(key)
            if manifest is None:
                raise Unsound(key, "it is not there, or not whole")
            node = manifest.node
            self._tell(Verifying(f"{node} ({key})", manifest.size))
            mine, text = take_inventory(
                self._cache, key, jobs=self._how.jobs, progress=lambda n: self._tell(Digested(n))
            )
            self._tell(Verified(f"{node} ({key})", ()))
            target = self._target(mine)
            lacking = self._lacking(target.claim)
            if any(mine.blobs().get(name) != blob for name, blob in lacking.items()):
                if not self._how.repair:
                    raise RemoteError(
                        "what another build put there has lost files; --repair replaces it"
                    )
                target = _Target(claim_name(key), mine, replace=True)
                lacking = self._lacking(mine)
            files, size = len(lacking), sum(blob.size for blob in lacking.values())
            self._send(key, node, lacking, text)
            self._remember(target.claim)
            self._put(target)
            how = "done" if lacking or target.name is not None else "already there"
        except (RemoteError, CheckpointError, Unsound, OSError) as error:
            said = error.problems[0].message if isinstance(error, Unsound) else error
            self._warn(f"{node or key} was not pushed: {said}")
            how = "failed"
        outcome = Shared("push", self._remote.name, key, node, how, files, size)
        self._tell(outcome)
        return outcome

    def _target(self, mine: Claim) -> _Target:
        """What claim is to be there, and where it is to be put. Raises RemoteError if it cannot."""
        common = claim_name(mine.key)
        signer = self._how.signer
        own = claim_name(mine.key, signer.public) if signer is not None else None
        try:
            there, signatures = self._read(common, mine.key)
        except Absent:
            return _Target(common, mine)
        except ValueError as error:
            if self._how.repair:
                return _Target(common, mine, replace=True)
            self._warn(f"the claim about checkpoint {mine.key} is damaged: {error}; see --repair")
            if own is None:
                raise RemoteError("the claim that is there is damaged") from error
            return _Target(own, mine, replace=True)
        if not there.same_content(mine):
            self._warn(
                f"checkpoint {mine.key} is there with another content, which stays: "
                "either it was tampered with, or one of the two builds was"
            )
            if own is None:
                raise RemoteError("another content is there under its key")
            return _Target(own, mine, replace=True)
        if own is None or self._signed(there, signatures):
            return _Target(None, there)
        try:
            beside, signatures = self._read(own, mine.key)
        except (Absent, ValueError):
            return _Target(own, mine, replace=True)
        if beside.same_content(mine) and self._signed(beside, signatures):
            return _Target(None, beside)
        return _Target(own, mine, replace=True)

    def _signed(self, claim: Claim, signatures: dict[str, str]) -> bool:
        """Whether one's own right signature is on a claim."""
        signer = self._how.signer
        assert signer is not None
        said = signatures.get(signer.public.text)
        return said is not None and signer.public.verifies(said, claim.message())

    def _lacking(self, claim: Claim) -> dict[str, Blob]:
        """Files whose content the remote does not hold, each content once."""
        distinct = {blob.sha256: (name, blob) for name, blob in claim.blobs().items()}
        with ThreadPoolExecutor(self._store.parallel) as pool:
            there = pool.map(self._there, [blob for _, blob in distinct.values()])
            pairs = zip(distinct.values(), there, strict=True)
            return {name: blob for (name, blob), found in pairs if not found}

    def _there(self, blob: Blob) -> bool:
        if patiently(lambda: self._store.size(blob.name)) != blob.size:
            return False
        return not self._how.repair or self._sound(blob)

    def _sound(self, blob: Blob) -> bool:
        digest = hashlib.sha256()
        for at in range(0, blob.size, _BLOCK):
            size = min(_BLOCK, blob.size - at)
            digest.update(patiently(partial(self._store.read, blob.name, at, size)))
        return digest.hexdigest() == blob.sha256

    def _send(self, key: str, node: str, lacking: dict[str, Blob], text: bytes) -> None:
        size = sum(blob.size for blob in lacking.values())
        if lacking:
            self._tell(Transferring("push", self._remote.name, key, node, len(lacking), size))
        with ThreadPoolExecutor(min(_FILES_AT_ONCE, self._store.parallel)) as pool:
            sent = [pool.submit(self._file, key, n, blob, text) for n, blob in lacking.items()]
            try:
                for future in sent:
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _file(self, key: str, name: str, blob: Blob, manifest: bytes) -> None:
        told = 0

        def progress(count: int) -> None:
            nonlocal told
            told += count
            self._tell(Transferred(count))

        def send() -> None:
            nonlocal told
            if told:
                self._tell(Transferred(-told))
                told = 0
            if name == MANIFEST:
                self._store.replace(blob.name, manifest)
                progress(blob.size)
            else:
                self._store.upload(blob.name, self._path(key, name), blob.size, progress)

        patiently(send)

    def _path(self, key: str, name: str) -> Path:
        return self._cache.folder(key) / name

    def _remember(self, claim: Claim) -> None:
        """Add a checkpoint to its kin: a hint that a rival may overwrite, so it is read again."""
        name = kin_name(claim.outline())
        for _ in range(_KIN_TRIES):
            try:
                kin = read_kin(patiently(lambda: self._store.read_all(name, LARGEST)))
            except (Absent, ValueError):
                kin = {}
            if claim.key in kin:
                return
            self._store_replace(name, kin_text({claim.key: claim.node, **kin}))

    def _put(self, target: _Target) -> None:
        """Make the checkpoint be there, last of all. Raises RemoteError if a rival put another
        content meanwhile."""
        name, text = target.name, self._text(target.claim)
        if name is None:
            return
        if target.replace:
            self._store_replace(name, text)
        elif not patiently(lambda: self._store.create(name, text)):
            self._put(self._target(target.claim))

    def _text(self, claim: Claim) -> bytes:
        signer = self._how.signer
        signed = {signer.public.text: signer.sign(claim.message())} if signer is not None else {}
        return to_text(claim, signed)

    def _read(self, name: str, key: str) -> tuple[Claim, dict[str, str]]:
        return read_claim(patiently(lambda: self._store.read_all(name, LARGEST)), key)

    def _store_replace(self, name: str, data: bytes) -> None:
        patiently(lambda: self._store.replace(name, data))

    def _warn(self, text: str) -> None:
        self._tell(Warned(f"warning: remote '{self._remote.name}': {text}"))

    def _tell(self, event: Event) -> None:
        with self._lock:
            self._sink(event)


def push(
    cache: Cache, keys: list[str], remote: Remote, store: Store, how: Pushing, sink: Sink
) -> list[Shared]:
    """Push checkpoints one after another; what became of each."""
    work = Push(cache, remote, store, how, sink)
    return [work.checkpoint(key) for key in keys]

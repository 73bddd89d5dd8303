"""The remotes of a run, in order: what they hold of what is wanted, as far as it may be believed.

Whatever is missing, damaged, unsigned where it must be signed, or on a remote that does not answer,
is not there: a warning says so, and the build does without. Downloads no tensors. What asking takes
is imported when there is somebody to ask.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Final

from mergebuild.checkpoint.regular import parse_object
from mergebuild.errors import CheckpointError, UsageError
from mergebuild.events import Sink, Warned, silent
from mergebuild.remote.store import Absent, RemoteError, Store, Unreachable, patiently
from mergebuild.site import Remote

if TYPE_CHECKING:
    from mergebuild.remote.claim import Blob, Claim
    from mergebuild.remote.signature import PublicKey

RANGE: Final = 1 << 22
AHEAD: Final = 4
"""Bytes that are asked for at a time, and how many such ranges of one tensor or file."""
KIN_MOST: Final = 64
"""Checkpoints that a remote remembers of each outline."""
_KIN_ASKED: Final = 16
_KIN_LARGEST: Final = 1 << 16
_DAMAGED_MOST: Final = 5


@dataclass(frozen=True, slots=True)
class RemoteTensor:
    """Where on a remote a tensor lies: `offset` and `size` in bytes within `blob`, of the file of
    a `checkpoint`; `digest` of its content as manifests have it, `sha256` of its bytes."""

    remote: str
    checkpoint: str
    blob: Blob
    offset: int
    size: int
    digest: str
    sha256: str


class Remotes:
    """Remotes in the order in which they are asked. What was once given up stays so."""

    def __init__(self, remotes: Sequence[Remote] = (), sink: Sink = silent) -> None:
        self._remotes = {remote.name: remote for remote in remotes}
        if len(self._remotes) < len(remotes):
            raise UsageError.of("two remotes have one name")
        if remotes:
            from mergebuild.remote.places import check_url

            for remote in remotes:
                check_url(remote.url)
        self._sink = sink
        self._lock = Lock()
        self._stores: dict[str, Store] = {}
        self._trusted: dict[str, PublicKey] | None = None
        self._claims: dict[tuple[str, str], Claim | None] = {}
        self._silent: set[str] = set()
        self._missed: set[tuple[str, str]] = set()
        self._damage: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Remote]:
        return iter(self._remotes.values())

    def store(self, name: str) -> Store:
        """The store of the remote called so. Raises UsageError."""
        from mergebuild.remote.places import open_store

        with self._lock:
            if name not in self._stores:
                self._stores[name] = open_store(self._remotes[name].url)
            return self._stores[name]

    def claims(self, key: str) -> Iterator[tuple[Remote, Claim]]:
        """What remotes hold of a checkpoint, in order."""
        for remote in self:
            claim = self.claim(remote, key)
            if claim is not None:
                yield remote, claim

    def tensors(
        self, key: str, node: str, outline: str, wanted: Mapping[str, str]
    ) -> dict[str, RemoteTensor]:
        """Where tensors, by name with their keys, can be fetched from.

        First from the checkpoint `key` itself, then from its kin: checkpoints of the same
        `outline` that a remote remembers, those of a node of this name first.
        """
        found: dict[str, RemoteTensor] = {}
        for remote in self:
            self._find(remote, key, wanted, found)
        for remote in self:
            if len(found) < len(wanted):
                for kin in self._kin(remote, node, outline):
                    self._find(remote, kin, wanted, found)
        return found

    def give_up(self, tensor: RemoteTensor, why: RemoteError) -> None:
        """Do without what could not be had, be it a tensor or, if that is gone, its whole file;
        without a remote that does not answer, or of which much is damaged."""
        remote = self._remotes[tensor.remote]
        if isinstance(why, Unreachable):
            self._fall_silent(remote, why)
            return
        lost = tensor.blob.sha256 if isinstance(why, Absent) else tensor.sha256
        self._missed.add((remote.name, lost))
        self._warn(f"remote '{remote.name}': checkpoint {tensor.checkpoint}: {why}")
        self._damage[remote.name] += 1
        if self._damage[remote.name] >= _DAMAGED_MOST:
            self._fall_silent(remote, RemoteError("much of what it holds is damaged"))

    def _find(
        self,
        remote: Remote,
        key: str,
        wanted: Mapping[str, str],
        found: dict[str, RemoteTensor],
    ) -> None:
        if len(found) == len(wanted):
            return
        claim = self.claim(remote, key)
        if claim is None:
            return
        held = {tensor.key: tensor for tensor in claim.tensors.values()}
        for name, content in wanted.items():
            there = held.get(content)
            if name in found or there is None:
                continue
            blob = claim.shards[there.shard]
            if not {(remote.name, there.sha256), (remote.name, blob.sha256)} & self._missed:
                found[name] = RemoteTensor(
                    remote.name, key, blob, there.offset, there.size, there.digest, there.sha256
                )

    def claim(self, remote: Remote, key: str) -> Claim | None:
        """What a remote says of a checkpoint, if it may be believed."""
        if remote.name in self._silent:
            return None
        if (remote.name, key) not in self._claims:
            self._claims[remote.name, key] = self._ask(remote, key)
        return self._claims[remote.name, key]

    def _ask(self, remote: Remote, key: str) -> Claim | None:
        """The first claim to be believed: the common one, then those of trusted keys."""
        from mergebuild.remote.claim import LARGEST, read_claim

        others = [claim_name(key, trusted) for trusted in self._keys().values()]
        complaint = ""
        for name in (claim_name(key), *others):
            try:
                data = self._read(remote, name, LARGEST)
                claim, signatures = read_claim(data, key)
            except Absent:
                if name == claim_name(key):
                    return None
                continue
            except Unreachable as error:
                self._fall_silent(remote, error)
                return None
            except (RemoteError, ValueError) as error:
                complaint = complaint or f"the claim about checkpoint {key} is damaged: {error}"
                continue
            if not (refusal := self._refusal(remote, claim, signatures)):
                return claim
            complaint = complaint or refusal
        self._warn(f"remote '{remote.name}': {complaint}; it is not used")
        return None

    def _refusal(self, remote: Remote, claim: Claim, signatures: Mapping[str, str]) -> str:
        """Why a claim may not be believed; nothing if it may."""
        trusted = self._keys()
        signers = [trusted[text] for text in sorted(signatures.keys() & trusted.keys())]
        message = claim.message() if signers else b""
        for signer in signers:
            if not signer.verifies(signatures[signer.text], message):
                return f"the signature of '{signer.name}' on checkpoint {claim.key} is wrong"
        if remote.require_signatures and not signers:
            how = "only by keys that are not trusted" if signatures else "by no one"
            return f"checkpoint {claim.key} is signed {how}"
        return ""

    def _kin(self, remote: Remote, node: str, outline: str) -> list[str]:
        """Some keys of checkpoints of an outline that the remote remembers, best first."""
        if remote.name in self._silent:
            return []
        try:
            kin = read_kin(self._read(remote, kin_name(outline), _KIN_LARGEST))
        except Unreachable as error:
            self._fall_silent(remote, error)
            return []
        except (RemoteError, ValueError):
            return []  # a hint that is of no use
        ordered = sorted(kin.items(), key=lambda item: item[1] != node)
        return [key for key, _ in ordered[:_KIN_ASKED]]

    def _read(self, remote: Remote, name: str, limit: int) -> bytes:
        store = self.store(remote.name)
        return patiently(lambda: store.read_all(name, limit))

    def _keys(self) -> Mapping[str, PublicKey]:
        if self._trusted is None:
            from mergebuild.remote.keyring import trusted_keys

            self._trusted = trusted_keys()
            if not self._trusted:
                for remote in self:
                    if remote.require_signatures:
                        self._warn(
                            f"remote '{remote.name}' has to be signed, and no key is trusted: "
                            "nothing of it is used ('mergebuild keys trust' adds one)"
                        )
        return self._trusted

    def _fall_silent(self, remote: Remote, why: RemoteError) -> None:
        if remote.name not in self._silent:
            self._silent.add(remote.name)
            self._warn(f"remote '{remote.name}' is not used in this run: {why}")

    def _warn(self, text: str) -> None:
        self._sink(Warned(f"warning: {text}"))


def claim_name(key: str, signer: PublicKey | None = None) -> str:
    """Where a remote holds the claim about a checkpoint: the common one, or one that a signer put
    beside it."""
    return f"checkpoints/{key}.{signer.fingerprint}.json" if signer else f"checkpoints/{key}.json"


def kin_name(outline: str) -> str:
    """Where a remote remembers the checkpoints of an outline."""
    return f"kin/{outline}.json"


def kin_text(kin: Mapping[str, str]) -> bytes:
    """Checkpoint keys with their nodes' names, newest first, as a remote holds them."""
    listed = list(kin.items())[:KIN_MOST]
    return json.dumps({"mergebuild": 1, "checkpoints": listed}).encode() + b"\n"


def read_kin(data: bytes) -> dict[str, str]:
    """The same from untrusted text. Raises ValueError."""
    from mergebuild.remote.claim import is_key

    try:
        rows = parse_object(data, "kin")["checkpoints"]
        return {str(row[0]): str(row[1]) for row in rows[:KIN_MOST] if is_key(row[0])}
    except (CheckpointError, TypeError, KeyError, IndexError) as error:
        raise ValueError(str(error)) from error

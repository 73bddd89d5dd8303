"""The claim "this checkpoint key has this content", as remotes hold it beside the content.

    {"mergebuild": 1, "claim": {key, node, manifest, files, shards, tensors}, "signatures": {…}}

A claim is checked in every respect when it is read: that its key follows from what it lists, that
every shard is laid out as a build would, that names stay in their folder. What is left to believe
is that a tensor of this key has these bytes, which is what a signature vouches for.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mergebuild.cache import MANIFEST, Manifest, checkpoint_digest
from mergebuild.cache.content import PAPERS
from mergebuild.cache.manifest import inside_name
from mergebuild.cache.records import plain_name
from mergebuild.checkpoint.regular import parse_object
from mergebuild.checkpoint.safetensors import ShardPlan, index_name, index_text, single_shard
from mergebuild.digest import bytes_digest, encode, fields_digest
from mergebuild.errors import CheckpointError

SCHEMA: Final = 1
LARGEST: Final = 1 << 26
MANIFEST_LARGEST: Final = 1 << 28
_MOST_FILES: Final = 10_000
_INDEX: Final = ".safetensors.index.json"
_MOST_EXTENTS: Final = 16
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_KEY: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Blob:
    """A file's content: `size` in bytes, and its SHA-256."""

    size: int
    sha256: str

    @property
    def name(self) -> str:
        """Where a remote holds it."""
        return f"blobs/{self.sha256}"


@dataclass(frozen=True, slots=True)
class ClaimedTensor:
    """A tensor: `offset` and `size` in bytes within `shard`, `digest` of its content as manifests
    have it, `sha256` of its bytes."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    shard: str
    offset: int
    size: int
    digest: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What a checkpoint holds. `files` are those besides the weights, with their content digests;
    `manifest` is its mergebuild.json, without the times of change."""

    key: str
    node: str
    manifest: Blob
    files: Mapping[str, tuple[Blob, str]]
    shards: Mapping[str, Blob]
    tensors: Mapping[str, ClaimedTensor]

    def blobs(self) -> dict[str, Blob]:
        """Every file of the checkpoint."""
        files = {name: blob for name, (blob, _) in self.files.items()}
        return {**self.shards, **files, MANIFEST: self.manifest}

    @property
    def size(self) -> int:
        return sum(blob.size for blob in self.blobs().values())

    def message(self) -> bytes:
        """What is signed: the key, and a SHA-256 over all that the claim says, in an encoding
        that no other claim shares."""
        content = hashlib.sha256(encode("remote claim", _fields(self))).hexdigest()
        return encode("remote signature", [("key", self.key), ("claim", content)])

    def same_content(self, other: Claim) -> bool:
        """Whether both say the same of every tensor and side file, whoever built them, and into
        shards of whatever size."""
        return self._content() == other._content()

    def _content(self) -> tuple[str, dict[str, Any], dict[str, Any]]:
        index = index_of(self)
        files = {name: file for name, file in self.files.items() if name != index}
        tensors = {n: (t.key, t.dtype, t.shape, t.sha256) for n, t in self.tensors.items()}
        return self.key, files, tensors

    def outline(self) -> str:
        """The digest of names, dtypes and shapes."""
        return outline_digest((n, t.dtype, t.shape) for n, t in self.tensors.items())


def outline_digest(tensors: Any) -> str:
    """The digest of (name, dtype, shape) of a model's tensors: what its kin have in common."""
    return fields_digest("kin", ((name, (dtype, *shape)) for name, dtype, shape in sorted(tensors)))


def to_text(claim: Claim, signatures: Mapping[str, str]) -> bytes:
    """A claim with the signatures over it, by public key, both in base64."""
    document = {
        "mergebuild": SCHEMA,
        "claim": {
            "key": claim.key,
            "node": claim.node,
            "manifest": [claim.manifest.size, claim.manifest.sha256],
            "files": {n: [b.size, b.sha256, d] for n, (b, d) in sorted(claim.files.items())},
            "shards": {n: [b.size, b.sha256] for n, b in sorted(claim.shards.items())},
            "tensors": {
                n: [t.key, t.dtype, t.shape, t.shard, t.offset, t.size, t.digest, t.sha256]
                for n, t in sorted(claim.tensors.items())
            },
        },
        "signatures": dict(sorted(signatures.items())),
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def read_claim(data: bytes, key: str) -> tuple[Claim, dict[str, str]]:
    """The claim about `key` in untrusted text, and the signatures that come with it.

    Raises ValueError that says what is wrong.
    """
    try:
        document = parse_object(data, "the claim")
        if document["mergebuild"] != SCHEMA:
            raise ValueError(f"its schema {document['mergebuild']!r} is not {SCHEMA}")
        claim = _claim(document["claim"])
        signatures = {str(who): str(said) for who, said in document["signatures"].items()}
        if claim.key != key:
            raise ValueError(f"it is about '{claim.key}'")
        _check(claim)
    except CheckpointError as error:
        raise ValueError(error.problems[0].message) from error
    except (TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError(f"it is not of the form of a claim ({error!r})") from error
    return claim, signatures


def planned(claim: Claim) -> tuple[ShardPlan, ...]:
    """Every shard as a build lays it out, from the tensors that the claim puts there."""
    held: dict[str, list[tuple[str, str, tuple[int, ...]]]] = {name: [] for name in claim.shards}
    for name, tensor in claim.tensors.items():
        held[tensor.shard].append((name, tensor.dtype, tensor.shape))
    return tuple(single_shard(held[name], name) for name in sorted(held))


def index_of(claim: Claim) -> str | None:
    """What the index of a claim's shards is called; None for a single one, which has none."""
    return index_name(planned(claim)) if len(claim.shards) > 1 else None


def agrees(claim: Claim, manifest: Manifest) -> bool:
    """Whether a manifest says of every tensor and file what the claim says."""
    tensors = {
        n: (r.key, r.dtype, r.shape, r.shard, r.offset, r.size, r.digest)
        for n, r in manifest.tensors.items()
    }
    return (
        manifest.key == claim.key
        and {n: r.size for n, r in manifest.shards.items()}
        == {n: b.size for n, b in claim.shards.items()}
        and {n: (r.size, r.digest) for n, r in manifest.files.items()}
        == {n: (b.size, d) for n, (b, d) in claim.files.items()}
        and tensors
        == {
            n: (t.key, t.dtype, t.shape, t.shard, t.offset, t.size, t.digest)
            for n, t in claim.tensors.items()
        }
    )


def is_key(text: object) -> bool:
    return isinstance(text, str) and bool(_KEY.fullmatch(text))


def _fields(claim: Claim) -> list[tuple[str, Any]]:
    return [
        ("key", claim.key),
        ("node", claim.node),
        ("manifest", (claim.manifest.size, claim.manifest.sha256)),
        *(
            (f"file {name}", (blob.size, blob.sha256, digest))
            for name, (blob, digest) in sorted(claim.files.items())
        ),
        *((f"shard {name}", (b.size, b.sha256)) for name, b in sorted(claim.shards.items())),
        *(
            (
                f"tensor {n}",
                (t.key, t.dtype, t.shape, t.shard, t.offset, t.size, t.digest, t.sha256),
            )
            for n, t in sorted(claim.tensors.items())
        ),
    ]


def _claim(data: Mapping[str, Any]) -> Claim:
    return Claim(
        key=_text(data["key"]),
        node=_text(data["node"]),
        manifest=_blob(data["manifest"]),
        files={_visible(inside_name(n)): (_blob(f), _text(f[2])) for n, f in data["files"].items()},
        shards={_visible(plain_name(n)): _blob(s) for n, s in data["shards"].items()},
        tensors={
            name: ClaimedTensor(
                key=_text(row[0]),
                dtype=_text(row[1]),
                shape=_shape(row[2]),
                shard=_text(row[3]),
                offset=_count(row[4]),
                size=_count(row[5]),
                digest=_text(row[6]),
                sha256=_sha256(row[7]),
            )
            for name, row in data["tensors"].items()
        },
    )


def _check(claim: Claim) -> None:
    """Raises ValueError for a claim that contradicts itself."""
    names = [*claim.shards, *claim.files]
    if len({name.lower() for name in (*names, MANIFEST, *PAPERS)}) < len(names) + 1 + len(PAPERS):
        raise ValueError("two of its files have one name")
    if inner := {p for n in claim.files for p in _parents(n)} & set(names):
        raise ValueError(f"'{min(inner)}' is a file and a folder")
    if len(names) > _MOST_FILES:
        raise ValueError(f"it lists more than {_MOST_FILES:,} files")
    if claim.manifest.size > MANIFEST_LARGEST:
        raise ValueError("its manifest is too large")
    if stray := {t.shard for t in claim.tensors.values()} - claim.shards.keys():
        raise ValueError(f"tensors are in '{min(stray)}', which it does not list")
    for shard in planned(claim):
        if shard.size != claim.shards[shard.name].size:
            raise ValueError(f"'{shard.name}' has another size than its tensors")
        for name, offset in shard.offsets.items():
            tensor = claim.tensors[name]
            if (offset, shard.sizes[name]) != (tensor.offset, tensor.size):
                raise ValueError(f"tensor '{name}' is at another place than it can be")
    _check_index(claim)
    index = index_of(claim)
    files = {name: digest for name, (_, digest) in claim.files.items() if name != index}
    keys = {name: tensor.key for name, tensor in claim.tensors.items()}
    if checkpoint_digest(keys, files) != claim.key:
        raise ValueError("its key does not follow from what it lists")


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _check_index(claim: Claim) -> None:
    name = index_of(claim)
    for other in claim.files:
        if other != name and other.endswith((".safetensors", _INDEX)):
            raise ValueError(f"'{other}' is listed as what it is not")
    if name is not None:
        text = index_text(planned(claim))
        right = Blob(len(text), hashlib.sha256(text).hexdigest()), bytes_digest(text)
        if claim.files.get(name) != right:
            raise ValueError(f"'{name}' has another content than it can have")


def _blob(data: Any) -> Blob:
    return Blob(_count(data[0]), _sha256(data[1]))


def _text(text: Any) -> str:
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is not a text")
    return text


def _sha256(text: Any) -> str:
    if not _SHA256.fullmatch(_text(text)):
        raise ValueError(f"{text!r} is no SHA-256")
    return str(text)


def _count(number: Any) -> int:
    if type(number) is not int or not 0 <= number < 1 << 48:
        raise ValueError(f"{number!r} is not a count")
    return number


def _shape(extents: Any) -> tuple[int, ...]:
    if not isinstance(extents, list) or len(extents) > _MOST_EXTENTS:
        raise ValueError(f"{extents!r:.80} is not a shape")
    return tuple(_count(extent) for extent in extents)


def _visible(name: str) -> str:
    """A name of a file that no system treats in a way of its own."""
    if not name.isprintable() or "\\" in name or len(name) > 255:
        raise ValueError(f"{name!r} is not a file name")
    if any(part.startswith(".") for part in name.split("/")):
        raise ValueError(f"{name!r} is hidden")
    return name

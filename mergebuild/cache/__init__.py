"""Built checkpoints by key: manifests, look-up, staging, publishing, verifying, collecting."""

from mergebuild.cache.index import CachedTensor, Index, Region
from mergebuild.cache.manifest import (
    MANIFEST,
    FileRecord,
    Manifest,
    ShardRecord,
    checkpoint_digest,
    read_manifest,
    shard_layout,
    to_text,
)
from mergebuild.cache.records import TensorRecord
from mergebuild.cache.store import Cache, Unsound, sound

__all__ = [
    "MANIFEST",
    "Cache",
    "CachedTensor",
    "FileRecord",
    "Index",
    "Manifest",
    "Region",
    "ShardRecord",
    "TensorRecord",
    "Unsound",
    "checkpoint_digest",
    "read_manifest",
    "shard_layout",
    "sound",
    "to_text",
]

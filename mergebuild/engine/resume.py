"""What an interrupted build left that can be kept."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from mergebuild.cache.content import tensor_content
from mergebuild.cache.staging import Staging
from mergebuild.checkpoint.reader import Reader
from mergebuild.engine.schedule import work_of
from mergebuild.errors import CheckpointError
from mergebuild.plan import NodePlan


def sound_tensors(node: NodePlan, staging: Staging, jobs: int) -> Iterator[tuple[str, str]]:
    """(tensor, content digest) of those tensors that were made for the keys that they have, and
    whose content is what was written."""
    tensors = node.outline.tensors
    keys = {tensor: finished.key for tensor, finished in staging.journaled.items()}
    journaled = [tensor for tensor in work_of(node) if keys.get(tensor) == tensors[tensor].key]
    with ThreadPoolExecutor(jobs) as pool:
        now = pool.map(lambda tensor: _content(node, tensor, staging), journaled)
        for tensor, digest in zip(journaled, now, strict=True):
            if digest == staging.journaled[tensor].digest:
                yield tensor, digest


def _content(node: NodePlan, tensor: str, staging: Staging) -> str | None:
    try:
        return tensor_content(staged_reader(node, tensor, staging))
    except CheckpointError:
        return None


def staged_reader(node: NodePlan, tensor: str, staging: Staging) -> Reader:
    """Reads a tensor where it is being built."""
    outline = node.outline.tensors[tensor]
    descriptor, region = staging.place(tensor)
    return Reader(descriptor, region.path, region.offset, outline.dtype, outline.shape, tensor)

"""Making one tensor: computing it, copying it from where it lies already, or fetching it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mergebuild.cache import Unsound
from mergebuild.cache.content import tensor_content
from mergebuild.checkpoint.reader import changed
from mergebuild.engine.places import Places, Readable
from mergebuild.engine.writer import Writer
from mergebuild.errors import BuildError, CheckpointError
from mergebuild.expression import Expression
from mergebuild.kernels import Kernels
from mergebuild.kernels.evaluate import evaluate
from mergebuild.kernels.random import stream
from mergebuild.kernels.walk import Help, Share
from mergebuild.methods.declaration import Method, Operands
from mergebuild.operations import OPERATIONS
from mergebuild.plan import NodePlan, TrueKeys
from mergebuild.remote.fetch import Downloads, Missed
from mergebuild.remote.remotes import Remotes
from mergebuild.remote.store import Damaged, RemoteError

_BLOCK = 1 << 20


def copy_tensor(node: NodePlan, tensor: str, places: Places, writer: Writer, keys: TrueKeys) -> str:
    """Copy a tensor that lies in the cache or in a source.

    Returns its content digest, which is checked on the way. Raises Unsound if what is in the cache
    is damaged or gone.
    """
    cached = node.reuse[tensor]
    if cached.checkpoint is None:
        operand = node.expressions[tensor].operands[0]
        digest = _copy(places.reader(node, operand.model, operand.tensor), writer)
        if digest != keys.key(node, tensor):
            raise changed(cached.region.path)
        return digest
    region, outline = cached.region, node.outline.tensors[tensor]
    try:
        reader = places.cached_files.reader(
            region.path, region.offset, outline.dtype, outline.shape, tensor
        )
        digest = _copy(reader, writer)
    except CheckpointError as error:
        raise Unsound(cached.checkpoint, error.problems[0].message) from error
    if digest != cached.digest:
        raise Unsound(cached.checkpoint, f"tensor '{tensor}' is not what was written")
    return digest


def fetch_tensor(
    node: NodePlan, tensor: str, writer: Writer, remotes: Remotes, downloads: Downloads
) -> str:
    """Download a tensor from the remote that claims to hold it.

    Returns its content digest; its bytes are compared with what the claim says on the way. Raises
    Missed if they cannot be had or are others.
    """
    there = node.fetch[tensor]
    try:
        downloads.fetch(
            remotes.store(there.remote), there.blob, there.offset, there.size, there.sha256,
            lambda at, piece: writer.write(at // writer.itemsize, piece),
        )  # fmt: skip
        digest = writer.finish()
        if digest != there.digest:
            raise Damaged(f"tensor '{tensor}' is not what it is said to be")
    except RemoteError as error:
        raise Missed(there, error) from error
    return digest


def check_linked(node: NodePlan, tensor: str, places: Places, source: str) -> str:
    """Read a tensor of a shard that was linked from the checkpoint `source`; its content digest.

    Raises Unsound if it is not what was written.
    """
    try:
        digest = tensor_content(places.staged(node, tensor))
    except CheckpointError as error:
        raise Unsound(source, error.problems[0].message) from error
    if digest != node.reuse[tensor].digest:
        raise Unsound(source, f"tensor '{tensor}' is not what was written")
    return digest


def compute_tensor(
    node: NodePlan,
    expression: Expression,
    places: Places,
    writer: Writer,
    methods: Mapping[str, Method],
    kernels: Kernels,
    chunk: int,
    allow_nonfinite: bool,
    remark: Callable[[str], None],
    share: Share | None,
) -> str:
    """Compute a tensor of a node from its operands; returns its content digest.

    `remark` is told what the user should know of it; `share` lets other threads help. Raises
    BuildError for operands that are not finite, unless that is allowed.
    """

    def open_readers() -> list[Readable]:
        return [places.operand(node, o, expression.shape) for o in expression.operands]

    readers = open_readers()
    if expression.unchanged:
        return _copy(readers[0], writer)
    if expression.method in OPERATIONS:
        outcome = places.operations.compute(expression, readers, writer)
    else:
        outcome = evaluate(
            methods[expression.method].run(operands_of(expression), expression.arguments),
            readers,
            writer,
            expression.dtype,
            chunk=chunk,
            kernels=kernels,
            help=Help(share, open_readers) if share is not None else None,
        )
    if not allow_nonfinite:
        for operand, count in zip(expression.operands, outcome.nonfinite, strict=True):
            if count:
                raise BuildError.of(
                    f"node '{node.node.name}': tensor '{operand.tensor}' of '{operand.model}' has "
                    f"{count} values that are not finite",
                    hint="--allow-nonfinite lets them through",
                )
    for text in outcome.reports:
        remark(text)
    if outcome.overflowed:
        remark(f"values became infinite in {expression.dtype}")
    return writer.finish()


def operands_of(expression: Expression) -> Operands:
    """What a method may know of an expression's operands."""
    streams: tuple[tuple[int, int], ...] = ()
    if expression.stream is not None:
        seed = expression.arguments["seed"]
        assert isinstance(seed, int)
        others = expression.operands[expression.base :]
        streams = tuple(stream(seed, operand.key, expression.stream) for operand in others)
    return Operands(len(expression.operands), expression.base, expression.shape, streams)


def _copy(reader: Readable, writer: Writer) -> str:
    """Copy raw bytes, in the reader's dtype."""
    size = reader.nbytes // writer.itemsize
    step = max(1, _BLOCK // writer.itemsize)
    buffer = memoryview(bytearray(min(size, step) * writer.itemsize))
    for start in range(0, size, step):
        stop = min(start + step, size)
        part = buffer[: (stop - start) * writer.itemsize]
        reader.read(start, stop, part)
        writer.write(start, part)
    return writer.finish()

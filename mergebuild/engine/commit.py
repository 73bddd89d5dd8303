"""Making a checkpoint of a node, all of whose tensors are staged."""

from __future__ import annotations

from collections.abc import Mapping

from mergebuild.cache import Cache, to_text
from mergebuild.cache.staging import Staging
from mergebuild.checkpoint.safetensors import index_name, index_text
from mergebuild.digest import bytes_digest
from mergebuild.engine.options import Options
from mergebuild.errors import BuildError
from mergebuild.plan import Plan, SideFile
from mergebuild.share.provenance import manifest_of


def commit(
    plan: Plan,
    name: str,
    staging: Staging,
    digests: Mapping[str, str],
    into: Cache,
    options: Options,
) -> None:
    """Write side files and manifest, and publish in the cache `into`; `digests` are of the tensors'
    contents as written. Raises BuildError for side files that changed."""
    node = plan.nodes[name]
    try:
        staging.settle(node.key)
        for file in node.outline.side_files:
            staging.write(file.name, _content(file))
        if len(node.shards) > 1:
            staging.write(index_name(node.shards), index_text(node.shards))
        manifest = manifest_of(plan, name, digests, staging.seal(), options.allow_nonfinite)
        staging.publish(to_text(manifest))
    except FileNotFoundError as error:
        if into.lookup(node.key) is None:
            raise BuildError.of(
                f"node '{name}': another build took over what this one had staged",
                hint="run the build again",
            ) from error


def _content(file: SideFile) -> bytes:
    """The bytes of a side file, checked against what the plan saw."""
    if file.data is not None:
        return file.data
    assert file.path is not None
    try:
        data = file.path.read_bytes()
    except OSError as error:
        raise BuildError.of(f"cannot read '{file.path}': {error.strerror}") from error
    if bytes_digest(data) != file.digest:
        raise BuildError.of(f"'{file.path}' changed while it was read", hint="run the build again")
    return data

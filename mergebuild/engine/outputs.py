"""Publishing a built checkpoint to the folder that the recipe gives it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mergebuild.cache import MANIFEST, Manifest, Unsound
from mergebuild.cache.beside import beside, left_beside
from mergebuild.cache.content import differences
from mergebuild.cache.manifest import claims
from mergebuild.errors import Problem, UsageError
from mergebuild.files import (
    FOLDER_MODE,
    Placed,
    fsync_directory,
    make_directories,
    place,
    remove_tree,
    replace_directory,
    write_file,
)
from mergebuild.plan import Plan


def check_outputs(plan: Plan, force: bool) -> None:
    """Refuse to replace what mergebuild did not write, unless forced, and what the plan reads
    from, always. Raises UsageError."""
    sources = [path.resolve() for leaf in plan.leaves.values() for path in leaf.paths]
    problems = []
    for name, node in plan.nodes.items():
        if node.output is None or node.output.fresh:
            continue
        path = node.output.path
        place = path.resolve()
        for source in sources:
            if place == source or place in source.parents or source in place.parents:
                problems.append(
                    Problem(f"output '{path}' of node '{name}' overlaps with source '{source}'")
                )
        root = plan.cache.root.resolve()
        if place == root or place in root.parents or root in place.parents:
            problems.append(Problem(f"output '{path}' of node '{name}' overlaps with the cache"))
        if path.exists() and not force and not _ours(plan, name):
            problems.append(
                Problem(
                    f"output '{path}' of node '{name}' is there and was not written by mergebuild",
                    hint="move it away, or replace it with --force",
                )
            )
    if problems:
        raise UsageError(*problems)


def _ours(plan: Plan, name: str) -> bool:
    output = plan.nodes[name].output
    assert output is not None
    if not output.path.is_dir():
        return False
    if not any(output.path.iterdir()):
        return True
    return claims(output.path)


def publish_output(
    plan: Plan, name: str, papers: Mapping[str, str], run: str, *, fresh: bool
) -> Placed:
    """Put a node's checkpoint, with the files that tell people of it, at its output in one step.

    One that this run did not make, not `fresh`, is read and checked before. Weights share what is
    in the cache; the small files, which people edit, are copies. Raises Unsound if the checkpoint
    is damaged or gone.
    """
    node = plan.nodes[name]
    assert node.output is not None
    path = node.output.path
    manifest = plan.cache.lookup(node.key)
    if manifest is None:
        raise Unsound(node.key, "it is not whole")
    folder = plan.cache.folder(node.key)
    if not fresh:
        jobs = plan.settings.threads
        for difference in differences(folder, manifest, manifest.file_sizes(), jobs=jobs):
            raise Unsound(node.key, str(difference))
    make_directories(path.parent)
    for left in left_beside(plan.cache, path):
        remove_tree(left)
    new = beside(path, run)
    new.mkdir(mode=FOLDER_MODE)
    try:
        how = _fill(new, folder, manifest)
        for file, text in papers.items():
            write_file(new / file, text.encode())
        replace_directory(new, path)
    except FileNotFoundError as error:
        raise Unsound(node.key, f"'{error.filename}' is gone") from error
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        if new.exists():
            remove_tree(new)
    return how


def _fill(new: Path, folder: Path, manifest: Manifest) -> Placed:
    how: Placed = "copied"
    for file in (*manifest.files, MANIFEST):
        make_directories((new / file).parent)
        place(folder / file, new / file, link=False)
        fsync_directory((new / file).parent)
    for shard in manifest.shards:
        how = place(folder / shard, new / shard)
    return how

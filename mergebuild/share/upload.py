"""Uploading to the Hugging Face Hub, through its own library: one commit with all files, or none.

Large files go first, one after the other, and what the Hub has of them is not sent again, so an
upload that was cut off goes on where it was. Tokens are the library's and are never shown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

from mergebuild.cache import MANIFEST
from mergebuild.checkpoint import hub_client
from mergebuild.checkpoint.hub import is_offline, is_repo
from mergebuild.checkpoint.shards import BIN_INDEX, SUFFIX
from mergebuild.checkpoint.side_files import is_carried
from mergebuild.errors import CheckpointError, UsageError
from mergebuild.events import Sink, Uploaded, Uploading
from mergebuild.share.publication import Publication

LARGE: Final = 1 << 20
"""From this size on, in bytes, a file is sent before the commit, with progress."""
_OURS: Final = (MANIFEST, "LICENSE.md", "config.json", "model.safetensors.index.json", BIN_INDEX)


@dataclass(frozen=True, slots=True)
class Published:
    """The commit that an upload made, and what of the repository went with it."""

    repo: str
    commit: str
    url: str
    removed: tuple[str, ...]


def upload(
    publication: Publication,
    repo: str,
    *,
    public: bool = False,
    revision: str | None = None,
    message: str | None = None,
    force: bool = False,
    sink: Sink,
) -> Published:
    """Publish under `org/name`, which is made, private unless `public`, if it is not there.

    `revision` is a branch, made as well. Weights and side files of an earlier publication that are
    not part of this one are removed in the same commit; a repository with weights that mergebuild
    did not publish is left alone unless forced. Raises UsageError or CheckpointError.
    """
    check_repo(repo)
    if is_offline():
        raise CheckpointError.of(f"'{repo}' is on the Hub, and HF_HUB_OFFLINE is set")
    with hub_client.explained(repo, revision, "uploaded to"):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
        from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars

        quiet = are_progress_bars_disabled()
        disable_progress_bars()
        try:
            api = HfApi(endpoint=hub_client.endpoint(), library_name="mergebuild")
            _prepare(api, repo, public, revision)
            info = api.model_info(repo, revision=revision)
            there = [sibling.rfilename for sibling in info.siblings or []]
            _check_ours(repo, there, force)
            left = sorted(_left_over(there, publication.files))
            sizes = publication.sizes
            sink(Uploading(repo, len(sizes), sum(sizes.values())))
            additions = {
                name: CommitOperationAdd(
                    name, content if isinstance(content, bytes) else str(content)
                )
                for name, content in publication.files.items()
            }
            for name, addition in additions.items():
                if sizes[name] >= LARGE:
                    api.preupload_lfs_files(repo, additions=[addition], revision=revision)
                    sink(Uploaded(sizes[name]))
            operations: list[Any] = [*additions.values(), *map(CommitOperationDelete, left)]
            made = api.create_commit(
                repo,
                operations,
                commit_message=message or f"Publish {publication.manifest.node}, by mergebuild",
                commit_description=f"checkpoint {publication.manifest.key}",
                revision=revision,
                parent_commit=info.sha,
            )
            sink(Uploaded(sum(size for size in sizes.values() if size < LARGE)))
        finally:
            if not quiet:
                _show_progress_bars()
    return Published(repo, made.oid, f"{hub_client.endpoint()}/{repo}", tuple(left))


def check_repo(repo: str) -> None:
    """Raises UsageError for what cannot be a name on the Hub."""
    if not is_repo(repo):
        raise UsageError.of(f"'{repo}' is no name on the Hub", hint="the form is org/name")


def _show_progress_bars() -> None:
    from huggingface_hub.utils.tqdm import enable_progress_bars

    enable_progress_bars()


def _prepare(api: Any, repo: str, public: bool, revision: str | None) -> None:
    """The repository and the branch, made if they are not there."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        private = bool(api.model_info(repo).private)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=not public, repo_type="model")
    else:
        if not private and not public:
            raise UsageError.of(
                f"'{repo}' is there and everybody can read it",
                hint="say that you mean it: --public",
            )
        if private and public:
            raise UsageError.of(
                f"'{repo}' is there and is private, which --public does not change",
                hint="publish without it, and change the repository's settings on the Hub",
            )
    if revision is not None and revision != "main":
        api.create_branch(repo, branch=revision, exist_ok=True)


def _check_ours(repo: str, there: Collection[str], force: bool) -> None:
    weights = [name for name in there if name.endswith((SUFFIX, ".bin"))]
    if weights and MANIFEST not in there and not force:
        raise UsageError.of(
            f"'{repo}' holds weights that mergebuild did not publish, such as '{weights[0]}'",
            hint="publish under another name, or replace them with --force",
        )


def _left_over(there: Collection[str], files: Collection[str]) -> Iterator[str]:
    """What an earlier publication put there and this one does not: weights that stay would be read
    with the new ones."""
    for name in there:
        ours = name.endswith((SUFFIX, ".bin", ".yaml.lock")) or name in _OURS or is_carried(name)
        if ours and name not in files:
            yield name

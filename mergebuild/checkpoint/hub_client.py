"""Talking to the Hugging Face Hub, through its own library: what a revision holds, and its files.

Tokens, cache, resuming and retries are the library's. Every way in which a request fails becomes a
CheckpointError that says what to do. The library is imported when the first request is made, and
what the server says is untrusted. Knows nothing of checkpoints.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from mergebuild.errors import CheckpointError, MergebuildError

COMMIT: Final = re.compile(r"[0-9a-f]{40}")

FETCHED: Final = "fetched from"
_DEFAULT_ENDPOINT: Final = "https://huggingface.co"
_TIMEOUT: Final = 30.0
_MOST_FILES: Final = 100_000
_LOGIN: Final = "log in with `hf auth login`, or set HF_TOKEN"
_OFFLINE: Final = "HF_HUB_OFFLINE=1 takes what is in the cache, as far as it goes"


class Unreachable(CheckpointError):
    """The Hub does not answer at all."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a commit of a repository holds: sizes by file name."""

    commit: str
    files: Mapping[str, int]


def endpoint() -> str:
    """Where the Hub is: `HF_ENDPOINT`, else huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or _DEFAULT_ENDPOINT).rstrip("/")


def list_files(repo: str, revision: str | None) -> Listing:
    """What a revision (None: the main branch) holds now. One request. Raises CheckpointError."""
    with explained(repo, revision):
        from huggingface_hub import HfApi

        api = HfApi(endpoint=endpoint(), library_name="mergebuild")
        info = api.model_info(repo, revision=revision, files_metadata=True, timeout=_TIMEOUT)
    siblings = info.siblings or []
    sound = isinstance(info.sha, str) and COMMIT.fullmatch(info.sha) and len(siblings) < _MOST_FILES
    if not sound:
        raise CheckpointError.of(f"the Hub's answer about '{repo}' is not understood")
    return Listing(str(info.sha), {s.rfilename: int(s.size or 0) for s in siblings})


def fetch(repo: str, commit: str, name: str, cache: Path, progress: Callable[[int], None]) -> None:
    """Put a file of a commit into the library's cache, going on where a connection was lost.

    `progress` is told of bytes as they come. Raises CheckpointError.
    """
    with explained(repo, commit):
        from huggingface_hub import hf_hub_download

        hf_hub_download(
            repo,
            name,
            revision=commit,
            cache_dir=cache,
            endpoint=endpoint(),
            library_name="mergebuild",
            tqdm_class=_bar(progress),
        )


def _bar(progress: Callable[[int], None]) -> Any:
    """A class in the place of a progress bar's, as far as the library uses one."""

    class Bar:
        def __init__(self, *_: object, initial: int = 0, **__: object) -> None:
            progress(initial)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, count: float | None = 1) -> None:
            progress(int(count or 0))

        def close(self) -> None:
            pass

    return Bar


@contextmanager
def explained(repo: str, revision: str | None, done: str = FETCHED) -> Iterator[None]:
    """Turns what the library raises into a CheckpointError; a bug passes as it is."""
    try:
        yield
    except MergebuildError:
        raise
    except Exception as error:
        # The library wraps what goes wrong with one file of several.
        inner = error.__cause__ if isinstance(error, RuntimeError) else None
        cause = inner if isinstance(inner, Exception) else error
        found = _explanation(repo, revision, cause, done)
        if found is None:
            raise
        raise found from error


def _explanation(
    repo: str, revision: str | None, error: Exception, done: str
) -> CheckpointError | None:
    """What an error of the library means; None if it is none of those that a user can meet."""
    found = _refusal(repo, revision, error) if done == FETCHED else _objection(repo, error)
    if found is not None:
        return CheckpointError.of(found[0], hint=found[1])
    from huggingface_hub import errors

    # Whatever transport the library has: `httpx`, `httpx2`, and before them `requests`.
    transport = (
        type(error).__module__.partition(".")[0].startswith(("httpx", "httpcore", "requests"))
    )
    if not transport and not isinstance(error, (OSError, errors.HfHubHTTPError)):
        return None
    reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
    return Unreachable.of(
        f"'{repo}' could not be {done} {endpoint()}: {reason[0][:200]}",
        hint=f"files that came whole are kept: run again, or {_OFFLINE}"
        if done == FETCHED
        else "what was uploaded whole is kept there: publish again",
    )


def _objection(repo: str, error: Exception) -> tuple[str, str] | None:
    """What the Hub's answer to an upload says."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
        return (
            f"the Hub does not let you write to '{repo}' ({status})",
            f"the token needs write access to '{repo.partition('/')[0]}': {_LOGIN}",
        )
    if status == 412 or (status == 409 and isinstance(error, errors.HfHubHTTPError)):
        return f"'{repo}' was changed by others meanwhile", "look at it, and publish again"
    if isinstance(error, errors.HfHubHTTPError) and status is not None:
        said = str(getattr(error, "server_message", None) or "").strip().splitlines()[:1]
        return (
            f"the Hub ({endpoint()}) answers {status} for '{repo}'"
            + (f": {said[0][:200]}" if said else ""),
            "what was uploaded is kept there: publish again",
        )
    if isinstance(error, ValueError) and "metadata in README.md" in str(error):
        return f"the Hub does not take the card: {str(error)[:400]}", "correct its front matter"
    return None


def _refusal(repo: str, revision: str | None, error: Exception) -> tuple[str, str] | None:
    """What the Hub's own answer says."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return (
            f"'{repo}' is gated: access has to be granted",
            f"accept its terms at {endpoint()}/{repo}, then {_LOGIN}",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"'{repo}' has no revision '{revision}'", "name a branch, a tag or a whole commit"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"there is no '{repo}', neither a folder nor on the Hub ({endpoint()}), or it is "
            "private",
            f"check its name; for a private model {_LOGIN}",
        )
    if isinstance(error, errors.HFValidationError):
        return f"'{repo}' is no name on the Hub", "the form is org/name"
    if isinstance(error, errors.HfHubHTTPError) and status in (401, 403):
        return f"the Hub refuses access to '{repo}' ({status})", f"check the token: {_LOGIN}"
    if isinstance(error, errors.HfHubHTTPError) and status is not None:
        return f"the Hub ({endpoint()}) answers {status} for '{repo}'", f"try again, or {_OFFLINE}"
    return None

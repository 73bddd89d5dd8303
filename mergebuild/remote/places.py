"""From a URL to the store that it names: a folder, S3, Google Cloud Storage, the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from mergebuild.errors import UsageError
from mergebuild.remote.folder import FolderStore
from mergebuild.remote.store import Store

_SCHEMES: Final = ("file", "s3", "gs", "gcs", "hf")
_OPTIONS: Final = {"s3": ("endpoint", "region", "anonymous")}
_EXTRAS: Final = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}
_KINDS: Final = "a folder, s3://bucket/prefix, gs://bucket/prefix or hf://org/name"


@dataclass(frozen=True, slots=True)
class _Place:
    """A URL in its parts; `scheme` is empty for a path."""

    scheme: str
    root: str
    options: dict[str, str]


def check_url(url: str) -> None:
    """Raises UsageError for a URL that names no place; asks and imports nothing."""
    _parsed(url)


def is_local(url: str) -> bool:
    """Whether a URL names a folder, which is no request to anyone."""
    return not _parsed(url).scheme


def open_store(url: str) -> Store:
    """The store at a URL; nothing is asked of it yet.

    Raises UsageError for a URL that names none, or whose client is not installed.
    """
    place = _parsed(url)
    if not place.scheme:
        return FolderStore(url, Path(place.root))
    try:
        return _client(url, place)
    except ImportError as error:
        extra = _EXTRAS.get(place.scheme, "")
        raise UsageError.of(
            f"remote '{url}': its client is not installed ({error.name})",
            hint=f"install mergebuild[{extra}]" if extra else "install mergebuild again",
        ) from error


def _parsed(url: str) -> _Place:
    scheme, separator, _ = url.partition("://")
    if not separator:
        return _Place("", str(Path(url).expanduser().absolute()), {})
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError.of(f"remote '{url}' is no URL: {error}") from error
    root = f"{parts.netloc}{unquote(parts.path)}"
    options = dict(parse_qsl(parts.query))
    if scheme not in _SCHEMES:
        raise UsageError.of(f"remote '{url}': unknown kind '{scheme}://'", hint=f"write {_KINDS}")
    for name in options:
        if name not in _OPTIONS.get(scheme, ()):
            known = ", ".join(_OPTIONS.get(scheme, ())) or "none"
            raise UsageError.of(
                f"remote '{url}': unknown option '{name}'",
                hint=f"known for {scheme}:// are {known}",
            )
    if not root.strip("/") or ".." in root.split("/"):
        raise UsageError.of(f"remote '{url}' names no place", hint=f"write {_KINDS}")
    if scheme == "file":
        return _Place("", "/" + unquote(parts.path).lstrip("/"), {})
    return _Place(scheme, root, options)


def _client(url: str, place: _Place) -> Store:
    if place.scheme == "s3":
        from mergebuild.remote.s3 import S3Store

        return S3Store(url, place.options, place.root)
    from mergebuild.remote.filesystem import FileSystemStore

    if place.scheme in ("gs", "gcs"):
        import gcsfs

        fs = gcsfs.GCSFileSystem(
            use_listings_cache=False, skip_instance_cache=True, requests_timeout=60
        )
        return FileSystemStore(url, fs, place.root)
    from huggingface_hub import HfFileSystem

    hub = HfFileSystem(use_listings_cache=False, skip_instance_cache=True)
    # Every put is a commit, and the Hub takes one at a time.
    return FileSystemStore(url, hub, place.root, exclusive=False, parallel=1)

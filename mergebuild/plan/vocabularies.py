"""Vocabularies and chat templates of outlines, read from their side files, each file once.

A node's own side files are in memory already, so its vocabulary is known before it is built.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final, TypeAlias

from mergebuild.checkpoint.reader import changed
from mergebuild.checkpoint.regular import read_small
from mergebuild.digest import bytes_digest
from mergebuild.plan.outline import Outline, SideFile
from mergebuild.vocabulary.files import holds_vocabulary
from mergebuild.vocabulary.templates import template_of
from mergebuild.vocabulary.vocabulary import Vocabulary, read_vocabulary

LARGEST: Final = 1 << 28

Identity: TypeAlias = tuple[tuple[str, str], ...]
"""Names and digests of the files that a vocabulary is read from."""


class Vocabularies:
    """What was read so far."""

    def __init__(self) -> None:
        self._known: dict[Identity, Vocabulary] = {}

    def of(self, outline: Outline) -> Vocabulary:
        """Raises CheckpointError if there is none or it cannot be read."""
        identity = tuple(
            (file.name, file.digest) for file in outline.side_files if holds_vocabulary(file.name)
        )
        if identity not in self._known:
            contents = Contents(outline.side_files)
            self._known[identity] = read_vocabulary(outline.name, contents)
        return replace(self._known[identity], name=outline.name)

    def template(self, outline: Outline) -> str | None:
        """The chat template of a checkpoint. Raises CheckpointError if it cannot be read."""
        return self.template_in(outline.side_files, outline.name)

    def template_in(self, files: Iterable[SideFile], name: str) -> str | None:
        """The chat template in these files of the checkpoint `name`."""
        return template_of(Contents(files), f"'{name}'")


class Contents(Mapping[str, bytes]):
    """Side files by name, read when they are looked at."""

    def __init__(self, files: Iterable[SideFile]) -> None:
        self._files = {file.name: file for file in files}

    def __getitem__(self, name: str) -> bytes:
        return content(self._files[name])

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def content(file: SideFile) -> bytes:
    """What is in a side file. Raises CheckpointError if it cannot be read, or is not what it was
    when the plan began."""
    if file.data is not None:
        return file.data
    assert file.path is not None
    data = read_small(file.path, LARGEST)
    if bytes_digest(data) != file.digest:
        raise changed(file.path)
    return data

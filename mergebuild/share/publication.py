"""What of a built checkpoint is published on the Hub: its files, its papers, the recipe and lock.

Only what is what was built. Knows no network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mergebuild.cache import MANIFEST, Manifest
from mergebuild.cache.content import PAPERS, regular
from mergebuild.errors import CheckpointError
from mergebuild.events import Sink
from mergebuild.recipe.names import from_stem
from mergebuild.share.recorded import recorded
from mergebuild.share.subjects import sound_manifest

CARD: Final = PAPERS[0]
MERGEKIT: Final = "mergekit_config.yml"


@dataclass(frozen=True, slots=True)
class Publication:
    """A checkpoint ready to be published: its files by name, as a path or as bytes."""

    manifest: Manifest
    files: Mapping[str, Path | bytes]

    @property
    def sizes(self) -> dict[str, int]:
        """Every file with its size in bytes."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }

    @property
    def card(self) -> str:
        content = self.files[CARD]
        data = content if isinstance(content, bytes) else content.read_bytes()
        return data.decode("utf-8", "replace")


def publication(
    folder: Path, papers: Mapping[str, str] | None, lock: str | None, *, jobs: int, sink: Sink
) -> Publication:
    """A built checkpoint, read whole. `papers` are those that an output would get; if it is one
    (None), those that lie there, edited or not. `lock` is newer than the one that it records.

    Raises CheckpointError if the checkpoint is not what was built, or has no card.
    """
    manifest = sound_manifest(folder, jobs=jobs, sink=sink)
    files: dict[str, Path | bytes] = {
        name: folder / name for name in sorted((*manifest.file_sizes(), MANIFEST))
    }
    if papers is None:
        files |= {name: folder / name for name in PAPERS if regular(folder, name) is not None}
    else:
        files |= {name: text.encode() for name, text in papers.items()}
    if CARD not in files:
        raise CheckpointError.of(
            f"'{folder}' has no {CARD}", hint="publish it by its recipe, which writes one"
        )
    said = recorded(manifest.provenance, str(folder))
    name = f"{from_stem(Path(said.file).stem)}.yaml" if said.native else MERGEKIT
    files[name] = said.text.encode()
    if (text := lock or said.lock) is not None:
        files[f"{name}.lock"] = text.encode()
    return Publication(manifest, dict(sorted(files.items())))

"""What the cards of sources state: licence, data, languages. Cards are untrusted: whatever is not
of the form that the Hub asks for is left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mergebuild.checkpoint.card import card_metadata
from mergebuild.checkpoint.hub import is_repo
from mergebuild.plan import Leaf

CARD: Final = "README.md"
OTHER: Final = "other"
_MOST: Final = 50
_ID: Final = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
_DATASET: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_LANGUAGE: Final = re.compile(r"[a-z]{2,3}|[a-z]{2,3}-[A-Z][A-Za-z]{1,3}|code|multilingual")
_TASK: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_LINK: Final = re.compile(r"https://[A-Za-z0-9.-]+(/[\w./%+-]*)?", re.ASCII)
_LICENCE_FILE: Final = re.compile(r"LICEN[CS]E(\.(md|txt))?")


@dataclass(frozen=True, slots=True)
class Stated:
    """What one model's card states. `name` is the model, `repo` that on the Hub it came from;
    `licence` is one of the Hub's identifiers, with `licence_name` and `licence_link` if it is
    `other`; None where the card states none."""

    name: str
    repo: str | None
    licence: str | None
    licence_name: str | None
    licence_link: str | None
    datasets: tuple[str, ...]
    languages: tuple[str, ...]
    bases: tuple[str, ...]
    task: str | None

    @property
    def terms(self) -> str | None:
        """The licence by its own name."""
        return self.licence_name if self.licence == OTHER and self.licence_name else self.licence


def statements(leaves: Iterable[Leaf]) -> list[Stated]:
    """What the cards of all leaves state, of models and of the LoRAs on them, each once."""
    found = dict.fromkeys(one for leaf in leaves for one in _of_leaf(leaf))
    return list(found)


def _of_leaf(leaf: Leaf) -> Iterator[Stated]:
    for part in leaf.parts:
        name = part.source.written or part.source.place
        elsewhere = name if part.source.written and is_repo(name) else None
        repo = part.snapshot.repo if part.snapshot is not None else elsewhere
        card = leaf.checkpoint.card_metadata
        yield _stated(name, repo, card_metadata(part.directory / CARD) if part.adapter else card)


def _stated(name: str, repo: str | None, card: Mapping[str, Any]) -> Stated:
    licence = _licence(card.get("license"))
    link = _text(card.get("license_link"))
    if repo is not None and link is not None and _LICENCE_FILE.fullmatch(link):
        link = f"https://huggingface.co/{repo}/blob/main/{link}"
    return Stated(
        name=name,
        repo=repo,
        licence=licence,
        licence_name=_licence(card.get("license_name")) if licence == OTHER else None,
        licence_link=link if licence == OTHER and link and _LINK.fullmatch(link) else None,
        datasets=_matching(_DATASET, card.get("datasets")),
        languages=_matching(_LANGUAGE, card.get("language")),
        bases=tuple(base for base in _listed(card.get("base_model")) if is_repo(base)),
        task=next(iter(_matching(_TASK, card.get("pipeline_tag"))), None),
    )


def _licence(said: object) -> str | None:
    listed = _listed(said)
    if not listed:
        return None
    found = "-and-".join(listed).lower().replace(" ", "-")
    return found if _ID.fullmatch(found) else OTHER


def _listed(said: object) -> tuple[str, ...]:
    texts = said if isinstance(said, list) else [said]
    return tuple(t.strip() for t in texts[:_MOST] if isinstance(t, str) and t.strip())


def _matching(form: re.Pattern[str], said: object) -> tuple[str, ...]:
    return tuple(text for text in _listed(said) if form.fullmatch(text))


def _text(said: object) -> str | None:
    return said if isinstance(said, str) and said else None

"""How two vocabularies differ, token by token. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mergebuild.vocabulary.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Difference:
    """Tokens that `only` the one and only the other has, by id, and of those that `moved` the id
    in each."""

    only: tuple[tuple[str, ...], tuple[str, ...]]
    moved: tuple[tuple[str, int, int], ...]


def difference(one: Vocabulary, other: Vocabulary) -> Difference:
    """What the other has differently; nothing where all ids mean the same."""
    return Difference(
        only=(
            tuple(token for token in one.ids if token not in other.ids),
            tuple(token for token in other.ids if token not in one.ids),
        ),
        moved=tuple(
            (token, number, other.ids[token])
            for token, number in one.ids.items()
            if other.ids.get(token, number) != number
        ),
    )

"""A tokenizer made from one by adding the tokens of others: a new tokenizer.json.

The first one's ids stay. Then come, model by model in the order given and by id within each, the
tokens that none before has. Of BPE the merges are united in the same order: all of the first in
their order, then those of the next that are new; so what the first one does goes before. Pieces of
Unigram keep their scores. All else (normalizer, pre-tokenizer, post-processor, decoder) is the
first one's.

Values in, values out; the tokenizers library is asked whether it reads the result as it is meant.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mergebuild.errors import CheckpointError
from mergebuild.vocabulary.vocabulary import CONVERT, FLAGS, Vocabulary

_SPELLING: Final = ("continuing_subword_prefix", "end_of_word_suffix")
_KINDS: Final = ("BPE", "WordPiece", "Unigram", "WordLevel")


class ApartError(Exception):
    """Tokens cannot be added to a vocabulary; the message says why, `hint` what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Extended:
    """A vocabulary and its tokenizer.json as `text`; `new` are the tokens that were added."""

    vocabulary: Vocabulary
    text: bytes
    new: tuple[str, ...]


def extend(
    first: Vocabulary, others: Iterable[Vocabulary], words: Mapping[str, Mapping[str, bool]]
) -> Extended | None:
    """`first` with the tokens of `others`, then with `words` as added tokens with these flags.

    None if it has them all already. Raises ApartError where it cannot be done, CheckpointError
    where the result is nothing that the tokenizers library could read.
    """
    new: dict[str, None] = {}
    added = dict(first.added)
    donors: list[Vocabulary] = []
    for other in others:
        missing = [token for token in other.ids if token not in first.ids and token not in new]
        pieces = [token for token in missing if token not in other.added]
        if pieces:
            _check_kinds(first, other, pieces[0])
            donors.append(other)
        new.update(dict.fromkeys(missing))
        added.update((token, other.added[token]) for token in missing if token in other.added)
    for word, flags in words.items():
        if word not in first.ids and word not in new:
            new[word] = None
            added[word] = flags
    if not new:
        return None
    if first.tokenizer is None:
        raise ApartError(
            f"'{first.name}' has no tokenizer.json that tokens could be added to", CONVERT
        )
    ids = {**first.ids, **{token: first.size + n for n, token in enumerate(new)}}
    tokenizer = {
        **first.tokenizer,
        "model": _model(first, donors, ids),
        "added_tokens": [
            *first.tokenizer.get("added_tokens", []),
            *(entry(ids[token], token, added[token]) for token in new if token in added),
        ],
    }
    text = json.dumps(tokenizer, ensure_ascii=False, indent=2).encode("utf-8", "surrogatepass")
    _check_reads(first, text, ids)
    vocabulary = Vocabulary(first.name, first.kind, ids, added, tokenizer)
    return Extended(vocabulary, text, tuple(new))


def entry(number: int, token: str, flags: Mapping[str, bool]) -> dict[str, Any]:
    """An added token as tokenizer.json has it."""
    return {"id": number, "content": token, **{flag: flags.get(flag, False) for flag in FLAGS}}


def _check_kinds(first: Vocabulary, other: Vocabulary, token: str) -> None:
    """Raises ApartError unless the tokens of the two mean pieces of text in the same way."""
    why = None
    if first.kind not in _KINDS:
        why = f"{first.kind} is of no known kind"
    elif first.kind != other.kind:
        why = f"one is {first.kind}, the other {other.kind}"
    elif other.tokenizer is None:
        raise ApartError(f"'{other.name}' has no tokenizer.json to take tokens from", CONVERT)
    elif first.tokenizer is not None:
        one, two = (
            [by_bytes(t), *(t["model"].get(key) or "" for key in _SPELLING)]
            for t in (first.tokenizer, other.tokenizer)
        )
        if one != two:
            why = "they spell their tokens differently"
    if why is not None:
        raise ApartError(
            f"the vocabularies of '{first.name}' and '{other.name}' cannot be united: {why}, so "
            f"{token!r:.40} of '{other.name}' would mean nothing",
            "keep one of them: tokenizer_source: base, or a model",
        )


def by_bytes(tokenizer: Mapping[str, Any]) -> bool:
    """Whether tokens are written in the alphabet of bytes (`Ġthe`), as GPT-2's are."""
    return any(
        part.get("type") == "ByteLevel"
        for key in ("pre_tokenizer", "normalizer")
        for part in _parts(tokenizer.get(key))
    )


def _parts(step: Any) -> Iterator[Mapping[str, Any]]:
    """A step of a tokenizer, and those that it consists of."""
    if isinstance(step, Mapping):
        yield step
        for inner in step.get("pretokenizers") or step.get("normalizers") or ():
            if isinstance(inner, Mapping):
                yield inner


def _model(
    first: Vocabulary, donors: Sequence[Vocabulary], ids: Mapping[str, int]
) -> dict[str, Any]:
    """The model with all tokens in its vocabulary, the added ones too: only there every token can
    be given its id."""
    assert first.tokenizer is not None
    model = dict(first.tokenizer["model"])
    if first.kind == "Unigram":
        model["vocab"] = _scored(first, donors, model["vocab"], ids)
    else:
        model["vocab"] = ids
    if first.kind == "BPE":
        model["merges"] = _united(model.get("merges") or [], donors)
    return model


def _scored(
    first: Vocabulary, donors: Sequence[Vocabulary], pieces: list[Any], ids: Mapping[str, int]
) -> list[Any]:
    """Every token with a score: its own, or, where it has none, one that loses to all others."""
    lowest = min((float(score) for _, score in pieces), default=0.0)
    scores: dict[str, float] = {}
    for donor in donors:
        assert donor.tokenizer is not None
        for piece, score in donor.tokenizer["model"]["vocab"]:
            scores.setdefault(piece, score)
    rest = sorted((n, token) for token, n in ids.items() if n >= len(pieces))
    if [n for n, _ in rest] != list(range(len(pieces), len(pieces) + len(rest))):
        raise ApartError(
            f"the ids of '{first.name}' have gaps, which a Unigram tokenizer cannot have",
            "keep its vocabulary as it is: tokenizer_source: base, or a model",
        )
    return [*pieces, *([token, scores.get(token, lowest - 10.0)] for _, token in rest)]


def _united(merges: list[Any], donors: Sequence[Vocabulary]) -> list[Any]:
    pairs = dict.fromkeys(map(_pair, merges))
    for donor in donors:
        assert donor.tokenizer is not None
        pairs.update(dict.fromkeys(map(_pair, donor.tokenizer["model"].get("merges") or [])))
    plain = not any(" " in part for pair in pairs for part in pair)
    if plain and merges and all(isinstance(merge, str) for merge in merges):
        return [" ".join(pair) for pair in pairs]  # as files were written before 2024
    return [list(pair) for pair in pairs]


def _pair(merge: Any) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    try:
        left, right = parts
    except (TypeError, ValueError):
        raise ApartError(f"{merge!r:.40} is no merge of two tokens", CONVERT) from None
    return str(left), str(right)


def _check_reads(first: Vocabulary, text: bytes, ids: Mapping[str, int]) -> None:
    from tokenizers import Tokenizer

    try:
        found: Mapping[str, int] = Tokenizer.from_buffer(text).get_vocab(with_added_tokens=True)
    except Exception as error:  # the library raises just this
        raise CheckpointError.of(
            f"'{first.name}': the tokenizers library cannot read its extended tokenizer: {error}"
        ) from error
    if found != ids:
        token = next(t for t in sorted({*found, *ids}) if found.get(t) != ids.get(t))
        raise CheckpointError.of(
            f"'{first.name}': in its extended tokenizer {token!r:.80} has the id "
            f"{found.get(token)}, not {ids.get(token)}",
            hint="keep one of the vocabularies: tokenizer_source: base, or a model",
        )

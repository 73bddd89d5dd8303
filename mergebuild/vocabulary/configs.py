"""Configs that name tokens by id or by text, made to agree with another vocabulary.

config.json and generation_config.json name special tokens by id, tokenizer_config.json lists the
added tokens. Pure: parsed configs in, parsed configs out; what does not change keeps its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeAlias

from mergebuild.checkpoint.stacks import TEXT_SECTIONS
from mergebuild.vocabulary.extend import entry
from mergebuild.vocabulary.vocabulary import Vocabulary

_ID: Final = re.compile(r".*_token_ids?|.*_token_index")
_IDS: Final = frozenset({
    "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids",
})  # fmt: skip
_SIZES: Final = ("vocab_size", "padded_vocab_size", "decoder_vocab_size")

Move: TypeAlias = Callable[[str, int], int | None]
"""The new id of a token that a config names under a key by its old one; None if it is gone."""


def moved(
    old: Vocabulary, new: Vocabulary, fallback: Mapping[str, Any], lost: dict[str, str]
) -> Move:
    """By the token's text; one that is gone is what the config `fallback` has under the same key.

    `lost` collects, by key, the tokens that are gone. Ids that name no token stay.
    """

    def move(key: str, number: int) -> int | None:
        token = old.tokens.get(number)
        if token is None:
            return number
        found = new.ids.get(token)
        if found is None:
            lost[key] = token
            other = fallback.get(key)
            found = other if type(other) is int else None
        return found

    return move


def unmoved(key: str, number: int) -> int:
    """The move that leaves every id where it is."""
    return number


def with_vocabulary(config: Mapping[str, Any], rows: int | None, move: Move) -> dict[str, Any]:
    """A config.json or generation_config.json for the vocabulary that `move` leads to.

    `rows` is what is written of the embedding, None to leave the size alone. Speaks of the top
    level and of the sections about the language model: ids in others are of other vocabularies.
    """
    changed = {key: _value(key, value, move) for key, value in config.items()}
    sections = [changed]
    for name in TEXT_SECTIONS:
        if isinstance(changed.get(name), Mapping):
            changed[name] = {key: _value(key, v, move) for key, v in changed[name].items()}
            sections.append(changed[name])
    if rows is not None:
        for section in sections:
            section.update((key, rows) for key in _SIZES if type(section.get(key)) is int)
        if not any("vocab_size" in section for section in sections):
            changed["vocab_size"] = rows
    return changed


def _value(key: str, value: Any, move: Move) -> Any:
    return _ids(key, value, move) if key in _IDS or _ID.fullmatch(key) else value


def _ids(key: str, value: Any, move: Move) -> Any:
    """An id, or lists of them; in a list one that is gone is left out."""
    if isinstance(value, list):
        found = [_ids(key, item, move) for item in value]
        return [
            new for new, was in zip(found, value, strict=True) if new is not None or was is None
        ]
    if type(value) is int and value >= 0:
        return move(key, value)
    return value


def with_added_tokens(
    config: Mapping[str, Any], vocabulary: Vocabulary, new: Collection[str]
) -> dict[str, Any]:
    """A tokenizer_config.json whose `added_tokens_decoder`, if it has one, lists the `new` added
    tokens of a vocabulary too."""
    changed = dict(config)
    listed = changed.get("added_tokens_decoder")
    if isinstance(listed, Mapping):
        more = {}
        for token in new:
            if token in vocabulary.added:
                about = entry(vocabulary.ids[token], token, vocabulary.added[token])
                more[str(about.pop("id"))] = about
        changed["added_tokens_decoder"] = {**listed, **more}
    return changed


def without_template(config: Mapping[str, Any]) -> dict[str, Any]:
    """A tokenizer_config.json without the chat template, which is in a file of its own."""
    return {key: value for key, value in config.items() if key != "chat_template"}


def as_text(config: Mapping[str, Any]) -> bytes:
    """A config as it is written."""
    return json.dumps(config, indent=2, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"

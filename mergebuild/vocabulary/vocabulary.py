"""A vocabulary, and reading one from the files of a tokenizer.

    tokenizer.json                          BPE, WordPiece, Unigram, WordLevel
    vocab.json, vocab.txt                   the same of older tokenizers
    tokenizer.model, spiece.model           SentencePiece, where ids are the pieces' numbers

What is in the files is untrusted. Knows no weights and no recipes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from mergebuild.checkpoint.regular import parse_object
from mergebuild.errors import CheckpointError
from mergebuild.vocabulary.files import ADDED_TOKENS, PIECES, TOKENIZER, TOKENIZER_CONFIG
from mergebuild.vocabulary.sentencepiece import read_pieces

FLAGS: Final = ("single_word", "lstrip", "rstrip", "normalized", "special")

_LARGEST_ID: Final = 1 << 28
CONVERT: Final = (
    "load it with transformers' AutoTokenizer and save it: save_pretrained writes a tokenizer.json"
)
_NUMBERED: Final = frozenset(
    {"LlamaTokenizer", "GemmaTokenizer", "T5Tokenizer", "AlbertTokenizer", "BigBirdTokenizer"}
)
"""Tokenizers whose ids are the numbers of SentencePiece's pieces; others move them."""


@dataclass(frozen=True)
class Vocabulary:
    """The ids of tokens, by id. `name` is its checkpoint's.

    `added` are the tokens that are cut out of a text before the model of the tokenizer sees it,
    with their flags. `tokenizer` is tokenizer.json, parsed; None where the vocabulary was read
    from other files. `kind` is the model's.
    """

    name: str
    kind: str
    ids: Mapping[str, int]
    added: Mapping[str, Mapping[str, bool]]
    tokenizer: Mapping[str, Any] | None

    @cached_property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self.ids.values(), default=-1) + 1

    @cached_property
    def tokens(self) -> Mapping[int, str]:
        """The tokens by id."""
        return {number: token for token, number in self.ids.items()}


def read_vocabulary(name: str, files: Mapping[str, bytes]) -> Vocabulary:
    """The vocabulary of the checkpoint `name`, given the contents of its side files.

    Raises CheckpointError if there is none, if it is damaged or of a form that is not supported.
    """
    if TOKENIZER in files:
        return _from_tokenizer(
            name, parse_object(files[TOKENIZER], f"'{name}': {TOKENIZER}", twins=True)
        )
    where = next((w for w in ("vocab.json", "vocab.txt", *PIECES) if w in files), None)
    if where is None:
        kinds = [w for w in files if w == "tekken.json" or w.endswith(".tiktoken")]
        if kinds:
            raise CheckpointError.of(
                f"'{name}': its vocabulary is in '{kinds[0]}' only, which cannot be read",
                hint=CONVERT,
            )
        raise CheckpointError.of(
            f"'{name}' has no tokenizer", hint="put its tokenizer.json beside its weights"
        )
    config = _object(name, files, TOKENIZER_CONFIG)
    if where == "vocab.json":
        kind, ids = (
            "BPE",
            _ids(parse_object(files[where], f"'{name}': {where}", twins=True), name, where),
        )
    elif where == "vocab.txt":
        kind, ids = "WordPiece", _lines(name, where, files[where])
    else:
        kind, ids = "SentencePiece", _numbered(name, where, files[where], config)
    added: dict[str, Mapping[str, bool]]
    added = {token: dict.fromkeys(FLAGS, False) for token in _object(name, files, ADDED_TOKENS)}
    ids.update(_ids(_object(name, files, ADDED_TOKENS), name, ADDED_TOKENS))
    for token, number, flags in _decoder(name, config):
        if ids.setdefault(token, number) == number:
            added[token] = flags
    return Vocabulary(name, kind, _by_id(ids), added, None)


def _from_tokenizer(name: str, tokenizer: Mapping[str, Any]) -> Vocabulary:
    where = f"'{name}': {TOKENIZER}"
    model = tokenizer.get("model")
    if not isinstance(model, Mapping):
        raise CheckpointError.of(f"{where}: no 'model' object")
    kind = model_kind(model)
    vocab = model.get("vocab")
    if kind == "Unigram":
        ids = _scored(where, vocab)
    elif isinstance(vocab, Mapping):
        ids = _ids(vocab, name, TOKENIZER)
    else:
        raise CheckpointError.of(f"{where}: no 'vocab' in its model")
    added: dict[str, Mapping[str, bool]] = {}
    for token in _entries(where, tokenizer.get("added_tokens", [])):
        text, number = token.get("content"), token.get("id")
        if not isinstance(text, str) or not isinstance(number, int) or not _is_id(number):
            raise CheckpointError.of(f"{where}: an added token has no content or no id")
        if ids.setdefault(text, number) != number:
            raise CheckpointError.of(
                f"{where}: token {text!r:.80} has the ids {ids[text]} and {number}", hint=CONVERT
            )
        added[text] = {flag: token.get(flag) is True for flag in FLAGS}
    return Vocabulary(name, kind, _by_id(ids), added, tokenizer)


def model_kind(model: Mapping[str, Any]) -> str:
    """BPE, WordPiece, Unigram or WordLevel; older files do not say it."""
    said = model.get("type")
    if isinstance(said, str):
        return said
    if "merges" in model:
        return "BPE"
    if isinstance(model.get("vocab"), Sequence):
        return "Unigram"
    return "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"


def _scored(where: str, vocab: Any) -> dict[str, int]:
    ids: dict[str, int] = {}
    for number, entry in enumerate(vocab if isinstance(vocab, list) else [None]):
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise CheckpointError.of(f"{where}: entry {number} of 'vocab' is no [piece, score]")
        ids.setdefault(entry[0], number)
    return ids


def _ids(vocab: Mapping[str, Any], name: str, file: str) -> dict[str, int]:
    for token, number in vocab.items():
        if not _is_id(number):
            raise CheckpointError.of(
                f"'{name}': {file}: token {token!r:.80} has the id {number!r:.40}"
            )
    return dict(vocab)


def _is_id(number: Any) -> bool:
    return type(number) is int and 0 <= number < _LARGEST_ID


def _lines(name: str, file: str, text: bytes) -> dict[str, int]:
    try:
        lines = text.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError.of(f"'{name}': {file}: not UTF-8 at byte {error.start}") from error
    if lines and not lines[-1]:
        lines.pop()
    return {token.removesuffix("\r"): number for number, token in enumerate(lines)}


def _numbered(name: str, file: str, data: bytes, config: Mapping[str, Any]) -> dict[str, int]:
    kind = str(config.get("tokenizer_class", "LlamaTokenizer"))
    if kind.removesuffix("Fast") not in _NUMBERED:
        raise CheckpointError.of(
            f"'{name}': '{file}' alone does not tell the ids of a {kind:.80}", hint=CONVERT
        )
    ids: dict[str, int] = {}
    for number, piece in enumerate(read_pieces(data, f"'{name}': {file}")):
        ids.setdefault(piece, number)
    return ids


def _decoder(name: str, config: Mapping[str, Any]) -> Iterator[tuple[str, int, Mapping[str, bool]]]:
    """The added tokens that tokenizer_config.json lists by id."""
    listed = config.get("added_tokens_decoder")
    for number, token in (listed if isinstance(listed, Mapping) else {}).items():
        text = token.get("content") if isinstance(token, Mapping) else None
        numeric = number.isascii() and number.isdecimal() and len(number) < 10
        if not numeric or not isinstance(text, str):
            raise CheckpointError.of(
                f"'{name}': {TOKENIZER_CONFIG}: 'added_tokens_decoder' has a bad entry "
                f"{number!r:.40}"
            )
        yield text, int(number), {flag: token.get(flag) is True for flag in FLAGS}


def _object(name: str, files: Mapping[str, bytes], file: str) -> Mapping[str, Any]:
    return parse_object(files[file], f"'{name}': {file}", twins=True) if file in files else {}


def _entries(where: str, listed: Any) -> Sequence[Mapping[str, Any]]:
    if not isinstance(listed, list) or not all(isinstance(entry, Mapping) for entry in listed):
        raise CheckpointError.of(f"{where}: 'added_tokens' is no list of objects")
    return listed


def _by_id(ids: Mapping[str, int]) -> Mapping[str, int]:
    return dict(sorted(ids.items(), key=lambda item: item[1]))

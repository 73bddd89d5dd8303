"""Reading vocabularies: every form of tokenizer, and files that are damaged or hostile."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergebuild.errors import CheckpointError
from mergebuild.expression import Operand, RowsView, view_key
from mergebuild.vocabulary.rows import make_table
from mergebuild.vocabulary.sentencepiece import read_pieces
from mergebuild.vocabulary.vocabulary import read_vocabulary
from tests.vocabularies import byte_level, unigram, word_piece


def field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that has a length."""
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def pieces(*names: str) -> bytes:
    """A SentencePiece model: pieces with a score and a type, then what else such files have."""
    rest = b"\x15\x00\x00\x80\xbf" + b"\x18\x03"
    body = b"".join(field(1, field(1, name.encode()) + rest) for name in names)
    return body + field(2, b"\x18\x01") + field(3, b"")


def text(value: object) -> bytes:
    return json.dumps(value).encode()


LLAMA = text({"tokenizer_class": "LlamaTokenizer"})
FORMS: dict[str, tuple[dict[str, bytes], dict[str, int]]] = {
    "BPE": (
        {"tokenizer.json": byte_level("ab", added=["<x>"]).to_str().encode()},
        {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, "<x>": 5},
    ),
    "WordPiece": (
        {"tokenizer.json": word_piece(["a", "##b"]).to_str().encode()},
        {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "##b": 4},
    ),
    "Unigram": (
        {"tokenizer.json": unigram([("a", -1.0)], added=["<x>"]).to_str().encode()},
        {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "<x>": 4},
    ),
    "SentencePiece": (
        {"tokenizer.model": pieces("<unk>", "▁a", "b"), "tokenizer_config.json": LLAMA,
         "added_tokens.json": text({"<x>": 3})},
        {"<unk>": 0, "▁a": 1, "b": 2, "<x>": 3},
    ),
    "SentencePiece, added tokens by id": (
        {"spiece.model": pieces("<unk>", "a"), "tokenizer_config.json": text({
            "tokenizer_class": "T5TokenizerFast",
            "added_tokens_decoder": {"2": {"content": "<extra_id_0>", "special": True}},
        })},
        {"<unk>": 0, "a": 1, "<extra_id_0>": 2},
    ),
    "vocab.json": (
        {"vocab.json": text({"a": 0, "b": 2}), "merges.txt": b""}, {"a": 0, "b": 2},
    ),
    "vocab.txt": ({"vocab.txt": b"[UNK]\r\na\n##b\n"}, {"[UNK]": 0, "a": 1, "##b": 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_read(name: str) -> None:
    files, expected = FORMS[name]
    vocabulary = read_vocabulary("m", files)
    assert vocabulary.ids == expected
    assert list(vocabulary.ids.values()) == sorted(expected.values())
    assert vocabulary.size == max(expected.values()) + 1


REFUSED: dict[str, tuple[Mapping[str, bytes], str]] = {
    "nothing": ({}, "has no tokenizer"),
    "tiktoken": ({"a.tiktoken": b""}, r"in 'a\.tiktoken' only, which cannot be read"),
    "moved ids": (
        {"sentencepiece.bpe.model": pieces("a"),
         "tokenizer_config.json": text({"tokenizer_class": "XLMRobertaTokenizer"})},
        "does not tell the ids of a XLMRobertaTokenizer",
    ),
    "not JSON": ({"tokenizer.json": b"{"}, "not JSON"),
    "no model": ({"tokenizer.json": b"{}"}, "no 'model' object"),
    "no vocabulary": ({"tokenizer.json": text({"model": {"type": "BPE"}})}, "no 'vocab'"),
    "an id that is none": (
        {"tokenizer.json": text({"model": {"type": "BPE", "vocab": {"a": -1}}})},
        "token 'a' has the id -1",
    ),
    "two ids": (
        {"tokenizer.json": text({"model": {"type": "BPE", "vocab": {"a": 0}},
                                 "added_tokens": [{"id": 1, "content": "a"}]})},
        "token 'a' has the ids 0 and 1",
    ),
    "a piece without a score": (
        {"tokenizer.json": text({"model": {"type": "Unigram", "vocab": [["a"]]}})},
        r"entry 0 of 'vocab' is no \[piece, score\]",
    ),
    "a model of SentencePiece that ends": (
        {"tokenizer.model": pieces("abc")[:4]}, "not a SentencePiece model: it ends within",
    ),
    "a bad id among added tokens": (
        {"vocab.txt": b"a\n", "tokenizer_config.json": text(
            {"added_tokens_decoder": {"9" * 5000: {"content": "x"}}})},
        "'added_tokens_decoder' has a bad entry",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused(name: str) -> None:
    files, message = REFUSED[name]
    with pytest.raises(CheckpointError, match=message):
        read_vocabulary("m", files)


@settings(max_examples=150, deadline=2000, derandomize=True)
@given(st.binary(max_size=60) | st.builds(lambda n: pieces("abc", "de")[:n], st.integers(0, 40)))
def test_no_bytes_crash_the_reader_of_pieces(data: bytes) -> None:
    try:
        found = list(read_pieces(data, "m"))
    except CheckpointError as error:
        found = [str(error)]
    assert found
    assert all(isinstance(piece, str) for piece in found)


GOLDEN = ("de146212a80adf7681cbece5fbb849ff", "749262465e55b9870b6cb012b927c4e6")


def test_golden_keys_of_views() -> None:
    """These change only together with ROWS_VERSION or KEY_SCHEMA."""
    table, used = make_table([((0, 1),), (), ((2, 5), (0, 3)), ((2, 4),)])
    assert used == (0, 2)
    assert table.reads == (2, 2)
    parts = tuple(Operand(m, "w", digit * 32, "float32") for m, digit in (("a", "0"), ("b", "1")))
    assert (table.digest, view_key(RowsView(table.digest, parts), "float32")) == GOLDEN

"""Tiny models whose embeddings tell where a row is from: row 5 of a model `at` 200 is all 205.0,
and in its output head 1205.0."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests import kit

SPECIAL = ("<unk>", "<s>", "</s>")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def byte_level(
    words: Iterable[str],
    merges: Sequence[tuple[str, str]] = (),
    added: Sequence[str] = (),
) -> Tokenizer:
    """Byte-level BPE: the special tokens, the words in their order, then added special tokens."""
    vocab = {word: i for i, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.BPE(vocab, list(merges), unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*SPECIAL, *added])
    return tokenizer


def word_piece(words: Iterable[str]) -> Tokenizer:
    vocab = {word: i for i, word in enumerate(["[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    return tokenizer


def unigram(pieces: Sequence[tuple[str, float]], added: Sequence[str] = ()) -> Tokenizer:
    vocab = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *pieces]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([*SPECIAL, *added])
    return tokenizer


def write(
    path: Path,
    tokenizer: Tokenizer | str,
    *,
    at: float = 0.0,
    rows: int | None = None,
    tied: bool = False,
    dtype: str = "float32",
) -> Path:
    """A LlamaForCausalLM with this tokenizer (letters: byte-level BPE of just those)."""
    if isinstance(tokenizer, str):
        tokenizer = byte_level(tokenizer)
    rows = rows or tokenizer.get_vocab_size()
    kit.llama(path, layers=1, hidden=16, vocab=rows, tied=tied, dtype=dtype)
    tokenizer.save(str(path / "tokenizer.json"))
    tensors = load_file(path / "model.safetensors")
    values = torch.arange(rows, dtype=torch.float32)[:, None].repeat(1, 16) + at
    tensors[EMBEDDING] = values.to(tensors[EMBEDDING].dtype)
    if not tied:
        tensors[HEAD] = (values + 1000).to(tensors[EMBEDDING].dtype)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def edit(path: Path, **settings: object) -> None:
    """Change settings in a file of JSON; None takes one away."""
    data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    data |= settings
    kept = {key: value for key, value in data.items() if value is not None}
    path.write_text(json.dumps(kept, indent=2), encoding="utf-8")


def tokens(path: Path) -> dict[str, int]:
    """The ids of a checkpoint's tokenizer."""
    found = Tokenizer.from_file(str(path / "tokenizer.json")).get_vocab()
    return dict(sorted(found.items(), key=lambda item: item[1]))


def rows(path: Path, tensor: str = EMBEDDING) -> dict[str | int, float]:
    """What each token's row holds, of rows without a token by their number."""
    matrix = kit.read(path)[tensor]
    assert all(row.eq(row[0]).all() for row in matrix)
    names = {number: token for token, number in tokens(path).items()}
    return {names.get(number, number): row[0].item() for number, row in enumerate(matrix)}

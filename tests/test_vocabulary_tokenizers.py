"""The tokenizers that nodes put out: read by transformers, and encoding as they should."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer

from tests import kit, vocabularies
from tests.builder import Scratch
from tests.vocabularies import byte_level, unigram, word_piece

Make = Callable[[], Tokenizer]


def linear(settings: str, *models: str) -> str:
    listed = ", ".join(f"{{model: ./{m}, parameters: {{weight: 1}}}}" for m in models)
    return f"merge_method: linear\nmodels: [{listed}]\n{settings}\n"


def build(root: Path, settings: str, **tokenizers: Tokenizer) -> Path:
    for name, tokenizer in tokenizers.items():
        if not (root / name).exists():
            vocabularies.write(root / name, tokenizer)
    scratch = Scratch(root, recipe="out.yaml")
    scratch.write(linear(settings, *tokenizers))
    scratch.build()
    return scratch.output("out")


def read(path: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(path)


# Trained as tokenizers are: on text, so that merges and scores are in earnest.
ENGLISH = ["the quick brown fox jumps over the lazy dog", "the dog sleeps and the fox is quick"]
CODE = ["for i in range(10): print(i)", "def quick(x): return x + 1", "print(range(3))"]


def trained(kind: str, texts: list[str], size: int) -> Tokenizer:
    from tokenizers import decoders, models, pre_tokenizers, trainers

    if kind == "BPE":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=size, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet,
            show_progress=False,
        )  # fmt: skip
    elif kind == "WordPiece":
        tokenizer = word_piece([])
        trainer = trainers.WordPieceTrainer(
            vocab_size=size, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False
        )
    else:
        tokenizer = unigram([])
        trainer = trainers.UnigramTrainer(
            vocab_size=size, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>",
            show_progress=False,
        )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


KINDS = {"BPE": 300, "WordPiece": 60, "Unigram": 50}


@pytest.mark.parametrize("kind", KINDS)
def test_a_union_has_every_token_and_begins_as_the_first(tmp_path: Path, kind: str) -> None:
    a, b = (trained(kind, texts, KINDS[kind]) for texts in (ENGLISH, CODE))
    b.add_special_tokens(["<|im_start|>"])
    b.add_tokens(["wholeword"])
    for name, tokenizer in (("a", a), ("b", b)):
        vocabularies.write(tmp_path / name, tokenizer)
        if kind == "WordPiece":
            vocabularies.edit(
                tmp_path / name / "tokenizer_config.json",
                unk_token="[UNK]", bos_token=None, eos_token=None,
            )  # fmt: skip
    out = read(build(tmp_path, "tokenizer_source: union", a=a, b=b))
    ids = out.get_vocab()
    assert a.get_vocab().items() <= ids.items()
    assert ids.keys() == a.get_vocab().keys() | b.get_vocab().keys()
    assert sorted(ids.values()) == list(range(len(ids)))
    assert "<|im_start|>" in out.all_special_tokens or (
        out.added_tokens_decoder[ids["<|im_start|>"]].special
    )
    for text in (*ENGLISH, *CODE, "quick wholeword<|im_start|>range"):
        encoded = out(text)["input_ids"]
        assert out.decode(encoded, skip_special_tokens=False).replace(" ", "") == text.replace(
            " ", ""
        )
    assert out("<|im_start|>")["input_ids"] == [ids["<|im_start|>"]]


def test_united_merges_are_the_firsts_then_the_new_ones(tmp_path: Path) -> None:
    a = byte_level(["a", "b", "c", "d", "ab", "abc"], [("a", "b"), ("ab", "c")])
    b = byte_level(["c", "d", "b", "a", "cd", "bcd", "ab"], [("c", "d"), ("b", "cd"), ("a", "b")])
    out = build(tmp_path, "tokenizer_source: union", a=a, b=b)
    model = json.loads((out / "tokenizer.json").read_text())["model"]
    assert model["merges"] == [["a", "b"], ["ab", "c"], ["c", "d"], ["b", "cd"]]
    tokenizer = read(out)
    assert tokenizer.tokenize("abc") == ["abc"]  # as the first does
    assert tokenizer.tokenize("bcd") == ["bcd"]  # what only the second can
    assert tokenizer.tokenize("abcd") == ["abc", "d"]  # the first goes before
    assert a.encode("abcd").tokens == ["abc", "d"]


def test_a_union_with_a_tokenizer_that_has_added_tokens_encodes_as_it(tmp_path: Path) -> None:
    a = byte_level("abcd")
    b = byte_level("abcd", added=["<|im_start|>", "<|im_end|>"])
    b.add_tokens(["abba"])
    out = read(build(tmp_path, "tokenizer_source: union", a=a, b=b))
    for text in ("abcd", "<|im_start|>ab<|im_end|>", "dabbac", "<s>a"):
        assert out(text)["input_ids"] == b.encode(text).ids
    assert out.decode(out("<|im_start|>ab")["input_ids"], skip_special_tokens=True) == "ab"


@pytest.mark.parametrize("source", ["base", "./b", "union"])
def test_a_vocabulary_that_is_kept_is_kept_byte_for_byte(tmp_path: Path, source: str) -> None:
    a, b = byte_level("abcd"), byte_level("dc", added=["<x>"])
    if source == "union":
        b = byte_level("dc")
    for name, tokenizer in (("a", a), ("b", b)):
        vocabularies.write(tmp_path / name, tokenizer)
        vocabularies.edit(tmp_path / name / "tokenizer_config.json", model_max_length=len(name))
        vocabularies.edit(tmp_path / name / "special_tokens_map.json", eos_token=f"</{name}>")
    out = build(tmp_path, f"tokenizer_source: {source}", a=a, b=b)
    giver = tmp_path / ("b" if source == "./b" else "a")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (out / name).read_bytes() == (giver / name).read_bytes()


def test_other_files_that_tell_of_tokens_agree(tmp_path: Path) -> None:
    a, b = byte_level("abcd"), byte_level("abcd", added=["<x>"])
    for name, tokenizer in (("a", a), ("b", b)):
        vocabularies.write(tmp_path / name, tokenizer)
    decoder = {"0": {"content": "<unk>", "special": True}}
    vocabularies.edit(tmp_path / "a/tokenizer_config.json", added_tokens_decoder=decoder)
    (tmp_path / "a/vocab.json").write_text(json.dumps(a.get_vocab()))
    (tmp_path / "a/merges.txt").write_text("")
    (tmp_path / "a/preprocessor_config.json").write_text("{}")
    scratch = Scratch(tmp_path, recipe="out.yaml")
    scratch.write(linear("tokenizer_source: union", "a", "b"))
    notes = scratch.plan().nodes["out"].notes
    assert "not written, for tokenizer.json has more tokens: merges.txt, vocab.json" in notes
    scratch.build()
    out = scratch.output("out")
    files = {path.name for path in out.iterdir()}
    assert {"tokenizer.json", "preprocessor_config.json", "generation_config.json"} <= files
    assert not {"vocab.json", "merges.txt"} & files
    listed = json.loads((out / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert {number: token["content"] for number, token in listed.items()} == {
        "0": "<unk>",
        "7": "<x>",
    }
    assert listed["7"]["special"] is True


CLASSES = {
    "GPT2Tokenizer": ("BPE", {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}),
    "LlamaTokenizerFast": ("BPE", {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}),
    "PreTrainedTokenizerFast": ("Unigram", {"unk_token": "<unk>", "eos_token": "</s>"}),
    "BertTokenizer": ("WordPiece", {"unk_token": "[UNK]", "sep_token": "[SEP]"}),
}


@pytest.mark.parametrize("name", CLASSES)
def test_it_loads_as_the_class_that_its_config_names(tmp_path: Path, name: str) -> None:
    kind, special = CLASSES[name]
    a, b = (trained(kind, texts, KINDS[kind]) for texts in (ENGLISH, CODE))
    if name == "BertTokenizer":  # which has them in any case
        a.add_special_tokens(["[PAD]", "[MASK]"])
    b.add_special_tokens(["<|im_start|>"])
    for model, tokenizer in (("a", a), ("b", b)):
        vocabularies.write(tmp_path / model, tokenizer)
        none = {"bos_token": None, "unk_token": None, "eos_token": None}
        settings: dict[str, object] = {**none, **special, "tokenizer_class": name}
        vocabularies.edit(tmp_path / model / "tokenizer_config.json", **settings)
    out = build(tmp_path, "tokenizer_source: union", a=a, b=b)
    loaded, plain = read(out), Tokenizer.from_file(str(out / "tokenizer.json"))
    assert loaded.get_vocab() == plain.get_vocab()
    assert loaded("<|im_start|>", add_special_tokens=False)["input_ids"] == [
        plain.token_to_id("<|im_start|>")
    ]


def test_ids_in_configs_follow_their_tokens(tmp_path: Path) -> None:
    a = byte_level("abcd", added=["<pad>", "<end>"])
    b = byte_level("xy", added=["<end>"])
    for name, tokenizer in (("a", a), ("b", b)):
        vocabularies.write(tmp_path / name, tokenizer)
    vocabularies.edit(
        tmp_path / "a/config.json", bos_token_id=1, eos_token_id=[2, 8], pad_token_id=7,
        image_token_index=-200, vision_config={"bos_token_id": 7}, num_beams=7,
    )  # fmt: skip
    vocabularies.edit(
        tmp_path / "a/generation_config.json", eos_token_id=[2, 8], pad_token_id=7,
        suppress_tokens=[3, 8], bad_words_ids=[[8], [1]], max_length=7,
    )  # fmt: skip
    vocabularies.edit(tmp_path / "b/config.json", pad_token_id=2)
    scratch = Scratch(tmp_path, recipe="out.yaml")
    scratch.write(linear("tokenizer_source: ./b", "a", "b"))
    notes = scratch.plan().nodes["out"].notes
    assert "'pad_token_id' of './a' is '<pad>', which is no longer a token" in notes
    scratch.build()
    out = scratch.output("out")
    config = kit.config(out)
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, [2, 5])
    assert (config["pad_token_id"], config["vocab_size"]) == (2, 6)
    assert (config["image_token_index"], config["num_beams"]) == (-200, 7)
    assert config["vision_config"] == {"bos_token_id": 7}
    generation = json.loads((out / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["max_length"]) == ([2, 5], 7)
    assert (generation["suppress_tokens"], generation["bad_words_ids"]) == ([5], [[5], [1]])


def test_every_matrix_of_an_encoder_decoder_is_resized(tmp_path: Path) -> None:
    for seed, (name, letters) in enumerate((("a", "abcd"), ("b", "baxy"))):
        torch.manual_seed(seed)
        config: Any = transformers.BartConfig(
            vocab_size=7, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=24,
            decoder_ffn_dim=24, encoder_attention_heads=4, decoder_attention_heads=4,
            max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            decoder_start_token_id=2, forced_eos_token_id=2,
        )  # fmt: skip
        model = transformers.BartForConditionalGeneration(config)
        model.final_logits_bias.add_(torch.arange(7) * (seed + 1))
        model.save_pretrained(tmp_path / name)
        byte_level(letters).save(str(tmp_path / name / "tokenizer.json"))
    out = build(tmp_path, "tokenizer_source: union", a=byte_level("abcd"), b=byte_level("baxy"))
    merged, a, b = (kit.read(path) for path in (out, tmp_path / "a", tmp_path / "b"))
    name = "model.shared.weight"
    assert merged[name].shape == (9, 16)
    torch.testing.assert_close(merged[name][3], (a[name][3] + b[name][4]) / 2)
    assert merged[name][8].equal(b[name][6])
    bias = [(0, 0), (1, 2), (2, 4), (3, 8), (4, 6), (5, 5), (6, 6), (10, 10), (12, 12)]
    assert merged["final_logits_bias"].tolist() == [[(x + y) / 2 for x, y in bias]]
    loaded = transformers.AutoModelForSeq2SeqLM.from_pretrained(out)
    assert loaded.config.vocab_size == 9


def test_biases_of_the_head_go_with_it(tmp_path: Path) -> None:
    for seed, (name, letters) in enumerate((("a", "abcd"), ("b", "baxy"))):
        torch.manual_seed(seed)
        config: Any = transformers.BertConfig(
            vocab_size=7, hidden_size=16, num_hidden_layers=1, num_attention_heads=4,
            intermediate_size=24, max_position_embeddings=32,
        )  # fmt: skip
        model: Any = transformers.BertForMaskedLM(config)
        torch.nn.init.normal_(model.cls.predictions.bias)
        model.save_pretrained(tmp_path / name)
        word_piece(letters).save(str(tmp_path / name / "tokenizer.json"))
    out = build(tmp_path, "tokenizer_source: ./b", a=word_piece("abcd"), b=word_piece("baxy"))
    merged, a, b = (kit.read(path) for path in (out, tmp_path / "a", tmp_path / "b"))
    name = "cls.predictions.bias"
    torch.testing.assert_close(merged[name][3], (a[name][4] + b[name][3]) / 2)
    assert merged[name][5].equal(b[name][5])
    assert merged["bert.embeddings.word_embeddings.weight"].shape == (7, 16)
    transformers.AutoModelForMaskedLM.from_pretrained(out)

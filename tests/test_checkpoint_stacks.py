"""Layer stacks from names: families that are known, shapes that are not, and the config's word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.checkpoint.source import open_checkpoint
from mergebuild.checkpoint.stacks import find_layout, head_and_embedding, join, position
from tests import kit


def names(prefix: str, count: int, *rests: str) -> list[str]:
    return [f"{prefix}{i}.{rest}" for i in range(count) for rest in rests or ("a.weight", "b.bias")]


VLM = [
    *names("model.visual.blocks.", 4, "attn.weight", "mlp.weight", "norm.weight"),
    *names("model.language_model.layers.", 2, "attn.weight", "mlp.weight"),
    "model.visual.patch_embed.proj.weight", "model.language_model.embed_tokens.weight",
]  # fmt: skip
T5 = [
    *names("encoder.block.", 2, "layer.0.q.weight"),
    *names("decoder.block.", 2, "layer.0.q.weight", "layer.1.q.weight"),
    "shared.weight", "encoder.embed_tokens.weight", "lm_head.weight",
]  # fmt: skip
MOE = names("model.layers.", 3, "mlp.experts.0.w1.weight", "mlp.experts.11.w1.weight", "mlp.gate")

LAYOUTS: dict[
    str, tuple[list[str], Mapping[str, Any] | None, list[tuple[str, int, str]], str | None]
] = {
    "llama": (
        names("model.layers.", 12), {"num_hidden_layers": 12},
        [("model.layers.", 12, "text_decoder")], "model.layers.",
    ),
    "gpt2": (
        names("transformer.h.", 2), {"n_layer": 2},
        [("transformer.h.", 2, "text_decoder")], "transformer.h.",
    ),
    "bare gpt2": (names("h.", 2), None, [("h.", 2, "text_decoder")], "h."),
    "no prefix": (names("", 2), None, [("", 2, "text_decoder")], ""),
    "bert": (
        names("encoder.layer.", 2), {"num_hidden_layers": 2},
        [("encoder.layer.", 2, "encoder")], "encoder.layer.",
    ),
    "opt": (
        names("model.decoder.layers.", 2), {"num_hidden_layers": 2},
        [("model.decoder.layers.", 2, "text_decoder")], "model.decoder.layers.",
    ),
    "t5": (
        T5, {"num_layers": 2},
        [("decoder.block.", 2, "decoder"), ("encoder.block.", 2, "encoder")], "decoder.block.",
    ),
    "a deep encoder": (
        names("model.encoder.layers.", 4) + names("model.decoder.layers.", 2),
        {"num_hidden_layers": 4, "encoder_layers": 4, "decoder_layers": 2},
        [("model.decoder.layers.", 2, "decoder"), ("model.encoder.layers.", 4, "encoder")],
        "model.decoder.layers.",
    ),
    "vision-language": (
        VLM, {"text_config": {"num_hidden_layers": 2}, "vision_config": {"num_hidden_layers": 4}},
        [
            ("model.language_model.layers.", 2, "text_decoder"),
            ("model.visual.blocks.", 4, "vision_tower"),
        ],
        "model.language_model.layers.",
    ),
    "vision-language, equal depths, no config": (
        names("vision.blocks.", 2, "a", "b", "c") + names("lm.layers.", 2, "a"), None,
        [("lm.layers.", 2, "text_decoder"), ("vision.blocks.", 2, "vision_tower")], "lm.layers.",
    ),
    "vision alone": (
        names("vision_model.encoder.layers.", 2), {"num_hidden_layers": 2},
        [("vision_model.encoder.layers.", 2, "vision_tower")], "vision_model.encoder.layers.",
    ),
    "experts": (MOE, None, [("model.layers.", 3, "text_decoder")], "model.layers."),
    "the config decides": (
        names("a.", 3, "w", "v") + names("b.", 2, "w"), {"num_layers": 2},
        [("a.", 3, "other"), ("b.", 2, "text_decoder")], "b.",
    ),
    "the largest else": (
        names("a.", 3, "w", "v") + names("b.", 2, "w"), {"num_layers": 9},
        [("a.", 3, "text_decoder"), ("b.", 2, "other")], "a.",
    ),
    "a hole": (["h.0.w", "h.2.w"], None, [], None),
    "not from 0": (["h.1.w", "h.2.w"], None, [], None),
    "leading zeros": (["h.00.w", "h.01.w"], None, [], None),
    "other digits": (["h.\u0660.w", "h.\u00b2.w"], None, [], None),
    "a number at the end": (["table.0", "table.1"], None, [], None),
    "a long number": (["h.0.w", f"h.{'9' * 5000}.w"], None, [("h.", 1, "text_decoder")], "h."),
    "none": ([], None, [], None),
    "odd config": (["h.0.w"], {"num_layers": True, "text_config": 3},
                   [("h.", 1, "text_decoder")], "h."),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYOUTS)
def test_layouts(case: str) -> None:
    tensors, config, stacks, default = LAYOUTS[case]
    layout = find_layout(reversed(tensors), config)
    assert [(s.prefix, s.count, s.role) for s in layout.stacks] == stacks
    assert (layout.default.prefix if layout.default else None) == default
    inside = {n for s in layout.stacks for i in range(s.count) for n in layout.layer(s, i).values()}
    assert inside.isdisjoint(layout.beside)
    assert sorted([*inside, *layout.beside]) == sorted(tensors)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_hidden_layers": 3}, None),
        ({"num_hidden_layers": 4}, "the config says 4 layers, but 'model.layers.' has 3"),
        ({"text_config": {"n_layers": 2}}, "the config says 2 layers, but 'model.layers.' has 3"),
        ({}, None),
        (None, None),
    ],
)
def test_mismatch(config: Mapping[str, Any] | None, message: str | None) -> None:
    assert find_layout(MOE, config).mismatch == message


def test_lookup() -> None:
    layout = find_layout(VLM, {"text_config": {"num_hidden_layers": 2}})
    text, vision = layout.stacks
    for module, stack in (
        ("default", text), ("text_decoder", text), ("model.language_model.layers.", text),
        ("model.language_model.layers", text), ("vision_tower", vision),
        ("model.visual.blocks", vision), ("audio_tower", None), ("", None), ("nonsense", None),
    ):  # fmt: skip
        assert layout.lookup(module) == stack
    assert find_layout([], None).lookup("default") is None
    assert layout.layer(text, 1) == {
        "attn.weight": "model.language_model.layers.1.attn.weight",
        "mlp.weight": "model.language_model.layers.1.mlp.weight",
    }


@given(
    st.lists(
        st.lists(st.sampled_from(["0", "1", "2", "h", "layers", "w", "01", ""]), min_size=1).map(
            ".".join
        ),
        unique=True,
    )
)
def test_split_and_join(tensors: list[str]) -> None:
    layout = find_layout(tensors, None)
    for name in tensors:
        stack, layer, rest = layout.split(name)
        if stack is None or layer is None:
            assert (name in layout.beside, rest) == (True, name)
        else:
            assert join(stack, layer, rest) == name
            assert layout.layer(stack, layer)[rest] == name


@pytest.mark.parametrize(
    ("position_", "tensors"),
    [
        (
            "before",
            "model.embed_tokens.weight transformer.wte.weight wpe.weight shared.weight "
            "tok_embeddings.weight embeddings.LayerNorm.bias gpt_neox.embed_in.weight "
            "transformer.word_embeddings_layernorm.weight visual.patch_embed.proj.weight "
            "vision_model.pre_layrnorm.weight visual.pos_embed visual.class_embedding conv_in.bias "
            "vision.cls_token mm.position_ids",
        ),
        (
            "after",
            "lm_head.weight model.norm.weight output.weight embed_out.weight transformer.ln_f.bias "
            "final_layer_norm.weight score.weight pooler.dense.bias visual.merger.ln_q.weight "
            "post_layernorm.weight norm.weight",
        ),
    ],
)
def test_position(position_: str, tensors: str) -> None:
    assert {name: position(name) for name in tensors.split()} == dict.fromkeys(
        tensors.split(), position_
    )


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ("embed_tokens.weight lm_head.weight", ("lm_head.weight", "embed_tokens.weight")),
        ("transformer.wte.weight transformer.wpe.weight", (None, "transformer.wte.weight")),
        ("output.weight tok_embeddings.weight", ("output.weight", "tok_embeddings.weight")),
        ("embed_out.weight x.embed_in.weight", ("embed_out.weight", "x.embed_in.weight")),
        ("transformer.word_embeddings.weight", (None, "transformer.word_embeddings.weight")),
        (" ".join(T5), ("lm_head.weight", "shared.weight")),
        (" ".join(VLM), (None, "model.language_model.embed_tokens.weight")),
        ("layers.0.output.weight layers.0.shared.weight lm_head.bias wte.lora", (None, None)),
        ("weight .weight", (None, None)),
    ],
)  # fmt: skip
def test_head_and_embedding(tensors: str, expected: tuple[str | None, str | None]) -> None:
    assert head_and_embedding(tensors.split()) == expected
    assert head_and_embedding(reversed(tensors.split())) == expected


@pytest.mark.parametrize("family", [kit.llama, kit.qwen2, kit.gpt2])
def test_families_of_the_kit(family: Any, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(family(tmp_path / "m", layers=3), "m")
    layout = find_layout(checkpoint.tensors, checkpoint.config)
    assert (len(layout.stacks), layout.mismatch) == (1, None)
    assert layout.default is not None
    assert (layout.default.count, layout.default.role) == (3, "text_decoder")


def test_a_shuffle_changes_nothing() -> None:
    shuffled: Iterable[str] = sorted(VLM, key=lambda name: name[::-1])
    assert find_layout(shuffled, None) == find_layout(VLM, None)

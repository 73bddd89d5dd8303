"""Which layers, and what beside them, an output has: modules, first and last layers, names that
begin differently, and what a config says of layers that were moved."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import mergebuild as mb
from mergebuild.checkpoint.config import output_config
from mergebuild.checkpoint.depth import Depth
from mergebuild.checkpoint.layer_rules import Unsayable
from mergebuild.checkpoint.source import open_checkpoint
from mergebuild.checkpoint.stacks import Stack, find_layout
from mergebuild.checkpoint.wrappers import rename
from tests import kit
from tests.builder import Scratch

HEAD = "mergebuild: 1\nsources: {a: ./a, b: ./b}\nnodes:\n  out:\n"
LINEAR = HEAD + (
    "    merge_method: linear\n"
    "    models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]\n"
)


def write(path: Path, names: Sequence[str], value: float, said: Any = None) -> None:
    """A checkpoint whose tensors all have one value."""
    path.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.full((2,), float(value)) for name in names}, path / "model.safetensors")
    if said is not None:
        (path / "config.json").write_text(json.dumps(said))


def layers(prefix: str, count: int, *rests: str) -> list[str]:
    return [f"{prefix}{i}.{rest}" for i in range(count) for rest in rests]


def build(root: Path, recipe: str) -> tuple[dict[str, float], tuple[str, ...]]:
    """The output's tensors, each by its one value, and the plan's notes."""
    scratch = Scratch(root)
    scratch.write(recipe)
    notes = scratch.plan().nodes["out"].notes
    scratch.build()
    found = kit.read(scratch.output("out"))
    return {name: float(tensor[0]) for name, tensor in found.items()}, notes


# Names that begin differently.

OTHERWISE: dict[str, tuple[list[str], list[str], list[tuple[str, str, int]]]] = {
    "gpt2": (
        ["transformer.wte.weight", *layers("transformer.h.", 2, "w")],
        ["wte.weight", *layers("h.", 2, "w")], [("", "transformer.", 3)],
    ),
    "bert": (
        [*layers("encoder.layer.", 2, "w"), "pooler.w"],
        [*layers("bert.encoder.layer.", 2, "w"), "bert.pooler.w", "cls.predictions.bias"],
        [("bert.", "", 3)],
    ),
    "by the config's type": (
        layers("layers.", 2, "w"), layers("some_thing.layers.", 2, "w"), [("some_thing.", "", 2)]
    ),
    "vision-language": (
        [*layers("model.language_model.layers.", 2, "w"), "model.visual.merger.w",
         *layers("model.visual.blocks.", 2, "w"), "lm_head.weight"],
        [*layers("language_model.model.layers.", 2, "w"), "visual.merger.w",
         *layers("visual.blocks.", 2, "w"), "language_model.lm_head.weight"],
        [("", "model.", 3), ("language_model.", "", 1),
         ("language_model.model.", "model.language_model.", 2)],
    ),
    "a tower in a tower": (
        layers("vision_tower.encoder.layers.", 2, "w"),
        layers("model.vision_tower.vision_model.encoder.layers.", 2, "w"),
        [("model.vision_tower.vision_model.", "vision_tower.", 2)],
    ),
    "text into vision-language": (
        [*layers("model.language_model.layers.", 2, "w"), *layers("model.visual.blocks.", 3, "w")],
        [*layers("model.layers.", 2, "w")], [("model.", "model.language_model.", 2)],
    ),
    "wrapped by training": (
        layers("model.layers.", 2, "w"), layers("module._orig_mod.model.layers.", 2, "w"),
        [("module._orig_mod.", "", 2)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERWISE)
def test_names_that_begin_differently(case: str, tmp_path: Path) -> None:
    here, there, rules = OTHERWISE[case]
    write(tmp_path / "a", here, 1, {"model_type": "some-thing"})
    write(tmp_path / "b", there, 3)
    out, notes = build(tmp_path, LINEAR)
    assert {name: out[name] for name in here if out[name] == 2} == dict.fromkeys(
        here if case != "text into vision-language" else here[:2], 2.0
    )
    told = [note for note in notes if note.startswith("names in 'b'")]
    assert told == [
        f"names in 'b' begin with '{own}' where they begin with '{output}' in 'a': {count} tensors "
        "matched by what follows" for own, output, count in rules
    ]  # fmt: skip


def test_what_has_no_counterpart_is_called_as_its_neighbours(tmp_path: Path) -> None:
    """Also layers that the other model does not have."""
    write(tmp_path / "a", layers("transformer.h.", 2, "w"), 1)
    write(tmp_path / "b", [*layers("h.", 3, "w"), "h.1.extra", "score.weight"], 3)
    recipe = HEAD + (
        "    merge_method: passthrough\n    slices:\n"
        "      - sources: [{model: a, layer_range: [0, 1]}]\n"
        "      - sources: [{model: b, layer_range: [1, 3]}]\n"
    )
    assert build(tmp_path, recipe)[0] == {
        "transformer.h.0.w": 1, "transformer.h.1.w": 3, "transformer.h.1.extra": 3,
        "transformer.h.2.w": 3, "score.weight": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("own", "others"),
    [
        (["model.a.w", "b.w"], ["model.a.w", "b.w"]),  # no more fit than do already
        (["model.a.w"], ["x.y"]),  # nothing fits
        (["model.a.w", "model.b.w"], ["a.w", "model.a.w", "b.w"]),  # two there are the same
        (["model.a.w", "a.w"], ["transformer.a.w"]),  # two here would be the same
    ],
)
def test_names_that_are_left_alone(own: list[str], others: list[str]) -> None:
    assert rename(own, others, ()) is None


def test_a_filter_is_held_against_the_names_of_the_input(tmp_path: Path) -> None:
    """Parameters of an input are matched with the names that the input itself has."""
    write(tmp_path / "a", layers("model.language_model.layers.", 1, "w", "v"), 0)
    write(tmp_path / "b", layers("language_model.model.layers.", 1, "w", "v"), 4)
    weight = "[{filter: language_model.model.layers.0.w, value: 3}, {value: 1}]"
    recipe = LINEAR.replace("{model: b, parameters: {weight: 1}}",
                            f"{{model: b, parameters: {{weight: {weight}}}}}")  # fmt: skip
    out, _ = build(tmp_path, recipe)
    assert [round(value, 5) for value in out.values()] == [2.0, 3.0]


# Modules.

VLM = [
    *layers("model.language_model.layers.", 2, "w"), *layers("model.visual.blocks.", 3, "w"),
    "model.language_model.embed_tokens.weight", "model.language_model.norm.weight",
    "lm_head.weight", "model.visual.patch_embed.w", "model.visual.merger.w",
    "model.multi_modal_projector.w",
]  # fmt: skip
VLM_CONFIG = {
    "text_config": {"num_hidden_layers": 2, "layer_types": ["x", "y"]},
    "vision_config": {"depth": 3, "fullatt_block_indexes": [1, 2]},
}


def modules(**parts: str) -> str:
    listed = "".join(f"      {name}: {body}\n" for name, body in parts.items())
    return HEAD + "    merge_method: passthrough\n    modules:\n" + listed


def sliced(*parts: tuple[str, int, int]) -> str:
    found = (f"{{sources: [{{model: {m}, layer_range: [{i}, {j}]}}]}}" for m, i, j in parts)
    return f"{{slices: [{', '.join(found)}]}}"


def test_each_module_has_its_own_slices(tmp_path: Path) -> None:
    write(tmp_path / "a", VLM, 1, VLM_CONFIG)
    write(tmp_path / "b", VLM, 2, VLM_CONFIG)
    out, _ = build(
        tmp_path,
        modules(
            text_decoder=sliced(("a", 0, 2), ("b", 1, 2)),
            **{"model.visual.blocks": sliced(("b", 2, 3), ("a", 0, 1))},
            multi_modal_projector="{models: [{model: b}]}",
        ),
    )
    assert out == {
        **dict(zip(layers("model.language_model.layers.", 3, "w"), (1, 1, 2), strict=True)),
        "model.visual.blocks.0.w": 2, "model.visual.blocks.1.w": 1,
        "model.language_model.embed_tokens.weight": 1, "model.language_model.norm.weight": 2,
        "lm_head.weight": 2, "model.visual.patch_embed.w": 2, "model.visual.merger.w": 1,
        "model.multi_modal_projector.w": 2,
    }  # fmt: skip
    said = kit.config(tmp_path / "build/out")
    assert said["text_config"] == {"num_hidden_layers": 3, "layer_types": ["x", "y", "y"]}
    assert said["vision_config"] == {"depth": 2, "fullatt_block_indexes": [0]}


def test_a_stack_that_no_module_lists_is_whole_and_keeps_what_is_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "a", VLM, 1, VLM_CONFIG)
    write(tmp_path / "b", VLM, 2, VLM_CONFIG)
    out, _ = build(tmp_path, modules(vision_tower=sliced(("b", 0, 1), ("a", 2, 3))))
    assert {name: value for name, value in out.items() if value == 1} == dict.fromkeys(
        ["model.visual.blocks.1.w", "model.visual.merger.w"], 1
    )
    assert kit.config(tmp_path / "build/out")["text_config"] == VLM_CONFIG["text_config"]
    assert kit.config(tmp_path / "build/out")["vision_config"]["depth"] == 2


MODULE_ERRORS = {
    "a range without layers": (
        modules(multi_modal_projector=sliced(("a", 0, 1))),
        "'multi_modal_projector' has no layers that layer_range could choose from",
    ),
    "nothing of that name": (
        modules(nonsense="{models: [{model: a}]}"),
        r"no layer stack 'nonsense'[\s\S]*model.visual.blocks. \(vision_tower\)",
    ),
    "past the end of the tower": (
        modules(vision_tower=sliced(("a", 0, 4))), r"\[0, 4\] goes past the 3 layers of 'a'"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MODULE_ERRORS)
def test_modules_that_do_not_fit(case: str, tmp_path: Path) -> None:
    write(tmp_path / "a", VLM, 1, VLM_CONFIG)
    write(tmp_path / "b", VLM, 2, VLM_CONFIG)
    recipe, message = MODULE_ERRORS[case]
    with pytest.raises(mb.RecipeError, match=message) as caught:
        build(tmp_path, recipe)
    assert caught.value.problems[0].at is not None


def test_what_other_slices_have_beside_is_told(tmp_path: Path) -> None:
    write(tmp_path / "a", layers("h.", 2, "w"), 1)
    write(tmp_path / "b", [*layers("h.", 2, "w"), *layers("mtp.", 1, "w"), "embed.x"], 2)
    recipe = HEAD + "    merge_method: passthrough\n    slices:\n" + (
        "      - sources: [{model: a, layer_range: [0, 1]}]\n"
        "      - sources: [{model: b, layer_range: [1, 2]}]\n"
    )  # fmt: skip
    out, notes = build(tmp_path, recipe)
    assert out == {"h.0.w": 1, "h.1.w": 2}
    assert notes == (
        "left out: no input of the slice that it belongs to has it ('embed.x')",
        "left out: no input of the first slice has these layers ('mtp.')",
    )


# First layers and last.

SLICES = HEAD + "    merge_method: passthrough\n    slices:\n"
T5 = [*layers("decoder.block.", 3, "q"), "decoder.block.0.bias"]
MODERN = [name for name in layers("layers.", 3, "q", "norm") if name != "layers.0.norm"]


def stacked(*parts: tuple[str, int, int]) -> str:
    return SLICES + "".join(
        f"      - sources: [{{model: {m}, layer_range: [{i}, {j}]}}]\n" for m, i, j in parts
    )


def test_what_only_the_first_layer_has_stays_first(tmp_path: Path) -> None:
    write(tmp_path / "a", T5, 1)
    write(tmp_path / "b", T5, 2)
    out, notes = build(tmp_path, stacked(("a", 1, 3), ("b", 0, 2)))
    assert out == {
        **dict(zip(layers("decoder.block.", 4, "q"), (1, 1, 2, 2), strict=True)),
        "decoder.block.0.bias": 1,
    }
    assert notes == (
        "only first layers have it: kept from the first ('decoder.block.0.bias')",
        "left out: only first layers have it ('decoder.block.2.bias')",
    )


def test_what_only_the_first_layer_lacks(tmp_path: Path) -> None:
    write(tmp_path / "a", MODERN, 1)
    out, notes = build(tmp_path, stacked(("a", 1, 3), ("a", 1, 2)).replace(", b: ./b", ""))
    assert sorted(out) == ["layers.0.q", *layers("layers.", 3, "norm", "q")[2:]]
    assert notes == ("left out: first layers have none ('layers.0.norm')",)
    with pytest.raises(mb.RecipeError, match="the first layer of 'a' cannot stand at place 2"):
        build(tmp_path, stacked(("a", 0, 2), ("a", 0, 1)).replace(", b: ./b", ""))


def test_layers_that_predict_further_tokens_stay_behind(tmp_path: Path) -> None:
    names = [*layers("model.layers.", 3, "w"), "model.layers.3.w", "model.layers.3.eh_proj.w"]
    said = {"num_hidden_layers": 3, "num_nextn_predict_layers": 1}
    layout = find_layout(names, said)
    assert (layout.stacks[0].count, layout.mismatch) == (3, None)
    assert layout.beside == ("model.layers.3.eh_proj.w", "model.layers.3.w")
    write(tmp_path / "a", names, 1, said)
    write(tmp_path / "b", names, 2, said)
    out, _ = build(tmp_path, stacked(("a", 0, 3), ("b", 1, 3)))
    assert out == {
        **dict(zip(layers("model.layers.", 6, "w"), (1, 1, 1, 2, 2, 2), strict=True)),
        "model.layers.5.eh_proj.w": 2,
    }
    assert kit.config(tmp_path / "build/out")["num_hidden_layers"] == 5
    assert set(build(tmp_path, LINEAR)[0]) == set(names)


def test_diffusion_transformers(tmp_path: Path) -> None:
    names = [
        *layers("transformer_blocks.", 2, "attn.w", "ff.w"),
        *layers("single_transformer_blocks.", 3, "attn.w"), "x_embedder.w", "proj_out.w",
    ]  # fmt: skip
    said = {"_class_name": "FluxTransformer2DModel", "num_layers": 2, "num_single_layers": 3}
    write(tmp_path / "a", names, 1, said)
    write(tmp_path / "b", names, 2, said)
    out, _ = build(
        tmp_path,
        modules(
            transformer_blocks=sliced(("a", 0, 2), ("b", 1, 2)),
            single_transformer_blocks=sliced(("b", 0, 1), ("a", 2, 3)),
        ),
    )
    assert out["transformer_blocks.2.ff.w"] == 2
    assert [out[n] for n in layers("single_transformer_blocks.", 2, "attn.w")] == [2, 1]
    assert (out["x_embedder.w"], out["proj_out.w"]) == (1, 2)
    assert kit.config(tmp_path / "build/out") == {
        "_class_name": "FluxTransformer2DModel", "num_layers": 3, "num_single_layers": 2,
    }  # fmt: skip


def test_diffusers_finds_what_is_written(tmp_path: Path) -> None:
    """Under the names that it looks for, in one file or several; and so they are read again."""
    names = layers("transformer_blocks.", 4, "attn.w", "ff.w")
    said = {"_class_name": "PixArtTransformer2DModel", "num_layers": 4}
    for model, value in (("a", 1), ("b", 3)):
        write(tmp_path / model, names, value, said)
        file = tmp_path / model / "model.safetensors"
        file.rename(file.with_name("diffusion_pytorch_model.safetensors"))
        save_file(
            {"x": torch.ones(1)}, tmp_path / model / "diffusion_pytorch_model.fp16.safetensors"
        )
    scratch = Scratch(tmp_path)
    scratch.write(LINEAR)
    stem = "diffusion_pytorch_model"
    scratch.build()
    assert {path.name for path in scratch.output("out").glob("*model*")} == {f"{stem}.safetensors"}
    scratch = Scratch(tmp_path, sources={"a": str(tmp_path / "build" / "out")})
    scratch.write(LINEAR.replace("out:", "again:"))
    scratch.build(settings=mb.Settings(shard_size=40))
    written = scratch.output("again")
    index = json.loads((written / f"{stem}.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == [
        f"{stem}-0000{i}-of-00002.safetensors" for i in (1, 2)
    ]
    assert {float(t[0]) for t in kit.read(written).values()} == {2.5}
    assert set(open_checkpoint(written, "x").tensors) == set(names)


# What configs say of layers that were moved.

F, S = "full_attention", "sliding_attention"
MOVED: dict[str, tuple[dict[str, Any], list[int], dict[str, Any]]] = {
    "every third of Gemma": (
        {"num_hidden_layers": 6, "sliding_window_pattern": 3}, [0, 1, 2, 1, 2, 3],
        {"num_hidden_layers": 6, "sliding_window_pattern": 3, "layer_types": [S, S, F, S, F, S]},
    ),
    "a pattern that still holds": (
        {"num_hidden_layers": 6, "sliding_window_pattern": 3}, [0, 1, 2],
        {"num_hidden_layers": 3, "sliding_window_pattern": 3},
    ),
    "an unsaid pattern": (
        {"model_type": "gemma2", "num_hidden_layers": 2}, [1, 0],
        {"model_type": "gemma2", "num_hidden_layers": 2, "layer_types": [F, S]},
    ),
    "an unsaid pattern of a section": (
        {"model_type": "gemma3", "text_config": {
            "model_type": "gemma3_text", "num_hidden_layers": 6}},
        [4, 5],
        {"model_type": "gemma3", "text_config": {
            "model_type": "gemma3_text", "num_hidden_layers": 2, "layer_types": [S, F]}},
    ),
    "windows from a layer on": (
        {"num_hidden_layers": 3, "use_sliding_window": True, "max_window_layers": 1}, [1, 0],
        {"num_hidden_layers": 2, "use_sliding_window": True, "max_window_layers": 1,
         "layer_types": [S, F]},
    ),
    "windows that are not used": (
        {"num_hidden_layers": 3, "use_sliding_window": False, "max_window_layers": 1}, [1, 0],
        {"num_hidden_layers": 2, "use_sliding_window": False, "max_window_layers": 1},
    ),
    "linear attention": (
        {"num_hidden_layers": 4, "full_attention_interval": 2}, [1, 0],
        {"num_hidden_layers": 2, "full_attention_interval": 2,
         "layer_types": [F, "linear_attention"]},
    ),
    "no rotary embedding": (
        {"num_hidden_layers": 4, "no_rope_layer_interval": 2}, [1, 0, 0],
        {"num_hidden_layers": 3, "no_rope_layer_interval": 2, "no_rope_layers": [0, 1, 1]},
    ),
    "experts in every second": (
        {"num_hidden_layers": 4, "decoder_sparse_step": 2, "mlp_only_layers": [3]}, [0, 1, 1, 3],
        {"num_hidden_layers": 4, "decoder_sparse_step": 1, "mlp_only_layers": [0, 3]},
    ),
    "experts in every second, by default": (
        {"num_hidden_layers": 4, "interleave_moe_layer_step": 2}, [0, 1, 1],
        {"num_hidden_layers": 3, "interleave_moe_layer_step": 2, "moe_layers": [1, 2]},
    ),
    "experts from a layer on": (
        {"num_hidden_layers": 4, "first_k_dense_replace": 2}, [0, 1, 0, 2, 3, 3],
        {"num_hidden_layers": 6, "first_k_dense_replace": 3},
    ),
    "experts everywhere": (
        {"num_hidden_layers": 4, "first_k_dense_replace": 1}, [2, 3],
        {"num_hidden_layers": 2, "first_k_dense_replace": 0},
    ),
    "a period that still holds": (
        {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1}, [0, 1, 0, 3],
        {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
    ),
    "runs of kinds": (
        {"num_layers": 4, "attention_types": [[["global", "local"], 2]]}, [0, 0, 1],
        {"num_layers": 3, "attention_types": [[["global", "global", "local"], 1]]},
    ),
    "odd rules": (
        {"num_layers": 2, "attention_types": [[3]], "sliding_window_pattern": "x",
         "max_window_layers": None, "use_sliding_window": True, "attn_layer_period": 2}, [1],
        {"num_layers": 1, "attention_types": [[3]], "sliding_window_pattern": "x",
         "max_window_layers": None, "use_sliding_window": True, "attn_layer_period": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MOVED)
def test_layers_keep_their_kind(case: str) -> None:
    config, order, expected = MOVED[case]
    stack = Stack("model.layers.", 4, "text_decoder", 4)
    assert json.loads(output_config(config, depths=[Depth(stack, order, True)])) == expected


UNSAYABLE: dict[str, tuple[dict[str, Any], list[int], str]] = {
    "a dense layer behind": (
        {"num_hidden_layers": 4, "first_k_dense_replace": 1}, [0, 1, 0], "first_k_dense_replace"
    ),
    "another period": (
        {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1}, [1, 0],
        "'attn_layer_period' makes them of another kind",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSAYABLE)
def test_what_no_config_can_say(case: str) -> None:
    config, order, message = UNSAYABLE[case]
    stack = Stack("model.layers.", 4, "text_decoder", 4)
    with pytest.raises(Unsayable, match=message):
        output_config(config, depths=[Depth(stack, order, True)])


OTHER_STACKS: dict[str, tuple[Stack, dict[str, Any], dict[str, Any]]] = {
    "T5's encoder": (
        Stack("encoder.block.", 2, "encoder", 2), {"num_layers": 2, "num_decoder_layers": 2},
        {"num_layers": 3, "num_decoder_layers": 2},
    ),
    "T5's encoder, both in one": (
        Stack("encoder.block.", 2, "encoder", 2), {"num_layers": 2},
        {"num_layers": 3, "num_decoder_layers": 2},
    ),
    "BART's encoder": (
        Stack("model.encoder.layers.", 2, "encoder", 2),
        {"encoder_layers": 2, "decoder_layers": 2, "num_hidden_layers": 2},
        {"encoder_layers": 3, "decoder_layers": 2, "num_hidden_layers": 3},
    ),
    "an encoder's section": (
        Stack("model.encoder.layers.", 2, "encoder", 2), {"encoder": {"num_hidden_layers": 2}},
        {"encoder": {"num_hidden_layers": 3}},
    ),
    "a tower of sound": (
        Stack("audio_tower.layers.", 2, "audio_tower", 2), {"audio_config": {"encoder_layers": 2}},
        {"audio_config": {"encoder_layers": 3}},
    ),
    "outputs that are read": (
        Stack("visual.blocks.", 2, "vision_tower", 2),
        {"vision_config": {"depth": 2, "deepstack_visual_indexes": [0, 1]}},
        {"vision_config": {"depth": 3, "deepstack_visual_indexes": [0, 2]}},
    ),
    "nothing said": (
        Stack("x.", 2, "other", 2), {"num_hidden_layers": 2}, {"num_hidden_layers": 2}
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHER_STACKS)
def test_stacks_beside_the_main_one(case: str) -> None:
    stack, config, expected = OTHER_STACKS[case]
    assert json.loads(output_config(config, depths=[Depth(stack, [0, 1, 1], False)])) == expected


def test_the_decoder_of_one_number_for_both() -> None:
    stack = Stack("decoder.block.", 2, "decoder", 2)
    text = output_config({"num_layers": 2}, depths=[Depth(stack, [0], True)])
    assert json.loads(text) == {"num_layers": 2, "num_decoder_layers": 1}


def test_an_output_that_is_read_cannot_go() -> None:
    stack = Stack("visual.blocks.", 2, "vision_tower", 2)
    config: Mapping[str, Any] = {"vision_config": {"depth": 2, "deepstack_visual_indexes": [1]}}
    with pytest.raises(Unsayable, match="reads the output of layer 1, which is left out"):
        output_config(config, depths=[Depth(stack, [0], False)])


def test_a_config_that_cannot_say_it_is_an_error_of_the_node(tmp_path: Path) -> None:
    said = {"num_hidden_layers": 2, "first_k_dense_replace": 1}
    write(
        tmp_path / "a", [f"layers.{i}.{w}" for i, w in enumerate(("up", "experts.0.up"))], 1, said
    )
    kit.write_recipe(tmp_path / "r.yaml", stacked(("a", 0, 2), ("a", 0, 1)).replace(", b: ./b", ""))
    found = kit.run("plan", "r.yaml", cwd=tmp_path)
    assert (found.code, found.stdout) == (2, "")
    assert (
        "\nerror: r.yaml:4:3: node 'out': no config as that of 'a' fits these layers: layers "
        "without experts stand behind layers with experts"
    ) in found.stderr
    assert "\nhint: choose slices" in found.stderr

"""Which tensors come out, from which inputs: slices, missing tensors, ties, misfits, dtypes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import mergebuild as mb
from mergebuild.checkpoint.buffers import is_buffer
from mergebuild.plan.sizes import sizes_table
from tests import kit
from tests.builder import Scratch

HEAD = "mergebuild: 1\nsources: {a: ./a, b: ./b, c: ./c}\nnodes:\n  out:\n"
LINEAR = HEAD + (
    "    merge_method: linear\n"
    "    models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]\n"
)
TASKS = HEAD + (
    "    merge_method: task_arithmetic\n    base_model: a\n"
    "    models: [{model: b, parameters: {weight: 1}}, {model: c, parameters: {weight: 1}}]\n"
)


def bare(path: Path, **tensors: torch.Tensor) -> None:
    """A checkpoint of a single file, without config."""
    path.mkdir(parents=True, exist_ok=True)
    save_file({name: t.clone() for name, t in tensors.items()}, path / "model.safetensors")


def build(root: Path, recipe: str) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The output's tensors and the plan's notes."""
    scratch = Scratch(root)
    scratch.write(recipe)
    notes = scratch.plan().nodes["out"].notes
    scratch.build()
    return kit.read(scratch.output("out")), notes


ONE, TWO = torch.ones(2, 2), torch.full((2, 2), 2.0)


def test_a_tensor_of_one_input_only_is_copied_and_said(tmp_path: Path) -> None:
    bare(tmp_path / "a", w=ONE)
    bare(tmp_path / "b", w=TWO, extra=TWO)
    out, notes = build(tmp_path, LINEAR)
    assert out["w"].equal(torch.full((2, 2), 1.5))
    assert out["extra"].equal(TWO)
    assert "only in 'b': copied ('extra')" in notes


def test_missing_error_refuses(tmp_path: Path) -> None:
    bare(tmp_path / "a", w=ONE)
    bare(tmp_path / "b", w=TWO, extra=TWO)
    with pytest.raises(mb.RecipeError, match="'a' lacks a tensor that other inputs have: 'extra'"):
        build(tmp_path, LINEAR + "    missing: error\n")


def test_a_subset_is_merged_with_the_base(tmp_path: Path) -> None:
    bare(tmp_path / "a", w=ONE, x=ONE)
    bare(tmp_path / "b", w=TWO, x=TWO)
    bare(tmp_path / "c", w=TWO)
    out, notes = build(tmp_path, TASKS)
    assert out["w"].equal(torch.full((2, 2), 3.0))
    assert out["x"].equal(TWO)
    assert any("merged from 'a', 'b' alone" in note for note in notes)


def test_a_tensor_that_the_base_lacks_and_two_have_is_refused(tmp_path: Path) -> None:
    bare(tmp_path / "a", w=ONE)
    bare(tmp_path / "b", w=TWO, x=TWO)
    bare(tmp_path / "c", w=TWO, x=TWO)
    with pytest.raises(mb.RecipeError, match="needs a tensor that only 'b', 'c' have: 'x'"):
        build(tmp_path, TASKS)


TWO_OF = "models: [{model: b WITH}]\n"
THREE = "models: [{model: b WITH}, {model: c WITH}]\n"
# What a method's rule makes of a tensor `x` that only these models have: 1 in a, 2 in b, 4 in c.
MISSING: dict[tuple[str, str], tuple[str, float, str]] = {
    ("slerp", "a"): (TWO_OF, 1, "only in 'a'"),
    ("slerp", "b"): (TWO_OF, 2, "only in 'b'"),
    ("nearswap", "a"): (TWO_OF, 1, "only in 'a'"),
    ("nearswap", "b"): (TWO_OF, 2, "only in 'b'"),
    ("model_stock", "a"): (THREE, 1, "only in 'a'"),
    ("model_stock", "ab"): (THREE, 1, "not in every input: copied from 'a'"),
    ("task_arithmetic", "ac"): (THREE, 4, "merged from 'a', 'c' alone"),
    ("ram", "ab"): (THREE, 2, "merged from 'a', 'b' alone"),
    ("tsv_merge", "ac"): (THREE, 4, "merged from 'a', 'c' alone"),
    ("nuslerp", "ab"): (THREE, 1, "not in every input: copied from 'a'"),
}


@pytest.mark.parametrize(("method", "owners"), MISSING)
def test_what_becomes_of_a_tensor_that_some_lack(tmp_path: Path, method: str, owners: str) -> None:
    models, expected, note = MISSING[method, owners]
    for name, value in (("a", 1.0), ("b", 2.0), ("c", 4.0)):
        own = {"x": torch.full((2, 2), value)} if name in owners else {}
        bare(tmp_path / name, w=ONE * value, **own)
    shared = "    parameters: {t: 1}\n" if method in ("slerp", "nearswap") else ""
    weight = ", parameters: {weight: 1}" if method in ("task_arithmetic", "nuslerp") else ""
    node = f"    merge_method: {method}\n    base_model: a\n    {models.replace(' WITH', weight)}"
    out, notes = build(tmp_path, HEAD + node + shared)
    torch.testing.assert_close(out["x"], torch.full((2, 2), float(expected)))
    assert any(note in one for one in notes)


def test_float64_is_rounded_and_that_is_said(tmp_path: Path) -> None:
    bare(tmp_path / "a", w=ONE.double())
    bare(tmp_path / "b", w=TWO)
    _, notes = build(tmp_path, LINEAR)
    assert any("float64 inputs are rounded to float32" in note for note in notes)
    copied = HEAD + "    merge_method: passthrough\n    models: [{model: a}]\n"
    out, notes = build(tmp_path / "copied", copied.replace("./a", str(tmp_path / "a")))
    assert out["w"].dtype is torch.float64
    assert notes == ()


def test_tensors_of_integers_are_copied_when_equal(tmp_path: Path) -> None:
    ids = torch.arange(4)
    bare(tmp_path / "a", w=ONE, ids=ids)
    bare(tmp_path / "b", w=TWO, ids=ids)
    out, _ = build(tmp_path, LINEAR + "    dtype: bfloat16\n")
    assert out["ids"].equal(ids)
    assert out["w"].dtype is torch.bfloat16
    bare(tmp_path / "b", w=TWO, ids=ids + 1)
    with pytest.raises(mb.RecipeError, match="not of floating point differs"):
        build(tmp_path, LINEAR)


def test_shapes_that_differ_are_a_table(tmp_path: Path) -> None:
    """A row for each kind of tensor, however many layers have it."""
    kit.llama(tmp_path / "a", layers=3)
    kit.llama(tmp_path / "b", layers=3, intermediate=32, vocab=40)
    with pytest.raises(mb.RecipeError) as caught:
        build(tmp_path, LINEAR)
    (problem,) = caught.value.problems
    assert problem.message.splitlines() == [
        "node 'out': shapes differ between the inputs",
        "                                                   a         b",
        "  model.layers.*.mlp.down_proj.weight (3 tensors)  [16, 24]  [16, 32]",
        "  model.layers.*.mlp.gate_proj.weight (3 tensors)  [24, 16]  [32, 16]",
        "  model.layers.*.mlp.up_proj.weight (3 tensors)    [24, 16]  [32, 16]",
        "  lm_head.weight                                   [32, 16]  [40, 16]",
        "  model.embed_tokens.weight                        [32, 16]  [40, 16]",
    ]
    assert problem.hint
    assert not (tmp_path / "build").exists()


def test_many_kinds_are_not_all_listed() -> None:
    sizes = {f"t{i:02}.w": {"a": (i,), "b": (i, 1)} for i in range(30)}
    lines = sizes_table({**sizes, "t31.w": {"b": (2,)}}).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "  and 11 more kinds"
    assert sizes_table({"t": {"a": (), "b": (1,)}, "u": {"b": (2,)}}).splitlines()[1:] == [
        "  t  []    [1]",
        "  u  none  [2]",
    ]


def test_buffers_are_copied_and_never_merged(tmp_path: Path) -> None:
    mask, other = torch.ones(1, 1, 3, 3), torch.zeros(1, 1, 4, 4)
    a = {
        "h.0.attn.bias": mask,
        "r.inv_freq": ONE,
        "position_ids": torch.arange(3),
        "s.inv_freq": ONE,
    }
    b = {
        "h.0.attn.bias": other,
        "r.inv_freq": TWO,
        "position_ids": torch.arange(4),
        "s.inv_freq": ONE,
    }
    bare(tmp_path / "a", w=ONE, **a)
    bare(tmp_path / "b", w=TWO, **b)
    out, notes = build(tmp_path, LINEAR + "    parameters: {normalize: false}\n")
    assert out.pop("w").equal(torch.full((2, 2), 3.0))
    assert out.keys() == a.keys()
    assert all(out[name].equal(a[name]) for name in a)
    assert notes == ("no weight: copied from 'a' ('h.0.attn.bias' and 2 more)",)


@pytest.mark.parametrize(
    ("name", "shape", "buffer"),
    [
        ("transformer.h.0.attn.bias", (1, 1, 8, 8), True),
        ("gpt_neox.layers.0.attention.bias", (1, 1, 8, 8), True),
        ("h.0.attn.bias", (8,), False),
        ("h.0.conv.bias", (1, 1, 8, 8), False),
        ("h.0.attn.masked_bias", (), True),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", (4,), True),
        ("bias", (1, 1, 2, 2), False),
        ("norm.running_mean", (4,), False),
    ],
)
def test_what_a_buffer_is(name: str, shape: tuple[int, ...], buffer: bool) -> None:
    assert is_buffer(name, shape) is buffer


def test_complex_numbers_are_copied_when_equal(tmp_path: Path) -> None:
    turns = torch.tensor([1 + 2j, 3 - 4j])
    bare(tmp_path / "a", w=ONE, turns=turns)
    bare(tmp_path / "b", w=TWO, turns=turns)
    assert build(tmp_path, LINEAR)[0]["turns"].equal(turns)
    bare(tmp_path / "b", w=TWO, turns=turns * 2)
    with pytest.raises(mb.RecipeError, match="not of floating point differs between the inputs"):
        build(tmp_path, LINEAR)


def test_an_integer_and_a_float_are_not_merged(tmp_path: Path) -> None:
    bare(tmp_path / "a", w=ONE)
    bare(tmp_path / "b", w=ONE.int())
    with pytest.raises(mb.RecipeError, match="not of floating point differs between the inputs"):
        build(tmp_path, LINEAR)


def test_models_of_another_kind_are_refused(tmp_path: Path) -> None:
    kit.llama(tmp_path / "a")
    kit.gpt2(tmp_path / "b")
    with pytest.raises(mb.RecipeError, match="no tensor of 'b' is called as one of 'a'") as caught:
        build(tmp_path, LINEAR)
    (problem,) = caught.value.problems
    assert problem.at is not None
    assert problem.at.line == 6
    assert not (tmp_path / "build").exists()


DTYPES = {
    ("float32", None, None): torch.float32,
    ("bfloat16", None, None): torch.bfloat16,
    ("float16", "bfloat16", None): torch.bfloat16,
    ("float16", "float32", "float16"): torch.float16,
    ("float32", None, "float64"): torch.float64,
    ("float64", None, None): torch.float64,
}


@pytest.mark.parametrize("case", DTYPES)
def test_output_dtype(tmp_path: Path, case: tuple[str, str | None, str | None]) -> None:
    stored, dtype, out_dtype = case
    for name in ("a", "b"):
        bare(tmp_path / name, w=ONE.to(getattr(torch, stored)))
    recipe = LINEAR + (f"    dtype: {dtype}\n" if dtype else "")
    recipe += f"    out_dtype: {out_dtype}\n" if out_dtype else ""
    out, _ = build(tmp_path, recipe)
    assert out["w"].dtype is DTYPES[case]


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (torch.bfloat16, torch.float16, torch.float32),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float16, torch.float64, torch.float64),
        (torch.float32, torch.float64, torch.float64),
    ],
)
def test_inputs_of_different_dtypes_are_promoted(
    tmp_path: Path, one: torch.dtype, other: torch.dtype, both: torch.dtype
) -> None:
    bare(tmp_path / "a", w=ONE.to(one))
    bare(tmp_path / "b", w=TWO.to(other))
    assert build(tmp_path, LINEAR)[0]["w"].equal(torch.full((2, 2), 1.5, dtype=both))


def test_a_tied_head_is_the_embedding(tmp_path: Path) -> None:
    kit.llama(tmp_path / "a")
    kit.llama(tmp_path / "b", tied=True, near=tmp_path / "a", seed=1)
    a, b = kit.read(tmp_path / "a"), kit.read(tmp_path / "b")
    out, notes = build(tmp_path, LINEAR)
    expected = (a["lm_head.weight"] + b["model.embed_tokens.weight"]) / 2
    torch.testing.assert_close(out["lm_head.weight"], expected)
    assert any("'b' ties it" in note for note in notes)
    assert kit.config(tmp_path / "build/out")["tie_word_embeddings"] is False


def test_a_config_may_tie_in_its_section_about_text(tmp_path: Path) -> None:
    kit.llama(tmp_path / "a", tied=True)
    said = kit.config(tmp_path / "a")
    said["text_config"] = {"tie_word_embeddings": said.pop("tie_word_embeddings")}
    (tmp_path / "a" / "config.json").write_text(json.dumps(said))
    kit.llama(tmp_path / "b", seed=1)
    out, notes = build(tmp_path, LINEAR)
    assert "lm_head.weight" not in out
    assert any("not written" in note for note in notes)
    assert kit.config(tmp_path / "build/out")["text_config"] == {"tie_word_embeddings": True}


def test_no_head_is_written_where_the_config_ties_it(tmp_path: Path) -> None:
    kit.llama(tmp_path / "a", tied=True)
    kit.llama(tmp_path / "b", seed=1)
    out, notes = build(tmp_path, LINEAR)
    assert "lm_head.weight" not in out
    assert any("not written" in note for note in notes)
    assert kit.config(tmp_path / "build/out")["tie_word_embeddings"] is True


SLICES = HEAD + (
    "    merge_method: passthrough\n    slices:\n"
    "      - sources: [{model: a, layer_range: [0, %d]}]\n"
    "      - sources: [{model: b, layer_range: [%d, 4]}]\n"
)


def test_stacked_slices_renumber_layers(tmp_path: Path) -> None:
    kit.llama(tmp_path / "a")
    kit.llama(tmp_path / "b", seed=1)
    out, _ = build(tmp_path, SLICES % (3, 2))
    a, b = kit.read(tmp_path / "a"), kit.read(tmp_path / "b")
    name = "model.layers.{}.mlp.up_proj.weight"
    origins = [(a, 0), (a, 1), (a, 2), (b, 2), (b, 3)]
    for layer, (model, source) in enumerate(origins):
        assert out[name.format(layer)].equal(model[name.format(source)])
    assert name.format(5) not in out
    assert out["model.embed_tokens.weight"].equal(a["model.embed_tokens.weight"])
    assert out["lm_head.weight"].equal(b["lm_head.weight"])
    assert kit.config(tmp_path / "build/out")["num_hidden_layers"] == 5


MISFITS = {
    "past the end": (
        SLICES % (9, 2),
        r"layer_range \[0, 9\] goes past the 4 layers of 'a'",
    ),
    "a stack that is not there": (
        HEAD + "    merge_method: linear\n    modules:\n      vision_tower:\n        models:\n"
        "          - {model: a, parameters: {weight: 1}}\n",
        "'a' has no layer stack 'vision_tower'",
    ),
    "different depth": (
        LINEAR.replace("model: b", "model: c"),
        "differ in their number of layers: 'a' 4, 'c' 3",
    ),
    "a source that is not there": (
        LINEAR.replace("b: ./b", "b: ./nowhere"),
        r"source 'b': there is no '\./nowhere'",
    ),
    "a source that is no path and no Hub id": (
        LINEAR.replace("b: ./b", "b: models/of/b"),
        r"source 'b': there is no 'models/of/b'",
    ),
    "a parameter with filters only": (
        LINEAR.replace("model: a, parameters: {weight: 1}",
                       "model: a, parameters: {weight: [{filter: mlp, value: 1}]}"),
        "'weight' of 'a' has no value for a tensor that no filter matches",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_misfits_are_located_errors_before_anything_is_written(tmp_path: Path, case: str) -> None:
    kit.llama(tmp_path / "a")
    kit.llama(tmp_path / "b", seed=1)
    kit.llama(tmp_path / "c", layers=3)
    recipe, message = MISFITS[case]
    with pytest.raises(mb.RecipeError, match=message) as caught:
        build(tmp_path, recipe)
    assert all(p.at is not None and p.at.line > 1 for p in caught.value.problems)
    assert not (tmp_path / "build").exists()
    assert not (tmp_path / "cache/checkpoints").exists()


def test_misfits_of_unrelated_nodes_are_told_together(tmp_path: Path) -> None:
    bare(tmp_path / "a", w=ONE)
    bare(tmp_path / "b", w=torch.ones(3))
    second = LINEAR.partition("nodes:\n")[2].replace("  out:", "  other:")
    with pytest.raises(mb.RecipeError) as caught:
        build(tmp_path, LINEAR + second)
    assert len(caught.value.problems) == 2

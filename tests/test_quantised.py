"""Quantised sources: fp8 read times its scales, and everything else refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import mergebuild as mb
from mergebuild.checkpoint.quantisation import quantisation
from mergebuild.checkpoint.reader import Files
from mergebuild.checkpoint.scaled import Scaled, dequantise
from mergebuild.checkpoint.source import open_checkpoint
from mergebuild.engine.derived import Derivations
from mergebuild.errors import CheckpointError
from mergebuild.kernels.torch import scaled
from tests import kit
from tests.builder import Scratch, computed

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
DEEPSEEK = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [4, 8]}


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def codes(*shape: int, dtype: torch.dtype = E4M3) -> Tensor:
    return normal(*shape).mul(8).to(dtype)


def scales(*shape: int) -> Tensor:
    return normal(*shape).abs() + 0.1


def compressed(**weights: Any) -> dict[str, Any]:
    group = {"weights": {"num_bits": 8, "type": "float", "symmetric": True, **weights}}
    return {
        "quant_method": "compressed-tensors", "format": "float-quantized",
        "config_groups": {"group_0": group},
    }  # fmt: skip


def write(path: Path, tensors: Mapping[str, Tensor], said: Mapping[str, Any] | None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), path / "model.safetensors")
    if said is not None:
        (path / "config.json").write_text(json.dumps(said))
    return path


def spread(scale: Tensor, shape: tuple[int, ...], blocks: tuple[int, ...]) -> Tensor:
    """The scale of every element, block by block."""
    for dim, (length, block) in enumerate(zip(shape, blocks, strict=True)):
        scale = scale.repeat_interleave(block, dim).narrow(dim, 0, length)
    return scale


def config(said: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return {"quantization_config": said, "num_layers": 1} if said is not None else None


# What a weight and its scale stand for: (suffix, codes, scale, quantisation, block).
KINDS: dict[str, tuple[str, Tensor, Tensor, Any, tuple[int, ...]]] = {
    "blocks": ("_scale_inv", codes(8, 16), scales(2, 2), DEEPSEEK, (4, 8)),
    "blocks at the edge": ("_scale_inv", codes(9, 17), scales(3, 3), DEEPSEEK, (4, 8)),
    "one block": ("_scale_inv", codes(3, 5), scales(1, 1), DEEPSEEK, (3, 5)),
    "one row of blocks": ("_scale_inv", codes(3, 16), scales(1, 2), DEEPSEEK, (3, 8)),
    "powers of two": (
        "_scale_inv", codes(8, 16), scales(2, 2).to(torch.float8_e8m0fnu), DEEPSEEK, (4, 8)
    ),
    "bfloat16 scales": ("_scale_inv", codes(8, 16), scales(2, 2).bfloat16(), DEEPSEEK, (4, 8)),
    "e5m2": ("_scale_inv", codes(8, 16, dtype=E5M2), scales(2, 2), DEEPSEEK, (4, 8)),
    "experts in one": ("_scale_inv", codes(3, 8, 16), scales(3, 2, 2), DEEPSEEK, (1, 4, 8)),
    "a number": ("_scale", codes(4, 6), scales(1)[0], {"quant_method": "fp8"}, (4, 6)),
    "a number of one": ("_scale", codes(4, 6), scales(1), compressed(strategy="tensor"), (4, 6)),
    "rows": ("_scale", codes(4, 6), scales(4, 1), compressed(strategy="channel"), (1, 6)),
    "rows, flat": ("_scale", codes(4, 6), scales(4), {"quant_method": "fbgemm_fp8"}, (1, 6)),
    "columns of experts": (
        "_scale", codes(2, 4, 6), scales(2, 1, 6), {"quant_method": "fbgemm_fp8"}, (1, 4, 1)
    ),
    "groups": ("_scale", codes(4, 6), scales(4, 3), compressed(group_size=2), (1, 2)),
    "blocks by name": (
        "_scale", codes(4, 6), scales(2, 2), compressed(block_structure="2x3"), (2, 3)
    ),
    "modelopt": ("_scale", codes(4, 6), scales(1)[0],
                 {"quant_method": "modelopt", "quant_algo": "FP8"}, (4, 6)),
    "a convolution": ("_scale", codes(4, 3, 2, 2), scales(4, 1, 1, 1), None, (1, 3, 2, 2)),
    "a vector": ("_scale", codes(6), scales(1), None, (6,)),
    "a scalar": ("_scale", codes(1)[0], scales(1)[0], None, ()),
    "nothing": ("_scale", codes(4, 0), scales(1), None, (4, 1)),
    "no config": ("_scale", codes(4, 6), scales(4, 1), None, (1, 6)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_fp8_is_read_times_its_scales(kind: str, tmp_path: Path) -> None:
    suffix, weight, scale, said, blocks = KINDS[kind]
    tensors = {"x.weight": weight, f"x.weight{suffix}": scale, "norm": normal(3).bfloat16()}
    write(tmp_path / "m", tensors, config(said))
    scratch = Scratch(tmp_path)
    scratch.write(
        "mergebuild: 1\nsources: {m: ./m}\nnodes:\n  out:\n    merge_method: passthrough\n"
        "    models: [{model: m}]\n    dtype: float32\n"
    )
    scratch.build()
    found = kit.read(scratch.output("out"))
    assert found.keys() == {"x.weight", "norm"}
    shaped = scale.float().reshape(scale.shape + (1,) * (weight.ndim - scale.ndim))
    if scale.numel() == 1:
        shaped = shaped.reshape((1,) * weight.ndim)
    expected = weight.float() * spread(shaped, tuple(weight.shape), blocks)
    assert found["x.weight"].equal(expected)
    if said is not None:
        assert kit.config(scratch.output("out")) == {"num_layers": 1, "torch_dtype": "float32"}


def fp8(path: Path, **more: Any) -> tuple[Path, dict[str, Tensor]]:
    """A Llama as DeepSeek stores it, and what its weights are."""
    kit.llama(path, dtype="bfloat16", **more)
    tensors, plain = {}, {}
    for name, tensor in kit.read(path).items():
        plain[name] = tensor.float()
        tensors[name] = tensor
        if name.endswith("_proj.weight"):
            rows, columns = tensor.shape
            grid = scales(-(-rows // 4), -(-columns // 8)) / 50
            each = spread(grid, (rows, columns), (4, 8))
            tensors[name] = (tensor.float() / each).to(E4M3)
            tensors[f"{name}_scale_inv"] = grid
            plain[name] = tensors[name].float() * each
    save_file(tensors, path / "model.safetensors")
    said = kit.config(path)
    (path / "config.json").write_text(json.dumps({**said, "quantization_config": DEEPSEEK}))
    return path, plain


LINEAR = """\
mergebuild: 1
sources: {a: ./a, b: ./b}
nodes:
  out:
    merge_method: linear
    models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 3}}]
"""


def test_a_merge_of_fp8_and_bfloat16(tmp_path: Path) -> None:
    _, a = fp8(tmp_path / "a")
    b = kit.read(kit.llama(tmp_path / "b", dtype="bfloat16", seed=1))
    scratch = Scratch(tmp_path)
    scratch.write(LINEAR)
    scratch.build()
    out = kit.read(scratch.output("out"))
    assert out.keys() == b.keys()
    for name, tensor in out.items():
        expected = (a[name] / 4 + b[name].float() * 0.75).bfloat16()
        torch.testing.assert_close(tensor, expected, rtol=2**-8, atol=0)
    assert "quantization_config" not in kit.config(scratch.output("out"))
    assert kit.loaded(scratch.output("out"), dtype="auto").dtype is torch.bfloat16


def test_the_command_says_what_it_reads(tmp_path: Path) -> None:
    fp8(tmp_path / "a")
    fp8(tmp_path / "b", seed=1)
    kit.write_recipe(tmp_path / "r.yaml", LINEAR)
    found = kit.run("build", "r.yaml", "--out", "out", cwd=tmp_path)
    assert found.code == 0, found.stderr
    assert "source 'a': 28 fp8 tensors are read times their scales, in float32" in found.stderr
    assert kit.loaded(tmp_path / "out").config.num_hidden_layers == 4


def test_it_agrees_with_transformers(tmp_path: Path) -> None:
    """Weight by weight, with what transformers makes of the same file."""
    import transformers

    _, plain = fp8(tmp_path / "a")
    quantised: Any = transformers.FineGrainedFP8Config
    loaded = kit.loaded(
        tmp_path / "a",
        quantization_config=quantised(weight_block_size=(4, 8), dequantize=True),
        dtype=torch.float32,
    )
    for name, weight in loaded.state_dict().items():
        assert weight.float().equal(plain[name])


def test_only_what_a_changed_scale_touches_is_made_again(tmp_path: Path) -> None:
    path, _ = fp8(tmp_path / "a")
    kit.llama(tmp_path / "b", dtype="bfloat16", seed=1)
    scratch = Scratch(tmp_path)
    scratch.write(LINEAR)
    scratch.build()
    assert scratch.build() == []
    tensors = kit.read(path)
    tensors["model.layers.1.mlp.up_proj.weight_scale_inv"] *= 2
    save_file(tensors, path / "model.safetensors")
    assert computed(scratch.build()) == [("out", "model.layers.1.mlp.up_proj.weight")]


def test_threads_and_chunks_change_nothing(tmp_path: Path) -> None:
    fp8(tmp_path / "a", hidden=64, intermediate=2048)
    fp8(tmp_path / "b", hidden=64, intermediate=2048, seed=1)
    found = []
    for jobs, chunk in ((1, 1 << 16), (3, 1 << 17)):
        scratch = Scratch(tmp_path / str(jobs), sources={n: str(tmp_path / n) for n in "ab"})
        scratch.write(LINEAR)
        scratch.build(settings=mb.Settings(jobs=jobs, chunk=chunk))
        found.append((scratch.output("out") / "model.safetensors").read_bytes())
    assert found[0] == found[1]


@pytest.mark.parametrize("elements", [1, 7, 16, 1 << 17])
def test_any_blocks_and_any_reads(
    elements: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However a tensor is read, its values are those of the whole."""
    suffix, weight, scale, said, blocks = KINDS["experts in one"]
    write(tmp_path, {"x": weight, f"x{suffix}": scale}, config(said))
    monkeypatch.setattr(scaled, "_ELEMENTS", elements)
    tensor = dequantise(open_checkpoint(tmp_path, "m")).derived["x"]
    expected = (weight.float() * spread(scale, tuple(weight.shape), blocks)).flatten()
    with Files() as files:
        derivations = Derivations(files)
        for step in (1, 5, expected.numel()):
            reader = derivations.reader(tensor)
            read = bytearray()
            for start in range(0, expected.numel(), step):
                stop = min(start + step, expected.numel())
                part = bytearray((stop - start) * 4)
                reader.read(start, stop, memoryview(part))
                read += part
            assert torch.frombuffer(read, dtype=torch.float32).equal(expected)
        derivations.close()


def test_a_lora_on_fp8(tmp_path: Path) -> None:
    _, plain = fp8(tmp_path / "a")
    lora = tmp_path / "lora"
    lora.mkdir()
    module = "model.layers.2.mlp.up_proj"
    a, b = normal(2, 16), normal(24, 2)
    root = f"base_model.model.{module}"
    pair = {f"{root}.lora_A.weight": a, f"{root}.lora_B.weight": b}
    save_file(pair, lora / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": 2, "lora_alpha": 6}
    (lora / "adapter_config.json").write_text(json.dumps(said))
    scratch = Scratch(tmp_path)
    scratch.write(
        "mergebuild: 1\nsources: {m: ./a+./lora}\nnodes:\n  out:\n    merge_method: passthrough\n"
        "    models: [{model: m}]\n    out_dtype: float32\n"
    )
    scratch.build()
    out = kit.read(scratch.output("out"))
    delta = 3.0 * b.double() @ a.double()
    for name, weight in plain.items():
        expected = weight.double() + (delta if name == f"{module}.weight" else 0)
        assert out[name].equal(expected.float())


def test_values_that_are_stored_as_they_are(tmp_path: Path) -> None:
    tensors = {"w": codes(4, 6), "v": codes(3)}
    write(tmp_path / "m", tensors, {"dtype": "float8_e4m3fn"})
    found = dequantise(open_checkpoint(tmp_path / "m", "m"))
    assert {name: (t.scale, t.counts_as) for name, t in found.derived.items()} == {
        "v": (None, "bfloat16"), "w": (None, "bfloat16"),
    }  # fmt: skip
    scratch = Scratch(tmp_path)
    scratch.write(
        "mergebuild: 1\nsources: {m: ./m}\nnodes:\n  out:\n    merge_method: passthrough\n"
        "    models: [{model: m}]\n"
    )
    scratch.build()
    out = kit.read(scratch.output("out"))
    assert {name: tensor.equal(tensors[name].bfloat16()) for name, tensor in out.items()} == {
        "v": True, "w": True,
    }  # fmt: skip
    assert kit.config(scratch.output("out"))["dtype"] == "bfloat16"


def test_scales_of_activations_go_with_the_codes(tmp_path: Path) -> None:
    tensors = {
        "a.weight": codes(4, 6), "a.weight_scale": scales(1), "a.input_scale": scales(1),
        "attn.k_scale": scales(1), "b.weight": normal(2, 2), "b.weight_scale": normal(2),
        "b.output_scale": normal(2),
    }  # fmt: skip
    write(tmp_path, tensors, config({"quant_method": "fp8", "activation_scheme": "static"}))
    found = dequantise(open_checkpoint(tmp_path, "m"))
    assert set(found.checkpoint.tensors) == {"b.weight", "b.weight_scale", "b.output_scale"}
    assert set(found.derived) == {"a.weight"}
    assert found.notes[1] == "2 scales of activations are left out ('a.input_scale')"


def test_golden_key(tmp_path: Path) -> None:
    """Changes only together with the version of the operation, or with KEY_SCHEMA."""
    info = open_checkpoint(kit.llama(tmp_path / "m"), "x").tensors["lm_head.weight"]
    scale = replace(info, name="s")
    tensor = Scaled(info, scale, (4, 8))
    keys = {info: "0" * 32, scale: "1" * 32}
    assert tensor.key(keys) == "a7b1732329c31c00b83f2b9daf38e14b"
    others = [
        replace(tensor, blocks=(8, 4)), replace(tensor, scale=None), replace(tensor, scale=info),
        replace(tensor, weight=scale),
    ]  # fmt: skip
    assert len({one.key(keys) for one in [tensor, *others]}) == 5


FP8 = {"quant_method": "fp8"}
MISFITS: dict[str, tuple[dict[str, Tensor], Any, str, str]] = {
    "no scales": ({"w": codes(4, 6)}, FP8, "'w' is float8_e4m3fn without scales", "'w_scale_inv'"),
    "no scales, no config": ({"w": codes(4, 6)}, None, "without scales", "config.json"),
    "no size of blocks": (
        {"w": codes(4, 6), "w_scale": scales(2, 2)}, FP8, "does not fit 'w' [4, 6]", "no size of"
    ),
    "another size": (
        {"w": codes(8, 16), "w_scale": scales(2, 3)}, DEEPSEEK,
        "'w_scale' [2, 3] does not fit 'w' [8, 16]", "blocks of 4 x 8",
    ),
    "too many dimensions": (
        {"w": codes(4), "w_scale": scales(2, 2)}, DEEPSEEK, "does not fit", "blocks of"
    ),
    "integers": (
        {"w": codes(4), "w_scale": torch.tensor([1])}, FP8, "'w_scale' is of int64", ""
    ),
    "zero points": (
        {"w": codes(4), "w_scale": scales(1), "w_zero_point": scales(1)}, FP8,
        "fp8 with zero points, by tensor 'w_zero_point'", "made from",
    ),
    "powers alone": (
        {"w": scales(4).to(torch.float8_e8m0fnu)}, None, "scales without weights", "made from"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_misfits(case: str, tmp_path: Path) -> None:
    tensors, said, message, hint = MISFITS[case]
    write(tmp_path, tensors, config(said))
    with pytest.raises(CheckpointError) as caught:
        dequantise(open_checkpoint(tmp_path, "m"))
    (problem,) = caught.value.problems
    assert message in problem.message
    assert str(tmp_path) in problem.message
    assert hint in (problem.hint or "")


NESTED = {"text_config": {"quantization_config": {"quant_method": "hqq"}}}
REFUSED: dict[str, tuple[Mapping[str, Any], str, str]] = {
    "gptq": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq", "made from"),
    "awq": ({"quantization_config": {"quant_method": "awq"}}, "awq", "made from"),
    "bitsandbytes": ({"quantization_config": {"load_in_4bit": True}}, "bitsandbytes", "dequantize"),
    "mxfp4": ({"quantization_config": {"quant_method": "mxfp4"}}, "mxfp4", "Mxfp4Config"),
    "unknown": ({"quantization_config": {"what": 1}}, "unknown", "made from"),
    "nested": (NESTED, "hqq", "made from"),
    "four bits": (
        {"quantization_config": {**compressed(num_bits=4), "format": "nvfp4-pack-quantized"}},
        "compressed-tensors, nvfp4-pack-quantized", "run_compressed=False",
    ),
    "integers": (
        {"compression_config": {**compressed(type="int"), "format": "int-quantized"}},
        "compressed-tensors, int-quantized", "run_compressed=False",
    ),
    "no groups": (
        {"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors", ""
    ),
    "sparse": (
        {"quantization_config": {**compressed(), "sparsity_config": {"format": "sparse-24"}}},
        "compressed-tensors, float-quantized, sparse", "",
    ),
    "rotated": (
        {"quantization_config": {**compressed(), "transform_config": {"config_groups": {}}}},
        "compressed-tensors, float-quantized, transformed", "",
    ),
    "modelopt": (
        {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}, "modelopt", ""
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case: str, tmp_path: Path) -> None:
    said, kind, hint = REFUSED[case]
    write(tmp_path, {"a": normal(2)}, said)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path, "m")
    (problem,) = caught.value.problems
    assert f"'{tmp_path}' is quantised ({kind})" in problem.message
    assert hint in (problem.hint or "")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.qweight", "gptq or awq"),
        ("a.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
        ("a.SCB", "bitsandbytes"),
        ("a.weight_packed", "compressed-tensors"),
        ("experts.gate_up_proj_blocks", "mxfp4"),
    ],
)
def test_codes_that_no_config_tells_of(name: str, kind: str, tmp_path: Path) -> None:
    write(tmp_path, {name: normal(2)}, None)
    with pytest.raises(CheckpointError, match=rf"is quantised \({kind}, by tensor '{name}'\)"):
        open_checkpoint(tmp_path, "m")


@pytest.mark.parametrize("said", [None, {}, {"quantization_config": {}}, {"text_config": []}])
def test_not_quantised(said: Any) -> None:
    assert quantisation(said, Path("m")) is None


def test_a_refusal_is_told_of_the_source_and_its_place(tmp_path: Path) -> None:
    kit.llama(tmp_path / "a")
    write(tmp_path / "b", {"w": codes(4, 6)}, config(FP8))
    kit.write_recipe(tmp_path / "r.yaml", LINEAR)
    found = kit.run("plan", "r.yaml", cwd=tmp_path)
    assert (found.code, found.stdout) == (1, "")
    assert found.stderr.startswith("error: r.yaml:6:59: ")
    assert "source 'b': 'b': tensor 'w' is float8_e4m3fn without scales" in found.stderr
    assert "\nhint: its scales would be called" in found.stderr

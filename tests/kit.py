"""The test kit: small real checkpoints from a seed, and the real command in a scratch folder.

A tensor's values depend on (seed, name) alone, so two models of one seed agree wherever their
shapes do. Every model is one that transformers loads and the file formats are the true ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
DEVIATION = 0.05  # of weight matrices; norms are one plus this

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Result:
    """What one run of the command left behind."""

    code: int
    stdout: str
    stderr: str


def run(*args: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> Result:
    """`mergebuild ARGS` in `cwd`, offline, without colour, with no settings but those in `env`."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MERGEBUILD_")}
    # The repository goes first: the command tested is the one beside these tests.
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    offline = {
        "PYTHONPATH": path,
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
        "COLUMNS": "100",
        "XDG_CONFIG_HOME": os.devnull,
    }
    done = subprocess.run(
        [sys.executable, "-m", "mergebuild", *map(str, args)],
        cwd=cwd,
        env={**clean, **offline, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def write_recipe(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint folder, or of one file."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def loaded(path: Path, **more: Any) -> Any:
    """A checkpoint as transformers loads it; nothing may be missing, unexpected or misshapen."""
    import transformers

    # Its annotations do not know of the second result.
    load: Any = transformers.AutoModelForCausalLM.from_pretrained
    model, info = load(path, output_loading_info=True, **more)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model


def config(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((path / "config.json").read_text(encoding="utf-8"))
    return loaded


def llama(
    path: Path,
    *,
    layers: int = 4,
    hidden: int = 16,
    vocab: int = 32,
    intermediate: int = 24,
    heads: int = 4,
    kv_heads: int = 2,
    dtype: str = "float32",
    seed: int = 0,
    tied: bool = False,
    near: Path | None = None,
    scale: float = 1e-2,
    shards: int = 1,
) -> Path:
    """A LlamaForCausalLM. With `near` a finetune of that: deltas of deviation `scale`."""
    shapes = _decoder(layers, hidden, vocab, intermediate, heads, kv_heads, tied, biased=False)
    settings = _decoder_config(layers, hidden, vocab, intermediate, heads, kv_heads, tied)
    settings |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    return _write(path, shapes, settings, dtype, seed, near, scale, shards)


def base_and_two(folder: Path, **shape: Any) -> None:
    """A Llama `base` and two finetunes of it, `math` and `chat`; `shape` as `llama` has it."""
    base = llama(folder / "base", **shape)
    for seed, name in enumerate(("math", "chat"), start=1):
        llama(folder / name, near=base, seed=seed, **shape)


def qwen2(
    path: Path,
    *,
    layers: int = 4,
    hidden: int = 16,
    vocab: int = 32,
    intermediate: int = 24,
    heads: int = 4,
    kv_heads: int = 2,
    dtype: str = "float32",
    seed: int = 0,
    tied: bool = True,
    near: Path | None = None,
    scale: float = 1e-2,
    shards: int = 1,
) -> Path:
    """A Qwen2ForCausalLM: biased q, k and v, a tied head by default."""
    shapes = _decoder(layers, hidden, vocab, intermediate, heads, kv_heads, tied, biased=True)
    settings = _decoder_config(layers, hidden, vocab, intermediate, heads, kv_heads, tied)
    settings |= {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    return _write(path, shapes, settings, dtype, seed, near, scale, shards)


def gpt2(
    path: Path,
    *,
    layers: int = 4,
    hidden: int = 16,
    vocab: int = 32,
    heads: int = 4,
    positions: int = 32,
    dtype: str = "float32",
    seed: int = 0,
    near: Path | None = None,
    scale: float = 1e-2,
    shards: int = 1,
) -> Path:
    """A GPT2LMHeadModel: fused and transposed attention, biases everywhere, a tied head."""
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (vocab, hidden),
        "transformer.wpe.weight": (positions, hidden),
    }
    for layer in range(layers):
        at = f"transformer.h.{layer}"
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{at}.{norm}.weight": (hidden,), f"{at}.{norm}.bias": (hidden,)}
        for name, wide, out in (
            ("attn.c_attn", hidden, 3 * hidden),
            ("attn.c_proj", hidden, hidden),
            ("mlp.c_fc", hidden, 4 * hidden),
            ("mlp.c_proj", 4 * hidden, hidden),
        ):
            shapes |= {f"{at}.{name}.weight": (wide, out), f"{at}.{name}.bias": (out,)}
    shapes |= {"transformer.ln_f.weight": (hidden,), "transformer.ln_f.bias": (hidden,)}
    settings = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_layer": layers,
        "n_embd": hidden,
        "n_head": heads,
        "n_positions": positions,
        "vocab_size": vocab,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return _write(path, shapes, settings, dtype, seed, near, scale, shards)


def _decoder(
    layers: int,
    hidden: int,
    vocab: int,
    intermediate: int,
    heads: int,
    kv_heads: int,
    tied: bool,
    biased: bool,
) -> Shapes:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    narrow = hidden // heads * kv_heads
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes[f"{at}.input_layernorm.weight"] = (hidden,)
        for name, out in (("q", hidden), ("k", narrow), ("v", narrow)):
            shapes[f"{at}.self_attn.{name}_proj.weight"] = (out, hidden)
            if biased:
                shapes[f"{at}.self_attn.{name}_proj.bias"] = (out,)
        shapes[f"{at}.self_attn.o_proj.weight"] = (hidden, hidden)
        shapes[f"{at}.post_attention_layernorm.weight"] = (hidden,)
        shapes[f"{at}.mlp.gate_proj.weight"] = (intermediate, hidden)
        shapes[f"{at}.mlp.up_proj.weight"] = (intermediate, hidden)
        shapes[f"{at}.mlp.down_proj.weight"] = (hidden, intermediate)
    shapes["model.norm.weight"] = (hidden,)
    if not tied:
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


def _decoder_config(
    layers: int, hidden: int, vocab: int, intermediate: int, heads: int, kv_heads: int, tied: bool
) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "vocab_size": vocab,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _normal(seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
    return torch.randn(shape, generator=generator, dtype=torch.float32)


def _fresh(seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    norm = "norm" in name or ".ln_" in name
    one = 1.0 if norm and name.endswith("weight") else 0.0
    return one + DEVIATION * _normal(seed, name, shape)


def _write(
    path: Path,
    shapes: Shapes,
    settings: dict[str, Any],
    dtype: str,
    seed: int,
    near: Path | None,
    scale: float,
    shards: int,
) -> Path:
    origin = read(near) if near is not None else None
    kind: torch.dtype = getattr(torch, dtype)
    tensors = {
        name: _fresh(seed, name, shape)
        if origin is None
        else origin[name].float() + scale * _normal(seed, name, shape)
        for name, shape in shapes.items()
    }
    path.mkdir(parents=True, exist_ok=True)
    _save(path, {name: tensor.to(kind) for name, tensor in tensors.items()}, shards)
    _json(path / "config.json", {**settings, "torch_dtype": dtype, "transformers_version": "5.0.0"})
    _json(path / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    _tokenizer(path, settings["vocab_size"])
    return path


def _save(path: Path, tensors: Mapping[str, Tensor], shards: int) -> None:
    if shards == 1:
        save_file(dict(tensors), path / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(tensors)
    where = {name: i * shards // len(names) for i, name in enumerate(names)}
    files = {name: f"model-{k + 1:05}-of-{shards:05}.safetensors" for name, k in where.items()}
    for file in sorted(set(files.values())):
        part = {name: tensors[name] for name in names if files[name] == file}
        save_file(part, path / file, metadata={"format": "pt"})
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": files}
    _json(path / "model.safetensors.index.json", index)


def _tokenizer(path: Path, vocab: int) -> None:
    """Byte-level BPE over lower-case letters without merges: what every family's class can read."""
    words = ["<unk>", "<s>", "</s>", *"abcdefghijklmnopqrstuvwxyz", "\u0120"]
    words += [f"<{i}>" for i in range(len(words), vocab)]
    tokenizer = Tokenizer(models.BPE({w: i for i, w in enumerate(words[:vocab])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(path / "tokenizer.json"))
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    _json(path / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special})


def _json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")

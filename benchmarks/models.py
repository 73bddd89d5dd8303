#!/usr/bin/env python3
"""Llama-shaped bfloat16 checkpoints of a chosen size, from a seed: a base and finetunes near it.

    python benchmarks/models.py --size 1 --count 3 /tmp/models

Written as they are drawn, so memory does not grow with the size.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

PIECE: Final = 1 << 22
VOCABULARY: Final = 32_000
NAMES: Final = ("base", "a", "b", "c", "d")

_WIDTHS: Final = ((0.2e9, 768, 2048), (0.5e9, 1024, 2816), (2e9, 2048, 5632), (1e18, 3072, 8192))


@dataclass(frozen=True, slots=True)
class Llama:
    """A decoder with tied embeddings."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int = VOCABULARY

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Shapes by name, in the order of the file."""
        hidden, wide = self.hidden, self.intermediate
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, hidden)}
        for layer in range(self.layers):
            at = f"model.layers.{layer}"
            found[f"{at}.input_layernorm.weight"] = (hidden,)
            for name in "qkvo":
                found[f"{at}.self_attn.{name}_proj.weight"] = (hidden, hidden)
            found[f"{at}.post_attention_layernorm.weight"] = (hidden,)
            found[f"{at}.mlp.gate_proj.weight"] = (wide, hidden)
            found[f"{at}.mlp.up_proj.weight"] = (wide, hidden)
            found[f"{at}.mlp.down_proj.weight"] = (hidden, wide)
        found["model.norm.weight"] = (hidden,)
        return found

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.tensors().values())

    def config(self) -> dict[str, object]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_attention_heads": max(1, self.hidden // 64),
            "num_key_value_heads": max(1, self.hidden // 64),
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
        }


def of_size(billions: float) -> Llama:
    """The shape whose parameters come nearest to a number of billions."""
    wanted = billions * 1e9
    _, hidden, wide = next(row for row in _WIDTHS if wanted <= row[0])
    layer = 4 * hidden**2 + 3 * hidden * wide
    layers = max(1, round((wanted - VOCABULARY * hidden) / layer))
    return Llama(layers, hidden, wide)


def of_tensors(count: int) -> Llama:
    """A model of at least so many tiny tensors."""
    return Llama(max(1, -(-(count - 2) // 9)), 16, 32, 64)


def make(folder: Path, shape: Llama, count: int = 3, seed: int = 0) -> list[Path]:
    """Write `base` and `count` - 1 finetunes, each into its folder; returns those."""
    folders = [folder / name for name in NAMES[:count]]
    tensors = shape.tensors()
    header = _header(tensors)
    files: list[BinaryIO] = []
    for one in folders:
        one.mkdir(parents=True, exist_ok=True)
        (one / "config.json").write_text(json.dumps(shape.config(), indent=2), encoding="utf-8")
        files.append((one / "model.safetensors").open("wb"))
        files[-1].write(header)
    with ThreadPoolExecutor(2) as pool:  # numpy's generators let go of the GIL
        for drawn in _ahead(pool, list(_pieces(tensors)), count, seed):
            for file, data in zip(files, drawn, strict=True):
                file.write(data.data)
    for file in files:
        file.close()
    return folders


def _header(tensors: Mapping[str, tuple[int, ...]]) -> bytes:
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in tensors.items():
        size = 2 * math.prod(shape)
        table[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _pieces(tensors: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[int, int, bool]]:
    """(number, elements, whether it is a norm) of every piece, in the order of the file."""
    number = 0
    for name, shape in tensors.items():
        left = math.prod(shape)
        while left:
            yield number, min(PIECE, left), "norm" in name
            left -= min(PIECE, left)
            number += 1


def _ahead(
    pool: ThreadPoolExecutor, pieces: Sequence[tuple[int, int, bool]], count: int, seed: int
) -> Iterator[list[NDArray[np.uint16]]]:
    for start in range(0, len(pieces), 4):
        batch = pieces[start : start + 4]
        yield from pool.map(lambda piece: _draw(piece, count, seed), batch)


def _draw(piece: tuple[int, int, bool], count: int, seed: int) -> list[NDArray[np.uint16]]:
    """One piece of every model: deviation 0.02 around 0, or 1 for norms; finetunes 1e-3 away."""
    number, elements, norm = piece
    generator = np.random.default_rng([seed, number])
    base = generator.standard_normal(elements, np.float32) * np.float32(0.02)
    if norm:
        base += np.float32(1.0)
    found = [bfloat16(base)]
    for _ in range(count - 1):
        away = generator.standard_normal(elements, np.float32) * np.float32(1e-3)
        found.append(bfloat16(base + away))
    return found


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounded to nearest even, as bits."""
    words = values.view(np.uint32)
    odd = words >> np.uint32(16) & np.uint32(1)
    return ((words + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=float, default=0.1, help="billions of parameters")
    parser.add_argument("--count", type=int, default=3, help=f"how many of {', '.join(NAMES)}")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    shape = of_size(options.size)
    for folder in make(options.folder, shape, options.count, options.seed):
        print(f"{folder}: {shape.parameters:,} parameters")


if __name__ == "__main__":
    main()

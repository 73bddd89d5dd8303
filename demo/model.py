"""A small Llama in plain torch: the demo's network, its characters, and reading it from a folder.

Owns: the forward pass, the state-dict names (exactly those of Hugging Face's LlamaForCausalLM,
so transformers reads the same files), the character vocabulary, greedy answers.
Must not know: the tasks, how the weights were trained, or how checkpoints were merged.
"""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

PAD, BOS, EOS = 0, 1, 2
SPECIAL = ("<pad>", "<s>", "</s>")
CHARACTERS = string.ascii_lowercase + string.ascii_uppercase + ":="
VOCABULARY = {token: i for i, token in enumerate((*SPECIAL, *CHARACTERS))}


class NotACheckpoint(Exception):
    """The folder does not hold a checkpoint of this network; the message is one line."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The part of config.json that the network is built from, under the same names."""

    vocab_size: int = len(VOCABULARY)
    hidden_size: int = 128
    intermediate_size: int = 192
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding, halves convention: x is (batch, heads, time, head_dim)."""
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        keys = shape.num_key_value_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, shape.hidden_size, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(shape.hidden_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, time, _ = x.shape
        q, k, v = (
            project(x).view(batch, time, -1, self.head_dim).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, time, -1))
        return out


class MLP(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Decoder(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)

        exponent = torch.arange(0, shape.head_dim, 2).float() / shape.head_dim
        frequencies = shape.rope_theta**-exponent
        self.register_buffer("frequencies", frequencies.repeat(2), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        angles = torch.outer(torch.arange(tokens.shape[1]).float(), self.get_buffer("frequencies"))
        cos, sin = angles.cos(), angles.sin()
        x: Tensor = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, cos, sin)
        out: Tensor = self.norm(x)
        return out


class Llama(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.model = Decoder(shape)
        self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, time) to logits (batch, time, vocabulary)."""
        out: Tensor = self.lm_head(self.model(tokens))
        return out


def encode(texts: Sequence[str]) -> Tensor:
    """Token ids with <s> in front, padded on the right: (texts, longest + 1), int64.

    Padding on the right changes nothing to its left, for attention is causal.
    """
    width = max(map(len, texts)) + 1
    rows = [[BOS, *(VOCABULARY[c] for c in text)] for text in texts]
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows])


@torch.inference_mode()
def answer(model: Llama, prompt: str, limit: int = 24) -> str:
    """What the model writes after the prompt, greedily, until </s> or `limit` characters."""
    tokens = encode([prompt])
    letters = ""
    while len(letters) < limit:
        following = int(model(tokens)[0, -1].argmax())
        if following < len(SPECIAL):
            break
        letters += CHARACTERS[following - len(SPECIAL)]
        tokens = encode([prompt + letters])
    return letters


def load(folder: Path) -> Llama:
    """The network in a folder, in float32; NotACheckpoint if it is something else."""
    try:
        config = json.loads((folder / "config.json").read_text())
        shape = Shape(**{f.name: config[f.name] for f in fields(Shape) if f.name in config})
        weights: dict[str, Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            weights |= load_file(file)
        model = Llama(shape)
        model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    except (OSError, ValueError, TypeError, AttributeError, SafetensorError) as error:
        absent = isinstance(error, FileNotFoundError | NotADirectoryError)
        reason = "no config.json" if absent else str(error)
        raise NotACheckpoint(f"{folder}: not a checkpoint: {reason}") from error
    except RuntimeError as error:
        raise NotACheckpoint(
            f"{folder}: not a checkpoint: tensors missing, unexpected or of other shapes"
        ) from error
    return model.eval()

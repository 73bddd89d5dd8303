"""Real architectures, tiny: what transformers builds from a configuration and a seed.

Every parameter is random, norms and biases too, so that each has a part in the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor

VOCAB = 40
IMAGE = 38

_TEXT: Mapping[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCAB, "max_position_embeddings": 64,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_PLAIN = {key: value for key, value in _TEXT.items() if key != "num_key_value_heads"}
_PAIR: Mapping[str, Any] = {
    "d_model": 16, "encoder_layers": 3, "decoder_layers": 4, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24,
    "vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1, "forced_eos_token_id": 2,
}  # fmt: skip
_TOWER: Mapping[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "image_size": 8, "patch_size": 4, "projection_dim": 16,
}  # fmt: skip
_EXPERTS: Mapping[str, Any] = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "head_dim": 4,
}  # fmt: skip
_ROTARY = {"type": "mrope", "mrope_section": [1, 1, 0], "rope_type": "default"}
_QWEN_VL: Mapping[str, Any] = {
    "vision_start_token_id": 35, "vision_end_token_id": 36, "image_token_id": IMAGE,
    "video_token_id": 39, "tie_word_embeddings": False,
}  # fmt: skip


def _ids() -> dict[str, Tensor]:
    return {"input_ids": torch.tensor([[1, 5, 9, 13, 7, 22, 31, 4, 11, 3]])}


def _pair() -> dict[str, Tensor]:
    return {**_ids(), "decoder_input_ids": torch.tensor([[1, 8, 17, 26, 6]])}


def _pixels(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def _llava() -> dict[str, Tensor]:
    ids = torch.tensor([[1, *[IMAGE] * 4, 9, 13, 7]])
    return {"input_ids": ids, "pixel_values": _pixels(1, 3, 8, 8)}


def _qwen_vl() -> dict[str, Tensor]:
    ids = torch.tensor([[1, 35, IMAGE, 36, 9, 13, 7]])
    grid = torch.tensor([[1, 2, 2]])
    kinds = (ids == IMAGE).int()
    pixels = {"pixel_values": _pixels(4, 96), "image_grid_thw": grid, "mm_token_type_ids": kinds}
    return {"input_ids": ids, **pixels}


def _speech() -> dict[str, Tensor]:
    return {
        "input_features": _pixels(1, 8, 32),
        "decoder_input_ids": torch.tensor([[1, 8, 17, 26, 6]]),
    }


def _clip() -> dict[str, Tensor]:
    return {"input_ids": torch.tensor([[1, 5, 9, 2]]), "pixel_values": _pixels(1, 3, 8, 8)}


@dataclass(frozen=True, slots=True)
class Family:
    """`model` is the class, `config` makes its configuration.

    `layers` are where the model's stacks are, by what a recipe calls them, the main one first.
    `after` are the modules behind the main stack, `behind` those behind the other: a frankenmerge
    of that stack has them from its last slice. `inputs` makes what the model
    is asked, `answer` is what it says.
    """

    model: str
    config: Callable[[], Any]
    layers: Mapping[str, str]
    after: tuple[str, ...]
    inputs: Callable[[], dict[str, Tensor]] = field(default=_ids)
    answer: str = "logits"
    behind: tuple[str, ...] = ()

    def make(self, path: Path, seed: int) -> Path:
        """A checkpoint as transformers writes it."""
        torch.manual_seed(seed)
        model = getattr(hf, self.model)(self.config())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(path)
        return path

    def load(self, path: Path) -> Any:
        """A checkpoint as transformers loads it: nothing missing, unexpected or misshapen."""
        load: Any = getattr(hf, self.model).from_pretrained
        model, info = load(path, output_loading_info=True, dtype=torch.float32)
        wrong = {kind: found for kind, found in info.items() if found}
        assert not wrong, wrong
        return model.eval()

    def ask(self, model: Any) -> Tensor:
        with torch.no_grad():
            found: Tensor = getattr(model(**self.inputs()), self.answer)
        return found


def _family(model: str, config: Callable[[], Any], layers: str, *after: str) -> Family:
    return Family(model, config, {"default": layers}, after)


_HEAD = ("model.norm", "lm_head")
_LAYERS = "model.layers"
_LM, _VISUAL = "model.language_model", "model.visual"

FAMILIES: dict[str, Family] = {
    "llama": _family("LlamaForCausalLM", lambda: hf.LlamaConfig(**_TEXT), _LAYERS, *_HEAD),
    "mistral": _family("MistralForCausalLM", lambda: hf.MistralConfig(**_TEXT), _LAYERS, *_HEAD),
    "qwen2": _family(
        "Qwen2ForCausalLM",
        lambda: hf.Qwen2Config(
            **_TEXT, use_sliding_window=True, sliding_window=3, max_window_layers=2
        ),
        _LAYERS, *_HEAD,
    ),
    "qwen3": _family(
        "Qwen3ForCausalLM", lambda: hf.Qwen3Config(**_TEXT, head_dim=4), _LAYERS, *_HEAD
    ),
    "gemma2": _family(
        "Gemma2ForCausalLM", lambda: hf.Gemma2Config(**_TEXT, head_dim=4, sliding_window=3),
        _LAYERS, "model.norm",
    ),
    "gemma3": _family(
        "Gemma3ForCausalLM",
        lambda: hf.Gemma3TextConfig(
            **_TEXT, head_dim=4, sliding_window=3,
            layer_types=["sliding_attention", "full_attention", "sliding_attention",
                         "sliding_attention"],
        ),
        _LAYERS, "model.norm",
    ),
    "phi": _family(
        "PhiForCausalLM", lambda: hf.PhiConfig(**_TEXT), _LAYERS, "model.final_layernorm", "lm_head"
    ),
    "gpt2": _family(
        "GPT2LMHeadModel",
        lambda: hf.GPT2Config(
            n_embd=16, n_layer=4, n_head=4, n_positions=64, vocab_size=VOCAB,
            bos_token_id=1, eos_token_id=2,
        ),
        "transformer.h", "transformer.ln_f",
    ),
    "gpt-neo": _family(
        "GPTNeoForCausalLM",
        lambda: hf.GPTNeoConfig(
            hidden_size=16, num_layers=4, num_heads=4, vocab_size=VOCAB, window_size=3,
            max_position_embeddings=64, attention_types=[[["global", "local"], 2]],
            bos_token_id=1, eos_token_id=2,
        ),
        "transformer.h", "transformer.ln_f",
    ),
    "gpt-neox": _family(
        "GPTNeoXForCausalLM", lambda: hf.GPTNeoXConfig(**_PLAIN),
        "gpt_neox.layers", "gpt_neox.final_layer_norm", "lm_head",
    ),
    "falcon": _family(
        "FalconForCausalLM",
        lambda: hf.FalconConfig(
            hidden_size=16, num_hidden_layers=4, num_attention_heads=4, vocab_size=VOCAB,
            bos_token_id=1, eos_token_id=2,
        ),
        "transformer.h", "transformer.ln_f",
    ),
    "smollm3": _family(
        "SmolLM3ForCausalLM",
        lambda: hf.SmolLM3Config(**_TEXT, no_rope_layer_interval=2), _LAYERS, "model.norm",
    ),
    "mixtral": _family(
        "MixtralForCausalLM",
        lambda: hf.MixtralConfig(**_TEXT, num_local_experts=4, num_experts_per_tok=2),
        _LAYERS, *_HEAD,
    ),
    "qwen3-moe": _family(
        "Qwen3MoeForCausalLM",
        lambda: hf.Qwen3MoeConfig(**_TEXT, **_EXPERTS, mlp_only_layers=[1]), _LAYERS, *_HEAD,
    ),
    "qwen3-moe, every second": _family(
        "Qwen3MoeForCausalLM",
        lambda: hf.Qwen3MoeConfig(**_TEXT, **_EXPERTS, decoder_sparse_step=2), _LAYERS, *_HEAD,
    ),
    "deepseek-v3": _family(
        "DeepseekV3ForCausalLM",
        lambda: hf.DeepseekV3Config(
            **{**_TEXT, "num_key_value_heads": 4}, moe_intermediate_size=8, n_routed_experts=4,
            n_shared_experts=1, num_experts_per_tok=2, first_k_dense_replace=1, q_lora_rank=8,
            kv_lora_rank=8, qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=4, n_group=1,
            topk_group=1,
        ),
        _LAYERS, *_HEAD,
    ),
    "llama4": _family(
        "Llama4ForCausalLM",
        lambda: hf.Llama4TextConfig(
            **_TEXT, intermediate_size_mlp=24, num_local_experts=2, head_dim=4,
            interleave_moe_layer_step=2, attention_chunk_size=4, no_rope_layer_interval=3,
        ),
        _LAYERS, *_HEAD,
    ),
    "bert": Family(
        "BertForMaskedLM", lambda: hf.BertConfig(**_PLAIN, is_decoder=False),
        {"default": "bert.encoder.layer"}, (),
    ),
    "t5": Family(
        "T5ForConditionalGeneration",
        lambda: hf.T5Config(
            d_model=16, d_kv=4, d_ff=24, num_layers=3, num_decoder_layers=4, num_heads=4,
            vocab_size=VOCAB, pad_token_id=0, eos_token_id=2,
        ),
        {"decoder": "decoder.block", "encoder": "encoder.block"}, ("decoder.final_layer_norm",),
        _pair, behind=("encoder.final_layer_norm",),
    ),
    "bart": Family(
        "BartForConditionalGeneration",
        lambda: hf.BartConfig(**_PAIR, max_position_embeddings=64),
        {"decoder": "model.decoder.layers", "encoder": "model.encoder.layers"}, (), _pair,
    ),
    "whisper": Family(
        "WhisperForConditionalGeneration",
        lambda: hf.WhisperConfig(
            **_PAIR, num_mel_bins=8, max_source_positions=16, max_target_positions=16,
            suppress_tokens=None, begin_suppress_tokens=None,
        ),
        {"decoder": "model.decoder.layers", "encoder": "model.encoder.layers"},
        ("model.decoder.layer_norm",), _speech, behind=("model.encoder.layer_norm",),
    ),
    "clip": Family(
        "CLIPModel",
        lambda: hf.CLIPConfig(
            text_config={**_PLAIN, "num_hidden_layers": 4}, vision_config=dict(_TOWER),
            projection_dim=16,
        ),
        {"default": "text_model.encoder.layers", "vision_tower": "vision_model.encoder.layers"},
        ("text_model.final_layer_norm", "text_projection", "visual_projection", "logit_scale"),
        _clip, "logits_per_image", ("vision_model.post_layernorm",),
    ),
    "llava": Family(
        "LlavaForConditionalGeneration",
        lambda: hf.LlavaConfig(
            vision_config=hf.CLIPVisionConfig(**_TOWER), text_config=hf.LlamaConfig(**_TEXT),
            image_token_index=IMAGE, vision_feature_layer=-1,
        ),
        {"text_decoder": f"{_LM}.layers", "vision_tower": "model.vision_tower.encoder.layers"},
        (f"{_LM}.norm", "lm_head"), _llava, behind=("model.vision_tower.post_layernorm",),
    ),
    "qwen2-vl": Family(
        "Qwen2VLForConditionalGeneration",
        lambda: hf.Qwen2VLConfig(
            **_QWEN_VL, text_config={**_TEXT, "rope_scaling": _ROTARY},
            vision_config={"depth": 3, "embed_dim": 16, "hidden_size": 16, "num_heads": 4,
                           "patch_size": 4, "mlp_ratio": 2},
        ),
        {"text_decoder": f"{_LM}.layers", "vision_tower": f"{_VISUAL}.blocks"},
        (f"{_LM}.norm", "lm_head"), _qwen_vl, behind=(f"{_VISUAL}.merger",),
    ),
    "qwen3-vl": Family(
        "Qwen3VLForConditionalGeneration",
        lambda: hf.Qwen3VLConfig(
            **_QWEN_VL, text_config={**_TEXT, "head_dim": 4, "rope_scaling": _ROTARY},
            vision_config={
                "depth": 3, "hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 16,
                "num_heads": 4, "patch_size": 4, "deepstack_visual_indexes": [0, 2],
                "num_position_embeddings": 16,
            },
        ),
        {"text_decoder": f"{_LM}.layers", "vision_tower": f"{_VISUAL}.blocks"},
        (f"{_LM}.norm", "lm_head"), _qwen_vl, behind=(f"{_VISUAL}.merger",),
    ),
}  # fmt: skip

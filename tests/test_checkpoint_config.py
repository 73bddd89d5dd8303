"""The config.json that is written: only what no longer holds is changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.checkpoint.config import output_config
from mergebuild.checkpoint.depth import Depth
from mergebuild.checkpoint.stacks import Stack
from tests import kit

F, S = "full_attention", "sliding_attention"

CASES: dict[str, tuple[Mapping[str, Any], dict[str, Any], Mapping[str, Any]]] = {
    "nothing": ({"b": 1, "a": [None, 1.5]}, {}, {"b": 1, "a": [None, 1.5]}),
    "place": ({"_name_or_path": "/x", "t": {"_name_or_path": "y", "a": 1}}, {}, {"t": {"a": 1}}),
    "dtype added": ({"a": 1}, {"dtype": "float16"}, {"a": 1, "torch_dtype": "float16"}),
    "torch_dtype": ({"torch_dtype": "x", "a": 1}, {"dtype": "y"}, {"torch_dtype": "y", "a": 1}),
    "dtype": ({"dtype": "x"}, {"dtype": "y"}, {"dtype": "y"}),
    "both": ({"dtype": "x", "torch_dtype": None}, {"dtype": "y"},
             {"dtype": "y", "torch_dtype": "y"}),
    "nested dtype": (
        {"text_config": {"dtype": "x"}, "v": {"w": {"torch_dtype": "x"}, "dtype": 5}},
        {"dtype": "y"},
        {"text_config": {"dtype": "y"}, "v": {"w": {"torch_dtype": "y"}, "dtype": 5},
         "torch_dtype": "y"},
    ),
    "tied": ({"tie_word_embeddings": True}, {"tied": False}, {"tie_word_embeddings": False}),
    "tied added": ({"a": 1}, {"tied": True}, {"a": 1, "tie_word_embeddings": True}),
    "tied nested": (
        {"text_config": {"tie_word_embeddings": True}}, {"tied": False},
        {"text_config": {"tie_word_embeddings": False}, "tie_word_embeddings": False},
    ),
    "layers": (
        {"num_hidden_layers": 2, "max_window_layers": 2}, {"layers": [0, 1, 1]},
        {"num_hidden_layers": 3, "max_window_layers": 2},
    ),
    "other names": (
        {"n_layer": 2, "num_layers": True, "n_layers": "2"}, {"layers": [1]},
        {"n_layer": 1, "num_layers": True, "n_layers": "2"},
    ),
    "encoder and decoder": (
        {"num_layers": 2, "num_decoder_layers": 2}, {"layers": [0, 1, 1]},
        {"num_layers": 2, "num_decoder_layers": 3},
    ),
    "layer lists": (
        {"num_hidden_layers": 3, "layer_types": [S, S, F], "no_rope_layers": [1, 0, 1],
         "architectures": ["a", "b", "c"], "mlp_only_layers": [0, 2]},
        {"layers": [2, 0, 2, 1]},
        {"num_hidden_layers": 4, "layer_types": [F, S, F, S], "no_rope_layers": [1, 1, 1, 0],
         "architectures": ["a", "b", "c"], "mlp_only_layers": [0, 1, 2]},
    ),
    "a pattern": (
        {"num_hidden_layers": 3, "hybrid_override_pattern": "M*-", "sliding_window_pattern": 6},
        {"layers": [2, 1]},
        {"num_hidden_layers": 2, "hybrid_override_pattern": "-*", "sliding_window_pattern": 6},
    ),
    "lists of another length": (
        {"num_hidden_layers": 3, "layer_types": [S, F]}, {"layers": [0]},
        {"num_hidden_layers": 1, "layer_types": [S, F]},
    ),
    "deeper than this config": (
        {"num_hidden_layers": 2, "layer_types": [S, F]}, {"layers": [0, 1, 2, 3]},
        {"num_hidden_layers": 4, "layer_types": [S, F, F, F]},
    ),
    "no layers": (
        {"num_hidden_layers": 0, "layer_types": []}, {"layers": [0]},
        {"num_hidden_layers": 1, "layer_types": []},
    ),
    "nested layers": (
        {"text_config": {"num_hidden_layers": 2, "layer_types": [S, F]},
         "vision_config": {"num_hidden_layers": 2, "layer_types": [S, F]}},
        {"layers": [1]},
        {"text_config": {"num_hidden_layers": 1, "layer_types": [F]},
         "vision_config": {"num_hidden_layers": 2, "layer_types": [S, F]}},
    ),
    "odd sections": ({"text_config": 3}, {"layers": [1], "tied": None}, {"text_config": 3}),
}  # fmt: skip


def written(config: Mapping[str, Any], layers: Sequence[int] | None = None, **more: Any) -> bytes:
    """`output_config` with so many layers in the main stack."""
    stack = Stack("model.layers.", 4, "text_decoder", 4)
    depths = [] if layers is None else [Depth(stack, layers, main=True)]
    return output_config(config, depths=depths, **more)


@pytest.mark.parametrize("case", CASES)
def test_cases(case: str) -> None:
    config, changes, expected = CASES[case]
    before = json.dumps(config)
    text = written(config, **changes)
    assert json.loads(text) == expected
    assert list(json.loads(text)) == list(expected)
    assert json.dumps(config) == before


def test_text() -> None:
    assert output_config({"b": ["é"], "a": {}}, dtype="float32") == (
        b'{\n  "b": [\n    "\\u00e9"\n  ],\n  "a": {},\n  "torch_dtype": "float32"\n}\n'
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["num_layers", "layer_types", "text_config", "dtype", "x"]), inner
        )
    ),
)


@given(
    st.dictionaries(st.sampled_from(["num_layers", "layer_types", "text_config", "dtype"]), JSON),
    st.lists(st.integers(0, 9)),
)
def test_any_config(config: dict[str, Any], layers: list[int]) -> None:
    text = written(config, dtype="float32", layers=layers, tied=True)
    assert text == written(
        json.loads(json.dumps(config)), dtype="float32", layers=layers, tied=True
    )
    assert json.loads(text)["tie_word_embeddings"] is True


def test_it_loads(tmp_path: Path) -> None:
    from transformers import AutoConfig

    path = kit.llama(tmp_path / "m", layers=4)
    text = written(kit.config(path), dtype="bfloat16", layers=[0, 1, 2, 3, 2, 3], tied=True)
    (path / "config.json").write_bytes(text)
    config = AutoConfig.from_pretrained(path)
    assert (config.num_hidden_layers, config.tie_word_embeddings) == (6, True)
    assert str(config.dtype) == "torch.bfloat16"

"""Which tensors are no weights, though they are stored beside them: what a model computes once from
its configuration, or counts.

To merge them would be wrong (a mean of rotary frequencies is that of no model), and most models do
not even read them. Decided by name and shape.
"""

from __future__ import annotations

from typing import Final

_NAMES: Final = frozenset({
    "inv_freq", "original_inv_freq", "cos_cached", "sin_cached", "masked_bias", "position_ids",
    "num_batches_tracked", "relative_position_index", "attn_mask",
})  # fmt: skip
_ATTENTION: Final = ("attn", "attention")


def is_buffer(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is such a one; a `bias` of an attention is, if it is a mask [1, 1, n, n]."""
    above, _, last = name.rpartition(".")
    if last == "bias" and above.rpartition(".")[2] in _ATTENTION:
        return len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]
    return last in _NAMES

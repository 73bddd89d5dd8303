"""The recipe that `mergebuild init` writes."""

from typing import Final

STARTER: Final = """\
# A chain of two merges; `mergebuild methods` lists the methods, `mergebuild plan` shows the work.
mergebuild: 1
name: my-merge

sources:            # folders, .safetensors files or Hub ids; --source NAME=PATH puts one elsewhere
  base: ./models/base
  math: ./models/math
  chat: ./models/chat

vars:
  density: 0.5      # --set density=0.3 overrides it

nodes:
  math-on-base:     # the intermediate checkpoint is cached under cache/
    description: The math finetune's task vector, thinned out, on the base.
    merge_method: dare_ties
    base_model: base
    models:
      - model: math
        parameters: {weight: 1.0, density: "${density}"}
    dtype: bfloat16

  my-merge:
    description: The chat finetune added to it.
    merge_method: task_arithmetic
    base_model: base
    models:
      - {model: math-on-base, parameters: {weight: 1.0}}
      - {model: chat, parameters: {weight: 0.7}}
    dtype: bfloat16

outputs:
  my-merge: build/my-merge
"""

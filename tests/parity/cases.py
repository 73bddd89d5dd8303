"""What is compared with mergekit: one row per configuration. `$base`, `$a`, `$b`, `$c` are models.

`a`, `b` and `c` are finetunes of `base`; all have four layers. See spec of the methods, "Oracle
agreement", for where the tolerances come from; each is relative to the largest |y| of a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

EXACT = 0.0
ROUNDING = 5e-7  # float32 operations in another order
GRAM = 5e-5  # the oracle's statistics are float32 sums
FLOAT64 = 1e-6  # ours are float64, the map is float32
BFLOAT16 = 2.0**-8  # one rounding to 8 bits, on either side of a tie

ALL = ("llama", "gpt2", "qwen2")


@dataclass(frozen=True, slots=True)
class Case:
    """`config` is a mergekit file; several documents make a chain."""

    name: str
    tolerance: float
    config: str
    families: tuple[str, ...] = ("llama",)


CASES = (
    # The eight methods, on every family.
    Case(
        "linear",
        ROUNDING,
        """
        merge_method: linear
        models:
          - {model: $a, parameters: {weight: 0.3}}
          - {model: $b, parameters: {weight: 0.5}}
          - {model: $c, parameters: {weight: 1e-1}}
        dtype: float32
        """,
        ALL,
    ),
    Case(
        "passthrough-overlapping",
        EXACT,
        """
        merge_method: passthrough
        slices:
          - sources: [{model: $a, layer_range: [0, 3]}]
          - sources: [{model: $b, layer_range: [1, 4]}]
        dtype: float32
        """,
        ("llama", "gpt2"),
    ),
    Case(
        "slerp",
        GRAM,
        """
        merge_method: slerp
        base_model: $base
        models: [{model: $base}, {model: $a}]
        parameters: {t: 0.4}
        dtype: float32
        """,
        ALL,
    ),
    Case(
        "nuslerp",
        GRAM,
        """
        merge_method: nuslerp
        models:
          - {model: $a, parameters: {weight: 0.3}}
          - {model: $b, parameters: {weight: 0.7}}
        dtype: float32
        """,
        ALL,
    ),
    Case(
        "task_arithmetic",
        EXACT,
        """
        merge_method: task_arithmetic
        base_model: $base
        models:
          - {model: $a, parameters: {weight: 0.8}}
          - {model: $b, parameters: {weight: -0.5}}
        dtype: float32
        """,
        ALL,
    ),
    Case(
        "ties",
        EXACT,
        """
        merge_method: ties
        base_model: $base
        models:
          - {model: $a, parameters: {weight: 0.8, density: 0.5}}
          - {model: $b, parameters: {weight: 0.5, density: 0.7}}
          - {model: $c, parameters: {weight: 1.0, density: 0.2}}
        dtype: float32
        """,
        ALL,
    ),
    Case(
        "dare_linear-dense",
        EXACT,
        """
        merge_method: dare_linear
        base_model: $base
        models:
          - {model: $a, parameters: {weight: 0.8, density: 1.0}}
          - {model: $b, parameters: {weight: 0.5}}
        dtype: float32
        """,
        ALL,
    ),
    Case(
        "dare_ties-dense",
        EXACT,
        """
        merge_method: dare_ties
        base_model: $base
        models:
          - {model: $a, parameters: {weight: 0.8, density: 1.0}}
          - {model: $b, parameters: {weight: 0.5, density: 1.0}}
        dtype: float32
        """,
        ALL,
    ),
    # The parameters of each method.
    Case(
        "linear-sum",
        ROUNDING,
        """
        merge_method: linear
        models:
          - {model: $a, parameters: {weight: 0.3}}
          - {model: $b, parameters: {weight: -0.5}}
        parameters: {normalize: false}
        dtype: float32
        """,
    ),
    Case(
        "passthrough-whole",
        EXACT,
        """
        merge_method: passthrough
        models: [{model: $a}]
        dtype: float32
        """,
    ),
    Case(
        "passthrough-scale",
        EXACT,
        """
        merge_method: passthrough
        slices:
          - sources: [{model: $a, layer_range: [0, 2]}]
          - sources:
              - model: $a
                layer_range: [1, 4]
                parameters:
                  scale:
                    - {filter: o_proj, value: 0.0}
                    - {filter: down_proj, value: 0.5}
                    - value: 1.0
        dtype: float32
        """,
    ),
    Case(
        "slerp-beyond",
        GRAM,
        """
        merge_method: slerp
        base_model: $a
        models: [{model: $b}, {model: $a}]
        parameters: {t: 1.25}
        dtype: float32
        """,
    ),
    Case(
        "nuslerp-base",
        GRAM,
        """
        merge_method: nuslerp
        base_model: $base
        models:
          - {model: $a, parameters: {weight: 0.3}}
          - {model: $b, parameters: {weight: 0.7}}
        dtype: float32
        """,
        ALL,
    ),
    *(
        Case(
            f"nuslerp-{way}{'-base' if base else ''}",
            GRAM,
            f"""
        merge_method: nuslerp
        {base}
        models:
          - {{model: $a, parameters: {{weight: 2}}}}
          - {{model: $b, parameters: {{weight: 1}}}}
        parameters: {{nuslerp_flatten: false, nuslerp_row_wise: {row_wise}}}
        dtype: float32
        """,
        )
        for way, row_wise in (("last-axis", "false"), ("first-axis", "true"))
        for base in ("", "base_model: $base")
    ),
    Case(
        "nuslerp-opposite-weights",
        GRAM,
        """
        merge_method: nuslerp
        models:
          - {model: $a, parameters: {weight: 1}}
          - {model: $b, parameters: {weight: -1}}
        dtype: float32
        """,
    ),
    Case(
        "task_arithmetic-normalized",
        ROUNDING,
        """
        merge_method: task_arithmetic
        base_model: $base
        models:
          - {model: $a, parameters: {weight: 0.8}}
          - {model: $b, parameters: {weight: 0.5}}
        parameters: {normalize: true, lambda: 0.7}
        dtype: float32
        """,
    ),
    Case(
        "task_arithmetic-base-alone",
        EXACT,
        """
        merge_method: task_arithmetic
        base_model: $base
        models: [{model: $base}]
        dtype: float32
        """,
    ),
    Case(
        "ties-sum",
        ROUNDING,
        """
        merge_method: ties
        base_model: $base
        models:
          - {model: $a, parameters: {weight: 0.8, density: 0.05}}
          - {model: $b, parameters: {weight: 0.5, density: 0}}
        parameters: {normalize: false, lambda: 1.3, int8_mask: true}
        dtype: float32
        """,
    ),
    Case(
        "ties-rescaled",
        GRAM,
        """
        merge_method: ties
        base_model: $base
        models:
          - {model: $a, parameters: {weight: 0.8, density: 0.3}}
          - {model: $b, parameters: {weight: 0.5, density: 0.6}}
        parameters: {rescale: true}
        dtype: float32
        """,
    ),
    Case(
        "dare_ties-normalized",
        ROUNDING,
        """
        merge_method: dare_ties
        base_model: $base
        models:
          - {model: $base, parameters: {weight: 0.3, density: 0.35}}
          - {model: $a, parameters: {weight: 0.25, density: 1}}
          - {model: $b, parameters: {weight: 0.25, density: 1}}
          - {model: $c, parameters: {weight: 0.2, density: 1}}
        parameters: {normalize: true, int8_mask: true, lambda: 0.9}
        dtype: float32
        """,
    ),
    # The other methods, on two families where they read more than elements.
    Case(
        "multislerp",
        GRAM,
        """
        merge_method: multislerp
        models:
          - {model: $a, parameters: {weight: 0.3}}
          - {model: $b, parameters: {weight: 0.7}}
          - {model: $c, parameters: {weight: [0.5, 1]}}
        dtype: float32
        """,
        ("llama", "gpt2"),
    ),
    Case(
        "multislerp-base",
        GRAM,
        """
        merge_method: multislerp
        base_model: $base
        models:
          - {model: $a, parameters: {weight: 0.3}}
          - {model: $b, parameters: {weight: 0.7}}
          - {model: $c, parameters: {weight: 0.5}}
        parameters: {normalize_weights: false, eps: 1e-6}
        dtype: float32
        """,
    ),
    Case(
        "karcher",
        GRAM,
        """
        merge_method: karcher
        models: [{model: $a}, {model: $b}, {model: $c}]
        dtype: float32
        """,
        ("llama", "gpt2"),
    ),
    Case(
        "karcher-coarse",
        GRAM,
        """
        merge_method: karcher
        models: [{model: $a}, {model: $b}]
        parameters: {max_iter: 3, tol: 1e-3}
        dtype: float32
        """,
    ),
    Case(
        "model_stock",
        GRAM,
        """
        merge_method: model_stock
        base_model: $base
        models: [{model: $a}, {model: $b}, {model: $c}]
        dtype: float32
        """,
        ("llama", "gpt2"),
    ),
    Case(
        "model_stock-filter-wise",
        GRAM,
        """
        merge_method: model_stock
        base_model: $base
        models: [{model: $a}, {model: $b}]
        parameters: {filter_wise: [{filter: mlp, value: true}, {value: false}]}
        dtype: float32
        """,
        ("llama", "gpt2"),
    ),
    *(
        Case(
            f"{method}-{'rescaled' if rescale == 'true' else 'plain'}",
            GRAM if rescale == "true" else EXACT,
            f"""
        merge_method: {method}
        base_model: $base
        models:
          - {{model: $a, parameters: {{weight: 0.8, density: 0.6, gamma: 0.1}}}}
          - {{model: $b, parameters: {{weight: 0.5, density: [0.9, 0.4]}}}}
        parameters: {{rescale: {rescale}, lambda: 0.9}}
        dtype: float32
        """,
            ("llama", "gpt2"),
        )
        for method in ("breadcrumbs", "breadcrumbs_ties")
        for rescale in ("false", "true")
    ),
    *(
        Case(
            f"{method}-dense",
            EXACT,
            f"""
        merge_method: {method}
        base_model: $base
        models:
          - {{model: $a, parameters: {{weight: 0.8, density: 1.0}}}}
          - {{model: $b, parameters: {{weight: 0.5}}}}
        parameters: {{lambda: 1.1}}
        dtype: float32
        """,
        )
        for method in ("della", "della_linear")
    ),
    *(
        Case(
            f"sce-{share}",
            ROUNDING,
            f"""
        merge_method: sce
        base_model: $base
        models: [{{model: $a}}, {{model: $b}}, {{model: $c}}]
        parameters: {{select_topk: {share}}}
        dtype: float32
        """,
            ("llama", "gpt2"),
        )
        for share in ("1.0", "0.35", "0")
    ),
    Case(
        "nearswap",
        ROUNDING,
        """
        merge_method: nearswap
        base_model: $base
        models: [{model: $base}, {model: $a}]
        parameters: {t: [{filter: mlp, value: 0.02}, {value: 0.001}]}
        dtype: float32
        """,
        ALL,
    ),
    Case(
        "ram",
        ROUNDING,  # of a mean of three
        """
        merge_method: ram
        base_model: $base
        models: [{model: $a}, {model: $b}, {model: $c}]
        parameters: {epsilon: 0.02}
        dtype: float32
        """,
        ("llama", "gpt2"),
    ),
    Case(
        "ramplus_tl",
        ROUNDING,
        """
        merge_method: ramplus_tl
        base_model: $base
        models: [{model: $a}, {model: $b}, {model: $c}]
        parameters: {epsilon: 0.02, r: 0.5, alpha: 1.5}
        dtype: float32
        """,
        ("llama", "gpt2"),
    ),
    # In float64, where the oracle's statistics are good; its float32 ones are noise for some.
    *(
        Case(
            f"{method}-float64",
            FLOAT64,
            f"""
        merge_method: {method}
        {rest}
        dtype: float64
        """,
            ("llama", "gpt2"),
        )
        for method, rest in (
            ("arcee_fusion", "base_model: $base\n        models: [{model: $base}, {model: $a}]"),
            ("karcher", "models: [{model: $a}, {model: $b}, {model: $c}]"),
            ("model_stock", "base_model: $base\n        models: [{model: $a}, {model: $b}]"),
            ("multislerp", "models: [{model: $a}, {model: $b}]\n        parameters: {weight: 0.3}"),
            ("nuslerp", "models: [{model: $a}, {model: $b}]\n        parameters: {weight: 0.3}"),
        )
    ),
    # Slices, modules, gradients, filters and who wins.
    Case(
        "slices-differ",
        GRAM,
        """
        merge_method: slerp
        base_model: $base
        slices:
          - sources: [{model: $base, layer_range: [0, 3]}, {model: $a, layer_range: [0, 3]}]
            parameters: {t: 0.2}
          - sources: [{model: $base, layer_range: [1, 4]}, {model: $a, layer_range: [0, 3]}]
            parameters: {t: [0.1, 0.9]}
        dtype: float32
        """,
        ("llama", "gpt2"),
    ),
    Case(
        "slice-of-other-layers",
        ROUNDING,
        """
        merge_method: linear
        slices:
          - sources:
              - {model: $a, layer_range: [0, 2], parameters: {weight: 0.25}}
              - {model: $b, layer_range: [2, 4], parameters: {weight: [0.5, 1]}}
        dtype: float32
        """,
        ("llama", "gpt2"),
    ),
    Case(
        "slice-with-its-base",
        EXACT,
        """
        merge_method: task_arithmetic
        slices:
          - base_model: $base
            sources:
              - {model: $base, layer_range: [0, 4]}
              - {model: $a, layer_range: [0, 4], parameters: {weight: 0.5}}
        dtype: float32
        """,
    ),
    Case(
        "module-slices",
        ROUNDING,
        """
        merge_method: dare_ties
        base_model: $base
        modules:
          default:
            slices:
              - sources:
                  - {model: $base, layer_range: [0, 4]}
                  - {model: $a, layer_range: [0, 4], parameters: {weight: 0.3}}
                  - {model: $b, layer_range: [0, 4], parameters: {weight: 0.7}}
        dtype: float32
        """,
        ALL,
    ),
    Case(
        "module-models",
        GRAM,
        """
        merge_method: nuslerp
        base_model: $base
        modules:
          default:
            models:
              - {model: $a, parameters: {weight: 0.3}}
              - {model: $b, parameters: {weight: 0.7}}
            parameters: {nuslerp_flatten: false}
        dtype: float32
        """,
    ),
    Case(
        "gradients",
        ROUNDING,
        """
        merge_method: linear
        models:
          - {model: $a, parameters: {weight: [1, 0.25, 0.5]}}
          - {model: $b, parameters: {weight: [0.5, 1, 0, 0.3, 0.7, 0.1]}}
          - {model: $c, parameters: {weight: [0.5]}}
        dtype: float32
        """,
        ALL,
    ),
    Case(
        "gradient-by-filter",
        GRAM,
        """
        merge_method: slerp
        base_model: $a
        slices:
          - sources: [{model: $a, layer_range: [0, 4]}, {model: $b, layer_range: [0, 4]}]
        parameters:
          t:
            - {filter: self_attn, value: [1, 0.7, 0.3, 0.5, 0]}
            - {filter: mlp, value: [0, 0.3, 0.7, 0.5, 1]}
            - value: 0.5
        dtype: float32
        """,
        ("llama", "qwen2"),
    ),
    Case(
        "gradient-of-booleans",
        ROUNDING,
        """
        merge_method: linear
        models:
          - {model: $a, parameters: {weight: 0.3}}
          - {model: $b, parameters: {weight: 0.5}}
        parameters: {normalize: [true, false, true]}
        dtype: float32
        """,
    ),
    Case(
        "gradient-over-one-layer",
        ROUNDING,
        """
        merge_method: linear
        slices:
          - sources:
              - {model: $a, layer_range: [1, 2], parameters: {weight: [0.2, 0.8]}}
              - {model: $b, layer_range: [2, 3], parameters: {weight: [0.8, 0.5]}}
        dtype: float32
        """,
    ),
    Case(
        "filter-first-match",
        ROUNDING,
        """
        merge_method: linear
        models:
          - model: $a
            parameters:
              weight:
                - {filter: mlp.down, value: 0.9}
                - {filter: mlp, value: 0.1}
                - {filter: layers.1, value: 0.7}
                - {filter: "*", value: 0.4}
                - {filter: norm, value: 100}
          - {model: $b, parameters: {weight: 0.5}}
        dtype: float32
        """,
    ),
    Case(
        "filter-of-the-input",
        ROUNDING,
        """
        merge_method: linear
        slices:
          - sources:
              - model: $a
                layer_range: [0, 2]
                parameters: {weight: [{filter: layers.1, value: 0.9}, {value: 0.2}]}
              - model: $b
                layer_range: [2, 4]
                parameters: {weight: [{filter: layers.2, value: 0.6}, {value: 0.3}]}
        dtype: float32
        """,
    ),
    Case(
        "filter-of-the-output",
        GRAM,
        """
        merge_method: slerp
        base_model: $a
        slices:
          - sources: [{model: $a, layer_range: [0, 2]}, {model: $b, layer_range: [0, 2]}]
          - sources: [{model: $a, layer_range: [0, 2]}, {model: $b, layer_range: [1, 3]}]
        parameters:
          t: [{filter: layers.2, value: 0.9}, {filter: layers.0, value: 0.1}, {value: 0.5}]
        dtype: float32
        """,
    ),
    Case(
        "precedence",
        ROUNDING,
        """
        merge_method: linear
        parameters: {weight: 0.1}
        modules:
          default:
            parameters: {weight: [{filter: mlp, value: 0.2}, {filter: norm, value: 0.25}]}
            slices:
              - parameters: {weight: [{filter: up_proj, value: 0.4}, {filter: q_proj, value: 0.45}]}
                sources:
                  - model: $a
                    layer_range: [0, 2]
                    parameters: {weight: [{filter: q_proj, value: 0.8}]}
                  - {model: $b, layer_range: [0, 2]}
              - sources:
                  - {model: $a, layer_range: [2, 4], parameters: {weight: 0.9}}
                  - {model: $b, layer_range: [2, 4]}
        dtype: float32
        """,
    ),
    Case(
        "precedence-of-shared",
        GRAM,
        """
        merge_method: slerp
        base_model: $a
        parameters: {t: 0.1}
        modules:
          default:
            parameters: {t: [{filter: mlp, value: 0.2}]}
            slices:
              - sources: [{model: $a, layer_range: [0, 2]}, {model: $b, layer_range: [0, 2]}]
                parameters: {t: [{filter: up_proj, value: 0.7}]}
              - sources: [{model: $a, layer_range: [2, 4]}, {model: $b, layer_range: [2, 4]}]
        dtype: float32
        """,
    ),
    # dtypes.
    Case(
        "out_dtype",
        BFLOAT16,
        """
        merge_method: linear
        models:
          - {model: $a, parameters: {weight: 0.3}}
          - {model: $b, parameters: {weight: 0.5}}
        dtype: float32
        out_dtype: bfloat16
        """,
    ),
    Case(
        "dtype-unset",
        ROUNDING,
        """
        merge_method: linear
        models:
          - {model: $a, parameters: {weight: 0.3}}
          - {model: $b, parameters: {weight: 0.5}}
        """,
    ),
    # Chains.
    Case(
        "chain-of-two",
        EXACT,
        """
        name: first
        merge_method: dare_ties
        base_model: $base
        models: [{model: $a, parameters: {weight: 1, density: 1}}]
        dtype: float32
        ---
        merge_method: task_arithmetic
        base_model: $base
        models:
          - {model: first, parameters: {weight: 1.0}}
          - {model: $b, parameters: {weight: 1.0}}
        dtype: float32
        """,
        ALL,
    ),
    Case(
        "chain-of-three",
        GRAM,
        """
        merge_method: slerp
        base_model: second
        models: [{model: second}, {model: first}]
        parameters: {t: [{filter: mlp, value: [0, 1]}, {value: 0.5}]}
        dtype: float32
        ---
        name: second
        merge_method: ties
        base_model: $base
        models:
          - {model: first, parameters: {weight: 0.6, density: 0.5}}
          - {model: $c, parameters: {weight: 0.4, density: 0.5}}
        dtype: float32
        ---
        name: first
        merge_method: linear
        models:
          - {model: $a, parameters: {weight: 0.3}}
          - {model: $b, parameters: {weight: 0.5}}
        dtype: float32
        """,
        ("llama", "gpt2"),
    ),
    Case(
        "chain-of-slices",
        ROUNDING,
        """
        name: tall
        merge_method: passthrough
        slices:
          - sources: [{model: $a, layer_range: [0, 3]}]
          - sources: [{model: $b, layer_range: [1, 4]}]
        dtype: float32
        ---
        merge_method: linear
        slices:
          - sources:
              - {model: tall, layer_range: [1, 5], parameters: {weight: 0.5}}
              - {model: $c, layer_range: [0, 4], parameters: {weight: 0.5}}
        dtype: float32
        """,
    ),
)


# Each method on tensors of one to four axes, with gradients and filters.
SHAPED = (
    *("linear", "linear-sum", "passthrough-scale", "slerp", "nuslerp", "nuslerp-base"),
    *(
        "nuslerp-last-axis",
        "nuslerp-last-axis-base",
        "nuslerp-first-axis",
        "nuslerp-first-axis-base",
    ),
    *("multislerp", "multislerp-base", "karcher", "model_stock", "model_stock-filter-wise"),
    *("task_arithmetic", "ties", "ties-rescaled", "dare_linear-dense", "dare_ties-dense"),
    *("breadcrumbs-rescaled", "breadcrumbs_ties-plain", "della-dense", "della_linear-dense"),
    *("sce-1.0", "sce-0.35", "nearswap", "ram", "ramplus_tl", "gradients", "gradient-by-filter"),
    *(f"{name}-float64" for name in ("arcee_fusion", "karcher", "model_stock", "multislerp")),
)


@dataclass(frozen=True, slots=True)
class Random:
    """A random method, compared in statistics: `deltas` maps a model to (weight, density).

    With `rescale` there is one delta, and its kept part is scaled to the L1 norm of the whole.
    """

    name: str
    method: str
    deltas: dict[str, tuple[float, float]]
    rescale: bool = False

    @property
    def config(self) -> str:
        models = ", ".join(
            f"{{model: ${name}, parameters: {{weight: {weight}, density: {density}}}}}"
            for name, (weight, density) in self.deltas.items()
        )
        return f"""
        merge_method: {self.method}
        base_model: $base
        models: [{models}]
        parameters: {{rescale: {str(self.rescale).lower()}}}
        dtype: float32
        """


RANDOM = (
    Random("dare_linear-one", "dare_linear", {"a": (0.8, 0.3)}),
    Random("dare_linear-rescaled", "dare_linear", {"a": (0.8, 0.3)}, rescale=True),
    Random("dare_linear-two", "dare_linear", {"a": (0.8, 0.6), "b": (-0.5, 0.2)}),
    Random("dare_ties-one", "dare_ties", {"a": (0.8, 0.3)}),
    Random("dare_ties-rescaled", "dare_ties", {"a": (0.8, 0.3)}, rescale=True),
    Random("dare_ties-two", "dare_ties", {"a": (0.3, 0.6), "b": (0.7, 0.6)}),
    # Larger elements stay more often, but of each row as many as without that.
    Random("della_linear-one", "della_linear", {"a": (0.8, 0.3)}),
    Random("della_linear-rescaled", "della_linear", {"a": (0.8, 0.5)}, rescale=True),
    Random("della-one", "della", {"a": (1.0, 0.7)}),
    Random("della-rescaled", "della", {"a": (1.0, 0.4)}, rescale=True),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """Where this project differs on purpose: `reason` says how. Only exit codes are compared."""

    name: str
    reason: str
    oracle_fails: bool
    our_code: int
    config: str
    family: str = "llama"


DIFFERENCES = (
    Difference(
        "unknown-key",
        "the oracle drops unknown keys; here they are errors",
        False,
        2,
        """
        merge_method: linear
        models: [{model: $a, parameters: {weight: 1}, wieght: 2}]
        dtype: float32
        """,
    ),
    Difference(
        "reversed-range",
        "the oracle makes a model without layers; here the range is an error",
        False,
        2,
        """
        merge_method: passthrough
        slices: [{sources: [{model: $a, layer_range: [0, -1]}]}]
        dtype: float32
        """,
    ),
    Difference(
        "weights-of-zero-sum",
        "the oracle writes inf or NaN; here the plan refuses it",
        False,
        2,
        """
        merge_method: linear
        models:
          - {model: $a, parameters: {weight: 1}}
          - {model: $b, parameters: {weight: -1}}
        dtype: float32
        """,
    ),
    Difference(
        "density-beyond-one",
        "the oracle checks no range; here the recipe is refused",
        False,
        2,
        """
        merge_method: ties
        base_model: $base
        models: [{model: $a, parameters: {weight: 1, density: 1.5}}]
        dtype: float32
        """,
    ),
    Difference(
        "base-that-linear-ignores",
        "the oracle makes the base one more input, without a weight, and fails; here it is not one",
        True,
        0,
        """
        merge_method: linear
        base_model: $base
        models:
          - {model: $a, parameters: {weight: 1}}
          - {model: $b, parameters: {weight: 1}}
        dtype: float32
        """,
    ),
    Difference(
        "stage-named-as-a-method",
        "the oracle rewrites any string equal to a stage's name; here only model fields name one",
        True,
        0,
        """
        name: linear
        merge_method: linear
        models: [{model: $a, parameters: {weight: 1}}, {model: $b, parameters: {weight: 1}}]
        dtype: float32
        ---
        merge_method: linear
        models: [{model: linear, parameters: {weight: 1}}, {model: $c, parameters: {weight: 1}}]
        dtype: float32
        """,
    ),
    Difference(
        "layer_types-of-another-length",
        "the oracle leaves a list with one entry per layer as it was; here it follows the layers",
        True,
        0,
        """
        merge_method: passthrough
        slices:
          - sources: [{model: $a, layer_range: [0, 3]}]
          - sources: [{model: $b, layer_range: [1, 4]}]
        dtype: float32
        """,
        "qwen2",
    ),
)


# Native recipes: mergekit runs what `mergebuild export` makes of them.
EXPORTS = (
    Case(
        "exported-chain",
        GRAM,
        """
        mergebuild: 1
        sources: {base: $base, a: $a, b: $b}
        vars: {half: 0.5}
        nodes:
          linear:
            description: a stage that is called like its method
            merge_method: linear
            models:
              - {model: a, parameters: {weight: "${half}"}}
              - {model: b, parameters: {weight: [1, 0.25]}}
            dtype: float32
          out:
            merge_method: slerp
            base_model: base
            slices:
              - sources: [{model: base, layer_range: [0, 2]}, {model: linear, layer_range: [0, 2]}]
                parameters: {t: "${half}"}
              - sources: [{model: base, layer_range: [2, 4]}, {model: linear, layer_range: [2, 4]}]
            parameters: {t: [{filter: mlp, value: [0, 1]}, {value: 0.25}]}
            dtype: float32
        """,
    ),
)

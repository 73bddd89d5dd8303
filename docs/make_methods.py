"""Writes docs/methods.md from the registry; a test checks that it did."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mergebuild.console.methods import (
    WHOLE,
    default,
    example,
    grouped,
    inputs,
    kind,
    references,
    symbols,
    without_papers,
)
from mergebuild.methods import registry
from mergebuild.methods.declaration import Method

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "methods.md"
PLUGIN = ROOT / "tests" / "plugin" / "src" / "median_merge" / "__init__.py"
PRECISION = ROOT / "benchmarks" / "precision.md"

INTRODUCTION = """\
<!-- made by docs/make_methods.py: change the methods' docstrings, not this page -->

# Merge methods

`mergebuild methods` lists them, `mergebuild methods ties` shows one as it stands here.

A method makes each tensor of the output from the tensors of that name in its inputs. Inputs are
x_i, the base is b, and d_i = x_i - b are the task vectors; K counts the inputs besides the base, n
the elements of the tensor, and a row is a vector along the last axis. A parameter *for the node*
stands under the node's `parameters:`, one *for each model* under the model's, or under the node's
for all. In place of a number a list is a gradient over the layers, and a list of
`{filter, value}` chooses by tensor name.

Arithmetic is float32 whatever the checkpoints' dtype, statistics of a tensor are float64, and the
result is rounded once, to the output's dtype. Random masks come from a hash of seed, content of
the input, tensor name and element index: the same for any number of threads, chunk size or device.
A tensor is read in chunks, once for each statistic and once for the result; the methods under
*Whole matrices* also hold some squares of a matrix's shorter side. The last bits of those, and of
methods of other packages, depend on the processor, or the GPU with `--device cuda`, that
decomposes the matrices; all others give the same bytes on every processor and device. exp, tanh
and ln have definitions of their own for that. slerp, nuslerp and karcher take the angle of two
vectors from the C library, in float64, and round coefficients to float32: another library could in
rare cases give one that differs in its last bit."""

OTHERS = """\
## A method of your own

A package that registers a function under the entry point group `mergebuild.methods` adds a merge
method: to recipes and their checks, to `mergebuild methods`, and to keys, which hold the package's
name and release (set `median.version = 2` when its numbers change within a release). In the
package's `pyproject.toml`:

```toml
[project.entry-points."mergebuild.methods"]
median = "median_merge:median"
```

and in `median_merge.py`:

```python
{code}
```

It gets whole tensors in float32, the base apart, and returns one of the same shape; the same
tensors must always give the same result. Without a `base` argument the method ignores the base;
where that may be None it is optional. Keyword-only arguments are the parameters: `float`, `int` or
`bool` for the node, `tuple[float, ...]` for each model but the base, and
`Annotated[float, shared("What it does.", low=0)]` (`mergebuild.methods.declare`) says more. A
method that streams is a function that yields statistics, like those in `mergebuild/methods/`,
under `@method(...)`; with `held=` it tells what it holds besides chunks, from the number and shape
of its operands, and the plan counts it.
"""

ERRORS = """\
## Error against float64

Root mean square of the error relative to that of the values, against an evaluation of the formulas
in float64: four seeded checkpoints of 1.1 million weights in bfloat16 (base of deviation 0.02, task
vectors of 0.001), merged to bfloat16 and to float32 by mergebuild and by mergekit 0.1.5, the latter
with `dtype` set to the same. Rounding to bfloat16 alone costs about 1e-03. At density 1, as which
of equal elements are kept is a matter of rules and not of precision. Made by
`benchmarks/precision.py`; the parity suite measures it anew, and that ours are never the larger.

{table}
"""


def page() -> str:
    methods = registry().built_in
    parts = [INTRODUCTION, "\n".join(_overview())]
    for family, members in grouped(methods).items():
        parts.append(f"## {family}")
        parts += ["\n\n".join(_section(method)) for method in members]
    code = PLUGIN.read_text(encoding="utf-8").split('"""\n', 1)[1].strip()
    parts.append(OTHERS.format(code=code))
    parts.append(ERRORS.format(table=PRECISION.read_text(encoding="utf-8").strip()))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _overview() -> Iterator[str]:
    yield "| method | inputs | |"
    yield "|---|---|---|"
    for members in grouped(registry().built_in).values():
        for method in members:
            link = f"[`{method.name}`](#{method.name})"
            yield f"| {link} | {inputs(method)} | {without_papers(method.summary)} |"


def _section(method: Method) -> Iterator[str]:
    yield f"### {method.name}"
    yield without_papers(method.summary)
    yield f"```text\n{method.equation.strip()}\n```"
    if text := " ".join(filter(None, [symbols(method), method.notes])):
        yield text
    yield f"Inputs: {inputs(method)}."
    if method.parameters:
        rows = (
            f"| `{p.name}` | {kind(p)} | {default(p).removeprefix('default ')} | {p.doc} |"
            for p in method.parameters.values()
        )
        yield "\n".join(["| parameter | | default | |", "|---|---|---|---|", *rows])
    if method.whole:
        yield WHOLE
    if method.inert:
        names = ", ".join(f"`{name}`" for name in sorted(method.inert))
        yield f"Accepted without effect: {names}."
    for reference in references(method):
        yield f"Reference: {reference}"
    yield f"```yaml\n{example(method)}\n```"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

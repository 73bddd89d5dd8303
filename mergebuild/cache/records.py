"""The tensors of a manifest: where each was written, and from what. To JSON and back.

What is read is untrusted. Knows no files.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from mergebuild.checkpoint.dtypes import itemsize
from mergebuild.expression import Expression, Operand, RowsView


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """A tensor as written: `offset` and `size` in bytes within `shard`, `digest` of its content."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    shard: str
    offset: int
    size: int
    digest: str
    expression: Expression


def record_lines(tensors: Mapping[str, TensorRecord]) -> Iterator[str]:
    """Members of a JSON object, `expressions` first; expressions of equal method and arguments are
    written once."""
    forms: dict[str, int] = {}
    rows: list[str] = []
    for name, record in tensors.items():
        expression = record.expression
        form = json.dumps(
            {
                "method": expression.method,
                "version": expression.version,
                "base": expression.base,
                "arguments": expression.arguments,
            }
        )
        entry = {
            "key": record.key,
            "dtype": record.dtype,
            "shape": record.shape,
            "shard": record.shard,
            "offset": record.offset,
            "size": record.size,
            "digest": record.digest,
            "by": forms.setdefault(form, len(forms)),
            "from": [_operand_json(operand) for operand in expression.operands],
            **({"stream": expression.stream} if expression.stream else {}),
        }
        rows.append(f"  {json.dumps(name)}: {json.dumps(entry)}")
    yield ' "expressions": [\n  ' + ",\n  ".join(forms) + "\n ]"
    yield ' "tensors": {\n' + ",\n".join(rows) + "\n }"


def _operand_json(operand: Operand) -> list[Any]:
    plain: list[Any] = [operand.model, operand.tensor, operand.key, operand.dtype]
    if operand.view is not None:
        plain.append({"rows": operand.view.table, "of": [*map(_operand_json, operand.view.parts)]})
    return plain


def records_of(data: Any, shards: Collection[str]) -> dict[str, TensorRecord]:
    """What `record_lines` wrote, from a JSON object. Raises ValueError, TypeError, KeyError,
    IndexError, AttributeError or RecursionError for anything else."""
    forms = [
        (str(f["method"]), int(f["version"]), bool(f["base"]), _arguments(f["arguments"]))
        for f in data["expressions"]
    ]
    tensors = {}
    for name, entry in data["tensors"].items():
        method, version, base, arguments = forms[entry["by"]]
        shape = tuple(count(extent) for extent in entry["shape"])
        if prod(shape) * itemsize(entry["dtype"]) != count(entry["size"]):
            raise ValueError(f"{name!r} has another size than its shape")
        if entry["shard"] not in shards:
            raise ValueError(f"{name!r} is in no shard")
        expression = Expression(
            method=method,
            version=version,
            operands=tuple(map(_operand, entry["from"])),
            base=base,
            arguments=arguments,
            dtype=str(entry["dtype"]),
            shape=shape,
            stream=str(entry["stream"]) if "stream" in entry else None,
        )
        tensors[name] = TensorRecord(
            key=str(entry["key"]),
            dtype=expression.dtype,
            shape=shape,
            shard=plain_name(entry["shard"]),
            offset=count(entry["offset"]),
            size=count(entry["size"]),
            digest=str(entry["digest"]),
            expression=expression,
        )
    return tensors


def _operand(data: Sequence[Any]) -> Operand:
    model, tensor, key, dtype = map(str, data[:4])
    view = None
    if len(data) > 4:
        view = RowsView(str(data[4]["rows"]), tuple(map(_operand, data[4]["of"])))
    return Operand(model, tensor, key, dtype, view=view)


def _arguments(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}


def count(number: int) -> int:
    """A number of bytes or elements. Raises ValueError for anything else."""
    if not isinstance(number, int) or not 0 <= number < 1 << 63:
        raise ValueError(f"{number!r} is not a count")
    return number


def plain_name(name: str) -> str:
    """A name of a file in the checkpoint's own folder. Raises ValueError for any other."""
    if not name or "/" in name or name in (".", ".."):
        raise ValueError(f"{name!r} is not a file name")
    return name

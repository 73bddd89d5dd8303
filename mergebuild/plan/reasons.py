"""Why a node is stale: what its keys are made of now, against what they were made of last time.

Consumes the walker that the keys consume (`expression.fields`), nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from mergebuild.cache import Manifest
from mergebuild.expression import Expression, Field, fields
from mergebuild.plan.model import Reason
from mergebuild.plan.outline import SideFile


def differences(old: Expression, new: Expression) -> Iterator[tuple[str, str]]:
    """(field, how it changed) for each field that differs, in the order of the key.

    Empty exactly when the two have the same key.
    """
    before = {(f.name, f.subject): f for f in fields(old)}
    after = {(f.name, f.subject): f for f in fields(new)}
    for place in dict.fromkeys([*after, *before]):
        was, now = before.get(place), after.get(place)
        if was is not None and now is not None and was.value == now.value:
            continue
        yield _label(now or was, new if now else old), _change(was, now)


def changes(
    previous: Manifest, expressions: Mapping[str, Expression], files: Iterable[SideFile]
) -> list[Reason]:
    """What distinguishes a node from a checkpoint that was built for it before."""
    found: dict[str, list[str]] = {}
    shown: dict[str, set[str]] = {}
    for name, expression in expressions.items():
        record = previous.tensors.get(name)
        if record is None:
            found.setdefault("new tensors", []).append(name)
            continue
        for label, change in differences(record.expression, expression):
            found.setdefault(label, []).append(name)
            shown.setdefault(label, set()).add(change)
    gone = [name for name in previous.tensors if name not in expressions]
    if gone:
        found["tensors that are no longer there"] = gone
    reasons = []
    for label, tensors in found.items():
        values = shown.get(label, set())
        change = values.pop() if len(values) == 1 else ("changed" if values else "")
        reasons.append(Reason(f"{label} {change}".strip(), tuple(tensors)))
    now = {file.name: file.digest for file in files}
    was = {name: record.digest for name, record in previous.files.items()}
    for name in sorted(now.keys() | was.keys()):
        if now.get(name) != was.get(name):
            what = "is new" if name not in was else "is gone" if name not in now else "changed"
            reasons.append(Reason(f"file {name} {what}"))
    return reasons


def _label(field: Field | None, expression: Expression) -> str:
    assert field is not None
    if field.subject is None:
        return {"version": f"version of method '{expression.method}'"}.get(field.name, field.name)
    model = expression.operands[field.subject].model
    return f"content of '{model}'" if field.name == "content" else f"{field.name} of '{model}'"


def _change(was: Field | None, now: Field | None) -> str:
    if was is None or now is None:
        return "is new" if was is None else "is gone"
    if now.name == "content":
        return "changed"
    return f"{value_text(was.value)} → {value_text(now.value)}"


def value_text(value: object) -> str:
    """A field's value as recipes write it."""
    if isinstance(value, tuple):
        return "[" + ", ".join(map(value_text, value)) + "]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)

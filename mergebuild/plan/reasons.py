"""Why a node is stale: what its keys are made of now, against what they were made of last time.

Consumes the walker that the keys consume (`expression.fields`), nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from mergebuild.cache import Manifest
from mergebuild.expression import Expression, Field, Operand, fields, view_fields
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
        if (
            was is not None
            and now is not None
            and now.name == "content"
            and now.subject is not None
        ):
            yield from _contents(old.operands[now.subject], new.operands[now.subject])
        else:
            yield _label(now or was, new if now else old), _change(was, now)


def _contents(old: Operand, new: Operand) -> Iterator[tuple[str, str]]:
    """How the content of an operand differs; of views what they are made of is compared."""
    if old.view is None or new.view is None:
        what = "content" if old.view is new.view else "vocabulary"
        yield f"{what} of '{new.model}'", "changed"
        return
    before = {(f.name, f.subject): f.value for f in view_fields(old.view, old.dtype)}
    after = {(f.name, f.subject): f.value for f in view_fields(new.view, new.dtype)}
    said: dict[str, None] = {}
    for name, subject in dict.fromkeys([*after, *before]):
        if before.get((name, subject)) != after.get((name, subject)):
            view = new.view if (name, subject) in after else old.view
            own = new.model if subject is None else view.parts[subject].model
            said[f"content of '{own}'" if name == "content" else f"{name} of '{own}'"] = None
    yield from ((label, "changed") for label in said)


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
        for label, change in dict.fromkeys(differences(record.expression, expression)):
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

"""Keys: golden values, and that every field of a key counts and is named when it changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mergebuild.expression import Expression, Operand, fields, tensor_key, tensor_keys
from mergebuild.methods import registry
from mergebuild.plan import differences

BASE = Operand("base", "w", "0" * 32, "bfloat16")
MATH = Operand("math", "w", "1" * 32, "bfloat16")
DARE = Expression(
    method="dare_ties",
    version=1,
    operands=(BASE, MATH),
    base=True,
    arguments={
        "weight": (1.0,),
        "density": (0.5,),
        "normalize": False,
        "rescale": True,
        "lambda": 1.0,
        "seed": 0,
    },
    dtype="bfloat16",
    shape=(4, 3),
    stream="w",
)
COPY = Expression("passthrough", 1, (MATH,), False, {"scale": (None,)}, "bfloat16", (4, 3))

GOLDEN = {
    "a random merge": (DARE, "68ff5181ad6e9e9734bd5b20d4a254a6"),
    "an unchanged tensor": (COPY, "1" * 32),
    "a cast": (replace(COPY, dtype="float16"), "59a1279adb583ae7fe5ce7cf542786dc"),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_keys(case: str) -> None:
    """These change only together with KEY_SCHEMA: everything cached anywhere becomes stale."""
    expression, key = GOLDEN[case]
    assert tensor_key(expression) == key


def test_many_keys_at_once_are_those_of_each() -> None:
    """Also where some share their arguments, and what else they share differs."""
    shared = [
        replace(DARE, **change)
        for change in (
            {},
            {"stream": "v"},
            {"stream": None},
            {"shape": (3, 4)},
            {"dtype": "float16"},
            {"version": 2},
            {"method": "ties"},
            {"base": False},
            {"operands": (BASE, replace(MATH, key="2" * 32))},
            {"operands": (BASE, MATH, replace(MATH, key="2" * 32))},
        )
    ]
    one = [replace(DARE, arguments={**DARE.arguments, "lambda": one}) for one in (1, 1.0, True)]
    several = {str(n): e for n, e in enumerate([*shared, *one, *(e for e, _ in GOLDEN.values())])}
    assert tensor_keys(several) == {name: tensor_key(e) for name, e in several.items()}


CHANGES = {
    "method": replace(DARE, method="ties"),
    "version of method 'dare_ties'": replace(DARE, version=2),
    "dtype": replace(DARE, dtype="float16"),
    "shape": replace(DARE, shape=(3, 4)),
    "content of 'math'": replace(DARE, operands=(BASE, replace(MATH, key="2" * 32))),
    "content of 'base'": replace(DARE, operands=(replace(BASE, key="2" * 32), MATH)),
    "role of 'base'": replace(DARE, base=False),
    "stream": replace(DARE, stream="v"),
    **{
        f"{name} of 'math'": replace(DARE, arguments={**DARE.arguments, name: (0.25,)})
        for name in ("weight", "density")
    },
    **{
        name: replace(DARE, arguments={**DARE.arguments, name: value})
        for name, value in (("normalize", True), ("rescale", False), ("lambda", 2.0), ("seed", 1))
    },
}


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_counts_and_is_named(field: str) -> None:
    changed = CHANGES[field]
    assert tensor_key(changed) != tensor_key(DARE)
    assert field in [label for label, _ in differences(DARE, changed)]


def test_the_table_above_covers_every_field() -> None:
    named = {label.split(" of ")[0] for label in CHANGES}
    assert {field.name for field in fields(DARE)} <= named | {"inputs"}


UNSEEN = {
    "names of models": replace(DARE, operands=(replace(BASE, model="b"), replace(MATH, model="m"))),
    "names of input tensors": replace(DARE, operands=(BASE, replace(MATH, tensor="v"))),
    "storage of an input that has the key": replace(
        DARE, operands=(BASE, replace(MATH, dtype="float32"))
    ),
}


@pytest.mark.parametrize("what", UNSEEN)
def test_what_is_no_part_of_a_key(what: str) -> None:
    assert tensor_key(UNSEEN[what]) == tensor_key(DARE)
    assert not list(differences(DARE, UNSEEN[what]))


def test_an_added_input_is_named() -> None:
    more = replace(
        DARE,
        operands=(BASE, MATH, replace(MATH, model="chat")),
        arguments={**DARE.arguments, "weight": (1.0, 1.0), "density": (0.5, 0.5)},
    )
    assert tensor_key(more) != tensor_key(DARE)
    assert "content of 'chat'" in [label for label, _ in differences(DARE, more)]


def test_golden_versions() -> None:
    """A method's version says that its numbers changed; this list is to be edited on purpose."""
    raised = {"arcee_fusion": 2, "iso_c": 2, "pcb_merging": 2, "sce": 2, "tsv_merge": 2}
    assert {name: method.version for name, method in registry().items()} == {
        name: raised.get(name, 1) for name in registry()
    }

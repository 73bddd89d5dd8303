"""Hostile and broken text: nothing but RecipeError ever comes out, and soon."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mergebuild.errors import Problem, RecipeError
from tests.test_recipe import NATIVE, parse
from tests.test_recipe_cards import LEFTOVERS, SLICES, STAGES
from tests.test_recipe_errors import BAD, DOUBTFUL

MIB = 1 << 20
BODY = "merge_method: passthrough, models: [{model: "
BOMBS = {
    "brackets": "[" * MIB,
    "dashes": "- " * (MIB // 2),
    "questions": "? " * (MIB // 2),
    "laughs": "a: &a0 [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"k{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)),
    "deep aliases": "a: &a0 [x]\n" + "".join(f"k{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 99)),
    "long list": "[" + "0," * (MIB // 2 - 10) + "]",
    "duplicates": "a: 1\n" * 150_000,
    "hexadecimal": "mergebuild: 0x" + "f" * 500_000,
    "sexagesimal": "mergebuild: 1" + ":00" * 300_000,
    "long chain": "mergebuild: 1\nnodes:\n"
    + "".join(f" n{i}: {{{BODY}n{i - 1}}}]}}\n" for i in range(6000)),
    "list variable": "mergebuild: 1\nvars: {v: [" + "0," * 40_000 + "]}\nnodes:\n"
    " a: {merge_method: passthrough, models: [" + '"${v}",' * 2000 + "]}",
    "text variable": "mergebuild: 1\nvars: {v: " + "x" * 500_000 + "}\nnodes:\n"
    ' a: {merge_method: "' + "${v}" * 100_000 + '"}',
    "open variables": 'mergebuild: 1\nname: "' + "${" * 500_000 + '"',
    "merge keys": "b: &b {" + ",".join(f"k{i}: 1" for i in range(1000)) + "}\n"
    "c: [" + "{<<: *b}," * 5000 + "]\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(BOMBS[name])
    assert len(str(caught.value)) < 10_000


def attempt(text: str) -> None:
    """Whatever it is: a recipe, or a RecipeError whose problems all have a place."""
    problems: tuple[Problem, ...] = ()
    try:
        parse(text)
    except RecipeError as error:
        problems = error.problems
    assert all(problem.at is not None for problem in problems)


QUICK = settings(
    deadline=2000, max_examples=300, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
MARKS = "{}[]:,-&*!|>'\"%@`#?~ \n\t\\$<./+=0a1e_é\x85\u2028\ud800\x00"


@given(st.text(alphabet=MARKS, max_size=60) | st.text(max_size=200))
@QUICK
def test_any_text(text: str) -> None:
    attempt(text)
    attempt("mergebuild: 1\nnodes:\n  a: " + text)


SEEDS = [
    NATIVE,
    LEFTOVERS,
    SLICES % ("nuslerp", "", ""),
    STAGES % ("name: a\n", "---"),
    *(text for text, _ in DOUBTFUL.values()),
    *(text for text, _ in BAD.values()),
]
SCRAPS = [
    *("null", "[]", "{}", "[[1]]", "{a: b}", "true", "-1", "1e999", ".inf", "nan", "2020-01-01"),
    *("0b_", "1:30", '""', "*a", "&a", "<<: *a", "${x}", "${", "'", "o/x+l@r", "!!int ", "\n"),
    *("\n---\n", "  ", ": ", "- "),
]
SCRAP = st.sampled_from(SCRAPS) | st.text(alphabet=MARKS, max_size=5)


@given(st.data())
@QUICK
def test_mutated_recipes(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(SEEDS))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.sampled_from([0, 1, 4, 20])))
        text = text[:start] + data.draw(SCRAP) + text[end:]
    attempt(text)


@given(st.data())
@QUICK
def test_replaced_values(data: st.DataObject) -> None:
    """Every word of a recipe by one of another kind: right YAML, wrong recipe."""
    words = data.draw(st.sampled_from(SEEDS)).split(" ")
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(words) - 1))
        tail = "\n" if words[place].endswith("\n") else ""
        words[place] = data.draw(SCRAP) + tail
    attempt(" ".join(words))

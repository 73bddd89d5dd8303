"""Which tensors a filter means.

Owns the three spellings: a part of the name; in native recipes also `*` for any run of characters
and `/regex/`. A recipe is untrusted, and `re` backtracks, so an expression that could run for ages
on a tensor's name is refused when it is read. Must not know YAML.
"""

from __future__ import annotations

import re
import warnings
from functools import lru_cache
from typing import Final

LONGEST: Final = 200
MOST_WAYS: Final = 5_000_000
_RUN: Final = 64
"""How many lengths one unbounded repetition is taken to have on a tensor's name."""


def matches(filter: str | None, tensor_name: str, native: bool) -> bool:
    """Whether a filter means this tensor; None and `*` mean every tensor."""
    if filter is None or filter == "*":
        return True
    if native and is_regex(filter):
        return _compiled(filter[1:-1]).search(tensor_name) is not None
    if native and "*" in filter:
        return _glob(filter, tensor_name)
    return filter in tensor_name


def is_regex(filter: str) -> bool:
    return len(filter) >= 2 and filter[0] == filter[-1] == "/"


def fault(filter: str) -> str | None:
    """Why a native filter cannot be used, if so."""
    if not is_regex(filter):
        return None
    pattern = filter[1:-1]
    if len(pattern) > LONGEST:
        return f"longer than {LONGEST} characters"
    try:
        flags = _compiled(pattern).flags
    except (re.error, OverflowError, RecursionError) as error:
        return str(error)
    if flags & re.VERBOSE:
        return "the flag x is not supported"
    if _ways(pattern) > MOST_WAYS:
        return "it may match for ages; repeat less, and no group"
    return None


def _glob(filter: str, name: str) -> bool:
    """The parts between the stars occur in this order; no backtracking is needed."""
    place = 0
    for part in filter.split("*"):
        found = name.find(part, place)
        if found < 0:
            return False
        place = found + len(part)
    return True


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return re.compile(pattern)


def _ways(pattern: str) -> int:
    """An upper estimate of the ways in which a valid pattern can be tried at one place."""
    total, place, alternatives, quantified = 1, 0, [1], False
    while place < len(pattern) and total <= MOST_WAYS:
        character, here = pattern[place], place
        place += 1
        if character == "\\":
            place += 1
        elif character == "[":
            place = _after_class(pattern, place)
        elif character == "(":
            alternatives.append(1)
            place += pattern.startswith("?", place)
        elif character == "|":
            alternatives[-1] += 1
        elif character == ")":
            total *= alternatives.pop()
            if pattern[place : place + 1] in ("*", "+", "{"):
                return MOST_WAYS + 1
        elif character in "*+" or re.match(r"\{\d*,?\d*\}", pattern[here:]):
            total *= _RUN
        elif character == "?" and not quantified:
            total *= 2
        quantified = character in "*+?}"
    return total * alternatives[0]


def _after_class(pattern: str, place: int) -> int:
    """Where a character class ends; `]` as its first member does not end it."""
    place += pattern.startswith("^", place)
    place += pattern.startswith("]", place)
    while pattern[place : place + 1] not in ("]", ""):
        place += 2 if pattern[place] == "\\" else 1
    return place + 1

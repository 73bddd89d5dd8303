"""Which licences a merge comes under: those of all its leaves at once.

Says what the cards state and where they disagree. What follows from it is for people to decide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mergebuild.share.stated import OTHER, Stated

FILE: Final = "LICENSE.md"
_PERMISSIVE: Final = frozenset(
    (
        *("afl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause"),
        *("bsd-3-clause-clear", "bsl-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0"),
        *("cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "ecl-2.0", "isc", "mit"),
        *("ms-pl", "ncsa", "odc-by", "pddl", "postgresql", "unlicense", "wtfpl", "zlib"),
    )
)
_UNKNOWN: Final = "unknown"
_NAME_LONGEST: Final = 96


@dataclass(frozen=True, slots=True)
class Licences:
    """The licences of a merge: what the front matter of its card says, what a reader must be told,
    and the text of a file beside the card where one licence does not say it."""

    front_matter: Mapping[str, Any]
    warnings: tuple[str, ...]
    file: str | None


def licences_of(statements: Sequence[Stated]) -> Licences:
    """What the licences of all leaves come to."""
    terms = {_terms(one) for one in statements}
    warnings = tuple(_warnings(statements))
    if terms == {None} or not statements:
        return Licences({}, warnings, None)
    if len(terms) == 1:
        one = statements[0]
        said = {
            "license": one.licence,
            "license_name": one.licence_name,
            "license_link": one.licence_link,
        }
        return Licences({k: v for k, v in said.items() if v is not None}, warnings, None)
    names = sorted({one.terms or _UNKNOWN for one in statements})
    name = re.sub(r"[^a-z0-9.-]", "-", "-and-".join(names))
    return Licences(
        {
            "license": OTHER,
            "license_name": name if len(name) <= _NAME_LONGEST else "several-licences",
            "license_link": FILE,
        },
        warnings,
        _file(statements),
    )


def _terms(one: Stated) -> tuple[str, str | None, str | None] | None:
    """What tells licences apart; two that are `other` without a name are never known to agree."""
    if one.licence is None:
        return None
    if one.licence == OTHER and one.licence_name is None:
        return OTHER, one.name, None
    return one.licence, one.licence_name, None


def _warnings(statements: Sequence[Stated]) -> list[str]:
    found = []
    missing = [one.name for one in statements if one.licence in (None, _UNKNOWN)]
    if missing:
        found.append(f"no licence is stated by the cards of {_few(missing)}")
    by_terms: dict[str, list[str]] = {}
    for one in statements:
        if one.terms is not None:
            by_terms.setdefault(one.terms, []).append(one.name)
    listed = "; ".join(f"{terms} ({_few(names)})" for terms, names in by_terms.items())
    if len(by_terms) > 1 and by_terms.keys() <= _PERMISSIVE:
        found.append(f"the licences differ, and the notices of each apply: {listed}")
    elif len(by_terms) > 1:
        found.append(
            f"the licences conflict, or may: {listed}; the terms of all apply at once, so read "
            "them before you share the result"
        )
    forbidden = [one.name for one in statements if one.terms and "-nd-" in f"{one.terms}-"]
    if forbidden:
        found.append(f"the licence of {_few(forbidden)} forbids sharing what is derived from it")
    return found


def _few(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _file(statements: Sequence[Stated]) -> str:
    rows = "\n".join(
        f"- `{one.name}`: {one.terms or 'no licence is stated'}"
        + (f" ({one.licence_link})" if one.licence_link else "")
        + (f", see https://huggingface.co/{one.repo}" if one.repo else "")
        for one in statements
    )
    return (
        "# Licences\n\nThis model was merged from models under different licences. The terms of "
        f"all of them apply at once.\n\n{rows}\n"
    )

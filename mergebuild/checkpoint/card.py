"""The front matter of a model card. Untrusted, and of use only to tell the licence: whatever is
wrong with it, there is just no front matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mergebuild.checkpoint.regular import read_small
from mergebuild.errors import CheckpointError

_LARGEST: Final = 1 << 20
_DEEPEST: Final = 50
_FRONT: Final = re.compile(rb"\A(?:\xef\xbb\xbf)?---[ \t]*\r?\n(.*?\n)---[ \t]*(?:\r?\n|\Z)", re.S)


def card_metadata(path: Path) -> Mapping[str, Any]:
    """What the front matter of a README.md says, all scalars as text; {} if there is none."""
    try:
        match = _FRONT.match(read_small(path, _LARGEST))
    except CheckpointError:
        return {}
    return _parse(match[1].decode("utf-8", "replace")) if match else {}


def _parse(text: str) -> Mapping[str, Any]:
    import yaml  # planning starts without it

    # Text stays text: nothing is constructed by tag, and a language called `no` is not false.
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent):
                return {}
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                return {}
        value = yaml.load(text, Loader=loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}

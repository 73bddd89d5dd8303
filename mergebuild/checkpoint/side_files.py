"""What a checkpoint consists of besides weights: config, tokenizer, templates, processors, code.

Decides by name which files are carried over, and reads config.json. Knows no weights.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mergebuild.checkpoint.regular import parse_object, read_small, unreadable

CONFIG: Final = "config.json"
TEMPLATES: Final = "additional_chat_templates"

_CONFIG_LARGEST: Final = 16 << 20
_CARRIED: Final = re.compile(
    r"tokenizer\.json|tokenizer\.model(\.v\d+)?|tokenizer_config\.json|special_tokens_map\.json"
    r"|added_tokens\.json|vocab\.json|vocab\.txt|merges\.txt|spiece\.model|sentencepiece\.model"
    r"|sentencepiece\.bpe\.model|source\.spm|target\.spm|normalizer\.json|tekken\.json"
    r"|[^.].*\.tiktoken|chat_template\.(jinja|json)|generation_config\.json"
    r"|((image|video|audio|feature)_)?(pre)?processor_config\.json"
    r"|(image|video|audio)_processor\.json|preprocessor\.json"
)
_TEMPLATE: Final = re.compile(r"[^.].*\.jinja")
_CODE: Final = re.compile(r"[^.].*\.py")


@dataclass(frozen=True, slots=True)
class SideFile:
    """A file that a checkpoint needs besides its weights; `name` is relative to the checkpoint,
    `size` in bytes. `code` is Python that its config names: untrusted."""

    name: str
    path: Path
    size: int
    code: bool = False


def read_config(path: Path) -> tuple[bytes, Mapping[str, Any]]:
    """A config.json, as text and parsed. Raises CheckpointError."""
    text = read_small(path, _CONFIG_LARGEST)
    return text, parse_object(text, f"'{path}'", twins=True)


def side_files(
    directory: Path, names: Iterable[str], config: Mapping[str, Any] | None
) -> tuple[SideFile, ...]:
    """The side files among the names in a directory, sorted; config.json is not one of them.

    Python code counts only if the config refers to code (`auto_map`).
    """
    coded = runs_code(config)
    found: list[SideFile] = []
    for name in names:
        code = is_code(name)
        if _CARRIED.fullmatch(name) or (coded and code):
            found += _regular(directory, name, code)
        elif name == TEMPLATES:
            for template in _templates(directory / TEMPLATES):
                found += _regular(directory, f"{TEMPLATES}/{template}", False)
    return tuple(sorted(found, key=lambda file: file.name))


def is_carried(name: str) -> bool:
    """Whether a file, by its name below the checkpoint, is a side file whatever the config says."""
    folder, _, template = name.rpartition("/")
    if folder:
        return folder == TEMPLATES and bool(_TEMPLATE.fullmatch(template))
    return bool(_CARRIED.fullmatch(name))


def is_code(name: str) -> bool:
    """Whether a file is code that a config may refer to."""
    return bool(_CODE.fullmatch(name))


def runs_code(config: Mapping[str, Any] | None) -> bool:
    """Whether a config refers to code of its own."""
    return config is not None and bool(config.get("auto_map"))


def _templates(directory: Path) -> Iterator[str]:
    try:
        yield from (name for name in os.listdir(directory) if _TEMPLATE.fullmatch(name))
    except NotADirectoryError:
        return
    except OSError as error:
        raise unreadable(directory, error) from error


def _regular(directory: Path, name: str, code: bool) -> Iterator[SideFile]:
    path = directory / name
    try:
        state = os.stat(path)
    except OSError as error:
        raise unreadable(path, error) from error
    if stat.S_ISREG(state.st_mode):
        yield SideFile(name, path, state.st_size, code)

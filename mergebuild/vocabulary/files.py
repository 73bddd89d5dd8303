"""Which of a checkpoint's side files make up its tokenizer, by name.

Knows no contents.
"""

from __future__ import annotations

import re
from typing import Final

TOKENIZER: Final = "tokenizer.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
SPECIAL_TOKENS: Final = "special_tokens_map.json"
ADDED_TOKENS: Final = "added_tokens.json"
PIECES: Final = (
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.model",
    "sentencepiece.bpe.model",
)

TEMPLATE: Final = "chat_template.jinja"
OLD_TEMPLATE: Final = "chat_template.json"

_SLOW: Final = re.compile(
    r"tokenizer\.model(\.v\d+)?|added_tokens\.json|vocab\.json|vocab\.txt|merges\.txt"
    r"|spiece\.model|sentencepiece\.model|sentencepiece\.bpe\.model|source\.spm|target\.spm"
    r"|normalizer\.json|tekken\.json|.*\.tiktoken"
)


def holds_vocabulary(name: str) -> bool:
    """Whether a file says which token has which id."""
    return name in (TOKENIZER, TOKENIZER_CONFIG) or is_slow(name)


def is_slow(name: str) -> bool:
    """Whether a file tells of a vocabulary in a form other than that of tokenizer.json."""
    return bool(_SLOW.fullmatch(name))


def belongs_to_tokenizer(name: str) -> bool:
    """Whether a file goes where its tokenizer goes; the chat template is not one of them."""
    return name == SPECIAL_TOKENS or holds_vocabulary(name)


def is_template(name: str) -> bool:
    """Whether a file is the chat template, or one of several."""
    return name in (TEMPLATE, OLD_TEMPLATE) or name.startswith("additional_chat_templates/")

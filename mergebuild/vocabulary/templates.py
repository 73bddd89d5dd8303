"""Chat templates: those with names, which one a checkpoint has, and which is commonest.

A template is text in the language Jinja. It is written, never run; the ones below are our own,
from what the formats' makers say of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mergebuild.checkpoint.regular import parse_object
from mergebuild.vocabulary.files import OLD_TEMPLATE, TEMPLATE, TOKENIZER_CONFIG

_CHATML: Final = """\
{%- for message in messages %}
{{- '<|im_start|>' ~ message['role'] ~ '\\n' ~ message['content'] ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

_LLAMA3: Final = """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' ~ message['role'] ~ '<|end_header_id|>\\n\\n' }}
{{- message['content'] | trim ~ '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

_MISTRAL: Final = """\
{{- bos_token }}
{%- set held = namespace(system='') %}
{%- for message in messages %}
{%- if message['role'] == 'system' %}
{%- set held.system = message['content'] ~ '\\n\\n' %}
{%- elif message['role'] == 'assistant' %}
{{- ' ' ~ message['content'] | trim ~ eos_token }}
{%- else %}
{{- '[INST] ' ~ held.system ~ message['content'] ~ ' [/INST]' }}
{%- set held.system = '' %}
{%- endif %}
{%- endfor %}
"""

_ALPACA: Final = """\
{%- for message in messages %}
{%- if message['role'] == 'system' %}
{{- message['content'] ~ '\\n\\n' }}
{%- elif message['role'] == 'assistant' %}
{{- '### Response:\\n' ~ message['content'] ~ eos_token ~ '\\n\\n' }}
{%- else %}
{{- '### Instruction:\\n' ~ message['content'] ~ '\\n\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '### Response:\\n' }}
{%- endif %}
"""

_EXAONE: Final = """\
{%- if messages and messages[0]['role'] != 'system' %}
{{- '[|system|][|endofturn|]\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '[|' ~ message['role'] ~ '|]' ~ message['content'] }}
{{- '\\n' if message['role'] == 'user' else '[|endofturn|]\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '[|assistant|]' }}
{%- endif %}
"""

BUILT_IN: Final[Mapping[str, str]] = {
    "alpaca": _ALPACA,
    "chatml": _CHATML,
    "exaone": _EXAONE,
    "llama3": _LLAMA3,
    "mistral": _MISTRAL,
}

_MARKS: Final = re.compile(r"<\|[^|<>\s]{1,60}\|>|\[\|[^|\[\]\s'~]{1,60}\|\]|\[/?[A-Z_]{2,40}\]")


def template_of(files: Mapping[str, bytes], where: str) -> str | None:
    """The chat template that a checkpoint has, given its side files; None if it has none.

    As transformers looks for it: its own file, the older one of processors, the tokenizer's
    config. Raises CheckpointError; `where` begins it.
    """
    if TEMPLATE in files:
        return files[TEMPLATE].decode("utf-8", "replace")
    for file in (OLD_TEMPLATE, TOKENIZER_CONFIG):
        if file in files:
            found = _default(parse_object(files[file], f"{where}: {file}", twins=True))
            if found is not None:
                return found
    return None


def _default(config: Mapping[str, Any]) -> str | None:
    """A template under its key, or of several with names the one called `default`."""
    said = config.get("chat_template")
    if isinstance(said, list):
        named = [t for t in said if isinstance(t, Mapping) and t.get("name") == "default"]
        said = named[0].get("template") if named else None
    return said if isinstance(said, str) else None


def commonest(templates: Sequence[str]) -> str:
    """The template that most have; of several the first."""
    return Counter(templates).most_common(1)[0][0]


def marks(template: str) -> list[str]:
    """What in a template looks like the text of a special token, sorted."""
    return sorted(set(_MARKS.findall(template)))

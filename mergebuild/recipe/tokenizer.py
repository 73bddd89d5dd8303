"""`tokenizer_source`, `tokenizer` and `chat_template` of a node.

Must not know tokenizers: a template is text that is written, never run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, cast

from mergebuild.errors import did_you_mean
from mergebuild.recipe import fields
from mergebuild.recipe.context import Context, shown
from mergebuild.recipe.meanings import Names
from mergebuild.recipe.model import ModelRef, Tokenizer, TokenRule
from mergebuild.recipe.references import resolve
from mergebuild.recipe.tree import Entry, Fields, Leaf, Tree

KEYS: Final = ("source", "tokens", "pad_to_multiple_of")
RULE_KEYS: Final = ("source", "force")
DONOR_KEYS: Final = ("kind", "model", "token", "token_id")
DONORS: Final = ("model_token", "zero")
WORDS: Final = ("base", "union")
TEMPLATES: Final = ("alpaca", "auto", "chatml", "exaone", "llama3", "mistral")


def read(keys: Mapping[str, Entry], names: Names, ctx: Context) -> Tokenizer | None:
    """What the node says of its tokenizer, in one of the two forms."""
    short, long = keys.get("tokenizer_source"), keys.get("tokenizer")
    if short is not None:
        if long is not None:
            said = "'tokenizer' and 'tokenizer_source' exclude each other"
            ctx.error(said, max(short.at, long.at), "put it into tokenizer: {source: ...}")
        source = _source(short.value, "'tokenizer_source'", names, ctx)
        return Tokenizer(source, {}, None, short.at)
    if long is None:
        return None
    inner = fields.entries(long.value, "'tokenizer'", ctx, KEYS)
    given = inner.get("source")
    origin = _source(given.value, "'source'", names, ctx) if given else None
    rules: dict[str, TokenRule] = {}
    if "tokens" in inner:
        for token, entry in fields.entries(inner["tokens"].value, "'tokens'", ctx).items():
            rules[token] = _rule(token, entry, names, ctx)
    pad = inner.get("pad_to_multiple_of")
    multiple = fields.whole(pad.value, "'pad_to_multiple_of'", ctx, low=1) if pad else None
    return Tokenizer(origin, rules, multiple, long.at)


def _source(
    tree: Tree, what: str, names: Names, ctx: Context
) -> ModelRef | Literal["base", "union"]:
    if isinstance(tree, Leaf) and tree.text in WORDS:
        return cast(Literal["base", "union"], tree.text)
    return resolve(tree, what, names, ctx)


def _rule(token: str, entry: Entry, names: Names, ctx: Context) -> TokenRule:
    what = f"token {shown(token)}"
    keys = fields.entries(entry.value, what, ctx, RULE_KEYS)
    force = fields.truth(keys["force"].value, "'force'", ctx) if "force" in keys else False
    model, row, zero = None, None, False
    if "source" in keys:
        source = keys["source"].value
        if isinstance(source, Fields) and _is_donor(source):
            model, row, zero = _donor(source, what, names, ctx)
        else:
            model = resolve(source, f"the source of {what}", names, ctx)
    return TokenRule(model, row, zero, bool(force), entry.at)


def _is_donor(tree: Fields) -> bool:
    """`{kind, model, token | token_id}`, as opposed to a model in its mapping form."""
    return any(key in tree.entries for key in ("kind", "token", "token_id"))


def _donor(
    tree: Tree, what: str, names: Names, ctx: Context
) -> tuple[ModelRef | None, str | int | None, bool]:
    what = f"the source of {what}"
    keys = fields.entries(tree, what, ctx, DONOR_KEYS)
    kind: str | None = "model_token"
    if "kind" in keys:
        kind = fields.choice(keys["kind"].value, "'kind'", DONORS, ctx)
    if kind == "zero":
        for key in ("model", "token", "token_id"):
            if key in keys:
                ctx.error(f"'{key}' does not go with kind 'zero'", keys[key].at)
        return None, None, True
    if "model" not in keys:
        ctx.error(f"{what} has no 'model'", tree.at)
        return None, None, False
    model = resolve(keys["model"].value, "'model'", names, ctx)
    if ("token" in keys) == ("token_id" in keys):
        ctx.error(f"{what} must have one of 'token' and 'token_id'", tree.at)
        return model, None, False
    if "token_id" in keys:
        return model, fields.whole(keys["token_id"].value, "'token_id'", ctx), False
    return model, fields.text(keys["token"].value, "'token'", ctx), False


def template(keys: Mapping[str, Entry], ctx: Context) -> str | None:
    """`chat_template`: a known word, or text with braces, which is Jinja."""
    if "chat_template" not in keys:
        return None
    tree = keys["chat_template"].value
    text = fields.text(tree, "'chat_template'", ctx)
    if text is not None and text not in TEMPLATES and "{" not in text:
        hint = did_you_mean(text, TEMPLATES)
        ctx.error(f"chat template {shown(text)} is neither known nor Jinja", tree.at, hint)
    return text

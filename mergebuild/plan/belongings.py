"""What a node's checkpoint has besides weights: what belongs to its base, and what another
vocabulary or chat template makes of it.

The tokenizer's files are those of whose tokenizer it is, and the chat template goes with them if
that model has one. Everything else (generation config, processors, code) is the base's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from mergebuild.checkpoint.regular import parse_object
from mergebuild.checkpoint.side_files import CONFIG
from mergebuild.digest import bytes_digest
from mergebuild.plan.cast import Participant
from mergebuild.plan.outline import Outline, SideFile
from mergebuild.plan.target import Target
from mergebuild.plan.vocabularies import Vocabularies, content
from mergebuild.recipe import Node
from mergebuild.vocabulary.configs import (
    as_text,
    moved,
    unmoved,
    with_added_tokens,
    with_vocabulary,
    without_template,
)
from mergebuild.vocabulary.files import (
    OLD_TEMPLATE,
    TEMPLATE,
    TOKENIZER,
    TOKENIZER_CONFIG,
    belongs_to_tokenizer,
    is_slow,
    is_template,
)
from mergebuild.vocabulary.templates import BUILT_IN, commonest, marks

GENERATION: Final = "generation_config.json"

Change: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def belongings_of(
    node: Node,
    base: Outline,
    inputs: Iterable[Participant],
    target: Target | None,
    vocabularies: Vocabularies,
) -> Belongings:
    """What a node's checkpoint gets, whose base (or first input) is `base`.

    Raises CheckpointError for a tokenizer's file that cannot be read.
    """
    found = Belongings(base, vocabularies)
    if target is not None:
        found.set_vocabulary(target)
    if node.chat_template is not None:
        found.choose_template(node.chat_template, [p.outline for p in inputs])
        if target is not None:
            found.check_template(target.vocabulary.ids)
    return found


class Belongings:
    """Side files by name (config.json is none of them), the config from which the output's is
    made, and notes about both. To begin with, all is the base's."""

    def __init__(self, base: Outline, vocabularies: Vocabularies) -> None:
        self.files = {file.name: file for file in base.side_files if file.name != CONFIG}
        self.config = base.config
        self.notes: list[str] = []
        self._base = base
        self._vocabularies = vocabularies

    def set_vocabulary(self, target: Target) -> None:
        """Make all of it agree with the vocabulary that the node puts out."""
        if target.giver is not self._base:
            self._take_tokenizer(target.giver)
        if target.extended is not None:
            self._extend(target)
        old = self._vocabularies.of(self._base)
        lost: dict[str, str] = {}
        same = old.ids == target.vocabulary.ids
        rows = {s.rows for s in target.speakers if s.outline is self._base}
        if self.config is not None and not (same and rows == {target.rows}):
            fallback = target.giver.config or {}
            move = unmoved if same else moved(old, target.vocabulary, fallback, lost)
            self.config = with_vocabulary(self.config, target.rows, move)
        if GENERATION in self.files and not same:
            fallback = _of(target.giver, GENERATION) or target.giver.config or {}
            self._change(
                GENERATION,
                lambda config: with_vocabulary(
                    config, None, moved(old, target.vocabulary, fallback, lost)
                ),
            )
        for key, token in lost.items():
            self.notes.append(
                f"'{key}' of '{self._base.name}' is {token!r:.60}, which is no longer a token"
            )

    def _take_tokenizer(self, giver: Outline) -> None:
        """The tokenizer's files of another model in place of the base's."""
        own = self._vocabularies.template(self._base)
        theirs = {file.name: file for file in giver.side_files}
        template = self._vocabularies.template(giver)
        kept = {name: file for name, file in self.files.items() if not belongs_to_tokenizer(name)}
        if template is not None:
            kept = {name: file for name, file in kept.items() if not is_template(name)}
        self.files = kept | {
            name: file
            for name, file in theirs.items()
            if belongs_to_tokenizer(name) or (template is not None and is_template(name))
        }
        if template is None and own is not None and TEMPLATE not in self.files:
            self.set_template(own)

    def _extend(self, target: Target) -> None:
        """A tokenizer.json with more tokens; files that tell of fewer are left out."""
        extended = target.extended
        assert extended is not None
        gone = [name for name in self.files if is_slow(name)]
        for name in gone:
            del self.files[name]
        if gone:
            self.notes.append(
                f"not written, for tokenizer.json has more tokens: {', '.join(sorted(gone))}"
            )
        self._put(TOKENIZER, extended.text)
        self._change(
            TOKENIZER_CONFIG,
            lambda config: with_added_tokens(config, extended.vocabulary, extended.new),
        )

    def set_template(self, template: str) -> None:
        """Write a chat template where transformers looks for it, and nowhere else."""
        self._put(TEMPLATE, template.encode())
        self.files.pop(OLD_TEMPLATE, None)
        self._change(TOKENIZER_CONFIG, without_template)

    def choose_template(self, asked: str, inputs: Sequence[Outline]) -> None:
        """What the recipe asks for: a name, `auto` (the commonest among the inputs, of several
        the base's) or the text itself. Changes nothing where it is there already."""
        if asked == "auto":
            ordered = sorted(inputs, key=lambda outline: outline is not self._base)
            found = [t for o in ordered if (t := self._vocabularies.template(o)) is not None]
            if not found:
                self.notes.append("no input has a chat template: none is written")
                return
            template = commonest(found)
        else:
            template = BUILT_IN.get(asked, asked)
        if template != self._template():
            self.set_template(template)

    def check_template(self, tokens: Mapping[str, int]) -> None:
        """A note for what looks like a special token in the chat template and is none."""
        lacking = [mark for mark in marks(self._template() or "") if mark not in tokens]
        if lacking:
            self.notes.append(
                "the chat template writes what is no token of the vocabulary: " + ", ".join(lacking)
            )

    def _template(self) -> str | None:
        return self._vocabularies.template_in(self.files.values(), self._base.name)

    def _put(self, name: str, data: bytes) -> None:
        self.files[name] = SideFile(name, bytes_digest(data), len(data), data=data)

    def _change(self, name: str, change: Change) -> None:
        """Rewrite a file of JSON if that changes what it says."""
        if name in self.files:
            config = _parsed(self.files[name], self._base.name)
            new = change(config)
            if new != config:
                self._put(name, as_text(new))


def _of(outline: Outline, name: str) -> Mapping[str, Any] | None:
    return next((_parsed(f, outline.name) for f in outline.side_files if f.name == name), None)


def _parsed(file: SideFile, owner: str) -> dict[str, Any]:
    return parse_object(content(file), f"'{owner}': {file.name}", twins=True)

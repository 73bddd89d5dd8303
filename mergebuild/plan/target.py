"""The vocabulary that a node puts out, and what each of its inputs brings to it.

From outlines and the tokenizers in their side files; reads no weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from mergebuild.errors import Location, MergebuildError, Problem, RecipeError
from mergebuild.plan.cast import Participant
from mergebuild.plan.naming import Naming
from mergebuild.plan.outline import Outline
from mergebuild.plan.vocabularies import Vocabularies
from mergebuild.recipe import ModelRef, Node, Tokenizer
from mergebuild.vocabulary.extend import ApartError, Extended, extend
from mergebuild.vocabulary.matrices import Matrices, find_matrices
from mergebuild.vocabulary.rows import Refs
from mergebuild.vocabulary.vocabulary import FLAGS, Vocabulary


@dataclass(frozen=True)
class Speaker:
    """A model with its vocabulary; `takes_part` is false for one that only gives rows away."""

    model: ModelRef
    naming: Naming
    vocabulary: Vocabulary
    matrices: Matrices
    takes_part: bool

    @property
    def outline(self) -> Outline:
        return self.naming.outline

    @property
    def rows(self) -> int:
        return self.matrices.rows


@dataclass(frozen=True)
class Target:
    """What a node puts out.

    `giver` is whose tokenizer files they are, `extended` what became of its tokenizer.json where
    tokens were added; `rows` is how many rows every matrix has. `base` is the speaker whose rows
    go before those of others, -1 if there is none. `rules` are the rows that tokens are given to.
    """

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    giver: Outline
    extended: Extended | None
    rows: int
    speakers: tuple[Speaker, ...]
    base: int
    rules: Mapping[str, Refs]

    @cached_property
    def by_model(self) -> Mapping[ModelRef, int]:
        return {speaker.model: index for index, speaker in enumerate(self.speakers)}


def find_target(
    node: Node,
    inputs: Mapping[ModelRef, Participant],
    namings: Mapping[ModelRef, Naming],
    vocabularies: Vocabularies,
) -> Target | None:
    """The vocabulary that a node asks for, None if it asks for none; `inputs` are the models that
    take part, in order.

    Raises RecipeError with every reason why there is none.
    """
    tokenizer = node.tokenizer
    if tokenizer is None:
        return None
    base = node.base or tokenizer.base
    first = base or next(iter(inputs))
    source = tokenizer.source or "union"
    giver = first if isinstance(source, str) else source
    places = _places(tokenizer, inputs, first, giver)
    problems: list[Problem] = []
    speakers: list[Speaker] = []
    for model, at in places.items():
        try:
            speakers.append(_speaker(model, namings[model], model in inputs, vocabularies))
        except MergebuildError as error:
            problems += (
                Problem(f"node '{node.name}': {p.message}", at, p.hint) for p in error.problems
            )
    if problems:
        raise RecipeError(*problems)
    by_model = {speaker.model: speaker for speaker in speakers}
    own = by_model[giver].vocabulary
    others = [s.vocabulary for s in speakers if s.takes_part] if source == "union" else []
    words = {token: _flags(token, speakers) for token in tokenizer.tokens if token not in own.ids}
    try:
        extended = extend(own, others, words)
    except ApartError as error:
        raise RecipeError.of(
            f"node '{node.name}': {error}", at=tokenizer.at, hint=error.hint
        ) from error
    vocabulary = extended.vocabulary if extended is not None else own
    rows = max(vocabulary.size, min(s.rows for s in speakers if s.takes_part))
    if tokenizer.pad_to_multiple_of is not None:
        rows += -rows % tokenizer.pad_to_multiple_of
    return Target(
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        giver=namings[giver].outline,
        extended=extended,
        rows=rows,
        speakers=tuple(speakers),
        base=list(places).index(base) if base is not None else -1,
        rules=_rules(node, tokenizer, speakers),
    )


def _places(
    tokenizer: Tokenizer,
    inputs: Mapping[ModelRef, Participant],
    first: ModelRef,
    giver: ModelRef,
) -> dict[ModelRef, Location]:
    """Every model whose rows may be asked for, the inputs first, and where it stands."""
    places = {model: participant.at for model, participant in inputs.items()}
    for model in (first, giver):
        places.setdefault(model, tokenizer.at)
    for rule in tokenizer.tokens.values():
        if rule.model is not None:
            places.setdefault(rule.model, rule.at)
    return places


def _speaker(
    model: ModelRef, naming: Naming, takes_part: bool, vocabularies: Vocabularies
) -> Speaker:
    outline = naming.outline
    vocabulary = vocabularies.of(outline)
    matrices = find_matrices(
        {name: tensor.shape for name, tensor in outline.tensors.items()},
        outline.layout.beside,
        outline.embedding or outline.head,
        outline.config,
    )
    if matrices is None:
        raise RecipeError.of(
            f"'{model}' has no embedding, by the names of its tensors",
            hint="without 'tokenizer' and 'tokenizer_source' no vocabulary is touched",
        )
    if vocabulary.size > matrices.rows:
        token = vocabulary.tokens[vocabulary.size - 1]
        raise RecipeError.of(
            f"'{model}': token {token!r:.80} has the id {vocabulary.size - 1}, but the embedding "
            f"has {matrices.rows} rows",
            hint="its tokenizer is not the one that it was trained with: correct its files",
        )
    return Speaker(model, naming, vocabulary, matrices, takes_part)


def _rules(node: Node, tokenizer: Tokenizer, speakers: Sequence[Speaker]) -> dict[str, Refs]:
    """What the rules that name a source say. Raises RecipeError for rows that are not there."""
    rules: dict[str, Refs] = {}
    problems: list[Problem] = []
    indices = {speaker.model: index for index, speaker in enumerate(speakers)}
    for token, rule in tokenizer.tokens.items():
        if rule.zero:
            rules[token] = ()
        elif rule.model is not None:
            index = indices[rule.model]
            speaker = speakers[index]
            wanted = token if rule.row is None else rule.row
            row = wanted if isinstance(wanted, int) else speaker.vocabulary.ids.get(wanted)
            if row is not None and row < speaker.rows:
                rules[token] = ((index, row),)
                continue
            said = (
                f"the embedding of '{speaker.model}' has {speaker.rows} rows, so none for {wanted}"
                if isinstance(wanted, int)
                else f"'{speaker.model}' has no token {wanted!r:.80}"
            )
            hint = "name another with {kind: model_token, model: ..., token: ...}"
            problems.append(
                Problem(f"node '{node.name}': token {token!r:.80}: {said}", rule.at, hint)
            )
    if problems:
        raise RecipeError(*problems)
    return rules


def _flags(token: str, speakers: Sequence[Speaker]) -> Mapping[str, bool]:
    """What kind of added token one is to be: as whoever has it has it; if nobody does, a special
    one where it looks so."""
    for speaker in speakers:
        if token in speaker.vocabulary.ids:
            return speaker.vocabulary.added.get(token, dict.fromkeys(FLAGS, False))
    special = token[:1] + token[-1:] in ("<>", "[]")
    return {**dict.fromkeys(FLAGS, False), "special": special}

"""The matrices of a node's inputs as they stand in its vocabulary: row tables, and views by them.

A row that an input lacks is, in this order: what a rule under `tokens` says; the base's; that of
the only input that has it; the mean of those that have it. Rows past the last token stay where
they are as far as every input has them; what is left is the mean of the rows of all tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from mergebuild.checkpoint.dtypes import is_floating
from mergebuild.errors import Location
from mergebuild.expression import Operand, RowsView, view_key
from mergebuild.plan.outline import TensorOutline
from mergebuild.plan.target import Speaker, Target
from mergebuild.recipe import ModelRef
from mergebuild.vocabulary.matrices import resized
from mergebuild.vocabulary.rows import MEAN, ZERO, Refs, RowTable, make_table

There: TypeAlias = tuple[bool, ...]
"""For each speaker whether it has the matrix in question."""


class UnknownRowError(Exception):
    """A row that nobody has; carries its place and a hint."""

    def __init__(self, message: str, at: Location, hint: str | None = None) -> None:
        super().__init__(message)
        self.at = at
        self.hint = hint


@dataclass(frozen=True)
class Arrangement:
    """Hands out the inputs' matrices in the vocabulary of one node; `tables` are the row tables
    that those need, by digest."""

    target: Target
    tables: dict[str, RowTable] = field(default_factory=dict)
    _found: dict[tuple[int, There], tuple[RowTable, tuple[int, ...]] | None] = field(
        default_factory=dict
    )

    def tensor(self, model: ModelRef, name: str, tensor: TensorOutline, slot: str) -> TensorOutline:
        """`tensor`, which `model` calls `name` and which takes part in the output tensor `slot`,
        as it stands in the node's vocabulary.

        Raises UnknownRowError where a token has no row.
        """
        speakers = self.target.speakers
        me = self.target.by_model[model]
        if name not in speakers[me].matrices.names:
            return tensor
        names = [name if k == me else self._counterpart(k, slot) for k in range(len(speakers))]
        found = self._table(me, tuple(other is not None for other in names))
        if found is None:
            return tensor
        table, used = found
        parts = []
        for k in used:
            other = names[k]
            assert other is not None
            part = speakers[k].outline.tensors[other]
            self._check_like(tensor, part, speakers[k], name)
            parts.append(Operand(str(speakers[k].model), other, part.key, part.dtype))
        dtypes = {part.dtype for part in parts} or {tensor.dtype}
        dtype = dtypes.pop() if len(dtypes) == 1 and not table.groups else "float32"
        view = RowsView(table.digest, tuple(parts))
        self.tables[table.digest] = table
        return TensorOutline(
            key=view_key(view, dtype),
            dtype=dtype,
            shape=resized(tensor.shape, self.target.rows),
            counts_as=tensor.counts_as or tensor.dtype,
            view=view,
        )

    def notes(self) -> Iterator[str]:
        """What the user should know of a vocabulary that is not that of every input."""
        target = self.target
        if not self.tables and target.extended is None:
            return
        size = target.vocabulary.size
        new = f" and {len(target.extended.new):,} more" if target.extended is not None else ""
        padding = f", {target.rows - size:,} of them padding" if target.rows > size else ""
        yield (
            f"vocabulary: the tokens of '{target.giver.name}'{new}; {target.rows:,} rows{padding}"
        )
        told: dict[int, None] = {me: None for (me, _), found in self._found.items() if found}
        for me in told:
            table, used = next(f for (k, _), f in self._found.items() if k == me and f is not None)
            yield f"vocabulary: '{target.speakers[me].model}': {self._told(me, table, used)}"

    def _told(self, me: int, table: RowTable, used: Sequence[int]) -> str:
        """How many rows are from where."""
        counts = Counter(table.rows[0])
        told = [f"{counts[used.index(me)] if me in used else 0:,} of its own rows"]
        for number, k in enumerate(used):
            if k != me and counts[number]:
                told.append(f"{counts[number]:,} from '{self.target.speakers[k].model}'")
        for part, what in ((MEAN, "means"), (ZERO, "zeros")):
            if counts[part]:
                told.append(f"{counts[part]:,} {what}")
        return ", ".join(told)

    def _counterpart(self, k: int, slot: str) -> str | None:
        """What a speaker calls the tensor that takes part in `slot`; None if it has none."""
        speaker = self.target.speakers[k]
        name, outline = speaker.naming.name(slot), speaker.outline
        if name in speaker.matrices.names:
            return name
        namings = [other.naming for other in self.target.speakers]
        if any(slot == naming.head for naming in namings):
            return outline.head or (outline.embedding if outline.tied else None)
        if any(n.name(slot) == n.outline.embedding is not None for n in namings):
            return outline.embedding
        return None

    def _check_like(
        self, tensor: TensorOutline, part: TensorOutline, speaker: Speaker, name: str
    ) -> None:
        at = self.target.tokenizer.at
        if not is_floating(tensor.dtype) or not is_floating(part.dtype):
            raise UnknownRowError(
                f"rows of {part.dtype} cannot be put into another vocabulary",
                at,
                "merge models whose embeddings are of floating point",
            )
        if resized(part.shape, 0) != resized(tensor.shape, 0):
            raise UnknownRowError(
                f"rows are {list(tensor.shape[1:])} wide, but {list(part.shape[1:])} in "
                f"'{speaker.model}', which is to give some",
                at,
                "rows can be taken from models of one width only",
            )

    def _table(self, me: int, there: There) -> tuple[RowTable, tuple[int, ...]] | None:
        """The row table of an input, and the speakers that are its parts; None where it is just
        the input's own matrix."""
        if (me, there) not in self._found:
            self._found[me, there] = self._make(me, there)
        return self._found[me, there]

    def _make(self, me: int, there: There) -> tuple[RowTable, tuple[int, ...]] | None:
        target, own = self.target, self.target.speakers[me]
        forced = any(rule.force for rule in target.tokenizer.tokens.values())
        if not forced and own.vocabulary.ids == target.vocabulary.ids and own.rows == target.rows:
            return None
        filled: list[Refs | None] = []
        for number in range(target.rows):
            token = target.vocabulary.tokens.get(number)
            if token is None:
                filled.append(self._padding(me, number, there))
            else:
                filled.append(self._row(me, token, there))
        if own.rows == target.rows and filled == [((me, j),) for j in range(target.rows)]:
            return None
        rest = tuple(refs[0] for refs in filled if refs is not None and len(refs) == 1)
        return make_table([rest if refs is None else refs for refs in filled])

    def _row(self, me: int, token: str, there: There) -> Refs:
        target = self.target
        rule = target.tokenizer.tokens.get(token)
        own = target.speakers[me].vocabulary.ids.get(token)
        if own is not None and not (rule is not None and rule.force):
            return ((me, own),)
        if token in target.rules:
            return target.rules[token]
        has = {k: s.vocabulary.ids.get(token) for k, s in enumerate(target.speakers) if there[k]}
        found = self._usual({k: row for k, row in has.items() if row is not None})
        if found is None:
            at = rule.at if rule is not None else target.tokenizer.at
            raise UnknownRowError(
                f"token {token!r:.80} has a row in no input",
                at,
                "say where its row comes from: tokens: {<token>: {source: ...}}",
            )
        return found

    def _padding(self, me: int, number: int, there: There) -> Refs | None:
        """A row of no token; None where no input has one in this place."""
        speakers = self.target.speakers
        has = {
            k: number
            for k, speaker in enumerate(speakers)
            if there[k] and number < speaker.rows and number not in speaker.vocabulary.tokens
        }
        if me in has:
            return ((me, number),)
        return self._usual({k: row for k, row in has.items() if self._counts(k)})

    def _usual(self, has: Mapping[int, int]) -> Refs | None:
        """The base's row, the only one, or all of which the mean is taken; of models that only
        give rows away, where no other has it."""
        if self.target.base in has:
            return ((self.target.base, has[self.target.base]),)
        counting = {k: row for k, row in has.items() if self._counts(k)}
        return tuple((counting or dict(list(has.items())[:1])).items()) or None

    def _counts(self, k: int) -> bool:
        return self.target.speakers[k].takes_part or k == self.target.base

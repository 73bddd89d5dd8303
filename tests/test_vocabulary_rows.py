"""Which row a token gets: every rule, as worked out by hand; and that views are exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import peft
import pytest
import torch
from tokenizers import Tokenizer

import mergebuild as mb
from tests import kit, vocabularies
from tests.builder import Scratch, computed, edited
from tests.test_lora import trained
from tests.vocabularies import EMBEDDING, HEAD, byte_level

AT = {"a": 100.0, "b": 200.0, "c": 300.0}


@dataclass(frozen=True, slots=True)
class Case:
    """`of` is the input that is looked at: the others have weight 0. Rows are written as in
    `expected`: "b5" is row 5 of b, "b5 c3" the mean of two, "" zeros."""

    of: str
    settings: str
    expected: dict[str | int, str]
    models: dict[str, str | Tokenizer] = field(default_factory=lambda: {"a": "abcd", "b": "baxy"})
    rows: dict[str, int] = field(default_factory=dict)
    base: str | None = None


THREE: dict[str, str | Tokenizer] = {"a": "abcd", "b": "baxy", "c": "xzac"}
SPECIALS: dict[str | int, str] = {"<unk>": "{}0", "<s>": "{}1", "</s>": "{}2"}


def own(model: str, **more: str) -> dict[str | int, str]:
    found = {token: row.format(model) for token, row in SPECIALS.items()}
    found.update(more)
    return found


CASES = {
    "union, the first keeps its ids and gets what it lacks": Case(
        "a", "tokenizer_source: union",
        own("a", a="a3", b="a4", c="a5", d="a6", x="b5", y="b6"),
    ),
    "union, the second is permuted": Case(
        "b", "tokenizer_source: union",
        own("b", a="b4", b="b3", c="a5", d="a6", x="b5", y="b6"),
    ),
    "union of three, what two have is their mean": Case(
        "a", "tokenizer_source: union",
        own("a", a="a3", b="a4", c="a5", d="a6", x="b5 c3", y="b6", z="c4"), THREE,
    ),
    "union of three, the base's row goes before the mean": Case(
        "a", "tokenizer_source: union",
        own("a", a="a3", b="a4", c="a5", d="a6", x="b5", y="b6", z="c4"), THREE, base="b",
    ),
    "base": Case(
        "b", "tokenizer_source: base", own("b", a="b4", b="b3", c="a5", d="a6"), base="a"
    ),
    "base, without one it is the first": Case(
        "b", "tokenizer_source: base", own("b", a="b4", b="b3", c="a5", d="a6")
    ),
    "a model": Case("a", "tokenizer_source: ./b", own("a", b="a4", a="a3", x="b5", y="b6")),
    "a model that takes no part gives the rows that nobody else has": Case(
        "a", "tokenizer_source: ./c", own("a", x="b5", z="c4", a="a3", c="a5"),
        {"a": "abcd", "b": "baxy", "c": "xzac"},
    ),
    "a rule's model, where a token is lacking": Case(
        "a", "tokenizer: {source: union, tokens: {x: {source: ./c}}}",
        own("a", a="a3", b="a4", c="a5", d="a6", x="c3", y="b6", z="c4"), THREE,
    ),
    "a rule that is not forced leaves what is there": Case(
        "a", "tokenizer: {source: base, tokens: {a: {source: ./b}}}",
        own("a", a="a3", b="a4", c="a5", d="a6"),
    ),
    "a rule that is forced": Case(
        "a", "tokenizer: {source: base, tokens: {a: {source: ./b, force: true}}}",
        own("a", a="b4", b="a4", c="a5", d="a6"),
    ),
    "forced without a source is the usual row": Case(
        "a", "tokenizer: {source: base, tokens: {a: {force: true}}}",
        own("a", a="a3 b4", b="a4", c="a5", d="a6"),
    ),
    "forced without a source, the base's": Case(
        "a", "tokenizer: {source: base, tokens: {a: {force: true}}}",
        own("a", b="a4", a="b4", x="b5", y="b6"), base="b",
    ),
    "another token's row": Case(
        "a", "tokenizer: {tokens: {x: {source: {kind: model_token, model: ./a, token: d}}}}",
        own("a", a="a3", b="a4", c="a5", d="a6", x="a6", y="b6"),
    ),
    "a row by its number": Case(
        "a", "tokenizer: {tokens: {x: {source: {kind: model_token, model: ./b, token_id: 2}}}}",
        own("a", a="a3", b="a4", c="a5", d="a6", x="b2", y="b6"),
    ),
    "zeros": Case(
        "a", "tokenizer: {tokens: {x: {source: {kind: zero}}}}",
        own("a", a="a3", b="a4", c="a5", d="a6", x="", y="b6"),
    ),
    "zeros for all": Case(
        "a", "tokenizer: {tokens: {a: {source: {kind: zero}, force: true}}}",
        own("a", a="", b="a4", c="a5", d="a6", x="b5", y="b6"),
    ),
    "a new token": Case(
        "a",
        "tokenizer: {source: base, tokens: "
        "{<n>: {source: {kind: model_token, model: ./b, token: x}}}}",
        own("a", a="a3", b="a4", c="a5", d="a6") | {"<n>": "b5"},
    ),
    "padding that all have is kept": Case(
        "b", "tokenizer_source: union",
        own("b", a="b4", b="b3", c="a5", d="a6", x="b5", y="b6") | {9: "b9", 10: "b10"},
        rows={"a": 12, "b": 11},
    ),
    "padding that some have is not": Case(
        "a", "tokenizer_source: base", own("a", a="a3", b="a4", c="a5", d="a6"), rows={"a": 9}
    ),
    "a row that is a token's elsewhere is no padding": Case(
        "b", "tokenizer_source: base",
        own("b", a="b3", b="b4") | {5: "a5", 6: "a6", 7: "b7"},
        {"a": "ab", "b": "abxy"}, {"a": 8, "b": 8},
    ),
    "padded to a multiple, with the mean of the tokens": Case(
        "a", "tokenizer: {source: base, pad_to_multiple_of: 8}",
        own("a", a="a3", b="a4", c="a5", d="a6") | {7: "a0 a1 a2 a3 a4 a5 a6"},
    ),
    "padded to a multiple, from what there is": Case(
        "a", "tokenizer: {source: base, pad_to_multiple_of: 4}",
        own("a", a="a3", b="a4", c="a5", d="a6") | {7: "a7"}, rows={"a": 9},
    ),
}  # fmt: skip


def value(row: str) -> float:
    parts = [AT[part[0]] + int(part[1:]) for part in row.split()]
    return sum(parts) / len(parts) if parts else 0.0


def recipe(settings: str, weights: dict[str, float], base: str | None = None) -> str:
    models = [f"{{model: ./{m}, parameters: {{weight: {w}}}}}" for m, w in weights.items()]
    named = f"base_model: ./{base}\n" if base is not None else ""
    listed = ", ".join(models)
    return f"merge_method: linear\n{named}models: [{listed}]\ndtype: float32\n{settings}\n"


def scratch_of(
    root: Path, models: dict[str, str | Tokenizer], rows: dict[str, int] | None = None
) -> Scratch:
    for name, tokenizer in models.items():
        vocabularies.write(root / name, tokenizer, at=AT[name], rows=(rows or {}).get(name))
    return Scratch(root, recipe="out.yaml")


@pytest.mark.parametrize("name", CASES)
def test_every_rule(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    scratch = scratch_of(tmp_path, case.models, case.rows)
    # A model that only the tokenizer names takes no part.
    inputs = [m for m in case.models if f"source: ./{m}\n" not in case.settings + "\n" or m != "c"]
    scratch.write(recipe(case.settings, {m: float(m == case.of) for m in inputs}, case.base))
    scratch.build()
    out = scratch.output("out")
    expected = {token: value(row) for token, row in case.expected.items()}
    assert vocabularies.rows(out) == pytest.approx(expected)
    heads = {token: v + 1000 if v else 0.0 for token, v in expected.items()}
    assert vocabularies.rows(out, HEAD) == pytest.approx(heads)
    assert kit.config(out)["vocab_size"] == len(expected)
    kit.loaded(out)


WIDE = {
    "a": byte_level([*"abcd", *(f"t{i}" for i in range(300))]),
    "b": byte_level([*(f"t{i}" for i in reversed(range(50, 350))), *"dcba"]),
    "c": byte_level([*(f"t{i}" for i in range(200, 500)), *"ab"]),
}
TIES = """\
mergebuild: 1
sources: {a: ./a, b: ./b, c: ./c}
nodes:
  first:
    merge_method: ties
    base_model: a
    models: [{model: b, parameters: {weight: 0.6}}, {model: c, parameters: {weight: 0.3}}]
    parameters: {density: 0.5}
    tokenizer_source: union
    dtype: bfloat16
  out:
    merge_method: linear
    models: [{model: first, parameters: {weight: 0.5}}, {model: b, parameters: {weight: 0.5}}]
    tokenizer: {source: b, tokens: {t60: {source: {kind: model_token, model: first, token: t0}}}}
    dtype: bfloat16
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of random embeddings in bfloat16, whose vocabularies overlap in parts."""
    root = tmp_path_factory.mktemp("wide")
    for seed, (name, tokenizer) in enumerate(WIDE.items()):
        kit.llama(
            root / name, layers=1, vocab=tokenizer.get_vocab_size(), dtype="bfloat16", seed=seed
        )
        tokenizer.save(str(root / name / "tokenizer.json"))
    return root


def scratch_in(tmp_path: Path, wide: Path, text: str) -> Scratch:
    scratch = Scratch(tmp_path, sources={name: str(wide / name) for name in WIDE})
    scratch.write(text)
    return scratch


def seen(
    name: str, into: dict[str, int], matrices: dict[str, torch.Tensor], order: str, base: str | None
) -> torch.Tensor:
    """A model's matrix in another vocabulary, as the rules say, in float32."""
    ids = {m: WIDE[m].get_vocab() for m in order}
    rows = []
    for token in into:
        has = [m for m in order if token in ids[m]]
        chosen = [name] if name in has else [base] if base in has else has
        found = [matrices[m][ids[m][token]].double() for m in chosen if m is not None]
        rows.append((sum(found) / len(found)).float())  # type: ignore[union-attr]
    return torch.stack(rows)


def test_a_merge_is_that_of_the_matrices_in_one_vocabulary(tmp_path: Path, wide: Path) -> None:
    linear = TIES.replace("ties", "linear").replace("{model: b, parameters: {weight: 0.6}}", (
        "{model: a, parameters: {weight: 0.1}}, {model: b, parameters: {weight: 0.6}}"
    )).replace("    base_model: a\n    models", "    models").replace(
        "    parameters: {density: 0.5}\n", "", 1
    )  # fmt: skip
    scratch = scratch_in(tmp_path, wide, linear)
    scratch.build(select=["first"])
    plan = scratch.plan(select=["first"])
    folder = plan.cache.folder(plan.nodes["first"].key)
    first, into = kit.read(folder), vocabularies.tokens(folder)
    for tensor in (EMBEDDING, HEAD):
        matrices = {name: kit.read(wide / name)[tensor] for name in WIDE}
        views = [seen(name, into, matrices, "abc", None) for name in "abc"]
        expected = sum(w * v.double() for w, v in zip((0.1, 0.6, 0.3), views, strict=True))
        assert isinstance(expected, torch.Tensor)
        torch.testing.assert_close(first[tensor].double(), expected, atol=1e-6, rtol=2.0**-8)
        assert first[tensor].dtype is torch.bfloat16


VARIANTS = {
    "one thread, small chunks": {"settings": mb.Settings(jobs=1, chunk=1 << 16)},
    "many threads": {"settings": mb.Settings(jobs=7)},
}


def contents(folder: Path) -> dict[str, bytes]:
    names = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
    return {name: (folder / name).read_bytes() for name in names}


def test_fused_staged_in_flight_and_by_any_threads_it_is_the_same(
    tmp_path: Path, wide: Path
) -> None:
    fused = scratch_in(tmp_path / "fused", wide, TIES)
    fused.build()
    expected = contents(fused.output("out"))
    assert len(vocabularies.tokens(fused.output("out"))) == len(vocabularies.tokens(wide / "b"))

    staged = scratch_in(tmp_path / "staged", wide, TIES)
    staged.build(select=["first"])
    assert {node for node, _ in computed(staged.build())} == {"out"}
    assert contents(staged.output("out")) == expected

    flying = scratch_in(tmp_path / "flying", wide, TIES.replace("    merge_method: ties",
                        "    keep: never\n    merge_method: ties"))  # fmt: skip
    flying.build()
    assert contents(flying.output("out")) == expected

    for name, more in VARIANTS.items():
        other = scratch_in(tmp_path / name, wide, TIES)
        other.build(**more)
        assert contents(other.output("out")) == expected


def test_a_chain_through_a_checkpoint_on_disk_is_the_same(tmp_path: Path, wide: Path) -> None:
    scratch = scratch_in(tmp_path / "one", wide, TIES)
    scratch.build()
    head, _, tail = TIES.partition("  out:\n")
    first = scratch_in(tmp_path / "two", wide, head)
    first.build()
    lines = TIES.partition("nodes:\n")[0].replace("c: ./c", f"first: {first.output('first')}")
    second = Scratch(tmp_path / "three", sources={"b": str(wide / "b"), "a": str(wide / "a")})
    second.write(f"{lines}nodes:\n  out:\n{tail}")
    second.build()
    assert contents(second.output("out")) == contents(scratch.output("out"))


SAME = """\
mergebuild: 1
sources: {a: ./a, b: ./b}
nodes:
  out:
    merge_method: slerp
    base_model: a
    models: [{model: b}]
    parameters: {t: 0.4}
    dtype: float32
"""
HARMLESS = {
    "base": "    tokenizer_source: base\n",
    "union": "    tokenizer_source: union\n",
    "a model": "    tokenizer_source: b\n",
    "a rule without effect": "    tokenizer: {tokens: {a: {source: b}}}\n",
    "a multiple that fits": "    tokenizer: {source: base, pad_to_multiple_of: 8}\n",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_with_one_vocabulary_no_key_changes(tmp_path: Path, name: str) -> None:
    scratch = Scratch(tmp_path)
    kit.llama(tmp_path / "a", layers=1)
    kit.llama(tmp_path / "b", layers=1, seed=1)
    scratch.write(SAME)
    key = scratch.plan().nodes["out"].key
    scratch.write(SAME + HARMLESS[name])
    plan = scratch.plan().nodes["out"]
    assert plan.key == key
    assert not plan.tables
    assert not any("vocabulary" in note for note in plan.notes)


def test_a_changed_rule_makes_stale_just_what_it_touches(tmp_path: Path) -> None:
    scratch = scratch_of(tmp_path, {"a": "abcd", "b": "baxy"})
    rule = "tokenizer: {tokens: {x: {source: {kind: model_token, model: ./a, token: d}}}}"
    scratch.write(recipe(rule, {"a": 1.0, "b": 0.5}))
    scratch.build()
    assert scratch.build() == []
    with edited(scratch, "token: d", "token: c"):
        plan = scratch.plan().nodes["out"]
        assert [reason.text for reason in plan.reasons] == ["rows of './a' changed"]
        assert computed(scratch.build()) == [("out", HEAD), ("out", EMBEDDING)]
    with edited(scratch, rule, "tokenizer_source: base"):
        texts = [reason.text for reason in scratch.plan().nodes["out"].reasons]
        assert "shape [9, 16] → [7, 16]" in texts
        assert "vocabulary of './a' changed" in texts
    assert scratch.build() == []


def test_a_change_of_another_models_rows_is_named(tmp_path: Path) -> None:
    scratch = scratch_of(tmp_path, {"a": "abcd", "b": "baxy"})
    scratch.write(recipe("tokenizer_source: union", {"a": 1.0, "b": 0.5}))
    scratch.build()
    vocabularies.write(tmp_path / "b", "baxy", at=250.0)
    reasons = {r.text: r.tensors for r in scratch.plan().nodes["out"].reasons}
    assert list(reasons) == ["content of './b' changed"]
    assert set(reasons["content of './b' changed"]) == {EMBEDDING, HEAD}


def test_explain_shows_what_a_view_is_made_of(tmp_path: Path) -> None:
    scratch = scratch_of(tmp_path, {"a": "abcd", "b": "baxy"})
    scratch.write(recipe("tokenizer_source: union", {"a": 1.0, "b": 0.5}))
    told = kit.run("explain", "out.yaml", "out", EMBEDDING, cwd=tmp_path)
    assert told.code == 0, told.stderr
    (view,) = {op.view for op in scratch.plan().nodes["out"].expressions[EMBEDDING].operands
               if op.model == "./a"}  # fmt: skip
    assert view is not None
    assert "operation              rows" in told.stdout
    assert f"rows                   {view.table}" in told.stdout
    assert f"content of './b' ({EMBEDDING}, 2 rows) {view.parts[1].key}" in told.stdout


@pytest.mark.filterwarnings("ignore")
def test_a_lora_is_applied_before_its_rows_are_moved(tmp_path: Path) -> None:
    scratch = scratch_of(tmp_path, {"a": "abcd", "b": "baxy"})
    settings = {"r": 2, "target_modules": ["embed_tokens", "q_proj"]}
    merged = trained(peft, tmp_path / "b", tmp_path / "lora", settings)[EMBEDDING]
    scratch.write(
        "merge_method: passthrough\nmodels: [{model: ./b+./lora}]\ntokenizer_source: ./a\n"
        "dtype: float32\n"
    )
    scratch.build()
    out = kit.read(scratch.output("out"))[EMBEDDING]
    a = kit.read(tmp_path / "a")[EMBEDDING]
    expected = torch.stack([*merged[:3], merged[4], merged[3], a[5], a[6]])
    torch.testing.assert_close(out, expected)


def narrow(root: Path) -> None:
    kit.llama(root / "w", layers=1, hidden=8, vocab=7)
    byte_level("wxyz").save(str(root / "w/tokenizer.json"))


Spoil = Callable[[Path], object]
ERRORS: dict[str, tuple[Spoil, str, str, int]] = {
    "no tokenizer": (
        lambda root: (root / "b/tokenizer.json").unlink(), "tokenizer_source: union",
        "'./b' has no tokenizer", 2,
    ),
    "ids beyond the matrix": (
        lambda root: byte_level("baxyz").save(str(root / "b/tokenizer.json")),
        "tokenizer_source: union", "token 'z' has the id 7, but the embedding has 7 rows", 2,
    ),
    "a damaged tokenizer": (
        lambda root: (root / "b/tokenizer.json").write_text("{"), "tokenizer_source: base",
        "'./b': tokenizer.json: not JSON", 2,
    ),
    "a new token without a row": (
        lambda root: None, "tokenizer: {source: base, tokens: {<n>: {force: true}}}",
        "token '<n>' has a row in no input", 2,
    ),
    "a rule for a token that its model lacks": (
        lambda root: None, "tokenizer: {tokens: {c: {source: ./b}}}",
        "token 'c': './b' has no token 'c'", 2,
    ),
    "a row beyond the matrix": (
        lambda root: None,
        "tokenizer: {tokens: {c: {source: {kind: model_token, model: ./b, token_id: 7}}}}",
        "the embedding of './b' has 7 rows, so none for 7", 2,
    ),
    "another kind": (
        lambda root: vocabularies.word_piece(["b", "##a"]).save(str(root / "b/tokenizer.json")),
        "tokenizer_source: union", "cannot be united: one is BPE, the other WordPiece", 2,
    ),
    "rows of another width": (
        narrow,
        "tokenizer: {source: base, tokens: {a: {source: {model: ./w, token: w}, force: true}}}",
        "rows are [16] wide, but [8] in './w', which is to give some", 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_located_and_come_before_anything_is_written(tmp_path: Path, name: str) -> None:
    spoil, settings, message, code = ERRORS[name]
    scratch_of(tmp_path, {"a": "abcd", "b": "baxy"})
    spoil(tmp_path)
    kit.write_recipe(tmp_path / "out.yaml", recipe(settings, {"a": 1.0, "b": 1.0}))
    result = kit.run("build", "out.yaml", "--out", "out", cwd=tmp_path)
    assert result.code == code, result.stderr
    assert message in result.stderr
    assert "error: out.yaml:" in result.stderr
    assert ("hint: " in result.stderr) or name == "a damaged tokenizer"
    assert not (tmp_path / "out").exists()

"""Good recipes: what text means."""

from __future__ import annotations

from pathlib import Path

import pytest

from mergebuild.errors import UsageError
from mergebuild.methods import registry
from mergebuild.recipe import (
    Condition,
    NodeRef,
    Parameters,
    Recipe,
    Source,
    load_recipe,
    parse_recipe,
)
from mergebuild.recipe.starter import STARTER

METHODS = registry()


def parse(text: str, **options: object) -> Recipe:
    return parse_recipe(text, Path("r.yaml"), methods=METHODS, **options)  # type: ignore[arg-type]


NATIVE = """\
mergebuild: 1
name: wizard-on-neural
description: two stages
seed: 7
sources:
  mistral: mistralai/Mistral-7B-v0.1
  wizard: {model: WizardLM/WizardMath-7B-V1.1, revision: 0123456}
vars: {density: 0.3, end: 1e-3, depths: [0, 0.5, 1]}
nodes:
  wizard-dare:
    merge_method: dare_ties
    base_model: mistral
    models: [{model: wizard, parameters: {weight: "${end}", density: "${density}"}}]
    dtype: torch.bfloat16
    keep: never
    seed: 11
  wizard-on-neural:
    merge_method: task_arithmetic
    base_model: mistral
    models:
      - {model: wizard-dare, parameters: {weight: "${depths}"}}
      - {model: Intel/neural-chat-7b-v3-3, parameters: {weight: 1}}
    parameters: {normalize: 1}
    out_dtype: float16
    missing: error
    description: $${literal} ${end}
"""


def test_native() -> None:
    recipe = parse(NATIVE)
    assert (recipe.name, recipe.native, recipe.warnings) == ("wizard-on-neural", True, ())
    assert recipe.outputs == {"wizard-on-neural": Path("build/wizard-on-neural")}
    dare, chat = recipe.nodes.values()
    mistral = Source("mistralai/Mistral-7B-v0.1")
    assert dare.base == chat.base == mistral
    assert (str(dare.base), str(mistral)) == ("mistral", "mistralai/Mistral-7B-v0.1")
    assert (dare.dtype, dare.keep, dare.seed) == ("bfloat16", "never", 11)
    assert (chat.out_dtype, chat.missing, chat.seed) == ("float16", "error", 7)
    assert chat.description == "${literal} 1e-3"
    (module,) = dare.modules
    (part,) = module.slices
    (entry,) = part.inputs
    assert module.name is None
    assert entry.layer_range is None
    assert entry.model == Source("WizardLM/WizardMath-7B-V1.1", "0123456")
    assert [values(entry.parameters, name) for name in ("weight", "density")] == [[1e-3], [0.3]]
    inputs = chat.modules[0].slices[0].inputs
    assert inputs[0].model == NodeRef("wizard-dare")
    assert values(inputs[0].parameters, "weight") == [(0.0, 0.5, 1.0)]
    assert values(chat.parameters, "normalize") == [True]


def values(parameters: Parameters, name: str) -> list[object]:
    return [condition.value for condition in parameters[name].conditions]


def test_overrides() -> None:
    recipe = parse(
        NATIVE,
        variables={"density": "[0.1, 1]", "end": "2"},
        sources={
            "mistral": "/data/mistral@7b",
            "WizardLM/WizardMath-7B-V1.1": "local/wizard@main",
            "Intel/neural-chat-7b-v3-3": "./chat",
        },
    )
    dare, chat = recipe.nodes.values()
    entry = dare.modules[0].slices[0].inputs[0]
    assert values(entry.parameters, "density") == [(0.1, 1.0)]
    assert values(entry.parameters, "weight") == [2.0]
    assert dare.base == Source("/data/mistral@7b")
    assert str(dare.base) == "mistral"
    assert entry.model == Source("local/wizard", "main")
    assert chat.modules[0].slices[0].inputs[1].model == Source("./chat")


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (
            {"variables": {"densty": "1"}},
            "--set densty=1: the recipe has no variable 'densty'",
            "did you mean 'density'?",
        ),
        (
            {"variables": {"density": "{a: 1}"}},
            "--set density: '{a: 1}' is not a value",
            "give a number, a word, or a list such as [0, 0.5, 1]",
        ),
        (
            {"variables": {"density": "!!python/name:os 1"}},
            "--set density: '!!python/name:os 1' is not a value",
            "give a number, a word, or a list such as [0, 0.5, 1]",
        ),
        (
            {"sources": {"mistrl": "/x"}},
            "--source mistrl=/x: the recipe has no such source",
            "did you mean 'mistral'?",
        ),
        (
            {"sources": {"Intel/neural-chat": "/x"}},
            "--source Intel/neural-chat=/x: the recipe has no such source",
            "did you mean 'Intel/neural-chat-7b-v3-3'?",
        ),
        ({"sources": {"mistral": "@"}}, "'@' is not a model reference", None),
    ],
)
def test_overrides_that_do_not_fit(
    options: dict[str, object], message: str, hint: str | None
) -> None:
    with pytest.raises(UsageError) as caught:
        parse(NATIVE, **options)
    (problem,) = caught.value.problems
    assert (problem.message, problem.at, problem.hint) == (message, None, hint)


def test_mergekit_files_have_no_variables() -> None:
    with pytest.raises(UsageError, match="a mergekit file has no variables"):
        parse("merge_method: passthrough\nmodels: [{model: o/x}]", variables={"a": "1"})


@pytest.mark.parametrize(
    ("written", "model"),
    [
        ("o/x", Source("o/x")),
        ("o/x@r", Source("o/x", "r")),
        ("o/x@refs/pr/1+o/l@s", Source("o/x", "refs/pr/1", Source("o/l", "s"))),
        ("./x@y", Source("./x@y")),
        ("~/x+/l@m", Source("~/x", None, Source("/l@m"))),
        ("folder", Source("folder")),
        ("{path: ./a+b@c}", Source("./a+b@c")),
        ("{model: o/x, revision: 12}", Source("o/x", "12")),
        (
            "{model: {path: o/x, revision: r}, lora: {path: o/l}}",
            Source("o/x", "r", Source("o/l")),
        ),
        ("{model: {path: o/x}, lora: o/l}", Source("o/x", None, Source("o/l"))),
    ],
)
def test_references(written: str, model: Source) -> None:
    recipe = parse(f"merge_method: passthrough\nmodels:\n- model: {written}\n")
    assert recipe.nodes["r"].modules[0].slices[0].inputs[0].model == model


def test_ambiguous_text_is_kept() -> None:
    recipe = parse(
        "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: ./a+b}, {model: o/x}]\n"
    )
    first, second = (entry.model for entry in recipe.nodes["r"].modules[0].slices[0].inputs)
    assert isinstance(first, Source)
    assert isinstance(second, Source)
    assert (first.text, second.text) == ("./a+b", "")


def test_alias_with_lora() -> None:
    recipe = parse(
        "mergebuild: 1\nsources: {m: o/x@r, l: ./l}\nnodes:\n"
        "  a: {merge_method: passthrough, models: [{model: m+l}]}\n",
        sources={"l": "/lora"},
    )
    model = recipe.nodes["a"].modules[0].slices[0].inputs[0].model
    assert model == Source("o/x", "r", Source("/lora"))
    assert str(model) == "m+l"


def test_forms_of_a_value() -> None:
    recipe = parse(
        """\
merge_method: dare_ties
base_model: o/b
models:
- model: o/x
  parameters:
    weight:
    - {filter: mlp, value: [0, "1e-3", 1]}
    - {filter: attn, value: []}
    - value: 2
    density: {value: 0.5}
parameters:
  density: []
  rescale: inverse
  normalize: [false, true]
"""
    )
    node = recipe.nodes["r"]
    parameters = node.modules[0].slices[0].inputs[0].parameters
    assert [(c.filter, c.value) for c in parameters["weight"].conditions] == [
        ("mlp", (0.0, 0.001, 1.0)),
        (None, 2.0),
    ]
    (condition,) = parameters["density"].conditions
    assert condition == Condition(None, 0.5, condition.at)
    assert str(condition.at) == "r.yaml:10:14"
    assert sorted(node.parameters) == ["normalize", "rescale"]
    assert values(node.parameters, "normalize") == [(False, True)]


def test_documents() -> None:
    stage = "merge_method: passthrough\nmodels: [{model: %s}]\n"
    two = "name: first\n" + stage % "o/x" + "---\n" + stage % "first"
    recipe = parse(two)
    assert list(recipe.nodes) == ["first", "r"]
    assert recipe.outputs == {"r": None}
    assert recipe.nodes["r"].modules[0].slices[0].inputs[0].model == NodeRef("first")
    named = "name: a\n" + stage % "o/x" + "---\nname: b\n" + stage % "a"
    assert parse(named).outputs == {"b": None}
    clash = "name: r\n" + stage % "o/x" + "---\n" + stage % "r"
    assert parse(clash).outputs == {"r-output": None}


def test_merge_keys_and_anchors() -> None:
    recipe = parse(
        """\
mergebuild: 1
nodes:
  a: &a
    merge_method: dare_ties
    base_model: o/b
    models: [{model: o/x, parameters: {weight: &w [0, 1]}}]
  b:
    <<: *a
    merge_method: ties
    models: [{model: a, parameters: {weight: *w}}]
outputs: [b, a]
"""
    )
    assert recipe.nodes["b"].method == "ties"
    assert recipe.nodes["b"].base == Source("o/b")
    assert recipe.outputs == {"b": Path("build/b"), "a": Path("build/a")}


def test_an_ignored_base_is_left_out() -> None:
    recipe = parse(
        "merge_method: passthrough\nbase_model: o/b\nmodels: [{model: o/x}]\ntokenizer_source: base"
    )
    node = recipe.nodes["r"]
    assert node.base is None
    assert node.tokenizer is not None
    assert (node.tokenizer.source, node.tokenizer.base) == (Source("o/b"), Source("o/b"))
    assert list(dict.fromkeys(node.references())) == [Source("o/x"), Source("o/b")]


def test_tokenizer() -> None:
    recipe = parse(
        """\
name: a
merge_method: passthrough
models: [{model: o/x}]
---
merge_method: passthrough
models: [{model: o/x}]
chat_template: "{{ ${jinja} }}"
tokenizer:
  source: union
  pad_to_multiple_of: 64
  tokens:
    <a>: {source: a, force: true}
    <b>: {source: {kind: model_token, model: o/y, token: <c>}}
    <c>: {source: {kind: model_token, model: o/y, token_id: 3}}
    <d>: {source: {kind: zero}}
    <e>: {source: {model: {path: o/z}}}
"""
    )
    node = recipe.nodes["r"]
    assert node.chat_template == "{{ ${jinja} }}"
    assert node.tokenizer is not None
    assert (node.tokenizer.source, node.tokenizer.pad_to_multiple_of) == ("union", 64)
    rules = node.tokenizer.tokens
    assert {token: (r.model, r.row, r.zero, r.force) for token, r in rules.items()} == {
        "<a>": (NodeRef("a"), None, False, True),
        "<b>": (Source("o/y"), "<c>", False, False),
        "<c>": (Source("o/y"), 3, False, False),
        "<d>": (None, None, True, False),
        "<e>": (Source("o/z"), None, False, False),
    }
    assert NodeRef("a") in list(node.references())


def test_load(tmp_path: Path) -> None:
    path = tmp_path / "two words.yml"
    path.write_text("\ufeffmerge_method: passthrough\r\nmodels:\r\n- model: o/x\r\n")
    recipe = load_recipe(path, methods=METHODS)
    assert recipe.outputs == {"two-words": None}
    assert recipe.directory == tmp_path


def test_the_starter_is_a_recipe() -> None:
    assert parse(STARTER).warnings == ()

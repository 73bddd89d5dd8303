"""Import of published merges and export to mergekit, through the real command."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import mergebuild as mb
from mergebuild.recipe.written import configuration, spelled
from tests import kit
from tests.hub_server import HubServer, serving

CARDS = kit.ROOT / "tests" / "cards"
RECIPES = kit.ROOT / "recipes"


def imported(tmp_path: Path, *args: str | Path) -> tuple[mb.Recipe, str]:
    """The recipe that the command wrote, and what it said."""
    done = kit.run("import", *args, "-o", "out.yaml", cwd=tmp_path)
    assert done.code == 0, done.stderr
    return mb.load(tmp_path / "out.yaml"), done.stderr


def said(recipe: mb.Recipe) -> dict[str, Any]:
    """What a recipe says of its nodes, sources spelled out."""

    def spell(model: Any) -> Any:
        return model.name if isinstance(model, mb.recipe.NodeRef) else spelled(model)

    return {name: configuration(node, spell) for name, node in recipe.nodes.items()}


# card -> the recipe that was made of it by hand, and names that differ
SAME = {
    "medswin-dare-ties.md": "medswin-dare-ties.yaml",
    "medswin-nuslerp.md": "medswin-nuslerp.yaml",
    "excalibur-7b": "excalibur-7b.yaml",
    "excalibur-7b/README.md": "excalibur-7b.yaml",
}


@pytest.mark.parametrize("card", SAME)
def test_a_card_says_what_the_recipe_does(card: str, tmp_path: Path) -> None:
    recipe, _ = imported(tmp_path, CARDS / card)
    assert said(recipe) == said(mb.load(RECIPES / SAME[card]))
    assert recipe.warnings == ()


def test_what_has_no_effect_is_told(tmp_path: Path) -> None:
    recipe, told = imported(tmp_path, CARDS / "llama-3.2-3b-dare-ties.md", "--no-follow")
    ours = said(mb.load(RECIPES / "llama-3.2-3b-dare-ties.yaml"))["llama-3.2-3b-dare-ties"]
    theirs = said(recipe)["llama-3.2-3b-dare-ties"]
    assert theirs["models"][0].pop("parameters") == {"density": 0.35, "weight": 0.3}
    assert theirs == ours
    assert "md:41:3: node 'llama-3.2-3b-dare-ties': 'dare_ties' has no parameter" in told
    assert "# - " in (tmp_path / "out.yaml").read_text()


def test_two_configurations_run_together_are_split(tmp_path: Path) -> None:
    broken = kit.run("import", CARDS / "wizard-on-neural.md", "--no-follow", cwd=tmp_path)
    assert broken.code == 2
    assert broken.stdout == ""
    assert "md:30:5: node 'wizard-on-neural': model 'Wizard-dare' needs the parameter" in (
        broken.stderr
    )
    assert "hint: give it under" in broken.stderr

    text = (CARDS / "wizard-on-neural.md").read_text(encoding="utf-8")
    whole = text.replace(
        "- model: Wizard-dare\n", "- model: Wizard-dare\n    parameters: {weight: 1}\n"
    )
    (tmp_path / "wizard-on-neural.md").write_text(whole, encoding="utf-8")
    recipe, told = imported(tmp_path, "wizard-on-neural.md", "--no-follow")
    assert "run together in one block are read as several" in told
    assert "the configuration in line 14 is called 'Wizard-dare'" in told
    ours = said(mb.load(RECIPES / "wizard-on-neural.yaml"))
    base = {"model": "mistralai/Mistral-7B-v0.1"}
    ours["wizard-dare"]["models"].insert(0, base)
    ours["wizard-on-neural"]["models"][0]["model"] = "Wizard-dare"
    assert list(said(recipe).values()) == list(ours.values())


LINEAR = """\
models:
  - {model: org/a, parameters: {weight: 1}}
  - {model: %s, parameters: {weight: 1}}
merge_method: linear
"""
WRONG = {
    # what is wrong: (file, text, code, message, hint)
    "no configuration": ("c.md", "# A model\n", 2, "'c.md' holds no", "a fenced block"),
    "only a usage block": (
        "c.md",
        "```python\nmerge_method: str\n```\n",
        2,
        "holds no mergekit configuration",
        "",
    ),
    "outside of a fence": (
        "c.md",
        "# A\n\nmodels: []\nmerge_method: linear\n",
        2,
        "c.md:4:1: a mergekit configuration stands outside",
        "put it between",
    ),
    "unknown method": (
        "c.md",
        "# A\n```yaml\nmerge_method: tiez\nmodels: [{model: org/a}]\n```\n",
        2,
        "c.md:3:15: node 'c': unknown method 'tiez'",
        "did you mean 'ties'?",
    ),
    "not YAML": ("c.md", "```yaml\nmerge_method: [\n```\n", 2, "c.md:2:", "while parsing"),
    "code in YAML": (
        "c.yml",
        "merge_method: !!python/name:os.system linear\nmodels: [{model: org/a}]\n",
        2,
        "c.yml:1:15: tag '!!python/name:os.system' is not allowed",
        "",
    ),
    "stages that do not hang together": (
        "c.md",
        f"```yaml\n{LINEAR % 'org/b'}```\nor\n```yaml\n{LINEAR % 'org/c'}```\n",
        2,
        "c.md:2:1: the card holds several configurations",
        "give each but the last a 'name:'",
    ),
    "binary": ("c.md", "\udcff", 2, "c.md:1:1: the file is not text in UTF-8", ""),
    "nothing there": ("d.md", "", 2, "'c.md' is neither a file", "name a README.md"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_imported_is_a_located_error(case: str, tmp_path: Path) -> None:
    file, text, code, message, hint = WRONG[case]
    (tmp_path / file).write_text(text, encoding="utf-8", errors="surrogateescape")
    named = "c.md" if case == "nothing there" else file
    done = kit.run("import", named, "-o", "out.yaml", cwd=tmp_path)
    assert done.code == code, done
    assert message in done.stderr
    assert hint in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.yaml").exists()


def test_text_of_a_card_stays_text(tmp_path: Path) -> None:
    config = (
        "merge_method: linear\n"
        "models:\n"
        "  - {model: './a${x}', parameters: {weight: [{filter: 'm*p', value: 1}, {value: 2}]}}\n"
        "  - {model: ./b, parameters: {weight: [{filter: '/q/', value: 1}, {value: 2}]}}\n"
        "chat_template: '{{ x }} ${y}'\n"
    )
    (tmp_path / "in.yml").write_text(config)
    recipe, told = imported(tmp_path, "in.yml")
    (node,) = recipe.nodes.values()
    first, second = node.modules[0].slices[0].inputs
    assert [str(c.filter) for c in first.parameters["weight"].conditions] == ["/m\\*p/", "None"]
    assert second.parameters["weight"].conditions[0].filter == "//q//"
    assert first.model == mb.recipe.Source("./a${x}")
    assert node.chat_template == "{{ x }} ${y}"
    assert "a place on another machine: say where it is with --source" in told


def test_an_input_that_is_given_is_found_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "top.md").write_text(f"```yaml\n{LINEAR % '/home/me/Mid'}```\n")
    (tmp_path / "mid.md").write_text(f"```yaml\n{LINEAR % '/home/me/b'}```\n")
    recipe, _ = imported(tmp_path, "top.md", "mid.md", "--no-follow")
    assert list(recipe.nodes) == ["mid", "top"]
    assert [str(m) for m in recipe.nodes["top"].references()] == ["a", "mid"]


def test_a_folder_beside_keeps_its_place(tmp_path: Path) -> None:
    kit.llama(tmp_path / "models/b", layers=1)
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards/c.yml").write_text(LINEAR % "../models/b")
    recipe, _ = imported(tmp_path, "cards/c.yml", "--no-follow")
    assert "b: ./models/b" in (tmp_path / "out.yaml").read_text()
    assert kit.run("import", "cards/c.yml", "-o", "out.yaml", cwd=tmp_path).code == 2
    assert list(recipe.outputs) == ["c"]


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with serving() as server:
        yield server


def online(hub: HubServer, tmp_path: Path) -> Mapping[str, str]:
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "",
        "PATH": os.environ["PATH"],
    }


def test_a_chain_of_cards_on_the_hub(hub: HubServer, tmp_path: Path) -> None:
    cards = {
        "org/top": f"# Top\n```yaml\n{LINEAR % 'org/mid'}```\n",
        "org/mid": f"```yaml\n{LINEAR % 'org/low@main'}```\n",
        "org/low": f"```yaml\n{LINEAR % 'org/top'}```\n",
        "org/a": "---\nlicense: mit\n---\n# a plain model\n",
    }
    for name, card in cards.items():
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "README.md").write_text(card)
        (folder / "model.safetensors").write_bytes(b"x" * 100)
        hub.repo(name).commit(folder)
    hub.requests.clear()
    done = kit.run(
        "import", f"{hub.url}/org/top".replace(hub.url, "https://huggingface.co"),
        cwd=tmp_path, env=online(hub, tmp_path),
    )  # fmt: skip
    assert done.code == 0, done.stderr
    (tmp_path / "out.yaml").write_text(done.stdout)
    recipe = mb.load(tmp_path / "out.yaml")
    assert list(recipe.nodes) == ["low", "mid", "top"]
    assert [str(m) for m in recipe.nodes["top"].references()] == ["a", "mid"]
    assert [spelled(m) for m in recipe.nodes["low"].references() if not
            isinstance(m, mb.recipe.NodeRef)] == ["org/a", "org/top"]  # fmt: skip
    assert "'org/top': its cards lead back to itself" in done.stderr
    assert not hub.asked("GET", "safetensors")
    assert len(hub.asked("GET", "/api/models/org/a")) == 1

    missing = kit.run("import", "org/none", cwd=tmp_path, env=online(hub, tmp_path))
    assert missing.code == 1
    assert "there is no 'org/none'" in missing.stderr
    offline = kit.run("import", "org/other", cwd=tmp_path)
    assert offline.code == 1
    assert "'org/other' is on the Hub, and HF_HUB_OFFLINE is set" in offline.stderr


EXOTIC = """\
mergebuild: 1
sources: {base: ./base, a: ./a, b: ./b}
vars: {w: 0.25}
nodes:
  linear:
    description: "a stage\\n- named like a method"
    merge_method: linear
    models: [{model: a, parameters: {weight: "${w}"}}, {model: b, parameters: {weight: 1}}]
  sliced:
    merge_method: slerp
    base_model: base
    slices:
      - sources: [{model: base, layer_range: [0, 2]}, {model: linear, layer_range: [0, 2]}]
      - sources: [{model: base, layer_range: [1, 2]}, {model: a, layer_range: [0, 1]}]
        parameters: {t: 0.5}
    parameters: {t: [{filter: mlp, value: [0, 1]}, {value: 0.25}]}
  deep:
    merge_method: ties
    base_model: base
    modules:
      default:
        models:
          - {model: base}
          - {model: linear, parameters: {weight: 1, density: [0.25, 0.75]}}
          - {model: b, parameters: {weight: 1}}
    parameters: {lambda: 1e-1}
    out_dtype: bfloat16
"""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("workshop")
    kit.llama(root / "base", layers=2)
    for seed, name in enumerate("ab", start=1):
        kit.llama(root / name, layers=2, near=root / "base", seed=seed)
    kit.write_recipe(root / "exotic.yaml", EXOTIC)
    return root


def keys(recipe: Path) -> dict[str, str]:
    plan = mb.plan(recipe, cache=recipe.parent / "cache", select=list(mb.load(recipe).nodes))
    return {name: node.key for name, node in plan.nodes.items()}


def test_what_is_exported_and_imported_has_the_same_keys(workshop: Path) -> None:
    before = keys(workshop / "exotic.yaml")
    done = kit.run("export", "exotic.yaml", "-o", "multi.yml", "--force", cwd=workshop)
    assert done.code == 0, done.stderr
    assert f"run mergekit in '{Path()}'" in done.stderr
    named = keys(workshop / "multi.yml")
    assert named == {"linear-stage": before["linear"], **{n: before[n] for n in ("sliced", "deep")}}

    done = kit.run("export", "exotic.yaml", "deep", "-o", "one.yml", "--force", cwd=workshop)
    assert done.code == 0, done.stderr
    assert keys(workshop / "one.yml") == {"linear-stage": before["linear"], "one": before["deep"]}
    done = kit.run("import", "one.yml", "-o", "back.yaml", "--force", cwd=workshop)
    assert done.code == 0, done.stderr
    assert sorted(keys(workshop / "back.yaml").values()) == sorted(
        (before["linear"], before["deep"])
    )


BEYOND = """\
mergebuild: 1
sources: {base: ./base, a: ./a}
nodes:
  one:
    merge_method: dare_ties
    base_model: base
    models:
      - model: a
        parameters:
          weight: [{filter: /mlp/, value: 1}, {filter: "self*q", value: 2}, {value: 3}]
          density: 0.5
    parameters: {rescale: inverse}
    seed: 3
    keep: never
  two:
    merge_method: consensus_ta
    base_model: base
    models: [{model: one}, {model: a}]
    missing: error
"""


def test_everything_that_mergekit_lacks_is_listed_with_its_place(workshop: Path) -> None:
    kit.write_recipe(workshop / "beyond.yaml", BEYOND)
    done = kit.run("export", "beyond.yaml", "-o", "beyond.yml", cwd=workshop)
    assert done.code == 2
    for told in (
        "beyond.yaml:4:3: node 'one': mergekit has no 'keep'",
        "beyond.yaml:4:3: node 'one': mergekit has no 'seed' (here 3)",
        "beyond.yaml:12:27: node 'one': mergekit has no value 'inverse' of 'rescale'",
        "beyond.yaml:10:20: node 'one': of 'a' 'weight': mergekit has no patterns",
        "unlike 'self*q'",
        "beyond.yaml:15:3: node 'two': mergekit has no method 'consensus_ta'",
        "node 'two': mergekit has no 'missing'",
    ):
        assert told in done.stderr
    assert not (workshop / "beyond.yml").exists()


USAGE = [
    # arguments, exit code, on stderr
    (["export", "exotic.yaml", "dep"], 2, "hint: did you mean 'deep'?"),
    (["export", "exotic.yaml", "-f", "json"], 2, "json"),
    (["export", "exotic.yaml", "-o", "base"], 2, "'base' is there already"),
    (["export", "exotic.yaml", "-o", "nowhere/x"], 2, "there is no folder 'nowhere'"),
    (["export", "nosuch.yaml"], 2, "cannot read the recipe"),
    (["export", "exotic.yaml", "--set", "x=1"], 2, "the recipe has no variable 'x'"),
    (["import", "base"], 2, "'base' holds no mergekit configuration"),
    (["import", "exotic.yaml"], 0, ""),
]  # fmt: skip


@pytest.mark.parametrize("case", USAGE, ids=lambda case: " ".join(case[0]))
def test_usage(workshop: Path, case: tuple[list[str], int, str]) -> None:
    arguments, code, stderr = case
    done = kit.run(*arguments, cwd=workshop)
    assert done.code == code, done
    assert stderr in done.stderr
    assert "Traceback" not in done.stderr

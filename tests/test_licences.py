"""What the cards of leaves say, and what the card of a merge makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import mergebuild as mb
from mergebuild.methods import registry
from mergebuild.share.card import licence_warnings, papers
from tests import kit
from tests.test_lora import adapter

RECIPE = """\
mergebuild: 1
sources: {a: org/a, b: org/b}
nodes:
  mid:
    merge_method: linear
    models: [{model: a, parameters: {weight: 1}}]
  out:
    merge_method: linear
    models: [{model: mid, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]
outputs: [out]
"""
OTHER = "license: other\nlicense_name: %s\nlicense_link: %s\n"
APACHE = "license: apache-2.0\n"


def told(root: Path, *cards: str | None) -> tuple[dict[str, str], tuple[str, ...]]:
    """The files that tell of a merge of two models with these cards, and what is warned of."""
    for seed, (name, card) in enumerate(zip("ab", cards, strict=True)):
        kit.llama(root / "org" / name, layers=1, seed=seed)
        if card is not None:
            (root / "org" / name / "README.md").write_text(f"---\n{card}---\n# {name}\n")
    kit.write_recipe(root / "recipe.yaml", RECIPE)
    places = {name: str(root / "org" / name) for name in "ab"}
    plan = mb.plan(root / "recipe.yaml", sources=places, cache=root / "cache")
    return papers(plan, "out", registry()), licence_warnings(plan, "out")


def front_matter(card: str) -> Any:
    return yaml.safe_load(card.split("---")[1])


ROWS = {
    # cards of the two models, licence of the merge, what is warned of
    "the same": (APACHE, APACHE, {"license": "apache-2.0"}, None),
    "permissive": (
        APACHE,
        "license: mit\n",
        {
            "license": "other",
            "license_name": "apache-2.0-and-mit",
            "license_link": "LICENSE.md",
        },
        "the licences differ, and the notices of each apply: apache-2.0 ('org/a'); mit ('org/b')",
    ),
    "a research licence": (
        APACHE,
        OTHER % ("Microsoft-Research-License", "https://example.org/terms.pdf"),
        {
            "license": "other",
            "license_name": "apache-2.0-and-microsoft-research-license",
            "license_link": "LICENSE.md",
        },
        "the licences conflict, or may: apache-2.0 ('org/a'); microsoft-research-license ('org/b')",
    ),
    "the same custom one": (
        OTHER % ("x-1.0", "LICENSE"),
        OTHER % ("x-1.0", "https://example.org/x"),
        {
            "license": "other",
            "license_name": "x-1.0",
            "license_link": "https://huggingface.co/org/a/blob/main/LICENSE",
        },
        None,
    ),
    "two that are not named": (
        "license: other\n",
        "license: other\n",
        {"license": "other", "license_name": "other", "license_link": "LICENSE.md"},
        None,
    ),
    "one is missing": (
        APACHE,
        None,
        {
            "license": "other",
            "license_name": "apache-2.0-and-unknown",
            "license_link": "LICENSE.md",
        },
        "no licence is stated by the cards of 'org/b'",
    ),
    "none is stated": (None, "tags: [x]\n", {}, "stated by the cards of 'org/a', 'org/b'"),
    "no derivatives": (
        "license: cc-by-nc-nd-4.0\n",
        "license: cc-by-nc-nd-4.0\n",
        {"license": "cc-by-nc-nd-4.0"},
        "the licence of 'org/a', 'org/b' forbids sharing what is derived from it",
    ),
    "nonsense": (
        "license: {a: b}\n",
        "license: 'mit\\n---\\nx: y'\nlicense_link: 'javascript:x'\n",
        {"license": "other", "license_name": "other-and-unknown", "license_link": "LICENSE.md"},
        "no licence is stated by the cards of 'org/a'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ROWS)
def test_licences(case: str, tmp_path: Path) -> None:
    a, b, licence, warning = ROWS[case]
    files, warnings = told(tmp_path, a, b)
    front = front_matter(files["README.md"])
    assert {k: v for k, v in front.items() if k.startswith("license")} == licence
    assert ("LICENSE.md" in files) == (licence.get("license_link") == "LICENSE.md")
    assert bool(warnings) == (warning is not None)
    if warning is not None:
        assert warning in warnings[0]
        assert f"> **Licences:** {warnings[0]}." in files["README.md"]


def test_bases_data_and_languages_are_carried_over(tmp_path: Path) -> None:
    files, _ = told(
        tmp_path,
        f"{APACHE}datasets: [org/set, x/y/z, other]\nlanguage: [en, no]\n"
        "pipeline_tag: text-generation\nbase_model: big/base\n",
        f"{APACHE}datasets: other\nlanguage: en\npipeline_tag: text-generation\nbase_model: ../x\n",
    )
    assert front_matter(files["README.md"]) == {
        "base_model": ["org/a", "org/b"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["mergebuild", "merge"],
        "license": "apache-2.0",
        "datasets": ["org/set", "other"],
        "language": ["en", "no"],
        "pipeline_tag": "text-generation",
    }
    card = files["README.md"]
    assert "- **a**: `org/a`, licence apache-2.0, made from `big/base`\n" in card
    assert "- **b**: `org/b`, licence apache-2.0\n" in card


def test_the_card_shows_the_recipe_as_it_was_built(tmp_path: Path) -> None:
    kit.llama(tmp_path / "a", layers=1)
    body = "merge_method: linear\n    models: [{model: %s, parameters: {weight: %s}}]\n"
    part = "mergebuild: 1\nvars: {w: 1}\nnodes:\n  mid:\n    " + body % ("./a", '"${w}"')
    kit.write_recipe(tmp_path / "part.yaml", part)
    whole = "mergebuild: 1\ninclude: {team: part.yaml}\nnodes:\n  out:\n    "
    kit.write_recipe(tmp_path / "recipe.yaml", whole + body % ("team.mid", 1))

    def card(recipe: str, node: str, variables: dict[str, str]) -> str:
        plan = mb.plan(tmp_path / recipe, variables=variables, cache=tmp_path / "cache")
        return papers(plan, node, registry())["README.md"]

    assert "with `mergebuild build --set w=2`:" in card("part.yaml", "mid", {"w": "2"})
    assert "  team.mid:\n" in card("recipe.yaml", "out", {})


def test_a_lora_has_a_licence_of_its_own(tmp_path: Path) -> None:
    kit.llama(tmp_path / "base", layers=1)
    (tmp_path / "base/README.md").write_text(f"---\n{APACHE}---\n")
    adapter(tmp_path / "lora")
    (tmp_path / "lora/README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    kit.write_recipe(
        tmp_path / "recipe.yaml",
        "mergebuild: 1\nnodes:\n  out:\n    merge_method: passthrough\n"
        "    models: [{model: ./base+./lora}]\n",
    )
    plan = mb.plan(tmp_path / "recipe.yaml", cache=tmp_path / "cache")
    (warning,) = licence_warnings(plan, "out")
    assert warning.startswith(
        "the licences conflict, or may: apache-2.0 ('./base'); cc-by-nc-4.0 ('./lora')"
    )


def test_an_output_carries_them_and_is_whole(tmp_path: Path) -> None:
    told(tmp_path, APACHE, OTHER % ("x-1.0", "https://example.org/x"))
    sources = [word for name in "ab" for word in ("--source", f"{name}=org/{name}")]
    done = kit.run("build", "recipe.yaml", *sources, cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert "warning: output 'out': the licences conflict, or may: apache-2.0 ('org/a')" in (
        done.stderr
    )
    assert (
        "`org/b`: x-1.0 (https://example.org/x)" in (tmp_path / "build/out/LICENSE.md").read_text()
    )
    assert kit.run("verify", "build/out", cwd=tmp_path).code == 0

"""Recipes that include others: namespaces, overrides, limits; keys see none of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import mergebuild as mb
from mergebuild.errors import DriftError, MergebuildError, RecipeError, UsageError
from mergebuild.recipe.resolved import resolved_text
from mergebuild.site import Site
from tests import kit
from tests.builder import Scratch
from tests.git_server import commit, git, serving
from tests.test_lock import said, write

TEAM = """\
mergebuild: 1
name: of the team
sources: {base: ./base, math: ./math}
vars: {density: 0.5, weight: 1}
seed: 3
nodes:
  dare:
    merge_method: dare_ties
    base_model: base
    models: [{model: math, parameters: {weight: "${weight}", density: "${density}"}}]
  unused:
    merge_method: linear
    models: [{model: ./nowhere, parameters: {weight: 1}}]
outputs: {unused: build/team}
"""
MAIN = """\
mergebuild: 1
sources: {base: ./models/base, chat: ./models/chat}
include:
  team:
    recipe: models/team.yaml
    vars: {density: 0.25}
  other: {recipe: "./models/team.yaml", sources: {math: team.dare, base: base}}
nodes:
  sum:
    merge_method: task_arithmetic
    base_model: base
    models:
      - {model: team.dare, parameters: {weight: 1}}
      - {model: other.dare, parameters: {weight: 0.5}}
      - {model: chat, parameters: {weight: 1}}
outputs: {sum: build/sum}
"""
FLAT = """\
mergebuild: 1
sources: {b: ./models/base, m: ./models/math, c: ./models/chat}
seed: 3
nodes:
  one:
    merge_method: dare_ties
    base_model: b
    models: [{model: m, parameters: {weight: 1, density: 0.25}}]
  two:
    merge_method: dare_ties
    base_model: b
    models: [{model: one, parameters: {weight: 1, density: 0.5}}]
  all:
    merge_method: task_arithmetic
    base_model: b
    models:
      - {model: one, parameters: {weight: 1}}
      - {model: two, parameters: {weight: 0.5}}
      - {model: c, parameters: {weight: 1}}
"""
ONE = "mergebuild: 1\ninclude: {team: %s}\noutputs: {team.dare: build/dare}\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("include")
    kit.base_and_two(root / "models", layers=1)
    kit.write_recipe(root / "models/team.yaml", TEAM)
    kit.write_recipe(root / "recipe.yaml", MAIN)
    return root


@pytest.fixture
def scratch(models: Path, tmp_path: Path) -> Scratch:
    shutil.copytree(models, tmp_path / "work")
    return Scratch(tmp_path / "work")


def key(plan: mb.Plan, node: str) -> str:
    return plan.nodes[node].key


def test_keys_do_not_see_how_nodes_were_included(scratch: Scratch) -> None:
    plan = scratch.plan()
    assert list(plan.nodes) == ["team.dare", "other.dare", "sum"]
    assert plan.targets == ("sum",)
    flat = kit.write_recipe(scratch.root / "flat.yaml", FLAT)
    whole = mb.plan(flat, cache=scratch.root / "cache")
    assert [node.key for node in plan.nodes.values()] == [node.key for node in whole.nodes.values()]


def test_it_builds_and_explains_itself(scratch: Scratch) -> None:
    done = kit.run("build", "recipe.yaml", cwd=scratch.root)
    assert done.code == 0, done.stderr
    assert (scratch.root / "build/sum/model.safetensors").exists()
    assert not (scratch.root / "build/team").exists()
    for arguments, expected in (
        (
            ["graph", "recipe.yaml"],
            "other.dare  (dare_ties)\n  <- other.base  (source)\n  <- team.dare",
        ),
        (["explain", "recipe.yaml", "team.dare"], "team.dare is fresh"),
        (["plan", "recipe.yaml", "team.dare"], "team.dare  fresh"),
        (["plan", "recipe.yaml", "--set", "team.density=0.3"], "density of 'team.math' 0.25 → 0.3"),
        (["plan", "recipe.yaml", "--source", "team.math=models/chat"], "content of 'team.math'"),
    ):
        done = kit.run(*arguments, cwd=scratch.root)
        assert done.code == 0, done.stderr
        assert expected in done.stdout
    card = (scratch.root / "build/sum/README.md").read_text()
    assert "### team.dare" in card
    # What is published tells all that it was built from, and is built again from that alone.
    (scratch.root / "models/team.yaml").unlink()
    (scratch.root / "recipe.yaml").unlink()
    done = kit.run("build", "build/sum", "--check", cwd=scratch.root)
    assert done.code == 0, done


def test_what_is_shown_builds_the_same(scratch: Scratch) -> None:
    done = kit.run("show", "recipe.yaml", cwd=scratch.root)
    assert done.code == 0, done.stderr
    assert "# models/team.yaml:7:3\n  team.dare:" in done.stdout
    assert "# team.* from models/team.yaml" in done.stdout
    shown = kit.write_recipe(scratch.root / "shown.yaml", done.stdout)
    plans = [mb.plan(scratch.root / name, cache=scratch.root / "cache") for name in (
        "recipe.yaml", "shown.yaml")]  # fmt: skip
    assert [n.key for n in plans[0].nodes.values()] == [n.key for n in plans[1].nodes.values()]
    again = resolved_text(mb.load(shown))
    assert again.partition("nodes:")[2].count("keep: cache") == 5
    varied = kit.run("show", "recipe.yaml", "--set", "team.density=0.125", cwd=scratch.root)
    assert "density: 0.125" in varied.stdout


def test_a_path_of_an_included_recipe_that_looks_like_the_hub(scratch: Scratch) -> None:
    kit.write_recipe(
        scratch.root / "far/x.yaml", TEAM.replace("./base", "deep/base").replace("./math", "m/n/o")
    )
    shutil.copytree(scratch.root / "models/base", scratch.root / "far/deep/base")
    shutil.copytree(scratch.root / "models/math", scratch.root / "far/m/n/o")
    scratch.write(ONE % "far/x.yaml")
    plan = scratch.plan()
    write(scratch.root)
    assert set(said(scratch.root)["sources"]) == {"./far/deep/base", "./far/m/n/o"}
    shown = kit.write_recipe(scratch.root / "shown.yaml", resolved_text(plan.recipe))
    again = mb.plan(shown, cache=scratch.root / "cache")
    assert key(again, "team.dare") == key(plan, "team.dare")


SHOWN = {
    "gradients, filters and text like variables": (
        "mergebuild: 1\nvars: {t: [0, 0.5, 1]}\nseed: 4\nnodes:\n  out:\n"
        "    merge_method: slerp\n    description: costs $${t}\n    base_model: ./models/base\n"
        "    models: [{model: ./models/math}]\n    dtype: bfloat16\n    parameters:\n"
        '      t: [{filter: "/mlp|norm/", value: "${t}"}, {value: 0.5}]\n'
    ),
    "an adapter on a node": (
        "mergebuild: 1\nnodes:\n  one:\n    merge_method: linear\n"
        "    models: [{model: ./models/base, parameters: {weight: 1}}]\n"
        "  two:\n    kind: lora\n    model: ./models/math\n    base_model: ./models/base\n"
        "    rank: 2\n"
        "  out:\n    merge_method: passthrough\n    models: [{model: one+two}]\n"
    ),
    "a mergekit file": (
        "name: first\nmerge_method: linear\nmodels:\n"
        "  - {model: models/base, parameters: {weight: [{filter: 'q*', value: 2}, {value: 1}]}}\n"
        "  - {model: ./models/math, parameters: {weight: 1}}\n---\n"
        "merge_method: passthrough\nmodels: [{model: first}]\n"
    ),
}


@pytest.mark.parametrize("case", SHOWN)
def test_what_is_shown_of_others_too(case: str, scratch: Scratch) -> None:
    one = kit.write_recipe(scratch.root / "one.yaml", SHOWN[case])
    two = kit.write_recipe(scratch.root / "two.yaml", resolved_text(mb.load(one)))
    plans = [mb.plan(path, cache=scratch.root / "cache") for path in (one, two)]
    assert [n.key for n in plans[0].nodes.values()] == [n.key for n in plans[1].nodes.values()]
    assert list(plans[0].nodes) == list(plans[1].nodes)


def test_nested_and_mergekit_files(scratch: Scratch) -> None:
    kit.write_recipe(
        scratch.root / "deep/outer.yaml",
        "mergebuild: 1\ninclude: {inner: ../models/team.yaml, plain: plain.yml}\nnodes:\n"
        "  twice:\n    merge_method: linear\n    models:\n"
        "      - {model: inner.dare, parameters: {weight: 1}}\n"
        "      - {model: plain.stage, parameters: {weight: 1}}\n"
        "      - {model: inner.math, parameters: {weight: 1}}\n",
    )
    kit.write_recipe(
        scratch.root / "deep/plain.yml",
        "name: stage\nmerge_method: linear\n"
        "models: [{model: ../models/chat, parameters: {weight: 1}}]\n",
    )
    scratch.write("mergebuild: 1\ninclude: {far: deep/outer.yaml}\noutputs: [far.twice]\n")
    plan = scratch.plan()
    assert list(plan.nodes) == ["far.inner.dare", "far.plain.stage", "far.twice"]
    places = {str(leaf.checkpoint.path.resolve()) for leaf in plan.leaves.values()}
    assert places == {str(scratch.root / "models" / name) for name in ("base", "math", "chat")}
    assert [one.namespace for one in plan.recipe.included] == ["far", "far.inner", "far.plain"]
    scratch.sources["far.inner.math"] = str(scratch.root / "models/chat")
    assert key(scratch.plan(), "far.inner.dare") != key(plan, "far.inner.dare")
    site = Site(sources={"far.inner.math": str(scratch.root / "models/chat")})
    by_site = mb.plan(scratch.root / "recipe.yaml", cache=scratch.root / "cache", site=site)
    assert key(by_site, "far.inner.dare") == key(scratch.plan(), "far.inner.dare")


MISTAKES = [
    # what stands after 'mergebuild: 1', what is said
    ("include: [x]", "recipe.yaml:2:10: 'include' must be a mapping, not a list"),
    ("include: {a.b: x}", "recipe.yaml:2:11: 'a.b' is not a name for an include"),
    ("include: {a: {}}", "recipe.yaml:2:11: include 'a' has no 'recipe'"),
    ("include: {a: {recipe: x, nodes: {}}}", "unknown key 'nodes' in include 'a'"),
    ("include: {a: ./nosuch.yaml}", "recipe.yaml:2:14: cannot read"),
    ("include: {a: ./models}", "recipe.yaml:2:14: '"),
    ("include: {a: /etc/passwd}", "recipe.yaml:2:14: '/etc/passwd' cannot be included"),
    ("include: {a: ~/x.yaml}", "'~/x.yaml' cannot be included"),
    ("include: {a: 'https://x/y.yaml'}", "'https://x/y.yaml' cannot be included"),
    ("include: {a: 'hf://org/x.yaml'}", "names no file on the Hub"),
    ("include: {a: 'hf://org/x/../y.yaml'}", "leads out of its repository"),
    ("include: {a: 'git+ssh://h/x@main#y'}", "fetched by https and file, not as 'ssh://h/x'"),
    ("include: {a: 'git+http://example.org/x@main#y'}", "not as 'http://example.org/x'"),
    ("include: {a: 'git+ext::sh -c x@main#y'}", "names no file in git"),
    ("include: {a: 'git+https://-oProxyCommand=x/y@main#y'}", "not as 'https://-oProxyCommand"),
    ("include: {a: 'git+https://u:p@h/x@main#y'}", "holds no user and no password"),
    ("include: {a: 'git+https://h/x@--upload-pack=x#y'}", "names no file in git"),
    ("include: {a: 'git+https://h/x@main#../y'}", "leads out of its repository"),
    ("include: {a: 'git+file://h/x@main#y'}", "fetched by https and file"),
    ("include: {a: 'git+https://h/x#y'}", "names no file in git"),
    ("include: {team: models/team.yaml}", "recipe.yaml:1:1: nothing is built of what is included"),
    (
        "include: {team: models/team.yaml}\noutputs: [team.dara]",
        "recipe.yaml:3:11: output 'team.dara' is not a node\n\nhint: did you mean 'team.dare'?",
    ),
    (
        "include: {team: {recipe: models/team.yaml, vars: {dens: 1}}}\noutputs: [team.dare]",
        "recipe.yaml:2:51: the included recipe",
    ),
    (
        "include: {team: {recipe: models/team.yaml, sources: {bass: ./x}}}\noutputs: [team.dare]",
        "has no source 'bass'\n\nhint: did you mean 'base'?",
    ),
    ("include: {team: models/broken.yaml}\noutputs: [team.dare]",
     "models/broken.yaml:8:19: node 'team.dare': unknown method 'dare_tis'"),
    ("include: {a: models/ring.yaml}\noutputs: [a.x]", "rung.yaml:2:14: the includes form a"),
    ("include: {a: recipe.yaml}\noutputs: [a.x]", "the includes form a cycle: "),
    ("include: {a: models/team.yaml}\nnodes: {a.dare: {merge_method: passthrough, models: "
     "[{model: ./models/base}]}}", "node 'a.dare' has the name of an included one"),
    ("include: {team: {recipe: models/team.yaml, sources: {base: mine}}}\nnodes: {mine: "
     "{merge_method: passthrough, models: [{model: team.dare}]}}", "the nodes form a cycle: "),
    ("include: {team: models/team.yaml}\nnodes: {x: {merge_method: passthrough, models: "
     "[{model: team.dara}]}}", "hint: did you mean 'team.dare'?"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), MISTAKES, ids=[text for text, _ in MISTAKES])
def test_mistakes(text: str, expected: str, scratch: Scratch) -> None:
    kit.write_recipe(scratch.root / "models/broken.yaml", TEAM.replace("dare_ties", "dare_tis"))
    kit.write_recipe(
        scratch.root / "models/ring.yaml", "mergebuild: 1\ninclude: {b: ./rung.yaml}\n"
    )
    kit.write_recipe(
        scratch.root / "models/rung.yaml", "mergebuild: 1\ninclude: {c: ./ring.yaml}\n"
    )
    scratch.write(f"mergebuild: 1\n{text}\n")
    with pytest.raises(MergebuildError) as caught:
        mb.load(scratch.root / "recipe.yaml", cache=scratch.root / "cache")
    assert expected in str(caught.value)
    assert caught.value.exit_code == 2
    assert all(problem.at is not None for problem in caught.value.problems)


def test_limits(scratch: Scratch) -> None:
    for depth in range(12):
        text = f"mergebuild: 1\ninclude: {{a: ./{depth + 1}.yaml}}\n"
        kit.write_recipe(scratch.root / f"{depth}.yaml", text)
    with pytest.raises(RecipeError, match="nested more than 8 deep"):
        mb.load(scratch.root / "0.yaml")
    many = "".join(f"  n{i}: models/team.yaml\n" for i in range(65))
    scratch.write(f"mergebuild: 1\ninclude:\n{many}outputs: [n0.dare]\n")
    with pytest.raises(RecipeError, match="more than 64 recipes are included"):
        scratch.plan()


def test_overrides_that_fit_nothing(scratch: Scratch) -> None:
    path = scratch.root / "recipe.yaml"
    for name in ("team.dens", "tea.x", "density"):
        with pytest.raises(UsageError, match=f"--set {name}=1: the recipe has no variable"):
            mb.load(path, variables={name: "1"})
    for name in ("team.mth", "math"):
        with pytest.raises(UsageError, match=f"--source {name}=1: the recipe has no such source"):
            mb.load(path, sources={name: "1"})


@pytest.fixture
def team(tmp_path: Path) -> Path:
    """A repository with the recipe of a team, whose sources are models on the Hub."""
    text = TEAM.replace("./base", "org/base").replace("./math", "org/math")
    commit(tmp_path / "git/team", recipe_yaml=text.replace("./nowhere", "org/x"))
    return tmp_path / "git/team"


GIVEN = "sources: {base: ./models/base, math: ./models/math}"


def test_git(scratch: Scratch, team: Path) -> None:
    first = git(team, "rev-parse", "HEAD")
    for hook in ("post-checkout", "post-merge", "reference-transaction", "pre-auto-gc"):
        (team / ".git/hooks" / hook).write_text(f"#!/bin/sh\ntouch {team.parent}/ran\n")
        (team / ".git/hooks" / hook).chmod(0o755)
    url = f"git+file://{team}"
    scratch.write(ONE % f'{{recipe: "{url}@main#recipe.yaml", {GIVEN}}}')
    before = scratch.plan()
    assert write(scratch.root) != []
    locked = said(scratch.root)["includes"]["team"]
    assert (locked["commit"], locked["recipe"]) == (first, f"{url}@main#recipe.yaml")
    commit(team, recipe_yaml=(team / "recipe.yaml").read_text().replace("0.5", "0.75"))
    (team.parent / "ran").unlink()  # by that commit
    team.rename(team.with_name("gone"))  # neither the branch nor the commit is asked for
    for more in ({}, {"locked": True}, {"settings": mb.Settings(offline=True)}):
        assert key(scratch.plan(**more), "team.dare") == key(before, "team.dare")
    team.with_name("gone").rename(team)
    drifts = write(scratch.root, update=["team"])
    assert any("include 'team': its commit: expected" in drift for drift in drifts)
    assert key(scratch.plan(locked=True), "team.dare") != key(before, "team.dare")
    assert not (team.parent / "ran").exists()
    # A commit that no branch has any more, by its whole hash.
    scratch.write(ONE % f'{{recipe: "{url}@{first}#recipe.yaml", {GIVEN}}}')
    (scratch.root / "recipe.yaml.lock").unlink()
    assert key(scratch.plan(), "team.dare") == key(before, "team.dare")


def test_git_over_http(scratch: Scratch, team: Path) -> None:
    nested = "mergebuild: 1\ninclude: {in: ../recipe.yaml}\n" "nodes:\n  copy:\n" \
        "    merge_method: passthrough\n    models: [{model: in.dare}]\n"  # fmt: skip
    commit(team, sub__other_yaml=nested)
    with serving(team.parent) as (url, asked):
        reference = f'"git+{url}/team@main#sub/other.yaml"'
        scratch.write(
            f"mergebuild: 1\ninclude: {{t: {reference}}}\noutputs: {{t.copy: build/copy}}\n"
        )
        scratch.sources = {f"t.in.{n}": str(scratch.root / "models" / n) for n in ("base", "math")}
        found = mb.load(
            scratch.root / "recipe.yaml", sources=scratch.sources, cache=scratch.root / "cache"
        )
        assert list(found.nodes) == ["t.in.dare", "t.in.unused", "t.copy"]
        assert asked
        lock = [one.recipe.reference for one in found.included]
        assert lock[0] == f"git+{url}/team@main#sub/other.yaml"
        assert lock[1].startswith(f"git+{url}/team@")
        assert lock[1].endswith("#recipe.yaml")


REMOTE = [
    # what stands in the recipe from elsewhere, what is said
    ("models: [{model: /etc/model}]", "cannot name the local path '/etc/model'"),
    ("models: [{model: ./model}]", "cannot name the local path './model'"),
    ("models: [{model: ~/model}]", "cannot name the local path '~/model'"),
    ("models: [{model: 'org/x+../lora'}]", "cannot name the local path '../lora'"),
]


@pytest.mark.parametrize(("models_", "expected"), REMOTE)
def test_what_a_recipe_from_elsewhere_cannot_name(
    models_: str, expected: str, scratch: Scratch, tmp_path: Path
) -> None:
    text = f"mergebuild: 1\nnodes:\n  dare:\n    merge_method: passthrough\n    {models_}\n"
    commit(tmp_path / "r", r_yaml=text)
    scratch.write(ONE % f'"git+file://{tmp_path}/r@main#r.yaml"')
    with pytest.raises(RecipeError) as caught:
        scratch.plan()
    assert expected in str(caught.value)
    assert "#r.yaml:5:" in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("../x.yaml", "'../x.yaml' leads out of its repository"),
        ("git+file:///x@main#y", "which is on this machine"),
        ("git+http://127.0.0.1/x@main#y", "which is on this machine"),
    ],
)
def test_what_a_recipe_from_elsewhere_cannot_include(
    reference: str, expected: str, scratch: Scratch, tmp_path: Path
) -> None:
    commit(tmp_path / "r", r_yaml=f"mergebuild: 1\ninclude: {{x: '{reference}'}}\n")
    scratch.write(ONE % f'"git+file://{tmp_path}/r@main#r.yaml"')
    with pytest.raises(RecipeError) as caught:
        scratch.plan()
    assert expected in str(caught.value)
    assert "#r.yaml:2:14" in str(caught.value)


UNREACHABLE = [
    ("main#nosuch.yaml", "has no 'nosuch.yaml' at "),
    ("nosuch#recipe.yaml", "has no branch or tag 'nosuch'"),
    (f"{'1' * 40}#recipe.yaml", f"has no commit {'1' * 40}"),
]


@pytest.mark.parametrize(("rest", "expected"), UNREACHABLE)
def test_what_git_does_not_have(rest: str, expected: str, scratch: Scratch, team: Path) -> None:
    scratch.write(ONE % f'"git+file://{team}@{rest}"')
    with pytest.raises(RecipeError) as caught:
        scratch.plan()
    assert expected in str(caught.value)
    assert "recipe.yaml:2:17" in str(caught.value)
    assert not list((scratch.root / "cache/git").glob("*.tmp"))


def test_git_offline(scratch: Scratch, team: Path) -> None:
    for rest in ("main", git(team, "rev-parse", "HEAD")):
        scratch.write(ONE % f'{{recipe: "git+file://{team}@{rest}#recipe.yaml", {GIVEN}}}')
        with pytest.raises(RecipeError, match=r"offline|no request"):
            mb.plan(
                scratch.root / "recipe.yaml",
                cache=scratch.root / "cache",
                settings=mb.Settings(offline=True),
            )


def test_a_lock_pins_what_is_included(scratch: Scratch) -> None:
    write(scratch.root)
    assert said(scratch.root)["includes"]["team"].keys() == {"recipe", "sha256"}
    assert set(said(scratch.root)["nodes"]) == {"team.dare", "other.dare", "sum"}
    assert set(said(scratch.root)["sources"]) == {f"./models/{n}" for n in ("base", "math", "chat")}
    scratch.plan(locked=True)
    path = scratch.root / "models/team.yaml"
    path.write_text(path.read_text() + "# a comment\n")
    with pytest.raises(DriftError, match="include 'team': the SHA-256 of its text: expected"):
        scratch.plan(locked=True)
    write(scratch.root)
    one = (scratch.root / "recipe.yaml.lock").read_bytes()
    moved = scratch.root.parent / "moved/elsewhere"
    shutil.copytree(scratch.root, moved)
    (moved / "recipe.yaml.lock").unlink()
    write(moved)
    assert (moved / "recipe.yaml.lock").read_bytes() == one

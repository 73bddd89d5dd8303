"""The site file: where it is found, what it changes, what wins over it, and its mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mergebuild.errors import RecipeError
from mergebuild.site import Defaults, Remote, Site, load_site
from tests import kit

RECIPE = """\
mergebuild: 1
sources: {base: org/base, chat: "org/chat@main"}
nodes:
  out:
    merge_method: linear
    models: [{model: base, parameters: {weight: 1}}, {model: chat, parameters: {weight: 1}}]
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a configuration folder, and nothing in it."""
    home = tmp_path / "home"
    (home / ".config/mergebuild").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return home


def site(folder: Path, text: str) -> Path:
    return kit.write_recipe(folder / "mergebuild.yaml", text)


def test_nothing_is_there(home: Path, tmp_path: Path) -> None:
    assert load_site(tmp_path) == Site()


def test_everything(home: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "models/base").mkdir(parents=True)
    file = site(
        project,
        "cache: ../cache\n"
        "sources:\n"
        "  org/base: models/base\n"
        "  chat: ~/chat\n"
        "  org/other: mirror/other@v2\n"
        "  third: ./third\n"
        "remotes:\n"
        "  - {name: team, url: 's3://bucket/x', require_signatures: true, push: true}\n"
        "  - {name: share, url: ../share}\n"
        "defaults: {jobs: 3, chunk: 4, shard_size: 2GB}\n",
    )
    assert load_site(project) == Site(
        cache=tmp_path / "cache",
        sources={
            "org/base": str(project / "models/base"),
            "chat": str(home / "chat"),
            "org/other": "mirror/other@v2",
            "third": str(project / "third"),
        },
        remotes=(
            Remote("team", "s3://bucket/x", True, True),
            Remote("share", str(tmp_path / "share")),
        ),
        defaults=Defaults(3, 4, 2_000_000_000),
        files=(file,),
    )


def test_the_project_says_more_than_the_user(home: Path, tmp_path: Path) -> None:
    site(
        home / ".config/mergebuild",
        "cache: /user\nsources: {a: /user/a, b: /user/b}\ndefaults: {jobs: 2, chunk: 1}\n"
        "remotes:\n  - {name: one, url: /user/one, push: true}\n  - {name: two, url: /two}\n",
    )
    site(
        tmp_path,
        "cache: /project\nsources: {b: /project/b}\ndefaults: {jobs: 4}\n"
        "remotes:\n  - {name: three, url: /three}\n  - {name: one, url: /project/one}\n",
    )
    found = load_site(tmp_path)
    assert found.cache == Path("/project")
    assert found.sources == {"a": "/user/a", "b": "/project/b"}
    assert [(r.name, r.url, r.push) for r in found.remotes] == [
        ("three", "/three", False),
        ("one", "/project/one", False),
        ("two", "/two", False),
    ]
    assert found.defaults == Defaults(jobs=4, chunk=1)


@pytest.mark.parametrize("same", ["{name: team, url: /elsewhere}", "{name: other, url: /signed}"])
def test_a_project_cannot_do_without_signatures_that_the_user_demands(
    same: str, home: Path, tmp_path: Path
) -> None:
    demand = "remotes: [{name: team, url: /signed, require_signatures: true}]\n"
    site(home / ".config/mergebuild", demand)
    site(tmp_path, f"remotes: [{same}]\n")
    assert load_site(tmp_path).remotes[0].require_signatures


def test_where_it_is_looked_for(home: Path, tmp_path: Path) -> None:
    below = home / "work/deep"
    below.mkdir(parents=True)
    site(home, "cache: /home")
    site(tmp_path, "cache: /above")
    assert load_site(below).cache == Path("/home")
    (home / "work/.git").mkdir()
    assert load_site(below).cache is None
    site(home / "work", "cache: /work")
    assert load_site(below).cache == Path("/work")
    site(below, "cache: /deep")
    assert load_site(below).cache == Path("/deep")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert load_site(elsewhere).cache is None


def test_the_variable_says_where_the_users_is(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    site(home / ".config/mergebuild", "cache: /home")
    site(tmp_path / "config/mergebuild", "cache: /variable")
    assert load_site(tmp_path).cache == Path("/variable")


MISTAKES = [
    # text, what is said
    ("cahe: x", "2:1: unknown key 'cahe' in the site file\n\nhint: did you mean 'cache'?"),
    ("mergebuild: 1", "'mergebuild.yaml' is the site file; give a recipe another name"),
    ("- x", "2:1: the site file must be a mapping, not a list"),
    ("cache: [x]", "2:8: 'cache' must be text, not a list"),
    ("cache: x\ncache: y", "3:1: duplicate key 'cache'"),
    ("cache: x\n---\ncache: y", "4:1: a site file is a single document"),
    ("cache: ~nobodyofthatname/x", "2:8: '~nobodyofthatname/x' is not a path that can be found"),
    ("sources: {a: }", "2:11: source 'a' has no place"),
    ("sources: {a: {path: x}}", "2:14: the place of source 'a' must be text, not a mapping"),
    ("remotes: {name: a}", "2:10: 'remotes' must be a list, not a mapping"),
    ("remotes: [{url: /x}]", "2:11: a remote has no 'name'"),
    ("remotes: [{name: a}]", "2:11: a remote has no 'url'"),
    ("remotes: [{name: ../a, url: /x}]", "2:18: '../a' is not a name for a remote"),
    ("remotes: [{name: a, url: /x}, {name: a, url: /y}]", "2:38: two remotes are named 'a'"),
    ("remotes: [{name: a, url: /x, push: 1}]", "2:36: 'push' must be true or false"),
    ("remotes: [{name: a, url: /x, pish: true}]", "hint: did you mean 'push'?"),
    ("defaults: {jobs: 0}", "2:18: 'jobs' must be at least 1, not 0"),
    ("defaults: {shard_size: big}", "2:24: 'shard_size' must be a size, not the text 'big'"),
    ("defaults: {threads: 2}", "2:12: unknown key 'threads' in 'defaults'"),
    ("cache: !!python/name:os.system x", "is not allowed"),
    ("cache: @x", "2:8: not valid YAML"),
]


@pytest.mark.parametrize(("text", "said"), MISTAKES)
def test_mistakes(text: str, said: str, home: Path, tmp_path: Path) -> None:
    file = site(tmp_path, "# a comment\n" + text)
    with pytest.raises(RecipeError) as caught:
        load_site(tmp_path)
    assert said in str(caught.value)
    assert caught.value.problems[0].at is not None
    assert caught.value.problems[0].at.file == str(file)


def test_mistakes_of_both_files_are_told_together(home: Path, tmp_path: Path) -> None:
    site(home / ".config/mergebuild", "cahe: x")
    site(tmp_path, "sorces: {}")
    with pytest.raises(RecipeError) as caught:
        load_site(tmp_path)
    assert len(caught.value.problems) == 2


def test_a_build_by_the_site_alone(home: Path, tmp_path: Path) -> None:
    """The recipe names models of the Hub; the site says where they are, and all else."""
    project, data = tmp_path / "project", tmp_path / "data"
    kit.llama(data / "base", layers=1)
    kit.llama(data / "chat", layers=1, near=data / "base", seed=1)
    kit.write_recipe(project / "recipe.yaml", RECIPE)
    site(
        project,
        f"cache: {tmp_path}/cache\nsources: {{base: ../data/base, org/chat: {data}/chat, x: /x}}\n"
        "defaults: {shard_size: 10kB}\n",
    )
    done = kit.run("build", "recipe.yaml", cwd=project)
    assert done.code == 0, done.stderr
    assert not (project / "cache").exists()
    assert len(list((tmp_path / "cache/checkpoints").iterdir())) == 1
    assert len(list((project / "build/out").glob("*.safetensors"))) > 1
    card = (project / "build/out/README.md").read_text()
    assert "`org/chat`" in card
    assert "`org/base`" in card
    manifest = (project / "build/out/mergebuild.json").read_text()
    assert str(data) not in manifest + card


def test_the_command_line_and_the_environment_win(home: Path, tmp_path: Path) -> None:
    kit.llama(tmp_path / "one", layers=1)
    kit.llama(tmp_path / "two", layers=1, near=tmp_path / "one", seed=1)
    kit.write_recipe(tmp_path / "recipe.yaml", RECIPE)
    site(
        tmp_path,
        "cache: ./site\nsources: {base: ./nowhere, org/chat: ./two}\ndefaults: {shard_size: 9kB}\n",
    )
    more = ["--source", "base=one", "--shard-size", "5GB"]
    env = {"MERGEBUILD_CACHE": "environment"}
    assert kit.run("build", "recipe.yaml", *more, cwd=tmp_path, env=env).code == 0
    assert (tmp_path / "environment").exists()
    assert len(list((tmp_path / "build/out").glob("*.safetensors"))) == 1
    more += ["--cache", "line", "--out", "other"]
    assert kit.run("build", "recipe.yaml", *more, cwd=tmp_path, env=env).code == 0
    assert len(list((tmp_path / "line/checkpoints").iterdir())) == 1
    assert not (tmp_path / "site").exists()
    refused = kit.run("plan", "recipe.yaml", cwd=tmp_path)
    assert (refused.code, "source 'base': there is no" in refused.stderr) == (2, True)


def test_a_mistake_stops_every_command(home: Path, tmp_path: Path) -> None:
    kit.write_recipe(tmp_path / "recipe.yaml", RECIPE)
    site(tmp_path, "cahe: x")
    for command in (["plan", "recipe.yaml"], ["cache", "ls"]):
        done = kit.run(*command, cwd=tmp_path)
        assert (done.code, done.stdout) == (2, "")
        assert "mergebuild.yaml:1:1: unknown key 'cahe'" in done.stderr

"""Who may say that a key has a content: signatures, keys, and claims that contradict themselves."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mergebuild as mb
from mergebuild.cache.manifest import checkpoint_digest
from mergebuild.remote.claim import read_claim
from mergebuild.remote.keyring import make_key, own_signer, trust, trusted_keys
from mergebuild.remote.signature import Signer, new_signer, read_public
from mergebuild.site import Remote
from tests import kit
from tests.teams import Team, another, first_team


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Team:
    return first_team(tmp_path_factory.mktemp("trust") / "one")


@pytest.fixture
def one(built: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Team:
    """The first team, with a remote that wants signatures; the working directory is a project."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return Team(built.root, [Remote("share", str(tmp_path / "share"), require_signatures=True)])


@pytest.fixture
def signer() -> Signer:
    return new_signer("ci")


def claim_file(team: Team) -> Path:
    return Path(team.remotes[0].url) / "checkpoints" / f"{team.keys()['blend']}.json"


def test_what_a_trusted_key_signed_is_used(one: Team, signer: Signer, tmp_path: Path) -> None:
    one.push(signer=signer)
    trust(signer.public, Path("mergebuild.keys"))
    two = another(one, tmp_path / "two", *one.remotes)
    assert set(two.build()) == {"fetched"}
    assert two.warnings() == []
    three = another(one, tmp_path / "three", *one.remotes)
    assert three.pull(one.keys()["blend"]).how == "done"


def _unsigned(team: Team, signer: Signer) -> None:
    team.push()


def _by_another(team: Team, signer: Signer) -> None:
    team.push(signer=new_signer("ci"))


def _edited(change: Callable[[dict[str, Any]], None]) -> Callable[[Team, Signer], None]:
    def edit(team: Team, signer: Signer) -> None:
        team.push(signer=signer)
        document = json.loads(claim_file(team).read_text())
        change(document)
        claim_file(team).write_text(json.dumps(document))

    return edit


def _of_another_checkpoint(team: Team, signer: Signer) -> None:
    team.push(signer=signer)
    other = claim_file(team).with_name(f"{team.keys()['sum']}.json")
    document = json.loads(claim_file(team).read_text())
    document["signatures"] = json.loads(other.read_text())["signatures"]
    claim_file(team).write_text(json.dumps(document))


def _under_another_key(team: Team, signer: Signer) -> None:
    team.push(signer=signer)
    other = claim_file(team).with_name(f"{team.keys()['sum']}.json")
    shutil.copy(other, claim_file(team))


def _digest(document: dict[str, Any]) -> None:
    rows = document["claim"]["tensors"]
    first, second = sorted(rows)[:2]
    rows[first][7] = rows[second][7]


def _signature(document: dict[str, Any]) -> None:
    for key, said in document["signatures"].items():
        document["signatures"][key] = ("A" if said[0] != "A" else "B") + said[1:]


def _noise(document: dict[str, Any]) -> None:
    document["signatures"] = dict.fromkeys(document["signatures"], "no base64 at all")


def _manifest(document: dict[str, Any]) -> None:
    document["claim"]["manifest"][1] = "0" * 64


def _node(document: dict[str, Any]) -> None:
    document["claim"]["node"] = "another"


REFUSED: dict[str, tuple[Callable[[Team, Signer], None], str]] = {
    "unsigned": (_unsigned, "is signed by no one"),
    "signed by another": (_by_another, "signed only by keys that are not trusted"),
    "another digest": (_edited(_digest), "the signature of 'ci' on checkpoint"),
    "another manifest": (_edited(_manifest), "the signature of 'ci' on checkpoint"),
    "another name": (_edited(_node), "the signature of 'ci' on checkpoint"),
    "another signature": (_edited(_signature), "the signature of 'ci' on checkpoint"),
    "noise": (_edited(_noise), "the signature of 'ci' on checkpoint"),
    "another's signature": (_of_another_checkpoint, "the signature of 'ci' on checkpoint"),
    "another's claim": (_under_another_key, "is about"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_rightly_signed_is_not_there(
    one: Team, signer: Signer, tmp_path: Path, case: str
) -> None:
    prepare, message = REFUSED[case]
    trust(signer.public, Path("mergebuild.keys"))
    prepare(one, signer)
    two = another(one, tmp_path / "two", *one.remotes)
    plan = two.plan()
    assert not any(
        t.checkpoint == plan.nodes["blend"].key for t in plan.nodes["blend"].fetch.values()
    )
    assert any(message in text for text in two.warnings()), two.warnings()
    assert two.pull(one.keys()["blend"]).how == "failed"
    two.build()
    assert two.weights() == one.weights()


def test_no_trusted_key_is_said(one: Team, signer: Signer, tmp_path: Path) -> None:
    one.push(signer=signer)
    two = another(one, tmp_path / "two", *one.remotes)
    assert "computed" in two.build()
    assert any("no key is trusted" in text for text in two.warnings())


def test_a_wrong_signature_counts_also_where_none_is_asked_for(
    one: Team, signer: Signer, tmp_path: Path
) -> None:
    trust(signer.public, Path("mergebuild.keys"))
    _edited(_digest)(one, signer)
    lax = Remote("share", one.remotes[0].url)
    two = another(one, tmp_path / "two", lax)
    assert not two.plan().nodes["blend"].fetch
    assert any("is wrong" in text for text in two.warnings())


def test_who_signs_what_another_pushed_unsigned(one: Team, signer: Signer, tmp_path: Path) -> None:
    """The common claim is not replaced; the signer's stands beside it, and the content is there
    once."""
    one.push()
    before = claim_file(one).read_bytes()
    outcomes = one.push(signer=signer)
    assert [(o.how, o.files) for o in outcomes] == [("done", 0)] * 3
    assert claim_file(one).read_bytes() == before
    trust(signer.public, Path("mergebuild.keys"))
    two = another(one, tmp_path / "two", *one.remotes)
    assert set(two.build()) == {"fetched"}
    assert [o.how for o in one.push(signer=signer)] == ["already there"] * 3


def test_a_false_claim_that_came_first_stops_nobody(
    one: Team, signer: Signer, tmp_path: Path
) -> None:
    """Another content under the key, by someone who may write there: it stays, is told of, and is
    not used; the one that is signed is."""
    trust(signer.public, Path("mergebuild.keys"))
    one.push()
    document = json.loads(claim_file(one).read_text())
    _digest(document)
    claim_file(one).write_text(json.dumps(document))
    assert one.push("blend")[0].how == "failed"
    assert any("another content" in text for text in one.warnings())
    assert one.push("blend", signer=signer)[0].how == "done"
    two = another(one, tmp_path / "two", *one.remotes)
    assert set(two.build()) == {"fetched"}
    assert two.weights() == one.weights()


def test_claims_that_contradict_themselves(one: Team) -> None:
    """Each is refused before anything is downloaded, whoever signed it."""
    one.push()
    key = one.keys()["blend"]
    sound = claim_file(one).read_text()
    read_claim(sound.encode(), key)
    assert MALFORMED
    for name, change in MALFORMED.items():
        document = json.loads(sound)
        changed = change(document)
        document = document if changed is None else changed
        about = key
        if name.startswith("path "):
            _rekey(document["claim"])
            about = document["claim"]["key"]
        try:
            read_claim(json.dumps(document).encode(), about)
        except ValueError:
            continue
        raise AssertionError(f"{name}: believed")


def _rekey(claim: dict[str, Any]) -> None:
    """Make the key follow from what is listed, as someone would who knows how."""
    files = {name: row[2] for name, row in claim["files"].items()}
    claim["key"] = checkpoint_digest({n: row[0] for n, row in claim["tensors"].items()}, files)


def _file(name: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        files = document["claim"]["files"]
        files[name] = files.pop("tokenizer.json")

    return change


def _row(index: int, value: object) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["claim"]["tensors"]["model.norm.weight"][index] = value

    return change


def _claim(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["claim"][name] = value

    return change


def _whole(value: object) -> Callable[[dict[str, Any]], Any]:
    return lambda document: value


def _shard_size(document: dict[str, Any]) -> None:
    document["claim"]["shards"]["model.safetensors"][0] += 8


def _extra_tensor(document: dict[str, Any]) -> None:
    tensors = document["claim"]["tensors"]
    tensors["extra"] = tensors["model.norm.weight"]


MALFORMED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": _whole([]),
    "nothing": _whole({}),
    "another schema": lambda d: {**d, "mergebuild": 2},
    "no claim": lambda d: {**d, "claim": None},
    "no signatures": lambda d: {**d, "signatures": []},
    "another key": _claim("key", "0" * 32),
    "no tensors": _claim("tensors", {}),
    "tensors of another kind": _claim("tensors", [1]),
    "no shards": _claim("shards", {}),
    "manifest too large": _claim("manifest", [1 << 40, "0" * 64]),
    "manifest without digest": _claim("manifest", [10, "0"]),
    "tensor key": _row(0, "0" * 32),
    "tensor key that is a number": _row(0, 1),
    "dtype": _row(1, "int7"),
    "shape": _row(2, [17]),
    "negative shape": _row(2, [-16]),
    "deep shape": _row(2, [1] * 1000),
    "truth for a count": _row(2, [True]),
    "another shard": _row(3, "other.safetensors"),
    "offset": _row(4, 0),
    "negative offset": _row(4, -8),
    "huge offset": _row(4, 1 << 62),
    "size": _row(5, 1),
    "size that is a fraction": _row(5, 64.0),
    "digest": _row(7, "x" * 64),
    "shard size": _shard_size,
    "an extra tensor": _extra_tensor,
    "path up": _file("../tokenizer.json"),
    "path inside and up": _file("a/../../x"),
    "path absolute": _file("/etc/x"),
    "path empty": _file(""),
    "path hidden": _file(".git/config"),
    "path of the manifest": _file("mergebuild.json"),
    "path of the card": _file("readme.md"),
    "path of the weights": _file("model.safetensors"),
    "path of a folder that is a file": _file("config.json/x"),
    "path with a zero": _file("a\0b"),
    "path with a line": _file("a\nb"),
    "path with a backslash": _file("..\\x"),
    "path too long": _file("x" * 300),
    "path of an index without shards": _file("model.safetensors.index.json"),
}


KEYS = "mergebuild-ed25519 {} ci"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "not of the form"),
        ("ssh-ed25519 AAAA ci", "not of the form"),
        (KEYS.format("AAAA"), "3 bytes instead of 32"),
        (KEYS.format("!!!!"), "not base64"),
        (KEYS.format("A" * 43 + "=") + "/../x", "cannot be a key's name"),
    ],
)
def test_public_keys_that_are_none(line: str, message: str) -> None:
    with pytest.raises(mb.UsageError, match=message):
        read_public(line, "here")


def test_private_keys(one: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_signer() is None
    path, public = make_key("me")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    found = own_signer()
    assert found is not None
    assert found.public == public
    with pytest.raises(mb.UsageError, match="there is a key"):
        make_key("me")
    make_key("other")
    with pytest.raises(mb.UsageError, match="2 private keys"):
        own_signer()
    monkeypatch.setenv("MERGEBUILD_KEY", str(path))
    found = own_signer()
    assert found is not None
    assert found.public == public
    os.chmod(path, 0o640)
    with pytest.raises(mb.UsageError, match="can be read by others"):
        own_signer()
    monkeypatch.setenv("MERGEBUILD_KEY", path.read_text())
    found = own_signer()
    assert found is not None
    assert found.public.raw == public.raw
    monkeypatch.setenv(
        "MERGEBUILD_KEY", "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----"
    )
    with pytest.raises(mb.UsageError, match="no private key that can be used"):
        own_signer()


def test_trusted_keys(one: Team, tmp_path: Path) -> None:
    first, second = new_signer("ci").public, new_signer("ci").public
    file = Path("mergebuild.keys")
    file.write_text("# who may sign\n")
    assert trust(first, file)
    assert not trust(first, file)
    with pytest.raises(mb.UsageError, match="trusts another key called 'ci'"):
        trust(second, file)
    assert file.read_text() == f"# who may sign\n{first.line}\n"
    assert trust(second, tmp_path / "configuration/mergebuild/mergebuild.keys")
    assert set(trusted_keys()) == {first.text, second.text}
    file.write_text(f"{first.line}\nnonsense\n")
    with pytest.raises(mb.UsageError, match=r"mergebuild\.keys:2: not of the form"):
        trusted_keys()


def test_two_teams_by_the_command_alone(built: Team, tmp_path: Path) -> None:
    """Keys, site files, push, plan, build, pull, as people do it."""
    two = another(built, tmp_path / "two").root
    site = "remotes: [{name: team, url: ../share, require_signatures: true}]\n"
    mine = {"XDG_CONFIG_HOME": str(tmp_path / "first"), "MERGEBUILD_CACHE": str(built.cache.root)}
    theirs = {"XDG_CONFIG_HOME": str(tmp_path / "second")}
    one = tmp_path / "one"
    one.mkdir()
    for folder in (one, two):
        (folder / "mergebuild.yaml").write_text(site)
    public = kit.run("keys", "new", "ci", cwd=one, env=mine).stdout.strip()
    recipe = built.root / "recipe.yaml"
    pushed = kit.run("push", recipe, cwd=one, env=mine)
    assert pushed.code == 0, pushed.stderr
    assert "pushed 'blend'" in pushed.stderr
    before = kit.run("plan", "recipe.yaml", cwd=two, env=theirs)
    assert "no key is trusted" in before.stderr
    assert "fetch" not in before.stdout
    assert kit.run("keys", "trust", public, cwd=two, env=theirs).code == 0
    assert "trusted" in kit.run("keys", "list", cwd=two, env=theirs).stdout
    planned = kit.run("plan", "recipe.yaml", cwd=two, env=theirs)
    assert "fetches 30 tensors (27.6 kB) from team" in planned.stdout
    done = kit.run("build", "recipe.yaml", "--json", cwd=two, env=theirs)
    assert done.code == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["computed"], last["fetched"]) == (0, 30)
    pulled = kit.run("pull", "recipe.yaml", "sum", cwd=two, env=theirs)
    assert pulled.code == 0, pulled.stderr
    assert "pulled 'sum'" in pulled.stderr


RUNS = [
    # arguments, exit code, on stderr
    (["push", "recipe.yaml"], 2, "there is no remote to push to"),
    (["pull", "recipe.yaml"], 2, "there is no remote to pull from"),
    (["push", "nosuch.yaml", "--remote", "x"], 2, "is no recipe and no key"),
    (["push", "recipe.yaml", "--remote", "x", "--cache", "empty"], 2, "is not in the cache"),
    (["push", "0" * 32, "--remote", "x"], 1, "was not pushed"),
    (["pull", "0" * 32, "--remote", "x"], 1, "no remote has it whole"),
    (["pull", "0" * 32, "dare", "--remote", "x"], 2, "there is no node to choose"),
    (["build", "recipe.yaml", "--remote", "ftp://x", "--out", "o"], 2, "unknown kind 'ftp://'"),
    (["keys", "new", "a/b"], 2, "cannot be a key's name"),
    (["keys", "trust", "nosuch"], 2, "cannot read 'nosuch'"),
    (["keys", "trust", "x y z"], 2, "not of the form"),
]


@pytest.mark.parametrize("case", RUNS, ids=lambda case: " ".join(case[0]))
def test_run(built: Team, case: tuple[list[str], int, str]) -> None:
    arguments, code, message = case
    done = kit.run(*arguments, cwd=built.root)
    assert done.code == code, done
    assert message in done.stderr
    assert "Traceback" not in done.stderr

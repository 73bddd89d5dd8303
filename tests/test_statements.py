"""Provenance for outsiders, checked by the libraries of those who define it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from mergebuild.cache.manifest import read_manifest, to_text
from tests import kit
from tests.damage import rot

RECIPE = """\
mergebuild: 1
sources: {a: org/a, b: ./b}
vars: {w: 1}
nodes:
  out:
    merge_method: linear
    models: [{model: a, parameters: {weight: "${w}"}}, {model: b, parameters: {weight: 1}}]
"""
COMMIT = "0123456789" * 4


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("statements")
    cards = {
        "a": "license: apache-2.0\ndatasets: [org/set]",
        "b": "license: other\nlicense_name: x-1.0\nlicense_link: https://example.org/x",
    }
    for seed, (name, card) in enumerate(cards.items()):
        kit.llama(root / name, layers=1, seed=seed)
        (root / name / "README.md").write_text(f"---\n{card}\n---\n")
    kit.write_recipe(root / "recipe.yaml", RECIPE)
    done = kit.run("build", "recipe.yaml", "--source", "a=./a", "--set", "w=2", cwd=root)
    assert done.code == 0, done.stderr
    # As if it had come from the Hub, and with a LoRA.
    manifest = read_manifest(root / "build/out")
    assert manifest is not None
    leaf = manifest.provenance["leaves"][0]
    leaf |= {"commit": COMMIT, "lora": {"model": "org/lora"}}
    (root / "build/out/mergebuild.json").write_bytes(to_text(manifest))
    return root


def told(root: Path, form: str) -> dict[str, Any]:
    done = kit.run("provenance", "build/out", "--format", form, cwd=root)
    assert done.code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def hashes(root: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (root / "build/out").iterdir()
        if path.name not in ("README.md", "LICENSE.md")
    }


def test_slsa(built: Path) -> None:
    said = told(built, "slsa")
    # A statement's protobuf keeps the predicate as a structure, whose own protobuf is stricter.
    message = ParseDict({**said, "type": said.pop("_type")}, statement_pb2.Statement())
    Statement.copy_from_pb(message).validate()
    predicate = ParseDict(said["predicate"], provenance_pb2.Provenance())
    assert said["predicateType"] == "https://slsa.dev/provenance/v1"
    assert {s["name"]: s["digest"]["sha256"] for s in said["subject"]} == hashes(built)
    definition = said["predicate"]["buildDefinition"]
    recipe = definition["externalParameters"]["recipe"]
    assert (recipe["text"], recipe["variables"]) == (RECIPE, {"w": "2"})
    first, lora, second = definition["resolvedDependencies"]
    assert first["uri"] == f"pkg:huggingface/org/a@{COMMIT}"
    assert first["digest"]["gitCommit"] == COMMIT
    assert lora == {"name": "a: LoRA", "uri": "urn:mergebuild:source:a:%20LoRA"}
    assert second["annotations"]["license_name"] == "x-1.0"
    assert "uri" not in second
    assert predicate.run_details.metadata.finished_on.seconds > 1_700_000_000
    assert said["predicate"]["runDetails"]["builder"]["version"]["mergebuild"] == "0.1.0"


def test_cyclonedx(built: Path) -> None:
    said = told(built, "cyclonedx")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(said)) is None
    component = said["metadata"]["component"]
    files = {c["name"]: c["hashes"][0]["content"] for c in component["components"]}
    assert files == hashes(built)
    assert component["licenses"] == [
        {"license": {"id": "Apache-2.0"}},
        {"license": {"name": "x-1.0", "url": "https://example.org/x"}},
    ]
    data = component["modelCard"]["modelParameters"]["datasets"]
    assert [one["name"] for one in data] == ["org/set"]
    assert [part.get("purl") for part in said["components"]] == [
        f"pkg:huggingface/org/a@{COMMIT}", None, None,
    ]  # fmt: skip
    assert said["dependencies"][0]["dependsOn"] == ["source-0", "source-0-lora", "source-1"]
    assert said == told(built, "cyclonedx")


def test_as_recorded_and_what_is_no_output(built: Path) -> None:
    said = told(built, "json")
    assert said["leaves"][0]["datasets"] == ["org/set"]
    assert said["chain"][0]["models"][0] == {"model": "a", "parameters": {"weight": 2.0}}
    other = kit.run("provenance", "a", cwd=built)
    assert (other.code, "'a' was not built by mergebuild" in other.stderr) == (1, True)
    rot(built / "build/out/model.safetensors")
    damaged = kit.run("provenance", "build/out", "-f", "slsa", cwd=built)
    rot(built / "build/out/model.safetensors")
    assert (damaged.code, damaged.stdout) == (1, "")
    assert "'build/out' is not what was built: tensor" in damaged.stderr

"""Provenance of a built checkpoint as an in-toto statement with a SLSA v1 predicate.

https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md and https://slsa.dev/spec/v1.0
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

from mergebuild.share.recorded import leaves_of
from mergebuild.share.subjects import Subject

BUILD_TYPE: Final = "urn:mergebuild:build:v1"
"""externalParameters are the recipe as text, the variables set from outside, and the node."""
BUILDER: Final = "urn:mergebuild:local"
SOURCE: Final = "urn:mergebuild:source:"
CONTENT: Final = "mergebuildContentV1"
"""The digest of all tensors of a source, by which mergebuild knows it."""


def slsa_statement(subject: Subject) -> dict[str, Any]:
    """The statement, unsigned: whoever trusts the builder signs it."""
    manifest = subject.manifest
    said = manifest.provenance
    recipe = said.get("recipe", {})
    inside = {key: said[key] for key in ("chain", "device", "allow_nonfinite") if key in said}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": name, "digest": {"sha256": sha256}} for name, sha256 in subject.hashes.items()
        ],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"node": manifest.node, "recipe": recipe},
                "internalParameters": {"key": manifest.key, **inside},
                "resolvedDependencies": list(_dependencies(said)),
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": dict(manifest.versions)},
                "metadata": {"finishedOn": manifest.created},
            },
        },
    }


def _dependencies(provenance: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for leaf in leaves_of(provenance):
        about = {k: leaf[k] for k in ("license", "license_name", "license_link") if k in leaf}
        yield {
            **_part(leaf, leaf["name"]),
            **({"annotations": about} if about else {}),
        }
        if "lora" in leaf:
            yield _part(leaf["lora"], f"{leaf['name']}: LoRA")


def _part(part: Mapping[str, Any], name: str) -> dict[str, Any]:
    digest = {"gitCommit": part["commit"]} if "commit" in part else {}
    content = {CONTENT: part["content"]} if "content" in part else {}
    found = {"name": name, "digest": {**digest, **content}}
    if "commit" in part:
        found["uri"] = purl(part["model"], part["commit"])
    return found if found["digest"] else {"name": name, "uri": f"{SOURCE}{quote(name, safe=':')}"}


def purl(repo: str, commit: str) -> str:
    """The package URL of a model on the Hub."""
    return f"pkg:huggingface/{repo}@{commit}"

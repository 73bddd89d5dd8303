"""A built checkpoint as a CycloneDX 1.6 bill of materials for machine learning.

https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from mergebuild.share.recorded import leaves_of
from mergebuild.share.slsa import CONTENT, purl
from mergebuild.share.stated import OTHER
from mergebuild.share.subjects import Subject

_MODEL: Final = "machine-learning-model"
_SPDX: Final = {
    name.lower(): name
    for name in (
        *("AFL-3.0", "AGPL-3.0", "Apache-2.0", "Artistic-2.0", "BSD-2-Clause", "BSD-3-Clause"),
        *("BSD-3-Clause-Clear", "BSL-1.0", "CC-BY-2.0", "CC-BY-2.5", "CC-BY-3.0", "CC-BY-4.0"),
        *("CC-BY-NC-2.0", "CC-BY-NC-3.0", "CC-BY-NC-4.0", "CC-BY-NC-ND-3.0", "CC-BY-NC-ND-4.0"),
        *("CC-BY-NC-SA-2.0", "CC-BY-NC-SA-3.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-SA-3.0"),
        *("CC-BY-SA-4.0", "CC0-1.0", "CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "ECL-2.0"),
        *("EUPL-1.1", "GPL-2.0", "GPL-3.0", "ISC", "LGPL-2.1", "LGPL-3.0", "MIT", "MPL-2.0"),
        *("MS-PL", "NCSA", "ODbL-1.0", "OSL-3.0", "PostgreSQL", "Unlicense", "WTFPL", "Zlib"),
    )
}


def cyclonedx_bom(subject: Subject) -> dict[str, Any]:
    """The bill of materials of a checkpoint and of all that it was merged from."""
    manifest = subject.manifest
    leaves = leaves_of(manifest.provenance)
    parts = list(_parts(leaves))
    result = {
        "type": _MODEL,
        "bom-ref": manifest.key,
        "name": manifest.node,
        "version": manifest.key,
        "licenses": _every(licence for part in parts for licence in part.get("licenses", ())),
        "modelCard": _card(subject, leaves),
        "pedigree": {
            "ancestors": [{k: v for k, v in part.items() if k != "bom-ref"} for part in parts],
            "notes": json.dumps(manifest.provenance.get("chain", [])),
        },
        "components": [
            {"type": "file", "name": name, "hashes": [{"alg": "SHA-256", "content": sha256}]}
            for name, sha256 in subject.hashes.items()
        ],
    }
    tools = [
        {"type": "application", "name": name, "version": version}
        for name, version in sorted(manifest.versions.items())
    ]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_OID, f"mergebuild:{manifest.key}").urn,
        "version": 1,
        "metadata": {
            "timestamp": manifest.created,
            "tools": {"components": tools},
            "component": {key: value for key, value in result.items() if value},
        },
        "components": parts,
        "dependencies": [
            {"ref": manifest.key, "dependsOn": [part["bom-ref"] for part in parts]},
            *({"ref": part["bom-ref"]} for part in parts),
        ],
    }


def _parts(leaves: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, leaf in enumerate(leaves):
        yield _part(leaf, f"source-{number}", leaf["name"])
        if "lora" in leaf:
            yield _part(leaf["lora"], f"source-{number}-lora", f"{leaf['name']}: LoRA")


def _part(part: Mapping[str, Any], reference: str, name: str) -> dict[str, Any]:
    commit, content = part.get("commit"), part.get("content")
    licence = _licence(part)
    found = {
        "type": _MODEL,
        "bom-ref": reference,
        "name": part.get("model", name),
        "version": commit,
        "purl": purl(part["model"], commit) if commit is not None else None,
        "licenses": [licence] if licence is not None else None,
        "properties": [
            {"name": "mergebuild:name", "value": name},
            *([{"name": f"mergebuild:{CONTENT}", "value": content}] if content else []),
        ],
    }
    return {key: value for key, value in found.items() if value is not None}


def _licence(part: Mapping[str, Any]) -> dict[str, Any] | None:
    said = part.get("license")
    if said is None:
        return None
    if said in _SPDX:
        return {"license": {"id": _SPDX[said]}}
    link = {"url": part["license_link"]} if "license_link" in part else {}
    name = part.get("license_name", said) if said == OTHER else said
    return {"license": {"name": name, **link}}


def _card(subject: Subject, leaves: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    datasets = _every(name for leaf in leaves for name in leaf.get("datasets", ()))
    methods = _every(
        str(step.get("merge_method", step.get("kind", "merge")))
        for step in subject.manifest.provenance.get("chain", ())
        if isinstance(step, dict)
    )
    return {
        "modelParameters": {"datasets": [{"type": "dataset", "name": name} for name in datasets]},
        "properties": [{"name": "mergebuild:method", "value": method} for method in methods],
    }


def _every(items: Iterable[Any]) -> list[Any]:
    """Every item once, in the order of first use."""
    found: list[Any] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found

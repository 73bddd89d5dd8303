"""Commands that tell others of what was built: provenance."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mergebuild.cli.sinks import complain
from mergebuild.console.plain import plain_sink
from mergebuild.plan import Settings
from mergebuild.share.cyclonedx import cyclonedx_bom
from mergebuild.share.slsa import slsa_statement
from mergebuild.share.subjects import subject


class Statement(StrEnum):
    """How provenance is told."""

    JSON = "json"
    SLSA = "slsa"
    CYCLONEDX = "cyclonedx"


def provenance(
    folder: Annotated[Path, typer.Argument(metavar="OUTPUT_DIR", help="What was published.")],
    format_: Annotated[
        Statement,
        typer.Option(
            "--format", "-f", help="As recorded, as an in-toto statement, or as an ML-BOM."
        ),
    ] = Statement.JSON,
) -> None:
    """Tell what an output was made from, after reading it whole."""
    made = subject(folder, jobs=Settings().threads, sink=plain_sink(complain))
    if format_ is Statement.SLSA:
        told = slsa_statement(made)
    elif format_ is Statement.CYCLONEDX:
        told = cyclonedx_bom(made)
    else:
        told = {"key": made.manifest.key, "node": made.manifest.node, **made.manifest.provenance}
    typer.echo(json.dumps(told, indent=1))

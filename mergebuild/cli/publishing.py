"""Commands that tell others of what was built: publish, provenance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import mergebuild.api as api
from mergebuild.cli.options import (
    CacheFolder,
    Jobs,
    Json,
    Sources,
    Variables,
    pairs,
    source_places,
)
from mergebuild.cli.sinks import complain, event_sink
from mergebuild.console.checkpoints import publication_text
from mergebuild.console.plain import plain_sink
from mergebuild.errors import UsageError
from mergebuild.events import Sink
from mergebuild.plan import Settings
from mergebuild.publishing import node_publication, output_publication
from mergebuild.share.cyclonedx import cyclonedx_bom
from mergebuild.share.publication import Publication
from mergebuild.share.slsa import slsa_statement
from mergebuild.share.subjects import subject
from mergebuild.share.upload import check_repo, upload
from mergebuild.site import load_site


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


def publish(
    target: Annotated[
        Path, typer.Argument(metavar="RECIPE|OUTPUT_DIR", help="A recipe, or what it built.")
    ],
    node: Annotated[
        str | None, typer.Argument(help="A node of the recipe (default: its only output).")
    ] = None,
    to: Annotated[str, typer.Option("--to", metavar="ORG/NAME", help="Where on the Hub.")] = "",
    public: Annotated[
        bool, typer.Option("--public", help="Let everybody read it (default: private).")
    ] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="BRANCH", help="A branch (default: main).")
    ] = None,
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="What the commit says.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the files and the card; ask nobody.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace weights that mergebuild did not publish.")
    ] = False,
    set_: Variables = None,
    source: Sources = None,
    cache: CacheFolder = None,
    jobs: Jobs = None,
    json_: Json = False,
) -> None:
    """Upload what is fresh to the Hub, with its card, its recipe and its lock, as one commit."""
    if not to:
        raise UsageError.of("--to is missing", hint="say where: --to org/name")
    check_repo(to)
    if node is not None and target.is_dir():
        raise UsageError.of(f"'{target}' is an output: it has no node '{node}'")
    with ExitStack() as stack:
        sink = event_sink(stack, json_)
        if target.is_dir():
            settings = api.settings_of(jobs=jobs)
            made = output_publication(target, jobs=settings.threads, sink=sink)
        else:
            made = _of_recipe(target, node, set_, source, cache, jobs, sink)
        if not dry_run:
            done = upload(
                made,
                to,
                public=public,
                revision=revision,
                message=message,
                force=force,
                sink=sink,
            )
    place = to if revision is None else f"{to}@{revision}"
    if dry_run:
        access = "public" if public else "private"
        said = {"repo": to, "access": access, "files": made.sizes, "card": made.card}
        typer.echo(json.dumps(said) if json_ else publication_text(f"{place} ({access})", made))
    elif json_:
        typer.echo(json.dumps(asdict(done)))
    else:
        for name in done.removed:
            complain(f"removed '{name}', which an earlier publication left")
        typer.echo(f"{done.url} at commit {done.commit}")


def _of_recipe(
    recipe: Path,
    node: str | None,
    variables: Sequence[str] | None,
    sources: Sequence[str] | None,
    cache: Path | None,
    jobs: int | None,
    sink: Sink,
) -> Publication:
    site = load_site()
    plan = api.plan(
        recipe,
        variables=pairs("--set", variables),
        sources=source_places(sources),
        select=[node] if node is not None else (),
        cache=cache,
        settings=api.settings_of(site, jobs=jobs),
        site=site,
        sink=sink,
    )
    return node_publication(plan, node, sink=sink)

"""A build as a live view on a terminal: a row a node, with its progress, rate and time left."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mergebuild.console.plain import summary, waiting
from mergebuild.console.sharing import shared_text, transferring_text
from mergebuild.console.words import duration, listing, plural
from mergebuild.events import (
    BuildFinished,
    BuildStarted,
    Digested,
    Digesting,
    Event,
    Fetched,
    Fetching,
    Hashed,
    Hashing,
    NodeBuilt,
    NodeStarted,
    OutputPublished,
    Shared,
    TensorDone,
    Transferred,
    Transferring,
    Uploaded,
    Uploading,
    Verified,
    Verifying,
    Waiting,
    Warned,
)


class LiveView(AbstractContextManager["LiveView"]):
    """A sink that draws on stderr; restores the terminal when left."""

    def __init__(self, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self._console = console
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}", style="bold"),
            TextColumn("{task.fields[state]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[tensors]}"),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self._rows: dict[str, TaskID] = {}
        self._totals: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._digesting: TaskID | None = None
        self._published: list[str] = []

    def __enter__(self) -> LiveView:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        match event:
            case Digesting(source, count) | Hashing(source, count):
                self._digesting = self._progress.add_task(
                    f"source {source}", total=count, state="reading", tensors=""
                )
            case Digested(count) | Hashed(count):
                if self._digesting is not None:
                    self._progress.advance(self._digesting, count)
                    if self._progress.finished:
                        self._progress.update(self._digesting, state="[dim]read")
            case Fetching(repo, commit, files, count):
                self._digesting = self._progress.add_task(
                    f"{repo} at {commit[:8]}",
                    total=count,
                    state="fetching",
                    tensors=plural(files, "file"),
                )
            case Fetched(count):
                if self._digesting is not None:
                    self._progress.advance(self._digesting, count)
                    if self._progress.finished:
                        self._progress.update(self._digesting, state="[dim]fetched")
            case Uploading(repo, files, count):
                self._digesting = self._progress.add_task(
                    repo, total=count, state="uploading", tensors=plural(files, "file")
                )
            case Uploaded(count):
                if self._digesting is not None:
                    self._progress.advance(self._digesting, count)
                    if self._progress.finished:
                        self._progress.update(self._digesting, state="[green]uploaded")
            case Transferring():
                self._digesting = self._progress.add_task(
                    transferring_text(event).partition(": ")[0],
                    total=event.bytes,
                    state="",
                    tensors=plural(event.files, "file"),
                )
            case Transferred(count):
                if self._digesting is not None:
                    self._progress.advance(self._digesting, count)
            case Shared():
                if self._digesting is not None:
                    self._progress.update(self._digesting, state=f"[dim]{event.how}")
                line = shared_text(event)
                self._console.print(line, markup=False, highlight=False)
            case BuildStarted():
                self._begin(event)
            case NodeStarted(node):
                self._progress.start_task(self._rows[node])
                self._progress.update(self._rows[node], state="building")
            case TensorDone(node, _, _, count):
                self._done[node] += 1
                tensors = f"{self._done[node]}/{self._totals[node]} tensors"
                self._progress.update(self._rows[node], advance=count, tensors=tensors)
            case NodeBuilt(node, _, seconds):
                row = self._rows[node]
                total = self._progress.tasks[self._progress.task_ids.index(row)].total
                state = f"[green]built in {duration(seconds)}"
                self._progress.update(row, completed=total, state=state)
            case OutputPublished(node, path, how):
                self._published.append(f"published '{node}' to {path} ({how})")
            case Waiting(host, pid, count):
                self._console.print(waiting(host, pid, count), style="dim", highlight=False)
            case Verifying(name, count):
                self._digesting = self._progress.add_task(
                    name, total=count, state="verifying", tensors=""
                )
            case Verified(_, found):
                if self._digesting is not None:
                    state = f"[red]{plural(len(found), 'difference')}" if found else "[green]sound"
                    self._progress.update(self._digesting, state=state)
            case Warned(text):
                self._console.print(text, style="yellow", markup=False, highlight=False)
            case BuildFinished():
                self._end(event)

    def _begin(self, event: BuildStarted) -> None:
        if event.fresh:
            self._console.print(f"fresh: {listing(event.fresh)}", style="dim", highlight=False)
        for item in event.work:
            if item.node in self._rows:  # planned again
                self._progress.remove_task(self._rows[item.node])
            self._totals[item.node] = item.tensors
            self._done[item.node] = 0
            self._rows[item.node] = self._progress.add_task(
                item.node,
                total=item.bytes,
                start=False,
                state="[dim]waiting",
                tensors=f"0/{item.tensors} tensors",
            )

    def _end(self, event: BuildFinished) -> None:
        self._progress.stop()
        for line in (*self._published, *([summary(event)] if event.ok else [])):
            self._console.print(line, markup=False, highlight=False)

"""Carrying out a plan once: staging, running the schedule, publishing checkpoints and outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeAlias

from mergebuild.cache import Cache
from mergebuild.cache.journal import Finished
from mergebuild.cache.registry import register
from mergebuild.cache.staging import Staging
from mergebuild.checkpoint.header import TensorInfo
from mergebuild.engine.behind import Behind, available_memory
from mergebuild.engine.commit import commit
from mergebuild.engine.evaluate import check_linked, compute_tensor, copy_tensor, fetch_tensor
from mergebuild.engine.options import Options
from mergebuild.engine.outputs import publish_output
from mergebuild.engine.places import Places
from mergebuild.engine.resume import sound_tensors
from mergebuild.engine.ring import Landing
from mergebuild.engine.schedule import Schedule, Task, reads_of, schedule, work_of
from mergebuild.engine.tally import Tally
from mergebuild.engine.workers import Made, Workers
from mergebuild.events import BuildFinished, BuildStarted, How, OutputPublished, Sink, Warned, Work
from mergebuild.kernels import Kernels
from mergebuild.kernels.choose import CPU, kernels_of_run
from mergebuild.methods.declaration import Method
from mergebuild.plan import NodePlan, Plan, TrueKeys, settle
from mergebuild.plan.costs import fetched_bytes, tensor_bytes, written_bytes
from mergebuild.recipe import NodeRef
from mergebuild.remote.fetch import Downloads
from mergebuild.share.card import licence_warnings, papers

Announce: TypeAlias = Callable[[Plan], None]


def carry_out(
    plan: Plan,
    *,
    methods: Mapping[str, Method],
    run: str,
    options: Options,
    announce: Announce,
    sink: Sink,
) -> BuildFinished:
    """Bring every target of a plan up to date. `announce` is told of a plan with the keys that a
    provisional one comes to, before anything is published.

    Raises BuildError, CheckpointError or CapacityError when a node fails, what was finished until
    then being kept for the next build; Unsound or Missed when the cache or a remote is not what
    the plan relies on.
    """
    wanted = {name: node for name, node in plan.nodes.items() if node.wanted}
    tally = Tally(run, sink)
    tally.tell(announced(plan, run))
    error: str | None = "interrupted"
    try:
        if wanted:
            plan = Run(plan, plan.cache, methods, tally, options, announce).nodes(wanted)
        for name, node in plan.nodes.items():
            if node.output is not None and not node.output.fresh:
                for warning in licence_warnings(plan, name):
                    tally.tell(Warned(f"warning: output '{name}': {warning}"))
                told = papers(plan, name, methods)
                how = publish_output(plan, name, told, run, fresh=name in wanted)
                tally.published(str(node.output.path))
                tally.tell(OutputPublished(name, str(node.output.path), how))
        _register(plan)
        error = None
    except Exception as failure:
        error = str(failure)
        raise
    finally:
        finished = tally.summary(error)
        tally.tell(finished)
    return finished


def announced(plan: Plan, run: str) -> BuildStarted:
    """What a run of a plan is about to do."""
    wanted = {name: node for name, node in plan.nodes.items() if node.wanted}
    return BuildStarted(
        run,
        tuple(_work(name, node, plan) for name, node in wanted.items()),
        tuple(name for name in plan.nodes if name not in wanted),
    )


def _work(name: str, node: NodePlan, plan: Plan) -> Work:
    tensors = work_of(node)
    size = sum(tensor_bytes(node.outline.tensors[tensor]) for tensor in tensors)
    read, written = plan.costs.reads[name], written_bytes(node)
    return Work(name, len(tensors), size, read, written, fetched_bytes(node))


def _register(plan: Plan) -> None:
    register(
        plan.cache,
        plan.recipe.path,
        {name: node.key for name, node in plan.nodes.items() if node.stored},
        {name: node.output.path for name, node in plan.nodes.items() if node.output is not None},
    )


class Run:
    """The nodes of one build, from staging to publishing in the cache `into`."""

    def __init__(
        self,
        plan: Plan,
        into: Cache,
        methods: Mapping[str, Method],
        tally: Tally,
        options: Options,
        announce: Announce,
    ) -> None:
        self._plan = plan
        self._into = into
        self._methods = methods
        self._tally = tally
        self._options = options
        self._announce = announce
        self._places = Places(plan)
        self._keys = TrueKeys(plan, self._digest)
        self._downloads = Downloads()
        self._behind: Behind
        self._kernels: Kernels
        self._workers: Workers

    def nodes(self, wanted: Mapping[str, NodePlan]) -> Plan:
        """Build every wanted node; the plan, with the keys that a provisional one comes to."""
        try:
            todo = self._stage(wanted)
            self._tally.expect(todo, wanted)
            self._behind = Behind(self._plan, todo, self._places.files, available_memory())
            for name in wanted:
                if self._tally.empty(name):
                    self._complete(name)
            settings = self._plan.settings
            self._workers = Workers(todo, self._task, settings.threads, self._places.stop)
            with kernels_of_run(settings.device) as self._kernels:
                self._workers.run()
            if self._plan.provisional:
                self._settle(wanted)
        finally:
            self._downloads.close()
            self._places.close()
        return self._plan

    def _settle(self, wanted: Iterable[str]) -> None:
        """Publish what was built of contents that nobody knew before."""
        self._plan = settle(self._plan, self._methods, self._tally.tell)
        self._announce(self._plan)
        for name in wanted:
            self._publish(name)

    def _stage(self, wanted: Mapping[str, NodePlan]) -> Schedule:
        """Open the staging folders; what is there already needs no task."""
        done: set[Task] = set()
        for name, node in wanted.items():
            if not node.stored:
                continue
            key = node.key if not self._plan.provisional else None
            staging = Staging(self._into, key, name, node.shards, self._tally.run)
            self._places.staging[name] = staging
            staging.allocate(node.linked)
            for tensor, digest in sound_tensors(node, staging, self._plan.settings.threads):
                self._note(name, tensor, "resumed", digest)
                done.add((name, tensor))
        return schedule(self._plan, done)

    def _task(self, task: Task) -> Made:
        self._tally.start(task[0])
        how, digest, landing = self._make(task)
        self._release(task)
        return landing, partial(self._finish, task, how, digest)

    def _finish(self, task: Task, how: How, digest: str) -> None:
        """A tensor is where it belongs."""
        name, tensor = task
        node = self._plan.nodes[name]
        if node.stored:
            finished = Finished(digest, self._keys.key(node, tensor))
            self._places.staging[name].finish(tensor, finished)
        self._note(name, tensor, how, digest)
        if self._tally.last(name):
            self._complete(name)

    def _complete(self, name: str) -> None:
        """All tensors of a node are there."""
        if not self._plan.provisional:
            self._publish(name)

    def _make(self, task: Task) -> tuple[How, str, Landing]:
        name, tensor = task
        node = self._plan.nodes[name]
        shard = self._places.shard(node, tensor)
        if shard in node.linked:
            source = node.linked[shard].parent.name
            return "linked", check_linked(node, tensor, self._places, source), Landing()
        writer = self._places.writer(node, tensor, read_again=self._tally.read_again(task))
        if tensor in node.reuse:
            digest = copy_tensor(node, tensor, self._places, writer, self._keys)
            return "copied", digest, writer.landing
        if tensor in node.fetch:
            remotes, downloads = self._plan.remotes, self._downloads
            digest = fetch_tensor(node, tensor, writer, remotes, downloads)
            return "fetched", digest, writer.landing
        expression = node.expressions[tensor]
        if expression.stream is not None:  # what is drawn follows from the operands' keys
            expression = self._keys.expression(node, tensor)
        digest = compute_tensor(
            node,
            expression,
            self._places,
            writer,
            self._methods,
            self._kernels,
            self._plan.settings.elements,
            self._options.allow_nonfinite,
            lambda text: self._tally.remark(name, text),
            self._workers.share if self._plan.settings.device == CPU else None,
        )
        return "computed", digest, writer.landing

    def _digest(self, tensor: TensorInfo) -> str:
        """The digest of a source's tensor, which may not have been read before."""
        contents = self._plan.contents
        assert contents is not None
        return contents.digest(tensor, self._places.files, self._workers.share)

    def _note(self, name: str, tensor: str, how: How, digest: str) -> None:
        size = tensor_bytes(self._plan.nodes[name].outline.tensors[tensor])
        self._tally.tensor(name, tensor, how, size, digest)

    def _release(self, task: Task) -> None:
        """Let go of what this task was the last to read."""
        for reference, read in reads_of(task, self._plan):
            if isinstance(reference, NodeRef) and self._tally.read((reference.name, read)):
                self._places.release(reference.name, read)
        self._behind.done(task)

    def _publish(self, name: str) -> None:
        """Make a node a checkpoint, all of whose tensors are there."""
        node = self._plan.nodes[name]
        self._places.check_unchanged()
        if node.stored:
            staging, digests = self._places.staging[name], self._tally.digests(name)
            commit(self._plan, name, staging, digests, self._into, self._options)
        self._tally.built(name, node.key)

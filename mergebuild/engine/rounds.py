"""A build from a plan until all is up to date: as a rule one round.

A rival that is making the same is waited for; where the cache turns out not to be what the plan
relies on, what is damaged is set aside, and what a remote does not have after all is done without.
After any of these, it is planned again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Final

from mergebuild.cache import Unsound
from mergebuild.cache.content import differences
from mergebuild.cache.lease import Holder, Lease, alive
from mergebuild.cache.store import set_aside
from mergebuild.engine.build import carry_out
from mergebuild.engine.options import Options
from mergebuild.engine.outputs import check_outputs
from mergebuild.engine.space import check_space, failure
from mergebuild.events import BuildFinished, Sink, Waiting, Warned, silent
from mergebuild.methods.declaration import Method
from mergebuild.plan import Plan, plan_again
from mergebuild.remote.fetch import Missed

_LOOK_AGAIN: Final = 0.1
_PATIENCE: Final = 3


def build(
    plan: Plan,
    *,
    methods: Mapping[str, Method],
    run: str,
    options: Options | None = None,
    sink: Sink = silent,
) -> BuildFinished:
    """Bring every target of a plan up to date.

    Raises UsageError or CapacityError before anything is written; BuildError, CheckpointError or
    CapacityError when a node fails, what was finished until then being kept for the next build.
    """
    options = options or Options()
    unsound: Counter[str] = Counter()
    try:
        check_outputs(plan, options.force)
        check_space(plan)
        with Lease(plan.cache, run) as lease:
            while True:
                rival = lease.ask(_builds(plan), _reads(plan))
                if rival is not None:
                    lease.drop()
                    _wait(plan, rival, sink)
                elif not any(plan.cache.folder(key).exists() for key in _builds(plan)):
                    try:
                        return carry_out(
                            plan,
                            methods=methods,
                            run=run,
                            options=options,
                            announce=lambda known: lease.take(_builds(known), _reads(known)),
                            sink=sink,
                        )
                    except Unsound as error:
                        unsound[error.key] += 1
                        if unsound[error.key] > _PATIENCE:
                            raise
                        _set_aside(plan, error, sink)
                    except Missed as miss:
                        plan.remotes.give_up(miss.tensor, miss.why)
                else:
                    _make_way(plan)
                plan = plan_again(plan, methods, sink)
                check_outputs(plan, options.force)
    except OSError as error:
        raise failure(error, plan.cache) from error


def _builds(plan: Plan) -> list[str]:
    return [node.key for node in plan.nodes.values() if node.wanted and node.stored]


def _reads(plan: Plan) -> list[str]:
    """The checkpoints in the cache that a plan relies on."""
    found = {node.key: None for node in plan.nodes.values() if node.cached is not None}
    for node in plan.nodes.values():
        found.update((path.parent.name, None) for path in node.linked.values())
        found.update((t.checkpoint, None) for t in node.reuse.values() if t.checkpoint is not None)
    return list(found)


def _wait(plan: Plan, rival: Holder, sink: Sink) -> None:
    """Until a rival has made all that both want, or is dead."""
    shared = [key for key in _builds(plan) if key in rival.builds]
    sink(Waiting(rival.host, rival.pid, len(shared)))
    while alive(plan.cache, rival.run) and any(
        not plan.cache.folder(key).exists() for key in shared
    ):
        time.sleep(_LOOK_AGAIN)


def _make_way(plan: Plan) -> None:
    """Set aside what lies damaged where the plan puts something; what is whole is a rival's."""
    for key in _builds(plan):
        if plan.cache.folder(key).exists() and plan.cache.lookup(key) is None:
            set_aside(plan.cache, key)


def _set_aside(plan: Plan, error: Unsound, sink: Sink) -> None:
    manifest = plan.cache.lookup(error.key)
    if manifest is not None:
        folder, jobs = plan.cache.folder(error.key), plan.settings.threads
        if not differences(folder, manifest, manifest.file_sizes(), jobs=jobs):
            return
    place = set_aside(plan.cache, error.key)
    where = f"it is set aside in '{place}'" if place is not None else "it is gone"
    sink(Warned(f"warning: checkpoint {error.key} is damaged ({error.why}): {where}"))

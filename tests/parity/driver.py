"""Runs mergekit's own commands, many in one process, with the oracle's Python: a black box.

    python driver.py JOBS.json

JOBS.json maps a job's name to {"command": ..., "arguments": [...]}. One line of JSON for each job
goes to stdout, {"job": ..., "error": null or text, "seconds": ...}; all else goes to stderr.
Must not import this project or its tests: their environment is another one.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path


def main(jobs_file: str) -> None:
    jobs = json.loads(Path(jobs_file).read_text(encoding="utf-8"))
    wanted = sorted({job["command"] for job in jobs.values()})
    scripts = entry_points(group="console_scripts")
    commands = {name: scripts[name].load() for name in wanted}
    for name, job in jobs.items():
        start, error = time.monotonic(), None
        try:
            with contextlib.redirect_stdout(sys.stderr):
                commands[job["command"]].main(args=job["arguments"], standalone_mode=False)
        except (Exception, SystemExit) as exception:  # whatever it is, it is this job's result
            error = f"{type(exception).__name__}: {exception}"
        seconds = round(time.monotonic() - start, 3)
        print(json.dumps({"job": name, "error": error, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

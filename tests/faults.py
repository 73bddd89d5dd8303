"""Builds that meet a fault at their n-th operation on files, for every n: run as a program.

    python -m tests.faults FOLDER SCENARIO FAULT [STRIDE]

Each build is the real command in a forked child of this process, which has imported everything
once. The child's `os` is wrapped, so that its n-th operation kills it, fails, or is cut short.
After each the folder is looked at, and an undisturbed build has to come to the right bytes. Prints
a line of JSON: how many operations met their fault, and what went wrong.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import shutil
import signal
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any, Final

import mergebuild.kernels.torch  # noqa: F401 - imported before forking
from mergebuild import files
from mergebuild.cache import Cache, read_manifest, sound
from mergebuild.cache.content import differences
from mergebuild.cache.gc import Limits, collect, find_garbage
from mergebuild.cache.store import names_in
from mergebuild.cli import main
from mergebuild.errors import CheckpointError
from tests import kit
from tests.powercut import PowerCut

RECIPE: Final = """\
mergebuild: 1
sources: {base: ./base, math: ./math}
nodes:
  sum:
    merge_method: task_arithmetic
    base_model: base
    models: [{model: math, parameters: {weight: 0.5}}]
  blend:
    merge_method: slerp
    base_model: sum
    models: [{model: sum}, {model: math}]
    parameters: {t: [{filter: mlp, value: 0.5}, {value: 0.25}]}
outputs: {blend: build/blend}
"""
EDITED: Final = RECIPE.replace("value: 0.5", "value: 0.75")
COMMAND: Final = ["build", "recipe.yaml", "--shard-size", "2500B", "-j", "1"]

WRITING: Final = (
    *("rename", "replace", "link", "unlink", "rmdir", "mkdir", "fsync", "pwrite", "write"),
    *("posix_fallocate", "ftruncate", "chmod", "utime"),
)
READING: Final = ("preadv", "pread")
ERRORS: Final = {"fsync": errno.EIO, "rename": errno.EIO, "replace": errno.EIO}

Fault = Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


def half(descriptor: int, data: Any) -> memoryview:
    """The first half of what is to be written; past the page cache, of its pages."""
    view = memoryview(data).cast("B")
    direct = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT
    grain = files.PAGE if direct else 1
    return view[: -(-len(view) // grain) // 2 * grain]


def kill(name: str, function: Callable[..., Any], args: tuple[Any, ...], more: Any) -> Any:
    """The power goes, or `kill -9`; a write is torn in the middle."""
    if name == "pwrite":
        function(args[0], half(args[0], args[1]), args[2])
    if name == "write":
        function(args[0], args[1][: len(args[1]) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


def fail(name: str, function: Callable[..., Any], args: tuple[Any, ...], more: Any) -> Any:
    """The operation fails: a full disk for most."""
    code = ERRORS.get(name, errno.ENOSPC)
    raise OSError(code, os.strerror(code))


def fail_reading(name: str, function: Callable[..., Any], args: tuple[Any, ...], more: Any) -> Any:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def short(name: str, function: Callable[..., Any], args: tuple[Any, ...], more: Any) -> Any:
    """Half of what was asked for, as the system may do at any time."""
    if name == "preadv":
        (view,) = args[1]
        return function(args[0], [view[: max(1, len(view) // 2)]], args[2])
    if name == "pwrite":
        return function(args[0], half(args[0], args[1]) or args[1], args[2])
    return function(*args, **more)


def ends(name: str, function: Callable[..., Any], args: tuple[Any, ...], more: Any) -> Any:
    """The file has become shorter."""
    return 0 if name == "preadv" else b""


FAULTS: Final[dict[str, tuple[tuple[str, ...], Fault]]] = {
    "kill": (WRITING, kill),
    "fail": (WRITING, fail),
    "short": (("preadv", "pwrite"), short),
    "eio": (READING, fail_reading),
    "ends": (READING, ends),
}


def install(names: tuple[str, ...], fault: Fault, at: int) -> None:
    """Wrap `os` in this process: operation number `at` meets the fault."""
    count = 0
    lock = Lock()

    def wrap(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **more: Any) -> Any:
            nonlocal count
            with lock:  # the engine writes on threads of its own
                count += 1
                hit = count == at
            if hit:
                Path("hit").touch()
                return fault(name, function, args, more)
            return function(*args, **more)

        return wrapped

    for name in names:
        setattr(os, name, wrap(name, getattr(os, name)))
    if "rename" in names:
        files._exchange = wrap("rename", files._exchange)


def command(prepare: Callable[[], None] | None = None) -> tuple[int, str]:
    """The command in a forked child: its exit code (minus the signal) and stderr."""
    with tempfile.TemporaryFile() as told:
        child = os.fork()
        if child == 0:
            os.dup2(told.fileno(), 2)
            os.dup2(told.fileno(), 1)
            sys.argv = ["mergebuild", *COMMAND]
            if prepare is not None:
                prepare()
            try:
                main()
            except SystemExit as end:
                os._exit(end.code if isinstance(end.code, int) else 1)
            except BaseException as error:
                os.write(2, f"Traceback: {error!r}".encode())
            os._exit(70)
        _, status = os.waitpid(child, 0)
        told.seek(0)
        return os.waitstatus_to_exitcode(status), told.read().decode()


def weights() -> dict[str, bytes]:
    """What the output holds, but for what tells when and how it was built."""
    telling = ("mergebuild.json", "README.md")
    found = sorted(Path("build/blend").glob("*"))
    return {path.name: path.read_bytes() for path in found if path.name not in telling}


def half_done(keys: set[str]) -> Iterator[str]:
    """Whatever is visible and not whole."""
    cache = Cache(Path("cache"))
    folders = [cache.folder(key) for key in cache.all_keys()]
    for folder in [*folders, Path("build/blend")]:
        if not folder.exists():
            continue
        try:
            manifest = read_manifest(folder)
        except CheckpointError as error:
            yield str(error)
            continue
        if manifest is None or sound(folder) is None:
            yield f"{folder} is not whole"
        elif found := differences(folder, manifest, manifest.file_sizes()):
            yield f"{folder}: {found[0]}"
    if Path("build/blend").exists():
        output = read_manifest(Path("build/blend"))
        if output is not None and output.key not in keys:
            yield "the output is neither the former nor the new one"


def beside_output() -> list[str]:
    return [name for name in names_in(Path("build")) if name != "blend"]


def clear() -> None:
    for name in ("cache", "build", "hit"):
        if Path(name).is_dir():
            files.remove_tree(Path(name))
        Path(name).unlink(missing_ok=True)


def give_up_powers() -> None:
    """As root, heed permissions from now on as everybody else has to."""
    header = struct.pack("Ii", 0x20080522, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, bytes(24)):
        raise OSError(ctypes.get_errno(), "capset")


def run(scenario: str, fault: str, stride: int) -> dict[str, Any]:
    for name in ("base", "math"):
        near = Path("base") if name == "math" else None
        # Rows of "pages" fill whole pages, which are written past the page cache.
        hidden, vocab = (64, 512) if scenario == "pages" else (8, 16)
        kit.llama(Path(name), layers=1, hidden=hidden, vocab=vocab, intermediate=8, near=near)
        for path in Path(name).iterdir():
            os.utime(path, (1_000_000_000, 1_000_000_000))
    keys: set[str] = set()
    if scenario == "again":  # an output is there, its recipe has changed
        Path("recipe.yaml").write_text(RECIPE)
        code, told = command()
        assert code == 0, told
        keys |= {manifest.key for manifest in [sound(Path("build/blend"))] if manifest}
        shutil.copytree("cache", "former-cache")
        shutil.copytree("build", "former-build")
        Path("recipe.yaml").write_text(EDITED)
    else:
        Path("recipe.yaml").write_text(EDITED)
    code, told = command()
    assert code == 0, told
    expected = weights()
    manifest = sound(Path("build/blend"))
    assert manifest is not None
    keys.add(manifest.key)
    wrong: list[str] = []
    hits = 0
    codes: dict[str, int] = {}
    for at in range(1, 10_000, stride):
        clear()
        if scenario == "again":
            shutil.copytree("former-cache", "cache")
            shutil.copytree("former-build", "build")

        def prepare(at: int = at) -> None:
            if scenario == "user":
                give_up_powers()
            if fault == "power":
                PowerCut(at).install()
            else:
                install(*FAULTS[fault], at)

        code, told = command(prepare)
        if not Path("hit").exists():
            break
        hits += 1
        codes[str(code)] = codes.get(str(code), 0) + 1
        allowed = {"kill": (-9,), "power": (-9,), "short": (0,)}.get(fault, (0, 1, 4))
        if code not in allowed or "Traceback" in told:
            wrong.append(f"operation {at}: exit code {code}: {told[-600:]}")
        if code == 0 and weights() != expected:
            wrong.append(f"operation {at}: it said that all went well, and it did not")
        wrong += [f"operation {at}: {what}" for what in half_done(keys)]
        code, told = command(give_up_powers if scenario == "user" else None)
        if code != 0 or weights() != expected:
            wrong.append(f"after operation {at}: exit code {code}: {told[-600:]}")
        cache = Cache(Path("cache"))
        collect(cache, find_garbage(cache, Limits(last=9)))
        # Staging whose lease the power cut took counts as somebody's for a day.
        staged = names_in(cache.staging) if fault != "power" else []
        if left := [*staged, *names_in(cache.leases), *beside_output()]:
            wrong.append(f"after operation {at}: {left} is left behind")
        if len(wrong) > 5:
            break
    return {"hits": hits, "codes": codes, "wrong": wrong}


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    os.environ["HF_HUB_OFFLINE"] = "1"
    print(json.dumps(run(sys.argv[2], sys.argv[3], int((*sys.argv, "1")[4]))))

"""A longer fuzz run with atheris, over every reader of untrusted files. Not part of the tests.

    pip install atheris && python fuzz/records.py -max_total_time=3600 CORPUS

Any exception but the program's own errors is a finding; so is a hang or memory without bound,
which libFuzzer's -timeout and -rss_limit_mb see.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports():
    from mergebuild.cache import Cache, read_manifest
    from mergebuild.cache.journal import records
    from mergebuild.cache.lease import live
    from mergebuild.cache.manifest import _seal
    from mergebuild.cache.registry import read_record
    from mergebuild.checkpoint.header import read_header
    from mergebuild.errors import MergebuildError

FOLDER = Path(tempfile.mkdtemp())


def one(data: bytes) -> None:
    kind, content = data[:1], data[1:]
    path = FOLDER / "mergebuild.json"
    try:
        if kind < b"\x40":
            path.write_bytes(content + (_seal(content) if kind < b"\x20" else b""))
            read_manifest(FOLDER)
        elif kind < b"\x80":
            path.write_bytes(content)
            list(records(path))
        elif kind < b"\xc0":
            cache = Cache(FOLDER)
            cache.leases.mkdir(exist_ok=True)
            (cache.leases / "x.json").write_bytes(content)
            live(cache)
            path.write_bytes(content)
            read_record(path)
        else:
            path.write_bytes(content)
            descriptor = os.open(path, os.O_RDONLY)
            try:
                read_header(descriptor, path)
            finally:
                os.close(descriptor)
    except MergebuildError:
        return


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()

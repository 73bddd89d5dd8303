"""What holds for all tests: no settings of the user who runs them; one S3 server a worker."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.s3 import s3_server


@pytest.fixture(scope="session", autouse=True)
def without_the_users_site_file() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", os.devnull)
        yield


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an S3 server."""
    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        yield url

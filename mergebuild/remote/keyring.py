"""Where keys are kept: one's own in the user's configuration folder, trusted ones in a file there
and in a file of the project.

    <user's folder>/keys/<name>.pem   private, for its owner alone to read
    <user's folder>/mergebuild.keys   a line a public key that is trusted
    mergebuild.keys                   the same beside the project's site file
"""

from __future__ import annotations

import getpass
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from mergebuild.errors import UsageError
from mergebuild.files import make_directories, write_file
from mergebuild.remote.signature import PublicKey, Signer, new_signer, read_public, read_signer
from mergebuild.site import project_folder, user_folder

KEY_VARIABLE: Final = "MERGEBUILD_KEY"
TRUSTED: Final = "mergebuild.keys"
_LARGEST: Final = 1 << 20
_SUFFIX: Final = ".pem"


def default_name() -> str:
    """What a new key is called: user and host."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "key"
    return "".join(c if c.isascii() and (c.isalnum() or c in "._@-") else "-" for c in
                   f"{user}@{socket.gethostname()}")[:64]  # fmt: skip


def make_key(name: str) -> tuple[Path, PublicKey]:
    """Make a private key of this name, for its owner alone to read; its file, and the public one.

    Raises UsageError if there is one.
    """
    folder = user_folder() / "keys"
    path = folder / f"{name}{_SUFFIX}"
    if path.exists():
        raise UsageError.of(f"there is a key '{path}' already", hint="give the new one a name")
    signer = new_signer(name)
    make_directories(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    write_file(path, signer.private_text(), mode=0o600)
    return path, signer.public


def own_signer() -> Signer | None:
    """The key to sign with: what MERGEBUILD_KEY says, a file or the key itself, else the only one
    in the user's folder; None where there is none.

    Raises UsageError for one that cannot be used, that others may read, or where there are more.
    """
    said = os.environ.get(KEY_VARIABLE)
    if said and "PRIVATE KEY" in said:
        return read_signer(said.encode(), "environment", KEY_VARIABLE)
    if said:
        path = Path(said).expanduser()
        return _read_private(path)
    found = sorted((user_folder() / "keys").glob(f"*{_SUFFIX}"))
    if len(found) > 1:
        raise UsageError.of(
            f"there are {len(found)} private keys in '{found[0].parent}'",
            hint=f"say which one to sign with: {KEY_VARIABLE}={found[0]}",
        )
    return _read_private(found[0]) if found else None


def _read_private(path: Path) -> Signer:
    try:
        mode = path.stat().st_mode
        with open(path, "rb") as file:
            text = file.read(_LARGEST)
    except OSError as error:
        raise UsageError.of(f"cannot read private key '{path}': {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise UsageError.of(
            f"private key '{path}' can be read by others", hint=f"chmod 600 '{path}'"
        )
    return read_signer(text, path.stem, f"'{path}'")


def own_keys() -> list[PublicKey]:
    """The public halves of the private keys in the user's folder."""
    return [
        _read_private(path).public for path in sorted((user_folder() / "keys").glob(f"*{_SUFFIX}"))
    ]


def trusted_files() -> tuple[Path, Path]:
    """The project's and the user's file of trusted keys, there or not."""
    return project_folder(Path.cwd()) / TRUSTED, user_folder() / TRUSTED


def trusted_keys() -> dict[str, PublicKey]:
    """All trusted keys by their raw bytes in base64. Raises UsageError with file and line."""
    found: dict[str, PublicKey] = {}
    for path in trusted_files():
        for key in _read_trusted(path):
            found.setdefault(key.text, key)
    return found


def trust(key: PublicKey, path: Path) -> bool:
    """Add a key to a file of trusted ones; whether it was not there before.

    Raises UsageError if another key has its name there.
    """
    there = _read_trusted(path)
    if any(other.raw == key.raw for other in there):
        return False
    if any(other.name == key.name for other in there):
        raise UsageError.of(
            f"'{path}' trusts another key called '{key.name}'",
            hint="give this one another name, or remove the line of that one",
        )
    make_directories(path.absolute().parent)
    former = path.read_bytes().rstrip(b"\n") + b"\n" if path.exists() else b""
    write_file(path, former + f"{key.line}\n".encode())
    return True


def _read_trusted(path: Path) -> list[PublicKey]:
    try:
        with open(path, "rb") as file:
            text = file.read(_LARGEST).decode()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError.of(f"cannot read '{path}': {error}") from error
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return [read_public(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line]

"""Ed25519 signatures, by way of `cryptography`, and the text forms of keys.

    public key    mergebuild-ed25519 <base64 of 32 bytes> <name>      one line
    private key   PKCS #8 in PEM

Knows no claims and no places.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final

from mergebuild.errors import UsageError

KIND: Final = "mergebuild-ed25519"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_MISSING: Final = "signatures need the package 'cryptography'"
_HINT: Final = "install mergebuild[sign]"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key to verify with; `raw` are its 32 bytes, `name` is what people call it."""

    raw: bytes
    name: str

    @property
    def text(self) -> str:
        """The raw bytes in base64."""
        return base64.b64encode(self.raw).decode()

    @property
    def fingerprint(self) -> str:
        """A short name of just this key, 16 hexadecimal digits."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    @property
    def line(self) -> str:
        return f"{KIND} {self.text} {self.name}"

    def verifies(self, signature: str, message: bytes) -> bool:
        """Whether the signature, in base64, is this key's over the message."""
        try:
            from cryptography.exceptions import InvalidSignature
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        except ImportError as error:
            raise UsageError.of(_MISSING, hint=_HINT) from error
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(
                base64.b64decode(signature, validate=True), message
            )
        except (InvalidSignature, ValueError, binascii.Error):
            return False
        return True


class Signer:
    """A private key, in use; `key` is an Ed25519PrivateKey of `cryptography`."""

    def __init__(self, key: Any, name: str) -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes_raw(), name)

    def sign(self, message: bytes) -> str:
        """The signature in base64."""
        return base64.b64encode(self._key.sign(message)).decode()

    def private_text(self) -> bytes:
        """The private key as PEM."""
        from cryptography.hazmat.primitives import serialization as form

        return bytes(
            self._key.private_bytes(
                form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
            )
        )


def new_signer(name: str) -> Signer:
    """A new key. Raises UsageError without `cryptography`."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise UsageError.of(_MISSING, hint=_HINT) from error
    return Signer(Ed25519PrivateKey.generate(), name)


def read_signer(text: bytes, name: str, where: str) -> Signer:
    """A private key in PEM; `where` it is from is for the message of the UsageError."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as error:
        raise UsageError.of(_MISSING, hint=_HINT) from error
    try:
        key = load_pem_private_key(text, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError.of(
            f"{where} is no private key that can be used: it is not PEM, or has a password",
            hint="'mergebuild keys new' makes one",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError.of(f"{where} is a key of another kind than Ed25519")
    return Signer(key, name)


def read_public(line: str, where: str) -> PublicKey:
    """A public key's line. Raises UsageError; the message begins with `where` it is from."""
    parts = line.split()
    if len(parts) != 3 or parts[0] != KIND:
        raise UsageError.of(f"{where}: not of the form '{KIND} KEY NAME'")
    try:
        raw = base64.b64decode(parts[1], validate=True)
    except (ValueError, binascii.Error) as error:
        raise UsageError.of(f"{where}: the key is not base64") from error
    if len(raw) != 32:
        raise UsageError.of(f"{where}: the key has {len(raw)} bytes instead of 32")
    return PublicKey(raw, check_name(parts[2]))


def check_name(name: str) -> str:
    """A key's name. Raises UsageError for one that cannot stand on a line or be a file."""
    if not _NAME.fullmatch(name):
        raise UsageError.of(
            f"'{name}' cannot be a key's name", hint="use letters, digits and . _ @ + -"
        )
    return name

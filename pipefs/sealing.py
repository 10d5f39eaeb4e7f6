"""Encrypting small texts at rest: AES-256-GCM of the `cryptography` package, and its keys.

The keys of one home lie in the desktop's keyring where there is one, else in a file of mode 0600
beside what they open. That file protects a backup or a synchronised folder of the sealed files,
not a disk that was stolen with it: `Keys.place` says which it is, so that commands can tell.
Several keys exist only while they are being changed; the newest seals, any opens.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipefs.errors import AccessDenied, Corrupt, Refused, UsageError
from pipefs.tomlfile import read_toml, write_toml

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12
SERVICE = "pipefs"
INSTALL = "pip install 'pipefs[credentials]'"


@dataclass(frozen=True, slots=True)
class Sealed:
    """A text that only a key opens."""

    key_id: str
    text: str
    """base64 of nonce and ciphertext."""


def key_id(key: bytes) -> str:
    """A short name of a key, which tells nothing about it."""
    return hashlib.sha256(b"pipefs key id\0" + key).hexdigest()[:8]


def seal(plain: bytes, key: bytes, about: str) -> Sealed:
    """Encrypt; `about` must be the same to open it, so that two sealed texts cannot be swapped."""
    nonce = os.urandom(NONCE_BYTES)
    sealed = nonce + _cipher(key).encrypt(nonce, plain, about.encode())
    return Sealed(key_id(key), base64.b64encode(sealed).decode())


def unseal(sealed: Sealed, keys: Sequence[bytes], about: str) -> bytes:
    """The text again.

    Raises:
        AccessDenied: its key is not among them. Corrupt: it was changed, or is another's.
    """
    key = next((k for k in keys if key_id(k) == sealed.key_id), None)
    if key is None:
        raise AccessDenied(f"{about} are encrypted with key {sealed.key_id}, which is not here")
    from cryptography.exceptions import InvalidTag

    try:
        raw = base64.b64decode(sealed.text, validate=True)
        return _cipher(key).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], about.encode())
    except (InvalidTag, ValueError) as e:
        raise Corrupt(f"{about} are damaged: they do not open with their key") from e


def _cipher(key: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as e:
        raise Refused("encryption needs the package cryptography", hint=INSTALL) from e
    return AESGCM(key)


class Keys:
    """The keys of one home.

    Args:
        file: where they are kept when there is no keyring; also their name in the keyring.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def load(self) -> list[bytes]:
        """Newest first; [] when there are none."""
        texts = self._in_file() or self._in_keyring()
        keys = [bytes.fromhex(t) for t in texts]
        if any(len(k) != KEY_BYTES for k in keys):
            raise Corrupt(f"a key in {self.place()} has not {KEY_BYTES} bytes")
        return keys

    def save(self, keys: Sequence[bytes], *, in_file: bool = False) -> None:
        """Replace all keys, durably; in the file where it is used already, or asked for."""
        texts = [k.hex() for k in keys]
        keyring = None if in_file or self.file.exists() else _keyring()
        if keyring is None:
            write_toml(self.file, {"keys": texts})
        else:
            keyring.set_password(SERVICE, str(self.file), " ".join(texts))

    def place(self) -> str:
        """`keyring`, the file's path, or "" when there is no key."""
        if self.file.exists():
            return str(self.file)
        return "keyring" if self._in_keyring() else ""

    def _in_file(self) -> list[str]:
        found = read_toml(self.file).get("keys", [])
        if not isinstance(found, list) or not all(isinstance(t, str) for t in found):
            raise UsageError(f"{self.file}: keys is not a list of texts")
        return found

    def _in_keyring(self) -> list[str]:
        keyring = _keyring()
        return (keyring.get_password(SERVICE, str(self.file)) or "").split() if keyring else []


class _Keyring:
    """The desktop's keyring; an error of it is as if it had nothing."""

    def __init__(self, backend: Any) -> None:  # keyring's backends have no common typed base
        self._backend = backend

    def get_password(self, service: str, name: str) -> str | None:
        from keyring.errors import KeyringError

        try:
            found = self._backend.get_password(service, name)
        except KeyringError:
            return None
        return found if isinstance(found, str) else None

    def set_password(self, service: str, name: str, value: str) -> None:
        from keyring.errors import KeyringError

        try:
            self._backend.set_password(service, name, value)
        except KeyringError as e:
            raise Refused(
                f"the keyring did not take the key: {e}",
                hint="Keep it in a file of yours: pipefs cred encrypt --key-in file",
            ) from e


def _keyring() -> _Keyring | None:
    """None where the package is missing or no keyring is unlocked for this session."""
    try:
        import keyring
    except ImportError:
        return None
    backend = keyring.get_keyring()
    # Below 1 are those that keep nothing, or keep it in clear.
    priority = getattr(backend, "priority", 0)
    return _Keyring(backend) if isinstance(priority, int | float) and priority >= 1 else None

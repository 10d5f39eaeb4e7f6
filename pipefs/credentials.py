"""Credentials of single pipes: a pair for reading and one for writing, kept by this user.

Only for pipes that the standard AWS files cannot serve, such as keys handed out for one data set.
Each pipe has a file of mode 0600 in `config/credentials/`; after `encrypt` all of them are sealed
(`pipefs.sealing`). Never logged, never in a bucket, never in a message.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipefs.errors import AccessDenied, Corrupt, UsageError
from pipefs.home import Home, check_name, make_private
from pipefs.sealing import KEY_BYTES, Keys, Sealed, seal, unseal
from pipefs.tomlfile import read_toml, sync_folder, write_toml
from pipefs.types import AccessKey, Credentials

FORMAT = 1

_NAMES = {
    "access_key_id": ("access_key_id", "aws_access_key_id", "AccessKeyId", "key"),
    "secret_access_key": (
        "secret_access_key",
        "aws_secret_access_key",
        "SecretAccessKey",
        "secret",
    ),
    "session_token": ("session_token", "aws_session_token", "SessionToken", "token"),
}
"""Ours first, then what AWS's own files and answers and d6tpipe call them."""


def parse_credentials(content: Mapping[str, object], where: str = "") -> Credentials:
    """`{"read": {…}, "write": {…}}`, or one pair for both; in the words of AWS or d6tpipe.

    Raises:
        UsageError: a pair without id or secret, or none at all.
    """
    sides = {side: content[side] for side in ("read", "write") if content.get(side)}
    if not sides:
        both = _parse_key(content, where or "the credentials")
        return Credentials(both, both)
    found = {}
    for side, pair in sides.items():
        name = f"{where} [{side}]" if where else side
        if not isinstance(pair, Mapping):
            raise UsageError(f"{name} is not a table of id and secret")
        found[side] = _parse_key(pair, name)
    return Credentials(found.get("read"), found.get("write"))


def _parse_key(pair: Mapping[str, object], where: str) -> AccessKey:
    values = {}
    for field, names in _NAMES.items():
        value = next((pair[n] for n in names if pair.get(n)), "")
        if not isinstance(value, str) or any(ord(c) <= 32 for c in value):
            raise UsageError(f"{where}: {field} is not a text without blanks")
        values[field] = value
    for field in ("access_key_id", "secret_access_key"):
        if not values[field]:
            raise UsageError(
                f"{where} has no {field}", hint=f"It is called one of: {' '.join(_NAMES[field])}"
            )
    return AccessKey(**values)


def _content(found: Credentials) -> dict[str, object]:
    return {
        side: {name: value for name in _NAMES if (value := getattr(key, name))}
        for side, key in (("read", found.read), ("write", found.write))
        if key is not None
    }


class Vault:
    """The stored credentials of one home (with `--profile P`: of that profile)."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._folder = home.config / "credentials"
        self.keys = Keys(home.config / "credentials.key")

    def names(self) -> list[str]:
        """Pipes that have credentials of their own."""
        try:
            found = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        return sorted(n[:-5] for n in found if n.endswith(".toml") and not n.startswith("."))

    def get(self, name: str) -> Credentials | None:
        """None when there are none for this pipe.

        Raises:
            AccessDenied: they are encrypted and the key is gone. Corrupt: changed by somebody.
        """
        content = read_toml(self._file(name))
        if not content:
            return None
        where = str(self._file(name))
        sealed = self._sealed(content, where)
        if sealed is None:
            return parse_credentials(content, where)
        try:
            plain = unseal(sealed, self.keys.load(), self._about(name))
        except AccessDenied as e:
            raise AccessDenied(
                e.message,
                hint=f"Bring {self.keys.file} (or the keyring) back, or store them anew: "
                f"pipefs cred set {name}",
            ) from e
        return parse_credentials(json.loads(plain), where)

    def is_encrypted(self, name: str) -> bool:
        return "sealed" in read_toml(self._file(name))

    def put(self, name: str, found: Credentials) -> None:
        """Store, durably and 0600; encrypted where `encrypt` was called once."""
        with self._locked():
            keys = self.keys.load()
            self._write(name, found, keys[0] if keys else None)

    def remove(self, name: str) -> bool:
        """False when there were none."""
        with self._locked():
            try:
                self._file(name).unlink()
            except FileNotFoundError:
                return False
            sync_folder(self._folder)
        return True

    def encrypt(self, *, key_in_file: bool = False) -> int:
        """Seal all that is stored, and from now on all that will be; how many there are.

        Raises:
            Refused: the package is missing, or the keyring refuses. AccessDenied: a key is lost.
        """
        with self._locked():
            if not self.keys.load():
                seal(b"", bytes(KEY_BYTES), "")  # Before a key is made: is the package there?
                self.keys.save([os.urandom(KEY_BYTES)], in_file=key_in_file)
            return self._seal_all()

    def rotate(self) -> int:
        """A new key for all. A crash on the way leaves both keys, and everything opens."""
        with self._locked():
            old = self.keys.load()
            if not old:
                raise UsageError(
                    "nothing is encrypted yet", hint="Encrypt them: pipefs cred encrypt"
                )
            new = os.urandom(KEY_BYTES)
            self.keys.save([new, *old])
            count = self._seal_all()
            self.keys.save([new])
            return count

    def _seal_all(self) -> int:
        key, names = self.keys.load()[0], self.names()
        # All are opened before any is written: a lost key changes nothing.
        found = {name: self.get(name) for name in names}
        for name, credentials in found.items():
            if credentials is not None:
                self._write(name, credentials, key)
        return len(names)

    def _write(self, name: str, found: Credentials, key: bytes | None) -> None:
        content = _content(found)
        if key is not None:
            sealed = seal(json.dumps(content).encode(), key, self._about(name))
            content = {"sealed": sealed.text, "key": sealed.key_id}
        write_toml(self._file(name), {"format": FORMAT, **content})

    def _sealed(self, content: Mapping[str, object], where: str) -> Sealed | None:
        text, key = content.get("sealed"), content.get("key")
        if text is None:
            return None
        if not (isinstance(text, str) and isinstance(key, str)):
            raise Corrupt(f"{where} is damaged", hint="Store them anew: pipefs cred set")
        return Sealed(key, text)

    def _about(self, name: str) -> str:
        return f'the credentials of "{name}"'

    def _file(self, name: str) -> Path:
        return self._folder / f"{check_name(name)}.toml"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time: a rotation rewrites every file."""
        self._home.make()
        make_private(self._folder)
        fd = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

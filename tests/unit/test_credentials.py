"""Stored credentials: a file a pipe, sealed or not, found by a pipe and its children."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import ClassVar

import pytest

from pipefs.credentials import Vault, parse_credentials
from pipefs.errors import AccessDenied, Corrupt, UsageError
from pipefs.home import Home, resolve_home
from pipefs.registry import Registry
from pipefs.types import AccessKey, Credentials

READ = AccessKey("AKIAREAD", "read-secret")
WRITE = AccessKey("AKIAWRITE", "write-secret", "token")
BOTH = Credentials(READ, WRITE)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return resolve_home(env={"PIPEFS_HOME": str(tmp_path)})


@pytest.fixture
def vault(home: Home) -> Vault:
    return Vault(home)


def _everything(home: Home) -> bytes:
    return b"".join(p.read_bytes() for p in (home.config / "credentials").glob("*.toml"))


def test_d6_61_a_pipe_has_a_pair_for_reading_and_one_for_writing(vault: Vault, home: Home) -> None:
    vault.put("sales", BOTH)
    assert Vault(home).get("sales") == BOTH
    assert vault.names() == ["sales"]
    file = home.config / "credentials" / "sales.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert vault.get("other") is None
    assert vault.remove("sales")
    assert not vault.remove("sales")


@pytest.mark.parametrize(
    "content",
    [
        {"read": {"aws_access_key_id": "AKIAREAD", "aws_secret_access_key": "read-secret"}},
        {"read": {"key": "AKIAREAD", "secret": "read-secret"}},
        {"read": {"AccessKeyId": "AKIAREAD", "SecretAccessKey": "read-secret", "Version": 1}},
    ],
)
def test_d6_61_words_of_d6tpipe_and_aws_are_understood(content: dict[str, object]) -> None:
    assert parse_credentials(content) == Credentials(read=READ)


def test_d6_61_a_pair_without_a_side_is_for_both() -> None:
    found = parse_credentials({"key": "AKIAREAD", "secret": "read-secret"})
    assert found == Credentials(READ, READ)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "no access_key_id"),
        ({"key": "a"}, "no secret_access_key"),
        ({"read": "a"}, "not a table"),
        ({"key": "a b", "secret": "c"}, "without blanks"),
        ({"key": 3, "secret": "c"}, "not a text"),
    ],
)
def test_what_is_no_pair_is_refused(content: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        parse_credentials(content, "file")
    assert "secret-" not in str(caught.value)


def test_secrets_are_in_no_repr() -> None:
    assert "secret" not in repr(BOTH).replace("secret_access_key", "")
    assert "token" not in repr(BOTH).replace("session_token", "")


def test_d6_65_encrypted_files_show_nothing_and_open_again(vault: Vault, home: Home) -> None:
    vault.put("sales", BOTH)
    assert b"read-secret" in _everything(home)
    assert vault.encrypt() == 1
    vault.put("prices", Credentials(READ, READ))
    assert vault.is_encrypted("prices")
    assert b"secret" not in _everything(home)
    assert b"AKIA" not in _everything(home)
    assert Vault(home).get("sales") == BOTH
    assert stat.S_IMODE(vault.keys.file.stat().st_mode) == 0o600
    assert vault.keys.place() == str(vault.keys.file)


def test_d6_65_a_rotated_key_opens_and_the_old_one_does_not(vault: Vault, home: Home) -> None:
    vault.put("sales", BOTH)
    vault.encrypt()
    old = vault.keys.file.read_bytes()
    before = _everything(home)
    assert vault.rotate() == 1
    assert _everything(home) != before
    assert vault.get("sales") == BOTH
    vault.keys.file.write_bytes(old)
    with pytest.raises(AccessDenied, match="is not here"):
        vault.get("sales")


def test_a_rotation_that_was_cut_off_leaves_everything_readable(vault: Vault) -> None:
    vault.put("a", BOTH)
    vault.put("b", Credentials(READ))
    vault.encrypt()
    (old,) = vault.keys.load()
    vault.keys.save([os.urandom(32), old])
    vault.put("b", Credentials(READ))  # This far it came: b has the new key, a the old one.
    assert vault.get("a") == BOTH
    assert vault.get("b") == Credentials(READ)
    assert vault.rotate() == 2
    assert len(vault.keys.load()) == 1


def test_d6_65_a_lost_key_says_what_to_do(vault: Vault) -> None:
    vault.put("sales", BOTH)
    vault.encrypt()
    vault.keys.file.unlink()
    with pytest.raises(AccessDenied, match='the credentials of "sales"') as caught:
        vault.get("sales")
    assert "pipefs cred set sales" in caught.value.hint
    assert "credentials.key" in caught.value.hint
    vault.put("sales", BOTH)
    assert vault.get("sales") == BOTH


def test_a_changed_or_swapped_file_is_corrupt(vault: Vault, home: Home) -> None:
    vault.put("a", BOTH)
    vault.put("b", Credentials(READ))
    vault.encrypt()
    folder = home.config / "credentials"
    (folder / "b.toml").write_bytes((folder / "a.toml").read_bytes())
    with pytest.raises(Corrupt, match='"b" are damaged'):
        vault.get("b")
    text = (folder / "a.toml").read_text()
    at = text.index('sealed = "') + 30
    (folder / "a.toml").write_text(text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :])
    with pytest.raises(Corrupt):
        vault.get("a")


def test_nothing_to_rotate_is_said(vault: Vault) -> None:
    with pytest.raises(UsageError, match="nothing is encrypted"):
        vault.rotate()


def test_a_keyring_keeps_the_key_and_no_file_is_made(
    vault: Vault, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keyring
    from keyring.backend import KeyringBackend

    class InMemory(KeyringBackend):
        priority: ClassVar[float] = 5
        kept: ClassVar[dict[tuple[str, str], str]] = {}

        def get_password(self, service: str, username: str) -> str | None:
            return self.kept.get((service, username))

        def set_password(self, service: str, username: str, password: str) -> None:
            self.kept[service, username] = password

        def delete_password(self, service: str, username: str) -> None:
            del self.kept[service, username]

    before = keyring.get_keyring()
    keyring.set_keyring(InMemory())
    try:
        vault.put("sales", BOTH)
        vault.encrypt()
        assert vault.keys.place() == "keyring"
        assert not vault.keys.file.exists()
        assert Vault(home).get("sales") == BOTH
        vault.rotate()
        assert Vault(home).get("sales") == BOTH
    finally:
        keyring.set_keyring(before)
    with pytest.raises(AccessDenied):
        vault.get("sales")


def test_d6_51_a_child_uses_its_parents_credentials_until_it_has_its_own(home: Home) -> None:
    registry = Registry(home)
    registry.add("base", "s3://b/1", "1", {})
    registry.add("child", "s3://b/1/c", "2", {"parent": "base"})
    assert registry.get("child").credentials() is None
    registry.vault.put("base", BOTH)
    assert registry.get("child").credentials() == BOTH
    registry.vault.put("child", Credentials(READ))
    assert registry.get("child").credentials() == Credentials(READ)
    assert registry.get("base").credentials() == BOTH


def test_d6_64_credentials_of_one_call_go_before_stored_ones(home: Home) -> None:
    registry = Registry(home)
    registry.vault.put("x", BOTH)
    pipe = registry.add("x", "s3://bucket/1", "1", {"region": "eu-central-1"})
    given = AccessKey("AKIAGIVEN", "s")
    store = pipe.open_store(credentials=Credentials(given, given))
    try:
        from pipefs.stores.s3 import S3Store
        from pipefs.stores.wrapper import innermost

        inner = innermost(store)
        assert isinstance(inner, S3Store)
        assert inner.settings.access_key == given
    finally:
        store.close()
